"""What is about to be said of one answer: a bounded buffer in which small pieces are joined into fewer messages.

Knows neither engine nor stream: the engine's side puts, the stream's side takes. A token is some twenty bytes, and a
message costs both ends the same whatever is in it. So the first bytes go at once, as what comes after a pause does, and
what follows shortly upon a message waits for company, for less than anybody sees.
"""

from dataclasses import dataclass
from math import inf

import trio

from protocol import limits
from protocol.inference_events import Data, End, Fail, Head, Refuse

Ending = Refuse | End | Fail
Message = Head | Data | Ending


@dataclass(frozen=True, slots=True, kw_only=True)
class Pacing:
    """How pieces are joined.

    Attributes:
        seconds: after a message, during which pieces are gathered for the next.
        full: bytes upon which they are not waited for: larger messages save nothing more.
        most: bytes held before the engine's side has to wait; one piece more may be held.
    """

    seconds: float = 0.025
    full: int = 64 * 1024
    most: int = 256 * 1024


class Outgoing:
    """One answer. One task puts, one takes, in the order of the protocol's table; anybody may `abandon`."""

    def __init__(self, pacing: Pacing) -> None:
        self.size = 0  # bytes of the body put so far
        self._pacing = pacing
        self._head: Head | None = None
        self._body = bytearray()
        self._ending: Ending | None = None
        self._over = False  # nothing is to be said any more
        self._said_at = -inf
        self._changed = trio.Event()

    def begin(self, head: Head) -> None:
        """Put the head."""
        self._head = head
        self._wake()

    async def put(self, data: bytes) -> None:
        """Put the next bytes of the body; waits while too much is held already."""
        self._body += data
        self.size += len(data)
        self._wake()
        while len(self._body) >= self._pacing.most and not self._over:
            await self._changed.wait()

    def end(self, ending: Ending) -> None:
        """Put the last message."""
        self._ending = ending
        self._wake()

    def abandon(self) -> None:
        """Have nothing more be said."""
        self._over = True
        self._wake()

    async def take(self) -> Message | None:
        """Return what is to be said next, once its time has come; None when no more is.

        What it returns is to be said before anything else is awaited: until then it may be abandoned.
        """
        while not self._over:
            due = self._due()
            if due <= trio.current_time():
                return self._next()
            with trio.move_on_at(due):
                await self._changed.wait()
        return None

    def _due(self) -> float:
        if self._head is not None or self._ending is not None or len(self._body) >= self._pacing.full:
            return -inf
        return self._said_at + self._pacing.seconds if self._body else inf

    def _next(self) -> Message | None:
        if self._head is not None:
            head, self._head = self._head, None
            return head
        if self._body:
            self._said_at = trio.current_time()
            data = bytes(self._body[: limits.PART_BYTES])
            del self._body[: len(data)]
            self._wake()
            return Data(data=data)
        self._over = True
        return self._ending

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
