"""HTTP by hand, for tests that must see and send exact bytes: a client's side, and a server that plays a script."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import httptools
import trio

from node.adapters.http_server.connection import ServerLimits
from node.adapters.http_server.exchange import App
from node.adapters.http_server.server import TcpBind, serve

PATIENCE = 20.0  # seconds of the real clock that any step may take on a busy machine


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait for what no event tells: the kernel's doings, and those of the far side of a socket."""
    with trio.fail_after(PATIENCE):
        while not condition():  # noqa: ASYNC110  # see above
            await trio.sleep(0.005)


@dataclass(slots=True)
class RawResponse:
    """One response as it came."""

    status: int = 0
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    pieces: list[bytes] = field(default_factory=list)
    complete: bool = False

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    def header(self, name: bytes) -> bytes | None:
        return next((value for key, value in self.headers if key.lower() == name), None)


class RawClient:
    """One connection to a server under test."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._responses: list[RawResponse] = []
        self._parser = httptools.HttpResponseParser(self)
        self._eof = False
        self._told = 0

    def on_message_begin(self) -> None:
        self._responses.append(RawResponse())

    def on_header(self, name: bytes, value: bytes) -> None:
        self._responses[-1].headers.append((name, value))

    def on_headers_complete(self) -> None:
        self._responses[-1].status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        self._responses[-1].pieces.append(body)

    def on_message_complete(self) -> None:
        self._responses[-1].complete = True

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def more(self) -> bool:
        """Read once; False at the end of the connection."""
        with trio.fail_after(PATIENCE):
            try:
                data = await self.stream.receive_some(65536)
            except trio.BrokenResourceError:
                data = b""
        if not data:
            self._eof = True
            return False
        self._parser.feed_data(data)
        return True

    async def response(self) -> RawResponse:
        """The next response, whole, or as far as it came before the connection ended."""
        while len(self._responses) <= self._told or not self._responses[self._told].complete:
            if not await self.more():
                break
        assert len(self._responses) > self._told, "the connection ended without a response"
        self._told += 1
        return self._responses[self._told - 1]

    async def next_piece(self) -> bytes:
        """All of the current response's body so far unread, waiting for at least a byte."""
        while len(self._responses) <= self._told or not self._responses[self._told].pieces:
            if not await self.more():
                return b""
        pieces = self._responses[self._told].pieces
        data = b"".join(pieces)
        pieces.clear()
        return data

    async def at_end(self) -> bool:
        """Whether the server closes the connection, nothing more coming before."""
        count = len(self._responses)
        return not await self.more() and len(self._responses) == count

    async def aclose(self) -> None:
        await self.stream.aclose()


@asynccontextmanager
async def connected(bind: TcpBind) -> AsyncIterator[RawClient]:
    stream = await trio.open_tcp_stream(bind.host, bind.port)
    client = RawClient(stream)
    try:
        yield client
    finally:
        await trio.aclose_forcefully(stream)


class Reports:
    """Keeps what a server tells."""

    def __init__(self) -> None:
        self.offences: list[str] = []
        self.defects: list[Exception] = []

    def offence(self, kind: str) -> None:
        self.offences.append(kind)

    def defect(self, error: Exception) -> None:
        self.defects.append(error)


@dataclass(slots=True)
class Served:
    """A server under test. Setting `stop` shuts it down in order; `ended` is set once it has."""

    bind: TcpBind
    reports: Reports
    stop: trio.Event
    ended: trio.Event


@asynccontextmanager
async def serving(app: App, limits: ServerLimits | None = None) -> AsyncIterator[Served]:
    """Serve an application on a free port of loopback."""
    reports, stop, ended = Reports(), trio.Event(), trio.Event()

    async def run(task_status: trio.TaskStatus[TcpBind]) -> None:
        await serve(
            app,
            bind=TcpBind(host="127.0.0.1", port=0),
            reports=reports,
            stop=stop.wait,
            limits=limits or ServerLimits(),
            task_status=task_status,  # pyright: ignore[reportArgumentType]
        )
        ended.set()

    async with trio.open_nursery() as nursery:
        bind = await nursery.start(run)
        try:
            yield Served(bind=bind, reports=reports, stop=stop, ended=ended)
        finally:
            nursery.cancel_scope.cancel()


Play = Callable[[trio.SocketStream, int], Awaitable[None]]


@asynccontextmanager
async def playing(play: Play) -> AsyncIterator[int]:
    """Accept connections on loopback and play a script on each; yields the port.

    `play` gets the stream and the connection's number from 0; the stream is closed when it returns.
    """
    numbers = iter(range(1_000_000))

    async def handle(stream: trio.SocketStream) -> None:
        async with stream:
            with suppress(trio.BrokenResourceError):  # the client has left, which is what many tests are about
                await play(stream, next(numbers))

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, handle, 0)
        try:
            yield listeners[0].socket.getsockname()[1]
        finally:
            nursery.cancel_scope.cancel()


async def read_request(stream: trio.SocketStream) -> tuple[bytes, bytes]:
    """Read one request with a Content-Length or none; its head and its body. b"", b"" at the end."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = await stream.receive_some(65536)
        if not piece:
            return b"", b""
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    while len(body) < length:
        body += await stream.receive_some(65536)
    return head, body
