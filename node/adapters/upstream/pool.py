"""The way to OpenAI servers: pooled HTTP/1.1 connections on trio, parsed by httptools, bodies passed on as they come.

Knows nothing of prompts or engines. A request's bytes are not touched, nor are an answer's, but for the framing of
chunks, which ends here. Leaving an answer early closes its connection at once: that is how a server learns that
nobody waits any more. A connection is used again only after an answer that ended where it should.

The keep-alive race. A server may close an idle connection in the moment in which a request is sent on it; then not a
byte comes back. Such a request is sent once more, on a fresh connection, but only when the connection had been used
before and the end came within `RACE_SECONDS`: a server that dies later has had the prompt, and is not asked twice.
"""

import errno
import socket
import ssl
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from math import inf

import httptools
import trio

from node.adapters.upstream.wire import PlainWire, TlsWire, Wire
from node.core.prompt import Headers
from node.errors import Broken, Unreached
from node.ports import Answer, Endpoint

READ_BYTES = 64 * 1024
RACE_SECONDS = 1.0
ENDPOINTS_REMEMBERED = 64  # a restarted engine listens elsewhere, so old endpoints must not pile up
SMALL_BODY = 64 * 1024  # bodies up to here go out in one write with their head
HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamLimits:
    """What one pool bears. Times in seconds, sizes in bytes.

    Attributes:
        open: exchanges at once; what is beyond waits for `connect_seconds`, then fails.
        idle: kept connections, all endpoints together.
        idle_seconds: kept unused. uvicorn, which serves vLLM, closes after 5 s: letting go first avoids the race.
        connect_seconds: for a connection, with TLS.
        send_stall: without the server taking a byte of the request.
        head_seconds, body_idle_seconds: for the head, and between two pieces of a body. A prefill may take minutes
            before either; whether the engine is alive is watched elsewhere, this is the last resort.
        head_bytes: of an answer's head; vLLM's are some 200.
    """

    open: int = 512
    idle: int = 64
    idle_seconds: float = 4.0
    connect_seconds: float = 5.0
    send_stall: float = 30.0
    head_seconds: float = 600.0
    body_idle_seconds: float = 600.0
    head_bytes: int = 64 * 1024


class UpstreamPool:
    """`node.ports.Upstream`."""

    def __init__(
        self,
        *,
        limits: UpstreamLimits | None = None,
        tls: Callable[[], ssl.SSLContext] = ssl.create_default_context,
    ) -> None:
        self._tls = tls
        self._limits = limits or UpstreamLimits()
        self._slots = trio.Semaphore(self._limits.open)
        self._idle: list[_Connection] = []  # the most recently used last
        self._activity: OrderedDict[tuple[str, int], float] = OrderedDict()

    def last_activity(self, endpoint: Endpoint) -> float | None:
        """Tell the loop's time of the last byte received from an endpoint; None if there never was one."""
        return self._activity.get((endpoint.host, endpoint.port))

    @asynccontextmanager
    async def send(
        self, endpoint: Endpoint, *, method: str, target: str, headers: Headers, body: bytes
    ) -> AsyncIterator[Answer]:
        """`node.ports.Upstream.send`."""
        with trio.move_on_after(self._limits.connect_seconds) as patience:
            await self._slots.acquire()
        if patience.cancelled_caught:
            raise Unreached("Too many requests wait for the engine's answers.", remedy="Ask again later.")
        try:
            request = _request_head(endpoint, method=method, target=target, headers=headers, length=len(body))
            connection = await self._exchange(endpoint, request, body)
            try:
                yield connection
            finally:
                self._keep_or_close(connection)
        finally:
            self._slots.release()

    async def aclose(self) -> None:
        """Close what the pool holds idle."""
        while self._idle:
            self._idle.pop().close()
        await trio.lowlevel.checkpoint()

    async def _exchange(self, endpoint: Endpoint, head: bytes, body: bytes) -> "_Connection":
        connection = self._take_idle(endpoint)
        if connection is not None:
            sent_at = trio.current_time()
            try:
                return await self._ask(connection, head, body)
            except Broken:
                raced = not connection.received_anything and trio.current_time() - sent_at <= RACE_SECONDS
                if not raced:
                    raise
        return await self._ask(await self._connect(endpoint), head, body)

    async def _ask(self, connection: "_Connection", head: bytes, body: bytes) -> "_Connection":
        answers = False
        try:
            await connection.request(head, body)
            answers = True
        finally:
            if not answers:
                connection.close()  # cancelled or broken: a half-told request leaves nothing to use again
        return connection

    async def _connect(self, endpoint: Endpoint) -> "_Connection":
        try:
            with trio.fail_after(self._limits.connect_seconds):
                wire = await _open(endpoint, self._tls)
        except trio.TooSlowError as error:
            raise Unreached("The engine did not take a connection in time.") from error
        except (OSError, trio.BrokenResourceError) as error:
            raise Unreached(f"The engine cannot be reached: {_reason(error)}.") from error
        return _Connection(wire, endpoint, limits=self._limits, activity=self._note_activity)

    def _take_idle(self, endpoint: Endpoint) -> "_Connection | None":
        now = trio.current_time()
        found: _Connection | None = None
        kept: list[_Connection] = []
        while self._idle:
            connection = self._idle.pop()
            if now - connection.idle_since > self._limits.idle_seconds:
                connection.close()
            elif found is None and connection.endpoint == endpoint:
                if connection.is_stale():
                    connection.close()
                else:
                    found = connection
            else:
                kept.append(connection)
        self._idle = kept[::-1]
        return found

    def _keep_or_close(self, connection: "_Connection") -> None:
        if not connection.reusable:
            connection.close()
            return
        connection.idle_since = trio.current_time()
        self._idle.append(connection)
        if len(self._idle) > self._limits.idle:
            self._idle.pop(0).close()

    def _note_activity(self, endpoint: Endpoint) -> None:
        key = (endpoint.host, endpoint.port)
        self._activity[key] = trio.current_time()
        self._activity.move_to_end(key)
        if len(self._activity) > ENDPOINTS_REMEMBERED:
            self._activity.popitem(last=False)


_NoteActivity = Callable[[Endpoint], None]


class _Connection:
    """One connection, and the answer that is being received on it (`node.ports.Answer`)."""

    def __init__(
        self,
        wire: Wire,
        endpoint: Endpoint,
        *,
        limits: UpstreamLimits,
        activity: _NoteActivity,
    ) -> None:
        self.endpoint = endpoint
        self.idle_since = inf
        self.received_anything = False
        self.status = 0
        self.headers: Headers = ()
        self._wire = wire
        self._limits = limits
        self._note_activity = activity
        self._parser = httptools.HttpResponseParser(self)
        self._fresh()

    def _fresh(self) -> None:
        self.received_anything = False
        self.status = 0
        self.headers = ()
        self._raw_headers: list[tuple[bytes, bytes]] = []
        self._pieces: list[bytes] = []
        self._head_done = False
        self._ended = False  # the message's end was seen
        self._overrun = False  # more came than the answer
        self._broken: Broken | None = None
        self._asked_whole = True
        self._eof_ends = False
        self._head_bytes = 0  # of what the parser has told
        self._fed_in_head = 0  # of what it may be holding back
        self._keeps_alive = False

    @property
    def reusable(self) -> bool:
        """Whether the answer ended where it should, and the server means to go on."""
        return self._ended and not self._overrun and self._asked_whole and not self._pieces and self._keeps_alive

    def is_stale(self) -> bool:
        """Whether the server has closed, or has said something that nobody asked for."""
        return self._wire.has_input()

    def close(self) -> None:
        """Close at once; safe to repeat."""
        self._wire.close()

    async def request(self, head: bytes, body: bytes) -> None:
        """Send a request and receive the head of its answer.

        Raises:
            Broken: see `node.ports.Upstream.send`.
        """
        self._fresh()
        try:
            if len(body) <= SMALL_BODY:
                await self._wire.send(head + body, stall=self._limits.send_stall)
            else:
                await self._wire.send(head, stall=self._limits.send_stall)
                await self._wire.send(body, stall=self._limits.send_stall)
        except trio.TooSlowError as error:
            raise Broken("The engine does not read what it is sent.") from error
        except (OSError, trio.BrokenResourceError):
            self._asked_whole = False  # it may have answered before it had read all, a refusal for instance
        with trio.move_on_after(self._limits.head_seconds) as patience:
            while not self._head_done:
                await self._read()
        if patience.cancelled_caught:
            raise Broken(f"The engine gave no answer in {self._limits.head_seconds:.0f} s.")

    async def receive(self) -> bytes:
        """`node.ports.Answer.receive`."""
        if not self._pieces and not self._ended and self._broken is None:
            with trio.move_on_after(self._limits.body_idle_seconds) as patience:
                await self._read_body()
            if patience.cancelled_caught:
                raise Broken(f"The engine fell silent for {self._limits.body_idle_seconds:.0f} s.")
        if not self._pieces and self._broken is not None:
            raise self._broken
        pieces, self._pieces = self._pieces, []
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def _read_body(self) -> None:
        while not self._pieces and not self._ended:
            try:
                await self._read()
            except Broken as error:
                self._broken = error  # told after what came whole before it
                return

    async def _read(self) -> None:
        try:
            data = await self._wire.receive(READ_BYTES)
        except (OSError, trio.BrokenResourceError) as error:
            raise Broken(f"The connection to The engine broke: {_reason(error)}.") from error
        if not data:
            self._end_of_connection()
            return
        self.received_anything = True
        self._note_activity(self.endpoint)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as error:
            raise Broken("The engine changed the protocol, which nobody had asked for.") from error
        except httptools.HttpParserError as error:
            self._overrun = True
            if not self._ended:
                raise Broken(f"The engine does not speak HTTP: {error}.") from error
        if not self._head_done:
            self._fed_in_head += len(data)
        if max(self._head_bytes, self._fed_in_head) > self._limits.head_bytes:
            raise Broken(f"The engine sent a head of more than {self._limits.head_bytes} bytes.")

    def _end_of_connection(self) -> None:
        if self._head_done and self._eof_ends:
            self._ended = self._overrun = True
            return
        raise Broken("The engine closed the connection before its answer was whole.")

    # The parser calls these by name.

    def on_message_begin(self) -> None:
        if self._ended:
            self._overrun = True

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._head_done:
            self._head_bytes += len(name) + len(value)
            if self._head_bytes <= self._limits.head_bytes:
                self._raw_headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if self._ended or status < 200:
            self._raw_headers = []  # 100 Continue and its kin: the answer follows
            return
        self.status = status
        self.headers = _end_to_end(self._raw_headers)
        names = {name for name, _ in self._raw_headers}
        self._eof_ends = b"content-length" not in names and b"transfer-encoding" not in names
        self._keeps_alive = self._parser.should_keep_alive()
        self._head_done = True

    def on_body(self, body: bytes) -> None:
        if self._head_done and not self._ended:
            self._pieces.append(body)

    def on_message_complete(self) -> None:
        if self._head_done:
            self._ended = True


async def _open(endpoint: Endpoint, tls: Callable[[], ssl.SSLContext]) -> Wire:
    stream = await trio.open_tcp_stream(endpoint.host, endpoint.port)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if not endpoint.tls:
        return PlainWire(stream)
    secure = trio.SSLStream(stream, tls(), server_hostname=endpoint.host, https_compatible=True)
    shaken = False
    try:
        await secure.do_handshake()
        shaken = True
    finally:
        if not shaken:
            stream.socket.close()
    return TlsWire(secure)


def _request_head(endpoint: Endpoint, *, method: str, target: str, headers: Headers, length: int) -> bytes:
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    lines = [f"{method} {endpoint.base_path}{target} HTTP/1.1\r\nhost: {host}:{endpoint.port}\r\n".encode("ascii")]
    if endpoint.api_key is not None:
        lines.append(f"authorization: Bearer {endpoint.api_key}\r\n".encode("ascii"))
    lines += [b"%b: %b\r\n" % header for header in headers]
    if length or method != "GET":
        lines.append(b"content-length: %d\r\n" % length)
    lines.append(b"\r\n")
    return b"".join(lines)


def _end_to_end(headers: list[tuple[bytes, bytes]]) -> Headers:
    """Drop the headers of this hop, those that `connection` names among them."""
    named = {token.strip().lower() for name, value in headers if name == b"connection" for token in value.split(b",")}
    return tuple((name, value) for name, value in headers if name not in HOP_BY_HOP and name not in named)


def _reason(error: BaseException) -> str:
    """Name what the system said: several addresses may have been tried, and the first one's failure tells."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno is not None:
            return errno.errorcode.get(cause.errno, str(cause))
        cause = cause.exceptions[0] if isinstance(cause, BaseExceptionGroup) else cause.__cause__
    return type(error).__name__
