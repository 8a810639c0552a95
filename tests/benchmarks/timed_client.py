"""One streamed completion, timed as its client sees it: the first token, those after it, and what its head says.

Knows HTTP and server-sent events, no node and no engine.
"""

import asyncio
import json
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import urlsplit

import httptools

ANSWER_S = 180.0  # of a small model on a busy machine; whoever is slower failed
# Common words, one token each in most vocabularies.
WORDS = (
    "time", "year", "people", "way", "day", "man", "thing", "woman", "life", "child", "world", "school", "state",
    "family", "student", "group", "country", "problem", "hand", "part", "place", "case", "week", "company", "system",
)  # fmt: skip


class AskFailed(Exception):
    """An answer was not 200, not whole, or did not come in time."""


@dataclass(slots=True)
class Timed:
    """One answer. Seconds from the request's first byte; `headers` by lower-case name."""

    first: float = 0.0
    last: float = 0.0
    tokens: int = 0
    headers: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def tpot(self) -> float | None:
        """Seconds a token after the first; None where there are too few."""
        return (self.last - self.first) / (self.tokens - 1) if self.tokens > 1 else None


class _Connection(asyncio.Protocol):
    """httptools calls the `on_` methods."""

    def __init__(self, request: bytes) -> None:
        self.timed = Timed()
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._request = request
        self._parser = httptools.HttpResponseParser(self)
        self._held = b""
        self._began = 0.0
        self._done = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._began = time.perf_counter()
        cast("asyncio.Transport", transport).write(self._request)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(f"the connection was closed before the answer's end ({exc})")

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(f"no HTTP: {error}")

    def on_header(self, name: bytes, value: bytes) -> None:
        self.timed.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._held += body
        if self._parser.get_status_code() == 200:
            *events, self._held = self._held.split(b"\n\n")
            now = time.perf_counter() - self._began
            for each in events:
                self._event(each, now)

    def _event(self, event: bytes, now: float) -> None:
        self._done = self._done or event == b"data: [DONE]"
        if not event.startswith(b"data: {"):
            return
        whole: dict[str, Any] = json.loads(event[6:])
        if "error" in whole:
            self._fail(f"broke off: {whole['error']}")
        self.timed.tokens = (whole.get("usage") or {}).get("completion_tokens", self.timed.tokens)
        if whole.get("choices"):
            self.timed.first = self.timed.first or now
            self.timed.last = now

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status != 200:
            self._fail(f"status {status}: {self._held[:300]!r}")
        elif not self._done:
            self._fail("it ended without [DONE]")
        elif not self.over.done():
            self.over.set_result(None)

    def _fail(self, why: str) -> None:
        if not self.over.done():
            self.over.set_exception(AskFailed(why))


async def ask(
    url: str, *, model: str, prompt: str, tokens: int, key: str = "none", headers: Mapping[str, str] | None = None
) -> Timed:
    """Have a completion of exactly so many tokens.

    Raises:
        AskFailed: there is none.
    """
    body = {
        "model": model, "prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True, "stream": True,
        "stream_options": {"include_usage": True},
    }  # fmt: skip
    place, encoded = urlsplit(url), json.dumps(body).encode()
    lines = {
        "host": place.netloc,
        "authorization": f"Bearer {key}",
        "content-type": "application/json",
        "content-length": str(len(encoded)),
        "connection": "close",
        **(headers or {}),
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    request = f"POST /v1/completions HTTP/1.1\r\n{head}\r\n".encode() + encoded
    loop = asyncio.get_running_loop()
    try:
        transport, connection = await loop.create_connection(
            lambda: _Connection(request), place.hostname or "127.0.0.1", place.port or 80
        )
    except OSError as error:
        raise AskFailed(f"{url} cannot be reached: {error}") from error
    try:
        async with asyncio.timeout(ANSWER_S):
            await connection.over
    except TimeoutError:
        raise AskFailed(f"no whole answer in {ANSWER_S:.0f} s") from None
    finally:
        transport.close()
    if connection.timed.tokens != tokens:
        raise AskFailed(f"{connection.timed.tokens} tokens of {tokens}")
    return connection.timed


def words(count: int, rng: random.Random) -> str:
    """Return a text of about so many tokens that no cache knows: it begins by chance."""
    return " ".join([f"{rng.getrandbits(32):x}", *rng.choices(WORDS, k=max(count - 4, 1))])
