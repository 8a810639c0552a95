"""The control socket's pages of the tuner and of the pause: wishes in, facts and clear errors out."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import trio

from node.core.strategy import DEFAULT, Speculation, Strategy
from node.errors import NodeError, Unavailable
from node.http.asgi import Message
from node.http.control import control_app
from node.http.tuner import BODY_BYTES
from tests.fakes.tuner_view import FACTS, FakeTunerView


class FakeOwner:
    """Notes pauses."""

    def __init__(self, *, refuses: bool = False) -> None:
        self.wishes: list[tuple[float | None, bool] | str] = []
        self._refuses = refuses

    async def pause(self, *, for_s: float | None, now: bool) -> Mapping[str, Any]:
        if self._refuses:
            raise Unavailable("this node runs no engine", remedy="there is nothing to pause here")
        self.wishes.append((for_s, now))
        return {"state": "paused"}

    async def resume(self) -> Mapping[str, Any]:
        self.wishes.append("resume")
        return {"state": "running"}


async def nothing(*_: object) -> None:
    raise AssertionError("asked of the API")


async def ask(
    method: str,
    path: str,
    body: bytes = b"",
    *,
    tuner: FakeTunerView | None = None,
    owner: FakeOwner | None = None,
) -> tuple[int, Any]:
    app = control_app(
        api=nothing,
        status=dict,
        peers=dict,
        stop=lambda _: None,
        restart_engine=lambda _: None,
        tuner=tuner,
        owner=owner,
    )
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "root_path": "", "query_string": b"", "headers": []}
    with trio.fail_after(1):
        await app(scope, receive, send)
    return sent[0]["status"], json.loads(b"".join(message.get("body", b"") for message in sent[1:]))


async def test_what_runs_its_history_and_the_last_decision_are_told() -> None:
    tuner = FakeTunerView()
    assert await ask("GET", "/strategy", tuner=tuner) == (200, json.loads(json.dumps(FACTS)))
    status, answer = await ask("GET", "/strategy/history", tuner=tuner)
    assert (status, answer["history"][-1]["event"]) == (200, "confirmed")
    status, answer = await ask("GET", "/strategy/explain", tuner=tuner)
    assert (status, answer["decision"]["chosen"]) == (200, "prefix:on")
    assert answer["decision"]["switch"]["pays_after_s"] is None  # it never pays, for which JSON has no word


@pytest.mark.parametrize(
    ("asked", "strategy"),
    [
        ("default", DEFAULT),
        ("prefix:on+ngram:4", Strategy(prefix_caching=True, speculation=Speculation(method="ngram", tokens=4))),
        ({"max_num_seqs": 8}, Strategy(max_num_seqs=8)),
        ({}, DEFAULT),
    ],
)
async def test_a_strategy_is_fixed_by_its_name_or_its_table(asked: object, strategy: Strategy) -> None:
    tuner = FakeTunerView()
    status, answer = await ask("POST", "/strategy", json.dumps({"strategy": asked}).encode(), tuner=tuner)
    assert (status, answer["wanted"]) == (202, strategy.name)
    assert tuner.wishes == [strategy]


async def test_it_is_left_to_the_tuner_again() -> None:
    tuner = FakeTunerView()
    status, _ = await ask("DELETE", "/strategy", tuner=tuner)
    assert (status, tuner.wishes) == (200, ["release"])


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[]", 400),
        (b"[" * 20_000, 400),
        (b'{"strategy": 3}', 400),
        (b'{"strategy": "prefx:on"}', 400),
        (b'{"strategy": {"max_num_seqs": 0}}', 400),
        (b'{"strategy": {"engine_extra": {"load-format": "evil"}}}', 400),
        (b" " * (BODY_BYTES + 1), 413),
    ],
    ids=lambda given: repr(given)[:24],
)
async def test_what_is_no_strategy_reaches_no_tuner(body: bytes, status: int) -> None:
    tuner = FakeTunerView()
    got, answer = await ask("POST", "/strategy", body, tuner=tuner)
    assert (got, tuner.wishes) == (status, [])
    assert answer["error"]["message"]


async def test_a_strategy_that_cannot_run_here_is_refused_with_what_to_do() -> None:
    tuner = FakeTunerView(against=NodeError("it needs 8 GPUs", remedy="choose another"))
    status, answer = await ask("POST", "/strategy", b'{"strategy": "tp:8"}', tuner=tuner)
    assert (status, answer["error"]["message"], answer["error"]["remedy"]) == (409, "it needs 8 GPUs", "choose another")


@pytest.mark.parametrize(
    ("body", "wish"),
    [(b"", (None, False)), (b"{}", (None, False)), (b'{"for_s": 7200, "now": true}', (7200.0, True))],
)
async def test_a_pause_is_handed_on(body: bytes, wish: tuple[float | None, bool]) -> None:
    owner = FakeOwner()
    assert await ask("POST", "/pause", body, owner=owner) == (200, {"state": "paused"})
    assert owner.wishes == [wish]


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"for_s": 0}', b'{"for_s": 1e12}', b'{"for": 3}', b'{"now": "yes"}'])
async def test_what_is_no_pause_stops_nothing(body: bytes) -> None:
    owner = FakeOwner()
    status, answer = await ask("POST", "/pause", body, owner=owner)
    assert (status, owner.wishes) == (400, [])
    assert "for_s" in answer["error"]["remedy"]


async def test_it_goes_on() -> None:
    owner = FakeOwner()
    assert await ask("POST", "/resume", owner=owner) == (200, {"state": "running"})
    assert owner.wishes == ["resume"]


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/strategy"), ("POST", "/strategy"), ("DELETE", "/strategy"), ("GET", "/strategy/history"),
     ("GET", "/strategy/explain"), ("POST", "/pause"), ("POST", "/resume")],
)  # fmt: skip
async def test_a_node_without_an_engine_of_its_own_says_so(method: str, path: str) -> None:
    status, answer = await ask(method, path)
    assert status == 409
    assert "no engine of its own" in answer["error"]["message"]
    assert answer["error"]["remedy"]


async def test_the_owner_s_no_is_told_with_its_remedy() -> None:
    status, answer = await ask("POST", "/pause", owner=FakeOwner(refuses=True))
    assert (status, answer["error"]["remedy"]) == (409, "there is nothing to pause here")


def test_the_fake_is_what_the_pages_ask_for() -> None:
    entries: Sequence[Mapping[str, Any]] = FakeTunerView().history()
    assert {"at", "from", "event", "to", "strategy", "reason"} <= set(entries[0])
