"""Yamux, hardened, and conversations in frames on its streams.

One of the five files that import libp2p. The class of libp2p's streams is exchanged as they enter the connection's
table, and the table of their buffers bounds what each may hold: nothing of libp2p is patched for other connections.
"""

from collections.abc import Awaitable, Callable
from collections.abc import Set as AbstractSet
from typing import Any

import structlog
import trio
from libp2p.abc import IMuxedConn, ISecureConn
from libp2p.custom_types import TProtocol
from libp2p.exceptions import BaseLibp2pError
from libp2p.network.connection.exceptions import RawConnError
from libp2p.network.stream.net_stream import NetStream
from libp2p.peer.id import ID
from libp2p.stream_muxer.exceptions import MuxedStreamEOF
from libp2p.stream_muxer.muxer_multistream import MuxerMultistream
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID, Yamux, YamuxStream

from node.adapters.p2p.limits import KIB, P2pLimits
from node.adapters.p2p.workarounds import Workaround
from node.errors import Broken
from protocol.framing import PREFIX, Framer, frame
from protocol.ids import PeerId

log = structlog.get_logger(__name__)

READ_BYTES = 64 * KIB  # what one read takes out of a stream's buffer: yamux sends no longer frames
CREDIT_BYTES = 64 * KIB  # told to the sender in batches: a quarter of its window, which it does not feel
WINDOW_POLL = 0.01  # seconds: nothing tells when a window opens; libp2p looks as often


class YamuxOnly(MuxerMultistream):
    """Offers one muxer, ours."""

    def __init__(self, limits: P2pLimits, disabled: AbstractSet[Workaround]) -> None:
        super().__init__({TProtocol(PROTOCOL_ID): Yamux}, limits.negotiate_seconds)
        self._limits = limits
        self._disabled = disabled

    async def new_conn(self, conn: ISecureConn, peer_id: ID) -> IMuxedConn:
        """Agree on yamux with the other end."""
        protocol, _ = await self._selector.select(conn, conn.is_initiator, self.negotiate_timeout)
        muxed = HardenedYamux(conn, peer_id, limits=self._limits, disabled=self._disabled)
        return self._annotate_connection(muxed, conn, protocol)


class HardenedYamux(Yamux):
    """A connection whose peer may be hostile, slow or gone."""

    def __init__(
        self, secured_conn: ISecureConn, peer_id: ID, *, limits: P2pLimits, disabled: AbstractSet[Workaround]
    ) -> None:
        super().__init__(secured_conn, peer_id, is_initiator=secured_conn.is_initiator)
        self.limits = limits
        self.disabled = disabled
        self.streams = _Streams()
        if Workaround.BOUNDED_UNREAD not in disabled:
            self.stream_buffers = _Buffers(2 * limits.unread)  # libp2p grants a read's credit twice now and then

    async def accept_stream(self) -> YamuxStream:
        """Accept the next stream; those beyond the bound are reset."""
        while True:
            stream = await super().accept_stream()
            assert isinstance(stream, YamuxStream)  # noqa: S101 -- narrows the interface to the class
            theirs = sum(not each.is_initiator for each in self.streams.values())
            if theirs <= self.limits.streams or Workaround.BOUNDED_STREAMS in self.disabled:
                return stream
            log.info("p2p.stream_refused", peer=str(self.peer_id), open=theirs)
            self.forget_unread(stream)
            await stream.reset()

    def forget_unread(self, stream: YamuxStream) -> None:
        """Drop what nobody will read: libp2p keeps it for a minute after a reset."""
        buffer = self.stream_buffers.get(stream.stream_id)
        if buffer:
            buffer.clear()

    async def _write_frame(self, data: bytes) -> None:
        """Write one frame whole, or end the connection.

        The cipher counts messages: one that was encrypted and not sent, or sent in part, makes all that follow
        unreadable. So from encryption on, cancellation waits until the kernel has the frame.
        """
        if Workaround.WHOLE_WRITES in self.disabled:
            await super()._write_frame(data)
            return
        async with self._write_lock:
            deadline = trio.current_time() + self.limits.stall_seconds
            with trio.CancelScope(shield=True, deadline=deadline) as scope:
                await self.secured_conn.write(data)
        if scope.cancelled_caught:
            await self.hang_up()
            raise RawConnError(f"the connection took no byte for {self.limits.stall_seconds:g} s")
        await trio.lowlevel.checkpoint()

    async def _read_data_body(self, length: int) -> bytes:
        """Read what a frame carries; libp2p reads 16 MiB before it looks whether the stream may hold them."""
        if length > 2 * self.limits.unread and Workaround.BOUNDED_UNREAD not in self.disabled:
            raise _FlowControlIgnored(f"a frame of {length} bytes")
        return await super()._read_data_body(length)

    async def _measure_rtt_loop(self) -> None:
        """Probe the peer; one that does not answer in time is gone, whatever its sockets say."""
        if Workaround.LIVENESS in self.disabled:
            await super()._measure_rtt_loop()
            return
        try:
            while not self.event_shutting_down.is_set():
                if not await self._answers():
                    log.info("p2p.peer_silent", peer=str(self.peer_id), seconds=self.limits.probe_patience)
                    await self.hang_up()
                    return
                with trio.move_on_after(self.limits.probe_seconds):
                    await self.event_shutting_down.wait()
        except BaseLibp2pError:
            return  # the connection ended; its reader sees to the rest

    async def _answers(self) -> bool:
        self._ping_id = (self._ping_id + 1) % 2**32
        self._ping_event = trio.Event()
        self._ping_sent_time = trio.current_time()
        await self._write_frame(_ping(self._ping_id))
        with trio.move_on_after(self.limits.probe_patience):
            await self._ping_event.wait()
        return self._ping_event.is_set()

    async def hang_up(self) -> None:
        """Close the socket; the connection's reader notices and clears up."""
        with trio.move_on_after(self.limits.close_seconds) as scope:
            scope.shield = True
            await self.secured_conn.close()


class HardenedStream(YamuxStream):
    """A stream that tells what it has read in batches, and whose window grows to a bound."""

    conn: HardenedYamux
    uncredited = 0

    async def read(self, n: int | None = -1) -> bytes:
        """Return what there is, at most `n` bytes and never more than `READ_BYTES`.

        Without a number libp2p reads for as long as the sender keeps up; it does so with what tells who a peer is.
        """
        if Workaround.BOUNDED_READS in self.conn.disabled:
            return await super().read(n)
        return await super().read(READ_BYTES if n is None or n < 0 else min(n, READ_BYTES))

    async def _auto_tune_and_send_window_update(self, *, bytes_read: int = 0) -> None:
        if Workaround.WINDOW_CREDIT in self.conn.disabled:
            await super()._auto_tune_and_send_window_update(bytes_read=bytes_read)
            return
        self.uncredited += bytes_read
        if self.uncredited >= CREDIT_BYTES:
            credit, self.uncredited = self.uncredited, 0
            await super()._auto_tune_and_send_window_update(bytes_read=credit)

    def _apply_autotune_epoch(self, buffered: int) -> int:
        if self.target_recv_window * 2 > self.conn.limits.unread:
            return 0
        return super()._apply_autotune_epoch(buffered)


class _Streams(dict[int, YamuxStream]):
    """Streams by number; each becomes a `HardenedStream` as it enters."""

    def __setitem__(self, number: int, stream: YamuxStream) -> None:
        stream.__class__ = HardenedStream
        super().__setitem__(number, stream)


class _Buffers(dict[int, bytearray]):
    """What was received and not read, by stream; each bounded."""

    def __init__(self, bound: int) -> None:
        super().__init__()
        self._bound = bound

    def __setitem__(self, number: int, buffer: bytearray) -> None:
        super().__setitem__(number, _Bounded(buffer, self._bound))


class _Bounded(bytearray):
    def __init__(self, content: bytearray, bound: int) -> None:
        super().__init__(content)
        self._bound = bound

    def extend(self, data: Any) -> None:  # noqa: ANN401 -- bytearray's own signature
        if len(self) + len(data) > self._bound:
            raise _FlowControlIgnored(f"{len(self) + len(data)} bytes unread where {self._bound} are allowed")
        super().extend(data)


class _FlowControlIgnored(trio.TooSlowError):
    """The one kind of error at which libp2p's reader ends the connection; at others it goes on."""


class FrameStream:
    """`node.ports.PeerStream` on a stream of libp2p."""

    def __init__(self, stream: NetStream, peer: PeerId, limits: P2pLimits, frame_bytes: int) -> None:
        muxed = stream.muxed_stream
        assert isinstance(muxed, HardenedStream)  # noqa: S101 -- our muxer made it
        self.peer = peer
        self.fresh = True
        self.kept = False
        self._net = stream
        self._muxed = muxed
        self._limits = limits
        self._frame_bytes = frame_bytes
        self._framer = Framer(limit=frame_bytes)
        self._finished = False  # we sent all
        self._ended = False  # they sent all
        self._broken: str | None = None

    @property
    def alive(self) -> bool:
        """Whether nothing is known against using it: neither end has finished, nothing unread lies about."""
        unread = self._muxed.conn.stream_buffers.get(self._muxed.stream_id)
        muxed = self._muxed
        return not (self._broken or self._finished or self._ended or muxed.closed or muxed.recv_closed or unread)

    def begin(self, frame_bytes: int) -> None:
        """Enter on an exchange, with its own bound for frames."""
        self.kept = False
        if frame_bytes != self._frame_bytes:
            self._frame_bytes = frame_bytes
            self._framer = Framer(limit=frame_bytes)  # the old one is empty, else the stream would not have been kept

    async def send(self, *payloads: bytes) -> None:
        """See `node.ports.PeerStream`."""
        rest = b"".join(map(frame, payloads))
        with trio.move_on_after(self._limits.send_seconds) as scope:
            while rest:
                piece = rest if self._impatient else rest[: await self._window()]
                rest = rest[len(piece) :]
                await self._carry(self._muxed.write, piece)
        if scope.cancelled_caught:
            self._broken = f"the peer took nothing for {self._limits.send_seconds:g} s"
            raise Broken(self._broken)

    @property
    def _impatient(self) -> bool:
        return Workaround.PATIENT_WRITES in self._muxed.conn.disabled

    async def _window(self) -> int:
        """Wait until the peer lets us send; return how much."""
        while self._muxed.send_window <= 0 and not self._muxed.closed:  # noqa: ASYNC110 -- see WINDOW_POLL
            await trio.sleep(WINDOW_POLL)
        return max(1, self._muxed.send_window)

    async def receive(self) -> bytes | None:
        """See `node.ports.PeerStream`."""
        payload = self._framer.next_frame()
        if payload is not None:
            await trio.lowlevel.checkpoint()  # a flood of small frames must not starve the others
            return payload
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
        try:
            return await self._carry(self._muxed.read, min(READ_BYTES, PREFIX + self._frame_bytes))
        except _Eof:
            return b""

    async def _carry(self, act: Callable[[Any], Awaitable[Any]], argument: bytes | int) -> Any:  # noqa: ANN401
        """Do something on the stream; what goes wrong there is the peer's or the world's."""
        if self._broken is not None:
            raise Broken(self._broken)
        whole = False
        try:
            result = await act(argument)
            whole = True
        except MuxedStreamEOF as error:
            if self._orderly():
                whole = True
                raise _Eof from error
            raise Broken("the connection with the peer ended") from error
        except BaseLibp2pError as error:
            raise Broken("the peer ended the stream, or the connection died") from error
        else:
            return result
        finally:
            if not whole:
                self._broken = "the stream was given up"

    def _orderly(self) -> bool:
        if Workaround.HONEST_END in self._muxed.conn.disabled:
            return True
        return not (self._muxed.reset_received or self._muxed.conn.event_shutting_down.is_set())

    async def finish(self) -> None:
        """See `node.ports.PeerStream`."""
        if not self._finished:
            await self._carry(lambda _: self._muxed.close(), b"")
            self._finished = True

    def keep(self) -> None:
        """See `node.ports.PeerStream`."""
        self.kept = True

    async def leave(self) -> None:
        """Close the stream if both sides have finished, else reset it. Done even under cancellation."""
        with trio.move_on_after(self._limits.close_seconds) as scope:
            scope.shield = True
            if self._finished and self._ended:
                await self._net.close()
            else:
                await self.reset()
        conn, number = self._muxed.conn, self._muxed.stream_id
        if number not in conn.streams:
            conn.stream_events.pop(number, None)  # a reader that was waiting puts it back

    def abandon(self) -> None:
        """Have `leave` reset the stream, whatever its state."""
        self._finished = False

    async def reset(self) -> None:
        """Tell the peer at once that this conversation is over."""
        self._broken = self._broken or "the stream was reset by this node"
        self._muxed.conn.forget_unread(self._muxed)
        await self._net.reset()


class _Eof(Exception):
    """The peer has finished."""


def _ping(number: int) -> bytes:
    return b"\0\2\0\1\0\0\0\0" + number.to_bytes(4, "big")  # yamux: version 0, type 2, flag SYN, stream 0
