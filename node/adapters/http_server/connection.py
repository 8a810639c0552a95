"""One client's connection: requests read within their limits, handed to the ASGI application, answers written.

Knows nothing of what the application does, nor of other connections. Two tasks: the reader owns the socket's
reading side for as long as the connection lives, so that a client that goes away is noticed whatever the
application is doing; the runner calls the application for one request after another and writes its answers.

Back-pressure. Towards the client: `send` returns when the kernel has taken the bytes, so a slow reader slows the
application down, and a client that takes nothing at all for `write_stall` seconds is cut off. From the client: body
bytes beyond `body_buffer` wait in the kernel until the application takes some; bytes of a *next* request that come
while one is being answered are kept unread, and more of them than `pipelined_bytes` ends the connection, since
reading on is the only way to notice that the client has left.
"""

import socket
import struct
from collections import deque
from dataclasses import dataclass
from math import inf
from typing import Protocol

import trio

from node.adapters.http_server.exchange import App, Exchange
from node.adapters.http_server.parser import Bad, Body, Head, RequestReader
from node.adapters.http_server.wire import plain_error

READ_BYTES = 64 * 1024  # one read: what Linux keeps ready on a loopback connection
MAX_PIPELINED = 16  # requests waiting behind the one being answered; browsers and SDKs send none
YIELD_EVERY = 16  # writes that never had to wait, after which the other tasks get their turn
LINGER_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerLimits:
    """What one server bears. Times in seconds, sizes in bytes.

    Attributes:
        connections: at once; each costs some 20 KB here and one descriptor.
        connections_per_address: of them from one address, so that one stranger cannot take them all. Loopback is
            exempt: a reverse proxy on this machine speaks for everybody.
        head_bytes, headers: what h2load, curl and every SDK keep below; nginx allows 32 KiB in 4 buffers.
        head_seconds: for a whole head, from its first byte (from the connection's start for the first one): a client
            that sends a byte at a time holds a connection no longer than this.
        idle_seconds: between requests. Longer than the 60 s after which proxies drop their side, so that it is they
            who close and never race with a request.
        body_idle_seconds, body_seconds: between two bytes of a body, and for all of it (32 MiB in 600 s is 0.4 Mbit/s).
        write_stall: without the client taking a single byte of the answer.
        linger_seconds: in which the rest of a refused upload is read and thrown away, because closing on unread
            bytes makes the kernel reset the connection and the refusal never arrives.
        abandon_seconds: for the application to end by itself once its client is gone.
        grace_seconds: for running answers at shutdown.
    """

    connections: int = 1024
    connections_per_address: int = 128
    head_bytes: int = 32 * 1024
    headers: int = 100
    head_seconds: float = 15.0
    idle_seconds: float = 75.0
    body_idle_seconds: float = 30.0
    body_seconds: float = 600.0
    body_buffer: int = 256 * 1024
    pipelined_bytes: int = 64 * 1024
    write_stall: float = 60.0
    linger_seconds: float = 2.0
    abandon_seconds: float = 5.0
    grace_seconds: float = 10.0


class ServerReports(Protocol):
    """Where the server tells what clients do wrong, and what the application does."""

    def offence(self, kind: str) -> None:
        """Count one offence of a client; `kind` is one of a fixed, small set."""
        ...

    def defect(self, error: Exception) -> None:
        """Tell of an exception that the application let through: a bug of ours."""
        ...


class Connection:
    """One accepted socket, non-blocking; `run` owns and closes it."""

    def __init__(
        self,
        sock: socket.socket,
        app: App,
        *,
        client: tuple[str, int] | None,
        limits: ServerLimits,
        reports: ServerReports,
    ) -> None:
        self._sock = sock
        self._app = app
        self._client = client
        self._server = _server_address(sock)
        self._limits = limits
        self._reports = reports
        self._reader = RequestReader(max_head_bytes=limits.head_bytes, max_headers=limits.headers)
        self._queue: deque[Exchange] = deque()  # parsed; the first is being answered
        self._incoming: Exchange | None = None  # whose body is being read
        self._held = bytearray()  # unparsed bytes of later requests
        self._refusal: Bad | None = None  # told once what runs has been answered
        self._read_scope = trio.CancelScope()
        self._read_deadline = inf
        self._body_deadline = inf
        self._changed = trio.Event()
        self._flooded = False  # more requests at once than anybody honest sends
        self._closing = False  # no further request is taken
        self._torn = False  # a write was abandoned half-way: nothing more may follow it
        self._unread = False  # the client may still be sending what nobody will read
        self._writes = 0

    async def run(self) -> None:
        """Serve until the client leaves, misbehaves or is asked to; the socket is closed on return.

        Cancelled, it cuts off what runs.
        """
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._read, nursery.cancel_scope)
                await self._answer()
                nursery.cancel_scope.cancel()
            await self._linger()
        finally:
            trio.lowlevel.notify_closing(self._sock)
            self._sock.close()

    def shut_down(self) -> None:
        """Take no further request: close at once when idle, else after what runs."""
        self._closing = True
        self._notify()

    # Reading.

    async def _read(self, everything: trio.CancelScope) -> None:
        self._deadline(trio.current_time() + self._limits.head_seconds)
        while True:
            data = await self._receive()
            if data is None:
                if self._out_of_time():
                    return
                continue
            if not data:
                break
            await self._answer_over()
            if not self._take(data):
                break
            await self._room_for_body()
        for exchange in self._queue:
            exchange.disconnect()
        self._closing = True
        self._notify()
        # The application learns of it from `receive`; one that never looks is ended here.
        with trio.move_on_after(self._limits.abandon_seconds):
            await trio.sleep_forever()
        everything.cancel()

    async def _receive(self) -> bytes | None:
        """Read the next bytes; b"" once the client is gone; None when the time for them has run out."""
        while True:
            try:
                return self._sock.recv(READ_BYTES)
            except BlockingIOError:
                pass
            except OSError:
                return b""
            with trio.CancelScope(deadline=self._read_deadline) as self._read_scope:
                await trio.lowlevel.wait_readable(self._sock)
            if self._read_scope.cancelled_caught:
                return None

    def _deadline(self, at: float) -> None:
        self._read_deadline = at
        self._read_scope.deadline = at

    def _out_of_time(self) -> bool:
        """Act on an expired deadline; return whether reading is over."""
        if trio.current_time() < self._read_deadline:
            return False  # it was moved meanwhile
        self._deadline(inf)
        if self._incoming is not None:
            self._refuse(Bad(status=408, kind="body_timeout", message="The request's body did not come in time."))
        elif self._reader.in_head:
            self._refuse(Bad(status=408, kind="head_timeout", message="The request's head did not come in time."))
        else:
            self._closing = True  # idle for too long: no offence
        self._notify()
        return not self._queue

    async def _answer_over(self) -> None:
        """Wait while an answer that is written whole is still being tidied up behind.

        What comes then is the next request, however long, and not one that was sent ahead.
        """
        while self._incoming is None and self._queue and self._queue[-1].complete:
            self._changed = trio.Event()
            await self._changed.wait()

    def _take(self, data: bytes) -> bool:
        """Use received bytes; return False when the connection is to be given up."""
        if self._refusal is not None or self._closing:
            return True  # thrown away; only the end of the connection is of interest now
        if self._queue and self._incoming is None:
            self._held += data
            if len(self._held) > self._limits.pipelined_bytes:
                self._reports.offence("pipelining")
                return False
            return True
        self._feed(data)
        return not self._flooded

    def _feed(self, data: bytes) -> None:
        was_in_head = self._reader.in_head
        for event in self._reader.feed(data):
            if isinstance(event, Head):
                if len(self._queue) > MAX_PIPELINED:
                    self._reports.offence("pipelining")
                    self._flooded = True
                    return
                self._incoming = Exchange(self, event)
                self._queue.append(self._incoming)
                self._body_deadline = trio.current_time() + self._limits.body_seconds
            elif isinstance(event, Bad):
                self._refuse(event)
            elif self._incoming is not None:
                if isinstance(event, Body):
                    self._incoming.add_body(event.data)
                else:
                    self._incoming.end_body()
                    self._incoming = None
        self._deadline(self._next_deadline(was_in_head=was_in_head))
        self._notify()

    def _next_deadline(self, *, was_in_head: bool) -> float:
        now = trio.current_time()
        if self._incoming is not None:
            return min(now + self._limits.body_idle_seconds, self._body_deadline)
        if self._queue:
            return inf
        if not self._reader.in_head:
            return now + self._limits.idle_seconds
        return self._read_deadline if was_in_head else now + self._limits.head_seconds

    async def _room_for_body(self) -> None:
        while self._incoming is not None and self._incoming.buffered > self._limits.body_buffer:
            self._changed = trio.Event()
            await self._changed.wait()

    def _refuse(self, bad: Bad) -> None:
        """Answer with an error and end the connection: now, or behind the answers that came before."""
        guilty, self._incoming = self._incoming, None
        last_keeps_alive = self._queue[-1].head.keep_alive if self._queue else True
        if guilty is None and not last_keeps_alive:
            self._closing = True  # bytes after the last request of a connection: nobody will read them
            return
        self._unread = True
        if guilty is not None:
            self._closing = True
            guilty.disconnect()
        if guilty is None or not guilty.started:  # else it has its answer, and the connection ends behind it
            self._reports.offence(bad.kind)
            self._refusal = bad  # told behind the answers to what came before
        self._notify()

    # Answering.

    async def _answer(self) -> None:
        while True:
            while not self._queue:
                if self._refusal is not None or self._closing:
                    await self._tell_refusal()
                    return
                self._changed = trio.Event()
                await self._changed.wait()
            exchange = self._queue[0]
            await self._run_app(exchange)
            self._queue.popleft()
            self._notify()
            if not self._reusable(exchange):
                await self._tell_refusal()
                return
            self._resume()

    async def _run_app(self, exchange: Exchange) -> None:
        if exchange.gone:
            return  # spoilt, or left, before its turn came
        try:
            await self._app(exchange.scope(self._client, self._server), exchange.receive, exchange.send)
        # If such a request ended the node, any client who found one could stop every volunteer's.
        except Exception as error:  # noqa: BLE001 -- what makes the application fail ends one request, not the node
            self._reports.defect(error)
        if not exchange.started and not exchange.gone:
            await exchange.send_error(500, "The node failed on this request; its log says why.")

    def _reusable(self, exchange: Exchange) -> bool:
        if not exchange.complete or self._torn or exchange.gone:
            self._closing = True
            if exchange.started and not exchange.complete:
                self._cut(exchange)
            return False
        if not exchange.body_done:
            self._unread = True
            return False
        return exchange.head.keep_alive and not self._closing

    def _cut(self, exchange: Exchange) -> None:
        """End an answer that will not come whole so that the client sees it."""
        self._torn = True
        if exchange.ends_with_connection:
            # An orderly close would look like the answer's end; a reset cannot.
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def _resume(self) -> None:
        """Go on with what was kept back while an answer was being written."""
        now = trio.current_time()
        if self._queue or self._incoming is not None:
            return
        self._deadline(now + self._limits.idle_seconds)
        if self._held:
            held, self._held = bytes(self._held), bytearray()
            self._feed(held)
            self._closing = self._closing or self._flooded
        if self._reader.in_head:
            self._deadline(now + self._limits.head_seconds)

    async def _tell_refusal(self) -> None:
        if self._refusal is not None and not self._torn:
            bad, self._refusal = self._refusal, None
            await self.write(plain_error(bad.status, bad.message))

    async def write(self, data: bytes) -> None:
        """Hand bytes to the kernel, waiting while it takes none. Afterwards `lost` tells whether it went well."""
        if self._torn:
            return
        self._torn = True  # until all is written: a cancelled write leaves half of it behind
        view = memoryview(data)
        while view:
            try:
                view = view[self._sock.send(view) :]
            except BlockingIOError:
                with trio.move_on_after(self._limits.write_stall) as patience:
                    await trio.lowlevel.wait_writable(self._sock)
                if patience.cancelled_caught:
                    self._reports.offence("write_stall")
                    self._abandon()
                    return
            except OSError:
                self._abandon()
                return
        self._torn = False
        self._writes += 1
        if self._writes % YIELD_EVERY == 0:
            await trio.lowlevel.checkpoint()

    def _abandon(self) -> None:
        """Give up on a client that cannot be reached any more."""
        self._closing = True
        for exchange in self._queue:
            exchange.disconnect()

    def wake(self) -> None:
        """Tell the reader that an application has taken some of its request's body."""
        self._notify()

    def ending(self, exchange: Exchange) -> bool:
        """Whether the connection closes behind this answer, as its head must say."""
        return self._closing or not exchange.head.keep_alive or not exchange.body_done

    def _notify(self) -> None:
        self._changed.set()

    async def _linger(self) -> None:
        if self._torn or not self._unread:
            return
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            return
        left = LINGER_BYTES
        with trio.move_on_after(self._limits.linger_seconds):
            self._read_deadline = inf
            while left > 0 and (data := await self._receive()):
                left -= len(data)


def _server_address(sock: socket.socket) -> tuple[str, int] | None:
    if sock.family == socket.AF_UNIX:
        return None
    host, port = sock.getsockname()[:2]
    return host, port
