"""One connection to an OpenAI server, and the answer that is being received on it: HTTP/1.1, parsed by httptools.

Knows no pool. A request's bytes are not touched, nor are an answer's, but for the framing of chunks, which ends here.
"""

import errno
from dataclasses import dataclass
from math import inf

import httptools
import trio

from node.adapters.upstream.wire import Wire
from node.core.prompt import Headers
from node.errors import Broken

READ_BYTES = 64 * 1024
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
        head_together: for the rest of a head whose first byte is here. Engines say a head in one piece: one that says
            it byte by byte is as good as silent, and nobody behind could tell that from a long prefill.
        head_bytes: of an answer's head; vLLM's are some 200.
    """

    open: int = 512
    idle: int = 64
    idle_seconds: float = 4.0
    connect_seconds: float = 5.0
    send_stall: float = 30.0
    head_seconds: float = 600.0
    body_idle_seconds: float = 600.0
    head_together: float = 5.0
    head_bytes: int = 64 * 1024


class Ear:
    """When anything was last heard of one endpoint, on any connection: the loop's time, None if never."""

    __slots__ = ("heard_at",)

    def __init__(self) -> None:
        self.heard_at: float | None = None


class Connection:
    """One connection, and the answer that is being received on it (`node.ports.Answer`)."""

    def __init__(self, wire: Wire, ear: Ear, *, limits: UpstreamLimits) -> None:
        self.idle_since = inf
        self._ear = ear
        self._wire = wire
        self._limits = limits
        self._now = trio.lowlevel.current_clock().current_time  # as trio.current_time, by two steps less
        self._parser = httptools.HttpResponseParser(self)
        self._fresh()

    def _fresh(self) -> None:
        self.received_anything = False
        self.status = 0
        self.headers = ()
        self._raw_headers: list[tuple[bytes, bytes]] = []
        self._pieces: list[bytes] = []
        self._head_done = False
        self._in_head = False  # of its beginning something is here
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
        await self._read_head()

    async def _read_head(self) -> None:
        until, together = self._now() + self._limits.head_seconds, inf
        try:
            while not self._head_done:
                await self._read(min(until, together))
                if not self._in_head:
                    together = inf  # a kin of 100 Continue is over, and the answer's head has not begun
                elif together == inf:
                    together = self._now() + self._limits.head_together
        except trio.TooSlowError as error:
            if together < until:
                raise Broken("The engine's answer trickles in, a few bytes a second.") from error
            raise Broken(f"The engine gave no answer in {self._limits.head_seconds:.0f} s.") from error

    async def receive(self) -> bytes:
        """`node.ports.Answer.receive`."""
        if not self._pieces and not self._ended and self._broken is None:
            await self._read_body()
        if not self._pieces and self._broken is not None:
            raise self._broken
        pieces, self._pieces = self._pieces, []
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def _read_body(self) -> None:
        until = self._now() + self._limits.body_idle_seconds
        try:
            while not self._pieces and not self._ended:
                await self._read(until)
        except trio.TooSlowError as error:
            raise Broken(f"The engine fell silent for {self._limits.body_idle_seconds:.0f} s.") from error
        except Broken as error:
            self._broken = error  # told after what came whole before it

    async def _read(self, until: float) -> None:
        try:
            data = await self._wire.receive(READ_BYTES, until=until)
        except (OSError, trio.BrokenResourceError) as error:
            raise Broken(f"The connection to the engine broke: {reason(error)}.") from error
        if not data:
            self._end_of_connection()
            return
        self._ear.heard_at = self._now()
        self.received_anything = True
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
            self._bound_head()
        elif self._head_bytes > self._limits.head_bytes:
            self._bound_head()

    def _bound_head(self) -> None:
        if max(self._head_bytes, self._fed_in_head) > self._limits.head_bytes:
            raise Broken(f"The engine sent a head of more than {self._limits.head_bytes} bytes.")

    def _end_of_connection(self) -> None:
        if self._head_done and self._eof_ends:
            self._ended = self._overrun = True
            return
        raise Broken("The engine closed the connection before its answer was whole.")

    # The parser calls these by name.

    def on_message_begin(self) -> None:  # noqa: D102
        self._in_head = True
        if self._ended:
            self._overrun = True

    def on_header(self, name: bytes, value: bytes) -> None:  # noqa: D102
        if not self._head_done:
            self._head_bytes += len(name) + len(value)
            if self._head_bytes <= self._limits.head_bytes:
                self._raw_headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:  # noqa: D102
        self._in_head = False
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

    def on_body(self, body: bytes) -> None:  # noqa: D102
        if self._head_done and not self._ended:
            self._pieces.append(body)

    def on_message_complete(self) -> None:  # noqa: D102
        if self._head_done:
            self._ended = True


def _end_to_end(headers: list[tuple[bytes, bytes]]) -> Headers:
    """Drop the headers of this hop, those that `connection` names among them."""
    named = {token.strip().lower() for name, value in headers if name == b"connection" for token in value.split(b",")}
    return tuple([each for each in headers if each[0] not in HOP_BY_HOP and each[0] not in named])


def reason(error: BaseException) -> str:
    """Name what the system said: several addresses may have been tried, and the first one's failure tells."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno is not None:
            return errno.errorcode.get(cause.errno, str(cause))
        cause = cause.exceptions[0] if isinstance(cause, BaseExceptionGroup) else cause.__cause__
    return type(error).__name__
