"""The way to OpenAI servers: HTTP/1.1 connections, kept and used again.

Knows nothing of prompts or engines; one connection is `node.adapters.upstream.connection`. Leaving an answer early
closes its connection at once: that is how a server learns that nobody waits any more. A connection is used again only
after an answer that ended where it should.

The keep-alive race. A server may close an idle connection in the moment in which a request is sent on it; then not a
byte comes back. Such a request is sent once more, on a fresh connection, but only when the connection had been used
before and the end came within `RACE_SECONDS`: a server that dies later has had the prompt, and is not asked twice.
"""

import socket
import ssl
from collections import deque
from collections.abc import Callable
from math import inf
from types import TracebackType

import trio

from node.adapters.upstream.connection import Connection, Ear, UpstreamLimits, reason
from node.adapters.upstream.timekeeper import Timekeeper
from node.adapters.upstream.wire import PlainWire, TlsWire, Wire
from node.core.prompt import Headers
from node.errors import Broken, Unreached
from node.ports import Answer, Endpoint

RACE_SECONDS = 1.0
ENDPOINTS_REMEMBERED = 64  # a restarted engine listens elsewhere, so old endpoints must not pile up


class _Place:
    """An endpoint: what every request to it says, and its idle connections, the most recently used last."""

    __slots__ = ("ear", "endpoint", "forgotten", "idle", "said")

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.forgotten = False  # nothing is kept here any more
        self.ear = Ear()
        self.idle: deque[Connection] = deque()
        host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
        self.said = f" HTTP/1.1\r\nhost: {host}:{endpoint.port}\r\n"
        if endpoint.api_key is not None:
            self.said += f"authorization: Bearer {endpoint.api_key}\r\n"

    def prune(self, before: float) -> None:
        """Close what nobody has used since a moment."""
        while self.idle and self.idle[0].idle_since < before:
            self.idle.popleft().close()


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
        self._places: dict[Endpoint, _Place] = {}
        self._latest: _Place | None = None  # mostly there is one engine
        self._timekeeper = Timekeeper()
        self._timekeeper.add(self)

    def last_activity(self, endpoint: Endpoint) -> float | None:
        """Tell the loop's time of the last byte received from an endpoint; None if there never was one."""
        return max(
            (
                place.ear.heard_at
                for place in self._places.values()
                if (place.endpoint.host, place.endpoint.port) == (endpoint.host, endpoint.port)
                and place.ear.heard_at is not None
            ),
            default=None,
        )

    async def keep_time(self) -> None:
        """Keep the deadlines of all exchanges until cancelled; without it each wait sets a timer, which costs more."""
        await self._timekeeper.run()

    def send(self, endpoint: Endpoint, *, method: str, target: str, headers: Headers, body: bytes) -> "_Sending":
        """`node.ports.Upstream.send`."""
        place = self._latest
        if place is None or place.endpoint is not endpoint:
            place = self._latest = self._place(endpoint)
        return _Sending(self, place, _request_head(place, method, target, headers, len(body)), body)

    async def aclose(self) -> None:
        """Close what the pool holds idle."""
        for place in self._places.values():
            place.prune(inf)
        await trio.lowlevel.checkpoint()

    def look(self, now: float) -> None:
        """Let idle connections go in time (`Timekeeper`)."""
        for place in self._places.values():
            place.prune(now - self._limits.idle_seconds)

    # What follows is `_Sending`'s.

    async def begin(self, place: _Place, head: bytes, body: bytes) -> Connection:
        """Send a request; return the connection on which its answer has begun.

        Raises:
            Broken: see `node.ports.Upstream.send`. Nothing is then left to be ended.
        """
        try:
            self._slots.acquire_nowait()
        except trio.WouldBlock:
            await self._await_slot()
        answers = False
        try:
            connection = await self._exchange(place, head, body)
            answers = True
        finally:
            if not answers:
                self._slots.release()
        return connection

    def end(self, place: _Place, connection: Connection) -> None:
        """Keep the connection, or close it where its answer was left early."""
        self._slots.release()
        if place.forgotten or not connection.reusable:
            connection.close()
            return
        connection.idle_since = trio.current_time()
        place.idle.append(connection)
        place.prune(connection.idle_since - self._limits.idle_seconds)
        if len(place.idle) > self._limits.idle or len(self._places) > 1:
            self._hold_idle()

    async def _await_slot(self) -> None:
        with trio.move_on_after(self._limits.connect_seconds) as patience:
            await self._slots.acquire()
        if patience.cancelled_caught:
            raise Unreached("Too many requests wait for the engine's answers.", remedy="Ask again later.")

    def _place(self, endpoint: Endpoint) -> _Place:
        place = self._places.get(endpoint)
        if place is None:
            self.look(trio.current_time())
            if len(self._places) >= ENDPOINTS_REMEMBERED:
                self._forget()
            place = self._places[endpoint] = _Place(endpoint)
        return place

    def _forget(self) -> None:
        """Forget the endpoint that was silent for longest."""
        quietest = min(self._places.values(), key=lambda place: place.ear.heard_at or -inf)
        quietest.prune(inf)
        quietest.forgotten = True
        if self._latest is quietest:
            self._latest = None
        del self._places[quietest.endpoint]

    def _hold_idle(self) -> None:
        """Close the longest unused beyond as many as are kept, all endpoints together."""
        while sum(len(place.idle) for place in self._places.values()) > self._limits.idle:
            min(
                (place for place in self._places.values() if place.idle), key=lambda place: place.idle[0].idle_since
            ).idle.popleft().close()

    async def _exchange(self, place: _Place, head: bytes, body: bytes) -> Connection:
        now = trio.current_time()
        connection = self._take_idle(place, now)
        if connection is not None:
            try:
                return await self._ask(connection, head, body)
            except Broken:
                raced = not connection.received_anything and trio.current_time() - now <= RACE_SECONDS
                if not raced:
                    raise
        return await self._ask(await self._connect(place), head, body)

    async def _ask(self, connection: Connection, head: bytes, body: bytes) -> Connection:
        answers = False
        try:
            await connection.request(head, body)
            answers = True
        finally:
            if not answers:
                connection.close()  # cancelled or broken: a half-told request leaves nothing to use again
        return connection

    async def _connect(self, place: _Place) -> Connection:
        try:
            with trio.fail_after(self._limits.connect_seconds):
                wire = await _open(place.endpoint, self._tls, self._timekeeper)
        except trio.TooSlowError as error:
            raise Unreached("The engine did not take a connection in time.") from error
        except (OSError, trio.BrokenResourceError) as error:
            raise Unreached(f"The engine cannot be reached: {reason(error)}.") from error
        return Connection(wire, place.ear, limits=self._limits)

    def _take_idle(self, place: _Place, now: float) -> Connection | None:
        place.prune(now - self._limits.idle_seconds)
        while place.idle:
            connection = place.idle.pop()
            if not connection.is_stale():
                return connection
            connection.close()
        return None


class _Sending:
    """One request, as a context: entered with its answer's head, left with the connection kept or closed."""

    __slots__ = ("_body", "_connection", "_head", "_place", "_pool")

    def __init__(self, pool: UpstreamPool, place: _Place, head: bytes, body: bytes) -> None:
        self._pool = pool
        self._place = place
        self._head = head
        self._body = body
        self._connection: Connection | None = None

    async def __aenter__(self) -> Answer:
        self._connection = await self._pool.begin(self._place, self._head, self._body)
        return self._connection

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._connection is not None:
            self._pool.end(self._place, self._connection)


async def _open(endpoint: Endpoint, tls: Callable[[], ssl.SSLContext], timekeeper: Timekeeper) -> Wire:
    stream = await trio.open_tcp_stream(endpoint.host, endpoint.port)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if not endpoint.tls:
        return PlainWire(stream, timekeeper)
    secure = trio.SSLStream(stream, tls(), server_hostname=endpoint.host, https_compatible=True)
    shaken = False
    try:
        await secure.do_handshake()
        shaken = True
    finally:
        if not shaken:
            stream.socket.close()
    return TlsWire(secure)


def _request_head(place: _Place, method: str, target: str, headers: Headers, length: int) -> bytes:
    lines = [f"{method} {place.endpoint.base_path}{target}{place.said}".encode("ascii")]
    lines += [b"%b: %b\r\n" % header for header in headers]
    lines.append(b"content-length: %d\r\n\r\n" % length if length or method != "GET" else b"\r\n")
    return b"".join(lines)
