"""The server's end of an inference stream: what the peer says, in order, and what is said to it.

Knows the protocol's order but no prompt. `read` is the one task that receives from the stream, for as long as there is
one; so whoever waits for the peer's next words may be cancelled without losing any. It reads one frame ahead and then
waits, which is what slows a peer down that sends faster than it is heard.
"""

from contextlib import suppress

import trio

from node.errors import Broken
from node.ports import PeerStream
from protocol.errors import RemoteProtocolError
from protocol.inference import Exchange, Role, State
from protocol.inference_events import AskerEvent, Event, ServerEvent


class PeerLine:
    """One stream. One task hears at a time, one says."""

    def __init__(self, stream: PeerStream) -> None:
        self.peer = stream.peer
        self._stream = stream
        self._exchange = Exchange(Role.SERVER)
        self._came, self._next = trio.open_memory_channel[bytes](0)
        self._fault: Broken | RemoteProtocolError | None = None

    @property
    def free(self) -> bool:
        """Whether nothing is owed by either end."""
        return self._exchange.is_free

    @property
    def asking(self) -> bool:
        """Whether a prompt's body is not whole."""
        return self._exchange.state is State.ASKING

    async def read(self) -> None:
        """Receive until the peer ends the stream, or it is lost."""
        with self._came:
            try:
                while (payload := await self._stream.receive()) is not None:
                    await self._came.send(payload)
            except (Broken, RemoteProtocolError) as error:
                self._fault = error

    async def hear(self) -> AskerEvent | None:
        """Return what the peer says next; None once it has ended the stream.

        Raises:
            Broken: the stream is lost. Raised again at every later call, as is the next.
            RemoteProtocolError: the peer said what it must not.
        """
        payload: bytes | None = None
        if self._fault is None:
            with suppress(trio.EndOfChannel):
                payload = await self._next.receive()
        if self._fault is not None:
            raise self._fault.with_traceback(None)
        if payload is None:
            return None
        try:
            event: Event = self._exchange.hear(payload)
        except RemoteProtocolError as error:
            self._fault = error
            raise
        assert isinstance(event, AskerEvent)  # noqa: S101  # the table lets the asker say nothing else
        return event

    async def cancelled(self) -> bool:
        """Wait, while a prompt is answered, until the asker cancels; False when it is lost or misbehaves instead.

        What it did instead is told by the next `hear`.
        """
        try:
            return await self.hear() is not None  # nothing but Cancel is legal there
        except (Broken, RemoteProtocolError):
            return False

    async def say(self, *events: ServerEvent) -> None:
        """Say one thing after another, in one write. Not to be cancelled unless the stream is given up.

        Raises:
            Broken: the stream is lost.
        """
        await self._stream.send(*[self._exchange.say(event) for event in events])

    async def try_say(self, *events: ServerEvent) -> bool:
        """Say something, as `say` does; False where the stream is lost, of which the next `hear` tells."""
        try:
            await self.say(*events)
        except Broken as error:
            self._fault = self._fault or error
            return False
        return True
