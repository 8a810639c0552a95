"""Several jobs at once, until the first is done. Knows nothing of what they are."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

T = TypeVar("T")


async def first(*jobs: Callable[[], Awaitable[T]]) -> T:
    """Run all jobs; return what the first to end returned, the others cancelled. They must not raise."""
    results: list[T] = []

    async def race(job: Callable[[], Awaitable[T]]) -> None:
        results.append(await job())
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for job in jobs:
            nursery.start_soon(race, job)
    return results[0]
