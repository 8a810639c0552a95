"""Conversations in frames on the streams of a connection.

Knows no libp2p: what it needs of a stream is `Muxed`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import trio

from node.adapters.p2p.limits import KIB, P2pLimits
from node.errors import Broken
from protocol.framing import PREFIX, Framer, frame
from protocol.ids import PeerId

READ_BYTES = 64 * KIB  # that one read takes
AT_ONCE = 8  # frames that are handed out before the other tasks get their turn, where they came together


class Muxed(Protocol):
    """One stream of a connection. One task hears, one tells."""

    @property
    def usable(self) -> bool:
        """Whether neither end has finished and nothing unread lies about."""
        ...

    @property
    def room(self) -> int:
        """Bytes that the peer takes without more ado."""
        ...

    async def hear(self, most: int) -> bytes:
        """Return what there is; b"" once the peer has finished in order. Cancelled, it loses nothing. Raises Broken."""
        ...

    async def tell(self, data: bytes) -> None:
        """Write all. Cancelled, part of it may be on its way. Raises Broken."""
        ...

    async def finish(self) -> None:
        """Send no more. Raises Broken."""
        ...

    async def end(self) -> None:
        """Let go of a stream that both ends have finished."""
        ...

    async def abort(self) -> None:
        """Tell the peer at once that this is over, and drop what was not read."""
        ...

    def forgotten(self) -> None:
        """Let go of what the connection keeps for a reader that does not read any more."""
        ...


class FrameStream:
    """`node.ports.PeerStream` on a stream of a connection."""

    def __init__(self, muxed: Muxed, peer: PeerId, limits: P2pLimits, frame_bytes: int) -> None:
        self.peer = peer
        self.fresh = True
        self.kept = False
        self._muxed = muxed
        self._limits = limits
        self._frame_bytes = frame_bytes
        self._framer = Framer(limit=frame_bytes)
        self._handed = 0  # frames
        self._finished = False  # we sent all
        self._ended = False  # they sent all
        self._broken: str | None = None

    @property
    def alive(self) -> bool:
        """Whether nothing is known against using it: neither end has finished, nothing unread lies about."""
        return not (self._broken or self._finished or self._ended) and self._muxed.usable

    def begin(self, frame_bytes: int) -> None:
        """Enter on an exchange, with its own bound for frames."""
        self.kept = False
        if frame_bytes != self._frame_bytes:
            self._frame_bytes = frame_bytes
            self._framer = Framer(limit=frame_bytes)  # the old one is empty, else the stream would not have been kept

    async def send(self, *payloads: bytes) -> None:
        """See `node.ports.PeerStream`."""
        data = frame(payloads[0]) if len(payloads) == 1 else b"".join(map(frame, payloads))
        with self._whole():
            if len(data) <= self._muxed.room:  # nothing to wait for but the connection, which has a bound of its own
                await self._muxed.tell(data)
                return
            with trio.move_on_after(self._limits.send_seconds) as scope:
                await self._muxed.tell(data)
            if scope.cancelled_caught:
                raise Broken(f"the peer took nothing for {self._limits.send_seconds:g} s")

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """Do something that leaves the stream unusable where it is not done whole."""
        if self._broken is not None:
            raise Broken(self._broken)
        done = False
        try:
            yield
            done = True
        except Broken as error:
            self._broken = self._broken or error.message
            raise
        finally:
            if not done:
                self._broken = self._broken or "the stream was given up"

    async def receive(self) -> bytes | None:
        """See `node.ports.PeerStream`. Cancelled, it loses nothing."""
        self._handed += 1
        if self._handed % AT_ONCE == 0:  # a flood of small frames must not starve the others
            await trio.lowlevel.checkpoint()
        payload = self._framer.next_frame()
        while payload is None and not self._ended:
            data = await self._read()
            if data:
                self._framer.feed(data)
                payload = self._framer.next_frame()
            else:
                self._ended = True
                self._framer.end()
        return payload

    async def _read(self) -> bytes:
        if self._broken is not None:
            raise Broken(self._broken)
        try:
            return await self._muxed.hear(min(READ_BYTES, PREFIX + self._frame_bytes))
        except Broken as error:
            self._broken = error.message
            raise

    async def finish(self) -> None:
        """See `node.ports.PeerStream`."""
        if not self._finished:
            with self._whole():
                await self._muxed.finish()
            self._finished = True

    def keep(self) -> None:
        """See `node.ports.PeerStream`."""
        self.kept = True

    async def leave(self) -> None:
        """Close the stream if both sides have finished, else reset it. Done even under cancellation."""
        with trio.move_on_after(self._limits.close_seconds) as scope:
            scope.shield = True
            if self._finished and self._ended:
                await self._muxed.end()
            else:
                await self.reset()
        self._muxed.forgotten()

    def abandon(self) -> None:
        """Have `leave` reset the stream, whatever its state."""
        self._finished = False

    async def reset(self) -> None:
        """Tell the peer at once that this conversation is over."""
        self._broken = self._broken or "the stream was reset by this node"
        await self._muxed.abort()
