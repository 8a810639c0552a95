"""The server's end of an inference stream: what the peer says, in order, and what is said to it.

Knows the protocol's order but no prompt. Whoever waits for the peer's next words may be cancelled without losing any:
that is the stream's promise. Nothing is read before somebody wants to hear it, which is what slows a peer down that
sends faster than it is heard.
"""

from node.errors import Broken
from node.ports import PeerStream
from protocol.errors import RemoteProtocolError
from protocol.inference import Exchange, Role, State
from protocol.inference_events import AskerEvent, ServerEvent


class PeerLine:
    """One stream. One task hears at a time, one says."""

    def __init__(self, stream: PeerStream) -> None:
        self.peer = stream.peer
        self._stream = stream
        self._exchange = Exchange(Role.SERVER)
        self._fault: Broken | RemoteProtocolError | None = None

    @property
    def free(self) -> bool:
        """Whether nothing is owed by either end."""
        return self._exchange.is_free

    @property
    def asking(self) -> bool:
        """Whether a prompt's body is not whole."""
        return self._exchange.state is State.ASKING

    async def hear(self) -> AskerEvent | None:
        """Return what the peer says next; None once it has ended the stream. Cancelled, it loses nothing.

        Raises:
            Broken: the stream is lost. Raised again at every later call, as is the next.
            RemoteProtocolError: the peer said what it must not.
        """
        if self._fault is not None:
            raise self._fault.with_traceback(None)
        try:
            payload = await self._stream.receive()
            if payload is None:
                return None
            event = self._exchange.hear(payload)
        except (Broken, RemoteProtocolError) as error:
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
