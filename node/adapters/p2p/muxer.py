"""Yamux, hardened: connections that many conversations share, and the streams on them.

One of the twelve files that import libp2p. The class of libp2p's streams is exchanged as they enter the connection's
table, and the table of their buffers bounds what each may hold: nothing of libp2p is patched for other connections.
"""

from collections.abc import Set as AbstractSet
from typing import Any

import structlog
import trio
from libp2p.abc import ISecureConn
from libp2p.connection_types import ConnectionType
from libp2p.exceptions import BaseLibp2pError
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.network.connection.exceptions import RawConnError
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.stream.net_stream import NetStream
from libp2p.peer.id import ID
from libp2p.security.noise.io import NoiseTransportReadWriter
from libp2p.security.secure_session import SecureSession
from libp2p.stream_muxer.exceptions import MuxedStreamEOF
from libp2p.stream_muxer.yamux.yamux import Yamux, YamuxStream

from node.adapters.p2p.circuit_socket import CircuitSocket
from node.adapters.p2p.limits import DEFAULT_RELAY_LIMITS, KIB, P2pLimits
from node.adapters.p2p.pot import Pot
from node.adapters.p2p.sealed import SealedSocket
from node.adapters.p2p.tcp import TcpStream
from node.adapters.p2p.unread import FlowControlIgnored, Unread
from node.adapters.p2p.workarounds import Workaround
from node.adapters.p2p.yamux_line import DATA, DATA_BYTES, HEAD, PING, SYN, Common, Line
from node.errors import Broken
from protocol.ids import PeerId

log = structlog.get_logger(__name__)

READ_BYTES = 64 * KIB  # what one read takes out of a stream's buffer: yamux sends no longer frames
CREDIT_BYTES = 64 * KIB  # told to the sender in batches: a quarter of its window, which it does not feel
LOST = "the peer ended the stream, or the connection died"
WINDOW_POLL = 0.01  # seconds: libp2p tells of a window that opens by the way, not always; it looks as often
GROWING = 64  # streams open together up to which a fast reader's credit may grow beyond what each has at first


class HardenedYamux(Yamux):
    """A connection whose peer may be hostile, slow or gone."""

    def __init__(
        self,
        secured_conn: ISecureConn,
        peer_id: ID,
        *,
        limits: P2pLimits,
        disabled: AbstractSet[Workaround],
        pot: Pot,
        party: str,
    ) -> None:
        super().__init__(secured_conn, peer_id, is_initiator=secured_conn.is_initiator)
        self.party = party
        self.heard_at = trio.current_time()  # when the peer last said something on a stream
        self._pot = pot
        self.limits = limits
        self.disabled = disabled
        self._session = secured_conn
        below = carrier_of(secured_conn)
        self.relay: PeerId | None = below.relay if isinstance(below, CircuitSocket) else None
        self.retired = False  # there is a better connection with the peer: what begins, begins there
        self.streams = _Streams()
        self.stream_backlog_semaphore = trio.Semaphore(limits.opened)
        if Workaround.BOUNDED_UNREAD not in disabled:
            # libp2p grants a read's credit twice now and then
            self.stream_buffers = Unread(
                dialled=secured_conn.is_initiator,
                each=2 * limits.unread,
                ours=limits.unread_ours,
                theirs=limits.unread_theirs,
            )
        self._line: Line | None = None
        if Workaround.WHOLE_WRITES not in disabled:
            common = Common(deliver=self._deliver, credit=self._credit, longest=2 * limits.unread)
            self._raw, sealed = _taken_over(secured_conn, limits)
            self._line = Line(sealed, common, dead=_dead, close=secured_conn.close)
            self.secured_conn = self._line  # libp2p reads and closes it, and no more: see the three below
            pot.enter(self)

    def get_remote_address(self) -> tuple[str, int] | None:
        """Return host and port of the other end."""
        return self._session.get_remote_address()

    def get_transport_addresses(self) -> list[Any]:
        """Return where the other end is."""
        return self._session.get_transport_addresses()

    def get_connection_type(self) -> ConnectionType:
        """Return how it is reached."""
        return self._session.get_connection_type()

    async def accept_stream(self) -> YamuxStream:
        """Accept the next stream; those beyond the bound are reset."""
        while True:
            stream = await super().accept_stream()
            assert isinstance(stream, YamuxStream)  # noqa: S101 -- narrows the interface to the class
            theirs = self.theirs()
            if Workaround.BOUNDED_STREAMS in self.disabled or (
                theirs <= self.limits.streams and self._pot.has_room(self)
            ):
                return stream
            log.info("p2p.stream_refused", peer=str(self.peer_id), open=theirs)
            self.forget_unread(stream)
            await stream.reset()

    # -- what `Pot` asks

    def held(self) -> int:
        """Return the bytes that were received and not read; none once the connection is ending."""
        return 0 if self.event_shutting_down.is_set() else sum(map(len, self.stream_buffers.values()))

    def theirs(self) -> int:
        """Return how many streams the peer has opened; none once the connection is ending."""
        return 0 if self.event_shutting_down.is_set() else sum(not each.is_initiator for each in self.streams.values())

    def spill(self) -> None:
        """Drop the connection: all of them together hold too much, and this one most."""
        log.warning("p2p.connection_spilt", peer=str(self.peer_id), bytes=self.held())
        self._raw.drop()
        for each in self.stream_buffers.values():
            each.clear()

    def forget_unread(self, stream: YamuxStream) -> None:
        """Drop what nobody will read: libp2p keeps it for a minute after a reset."""
        buffer = self.stream_buffers.get(stream.stream_id)
        if buffer:
            buffer.clear()

    async def _write_frame(self, data: bytes) -> None:
        """Write one frame whole, or end the connection. See `node.adapters.p2p.sealed` for what cancelling it does."""
        if self._line is None:
            await super()._write_frame(data)
            return
        try:
            await self._line.write(data)
        except trio.TooSlowError as error:
            await self.hang_up()
            raise RawConnError(str(error)) from error

    def _credit(self, number: int, more: int) -> None:
        stream = self.streams.get(number)
        if stream is not None:
            stream.send_window += more
            assert isinstance(stream, HardenedStream)  # noqa: S101 -- the table made it one
            stream.opened.set()

    def _deliver(self, number: int, data: bytearray) -> None:
        stream, buffer = self.streams.get(number), self.stream_buffers.get(number)
        if stream is None or buffer is None:
            return  # it was reset here; what was on its way is nobody's
        buffer.extend(data)
        self.heard_at = trio.current_time()
        self._pot.received(len(data))
        stream.recv_window = max(0, stream.recv_window - len(data))
        event = self.stream_events.get(number)
        if event is not None:
            event.set()

    async def _read_data_body(self, length: int) -> bytes:
        """Read what a frame carries; libp2p reads 16 MiB before it looks whether the stream may hold them."""
        if length > 2 * self.limits.unread and Workaround.BOUNDED_UNREAD not in self.disabled:
            raise FlowControlIgnored(f"a frame of {length} bytes")
        return await (super()._read_data_body(length) if self._line is None else self._line.body(length))

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
    """A stream that tells what it has read in batches, and whose window grows to a bound.

    libp2p takes three locks for a read and four for a write, each a turn of the loop. Nothing here is awaited between
    looking and acting, so none is needed.
    """

    conn: HardenedYamux
    uncredited = 0
    opened: trio.Event  # the peer lets us send more

    # -- as libp2p's own parts use it

    async def read(self, n: int | None = -1) -> bytes:
        """Return what there is, at most `n` bytes and never more than `READ_BYTES`. Cancelled, it loses nothing.

        Without a number libp2p reads for as long as the sender keeps up; it does so with what tells who a peer is.
        """
        if Workaround.BOUNDED_READS in self.conn.disabled:
            return await super().read(n)
        most = READ_BYTES if n is None or n < 0 else min(n, READ_BYTES)
        data = await self._next(most) if Workaround.WINDOW_CREDIT not in self.conn.disabled else b""
        return data or await super().read(most)  # libp2p's own tells what has ended, and how

    async def _next(self, most: int) -> bytes:
        """Return what there is, once there is any; b"" where nothing will come."""
        conn, number = self.conn, self.stream_id
        if self.uncredited >= CREDIT_BYTES:
            await self._credit()
        elif conn.stream_buffers.get(number):
            await trio.lowlevel.checkpoint()  # a flood of small pieces must not starve the others
        while not (self.reset_received or conn.event_shutting_down.is_set()):
            buffer, event = conn.stream_buffers.get(number), conn.stream_events.get(number)
            if buffer:
                data = bytes(buffer[:most])
                del buffer[:most]
                self.uncredited += len(data)
                return data
            if event is None or self.recv_closed or self.closed:
                break
            await event.wait()
            if number in conn.stream_events:
                conn.stream_events[number] = trio.Event()
        return b""

    async def _credit(self) -> None:
        """Let the peer send as much as was read. Before anything is taken, and whole: neither is lost to cancelling."""
        credit, self.uncredited = self.uncredited, 0
        with trio.CancelScope(shield=True, deadline=trio.current_time() + self.conn.limits.stall_seconds):
            await self._auto_tune_and_send_window_update(bytes_read=credit)

    async def write(self, data: bytes) -> None:
        """Write all, in as few frames as may be; waits as libp2p does, or as `tell`, where the window is closed."""
        conn, at = self.conn, 0
        while at < len(data):
            size = min(self.send_window, DATA_BYTES, len(data) - at)
            if size <= 0 or self.closed or self.send_closed:
                await super().write(data[at:])
                return
            self.send_window -= size
            piece = data if size == len(data) else data[at : at + size]
            await conn._write_frame(HEAD.pack(0, DATA, 0, self.stream_id, size) + piece)
            at += size

    def _apply_autotune_epoch(self, buffered: int) -> int:
        if self.target_recv_window * 2 > self.conn.limits.unread or len(self.conn.streams) > GROWING:
            return 0
        return super()._apply_autotune_epoch(buffered)

    # -- as `Muxed` needs it

    async def patiently_write(self, data: bytes) -> None:
        """Write all, however long the peer takes to make room."""
        while data:
            while self.send_window <= 0 and not self.closed and Workaround.PATIENT_WRITES not in self.conn.disabled:
                self.opened = trio.Event()
                with trio.move_on_after(WINDOW_POLL):
                    await self.opened.wait()
            piece = data[: max(1, self.send_window)]
            data = data[len(piece) :]
            await self.write(piece)

    @property
    def orderly(self) -> bool:
        """Whether the peer's end of the stream was meant, and no death of the connection."""
        if Workaround.HONEST_END in self.conn.disabled:
            return True
        return not (self.reset_received or self.conn.event_shutting_down.is_set())


class MuxedNetStream:
    """`node.adapters.p2p.frames.Muxed` on a stream of libp2p's network."""

    def __init__(self, stream: NetStream) -> None:
        muxed = stream.muxed_stream
        assert isinstance(muxed, HardenedStream)  # noqa: S101 -- our muxer made it
        self._net = stream
        self._stream = muxed

    @property
    def usable(self) -> bool:
        """See `Muxed`."""
        stream = self._stream
        conn = stream.conn
        return not (stream.closed or stream.recv_closed or conn.retired or conn.stream_buffers.get(stream.stream_id))

    @property
    def room(self) -> int:
        """See `Muxed`."""
        return self._stream.send_window

    async def hear(self, most: int) -> bytes:
        """See `Muxed`."""
        try:
            return await self._stream.read(most)
        except MuxedStreamEOF as error:
            if not self._stream.orderly:
                raise Broken("the connection with the peer ended") from error
            return b""
        except BaseLibp2pError as error:
            raise Broken(LOST) from error

    async def tell(self, data: bytes) -> None:
        """See `Muxed`."""
        try:
            await self._stream.patiently_write(data)
        except BaseLibp2pError as error:
            raise Broken(LOST) from error

    async def finish(self) -> None:
        """See `Muxed`."""
        try:
            await self._stream.close()
        except BaseLibp2pError as error:
            raise Broken(LOST) from error

    async def end(self) -> None:
        """See `Muxed`."""
        await self._net.close()

    async def abort(self) -> None:
        """See `Muxed`."""
        self._stream.conn.forget_unread(self._stream)
        await self._net.reset()

    def forgotten(self) -> None:
        """See `Muxed`. A reader that was waiting puts its bell back."""
        conn, number = self._stream.conn, self._stream.stream_id
        if number not in conn.streams:
            conn.stream_events.pop(number, None)


class _Streams(dict[int, YamuxStream]):
    """Streams by number; each becomes a `HardenedStream` as it enters."""

    def __setitem__(self, number: int, stream: YamuxStream) -> None:
        stream.__class__ = HardenedStream
        assert isinstance(stream, HardenedStream)  # noqa: S101 -- as said in the line above
        stream.opened = trio.Event()
        super().__setitem__(number, stream)


def carrier_of(conn: ISecureConn) -> TcpStream | CircuitSocket | None:
    """Return what carries a connection; None where it is none of ours, as in a test without `NOISE_ONLY`."""
    if not (isinstance(conn, SecureSession) and isinstance(conn.conn, NoiseTransportReadWriter)):
        return None
    raw = conn.conn.read_writer.read_write_closer
    stream = raw.stream if isinstance(raw, RawConnection) else None
    return stream if isinstance(stream, TcpStream | CircuitSocket) else None


def _taken_over(conn: ISecureConn, limits: P2pLimits) -> tuple[TcpStream | CircuitSocket, SealedSocket]:
    """Return the connection below libp2p's layers, with what they had read and not used."""
    # Noise over TCP or a circuit is all there is: whoever agreed on something else was let in by a test.
    below = carrier_of(conn)
    assert isinstance(conn, SecureSession)  # noqa: S101
    assert isinstance(conn.conn, NoiseTransportReadWriter)  # noqa: S101
    assert below is not None  # noqa: S101
    stall = DEFAULT_RELAY_LIMITS.stall_seconds if isinstance(below, CircuitSocket) else limits.stall_seconds
    return below, SealedSocket(below, conn.conn, plain=conn._drain(None), stall=stall)


def _dead(words: str) -> ConnectionClosedError:
    return ConnectionClosedError(words, transport="tcp")


def _ping(number: int) -> bytes:
    return HEAD.pack(0, PING, SYN, 0, number)
