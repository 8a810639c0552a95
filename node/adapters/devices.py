"""Devices read beside a running node, in a thread of their own: a driver may take a second, or hang.

Knows no driver: what asks it is handed in.
"""

from collections.abc import Callable

import trio

from node.core.operator_limits import Readings


class DeviceReader:
    """Asks again and again, once at a time."""

    def __init__(self, ask: Callable[[], Readings]) -> None:
        """`ask` blocks, and is called in a thread."""
        self._ask = ask
        self._one = trio.CapacityLimiter(1)  # a driver that hangs holds one thread, and not one for each question

    async def read(self) -> Readings:
        """Ask once. Cancelled, it leaves at once; the next then waits until the driver has answered this one."""
        return await trio.to_thread.run_sync(self._ask, limiter=self._one, abandon_on_cancel=True)
