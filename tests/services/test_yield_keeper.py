"""Giving way with the real keeper: what is paused neither starts nor stays, whoever wants it otherwise."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from node.core.engine_state import LENT, EngineState
from node.core.operator_limits import PAUSED, Limits, OperatorLimits, Pause
from node.core.strategy import DEFAULT
from node.errors import Unavailable
from node.ports import LaunchPlan
from node.services.tend import EngineKeeper, TendLimits
from node.services.yield_engine import EngineYielding
from tests.fakes.engine import FakeEngine, FakeLauncher, FakeUpstream
from tests.fakes.yielding import FakePauseFile

S = EngineState
LOADS = 60.0  # s that are more than the fake engine takes to start


class Machine:
    """A keeper on fakes, and what makes it give way."""

    def __init__(self, paused: Pause | None) -> None:
        self.engine = FakeEngine()
        self.running = 0
        self.keeper = EngineKeeper(
            launcher=FakeLauncher(self.engine),
            upstream=FakeUpstream(self.engine),
            plan=LaunchPlan(model="/models/m", served_name="m", strategy=DEFAULT),
            limits=TendLimits(),
            in_flight=lambda _: self.running,
            last_activity=lambda _: trio.current_time(),
            luck=lambda: 1.0,
            on_change=lambda _: None,
        )
        self.yielding = EngineYielding(
            engine=self.keeper,
            limits=OperatorLimits(Limits(), slots=8, wall_minute=lambda _: 0),
            read=None,
            running=lambda: self.running,
            cap=lambda _: None,
            keep=FakePauseFile().keep,
            wall=trio.current_time,
            tell=lambda _event, _facts: None,
            grace=30.0,
            paused=paused,
        )

    @property
    def state(self) -> EngineState:
        return self.keeper.snapshot().state

    @property
    def alive(self) -> int:
        return sum(process.alive for process in self.engine.processes)


@asynccontextmanager
async def machine(paused: Pause | None = None) -> AsyncIterator[Machine]:
    made = Machine(paused)
    async with trio.open_nursery() as nursery:
        with trio.fail_after(1.0):
            await made.yielding.begin()
        nursery.start_soon(made.yielding.run)
        nursery.start_soon(made.keeper.run)
        await trio.sleep(LOADS)
        yield made
        nursery.cancel_scope.cancel()


async def test_a_paused_node_starts_no_engine_until_it_is_resumed(autojump_clock: MockClock) -> None:
    async with machine(Pause(since=0.0)) as it:
        assert (it.state, it.engine.processes) == (S.STOPPED, [])
        await it.yielding.resume()
        await trio.sleep(LOADS)
        assert (it.state, it.alive) == (S.READY, 1)


async def test_a_pause_waits_for_what_runs_and_no_longer_than_its_grace(autojump_clock: MockClock) -> None:
    async with machine() as it:
        it.running = 1
        await it.yielding.pause(for_s=None, now=False)
        await trio.sleep(29.0)
        assert it.state is S.DRAINING
        await trio.sleep(20.0)
        assert (it.state, it.alive) == (S.STOPPED, 0)
        assert it.keeper.snapshot().reason == PAUSED
        assert not it.keeper.snapshot().returning  # nobody is to wait here for it


async def test_at_once_the_device_is_free_within_a_second(autojump_clock: MockClock) -> None:
    async with machine() as it:
        it.running = 4
        await it.yielding.pause(for_s=None, now=True)
        await trio.sleep(1.0)
        assert (it.state, it.alive) == (S.STOPPED, 0)


@pytest.mark.parametrize("after", [0.0, 1.0, 10.0])
async def test_a_pause_in_the_middle_of_a_start_ends_that_start(autojump_clock: MockClock, after: float) -> None:
    async with machine() as it:
        it.keeper.restart(reason="another plan")
        await trio.sleep(after)
        await it.yielding.pause(for_s=None, now=True)
        await trio.sleep(LOADS)
        assert (it.state, it.alive) == (S.STOPPED, 0)


async def test_a_restart_by_command_does_not_end_a_pause(autojump_clock: MockClock) -> None:
    async with machine() as it:
        await it.yielding.pause(for_s=None, now=False)
        await trio.sleep(LOADS)
        it.keeper.restart(reason="asked for over the control socket")
        await trio.sleep(LOADS)
        assert (it.state, it.alive) == (S.STOPPED, 0)


async def test_trials_give_the_engine_back_and_cannot_have_it_while_it_is_paused(autojump_clock: MockClock) -> None:
    async with machine() as it:
        ended: list[str] = []

        async def trials() -> None:
            try:
                async with it.keeper.lent(reason=LENT, grace=0.0):
                    await trio.sleep_forever()
            except Unavailable as error:
                ended.append(error.message)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(trials)
            await trio.sleep(5.0)
            await it.yielding.pause(for_s=None, now=False)
            await trio.sleep(LOADS)
            assert len(ended) == 1
            assert (it.state, it.alive) == (S.STOPPED, 0)
            await trials()
            assert PAUSED in ended[1]
