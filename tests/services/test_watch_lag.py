"""The loop's lateness is seen, and told of the last minute alone."""

import time

import trio

from node.services.watch_lag import KEPT, LagWatch


async def test_a_loop_that_was_held_up_is_seen_to_have_been_late() -> None:
    noted: list[float] = []
    watch = LagWatch(noted.append, every=0.005)
    assert watch.facts() == {"p50": 0.0, "p99": 0.0, "max": 0.0}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch.run)
        await trio.sleep(0.02)
        time.sleep(0.1)  # noqa: ASYNC251 -- this is what it is to see
        await trio.sleep(0.02)
        nursery.cancel_scope.cancel()
    assert max(noted) >= 0.09
    assert watch.facts()["max"] == round(1000 * max(noted), 3)
    assert watch.facts()["p50"] <= watch.facts()["p99"] <= watch.facts()["max"]


async def test_what_is_remembered_is_bounded(autojump_clock: object) -> None:
    noted: list[float] = []
    watch = LagWatch(noted.append)
    with trio.move_on_after(KEPT * 0.05 * 2):
        await watch.run()
    assert len(noted) > KEPT
    assert watch.facts()["max"] < 1  # in virtual time the loop is never late
