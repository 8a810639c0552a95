"""Switching the engine's strategy, by the real keeper on an engine in memory and a virtual clock."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

import pytest
import trio
import trio.testing

from node.core.engine_state import EngineSnapshot, EngineState
from node.core.prompt import Headers
from node.core.strategy import DEFAULT, EXTERNAL, Strategy
from node.errors import EngineUnavailable, Unavailable
from node.ports import Endpoint, LaunchPlan
from node.services.switch import PATIENCE as LEAVING
from node.services.switch import Switched, Switcher
from node.services.tend import EngineKeeper, TendLimits
from tests.fakes.engine import FakeAnswer, FakeEngine, FakeFault, FakeLauncher, FakeProcess, FakeStream, FakeUpstream

LIMITS = TendLimits()
BASE = LaunchPlan(model="/models/m", served_name="m", strategy=DEFAULT)
FOUR = Strategy(max_num_seqs=4)
EIGHT = Strategy(max_num_seqs=8)
ROUNDED = Strategy(kv_cache_dtype="fp8")
S = EngineState
PATIENCE = 60.0  # while new prompts wait; beside a new engine it is LEAVING
HOUR = 3600.0  # s of the test's clock, in which anything that is to come has come

FAULTS: dict[str, tuple[FakeFault, str, str]] = {
    "ends while starting": (
        FakeFault(dies_after=5, code=1, tail=("ValueError: no",)),
        "start_failed",
        "ValueError: no",
    ),
    "refuses its command line": (
        FakeFault(dies_after=5, code=2, tail=("api_server.py: error: no such flag",)),
        "start_failed",
        "no such flag",
    ),
    "is refused before it starts": (
        FakeFault(refusal=EngineUnavailable("not on this machine", remedy="Sorry.", permanent=True)),
        "start_failed",
        "not on this machine Sorry.",
    ),
    "hangs in start": (FakeFault(load_time=1e9), "timed_out", "after "),
    "runs out of memory": (
        FakeFault(dies_after=5, code=1, tail=("torch.OutOfMemoryError: CUDA out of memory.",)),
        "out_of_memory",
        "CUDA out of memory",
    ),
    "is killed by the kernel": (FakeFault(dies_after=5, signal=9), "out_of_memory", "SIGKILL"),
    "crashes while starting": (FakeFault(dies_after=5, signal=11), "crashed", "SIGSEGV"),
    "answers no JSON": (FakeFault(answer=b"\x00\xff!!!!"), "wrong_answers", "no JSON object"),
    "answers without a token": (
        FakeFault(answer=b'{"choices": [{"text": ""}], "usage": {"completion_tokens": 0}}'),
        "wrong_answers",
        "without a token",
    ),
    "says what the model never says": (FakeFault(says="!"), "wrong_answers", "'!'"),
}


class Meddling(FakeUpstream):
    """A way to the engines on which something may happen just when one has proved to be sound."""

    def __init__(self, engine: FakeEngine) -> None:
        super().__init__(engine)
        self.meddle: Callable[[], None] | None = None

    @asynccontextmanager
    async def send(
        self, endpoint: Endpoint, *, method: str, target: str, headers: Headers, body: bytes
    ) -> AsyncIterator[FakeAnswer | FakeStream]:
        async with super().send(endpoint, method=method, target=target, headers=headers, body=body) as answer:
            yield answer
        if self.meddle is not None and endpoint.port == 2 and b'"logprobs"' in body:
            self.meddle()


class World:
    """A keeper and a switcher on fakes, prompts that run as long as a test says, and all that was told."""

    def __init__(self, engine: FakeEngine, base: LaunchPlan) -> None:
        self.engine = engine
        self.seen: list[EngineSnapshot] = []
        self.running: dict[int, int] = {}  # by the endpoint's port
        self.room = False
        self.levers: list[tuple[Strategy, Strategy]] = []
        self.liftable: Callable[[Strategy, Strategy], bool] = lambda running, wanted: running == wanted
        self.upstream = Meddling(engine)
        self.keeper = EngineKeeper(
            launcher=FakeLauncher(engine),
            upstream=self.upstream,
            plan=base,
            limits=LIMITS,
            in_flight=lambda endpoint: self.running.get(endpoint.port, 0),
            last_activity=_never,
            luck=lambda: 1.0,
            on_change=self.seen.append,
        )
        self.switcher = Switcher(
            self.keeper, base=base, room=self.has_room, lever=self.lever, clock=trio.current_time, patience=PATIENCE
        )

    async def has_room(self, plan: LaunchPlan) -> bool:
        del plan
        await trio.lowlevel.checkpoint()
        return self.room

    def lever(self, running: Strategy, wanted: Strategy) -> bool:
        self.levers.append((running, wanted))
        return self.liftable(running, wanted)

    @property
    def alive(self) -> list[FakeProcess]:
        return [process for process in self.engine.processes if process.alive]

    async def until(self, state: EngineState) -> EngineSnapshot:
        snapshot = self.keeper.snapshot()
        with trio.fail_after(HOUR):
            while snapshot.state is not state:
                snapshot = await self.keeper.changed(snapshot)
        return snapshot

    def serving(self) -> FakeProcess:
        endpoint = self.keeper.endpoint()
        assert endpoint is not None
        return self.engine.processes[endpoint.port - 1]


def _never(endpoint: Endpoint) -> None:
    del endpoint


@asynccontextmanager
async def world(
    engine: FakeEngine | None = None, *, base: LaunchPlan = BASE, room: bool = False
) -> AsyncIterator[World]:
    made = World(engine or FakeEngine(stop_time=1), base)
    made.room = room
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.keeper.run)
        await made.until(S.READY)
        yield made
        nursery.cancel_scope.cancel()
    assert not made.alive


async def _in_background(nursery: trio.Nursery, job: Callable[[], object], into: list[Switched]) -> None:
    async def run() -> None:
        into.append(await job())  # type: ignore[misc]

    nursery.start_soon(run)


async def test_start_first_changes_over_in_one_step_and_is_never_away(autojump_clock: trio.testing.MockClock) -> None:
    async with world(room=True) as it:
        old = it.serving()
        it.running[old.number] = 1  # an answer that ends in a minute
        begin = len(it.seen)
        switched = await it.switcher.switch(FOUR, reason="four are better")
        assert (switched.result, switched.how, switched.down_s, switched.serving) == ("done", "start_first", 0, FOUR)
        assert 16 <= switched.took_s <= 18
        now = it.keeper.snapshot()
        assert (now.state, now.strategy, now.pid, now.reason) == (S.READY, "seqs:4", 1002, "four are better")
        assert it.serving().number == 2
        assert {snapshot.state for snapshot in it.seen[begin:]} == {S.READY}
        await trio.sleep(60)
        assert old.alive  # it still answers
        it.running[old.number] = 0
        await trio.sleep(5)
        assert not old.alive
        assert old.graces[0] == LIMITS.stop_grace
        assert now.restarts == 0


@pytest.mark.parametrize("words", ["", "+80 % time for 8 equal requests"], ids=["no worse", "worse"])
async def test_a_second_engine_is_heard_before_it_takes_over(
    words: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with world(room=True) as it:
        begin, heard = len(it.seen), list[tuple[int, str, str | None]]()

        async def audition(endpoint: Endpoint, model: str) -> str:
            heard.append((endpoint.port, model, it.keeper.snapshot().strategy))
            await trio.sleep(10)
            return words

        switched = await it.switcher.switch(FOUR, reason="four are better", audition=audition)
        assert heard == [(2, "m", "default")]
        result = ("worse", words, DEFAULT) if words else ("done", "four are better", FOUR)
        assert (switched.result, switched.reason, switched.serving) == result
        assert (switched.how, switched.down_s) == ("start_first", 0)
        assert {snapshot.state for snapshot in it.seen[begin:]} <= {S.READY}
        await trio.sleep(HOUR)
        assert [process.number for process in it.alive] == [it.serving().number] == [1 if words else 2]


@pytest.mark.parametrize(("dies", "result"), [(1, "done"), (2, "crashed")], ids=["the old one", "the new one"])
async def test_nobody_is_heard_any_longer_when_one_of_the_two_is_gone(
    dies: int, result: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with world(room=True) as it:

        async def audition(endpoint: Endpoint, model: str) -> str:
            del endpoint, model
            it.engine.processes[dies - 1].die(signal=11)
            await trio.sleep_forever()
            raise AssertionError("never")

        switched = await it.switcher.switch(FOUR, reason="better", audition=audition)
        assert switched.result == result
        assert it.keeper.snapshot().state is S.READY
        assert it.keeper.snapshot().strategy == ("seqs:4" if result == "done" else "default")


async def test_a_restart_has_nobody_to_hear(autojump_clock: trio.testing.MockClock) -> None:
    async def audition(endpoint: Endpoint, model: str) -> str:
        raise AssertionError("it serves already")

    async with world() as it:
        assert (await it.switcher.switch(FOUR, reason="better", audition=audition)).done


async def test_one_that_is_followed_is_cut_off_when_patience_is_over(autojump_clock: trio.testing.MockClock) -> None:
    async with world(room=True) as it:
        old = it.serving()
        it.running[old.number] = 1
        assert (await it.switcher.switch(FOUR, reason="better")).done
        await trio.sleep(LEAVING - 1)
        assert old.alive
        await trio.sleep(3)
        assert not old.alive


async def test_a_restart_lets_answers_end_and_prompts_wait_meanwhile(autojump_clock: trio.testing.MockClock) -> None:
    async with world() as it, trio.open_nursery() as nursery:
        it.running[1] = 1
        results: list[Switched] = []
        await _in_background(nursery, partial(it.switcher.switch, FOUR, reason="better"), results)
        draining = await it.until(S.DRAINING)
        assert draining.returning
        await trio.sleep(20)
        assert it.alive[0].number == 1
        it.running[1] = 0
        began = len(it.seen)
        assert (await it.until(S.STARTING)).returning
        ready = await it.until(S.READY)
        assert all(each.returning for each in it.seen[began:-1])
        assert (ready.returning, ready.strategy, ready.reason, ready.restarts) == (False, "seqs:4", "better", 0)
        await trio.testing.wait_all_tasks_blocked()
        (switched,) = results
        assert (switched.result, switched.how) == ("done", "restart")
        assert 17 <= switched.down_s <= 18  # one to stop, sixteen to start; while it drained it served
        assert 37 <= switched.took_s <= 39
        assert it.engine.at_once == 1


async def test_a_drain_that_takes_too_long_is_given_up_and_nobody_is_cut_off(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with world() as it:
        it.running[1] = 2
        switched = await it.switcher.switch(FOUR, reason="better")
        assert (switched.result, switched.down_s, switched.serving) == ("not_drained", 0, DEFAULT)
        assert PATIENCE <= switched.took_s < PATIENCE + 1
        now = it.keeper.snapshot()
        assert (now.state, now.strategy, now.pid, now.returning) == (S.READY, "default", 1001, False)
        assert "2 prompts did not end in time for seqs:4" in now.reason
        assert it.alive[0].graces == []
        it.alive[0].die(signal=11)  # it is watched as before
        await it.until(S.BACKOFF)
        assert (await it.until(S.READY)).strategy == "default"


@pytest.mark.parametrize("room", [False, True], ids=["restart", "start first"])
@pytest.mark.parametrize("case", FAULTS)
async def test_whatever_is_wrong_with_the_new_one_the_old_strategy_serves_again_and_says_why(
    case: str, room: bool, autojump_clock: trio.testing.MockClock
) -> None:
    fault, result, words = FAULTS[case]
    async with world(FakeEngine(stop_time=1, faults={"seqs:4": fault}), room=room) as it:
        switched = await it.switcher.switch(FOUR, reason="better")
        assert (switched.result, switched.serving) == (result, DEFAULT)
        assert words in switched.reason
        if result == "timed_out":  # nobody waits for the one that starts beside the old one
            assert switched.reason.endswith("after 600 s" if room else "after 120 s")
        now = it.keeper.snapshot()
        assert (now.state, now.strategy, now.restarts, now.returning) == (S.READY, "default", 0, False)
        assert [process.number for process in it.alive] == [it.serving().number]
        if room and result != "out_of_memory":
            assert (switched.how, switched.down_s) == ("start_first", 0)
            assert it.serving().number == 1  # the old one never noticed
        else:  # two at once may have been what was too much: then it is tried alone
            assert switched.how == "restart"
            assert now.reason.startswith("back on default: 'seqs:4' ")
            assert words in now.reason
            assert 0 < switched.down_s < 160
        await trio.sleep(3600)  # and it stays
        assert it.keeper.snapshot() == now
        assert S.BACKOFF not in {snapshot.state for snapshot in it.seen}


async def test_an_old_plan_that_fails_too_is_tended_as_ever(autojump_clock: trio.testing.MockClock) -> None:
    engine = FakeEngine(faults={"seqs:4": FakeFault(dies_after=1, code=1)})
    async with world(engine) as it:
        engine.faults["default"] = FakeFault(dies_after=1, signal=11)
        switched = await it.switcher.switch(FOUR, reason="better")
        assert switched.result == "start_failed"
        assert (it.keeper.snapshot().state, it.keeper.snapshot().returning) == (S.BACKOFF, False)
        del engine.faults["default"]
        assert (await it.until(S.READY)).strategy == "default"


async def test_the_new_one_is_the_engine_as_soon_as_it_is_ready_when_the_old_one_dies_meanwhile(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with world(room=True) as it, trio.open_nursery() as nursery:
        results: list[Switched] = []
        await _in_background(nursery, partial(it.switcher.switch, FOUR, reason="better"), results)
        await trio.sleep(5)
        it.engine.processes[0].die(signal=11)
        await it.until(S.BACKOFF)
        ready = await it.until(S.READY)
        assert (ready.strategy, ready.pid, ready.restarts) == ("seqs:4", 1002, 1)
        await trio.sleep(600)
        assert len(it.engine.launches) == 2  # the old one was not started again beside it
        assert results[0].done
        assert 10 <= results[0].down_s <= 12
        it.serving().die(code=1)  # it is watched
        await it.until(S.BACKOFF)
        assert (await it.until(S.READY)).strategy == "seqs:4"


async def test_when_both_die_the_old_one_is_started_again(autojump_clock: trio.testing.MockClock) -> None:
    engine = FakeEngine(faults={"seqs:4": FakeFault(dies_after=10, code=1)})
    async with world(engine, room=True) as it, trio.open_nursery() as nursery:
        results: list[Switched] = []
        await _in_background(nursery, partial(it.switcher.switch, FOUR, reason="better"), results)
        await trio.sleep(5)
        it.engine.processes[0].die(signal=11)
        await it.until(S.BACKOFF)
        assert (await it.until(S.READY)).strategy == "default"
        await trio.testing.wait_all_tasks_blocked()
        assert results[0].result == "start_failed"
        assert len(it.alive) == 1


@pytest.mark.parametrize("after", [0.0, 0.5, 3.0, 10.0, 15.9, 16.6, 17.2, 25.0])
@pytest.mark.parametrize("room", [False, True], ids=["restart", "start first"])
async def test_a_switch_that_is_cancelled_leaves_one_engine_that_serves(
    after: float, room: bool, autojump_clock: trio.testing.MockClock
) -> None:
    async with world(room=room) as it:
        it.running[1] = 1
        with trio.move_on_after(after) as patience:
            await it.switcher.switch(FOUR, reason="better")
        assert patience.cancelled_caught is (not room or after < 16.5)
        it.running[1] = 0
        await trio.sleep(60)
        now = it.keeper.snapshot()
        assert now.state is S.READY
        assert now.strategy == ("default" if patience.cancelled_caught else "seqs:4")
        assert [process.number for process in it.alive] == [it.serving().number]


async def test_a_switch_that_is_cancelled_while_it_restarts_goes_its_way(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with world() as it:
        with trio.move_on_after(5):
            await it.switcher.switch(FOUR, reason="better")
        assert (await it.until(S.READY)).strategy == "seqs:4"
        assert len(it.alive) == 1
        it.engine.faults["seqs:8"] = FakeFault(dies_after=10, code=1)
        with trio.move_on_after(5):
            await it.switcher.switch(EIGHT, reason="better")
        assert (await it.until(S.READY)).strategy == "seqs:4"


@pytest.mark.parametrize("after", [0.0, 0.5, 3.0, 10.0, 17.2, 25.0])
@pytest.mark.parametrize("room", [False, True], ids=["restart", "start first"])
@pytest.mark.parametrize("fails", [False, True], ids=["sound", "failing"])
async def test_a_stop_of_the_node_overrules_a_switch_at_any_moment(
    after: float, room: bool, fails: bool, autojump_clock: trio.testing.MockClock
) -> None:
    faults = {"seqs:4": FakeFault(dies_after=9, code=1)} if fails else {}
    async with world(FakeEngine(stop_time=1, faults=faults), room=room) as it, trio.open_nursery() as nursery:
        results: list[Switched] = []
        await _in_background(nursery, partial(it.switcher.switch, FOUR, reason="better"), results)
        await trio.sleep(after)
        begin = trio.current_time()
        await it.keeper.stop(reason="the node stops", grace=30)
        assert trio.current_time() - begin <= 12
        assert not it.alive
        await trio.sleep(600)
        assert it.keeper.snapshot().state is S.STOPPED
        assert not it.keeper.snapshot().returning
        assert len(results) == 1
        ended = after > (9 if fails else 16) + (0 if room else 1)  # a second for the old one's end
        assert results[0].result == (("start_failed" if fails else "done") if ended else "overruled")
        it.keeper.start(reason="again")
        assert (await it.until(S.READY)).strategy == it.keeper.plan().strategy.name


async def test_a_stop_waits_for_one_that_was_followed_and_shortens_its_patience(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with world(room=True) as it:
        it.running[1] = 1
        await it.switcher.switch(FOUR, reason="better")
        begin = trio.current_time()
        await it.keeper.stop(reason="the node stops", grace=30)
        assert 30 <= trio.current_time() - begin <= 32
        assert not it.alive


async def test_what_was_not_known_to_work_is_not_started_again_after_it_was_overruled(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with world() as it, trio.open_nursery() as nursery:
        results: list[Switched] = []
        await _in_background(nursery, partial(it.switcher.switch, FOUR, reason="better"), results)
        await it.until(S.STARTING)
        it.keeper.restart(reason="by hand")
        assert (await it.until(S.READY)).strategy == "default"
        assert (results[0].result, results[0].reason) == ("overruled", "by hand")


@pytest.mark.parametrize("draw", range(20))  # the loop draws which of two tasks comes first
async def test_a_wish_in_the_moment_of_the_change_over_wins(draw: int, autojump_clock: trio.testing.MockClock) -> None:
    del draw
    async with world(room=True) as it, trio.open_nursery() as nursery:

        async def wish() -> None:  # a turn of the loop later, when it is known to be sound and does not serve yet
            it.keeper.restart(reason="by hand", plan=replace(BASE, strategy=EIGHT))
            await trio.lowlevel.checkpoint()

        it.upstream.meddle = lambda: nursery.start_soon(wish)
        switched = await it.switcher.switch(FOUR, reason="better")
        assert (switched.result, switched.reason) == ("overruled", "by hand")
        await trio.sleep(60)
        assert (await it.until(S.READY)).strategy == "seqs:8"
        assert len(it.alive) == 1


async def test_trials_that_begin_meanwhile_overrule_a_switch(autojump_clock: trio.testing.MockClock) -> None:
    async with world(room=True) as it, trio.open_nursery() as nursery:
        results: list[Switched] = []
        await _in_background(nursery, partial(it.switcher.switch, FOUR, reason="better"), results)
        await trio.sleep(5)
        async with it.keeper.lent(reason="lent to trials", grace=10):
            assert it.keeper.snapshot().returning
            assert not it.alive
            assert results[0].result == "overruled"
            refused = await it.switcher.switch(FOUR, reason="better")
            assert (refused.result, refused.reason) == ("overruled", "lent to trials")
        began = len(it.seen)
        ready = await it.until(S.READY)
        assert ready.strategy == "default"
        assert all(each.returning for each in it.seen[began:-1])
        assert not ready.returning


async def test_the_first_start_a_crash_and_a_stop_for_good_are_no_returns(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with world() as it:
        it.serving().die(signal=11)
        await it.until(S.BACKOFF)
        await it.until(S.READY)
        await it.keeper.stop(reason="paused", grace=0)
        it.keeper.start(reason="resumed")
        await it.until(S.READY)
        assert not any(snapshot.returning for snapshot in it.seen)


async def test_a_stop_takes_back_what_prompts_were_told(autojump_clock: trio.testing.MockClock) -> None:
    async with world() as it, trio.open_nursery() as nursery:
        it.running[1] = 1
        nursery.start_soon(partial(it.switcher.switch, FOUR, reason="better"))
        assert (await it.until(S.DRAINING)).returning
        nursery.start_soon(partial(it.keeper.stop, reason="bye", grace=5))
        await trio.testing.wait_all_tasks_blocked()
        assert it.keeper.snapshot().state is S.DRAINING
        assert not it.keeper.snapshot().returning


async def test_twenty_switches_in_a_row_leave_one_process_and_no_task(autojump_clock: trio.testing.MockClock) -> None:
    async with world() as it:
        before = trio.lowlevel.current_statistics().tasks_living
        for turn in range(20):
            it.room = turn % 3 != 0
            strategy = (FOUR, EIGHT)[turn % 2]
            switched = await it.switcher.switch(strategy, reason=f"turn {turn}")
            assert (switched.done, it.keeper.snapshot().strategy) == (True, strategy.name)
        await trio.sleep(30)
        assert len(it.alive) == 1
        assert it.engine.at_once == 2
        assert len(it.engine.launches) == 21
        assert trio.lowlevel.current_statistics().tasks_living == before


async def test_a_lever_needs_no_restart_and_the_next_start_is_by_its_strategy(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with world() as it:
        it.liftable = lambda running, wanted: (running, wanted) == (DEFAULT, FOUR) or running == wanted
        switched = await it.switcher.switch(FOUR, reason="fewer are better")
        assert (switched.result, switched.how, switched.down_s, switched.took_s) == ("done", "live", 0, 0)
        now = it.keeper.snapshot()
        assert (now.strategy, now.reason, it.keeper.launched()) == ("seqs:4", "fewer are better", DEFAULT)
        assert len(it.engine.launches) == 1
        it.serving().die(code=1)
        await it.until(S.BACKOFF)
        assert (await it.until(S.READY)).reason == "fewer are better"
        assert it.keeper.launched() == FOUR
        switched = await it.switcher.switch(DEFAULT, reason="all")  # now that is a restart
        assert (switched.how, it.engine.launches[-1].strategy) == ("restart", DEFAULT)
        assert it.levers[-1] == (DEFAULT, DEFAULT)  # levers of the engine that was are taken back


async def test_a_lever_is_let_go_without_a_restart(autojump_clock: trio.testing.MockClock) -> None:
    async with world() as it:
        it.liftable = lambda running, wanted: running == DEFAULT and wanted in (FOUR, DEFAULT)
        await it.switcher.switch(FOUR, reason="fewer")
        switched = await it.switcher.back(DEFAULT, reason="they were not")
        assert (switched.how, switched.serving, len(it.engine.launches)) == ("live", DEFAULT, 1)
        assert it.keeper.snapshot().strategy == "default"


async def test_going_back_is_to_what_was_good_and_to_what_runs_already_costs_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with world() as it:
        await it.switcher.switch(FOUR, reason="better")
        await it.switcher.switch(EIGHT, reason="better still")
        first = await it.switcher.back(FOUR, reason="it was not")
        assert (first.result, first.serving, it.keeper.snapshot().reason) == ("done", FOUR, "it was not")
        assert (await it.switcher.back(DEFAULT, reason="nor was that")).serving == DEFAULT
        nothing = await it.switcher.back(DEFAULT, reason="nor that")
        assert (nothing.result, nothing.how, nothing.serving) == ("done", "live", DEFAULT)


@pytest.mark.parametrize("room", [False, True], ids=["restart", "start first"])
async def test_where_the_last_good_one_does_not_start_any_more_the_operator_s_plan_runs(
    room: bool, autojump_clock: trio.testing.MockClock
) -> None:
    async with world() as it:
        await it.switcher.switch(FOUR, reason="better")
        await it.switcher.switch(EIGHT, reason="better still")
        it.room = room
        it.engine.faults["seqs:4"] = FakeFault(dies_after=1, code=1, tail=("OSError: gone",))
        back = await it.switcher.back(FOUR, reason="it was not")
        assert (back.result, back.how, back.serving) == ("start_failed", "restart", DEFAULT)
        now = it.keeper.snapshot()
        assert now.state is S.READY
        assert now.reason.startswith("back on default: 'seqs:4' did not start: ")


async def test_a_strategy_that_keeps_crashing_is_counted_and_can_be_left_while_it_is_down(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with world() as it:
        it.serving().die(code=1)
        await it.until(S.BACKOFF)
        await it.until(S.READY)
        assert it.keeper.troubles() == 1
        await it.switcher.switch(FOUR, reason="better")
        assert it.keeper.troubles() == 0  # those were another's
        for count in (1, 2, 3):
            it.serving().die(signal=11)
            await it.until(S.BACKOFF)
            assert it.keeper.troubles() == count
            if count < 3:
                await it.until(S.READY)
        back = await it.switcher.back(DEFAULT, reason="it crashes")
        assert (back.result, back.how, it.keeper.snapshot().reason) == ("done", "restart", "it crashes")
        assert 16 <= back.took_s <= 18  # without waiting for the backoff
        it.serving().die(signal=11)
        await it.until(S.READY)
        await trio.sleep(601)
        assert it.keeper.troubles() == 0


async def test_the_patience_with_a_start_comes_from_the_starts_before(autojump_clock: trio.testing.MockClock) -> None:
    async with world(FakeEngine(load_time=50, faults={"seqs:4": FakeFault(load_time=1e9)})) as it:
        assert it.switcher.usual_start_s() == pytest.approx(50, abs=1)
        switched = await it.switcher.switch(FOUR, reason="better")
        assert switched.result == "timed_out"
        assert 250 <= switched.took_s <= 256  # four usual starts in vain, and one


async def test_answers_are_compared_only_where_they_must_agree(autojump_clock: trio.testing.MockClock) -> None:
    engine = FakeEngine(faults={"kv:fp8": FakeFault(says="hum"), "seqs:4": FakeFault(says="hum")})
    async with world(engine) as it:
        assert (await it.switcher.switch(ROUNDED, reason="less memory")).done
        await it.switcher.switch(DEFAULT, reason="more")
        assert (await it.switcher.switch(FOUR, reason="better")).result == "wrong_answers"
        engine.logprobs = False
        assert (await it.switcher.switch(FOUR, reason="better")).done  # nothing to compare with


async def test_an_engine_elsewhere_is_not_switched(autojump_clock: trio.testing.MockClock) -> None:
    async with world(base=LaunchPlan(model="", served_name="", strategy=EXTERNAL)) as it:
        switched = await it.switcher.switch(FOUR, reason="better")
        assert (switched.result, switched.serving, len(it.engine.launches)) == ("start_failed", EXTERNAL, 1)


async def test_a_second_switch_waits_for_the_first_and_for_the_one_that_leaves(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with world(room=True) as it, trio.open_nursery() as nursery:
        it.running[1] = 1
        results: list[Switched] = []
        await _in_background(nursery, partial(it.switcher.switch, FOUR, reason="one"), results)
        await _in_background(nursery, partial(it.switcher.switch, EIGHT, reason="two"), results)
        await trio.sleep(100)
        assert len(it.engine.launches) == 2
        it.running[1] = 0
        await trio.sleep(60)
        assert [each.done for each in results] == [True, True]
        assert it.engine.at_once == 2
        assert len(it.alive) == 1


async def test_a_restart_under_the_same_plan_keeps_the_strategy(autojump_clock: trio.testing.MockClock) -> None:
    async with world() as it:
        await it.switcher.switch(FOUR, reason="better")
        it.keeper.restart(reason="by hand")
        await it.until(S.STARTING)
        assert it.keeper.snapshot().returning
        assert (await it.until(S.READY)).strategy == "seqs:4"


async def test_a_restart_by_another_plan_takes_a_lent_engine_back(autojump_clock: trio.testing.MockClock) -> None:
    async with world() as it:

        async def borrow() -> None:
            async with it.keeper.lent(reason="lent", grace=0):
                it.keeper.restart(reason="another", plan=replace(BASE, strategy=EIGHT))
                await trio.sleep_forever()

        with pytest.raises(Unavailable, match="another"):
            await borrow()
        assert (await it.until(S.READY)).strategy == "seqs:8"
