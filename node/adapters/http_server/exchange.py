"""One request and its answer on a connection: ASGI's `receive` and `send`, and how an answer is framed.

Knows neither sockets nor what other requests the connection carries; it asks the connection to write.
"""

import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping
from typing import Any, Protocol

import trio

from node.adapters.http_server.parser import Head
from node.adapters.http_server.wire import REASONS, error_body, http_date

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]


class Wire(Protocol):
    """What an exchange needs of its connection."""

    async def write(self, data: bytes) -> None:
        """Send bytes to the client; silently nothing once it cannot be reached."""
        ...

    def wake(self) -> None:
        """Tell the reader that the application has taken some of its request's body."""
        ...

    def ending(self, exchange: "Exchange") -> bool:
        """Tell whether the connection closes behind this answer, as its head must say."""
        ...

    def shut_down(self) -> None:
        """Take no further request on the connection."""
        ...


class Exchange:
    """One request and its answer: the two ends of ASGI."""

    def __init__(self, connection: Wire, head: Head) -> None:
        self.head = head
        self.buffered = 0  # body bytes that the application has not taken
        self.body_done = False
        self.gone = False  # nobody reads the answer any more
        self.started = False  # the answer's head is on its way
        self.complete = False
        self._connection = connection
        self._body: list[bytes] = []
        self._end_told = False
        self._changed = trio.Event()
        self._start: Message | None = None
        self._chunked = False
        self._bodiless = False
        self._left: int | None = None  # bytes still owed by a declared Content-Length

    def scope(self, client: tuple[str, int] | None, server: tuple[str, int] | None) -> dict[str, Any]:
        """Describe the request in ASGI's terms."""
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": self.head.version,
            "method": self.head.method,
            "scheme": "http",
            "path": self.head.path.decode("ascii"),
            "raw_path": self.head.path,
            "query_string": self.head.query,
            "root_path": "",
            "headers": list(self.head.headers),
            "client": client,
            "server": server,
            "extensions": {},
        }

    @property
    def ends_with_connection(self) -> bool:
        """Whether only the close of the connection tells the client that the answer is over."""
        return self.started and not self._bodiless and not self._chunked and self._left is None

    def add_body(self, data: bytes) -> None:
        """Take body bytes from the reader."""
        self._body.append(data)
        self.buffered += len(data)
        self._changed.set()

    def end_body(self) -> None:
        """Note that the body is whole."""
        self.body_done = True
        self._changed.set()

    def disconnect(self) -> None:
        """Note that nobody reads the answer any more."""
        self.gone = True
        self._changed.set()

    async def receive(self) -> Message:
        """ASGI's receive. Body bytes are joined into one message; then `http.disconnect`, once it is so."""
        if self.head.expects_continue and not (self._body or self.body_done or self.started or self.gone):
            await self._connection.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        while True:
            if self.gone or self.complete:
                return {"type": "http.disconnect"}
            if self._body or (self.body_done and not self._end_told):
                data = b"".join(self._body)
                self._body.clear()
                self.buffered = 0
                self._end_told = self.body_done
                self._connection.wake()
                return {"type": "http.request", "body": data, "more_body": not self.body_done}
            self._changed = trio.Event()
            await self._changed.wait()

    async def send(self, message: Message) -> None:
        """ASGI's send. The head goes out with the first bytes of the body. Does nothing once the client is gone."""
        if self.complete or (self.gone and not self.started):
            return
        if message["type"] == "http.response.start":
            self._start = message
            return
        if message["type"] != "http.response.body" or self._start is None:
            raise RuntimeError(f"The application sent {message['type']} out of order.")
        data = bytes(message.get("body", b""))
        more = bool(message.get("more_body", False))
        head = b""
        if not self.started:
            head = self._head(len(data), more=more)
            self.started = True
        await self._connection.write(head + self._frame(data, more=more))
        if not more:
            self.complete = not self._left
            self._changed.set()

    async def send_error(self, status: int, message: str) -> None:
        """Answer in the server's own words, because the application has none."""
        body = error_body(status, message)
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        self._start = {"type": "http.response.start", "status": status, "headers": headers}
        await self.send({"type": "http.response.body", "body": body})

    def _head(self, first_bytes: int, *, more: bool) -> bytes:
        assert self._start is not None  # noqa: S101  # `send` has looked
        status = int(self._start["status"])
        lines = [b"HTTP/1.1 %d %s\r\n" % (status, REASONS.get(status, "Status").encode("ascii"))]
        lines += [b"%s: %s\r\n" % header for header in _sendable(self._start.get("headers", ()))]
        length = _declared_length(self._start.get("headers", ()))
        never_has_body = status in {204, 304}
        if length is None and not more and not never_has_body:
            length = first_bytes
            lines.append(b"content-length: %d\r\n" % length)
        self._bodiless = never_has_body or self.head.method == "HEAD"
        if not self._bodiless:
            self._left = length
            self._chunked = length is None and self.head.version == "1.1"
        if self._chunked:
            lines.append(b"transfer-encoding: chunked\r\n")
        elif length is None and not self._bodiless:
            self._connection.shut_down()  # an HTTP/1.0 client reads to the end of the connection
        lines.append(b"date: %s\r\nserver: metainf\r\n" % http_date(trio.current_time()))
        if self._connection.ending(self):
            lines.append(b"connection: close\r\n")
        elif self.head.version == "1.0":
            lines.append(b"connection: keep-alive\r\n")
        lines.append(b"\r\n")
        return b"".join(lines)

    def _frame(self, data: bytes, *, more: bool) -> bytes:
        if self._bodiless:
            return b""
        if self._left is not None:
            data = data[: self._left]
            self._left -= len(data)
            return data
        if not self._chunked:
            return data
        framed = b"%x\r\n%b\r\n" % (len(data), data) if data else b""
        return framed if more else framed + b"0\r\n\r\n"


_BREAK = re.compile(rb"[\r\n\0]")
_SERVERS_OWN = frozenset({b"connection", b"transfer-encoding", b"server", b"date"})


def _sendable(headers: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
    """Leave out the headers that the server writes itself, and those with a line break in their value.

    Whoever chose such a value would write headers, or a whole answer, of his own.
    """
    for name, value in headers:
        lowered = bytes(name).lower()
        if lowered not in _SERVERS_OWN and _BREAK.search(value) is None:
            yield lowered, value


def _declared_length(headers: Iterable[tuple[bytes, bytes]]) -> int | None:
    for name, value in headers:
        if name.lower() == b"content-length":
            return int(value)
    return None
