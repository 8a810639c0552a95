"""An upstream whose answers a test scripts, piece by piece, and which notes who left early."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from node.core.prompt import Headers
from node.errors import Broken
from node.ports import Answer, Endpoint

JSON: Headers = ((b"content-type", b"application/json"),)
EVENTS: Headers = ((b"content-type", b"text/event-stream; charset=utf-8"),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What was sent."""

    method: str
    target: str
    headers: Headers
    body: bytes
    endpoint: Endpoint | None = None

    def header(self, name: bytes) -> bytes | None:
        return next((value for key, value in self.headers if key == name), None)


@dataclass(slots=True)
class Script:
    """One answer: each piece is bytes to deliver, something to wait for, or the error that ends it.

    `head` is waited for before the answer's head (a prefill).
    """

    pieces: list[bytes | Broken | Callable[[], Awaitable[object]]] = field(default_factory=list)
    status: int = 200
    headers: Headers = JSON
    head: Callable[[], Awaitable[object]] | None = None
    no_head: Broken | None = None


class FakeAnswer:
    """`node.ports.Answer` from a script."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._left = list(script.pieces)
        self.status = script.status
        self.headers = script.headers

    async def receive(self) -> bytes:
        await trio.lowlevel.checkpoint()
        while self._left:
            piece = self._left[0]
            if isinstance(piece, Broken):
                raise piece
            del self._left[0]
            if isinstance(piece, bytes):
                return piece
            await piece()
        return b""

    @property
    def whole(self) -> bool:
        return not self._left


class FakeUpstream:
    """Answers with `script`, or with what `answer_with` returns for a request."""

    def __init__(self, script: Script | None = None) -> None:
        self.requests: list[Request] = []
        self.left_early = 0
        self.at_work = 0
        self.closed = False
        self.answer_with: Callable[[Request], Script] = lambda _: script or Script([b"{}"])

    @asynccontextmanager
    async def send(
        self, endpoint: Endpoint | None, *, method: str, target: str, headers: Headers, body: bytes
    ) -> AsyncIterator[Answer]:
        request = Request(method=method, target=target, headers=headers, body=body, endpoint=endpoint)
        self.requests.append(request)
        script = self.answer_with(request)
        answer = FakeAnswer(script)
        self.at_work += 1
        entered = False
        try:
            await trio.lowlevel.checkpoint()
            if script.head is not None:
                await script.head()
            if script.no_head is not None:
                entered = True  # its own fault, nobody left
                raise script.no_head
            yield answer
            entered = answer.whole
        except Broken:
            entered = True
            raise
        finally:
            self.at_work -= 1
            if not entered:
                self.left_early += 1

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()
        self.closed = True
