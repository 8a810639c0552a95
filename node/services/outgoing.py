"""What is about to be said of one answer: a bounded buffer in which small pieces are joined into fewer messages.

Knows neither engine nor stream: the engine's side puts, the stream's side takes. A token is some twenty bytes, and a
message costs both ends the same whatever is in it. So the first bytes go at once, as what comes after a pause does, and
what follows shortly upon a message waits for company, for less than anybody sees. So do the first bytes of an answer
that is of use only when it is whole: they wait for its end, as a rule.
"""

from dataclasses import dataclass
from math import inf

import trio

from node.core.sse_events import is_event_stream
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
        self._head_due = -inf
        self._changed = trio.Event()

    def begin(self, head: Head) -> None:
        """Put the head. A stream's is due at once; what is put before anything is awaited goes along with it."""
        self._head = head
        if not is_event_stream(head.headers):
            self._head_due = trio.current_time() + self._pacing.seconds
        self._wake()

    async def put(self, data: bytes) -> None:
        """Put the next bytes of the body; waits while too much is held already."""
        held = len(self._body)
        self._body += data
        self.size += len(data)
        if not held or held < self._pacing.full <= len(self._body):
            self._wake()  # in between the taker waits for company
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

    async def take(self) -> list[Message]:
        """Return what is to be said next, at one go, once its time has come; empty when no more is.

        Of the body it is one message at most. What it returns is to be said before anything else is awaited: until
        then it may be abandoned.
        """
        while not self._over:
            due = self._due()
            if due <= trio.current_time():
                return self._next()
            if due == inf:  # most waits are for the engine: a deadline costs as much as the wait
                await self._changed.wait()
            else:
                with trio.move_on_at(due):
                    await self._changed.wait()
        return []

    def _due(self) -> float:
        if self._ending is not None or len(self._body) >= self._pacing.full:
            return -inf
        if self._head is not None:
            return self._head_due
        return self._said_at + self._pacing.seconds if self._body else inf

    def _next(self) -> list[Message]:
        said: list[Message] = []
        if self._head is not None:
            said.append(self._head)
            self._head = None
        if self._body:
            self._said_at = trio.current_time()
            data = bytes(self._body[: limits.PART_BYTES])
            del self._body[: len(data)]
            self._wake()
            said.append(Data(data=data))
        if self._ending is not None and not self._body:
            said.append(self._ending)
            self._over = True
        return said

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
