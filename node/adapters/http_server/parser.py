"""The requests of one connection, out of its bytes: httptools behind a face of values, with bounds on every part.

Knows no socket, clock or application. llhttp (inside httptools) in its strict mode is what refuses the classic
smuggling tricks: Content-Length beside Transfer-Encoding, repeated lengths, bare line feeds, folded headers, space
before a colon, NULs. What it leaves open is closed here: sizes, the number of headers, Host, the version.
"""

from dataclasses import dataclass

import httptools

HTTP_VERSIONS = frozenset({"1.0", "1.1"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The head of a request.

    Attributes:
        path: raw, without the query, nothing decoded. Of an absolute target only its path remains.
        headers: names in lower case, in the order received.
        keep_alive: whether the client may send another request on this connection.
    """

    method: str
    path: bytes
    query: bytes
    version: str
    headers: tuple[tuple[bytes, bytes], ...]
    keep_alive: bool
    expects_continue: bool


@dataclass(frozen=True, slots=True)
class Body:
    """Bytes of a request's body, without the framing of chunks."""

    data: bytes


@dataclass(frozen=True, slots=True)
class End:
    """The request has been read whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bad:
    """The connection can no longer be read: nothing follows. `kind` names the offence in metrics."""

    status: int
    kind: str
    message: str


Event = Head | Body | End | Bad
_END = End()


class RequestReader:
    """Bytes in, events out. After a `Bad` it stays silent."""

    def __init__(self, *, max_head_bytes: int, max_headers: int) -> None:
        self._max_head_bytes = max_head_bytes
        self._max_headers = max_headers
        self._parser = httptools.HttpRequestParser(self)
        self._events: list[Event] = []
        self._headers: list[tuple[bytes, bytes]] = []
        self._target = b""
        self._head_bytes = 0  # of the name and value bytes of this head, by what the parser has told
        self._header_count = 0
        self._fed_in_head = 0  # of raw bytes since the head began: bounds what the parser holds back as incomplete
        self._in_head = True
        self._begun = False  # a message has, and its head is not whole
        self._completed = False  # a message was, by the bytes fed last
        self._over = False
        self._bad: Bad | None = None

    @property
    def in_head(self) -> bool:
        """Whether some bytes of a head have come, but not all."""
        return self._in_head and self._fed_in_head > 0

    def feed(self, data: bytes) -> list[Event]:
        """Take the connection's next bytes; return what has become known, in order."""
        if self._over:
            return []
        self._events = []
        self._completed = False
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # The request is complete and is answered as if it had not asked for another protocol (RFC 9110, 7.8);
            # whatever follows is in a language that is not spoken here.
            self._over = True
        except httptools.HttpParserError as error:
            self._flaw(Bad(status=400, kind="bad_request", message=_sentence(error)))
        else:
            self._count_head(len(data))
        if self._bad is not None:
            self._over = True
            self._events.append(self._bad)
        return self._events

    def _count_head(self, fed: int) -> None:
        """Bound what the parser holds back of an unfinished head."""
        if not self._in_head:
            return
        if self._completed:
            # How much of these bytes belongs to the head after that message is not told; the next ones count in full.
            self._fed_in_head = int(self._begun)
        else:
            self._fed_in_head += fed
        if self._fed_in_head > self._max_head_bytes:
            self._flaw(self._too_large())

    # The parser calls these by name. A flaw that it would let pass is remembered, as nothing may be raised through C.

    def on_message_begin(self) -> None:  # noqa: D102
        self._headers = []
        self._target = b""
        self._head_bytes = self._header_count = 0
        self._in_head = self._begun = True

    def on_url(self, url: bytes) -> None:  # noqa: D102
        self._target += url
        self._head_bytes += len(url)
        if self._head_bytes > self._max_head_bytes:
            self._flaw(self._too_large())

    def on_header(self, name: bytes, value: bytes) -> None:  # noqa: D102
        self._head_bytes += len(name) + len(value)
        self._header_count += 1
        if self._head_bytes > self._max_head_bytes or self._header_count > self._max_headers:
            self._flaw(self._too_large())
            return
        if self._in_head:  # later ones are trailers: counted against the same bounds, and dropped
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:  # noqa: D102
        self._in_head = self._begun = False
        self._fed_in_head = 0
        version = self._parser.get_http_version()
        if version not in HTTP_VERSIONS:
            self._flaw(Bad(status=505, kind="bad_request", message=f"HTTP/{version} is not spoken here; use HTTP/1.1."))
        fields = dict(self._headers)
        repeated = len(fields) < len(self._headers)
        hosts = sum(name == b"host" for name, _ in self._headers) if repeated else b"host" in fields
        if hosts > 1 or (version == "1.1" and not hosts):
            self._flaw(Bad(status=400, kind="bad_request", message="A request has exactly one Host header."))
        path, query = self._split_target()
        if self._bad is not None:
            return
        self._events.append(
            Head(
                method=self._parser.get_method().decode("ascii"),
                path=path,
                query=query,
                version=version,
                headers=tuple(self._headers),
                keep_alive=self._parser.should_keep_alive() and not self._parser.should_upgrade(),
                expects_continue=fields.get(b"expect", b"").lower() == b"100-continue",
            )
        )

    def on_body(self, body: bytes) -> None:  # noqa: D102
        if self._bad is None:
            self._events.append(Body(body))

    def on_message_complete(self) -> None:  # noqa: D102
        self._in_head = self._completed = True
        if self._bad is None:
            self._events.append(_END)

    def _split_target(self) -> tuple[bytes, bytes]:
        target = self._target
        if not target.startswith(b"/") and b"://" in target:  # absolute form, which RFC 9112 bids servers accept
            try:
                url = httptools.parse_url(target)
            except httptools.HttpParserInvalidURLError:
                self._flaw(Bad(status=400, kind="bad_request", message="The request's address cannot be read."))
                return b"", b""
            return url.path or b"/", url.query or b""
        path, _, query = target.partition(b"?")
        return path, query

    def _flaw(self, bad: Bad) -> None:
        if self._bad is None:
            self._bad = bad

    def _too_large(self) -> Bad:
        return Bad(
            status=431,
            kind="head_too_large",
            message=f"The request's head exceeds {self._max_head_bytes} bytes or {self._max_headers} headers.",
        )


def _sentence(error: httptools.HttpParserError) -> str:
    """Say what the parser found wrong: its own words are fixed sentences and hold nothing of the request."""
    return f"This is not an HTTP request: {str(error).rstrip('.')}."
