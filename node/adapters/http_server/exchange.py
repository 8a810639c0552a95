"""One request and its answer on a connection: ASGI's `receive` and `send`, and how an answer is framed.

Knows neither sockets nor what other requests the connection carries; it asks the connection to read and to write.

Beyond ASGI it offers one thing, as an extension named `CANCEL_WHEN_GONE`: an application that calls it is cancelled
where it stands once its client has left, and need not keep a task in `receive` to hear of it. A task for that costs
as much as everything else that an answer does.
"""

import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, Final, Protocol

import trio

from node.adapters.http_server.parser import Head
from node.adapters.http_server.wire import REASONS, error_body, http_date

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

CANCEL_WHEN_GONE: Final = "metainf.cancel_when_gone"  # key in a scope's extensions; its value is called without words


class Wire(Protocol):
    """What an exchange needs of its connection."""

    async def write(self, data: bytes) -> None:
        """Send bytes to the client; silently nothing once it cannot be reached."""
        ...

    async def read(self) -> None:
        """Take in what the client sends next of the running request's body, or that it sends no more."""
        ...

    def yields(self) -> None:
        """Take note that the running application may be cancelled once its client has left."""
        ...

    def ending(self, exchange: "Exchange") -> bool:
        """Tell whether the connection closes behind this answer, as its head must say."""
        ...

    def shut_down(self) -> None:
        """Take no further request on the connection."""
        ...


class Exchange:
    """One request and its answer: the two ends of ASGI."""

    __slots__ = (
        "_bodiless", "_body", "_chunked", "_connection", "_end_told", "_invited", "_left", "_over", "_start",
        "body_done", "complete", "gone", "head", "started",
    )  # fmt: skip

    def __init__(self, connection: Wire, head: Head) -> None:
        self.head = head
        self.body_done = False
        self.gone = False  # nobody reads the answer any more
        self.started = False  # the answer's head is on its way
        self.complete = False
        self._connection = connection
        self._body: list[bytes] = []
        self._end_told = False
        self._invited = False  # to send its body, if it asked for that
        self._over: trio.Event | None = None  # somebody waits for `gone` or `complete`
        self._start: Message | None = None
        self._chunked = False
        self._bodiless = False
        self._left: int | None = None  # bytes still owed by a declared Content-Length

    def scope(self, client: tuple[str, int] | None, server: tuple[str, int] | None) -> dict[str, Any]:
        """Describe the request in ASGI's terms."""
        head = self.head
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": head.version,
            "method": head.method,
            "scheme": "http",
            "path": head.path.decode("ascii"),
            "raw_path": head.path,
            "query_string": head.query,
            "root_path": "",
            "headers": list(head.headers),
            "client": client,
            "server": server,
            "extensions": {CANCEL_WHEN_GONE: self._connection.yields},
        }

    @property
    def ends_with_connection(self) -> bool:
        """Whether only the close of the connection tells the client that the answer is over."""
        return self.started and not self._bodiless and not self._chunked and self._left is None

    def add_body(self, data: bytes) -> None:
        """Take bytes of the body."""
        self._body.append(data)

    def end_body(self) -> None:
        """Note that the body is whole."""
        self.body_done = True

    def disconnect(self) -> None:
        """Note that nobody reads the answer any more."""
        self.gone = True
        if self._over is not None:
            self._over.set()

    async def receive(self) -> Message:
        """ASGI's receive: what there is of the body, in one message; then `http.disconnect`, once it is so."""
        while True:
            if self.gone or self.complete:
                return {"type": "http.disconnect"}
            if self._body or (self.body_done and not self._end_told):
                data = self._body[0] if len(self._body) == 1 else b"".join(self._body)
                self._body.clear()
                self._end_told = self.body_done
                return {"type": "http.request", "body": data, "more_body": not self.body_done}
            if self.body_done:
                self._over = self._over or trio.Event()
                await self._over.wait()
                continue
            if self.head.expects_continue and not (self._invited or self.started):
                self._invited = True
                await self._connection.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            await self._connection.read()

    async def send(self, message: Message) -> None:
        """ASGI's send. The head goes out with the first bytes of the body. Does nothing once the client is gone."""
        if self.complete or (self.gone and not self.started):
            return
        if message["type"] == "http.response.start":
            self._start = message
            return
        if message["type"] != "http.response.body" or self._start is None:
            raise RuntimeError(f"The application sent {message['type']} out of order.")
        data: bytes = message.get("body", b"")
        more: bool = message.get("more_body", False)
        if self.started:
            out = self._frame(data, more=more)
        else:
            head = self._head(len(data), more=more)
            self.started = True
            out = head + self._frame(data, more=more)
        if out:
            await self._connection.write(out)
        if not more:
            self.complete = not self._left
            if self._over is not None:
                self._over.set()

    async def send_error(self, status: int, message: str) -> None:
        """Answer in the server's own words, because the application has none."""
        body = error_body(status, message)
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        self._start = {"type": "http.response.start", "status": status, "headers": headers}
        await self.send({"type": "http.response.body", "body": body})

    def _head(self, first_bytes: int, *, more: bool) -> bytes:
        assert self._start is not None  # noqa: S101  # `send` has looked
        status: int = self._start["status"]
        block, length = _sendable(self._start.get("headers", ()))
        lines = [b"HTTP/1.1 %d %s\r\n" % (status, _REASONS.get(status, b"Status")), block]
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
        if self._chunked:
            framed = b"%x\r\n%b\r\n" % (len(data), data) if data else b""
            return framed if more else framed + b"0\r\n\r\n"
        if self._bodiless:
            return b""
        if self._left is not None:
            data = data[: self._left]
            self._left -= len(data)
        return data


_BREAK: Final = re.compile(rb"[\r\n\0]")
_SERVERS_OWN: Final = frozenset({b"connection", b"transfer-encoding", b"server", b"date"})
_REASONS: Final = {status: reason.encode("ascii") for status, reason in REASONS.items()}


def _sendable(headers: Iterable[tuple[bytes, bytes]]) -> tuple[bytes, int | None]:
    """Write an application's headers; return them with the content-length that they declare.

    Left out are those that the server writes itself, and those with a line break in their value: whoever chose such a
    value would write headers, or a whole answer, of his own.
    """
    length: int | None = None
    lines: list[bytes] = []
    for name, value in headers:
        lowered = name.lower()
        if lowered not in _SERVERS_OWN:
            if lowered == b"content-length":
                length = int(value)
            lines.append(b"%b: %b\r\n" % (lowered, value))
    block = b"".join(lines)
    # One look at all of them, as nearly always nothing is wrong: each line has its own break and no other.
    if block.count(b"\n") != len(lines) or block.count(b"\r") != len(lines) or b"\0" in block:
        block = b"".join([line for line in lines if _BREAK.search(line, 0, len(line) - 2) is None])
    return block, length
