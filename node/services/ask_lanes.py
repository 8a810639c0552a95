"""How many prompts go to one peer at once: so many, and the others wait in the order in which they came.

Knows no stream. A peer resets what is opened beyond its own bound, and other conversations with it need room as well
(how busy is it? does it live?): without a bound of ours, a crowd of prompts would make a well peer look hung. Who waits
is counted as outstanding all the while, so new prompts go where there is room; and each waiting prompt is a client's
connection, of which the API takes a bounded number.
"""

from collections import OrderedDict

import trio

from protocol.ids import PeerId

MOST = 256  # prompts to one peer at once; it takes 384 streams of all kinds of one connection, 320 of which we open


class Lanes:
    """Places towards each peer."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._taken: dict[PeerId, int] = {}
        self._waiting: dict[PeerId, OrderedDict[int, trio.Event]] = {}
        self._tickets = 0

    def waiting(self, peer: PeerId) -> int:
        """Count those who wait."""
        return len(self._waiting.get(peer, ()))

    async def enter(self, peer: PeerId, *, until: float) -> None:
        """Take a place, once there is one; `leave` gives it back. Cancelled while it waits, it has taken none.

        Raises:
            trio.TooSlowError: there was none until then, on the loop's clock.
        """
        if self._taken.get(peer, 0) < self._most:
            self._taken[peer] = self._taken.get(peer, 0) + 1
            return
        ticket, called = self._tickets, trio.Event()
        self._tickets += 1
        line = self._waiting.setdefault(peer, OrderedDict())
        line[ticket] = called
        try:
            with trio.fail_at(until):
                await called.wait()
        except (trio.Cancelled, trio.TooSlowError):
            if called.is_set():  # the place was given to us in the same moment: to the next with it
                self.leave(peer)
            else:
                self._drop(peer, ticket)
            raise

    def leave(self, peer: PeerId) -> None:
        """Give a place back: to whoever has waited longest."""
        line = self._waiting.get(peer)
        if line:
            ticket = next(iter(line))
            line[ticket].set()
            self._drop(peer, ticket)
            return
        self._taken[peer] -= 1
        if not self._taken[peer]:
            del self._taken[peer]

    def _drop(self, peer: PeerId, ticket: int) -> None:
        del self._waiting[peer][ticket]
        if not self._waiting[peer]:
            del self._waiting[peer]
