"""What crossed the wire between a client library and a server, kept whole for a comparison.

Knows HTTP and server-sent events; not which parts of an answer matter (see normalise.py).
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import httpx2


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One server-sent event. `data` is parsed where it is JSON, else its text."""

    name: str | None
    data: object


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One request and its answer. Header names are in lower case; the body is as it came."""

    method: str
    path: str
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def streamed(self) -> bool:
        """Whether the answer was a stream of events."""
        return self.headers.get("content-type", "").startswith("text/event-stream")


class RecordingTransport(httpx2.BaseTransport):
    """Passes requests on and reports each exchange once its body has been read or left."""

    def __init__(self, inner: httpx2.BaseTransport, report: Callable[[Exchange], None]) -> None:
        self._inner = inner
        self._report = report

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        response = self._inner.handle_request(request)
        stream = response.stream
        assert isinstance(stream, httpx2.SyncByteStream)
        # Every client asks for `identity` or gets it: neither vLLM nor the node compresses.
        response.stream = _Overheard(stream, lambda body: self._report(_exchange(request, response, body)))
        return response

    def close(self) -> None:
        self._inner.close()


class _Overheard(httpx2.SyncByteStream):
    """A response's bytes on their way to the client."""

    def __init__(self, inner: httpx2.SyncByteStream, done: Callable[[bytes], None]) -> None:
        self._inner = inner
        self._done = done
        self._parts: list[bytes] = []

    def __iter__(self) -> Iterator[bytes]:
        for part in self._inner:
            self._parts.append(part)
            yield part

    def close(self) -> None:
        self._inner.close()
        self._done(b"".join(self._parts))


def _exchange(request: httpx2.Request, response: httpx2.Response, body: bytes) -> Exchange:
    return Exchange(
        method=request.method,
        path=request.url.raw_path.decode("ascii"),
        status=response.status_code,
        headers={name.lower(): value for name, value in response.headers.items()},
        body=body,
    )


def events(body: bytes) -> tuple[Event, ...]:
    """Parse a whole stream of server-sent events.

    Raises:
        AssertionError: the stream is torn, or a field is not one that an OpenAI server sends.
    """
    text = body.decode("utf-8").replace("\r\n", "\n")
    assert text.endswith("\n\n") or not text, f"the stream ends inside an event: ...{text[-80:]!r}"
    return tuple(_event(block) for block in text.split("\n\n") if block)


def _event(block: str) -> Event:
    name: str | None = None
    data: list[str] = []
    for line in block.split("\n"):
        field, _, value = line.partition(":")
        assert field in {"event", "data", ""}, f"an unknown field in an event: {line!r}"
        if field == "event":
            name = value.strip()
        elif field == "data":
            data.append(value.removeprefix(" "))
    return Event(name=name, data=parsed("\n".join(data)))


def parsed(text: str) -> object:
    """Return the value of JSON text, or the text itself where it is none."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
