"""A connection's bytes on a stream of another connection: what is a socket to those above, with a relay between.

Knows no libp2p and no relay's words. It is what libp2p's handshake reads and writes, and from the take-over on a
`node.adapters.p2p.sealed.Socket`. What is sent waits in a bounded buffer and is passed on by `carry`, so that it can be
handed over without waiting, as to a kernel.
"""

import trio

from node.adapters.p2p.frames import READ_BYTES, Muxed
from node.adapters.p2p.limits import KIB
from node.errors import Broken
from protocol.ids import PeerId

HELD = 128 * KIB  # bytes said and not passed on: two of the cipher's longest messages
LAST_WORDS = 2.0  # s for what was said before the end to be passed on, and for the other end to end too


class CircuitSocket:
    """One end of a circuit. One task reads; `carry` runs for as long as it is open.

    Attributes:
        relay: who carries it.
    """

    def __init__(self, stream: Muxed, relay: PeerId) -> None:
        self.relay = relay
        self._stream = stream
        self._ahead = b""
        self._said = bytearray()
        self._moved = trio.Event()
        self._closing = False
        self._broken: str | None = None

    # -- as libp2p reads and writes it while hands are shaken

    async def read(self, n: int | None = None) -> bytes:
        """Return at most `n` bytes as soon as there are any; b"" at the end. Raises ConnectionResetError."""
        if not self._ahead:
            self._ahead = await self._hear()
        wanted = len(self._ahead) if n is None or n < 0 else n
        data, self._ahead = self._ahead[:wanted], self._ahead[wanted:]
        return data

    async def write(self, data: bytes) -> None:
        """Write all. Raises ConnectionResetError."""
        rest = memoryview(data)
        while rest:
            rest = rest[self.send_now(rest) :]
            await self.until_writable()
        await trio.lowlevel.checkpoint()

    def get_remote_address(self) -> None:
        """Return nothing: where the other end is, only the relay knows."""

    async def close(self) -> None:
        """Say no more. What was said is still passed on, for a moment. Safe to repeat."""
        self._closing = True
        self._move()
        await trio.lowlevel.checkpoint()

    def drop(self) -> None:
        """Close at once; whoever reads or writes it is told, and nothing is passed on any more."""
        self._said.clear()
        self._end("this node has closed the connection")

    # -- as `node.adapters.p2p.sealed.Socket`

    def send_now(self, data: bytes | memoryview) -> int:
        """See `Socket`."""
        if self._broken is not None or self._closing:
            raise ConnectionResetError(self._broken or "this node has closed the connection")
        taken = min(HELD - len(self._said), len(data))
        if taken:
            self._said += data[:taken]
            self._move()
        return taken

    async def until_writable(self) -> None:
        """See `Socket`."""
        while len(self._said) >= HELD and self._broken is None and not self._closing:
            await self._moved.wait()

    async def receive(self) -> bytes:
        """See `Socket`."""
        if self._ahead:
            await trio.lowlevel.checkpoint()
            ahead, self._ahead = self._ahead, b""
            return ahead
        return await self._hear()

    async def _hear(self) -> bytes:
        if self._broken is not None or self._closing:
            await trio.lowlevel.checkpoint()
            raise ConnectionResetError(self._broken or "this node has closed the connection")
        try:
            return await self._stream.hear(READ_BYTES)
        except Broken as error:
            self._end(error.message)
            raise ConnectionResetError(error.message) from error

    # -- below

    async def carry(self) -> None:
        """Pass on what is said until the end, then let go of the stream."""
        try:
            while not self._closing and self._broken is None:
                await self._pass_on()
                if not self._said and not self._closing:
                    await self._moved.wait()
            with trio.move_on_after(LAST_WORDS):
                await self._part()
        except Broken as error:
            self._end(error.message)
        finally:
            self._end("this node has closed the connection")
            with trio.CancelScope(shield=True, deadline=trio.current_time() + LAST_WORDS):
                await self._stream.abort()
            self._stream.forgotten()

    async def _pass_on(self) -> None:
        while self._said and self._broken is None:
            data = bytes(self._said)
            self._said.clear()
            self._move()
            await self._stream.tell(data)

    async def _part(self) -> None:
        await self._pass_on()
        await self._stream.finish()
        while await self._stream.hear(READ_BYTES):
            pass  # nobody reads it any more; its end is what is waited for

    def _end(self, reason: str) -> None:
        self._broken = self._broken or reason
        self._move()

    def _move(self) -> None:
        self._moved.set()
        self._moved = trio.Event()
