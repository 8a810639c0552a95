"""The list of models: the engine's own untouched where it is all there is, and the swarm's below it."""

import json

import pytest

from node.core.engine_state import EngineSnapshot, EngineState
from node.errors import Refusal, Refused
from protocol.advert import ModelOffer
from protocol.ids import ContentDigest
from tests.fakes.upstream import Script
from tests.http.test_app import Stage

OWN = b'{"object": "list",  "data": [{"id": "tiny", "created": 5, "root": "/models/tiny"}]}'
TINY, BIG, ANY = ModelOffer(name="tiny"), ModelOffer(name="org/big", max_length=4096), ModelOffer(name="any")
OFF = EngineSnapshot(state=EngineState.OFF, since=0.0, model=None, strategy=None, reason="none")


def stage(*offers: ModelOffer, own: bytes | None = OWN) -> Stage:
    """Return an application; `own` is what its engine lists, None without an engine."""
    built = Stage(Script([own or b""]))
    built.offers = [*offers]
    if own is None:
        built.board.show(OFF)
    return built


async def listed(on: Stage) -> list[str]:
    call = await on.get("/v1/models")
    assert call.status == 200
    return [card["id"] for card in json.loads(call.body)["data"]]


@pytest.mark.parametrize("target", ["/v1/models", "/v1/models?limit=5", "/v1/models/tiny", "/v1/models/org/big"])
@pytest.mark.parametrize("offers", [(), (TINY,)])
async def test_the_engines_own_words_pass_untouched_where_the_swarm_adds_nothing(
    target: str, offers: tuple[ModelOffer, ...]
) -> None:
    on = stage(*offers)
    call = await on.get(target)
    assert call.body == OWN
    assert [(prompt.target, prompt.via) for prompt in on.replica.prompts] == [(target, "peer")]


async def test_what_the_swarm_serves_stands_below_the_own_model_sorted() -> None:
    on = stage(BIG, TINY, ANY)
    call = await on.get("/v1/models")
    whole = json.loads(call.body)
    assert whole["object"] == "list"
    own, other, big = whole["data"]
    assert own == {"id": "tiny", "created": 5, "root": "/models/tiny"}
    assert (other["id"], big["id"], big["max_model_len"]) == ("any", "org/big", 4096)
    assert set(big) == {"id", "object", "created", "owned_by", "root", "parent", "max_model_len", "permission"}
    assert call.headers[b"x-metainf-node"] == b"peer"
    assert json.loads((await on.get("/v1/models/org/big")).body) == big
    assert json.loads((await on.get("/v1/models/tiny")).body) == own
    call = await on.get("/v1/models/none")
    assert (call.status, call.error["code"], call.error["param"]) == (404, 404, "model")


async def test_a_node_without_an_engine_lists_the_swarms_models_or_none() -> None:
    assert await listed(stage(own=None)) == []
    assert await listed(stage(BIG, ANY, own=None)) == ["any", "org/big"]
    assert (await stage(own=None).get("/v1/models/any")).status == 404


async def test_while_the_engine_loads_the_swarms_models_are_listed_and_alone_it_says_that_it_loads() -> None:
    loading = Refused(Refusal(status=503, type="model_loading", message="soon", retry_after=5))
    for offers, status in (((ANY,), 200), ((), 503)):
        on = stage(*offers)
        on.replica.refuse_with = loading
        assert (await on.get("/v1/models")).status == status


@pytest.mark.parametrize("own", [b"{", b"[]", b'{"data": 5}', b'{"data": [5]}', b"[" * 100_000])
async def test_an_engines_odd_list_does_not_hide_the_swarms(own: bytes) -> None:
    assert await listed(stage(ANY, own=own)) == ["any"]


async def test_unlike_contents_under_one_name_are_listed_apart_as_well() -> None:
    one, two = ContentDigest(bytes(32)), ContentDigest(bytes(range(32)))
    pinned = [ModelOffer(name="any", digest=digest) for digest in (one, two)]
    assert await listed(stage(ANY, pinned[0], own=None)) == ["any"]
    assert await listed(stage(ANY, *pinned, own=None)) == ["any", f"any@{one}", f"any@{two}"]


async def test_a_named_nodes_list_is_its_own() -> None:
    on = stage(ANY)
    assert (await on.get("/v1/models", x_metainf_via="somebody")).body == OWN
    assert on.replica.prompts[0].via == "somebody"
