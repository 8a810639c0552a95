"""An OpenAI server that answers at once: what is left of a request's time and work is the gateway's own.

A program of its own, standard library only (uvloop where it is installed). It does as little as an HTTP/1.1 server
can: it finds two fields of a prompt by their text and writes answers made beforehand. Each streamed event is a
write of its own and says its number, so that a loss, a doubling or a disorder shows. Two fields that no real engine
knows may stand in a prompt: `gap_ms`, in place of the option, and `answer_bytes`, for a whole answer of that size.

    python instant_engine.py --port 0 --gap-ms 10      prints its port
"""

import argparse
import asyncio
import importlib
import json
import os
import re
from collections.abc import Coroutine
from functools import cache
from typing import cast

MODEL = "instant"
STREAM = re.compile(rb'"stream"\s*:\s*true')
TOKENS = re.compile(rb'"max_(?:completion_)?tokens"\s*:\s*(\d{1,5})')
GAP = re.compile(rb'"gap_ms"\s*:\s*(\d{1,5}(?:\.\d{1,3})?)')
SIZE = re.compile(rb'"answer_bytes"\s*:\s*(\d{1,9})')
FIELDS_BYTES = 4096  # where these fields are looked for: both ends of a long prompt
LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)\r\n", re.IGNORECASE)
CHUNKED = re.compile(rb"\r\ntransfer-encoding:\s*chunked\r\n", re.IGNORECASE)
DEFAULT_TOKENS = 16
STDIN = 0
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"


def _whole(body: bytes, content_type: bytes = b"application/json", status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %b\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n%b" % (status, content_type, len(body), body)


def _completion(text: str = "0") -> bytes:
    usage = {"prompt_tokens": 8, "completion_tokens": 1, "total_tokens": 9}
    message = {"role": "assistant", "content": text}
    # Both shapes in one: a chat client reads `message`, a completions client `text`.
    choice = {"index": 0, "message": message, "text": text, "finish_reason": "stop", "logprobs": None}
    return json.dumps(
        {"id": "chatcmpl-0", "object": "chat.completion", "created": 0, "model": MODEL, "choices": [choice]}
        | {"usage": usage}
    ).encode()


ONE_MODEL = {"id": MODEL, "object": "model", "created": 0, "owned_by": "test", "max_model_len": 4096}
MODELS = json.dumps({"object": "list", "data": [ONE_MODEL]}).encode()
METRICS = b"# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running 0.0\n"
FIXED = {
    b"/health": _whole(b""),
    b"/v1/models": _whole(MODELS),
    b"/metrics": _whole(METRICS, b"text/plain; version=0.0.4"),
}
COMPLETION = _whole(_completion())
BULK = cache(lambda size: _whole(_completion("x" * size)))
NOT_FOUND = _whole(b'{"detail":"Not Found"}', status=b"404 Not Found")


@cache
def event(number: int, last: bool) -> bytes:
    """Return one streamed event as an HTTP chunk, framed as vLLM frames it."""
    said, reason = f"{number} ", "stop" if last else None
    choice = {"index": 0, "delta": {"content": said}, "text": said, "finish_reason": reason}
    chunk = {"id": "chatcmpl-0", "object": "chat.completion.chunk", "created": 0, "model": MODEL, "choices": [choice]}
    data = b"data: " + json.dumps(chunk).encode() + b"\n\n"
    if last:
        done = b"data: [DONE]\n\n"
        return _chunk(data) + _chunk(done) + b"0\r\n\r\n"
    return _chunk(data)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class Connection(asyncio.Protocol):
    """One client: requests one after the other, pipelined ones in their order."""

    def __init__(self, gap: float) -> None:
        self._usual_gap = self._gap = gap
        self._pending = bytearray()
        self._wanted = 0  # bytes of the request that is on its way; a long one is looked at once
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but its class

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._pending += data
        if self._timer is None and len(self._pending) >= self._wanted:
            self._next()

    def _next(self) -> None:
        """Answer the requests that are whole, up to one that streams."""
        while self._timer is None and self._transport is not None:
            request = self._take()
            if request is None:
                return
            path, body = request
            fixed = FIXED.get(path)
            if fixed is not None:
                self._transport.write(fixed)
            elif not path.endswith(b"/completions"):
                self._transport.write(NOT_FOUND)
            elif STREAM.search(fields := body[:FIELDS_BYTES] + body[-FIELDS_BYTES:]):
                asked, gap = TOKENS.search(fields), GAP.search(fields)
                self._gap = float(gap[1]) / 1000 if gap else self._usual_gap
                self._transport.write(STREAM_HEAD)
                self._say(0, int(asked[1]) if asked else DEFAULT_TOKENS)
            else:
                size = SIZE.search(fields)
                self._transport.write(BULK(int(size[1])) if size else COMPLETION)

    def _take(self) -> tuple[bytes, bytes] | None:
        """Take one whole request off the front: its path and its body; None while there is none."""
        end_of_head = self._pending.find(b"\r\n\r\n")
        if end_of_head < 0:
            return None
        head, start = bytes(self._pending[:end_of_head]), end_of_head + 4
        path = head.split(b" ", 2)[1].partition(b"?")[0]
        head += b"\r\n"
        length = LENGTH.search(head)
        if CHUNKED.search(head):
            end = self._pending.find(b"0\r\n\r\n", start)
            if end < 0:
                return None
            size = end + 5 - start
        else:
            size = int(length[1]) if length else 0
        self._wanted = start + size
        if len(self._pending) < self._wanted:
            return None
        body = bytes(self._pending[start : self._wanted])
        del self._pending[: self._wanted]
        self._wanted = 0
        return path, body

    def _say(self, number: int, total: int) -> None:
        """Write one event, and see to the next."""
        self._timer = None
        if self._transport is None:
            return
        last = number == total - 1
        self._transport.write(event(number, last))
        if last:
            self._next()
        else:
            self._timer = asyncio.get_running_loop().call_later(self._gap, self._say, number + 1, total)


async def serve(port: int, gap: float, *, until_eof: bool) -> None:
    """Serve on loopback, and print the port. With `until_eof` it ends with whoever holds its standard input."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(gap), "127.0.0.1", port, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    ended = asyncio.Event()

    def readable() -> None:
        if not os.read(STDIN, 1024):
            ended.set()

    if until_eof:
        loop.add_reader(STDIN, readable)
    await ended.wait()
    server.close()


def run(main: Coroutine[None, None, None]) -> None:
    """Run on uvloop, which does a request in half the time, or on asyncio's own loop."""
    try:
        fast = importlib.import_module("uvloop")
    except ImportError:
        asyncio.run(main)
    else:
        fast.run(main)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--gap-ms", type=float, default=10.0, help="between two events of a stream")
    parser.add_argument("--until-eof", action="store_true", help="end at the end of standard input")
    options = parser.parse_args()
    run(serve(options.port, options.gap_ms / 1000, until_eof=options.until_eof))
