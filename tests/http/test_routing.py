"""The control socket's pages of decisions: one in full, the last ones, clear errors; and the block of `status`."""

import json
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from node.core.calibration import DRIFTED, ENOUGH, SLOWER
from node.core.experience import Experience
from node.core.explanation import Attempt
from node.http.asgi import Message
from node.http.config import HttpLimits
from node.http.control import control_app
from node.http.routing import LISTED, MOST_LISTED, AccountBook, routing_facts
from node.ports import Served
from tests.core.routing import PEERS
from tests.fakes.account_book import FakeAccounts, answered, refused, unweighed
from tests.http.test_app import CHAT, Stage


async def nothing(*_: object) -> None:
    raise AssertionError("asked of the API")


async def ask(
    path: str, *, accounts: AccountBook | None, query: bytes = b"", raw_path: bytes | None = None, method: str = "GET"
) -> tuple[int, Any]:
    app = control_app(
        api=nothing,
        status=dict,
        peers=dict,
        stop=lambda _: None,
        restart_engine=lambda _: None,
        accounts=accounts,
    )
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    scope: dict[str, Any] = {
        "type": "http", "method": method, "path": path, "root_path": "", "query_string": query, "headers": [],
    }  # fmt: skip
    if raw_path is not None:
        scope["raw_path"] = raw_path
    with trio.fail_after(1):
        await app(scope, receive, send)
    return sent[0]["status"], json.loads(b"".join(message.get("body", b"") for message in sent[1:]))


async def test_one_decision_is_told_in_full_with_its_age(autojump_clock: MockClock) -> None:
    account = answered(asked_at=trio.current_time())
    await trio.sleep(12.5)
    status, told = await ask("/explain/r-1", accounts=FakeAccounts([account]))
    assert (status, told["request_id"], told["age_s"]) == (200, "r-1", 12.5)
    assert [each["reason"] for each in told["choices"]] == ["fits", "next"]
    assert [each["outcome"] for each in told["attempts"]] == ["unreachable", "answered"]
    assert {each["source"] for each in told["candidates"]} == {"learner", "composite"}
    assert told["wanted"]["slo_ttft_s"] == 0.5


@pytest.mark.parametrize("name", ["a/b?c", "100%41", "a%2Fb"])
async def test_an_id_is_found_whether_the_server_decodes_paths_or_not(name: str) -> None:
    accounts = FakeAccounts([refused(name)])
    coded = "".join(f"%{ord(each):02X}" for each in name)
    raw = f"/explain/{coded}".encode()
    for path in (f"/explain/{name}", raw.decode()):
        status, told = await ask(path, accounts=accounts, raw_path=raw)
        assert (status, told["request_id"]) == (200, name)
    assert (await ask(f"/explain/{name}", accounts=accounts))[1]["request_id"] == name


async def test_an_unknown_id_is_told_apart_from_one_that_may_be_too_old() -> None:
    accounts = FakeAccounts([answered()])
    status, told = await ask("/explain/r-9", accounts=accounts)
    assert status == 404
    assert "never came here: all 1 since the node came up are known" in told["error"]["message"]
    assert "x-request-id" in told["error"]["remedy"]
    accounts.forgotten = 7
    message = (await ask("/explain/r-9", accounts=accounts))[1]["error"]["message"]
    assert "too long ago: the last 1 are kept, 7 forgotten" in message


@pytest.mark.parametrize("path", ["/explain", "/explain/r-1"])
async def test_a_node_without_a_swarm_says_that_there_is_nothing_to_choose(path: str) -> None:
    status, told = await ask(path, accounts=None)
    assert status == 409
    assert "in no swarm" in told["error"]["message"]
    assert "p2p.enabled" in told["error"]["remedy"]


async def test_the_last_ones_are_listed_the_latest_first_with_what_was_foretold_beside_what_came() -> None:
    accounts = FakeAccounts([answered("r-1"), unweighed("r-2"), refused("r-3")], forgotten=4)
    status, told = await ask("/explain", accounts=accounts, query=b"last=3")
    assert (status, told["kept"], told["forgotten"]) == (200, 3, 4)
    none, sent, weighed = told["prompts"]
    assert (none["request_id"], none["outcome"], none["reason"]) == ("r-3", "refused", "no_replica")
    assert (sent["outcome"], sent["reason"], sent["foretold"], sent["model"]) == ("running", "via", None, None)
    assert (weighed["outcome"], weighed["attempts"], weighed["candidates"]) == ("answered", 2, 3)
    assert weighed["ttft_s"] == 0.31
    # The second peer's curve at an idle engine, the way there included.
    assert 0.2 < weighed["foretold"]["ttft_s"] < 0.35
    assert 0.019 < weighed["foretold"]["tpot_s"] < 0.025
    assert weighed["foretold"]["total_s"] > 200 * 0.019


async def test_a_list_is_bounded_and_a_bad_number_refused() -> None:
    accounts = FakeAccounts([refused(str(number)) for number in range(LISTED + 5)])
    assert len((await ask("/explain", accounts=accounts))[1]["prompts"]) == LISTED
    for bad in (b"last=0", b"last=many", b"last=-1", b"last=%d" % (MOST_LISTED + 1), b"last=" + b"9" * 5000):
        status, told = await ask("/explain", accounts=accounts, query=bad)
        assert (status, "1 to 200" in told["error"]["remedy"]) == (400, True)


def test_the_block_of_status_has_calibration_decisions_and_what_has_drifted() -> None:
    experience = Experience(key=bytes(16))
    accounts = FakeAccounts([answered()], decisions={"best": 3, "refused": 1})
    facts = routing_facts(experience, accounts, resumed=2)
    assert json.loads(json.dumps(facts)) == facts
    assert (facts["decisions"], facts["resumed"], facts["kept"]) == ({"best": 3, "refused": 1}, 2, 1)
    assert (facts["drifted"], facts["drift"]) == ([], {})
    for _ in range(ENOUGH):
        experience.ttft.add(1.0, 0.01, 40.0)  # nearly thrice as slow, foretold within a sixth
    facts = routing_facts(experience, accounts, resumed=2, clock=lambda: 100.0)
    assert facts["drifted"] == ["ttft"]
    assert facts["drift"] == {"ttft": {"factor": 2.718, "coverage_90": 0.0, "for_s": 60.0, "remedy": SLOWER}}
    assert json.loads(json.dumps(facts)) == facts
    assert facts["ttft"]["coverage_90"] < DRIFTED


@pytest.mark.parametrize("show_node", [True, False])
async def test_clients_are_told_what_was_foretold_of_who_answers(show_node: bool) -> None:
    stage = Stage(limits=HttpLimits(show_node=show_node))
    assert not any(name.startswith(b"x-metainf-predicted") for name in (await stage.post(CHAT)).headers)
    stage.replica.served = Served(node="peer", reason="best", foretold=(0.24561, 4.3))
    headers = (await stage.post(CHAT)).headers
    assert headers[b"x-metainf-predicted-ttft-ms"] == b"245.6"
    assert headers[b"x-metainf-predicted-total-ms"] == b"4300.0"
    assert headers[b"x-metainf-route-reason"] == b"best"
    assert (b"x-metainf-node" in headers) == show_node


async def test_of_two_that_were_asked_at_once_the_list_tells_of_the_one_that_answered() -> None:
    account = answered()
    account.attempts.append(Attempt(replica=PEERS[2], reason="hedge", asked_at=7.0, outcome="outrun"))
    _, told = await ask("/explain", accounts=FakeAccounts([account]))
    (one,) = told["prompts"]
    assert (one["replica"], one["outcome"], one["attempts"]) == (str(PEERS[1]), "answered", 3)


def test_the_block_of_status_counts_late_first_bytes_that_were_asked_for_elsewhere() -> None:
    facts = routing_facts(Experience(key=bytes(16)), FakeAccounts(), resumed=0, hedged=3, hedges_won=2)
    assert (facts["hedged"], facts["hedges_won"]) == (3, 2)
