"""Deadlines of many waits, kept by one task that looks twice a second.

Knows no socket. A timer for each wait costs more than the wait itself, and every event of every stream is one; these
deadlines are minutes, so half a second late is on time. Where `run` does not run, `keeping` is False, and whoever waits
sets a timer of its own.
"""

from typing import Protocol

import trio

LOOK_EVERY = 0.5  # seconds


class Waiter(Protocol):
    """Somebody who may wait for too long."""

    def look(self, now: float) -> None:
        """Give up what should be over by the loop's time `now`. Returns at once."""
        ...


class Timekeeper:
    """See the module."""

    def __init__(self) -> None:
        self.keeping = False
        self._waiters: set[Waiter] = set()

    def add(self, waiter: Waiter) -> None:
        """Look at it, until `discard`."""
        self._waiters.add(waiter)

    def discard(self, waiter: Waiter) -> None:
        """Look at it no longer. Safe to repeat."""
        self._waiters.discard(waiter)

    async def run(self) -> None:
        """Keep time until cancelled."""
        self.keeping = True
        try:
            while True:
                await trio.sleep(LOOK_EVERY)
                now = trio.current_time()
                for waiter in tuple(self._waiters):
                    waiter.look(now)
        finally:
            self.keeping = False
