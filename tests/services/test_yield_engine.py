"""Giving way to the owner: pauses, hours, devices, and that nobody keeps the engine against the owner's wish."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from node.core.day_hours import parse_span
from node.core.engine_state import EngineState
from node.core.operator_limits import DWELL, LOOK, PAUSED, Limits, OperatorLimits, Pause, Readings
from node.errors import Unavailable
from node.services.yield_engine import READING, EngineYielding
from tests.fakes.yielding import FakeDevices, FakePauseFile, FakeYieldingEngine

NOON = 43_200.0
GRACE = 30.0


class Owner:
    """One node's giving way, with everything about it."""

    def __init__(self, limits: Limits, *, paused: Pause | None = None, engine: bool = True, took: float = 0.0) -> None:
        self.engine = FakeYieldingEngine()
        self.devices = FakeDevices(takes=took)
        self.file = FakePauseFile(kept=paused)
        self.caps: list[int | None] = []
        self.told: list[Mapping[str, Any]] = []
        self.began = trio.current_time()
        self.yielding = EngineYielding(
            engine=self.engine if engine else None,
            limits=OperatorLimits(limits, slots=32, wall_minute=lambda instant: int(instant // 60) % 1440),
            read=self.devices.read,
            running=lambda: self.engine.running,
            cap=self.caps.append,
            keep=self.file.keep,
            wall=self.wall,
            tell=lambda event, facts: self.told.append({"event": event, **facts}),
            grace=GRACE,
            paused=paused,
        )

    def wall(self) -> float:
        return NOON + trio.current_time() - self.began

    @property
    def state(self) -> EngineState:
        return self.engine.snapshot().state

    @property
    def facts(self) -> dict[str, Any]:
        return self.yielding.facts()


@asynccontextmanager
async def owning(limits: Limits | None = None, *, took: float = 0.0) -> AsyncIterator[Owner]:
    owner = Owner(limits or Limits(), took=took)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(owner.yielding.run)
        await trio.sleep(LOOK / 2)
        yield owner
        nursery.cancel_scope.cancel()


async def test_without_limits_and_wishes_nothing_happens(autojump_clock: MockClock) -> None:
    async with owning() as owner:
        await trio.sleep(86_400.0)
        assert (owner.state, owner.told, owner.caps, owner.devices.asked) == (EngineState.READY, [], [], 0)
        assert not owner.yielding.yielded()


async def test_a_pause_lets_what_runs_finish_and_then_the_device_is_free(autojump_clock: MockClock) -> None:
    async with owning() as owner:
        owner.engine.running = 1
        told = await owner.yielding.pause(for_s=None, now=False)
        assert (told["state"], told["until"]) == ("paused", None)
        assert owner.yielding.yielded()
        await trio.sleep(5.0)
        assert owner.state is EngineState.DRAINING
        owner.engine.running = 0
        await trio.sleep(1.0)
        assert (owner.state, owner.engine.cut) == (EngineState.STOPPED, 0)
        assert owner.engine.snapshot().reason == PAUSED
        await trio.sleep(86_400.0)
        assert owner.state is EngineState.STOPPED
        await owner.yielding.resume()
        await trio.sleep(1.0)
        assert owner.state is EngineState.READY
        assert owner.file.kept is None


async def test_a_pause_now_cuts_off_what_runs_even_after_a_gentle_one(autojump_clock: MockClock) -> None:
    async with owning() as owner:
        owner.engine.running = 2
        await owner.yielding.pause(for_s=None, now=False)
        await trio.sleep(2.0)
        await owner.yielding.pause(for_s=None, now=True)
        await trio.sleep(0.5)
        assert (owner.state, owner.engine.cut) == (EngineState.STOPPED, 2)


async def test_a_pause_for_a_time_ends_by_itself_and_is_forgotten(autojump_clock: MockClock) -> None:
    async with owning() as owner:
        told = await owner.yielding.pause(for_s=600.0, now=False)
        assert told["until"] == "1970-01-01T12:10:02+00:00"
        assert owner.file.kept is not None
        await trio.sleep(599.0)
        assert owner.state is EngineState.STOPPED
        await trio.sleep(2.0)
        assert owner.state is EngineState.READY
        assert owner.file.kept is None
        assert owner.facts["yields"] == 1
        assert 600.0 <= owner.facts["yielded_s"] <= 601.0


async def test_a_pause_holds_over_a_restart_and_the_engine_is_not_even_started(autojump_clock: MockClock) -> None:
    owner = Owner(Limits(), paused=Pause(since=NOON - 60.0, until=NOON + 60.0))
    owner.engine.become(EngineState.STOPPED)
    await owner.yielding.begin()
    assert not owner.engine.wanted
    async with trio.open_nursery() as nursery:
        nursery.start_soon(owner.yielding.run)
        await trio.sleep(59.0)
        assert (owner.state, owner.facts["state"]) == (EngineState.STOPPED, "paused")
        await trio.sleep(2.0)
        assert owner.engine.started == ["its owner allows it again"]
        nursery.cancel_scope.cancel()


async def test_a_pause_that_ran_out_while_the_node_was_away_is_none(autojump_clock: MockClock) -> None:
    owner = Owner(Limits(), paused=Pause(since=NOON - 60.0, until=NOON - 1.0))
    await owner.yielding.begin()
    assert owner.state is EngineState.READY
    async with trio.open_nursery() as nursery:
        nursery.start_soon(owner.yielding.run)
        await trio.sleep(1.0)
        assert (owner.file.kept, owner.engine.started) == (None, [])
        nursery.cancel_scope.cancel()


async def test_who_starts_the_engine_while_it_is_paused_sees_it_stopped_at_once(autojump_clock: MockClock) -> None:
    async with owning() as owner:
        await owner.yielding.pause(for_s=None, now=False)
        await trio.sleep(1.0)
        owner.engine.start(reason="asked for over the control socket")
        await trio.sleep(0.5)
        assert owner.state is EngineState.STOPPED


async def test_outside_its_hours_the_engine_is_away(autojump_clock: MockClock) -> None:
    async with owning(Limits(hours=(parse_span("11:00-12:10"), parse_span("13:00-14:00")))) as owner:
        await trio.sleep(600.0)
        assert (owner.state, owner.facts["why"]) == (EngineState.STOPPED, "hours")
        assert owner.facts["until"] == "1970-01-01T13:00:00+00:00"
        await trio.sleep(3000.0)
        assert owner.state is EngineState.READY


async def test_resuming_outside_the_hours_does_not_start_it(autojump_clock: MockClock) -> None:
    async with owning(Limits(hours=(parse_span("22:00-07:00"),))) as owner:
        await owner.yielding.pause(for_s=None, now=False)
        told = await owner.yielding.resume()
        assert (told["state"], told["why"]) == ("yielded", "hours")
        await trio.sleep(60.0)
        assert owner.state is EngineState.STOPPED


async def test_power_lowers_the_cap_and_lifts_it_again_in_steps(autojump_clock: MockClock) -> None:
    async with owning(Limits(watts=200.0)) as owner:
        owner.engine.running = 8
        owner.devices.says = Readings(watts=300.0)
        await trio.sleep(LOOK)
        assert (owner.caps, owner.facts["state"], owner.facts["cap"]) == ([4], "slower", 4)
        owner.devices.says = Readings(watts=100.0)
        await trio.sleep(DWELL * 20)
        assert owner.caps[-1] is None
        assert [cap for cap in owner.caps if cap] == sorted(cap for cap in owner.caps if cap)
        assert owner.state is EngineState.READY


async def test_a_game_gets_the_device_and_the_engine_comes_back_after_it(autojump_clock: MockClock) -> None:
    async with owning(Limits(others_bytes=1 << 30)) as owner:
        owner.devices.says = Readings(others_bytes=8 << 30)
        await trio.sleep(LOOK)
        assert owner.state is EngineState.STOPPED
        owner.devices.says = Readings(others_bytes=0)
        await trio.sleep(DWELL + 2 * LOOK)
        assert owner.state is EngineState.READY


async def test_a_driver_that_does_not_answer_stops_nothing_and_is_told_of(autojump_clock: MockClock) -> None:
    async with owning(Limits(temperature_c=50.0), took=READING * 10) as owner:
        await trio.sleep(10 * LOOK)
        assert owner.state is EngineState.READY
        assert owner.facts["blind"] == ["temperature_c"]
        assert owner.devices.asked > 2


async def test_a_node_that_ends_starts_nothing_any_more(autojump_clock: MockClock) -> None:
    async with owning() as owner:
        await owner.yielding.pause(for_s=10.0, now=False)
        await trio.sleep(5.0)
        owner.yielding.end()
        await trio.sleep(60.0)
        assert owner.engine.started == []


async def test_each_change_is_told_once(autojump_clock: MockClock) -> None:
    async with owning() as owner:
        await owner.yielding.pause(for_s=None, now=False)
        await trio.sleep(600.0)
        await owner.yielding.resume()
        await trio.sleep(600.0)
        assert [(told["event"], told["state"], told["why"]) for told in owner.told] == [
            ("owner", "paused", "pause"),
            ("owner", "running", ""),
        ]


async def test_a_node_without_an_engine_has_nothing_to_pause(autojump_clock: MockClock) -> None:
    owner = Owner(Limits(), engine=False)
    await owner.yielding.begin()
    await owner.yielding.run()
    with pytest.raises(Unavailable, match="no engine"):
        await owner.yielding.pause(for_s=None, now=True)
    with pytest.raises(Unavailable, match="no engine"):
        await owner.yielding.resume()
