"""Engines that another has taken over from: each finishes what it answers, and ends.

Knows how to count what runs at an endpoint; knows nothing of who serves now.
"""

from collections.abc import Callable

import structlog
import trio

from node.ports import Endpoint
from node.services.engine_hold import Held
from node.services.race import first

log = structlog.get_logger(__name__)

DRAIN_TICK = 0.05  # s between looks at what still runs


async def until_idle(running: Callable[[], int], deadline: Callable[[], float]) -> None:
    """Wait until nothing runs or the deadline (the loop's time, which may move) has come."""
    # The count is another service's, which owes us no event; a look costs nothing.
    while running() > 0 and trio.current_time() < deadline():  # noqa: ASYNC110
        await trio.sleep(DRAIN_TICK)


class Leaving:
    """The engines that are on their way out, usually none. Each is ended by a task of its own.

    Capabilities:
        in_flight: how many prompts the engine at an endpoint is working on.
        latest: the loop's time by which all must be gone, whatever they were promised.
        on_gone: told when one is gone; must not block.
    """

    def __init__(
        self,
        *,
        in_flight: Callable[[Endpoint], int],
        latest: Callable[[], float],
        stop_grace: float,
        on_gone: Callable[[], None],
    ) -> None:
        self._in_flight = in_flight
        self._latest = latest
        self._stop_grace = stop_grace
        self._on_gone = on_gone
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, nursery: trio.Nursery, held: Held, *, deadline: float) -> None:
        """Let an engine finish what it answers until `deadline` (the loop's time), and end it, in the nursery."""
        self._count += 1
        nursery.start_soon(self._end, held, deadline)

    async def _end(self, held: Held, deadline: float) -> None:
        def by() -> float:
            return min(deadline, self._latest())

        async def drained() -> None:
            await until_idle(lambda: self._in_flight(held.process.endpoint), by)

        async def died() -> None:
            await held.process.wait()

        try:
            await first(drained, died)
            grace = self._stop_grace if by() > trio.current_time() else 0.0
            log.info("engine.left", pid=held.process.pid, grace=grace)
            await held.process.stop(grace=grace)
        finally:
            try:
                await held.let_go()
            finally:
                self._count -= 1
                self._on_gone()
