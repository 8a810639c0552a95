"""Late first bytes asked for elsewhere too, in virtual time on the fake network: who answers, and who is left when."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from node.core.explanation import explain
from node.core.hedging import BURST, FLOOR, PATIENCE_S, PERCENT
from node.core.prompt import Prompt
from node.errors import Broken, Refused
from protocol.inference_events import Fail
from tests.core.routing import curve
from tests.fakes.peer_server import Answering
from tests.fakes.upstream import EVENTS, Script
from tests.services import test_ask_predictive
from tests.services.test_ask import BUSY, ME, MODEL, PEERS, prompt, rest_of
from tests.services.test_ask_predictive import USAGE, Stage, answering, event, headers

WHOLE = b"".join(event(f"t{number}") for number in range(20)) + USAGE % 20
SLOW = answering(prefill=2.0)  # late, and alive
STUCK = answering(prefill=1000.0)
HANDED = 0.1  # s: what is on its way is there


@asynccontextmanager
async def stage(peers: int = 2, *, seed: int = 1) -> AsyncIterator[Stage]:
    """The first peer is foretold to be the best by far; a first byte comes as soon of the others."""
    async with test_ask_predictive.stage(peers, seed=seed) as it, trio.open_nursery() as nursery:
        for number in range(1, peers):
            it.shelf.put(PEERS[number], MODEL, curve(0.1, 0.1 * number))
        nursery.start_soon(it.replica.run)
        await trio.testing.wait_all_tasks_blocked()
        yield it
        nursery.cancel_scope.cancel()


def attempts(it: Stage, request_id: str = "r-1") -> list[dict[str, Any]]:
    account = it.replica.accounts.get(request_id)
    assert account is not None
    return explain(account)["attempts"]


def hedged(it: Stage) -> tuple[int, int]:
    counts = it.replica.counts()
    return counts.hedged, counts.hedges_won


async def test_a_late_first_byte_is_asked_for_elsewhere_and_who_is_late_is_left_before_it_is_handed_on(
    autojump_clock: MockClock,
) -> None:
    async with stage() as it:
        it.servers[0].how = STUCK
        began = trio.current_time()
        async with it.replica.answer(prompt()) as answer:
            took = trio.current_time() - began
            assert all(each.receiving.broken for each in it.me.streams[PEERS[0]] if not each.kept)
            assert it.standings.standing(PEERS[0], trio.current_time()).in_flight == 0
            await trio.sleep(HANDED)
            assert (it.servers[0].running, it.servers[0].left_early) == (0, 1)
            assert await rest_of(answer) == WHOLE
        assert FLOOR < took < 1.0
        assert (answer.served.node, answer.served.reason, answer.served.attempts) == (str(PEERS[1]), "hedge", 2)
        assert hedged(it) == (1, 1)
        counts = it.replica.counts()
        assert (counts.served, counts.retried, counts.running) == (1, 0, 0)
        first, second = attempts(it)
        assert (first["outcome"], second["outcome"]) == ("outrun", "answered")
        assert (first["ttft_s"], second["reason"], second["output_tokens"]) == (None, "hedge", 20)
        assert it.standings.standing(PEERS[0], trio.current_time()).closed == ""  # it was late, and not at fault


async def test_who_was_outrun_is_known_to_have_taken_at_least_so_long(autojump_clock: MockClock) -> None:
    async with stage(2) as it:
        it.servers[0].how = STUCK
        for number in range(4):
            await it.ask(replace(prompt(), request_id=str(number)))
        assert attempts(it, "3")[0]["replica"] == str(PEERS[1])
        assert it.experience.ttft.count >= 3  # of those that answered, and of nobody else


async def test_who_answers_in_time_is_asked_alone(autojump_clock: MockClock) -> None:
    async with stage() as it:
        it.servers[0].how = answering(prefill=0.2)
        for _ in range(5):
            assert await it.ask() == WHOLE
        assert hedged(it) == (0, 0)
        assert not it.servers[1].asked


async def test_the_first_that_comes_after_all_wins_and_the_second_is_left_at_once(autojump_clock: MockClock) -> None:
    async with stage() as it:
        it.servers[0].how = answering(prefill=0.6)
        it.servers[1].how = STUCK
        async with it.replica.answer(prompt()) as answer:
            assert (it.servers[1].running, hedged(it)) == (1, (1, 0))
            assert (answer.served.node, answer.served.attempts) == (str(PEERS[0]), 2)
            await trio.sleep(HANDED)
            assert (it.servers[1].running, it.servers[1].left_early) == (0, 1)
            assert await rest_of(answer) == WHOLE
        first, second = attempts(it)
        assert (first["outcome"], second["outcome"]) == ("answered", "outrun")
        assert it.experience.ttft.count == 1  # the second was not late: it taught nothing


async def test_where_the_first_breaks_off_meanwhile_the_second_is_waited_for(autojump_clock: MockClock) -> None:
    async with stage(3) as it:
        it.servers[0].how = STUCK
        it.servers[1].how = it.servers[2].how = answering(prefill=1.0)
        async with trio.open_nursery() as nursery:

            async def in_a_moment() -> None:
                await trio.sleep(0.9)
                assert it.replica.counts().hedged == 1
                it.network.kill(PEERS[0])

            nursery.start_soon(in_a_moment)
            assert await it.ask() == WHOLE
        assert hedged(it) == (1, 1)
        assert len(it.servers[1].asked) + len(it.servers[2].asked) == 1
        assert [each["outcome"] for each in attempts(it)] == ["broken", "answered"]
        assert it.replica.counts().retried == 0


@pytest.mark.parametrize(
    "how",
    [
        Answering(refuse=BUSY),
        Answering(pieces=[Fail(code="engine_lost", message="gone")]),
        Answering(raw=b"\x93garbage"),
        answering(1, prefill=0.01, gap=0.0),
    ],
    ids=["refuses", "fails", "babbles", "says that it failed"],
)
async def test_a_second_that_comes_to_nothing_costs_the_first_nothing(
    autojump_clock: MockClock, how: Answering
) -> None:
    async with stage() as it:
        it.servers[0].how = SLOW
        it.servers[1].how = replace(how, status=500)
        began = trio.current_time()
        async with it.replica.answer(prompt()) as answer:
            assert trio.current_time() - began == pytest.approx(2.1, abs=0.01)  # as long as it takes alone
            assert (answer.served.node, answer.status) == (str(PEERS[0]), 200)
            assert await rest_of(answer) == WHOLE
        assert hedged(it) == (1, 0)
        assert len(it.servers[1].asked) == 1  # and once only
        assert it.servers[1].running == 0


async def test_where_both_come_to_nothing_somebody_else_is_asked_and_nobody_twice(autojump_clock: MockClock) -> None:
    async with stage(4) as it:
        for number in (1, 2, 3):
            it.shelf.put(PEERS[number], MODEL, curve(0.1 * number, 0.02 * number))
        gone = Fail(code="engine_lost", message="gone")
        it.servers[0].how = Answering(pieces=[gone], prefill=0.8)
        it.servers[1].how = Answering(pieces=[gone], prefill=0.8)
        it.servers[2].how = it.servers[3].how = SLOW  # and once for a prompt is enough
        assert await it.ask() == WHOLE
        assert sorted(len(server.asked) for server in it.servers) == [0, 1, 1, 1]
        assert hedged(it) == (1, 0)
        assert [each["outcome"] for each in attempts(it)] == ["broken", "broken", "answered"]


async def test_an_error_of_the_second_is_told_where_there_is_nobody_else(autojump_clock: MockClock) -> None:
    async with stage() as it:
        it.servers[0].how = Answering(pieces=[Fail(code="engine_lost", message="gone")], prefill=1.0)
        it.servers[1].how = Answering(pieces=(b'{"error":{}}',), status=400, headers=((b"content-type", b"text/json"),))
        async with it.replica.answer(prompt()) as answer:
            assert answer.status == 400
            assert await rest_of(answer) == b'{"error":{}}'


async def test_a_client_that_leaves_ends_the_work_at_both(autojump_clock: MockClock) -> None:
    async with stage() as it:
        for server in it.servers:
            server.how = STUCK
        with trio.move_on_after(2.0):
            await it.ask()
        await trio.sleep(HANDED)
        assert [(each.running, each.left_early) for each in it.servers] == [(0, 1), (0, 1)]
        assert it.replica.counts().abandoned == 1
        assert [each["outcome"] for each in attempts(it)] == ["abandoned", "abandoned"]


async def test_a_client_that_leaves_in_the_middle_of_the_seconds_answer_ends_it(autojump_clock: MockClock) -> None:
    async with stage() as it:
        it.servers[0].how = STUCK
        it.servers[1].how = answering(1000)
        with trio.move_on_after(3.0):
            await it.ask()
        await trio.sleep(HANDED)
        assert [(each.running, each.left_early) for each in it.servers] == [(0, 1), (0, 1)]
        assert [each["outcome"] for each in attempts(it)] == ["outrun", "abandoned"]
        assert it.replica.counts().abandoned == 1


async def test_the_prompts_own_time_bounds_both(autojump_clock: MockClock) -> None:
    async with stage() as it:
        for server in it.servers:
            server.how = STUCK
        began = trio.current_time()
        with pytest.raises(Broken):
            await it.ask(prompt(left=3.0))
        assert trio.current_time() - began == pytest.approx(3.0)
        assert hedged(it) == (1, 0)


async def test_the_seconds_answer_that_breaks_off_is_told_and_counted(autojump_clock: MockClock) -> None:
    async with stage() as it:
        it.servers[0].how = STUCK
        it.servers[1].how = Answering(pieces=[event("a"), Fail(code="engine_lost", message="gone")])
        with pytest.raises(Broken, match="gone"):
            await it.ask()
        assert it.replica.counts().failed == 1
        assert [each["outcome"] for each in attempts(it)] == ["outrun", "broken"]


async def test_the_seconds_stream_serves_the_next_prompt_too(autojump_clock: MockClock) -> None:
    async with stage() as it:
        it.servers[0].how = STUCK
        for _ in range(3):
            await it.ask()
        assert it.servers[1].whole == 3
        assert it.servers[1].streams == 1


@pytest.mark.parametrize(
    "one",
    [
        lambda: replace(prompt(), stream=False),
        lambda: replace(prompt(), target="/v1/responses"),
        lambda: replace(prompt(), target="/v1/embeddings"),
        lambda: prompt(via=PEERS[0]),
        lambda: headers((b"x-metainf-objective", b"cost")),
    ],
    ids=["no stream", "stored", "no first token", "named", "cheap"],
)
async def test_what_is_not_to_be_asked_twice_is_asked_once(
    autojump_clock: MockClock, one: Callable[[], Prompt]
) -> None:
    async with stage() as it:
        for server in it.servers:
            server.how = answering(prefill=5.0)
        await it.ask(one())
        assert sum(len(server.asked) for server in it.servers) == 1


async def test_where_nobody_else_would_be_sooner_nobody_else_is_asked(autojump_clock: MockClock) -> None:
    async with stage() as it:
        it.shelf.put(PEERS[1], MODEL, curve(60.0, 0.02))
        it.servers[0].how = answering(prefill=5.0)
        assert await it.ask() == WHOLE
        assert hedged(it) == (0, 0)
        it.servers[0].how = STUCK  # until a minute elsewhere is clearly less than what is left here
        assert await it.ask() == WHOLE
        assert hedged(it) == (1, 1)


async def test_without_its_task_nobody_is_asked_twice(autojump_clock: MockClock) -> None:
    async with test_ask_predictive.stage() as it:
        for server in it.servers:
            server.how = SLOW
        assert await it.ask() == WHOLE
        assert hedged(it) == (0, 0)


async def test_a_swarm_in_which_all_are_late_has_a_twentieth_more_to_do_and_no_more(autojump_clock: MockClock) -> None:
    async with stage(4) as it, trio.open_nursery() as nursery:
        for server in it.servers:
            server.how = answering(2, prefill=3.0)
        for number in range(200):
            nursery.start_soon(it.ask, replace(prompt(), request_id=str(number)))
            await trio.sleep(0.05)
    asked = sum(len(server.asked) for server in it.servers)
    assert it.replica.counts().served == 200
    assert 200 < asked <= 200 + BURST + 200 * PERCENT / 100


async def test_who_is_late_while_the_budget_is_spent_is_helped_once_others_have_earned_it(
    autojump_clock: MockClock,
) -> None:
    async with stage() as it, trio.open_nursery() as nursery:
        it.servers[0].how = STUCK
        budget = it.replica._hedger.budget
        while budget.suffices:
            budget.spend()

        async def later() -> None:
            await trio.sleep(5.0)
            assert hedged(it) == (0, 0)
            for _ in range(int(100 / PERCENT)):
                budget.earn()

        nursery.start_soon(later)
        began = trio.current_time()
        assert await it.ask() == WHOLE
        assert 5.0 < trio.current_time() - began < 8.0
        assert hedged(it) == (1, 1)


async def test_a_lone_prompt_is_helped_in_time_though_others_have_spent_the_budget(autojump_clock: MockClock) -> None:
    async with stage() as it:
        it.servers[0].how = STUCK
        budget = it.replica._hedger.budget
        while budget.suffices:
            budget.spend()
        began = trio.current_time()
        assert await it.ask() == WHOLE
        assert PATIENCE_S < trio.current_time() - began < 2 * PATIENCE_S
        assert hedged(it) == (1, 1)


async def test_the_own_engine_that_does_not_answer_is_no_different(autojump_clock: MockClock) -> None:
    async with stage() as it:
        it.own_model = MODEL
        it.shelf.put(ME, MODEL, curve(0.05, 0.01))
        it.local.upstream.answer_with = lambda _: Script([event("a")], headers=EVENTS, head=trio.sleep_forever)
        async with it.replica.answer(prompt()) as answer:
            assert (it.local.upstream.at_work, it.local.upstream.left_early) == (0, 1)
            assert await rest_of(answer) == WHOLE
        assert [each["outcome"] for each in attempts(it)] == ["outrun", "answered"]


async def test_the_own_engine_may_be_second(autojump_clock: MockClock) -> None:
    async with stage(1) as it:
        it.own_model = MODEL
        it.shelf.put(ME, MODEL, curve(0.4, 0.05))
        it.local.upstream.answer_with = lambda _: Script([event("a"), USAGE % 1], headers=EVENTS)
        it.servers[0].how = STUCK
        async with it.replica.answer(prompt()) as answer:
            assert await rest_of(answer) == event("a") + USAGE % 1
        assert (answer.served.node, answer.served.reason) == ("node-under-test", "hedge")
        await trio.sleep(HANDED)
        assert (it.servers[0].left_early, it.local.upstream.at_work, it.local.upstream.left_early) == (1, 0, 0)


async def test_a_defect_in_the_second_attempt_ends_neither_the_first_nor_the_node(autojump_clock: MockClock) -> None:
    async def defect() -> None:
        raise ValueError("a bug")

    async with stage(1) as it:
        it.own_model = MODEL
        it.shelf.put(ME, MODEL, curve(0.4, 0.05))
        it.local.upstream.answer_with = lambda _: Script([], head=defect)
        it.servers[0].how = SLOW
        assert await it.ask() == WHOLE
        assert hedged(it) == (1, 0)
        it.servers[0].how = STUCK  # the node still looks after those that wait
        it.local.upstream.answer_with = lambda _: Script([event("a"), USAGE % 1], headers=EVENTS)
        assert await it.ask() == event("a") + USAGE % 1


TROUBLES = st.sampled_from([
    STUCK, SLOW, Answering(refuse=BUSY), Answering(raw=b"\x93garbage"),
    Answering(pieces=[Fail(code="engine_lost", message="gone")]),
    Answering(pieces=[event("a"), Fail(code="engine_lost", message="gone")]), answering(prefill=0.45), answering(),
])  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1000),
    hows=st.lists(st.lists(TROUBLES, min_size=3, max_size=3), min_size=1, max_size=4),
    leaves=st.lists(st.floats(0.1, 10.0), min_size=1, max_size=8),
    killed=st.floats(0.0, 10.0),
)
def test_whatever_goes_wrong_every_prompt_ends_once_and_nobody_is_left_at_work(
    seed: int, hows: list[list[Answering]], leaves: list[float], killed: float
) -> None:
    async def main() -> None:
        async with stage(3, seed=seed) as it:

            async def client(number: int, patience: float) -> None:
                await trio.sleep(number * 0.37)
                with trio.move_on_after(patience), suppress(Refused, Broken):
                    assert await it.ask(replace(prompt(left=20.0), request_id=str(number))) == WHOLE

            async def trouble() -> None:
                for each in hows:
                    for server, how in zip(it.servers, each, strict=True):
                        server.how = how
                    await trio.sleep(2.0)

            async def kill() -> None:
                await trio.sleep(killed)
                it.network.kill(PEERS[0])

            began = trio.current_time()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trouble)
                nursery.start_soon(kill)
                for number, patience in enumerate(leaves * 3):
                    nursery.start_soon(client, number, patience)
            await trio.sleep(HANDED)
            counts = it.replica.counts()
            assert counts.running == 0
            assert counts.served + counts.failed + counts.refused + counts.abandoned == len(leaves) * 3
            waited = (trio.current_time() - began) / PATIENCE_S
            assert counts.hedges_won <= counts.hedged <= BURST + len(leaves) * 3 * PERCENT / 100 + waited
            assert sum(server.running for server in it.servers) == 0
            assert not it.me.failures

    trio.run(main, clock=MockClock(autojump_threshold=0))
