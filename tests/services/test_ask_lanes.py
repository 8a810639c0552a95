"""So many prompts go to one peer at once, and the others have their turn in the order in which they came."""

from math import inf

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from node.services.ask_lanes import Lanes
from tests.fakes.stranger import id_of, key_of

ONE, OTHER = id_of(key_of("one")), id_of(key_of("other"))


async def test_who_finds_no_place_waits_in_line_and_another_peers_line_is_another(autojump_clock: MockClock) -> None:
    lanes, entered = Lanes(2), []

    async def come(number: int) -> None:
        await lanes.enter(ONE, until=inf)
        entered.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(come, number)
            await wait_all_tasks_blocked()
        assert entered == [0, 1]
        assert lanes.waiting(ONE) == 3
        await lanes.enter(OTHER, until=inf)
        for left in (2, 3, 4):
            lanes.leave(ONE)
            await wait_all_tasks_blocked()
            assert entered[-1] == left
    assert lanes.waiting(ONE) == 0
    lanes.leave(ONE)
    lanes.leave(ONE)
    await lanes.enter(ONE, until=inf)


async def test_who_gives_up_waiting_takes_no_place(autojump_clock: MockClock) -> None:
    lanes = Lanes(1)
    await lanes.enter(ONE, until=inf)
    with pytest.raises(trio.TooSlowError):
        await lanes.enter(ONE, until=trio.current_time() + 3)
    with trio.move_on_after(1) as scope:
        await lanes.enter(ONE, until=inf)
    assert scope.cancelled_caught
    assert lanes.waiting(ONE) == 0
    lanes.leave(ONE)
    with trio.fail_after(0):
        await lanes.enter(ONE, until=inf)


async def test_a_place_that_is_given_to_one_who_leaves_in_the_same_moment_goes_to_the_next(
    autojump_clock: MockClock,
) -> None:
    lanes, entered = Lanes(1), []
    await lanes.enter(ONE, until=inf)
    scope = trio.CancelScope()

    async def come(number: int) -> None:
        with scope if number == 1 else trio.CancelScope():
            await lanes.enter(ONE, until=inf)
            entered.append(number)

    async with trio.open_nursery() as nursery:
        for number in (1, 2):
            nursery.start_soon(come, number)
            await wait_all_tasks_blocked()
        scope.cancel()
        lanes.leave(ONE)
        await wait_all_tasks_blocked()
    assert entered == [2]
