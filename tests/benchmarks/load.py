"""A load generator: some connections, each asking again as soon as it is answered, until the time is up.

Knows HTTP and server-sent events and nothing of what answers. It costs about as much as the instant engine, a
fraction of any gateway written in Python; it runs apart from the processes whose CPU is counted.
"""

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import urlsplit

import httptools

EVENT_END = b"\n\n"
ANSWER_WITHIN_S = 30.0  # a slower answer is a failure, not a sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What is asked, over and over.

    Attributes:
        tokens: events in each stream; None asks for a whole answer.
        concurrency: connections, each with one request at a time.
        seconds: no request begins later than that.
        prompt_bytes: of the message; None for a short one.
        fields: of the body, besides.
        spread: seconds over which the connections begin, so that they do not go in step.
    """

    url: str
    model: str
    tokens: int | None
    concurrency: int
    seconds: float
    api_key: str = "none"
    prompt_bytes: int | None = None
    fields: tuple[tuple[str, float], ...] = ()
    spread: float = 0.0


@dataclass(slots=True)
class Samples:
    """What was seen, in seconds, one entry per request.

    Attributes:
        gaps: between an event and the next of its stream, as they arrive; 0 where they come in one piece.
        pieces: HTTP chunks in which the answers came.
        body_bytes: of the answers.
        elapsed: from the first request to the end of the last answer.
    """

    whole: list[float] = field(default_factory=list)
    first_byte: list[float] = field(default_factory=list)  # of the body
    events: int = 0
    gaps: list[float] = field(default_factory=list)
    pieces: int = 0
    body_bytes: int = 0
    elapsed: float = 0.0


class LoadFailed(Exception):
    """An answer was not 200, was not whole, or did not come at all or in time."""


class _Client(asyncio.Protocol):
    """One connection. httptools calls the `on_` methods."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._done: asyncio.Future[None] | None = None
        self.began = 0.0
        self.first: float | None = None
        self.body = bytearray()
        self.gaps: list[float] = []
        self.pieces = 0
        self._last = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but its class

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._done is not None and not self._done.done():
            self._done.set_exception(LoadFailed("the connection was closed before the answer's end"))

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_chunk_header(self) -> None:
        self.pieces += 1

    def on_body(self, body: bytes) -> None:
        now = time.perf_counter()
        if self.first is None:
            self.first = self._last = now
        if body.endswith(EVENT_END):
            self.gaps.append(now - self._last)
            self.gaps += [0.0] * (body.count(EVENT_END) - 1)
            self._last = now
        self.body += body

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if self._done is None or self._done.done():
            return
        if status == 200:
            self._done.set_result(None)
        else:
            self._done.set_exception(LoadFailed(f"status {status}: {bytes(self.body[:300])!r}"))

    @property
    def connected(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    async def ask(self, request: bytes) -> None:
        """Send one request; return when its answer is whole."""
        assert self._transport is not None
        self._parser = httptools.HttpResponseParser(self)
        self._done = asyncio.get_running_loop().create_future()
        self.first = None
        self.body.clear()
        self.gaps.clear()
        self.pieces = 0
        self.began = time.perf_counter()
        self._transport.write(request)
        async with asyncio.timeout(ANSWER_WITHIN_S):
            await self._done


def request_bytes(work: Work) -> bytes:
    """Return the request as it goes on the wire."""
    said = "Say something. " * 8 if work.prompt_bytes is None else "x" * work.prompt_bytes
    body: dict[str, object] = {
        "model": work.model,
        "messages": [{"role": "user", "content": said}],
        **dict(work.fields),
    }
    body |= {"stream": True, "max_tokens": work.tokens} if work.tokens else {"max_tokens": 1}
    encoded = json.dumps(body).encode()
    place = urlsplit(work.url)
    head = (
        f"POST {place.path}/v1/chat/completions HTTP/1.1\r\nhost: {place.netloc}\r\n"
        f"authorization: Bearer {work.api_key}\r\ncontent-type: application/json\r\n"
        f"accept: */*\r\ncontent-length: {len(encoded)}\r\n\r\n"
    )
    return head.encode() + encoded


async def load(work: Work) -> Samples:
    """Ask until the time is up and every answer is whole.

    Raises:
        LoadFailed: as soon as one answer is not what it should be.
    """
    samples = Samples()
    began = time.perf_counter()
    until = began + work.seconds
    try:
        async with asyncio.TaskGroup() as group:
            for number in range(work.concurrency):
                group.create_task(_keep_asking(work, until, samples, wait=work.spread * number / work.concurrency))
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    samples.elapsed = time.perf_counter() - began
    return samples


async def _keep_asking(work: Work, until: float, samples: Samples, *, wait: float) -> None:
    await asyncio.sleep(wait)
    place = urlsplit(work.url)
    host, port = place.hostname or "127.0.0.1", place.port or 80
    request = request_bytes(work)
    client = _Client()
    try:
        while time.perf_counter() < until:
            try:
                if not client.connected:  # a gateway may close a connection after an answer
                    _, client = await asyncio.get_running_loop().create_connection(_Client, host, port)
                await client.ask(request)
            except TimeoutError:
                raise LoadFailed(f"no whole answer within {ANSWER_WITHIN_S} s") from None
            except OSError as error:
                raise LoadFailed(f"{work.url} cannot be reached: {error}") from error
            samples.whole.append(time.perf_counter() - client.began)
            samples.first_byte.append((client.first or time.perf_counter()) - client.began)
            samples.body_bytes += len(client.body)
            samples.pieces += max(0, client.pieces - 1)  # the last chunk is the end, and empty
            if work.tokens:
                samples.gaps += client.gaps[1:]  # the first is no gap: it came before everything
                samples.events += checked(bytes(client.body), work.tokens)
            if work.prompt_bytes:
                client.close()  # the node takes a long prompt right upon an answer for pipelining, now and then
    finally:
        client.close()


def checked(body: bytes, tokens: int) -> int:
    """Return the number of events in a stream of the instant engine's.

    Raises:
        LoadFailed: one is lost, doubled or out of order, or the stream does not end as it should.
    """
    events = [part for part in body.split(b"\n\n") if part.startswith(b"data: ")]
    if events[-1:] != [b"data: [DONE]"]:
        raise LoadFailed(f"the stream does not end with [DONE]: {body[-200:]!r}")
    said = "".join(_content(event) for event in events[:-1]).split()
    if said != [str(number) for number in range(tokens)]:
        raise LoadFailed(f"the stream's events are lost, doubled or out of order: {said[:50]}")
    return len(events) - 1


def _content(event: bytes) -> str:
    choices = json.loads(event.removeprefix(b"data: ")).get("choices") or [{}]
    return choices[0].get("delta", {}).get("content") or ""
