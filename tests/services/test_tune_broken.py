"""The tuner beside an engine that does not come up, and a verification that nobody helps to an end."""

from collections.abc import Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from node.core.engine_state import EngineState
from node.core.strategy import DEFAULT
from node.core.tuning_ledger import Ledger
from tests.fakes.tuner_world import GOOD, KEY, LIAR, FakeFile, World


def play(make: Callable[[], World], seconds: float, script: Callable[[World], None] | None = None) -> World:
    made: list[World] = []

    async def main() -> None:
        made.append(make())
        await made[0].run(seconds, script)

    trio.run(main, clock=MockClock(autojump_threshold=0))
    return made[0]


def broken(state: EngineState, troubles: int) -> Callable[[], World]:
    """Return a node whose last good strategy does not come up any more."""

    def make() -> World:
        here = World(file=FakeFile(Ledger(key=KEY, good=GOOD, present=LIAR)))
        assert here.strategy() == GOOD
        here._state, here.crashes = state, troubles
        return here

    return make


def run_broken(make: Callable[[], World], seconds: float, script: Callable[[World], Any]) -> World:
    made: list[World] = []

    async def main() -> None:
        here = make()
        made.append(here)
        script(here)
        with trio.move_on_after(seconds):
            await here.tuner.run()

    trio.run(main, clock=MockClock(autojump_threshold=0))
    return made[0]


@pytest.mark.parametrize(("state", "troubles"), [(EngineState.BACKOFF, 3), (EngineState.FAILED, 1)])
def test_what_was_good_and_does_not_start_any_more_is_left_for_the_default(state: EngineState, troubles: int) -> None:
    end = run_broken(broken(state, troubles), 120, lambda _: None)
    assert end.switches == [DEFAULT]
    facts = end.tuner.facts()
    assert [ban["strategy"] for ban in facts["banned"]] == [GOOD.name]
    assert end.published == [(GOOD, "crashed")]


def test_one_crash_is_an_accident() -> None:
    assert run_broken(broken(EngineState.BACKOFF, 1), 120, lambda _: None).switches == []


def test_its_owner_s_wish_is_done_though_the_engine_does_not_come_up() -> None:
    end = run_broken(broken(EngineState.BACKOFF, 1), 120, lambda here: here.tuner.fix(DEFAULT))
    assert end.switches == [DEFAULT]
    assert end.tuner.facts()["mode"] == "fixed"


def test_a_last_good_strategy_that_does_not_come_up_when_it_is_gone_back_to_gives_way_to_the_default() -> None:
    def make() -> World:
        here = World(file=FakeFile(Ledger(key=KEY, good=GOOD)))
        here.results = {GOOD: "start_failed"}
        here.adviser.gains, here.adviser.measured = {LIAR: 0.5}, {LIAR: 3}
        here.slow, here.rate = {LIAR: 3.0}, 0.5
        return here

    end = play(make, 1800)
    assert end.switches[:3] == [LIAR, GOOD, DEFAULT]
    assert end.tuner.facts()["strategy"] == "default"


@pytest.mark.parametrize(("hours", "phase"), [(0.5, "verifying"), (1.5, "steady")])
def test_a_verification_ends_without_a_verdict_where_nobody_asks_any_more(hours: float, phase: str) -> None:
    def make() -> World:
        here = World()
        here.adviser.gains, here.start_first = {GOOD: 0.3}, True
        return here

    end = play(make, hours * 3600)
    assert end.switches == [GOOD]
    assert end.tuner.facts()["phase"] == phase
    assert end.tuner.engaged() == (phase == "verifying")
    assert end.tuner.facts()["last_good"] == "default"


def test_a_wish_that_gets_no_turn_is_tried_again_each_minute_and_no_oftener() -> None:
    def make() -> World:
        here = World()
        here.no_turn, here.adviser.silent = "nobody knows whose turn it is", "nothing was learnt"
        return here

    end = play(make, 600, lambda here: here.tuner.fix(GOOD))
    tries = [step for step in end.steps if step == "fix"]
    assert 8 <= len(tries) <= 11
    assert end.switches == []


@pytest.mark.parametrize(("rate", "rehearsed"), [(0.0, True), (0.5, False)])
def test_before_people_s_eyes_it_rehearses_only_where_there_is_nothing_else_to_compare_with(
    rate: float, rehearsed: bool
) -> None:
    def make() -> World:
        here = World(rehearsing=True)
        here.adviser.measured, here.slow, here.start_first, here.rate = {GOOD: 3}, {GOOD: 0.7}, True, rate
        return here

    def learns_late(here: World) -> None:
        def comes(world: World) -> None:
            world.asked += 1  # somebody came just now
            world.adviser.gains = {GOOD: 0.3}
            world.adviser.teach()

        here.at(300.0, comes)

    end = play(make, 380, learns_late)
    assert end.switches == [GOOD]
    assert (end.rehearsals > 0) is rehearsed
