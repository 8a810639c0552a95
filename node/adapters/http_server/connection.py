"""One client's connection: requests read within their limits, handed to the ASGI application, answers written.

Knows nothing of what the application does, nor of other connections. One task does it all, in turn: it reads a request,
calls the application, writes the answer. While a request is answered nobody reads: what the client sends ahead waits in
the kernel, and of its leaving `Departures` tells (`left`). An application that has asked for it is then cancelled where
it stands; another one hears of it from `receive`, and is ended when it does not listen.

Time. Whoever waits for the client waits without a timer of its own: the server looks at every connection a few times a
second (`look`) and wakes those whose time is over. A timer for each wait would cost as much as the wait.

Back-pressure. Towards the client: `send` returns when the kernel has taken the bytes, so a slow reader slows the
application down, and a client that takes nothing at all for `write_stall` seconds is cut off. From the client: a body
is read as the application asks for it. Bytes of a *next* request wait in the kernel; of more than `pipelined_bytes` the
connection ends, because behind them the kernel might not take the client's farewell.
"""

import fcntl
import socket
import struct
import sys
import termios
from collections import deque
from contextlib import suppress
from math import inf

import trio

from node.adapters.http_server.departures import Departures
from node.adapters.http_server.exchange import App, Exchange
from node.adapters.http_server.limits import ServerLimits, ServerReports
from node.adapters.http_server.parser import Bad, Body, Head, RequestReader
from node.adapters.http_server.wire import plain_error

READ_BYTES = 64 * 1024  # one read: what Linux keeps ready on a loopback connection
MAX_PIPELINED = 16  # requests waiting behind the one being answered; browsers and SDKs send none
YIELD_EVERY = 16  # reads or writes that never had to wait, after which the other tasks get their turn
LINGER_BYTES = 1024 * 1024


class Connection:
    """One accepted socket, non-blocking; `run` owns and closes it."""

    __slots__ = (
        "_abandon_at", "_app", "_body_deadline", "_client", "_closing", "_departures", "_due", "_expired",
        "_head_deadline", "_incoming", "_left", "_limits", "_queue", "_reader", "_reading", "_ready",
        "_refusal", "_reports", "_server", "_sock", "_torn", "_turns", "_unread", "_work", "_yields",
    )  # fmt: skip

    def __init__(
        self,
        sock: socket.socket,
        app: App,
        *,
        client: tuple[str, int] | None,
        limits: ServerLimits,
        reports: ServerReports,
        departures: Departures,
    ) -> None:
        self._sock = sock
        self._app = app
        self._client = client
        self._server = _server_address(sock)
        self._limits = limits
        self._reports = reports
        self._departures = departures
        self._reader = RequestReader(max_head_bytes=limits.head_bytes, max_headers=limits.headers)
        self._queue: deque[Exchange] = deque()  # parsed; the first is being answered
        self._incoming: Exchange | None = None  # whose body is being read
        self._refusal: Bad | None = None  # told once what runs has been answered
        self._work = trio.CancelScope()
        self._yields = False  # the running application wants to be cancelled when its client leaves
        self._ready = True  # the kernel may have more for us: worth a read before waiting
        self._reading = False
        self._due = inf  # when who reads is woken
        self._expired = False  # and was
        self._head_deadline = inf  # of the head that is read, or waited for
        self._body_deadline = inf
        self._abandon_at = inf  # when an application is ended whose client has left
        self._left = False  # the client has closed its side, behind whatever it sent
        self._closing = False  # no further request is taken
        self._torn = False  # a write was abandoned half-way: nothing more may follow it
        self._unread = False  # the client may still be sending what nobody will read
        self._turns = 0

    async def run(self) -> None:
        """Serve until the client leaves, misbehaves or is asked to; the socket is closed on return.

        Cancelled, it cuts off what runs.
        """
        try:
            with suppress(OSError):  # the system has no room to watch it: its leaving shows when it is written to
                self._departures.watch(self._sock.fileno(), self.left)
            with self._work:
                await self._serve()
            if self._queue and self._queue[0].started and not self._queue[0].complete:
                self._cut(self._queue[0])
            await self._linger()
        finally:
            self._departures.forget(self._sock.fileno())
            trio.lowlevel.notify_closing(self._sock)
            self._sock.close()

    def shut_down(self) -> None:
        """Take no further request: close at once when idle, else after what runs."""
        self._closing = True
        if self._reading and not self._queue:
            trio.lowlevel.notify_closing(self._sock)  # wakes who reads; the socket stays open

    def left(self) -> None:
        """Note that the client has closed its side. What it sent before is still to be read."""
        self._left = True
        if self._queue and self._queue[0].body_done:
            self._disconnect()

    def look(self, now: float) -> None:
        """End what has lasted too long by the loop's time `now`."""
        if now >= self._due:
            self._expired = True
            trio.lowlevel.notify_closing(self._sock)
        if now >= self._abandon_at:
            self._work.cancel()
        if self._queue and self._queue[0].body_done and not self._queue[0].complete and not self._left:
            unread = _unread_bytes(self._sock)
            if unread > self._limits.pipelined_bytes:
                self._reports.offence("pipelining")
                self.left()

    # Reading.

    async def read(self) -> None:
        """Take in what the client sends next, or that it sends no more, or not in time."""
        data = await self._receive()
        if data is None:
            self._out_of_time()
        elif not data:
            self._left = True
            self._disconnect()
        elif self._incoming is not None or (self._refusal is None and not self._closing):
            self._feed(data)
        # Else it is thrown away: only the end of the connection is of interest now.

    async def _receive(self) -> bytes | None:
        """Return the next bytes; b"" once the client is gone; None when the time for them has run out.

        Asked to close while nothing runs, it returns b"" as well.
        """
        while True:
            if self._ready:
                self._ready = False
                try:
                    data = self._sock.recv(READ_BYTES)
                except BlockingIOError:
                    continue
                except OSError:
                    return b""
                if len(data) == READ_BYTES:
                    self._ready = True
                    await self._take_turns()
                return data
            if self._closing and not self._queue:
                return b""
            if not await self._in_time():
                return None

    async def _in_time(self) -> bool:
        """Wait until there is something to be read, or `look` or `shut_down` wakes us; False when it is too late."""
        self._due = self._next_due()
        self._reading = self._ready = True
        try:
            await trio.lowlevel.wait_readable(self._sock)
        except trio.ClosedResourceError:
            return not self._expired
        finally:
            self._due = inf
            self._reading = self._expired = False
        return True

    def _next_due(self) -> float:
        if self._incoming is not None:
            return min(trio.current_time() + self._limits.body_idle_seconds, self._body_deadline)
        return self._head_deadline

    def _out_of_time(self) -> None:
        if self._incoming is not None:
            self._refuse(Bad(status=408, kind="body_timeout", message="The request's body did not come in time."))
        elif self._reader.in_head:
            self._refuse(Bad(status=408, kind="head_timeout", message="The request's head did not come in time."))
        else:
            self._closing = True  # idle for too long: no offence

    def _feed(self, data: bytes) -> None:
        was_in_head = self._reader.in_head
        for event in self._reader.feed(data):
            if isinstance(event, Head):
                if not self._begin(event):
                    return
            elif isinstance(event, Bad):
                self._refuse(event)
            elif self._incoming is not None:
                if isinstance(event, Body):
                    self._incoming.add_body(event.data)
                else:
                    self._incoming.end_body()
                    self._incoming = None
        if self._left and self._queue and self._queue[0].body_done:
            self._disconnect()
        self._set_deadlines(was_in_head=was_in_head)

    def _begin(self, head: Head) -> bool:
        """Take a request; False where there are more at once than anybody honest sends."""
        if len(self._queue) > MAX_PIPELINED:
            self._reports.offence("pipelining")
            self._disconnect()
            return False
        self._incoming = Exchange(self, head)
        self._queue.append(self._incoming)
        return True

    def _set_deadlines(self, *, was_in_head: bool) -> None:
        if self._incoming is None:
            self._body_deadline = inf
            if self._reader.in_head and not was_in_head:
                self._head_deadline = trio.current_time() + self._limits.head_seconds
        elif self._body_deadline == inf:
            self._body_deadline = trio.current_time() + self._limits.body_seconds

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

    # Answering.

    async def _serve(self) -> None:
        self._head_deadline = trio.current_time() + self._limits.head_seconds
        while True:
            while not self._queue:
                if self._refusal is not None or self._closing:
                    await self._tell_refusal()
                    return
                await self.read()
            exchange = self._queue[0]
            await self._run_app(exchange)
            self._queue.popleft()
            if not self._reusable(exchange):
                await self._tell_refusal()
                return
            if not self._queue:
                limit = self._limits.head_seconds if self._reader.in_head else self._limits.idle_seconds
                self._head_deadline = trio.current_time() + limit

    async def _run_app(self, exchange: Exchange) -> None:
        if self._left and exchange.body_done:
            self._disconnect()
        if exchange.gone:
            return  # spoilt, or left, before its turn came
        try:
            await self._app(exchange.scope(self._client, self._server), exchange.receive, exchange.send)
        # If such a request ended the node, any client who found one could stop every volunteer's.
        except Exception as error:  # noqa: BLE001 -- what makes the application fail ends one request, not the node
            self._reports.defect(error)
        self._yields = False
        if not exchange.started and not exchange.gone:
            await exchange.send_error(500, "The node failed on this request; its log says why.")

    def yields(self) -> None:
        """Cancel the running application once its client has left, or now if it has."""
        self._yields = True
        if self._left or (self._queue and self._queue[0].gone):
            self._disconnect()

    def _disconnect(self) -> None:
        """Tell the applications that nobody reads their answers any more."""
        self._closing = True
        for exchange in self._queue:
            exchange.disconnect()
        if self._yields:
            self._work.cancel()
        elif self._queue:
            # It learns of it from `receive`; one that never looks is ended then.
            self._abandon_at = min(self._abandon_at, trio.current_time() + self._limits.abandon_seconds)

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

    async def _tell_refusal(self) -> None:
        if self._refusal is not None and not self._torn:
            bad, self._refusal = self._refusal, None
            await self.write(plain_error(bad.status, bad.message))

    async def write(self, data: bytes) -> None:
        """Hand bytes to the kernel, waiting while it takes none; nothing once the client cannot be reached."""
        await self._take_turns()  # before, so that nothing comes between an answer's last byte and the note of its end
        if self._torn:
            return
        try:
            sent = self._sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._abandon()
            return
        if sent < len(data):
            await self._write_rest(memoryview(data)[sent:])

    async def _write_rest(self, view: memoryview) -> None:
        self._torn = True  # until all is written: a cancelled write leaves half of it behind
        while view:
            with trio.move_on_after(self._limits.write_stall) as patience:
                await self._writable()
            if patience.cancelled_caught:
                self._reports.offence("write_stall")
                self._abandon()
                return
            try:
                view = view[self._sock.send(view) :]
            except BlockingIOError:
                pass
            except OSError:
                self._abandon()
                return
        self._torn = False

    async def _writable(self) -> None:
        with suppress(trio.ClosedResourceError):  # somebody was to be woken who reads
            await trio.lowlevel.wait_writable(self._sock)

    async def _take_turns(self) -> None:
        self._turns += 1
        if self._turns % YIELD_EVERY == 0:
            await trio.lowlevel.checkpoint()

    def _abandon(self) -> None:
        """Give up on a client that cannot be reached any more."""
        self._torn = True
        self._disconnect()

    def ending(self, exchange: Exchange) -> bool:
        """Whether the connection closes behind this answer, as its head must say."""
        return self._closing or not exchange.head.keep_alive or not exchange.body_done

    async def _linger(self) -> None:
        if self._torn or not self._unread:
            return
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            return
        left = LINGER_BYTES
        with trio.move_on_after(self._limits.linger_seconds):
            while left > 0:
                try:
                    data = self._sock.recv(READ_BYTES)
                except BlockingIOError:
                    await trio.lowlevel.wait_readable(self._sock)
                    continue
                except OSError:
                    return
                if not data:
                    return
                left -= len(data)


def _unread_bytes(sock: socket.socket) -> int:
    """Count the bytes that the kernel keeps for us."""
    return int.from_bytes(fcntl.ioctl(sock.fileno(), termios.FIONREAD, bytes(4)), sys.byteorder)


def _server_address(sock: socket.socket) -> tuple[str, int] | None:
    if sock.family == socket.AF_UNIX:
        return None
    host, port = sock.getsockname()[:2]
    return host, port
