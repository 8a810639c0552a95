"""The keeper of the engine, on an engine in memory and a virtual clock."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio
import trio.testing

from node.core.engine_state import STABLE_AFTER, EngineSnapshot, EngineState
from node.core.strategy import DEFAULT, EXTERNAL, Strategy
from node.errors import EngineUnavailable, Unavailable
from node.ports import Endpoint, LaunchPlan
from node.services.tend import DOWN_LIMIT, EngineKeeper, TendLimits
from tests.fakes.engine import FakeEngine, FakeLauncher, FakeUpstream

LIMITS = TendLimits()
PLAN = LaunchPlan(model="/models/m", served_name="m", strategy=DEFAULT)
S = EngineState


class World:
    """A keeper on fakes, and what it told."""

    def __init__(self, engine: FakeEngine, plan: LaunchPlan) -> None:
        self.engine = engine
        self.seen: list[EngineSnapshot] = []
        self.running = 0
        self.last_byte: float | None = None
        self.upstream = FakeUpstream(engine)
        self.keeper = EngineKeeper(
            launcher=FakeLauncher(engine),
            upstream=self.upstream,
            plan=plan,
            limits=LIMITS,
            in_flight=lambda _: self.running,
            last_activity=self.activity,
            luck=lambda: 1.0,
            on_change=self.seen.append,
        )

    def activity(self, endpoint: Endpoint) -> float | None:
        del endpoint
        return self.last_byte

    def states(self) -> list[EngineState]:
        """The states in the order in which they were entered."""
        told = [snapshot.state for snapshot in self.seen]
        return [state for index, state in enumerate(told) if index == 0 or told[index - 1] is not state]

    async def until(self, state: EngineState) -> EngineSnapshot:
        snapshot = self.keeper.snapshot()
        while snapshot.state is not state:
            snapshot = await self.keeper.changed(snapshot)
        return snapshot


@asynccontextmanager
async def world(engine: FakeEngine, plan: LaunchPlan = PLAN) -> AsyncIterator[World]:
    made = World(engine, plan)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.keeper.run)
        yield made
        nursery.cancel_scope.cancel()
    assert not any(process.alive for process in engine.processes)


async def test_it_goes_from_preparing_over_starting_to_ready(autojump_clock: trio.testing.MockClock) -> None:
    async with world(FakeEngine(prepare_steps=("unpacking",))) as it:
        ready = await it.until(S.READY)
        assert it.states() == [S.PREPARING, S.STARTING, S.READY]
        assert ready.pid == 1001
        assert 16 <= trio.current_time() <= 17
        assert "unpacking" in [snapshot.progress for snapshot in it.seen]


async def test_the_endpoint_is_told_only_while_it_serves(autojump_clock: trio.testing.MockClock) -> None:
    async with world(FakeEngine(stop_time=1)) as it:
        for state in (S.PREPARING, S.STARTING):
            await it.until(state)
            assert it.keeper.endpoint() is None
        await it.until(S.READY)
        assert it.keeper.endpoint() == it.engine.processes[0].endpoint
        it.engine.processes[0].die(code=1)
        await it.until(S.BACKOFF)
        assert it.keeper.endpoint() is None


async def test_delays_grow_while_it_keeps_dying_and_a_stable_time_resets_them(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with world(FakeEngine()) as it:
        waits: list[float] = []
        for life in range(6):
            await it.until(S.READY)
            if life == 4:
                await trio.sleep(STABLE_AFTER)
            it.engine.processes[-1].die(signal=11)
            backoff = await it.until(S.BACKOFF)
            assert backoff.retry_at is not None
            waits.append(backoff.retry_at - backoff.since)
        assert waits == [1, 2, 4, 8, 1, 2]
        assert "SIGSEGV" in it.keeper.snapshot().reason
        assert it.keeper.snapshot().restarts == 6


async def test_a_permanent_refusal_fails_until_somebody_starts_it_again(autojump_clock: trio.testing.MockClock) -> None:
    engine = FakeEngine(refusal=EngineUnavailable("no vLLM here", remedy="Install it.", permanent=True))
    async with world(engine) as it:
        failed = await it.until(S.FAILED)
        assert failed.reason == "no vLLM here Install it."
        await trio.sleep(3600)
        assert it.keeper.snapshot() == failed
        engine.refusal = None
        it.keeper.start(reason="installed it")
        assert (await it.until(S.READY)).restarts == 1


async def test_a_passing_refusal_is_tried_again(autojump_clock: trio.testing.MockClock) -> None:
    engine = FakeEngine(refusal=EngineUnavailable("the disk is full"))
    async with world(engine) as it:
        assert (await it.until(S.BACKOFF)).reason == "the disk is full"
        engine.refusal = None
        await it.until(S.READY)


async def test_a_start_that_takes_too_long_is_given_up(autojump_clock: trio.testing.MockClock) -> None:
    async with world(FakeEngine(load_time=10_000)) as it:
        backoff = await it.until(S.BACKOFF)
        assert backoff.reason.startswith("the engine did not become ready: /health: connection refused, after 600 s")
        assert trio.current_time() >= LIMITS.start_timeout
        assert backoff.log_tail == ("log of 1",)


async def test_health_alone_is_not_enough_to_be_ready(autojump_clock: trio.testing.MockClock) -> None:
    engine = FakeEngine(token=500)
    async with world(engine) as it:
        await trio.sleep(60)
        assert it.keeper.snapshot().state is S.STARTING
        engine.token = 200
        await it.until(S.READY)


async def test_silence_is_a_hang_only_when_no_bytes_flow_either(autojump_clock: trio.testing.MockClock) -> None:
    engine = FakeEngine()
    async with world(engine) as it:
        await it.until(S.READY)
        engine.silent = True
        begin = trio.current_time()
        for _ in range(60):  # a stream that goes on while /health is blocked
            await trio.sleep(5)
            it.last_byte = trio.current_time()
        assert it.keeper.snapshot().state is S.READY
        backoff = await it.until(S.BACKOFF)
        assert "hangs" in backoff.reason
        assert 300 + LIMITS.hang_after <= trio.current_time() - begin <= 300 + LIMITS.hang_after + 20


async def test_one_bad_answer_about_health_is_forgiven_and_several_are_not(
    autojump_clock: trio.testing.MockClock,
) -> None:
    engine = FakeEngine()
    async with world(engine) as it:
        await it.until(S.READY)
        engine.health = 503
        await trio.sleep(LIMITS.health_every * (DOWN_LIMIT - 0.5))
        engine.health = 200
        await trio.sleep(60)
        assert it.keeper.snapshot().state is S.READY
        engine.health = 503
        assert (await it.until(S.BACKOFF)).reason == "the engine is broken: /health answers 503"


async def test_a_stop_drains_first_and_then_ends_it(autojump_clock: trio.testing.MockClock) -> None:
    async with world(FakeEngine(stop_time=3)) as it, trio.open_nursery() as nursery:
        await it.until(S.READY)
        it.running = 2
        nursery.start_soon(lambda: it.keeper.stop(reason="bye", grace=30))
        await it.until(S.DRAINING)
        assert it.keeper.endpoint() is not None
        await trio.sleep(10)
        assert it.keeper.snapshot().state is S.DRAINING
        it.running = 0
        await it.until(S.STOPPED)
        assert it.engine.processes[0].graces[0] == LIMITS.stop_grace
        assert it.states()[-3:] == [S.DRAINING, S.STOPPING, S.STOPPED]


async def test_a_drain_that_takes_too_long_is_cut_off(autojump_clock: trio.testing.MockClock) -> None:
    async with world(FakeEngine()) as it:
        await it.until(S.READY)
        it.running = 1
        begin = trio.current_time()
        await it.keeper.stop(reason="bye", grace=30)
        assert 30 <= trio.current_time() - begin < 31


async def test_a_second_stop_without_patience_ends_it_at_once_even_while_stopping(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with world(FakeEngine(stop_time=1000)) as it, trio.open_nursery() as nursery:
        await it.until(S.READY)
        nursery.start_soon(lambda: it.keeper.stop(reason="bye", grace=30))
        await it.until(S.STOPPING)
        begin = trio.current_time()
        await it.keeper.stop(reason="now")
        assert trio.current_time() == begin
        assert set(it.engine.processes[0].graces) == {LIMITS.stop_grace, 0.0}  # in whichever order they got their turn


async def test_a_stop_while_preparing_or_waiting_ends_that(autojump_clock: trio.testing.MockClock) -> None:
    engine = FakeEngine(prepare_steps=("a", "b"), prepare_time=1000)
    async with world(engine) as it:
        await it.until(S.PREPARING)
        await it.keeper.stop(reason="bye")
        assert trio.current_time() == 0
        assert engine.launches == []
        engine.prepare_steps, engine.refusal = (), EngineUnavailable("not now")
        it.keeper.start(reason="again")
        await it.until(S.BACKOFF)
        await it.keeper.stop(reason="bye")
        await trio.sleep(3600)
        assert it.keeper.snapshot().state is S.STOPPED


async def test_a_restart_takes_another_plan_and_loses_nothing_that_runs(autojump_clock: trio.testing.MockClock) -> None:
    async with world(FakeEngine()) as it:
        await it.until(S.READY)
        it.running = 1
        it.keeper.restart(reason="a better strategy", plan=replace(PLAN, strategy=Strategy(max_num_seqs=8)), grace=60)
        await it.until(S.DRAINING)
        await trio.sleep(20)
        it.running = 0
        await it.until(S.STARTING)
        ready = await it.until(S.READY)
        assert (ready.strategy, ready.restarts) == ("seqs:8", 0)
        assert [plan.strategy.name for plan in it.engine.launches] == ["default", "seqs:8"]


async def test_starting_what_runs_changes_nothing_and_ends_a_wait(autojump_clock: trio.testing.MockClock) -> None:
    async with world(FakeEngine()) as it:
        await it.until(S.READY)
        it.keeper.start(reason="again")
        await trio.sleep(100)
        assert len(it.engine.launches) == 1
        for _ in range(6):
            it.engine.processes[-1].die(code=1)
            await it.until(S.BACKOFF)
            begin = trio.current_time()
            it.keeper.start(reason="do not wait")
            await it.until(S.PREPARING)
            assert trio.current_time() == begin
            await it.until(S.READY)


async def test_a_death_while_draining_is_no_restart(autojump_clock: trio.testing.MockClock) -> None:
    async with world(FakeEngine()) as it, trio.open_nursery() as nursery:
        await it.until(S.READY)
        it.running = 1
        nursery.start_soon(lambda: it.keeper.stop(reason="bye", grace=30))
        await it.until(S.DRAINING)
        it.engine.processes[0].die(signal=9)
        assert (await it.until(S.STOPPED)).restarts == 0


async def test_an_external_server_is_known_by_the_name_that_it_lists(autojump_clock: trio.testing.MockClock) -> None:
    plan = LaunchPlan(model="", served_name="", strategy=EXTERNAL)
    async with world(FakeEngine(names=("big", "small")), plan) as it:
        ready = await it.until(S.READY)
        assert (ready.model, ready.strategy) == ("big", "external")
        assert [model.name for model in it.keeper.models()] == ["big", "small"]


async def test_a_server_without_the_wanted_model_is_not_ready(autojump_clock: trio.testing.MockClock) -> None:
    async with world(FakeEngine(names=("other",))) as it:
        assert "it serves other, not m" in (await it.until(S.BACKOFF)).reason


async def test_every_snapshot_is_told_once_and_in_order(autojump_clock: trio.testing.MockClock) -> None:
    async with world(FakeEngine()) as it:
        await it.until(S.READY)
        it.engine.processes[0].die(code=3)
        await it.until(S.READY)
        await it.keeper.stop(reason="bye")
        assert all(one != other for one, other in zip(it.seen, it.seen[1:], strict=False))
        assert [snapshot.since for snapshot in it.seen] == sorted(snapshot.since for snapshot in it.seen)
        assert it.seen[-1] == it.keeper.snapshot()


async def test_a_lent_engine_finishes_what_runs_stays_away_and_is_back_afterwards(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with world(FakeEngine(stop_time=1)) as it:
        await it.until(S.READY)
        it.running = 1

        async def answered() -> None:
            await trio.sleep(10)
            assert it.keeper.snapshot().state is S.DRAINING
            it.running = 0

        async with trio.open_nursery() as nursery:
            nursery.start_soon(answered)
            async with it.keeper.lent(reason="lent to trials", grace=30):
                await trio.sleep(300)
                away = it.keeper.snapshot()
                assert (away.state, away.reason) == (S.STOPPED, "lent to trials")
                assert not it.engine.processes[0].alive
                with pytest.raises(Unavailable, match="lent to trials"):
                    async with it.keeper.lent(reason="too", grace=0):
                        pass
        assert (await it.until(S.READY)).restarts == 0


async def test_whatever_happens_to_the_borrower_the_engine_comes_back(autojump_clock: trio.testing.MockClock) -> None:
    async with world(FakeEngine()) as it:
        await it.until(S.READY)
        with pytest.raises(ZeroDivisionError):
            async with it.keeper.lent(reason="lent", grace=0):
                raise ZeroDivisionError
        await it.until(S.READY)
        with trio.move_on_after(50) as patience:
            async with it.keeper.lent(reason="lent", grace=0):
                await trio.sleep_forever()
        assert patience.cancelled_caught
        await it.until(S.READY)
        it.running = 1
        with trio.move_on_after(5):  # given up while it drains: what runs is not cut off for that
            async with it.keeper.lent(reason="lent", grace=60):
                raise AssertionError("lent while it answers")
        await trio.sleep(20)
        assert it.keeper.snapshot().state is S.DRAINING
        it.running = 0
        await it.until(S.READY)
        it.engine.refusal = EngineUnavailable("the disk is full")
        async with it.keeper.lent(reason="lent", grace=0):
            pass
        assert (await it.until(S.BACKOFF)).reason == "the disk is full"  # tended as ever
        it.engine.refusal = None
        await it.until(S.READY)


async def test_a_stop_of_the_node_takes_a_lent_engine_back_and_does_not_start_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with world(FakeEngine()) as it, trio.open_nursery() as nursery:
        await it.until(S.READY)

        async def borrow() -> None:
            async with it.keeper.lent(reason="lent", grace=0):
                nursery.start_soon(lambda: it.keeper.stop(reason="bye", grace=30))
                await trio.sleep_forever()

        with pytest.raises(Unavailable, match="taken back: bye"):
            await borrow()
        await trio.sleep(3600)
        assert it.keeper.snapshot().state is S.STOPPED
        with pytest.raises(Unavailable, match="not to be had: bye"):
            async with it.keeper.lent(reason="lent", grace=0):
                pass
        assert len(it.engine.launches) == 1


async def test_a_restart_waits_until_the_borrower_is_gone(autojump_clock: trio.testing.MockClock) -> None:
    async with world(FakeEngine()) as it:
        await it.until(S.READY)

        async def borrow() -> None:
            async with it.keeper.lent(reason="lent", grace=0):
                it.keeper.restart(reason="a better strategy", plan=replace(PLAN, strategy=Strategy(max_num_seqs=8)))
                try:
                    await trio.sleep_forever()
                finally:
                    with trio.CancelScope(shield=True):
                        await trio.sleep(5)  # it ends what it runs on the machine
                        assert len(it.engine.launches) == 1

        with pytest.raises(Unavailable, match="taken back: a better strategy"):
            await borrow()
        assert (await it.until(S.READY)).strategy == "seqs:8"
