"""One request of the chaos benchmark: a chat streamed, and held to the letter against what its answer must be.

Knows HTTP, server-sent events and the answers of `chaos_engine.py`; nothing of who answers.
"""

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import urlsplit

import httptools

from tests.benchmarks.chaos_engine import answer_to

MODEL = "chaos"
ANSWER_S = 300.0  # longer than any answer here takes if all but one node are gone: whoever waits longer is lost


class Wrong(Exception):
    """An answer is not what it should be; the message says how."""


@dataclass(slots=True)
class Heard:
    """A stream, as its client gets it. Times in seconds since it was asked for."""

    name: str = ""
    text: str = ""
    first: float | None = None
    stall: float = 0.0  # the longest wait for the next token, the first included
    resumed: int = 0  # as its events announce
    finishes: list[str] = field(default_factory=list[str])
    usage: dict[str, Any] = field(default_factory=dict[str, Any])
    done: bool = False
    latest: float = 0.0

    def event(self, data: bytes, now: float) -> None:
        """Take one whole event.

        Raises:
            Wrong: it is none, tells of an error, or comes after the end.
        """
        if data.startswith(b":") or not data.strip():
            return
        if self.done or not data.startswith(b"data: "):
            raise Wrong(f"no event: {data[:80]!r}")
        if data == b"data: [DONE]":
            self.done = True
            return
        try:
            whole: dict[str, Any] = json.loads(data[6:])
        except ValueError:
            raise Wrong(f"no JSON: {data[:80]!r}") from None
        if "error" in whole:
            raise Wrong(f"broke off: {whole['error']}")
        self.resumed = max(self.resumed, (whole.get("metainf") or {}).get("resumed", 0))
        self.usage = whole.get("usage") or self.usage
        for choice in whole.get("choices", ()):
            self._chosen(choice, now)

    def _chosen(self, choice: dict[str, Any], now: float) -> None:
        if choice.get("finish_reason"):
            self.finishes.append(choice["finish_reason"])
        if content := choice.get("delta", {}).get("content"):
            self.text += content
            self.first = now if self.first is None else self.first
            self.stall = max(self.stall, now - self.latest)
            self.latest = now


def judge(heard: Heard, prompt: str, tokens: int) -> None:
    """See that a stream is the whole answer and nothing else.

    Raises:
        Wrong: it is not.
    """
    wanted = answer_to(prompt, tokens)
    if heard.text != wanted:
        pairs = enumerate(zip(heard.text, wanted, strict=False))
        same = next((at for at, (one, other) in pairs if one != other), min(len(heard.text), len(wanted)))
        raise Wrong(f"at letter {same} of {len(wanted)}: {heard.text[same : same + 40]!r} for {wanted[same:][:40]!r}")
    told = (heard.usage.get("prompt_tokens"), heard.usage.get("completion_tokens"))
    if told != (len(prompt.split()), tokens):
        raise Wrong(f"its usage is {told}, not {(len(prompt.split()), tokens)}")
    if heard.finishes != ["length"] or not heard.done:
        raise Wrong(f"it ends with {heard.finishes}, {'and' if heard.done else 'without'} [DONE]")


class _Connection(asyncio.Protocol):
    """One request and its answer. httptools calls the `on_` methods."""

    def __init__(self, request: bytes) -> None:
        self.heard = Heard()
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._request = request
        self._parser = httptools.HttpResponseParser(self)
        self._held = b""
        self._began = time.monotonic()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast("asyncio.Transport", transport).write(self._request)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(Wrong(f"the connection was closed before the answer's end ({exc})"))

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, Wrong) as error:
            cause = error.__context__ if isinstance(error.__context__, Wrong) else error
            self._fail(cause if isinstance(cause, Wrong) else Wrong(f"no HTTP: {error}"))

    def on_body(self, body: bytes) -> None:
        self._held += body
        if self._parser.get_status_code() == 200:
            *events, self._held = self._held.split(b"\n\n")
            for each in events:
                self.heard.event(each, time.monotonic() - self._began)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status != 200:
            self._fail(Wrong(f"status {status}: {self._held[:300]!r}"))
        elif not self.over.done():
            self.over.set_result(None)

    def _fail(self, why: Wrong) -> None:
        if not self.over.done():
            self.over.set_exception(why)


async def ask(url: str, name: str, prompt: str, tokens: int) -> Heard:
    """Ask for one answer.

    Raises:
        Wrong: it is not the one that was asked for, or there is none.
    """
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    place, encoded = urlsplit(url), json.dumps(body).encode()
    request = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: {place.netloc}\r\ncontent-type: application/json\r\n"
        f"x-request-id: {name}\r\ncontent-length: {len(encoded)}\r\nconnection: close\r\n\r\n"
    )
    loop = asyncio.get_running_loop()
    made = lambda: _Connection(request.encode() + encoded)  # noqa: E731
    transport, connection = await loop.create_connection(made, place.hostname or "127.0.0.1", place.port or 80)
    try:
        async with asyncio.timeout(ANSWER_S):
            await connection.over
    except TimeoutError:
        raise Wrong(f"no whole answer in {ANSWER_S:.0f} s, {len(connection.heard.text)} letters") from None
    finally:
        transport.close()
    connection.heard.name = name
    judge(connection.heard, prompt, tokens)
    return connection.heard
