"""A stand-in for vLLM's API server, as a program of its own: quick to start, and it misbehaves on request.

Run as `python -I stub_engine.py [--stub JSON] --model M --served-model-name N --port P ...`: it takes vLLM's
flags and ignores those that it does not know. Standard library only; asyncio, because it is no part of the daemon.
What it does wrong is given as JSON, in `--stub` or in the variable STUB_ENGINE; see `Misbehaviour`.

Its answers are predictable: token k of an answer is `t<k> `; `usage` is exact (a prompt token is a word); the
header `x-stub-arrival` numbers requests in the order in which they came; /metrics counts what runs and waits. Asked
for token ids, it tells them in its streams as vLLM does, and given the ids of a prompt and of an answer's first k
tokens, it goes on with token k.
"""

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

DEFAULT_TOKENS = 16  # of an answer whose request sets no max_tokens
HEAD_LIMIT = 65536
BODY_LIMIT = 64 << 20
FIRST_ID = 1_000_000  # of an answer's token 0; a prompt's words have lower ones


@dataclass
class Misbehaviour:
    """What to do wrong. Times in seconds; counts are of generated tokens, over all requests."""

    slow_start: float = 0.0  # sleep before listening
    crash_before_listening: str = ""  # print this to stderr and end with status 1
    exit_before_listening: int | None = None  # end with this status, silently
    never_healthy: bool = False  # /health answers 503 for ever
    garbage_http: bool = False  # answer every request with bytes that are no HTTP
    garbage_output: int = 0  # bytes of binary noise on stdout, no line end
    completions_status: int = 0  # answer every generation with this status
    crash_after: int | None = None  # SIGKILL itself after so many tokens
    exit_after: int | None = None  # end with status 0 after so many tokens
    hang_after: int | None = None  # answer nothing any more, not even /health, after so many tokens
    ignore_sigterm: bool = False
    grandchild: bool = False  # leave a child behind, in a session of its own
    token_delay: float = 0.0
    prefill_delay: float = 0.0
    under_seqs: int | None = None  # do all of this only where started with this --max-num-seqs
    garbage_answers: str = ""  # generate nothing but this token
    empty_answers: bool = False  # generate no token, and say so
    only: str = ""  # "embeddings" or "chat": answer 404 to the other kinds
    journal: str = ""  # add the body of each generation that is begun to this file


class Stub:
    """One server."""

    def __init__(self, options: argparse.Namespace, wrong: Misbehaviour) -> None:
        self.name = options.served_model_name or options.model
        self.key = os.environ.get("VLLM_API_KEY") or options.api_key
        self.wrong = wrong
        self.running = 0
        self.waiting = 0
        self.arrivals = 0
        self.tokens = 0
        self.aborted = 0
        self.served = 0
        self.seats = asyncio.Semaphore(options.max_num_seqs)

    # --- HTTP, as little as a server needs

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (request := await self.read(reader)) is not None:
                if self.wrong.garbage_http:
                    writer.write(b"\x00\xffnot http at all\r\n\r\n" * 4)
                    await writer.drain()
                    break
                if not await self.serve(request, reader, writer):
                    break
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
            pass
        finally:
            writer.close()

    async def read(self, reader: asyncio.StreamReader) -> tuple[str, str, dict[str, str], bytes] | None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return None
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ", 2)
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
        length = min(int(headers.get("content-length", "0")), BODY_LIMIT)
        return method, target.partition("?")[0], headers, await reader.readexactly(length)

    async def serve(
        self,
        request: tuple[str, str, dict[str, str], bytes],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> bool:
        """Answer one request; return whether the connection lives on. The client's leaving cancels the work."""
        work = asyncio.ensure_future(self.answer(request, writer))
        gone = asyncio.ensure_future(reader.read(1))  # nothing comes before the answer but the end
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            work.cancel()
            self.aborted += 1
        gone.cancel()
        results = await asyncio.gather(work, gone, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception) and not isinstance(result, ConnectionError):
                raise result
        return results[0] is True and not isinstance(results[1], bytes)

    async def answer(self, request: tuple[str, str, dict[str, str], bytes], writer: asyncio.StreamWriter) -> bool:
        method, path, headers, body = request
        await self.perhaps_hang()
        if path == "/health":
            return await self.send(writer, 503 if self.wrong.never_healthy else 200, b"")
        if path == "/metrics":
            return await self.send(writer, 200, self.metrics().encode(), kind="text/plain; version=0.0.4")
        if path == "/load":
            return await self.send_json(writer, 200, {"server_load": self.running + self.waiting})
        if path.startswith("/v1") and self.key and headers.get("authorization") != f"Bearer {self.key}":
            return await self.send_json(writer, 401, {"error": "Unauthorized"})
        if path == "/v1/models" and method == "GET":
            listed = {"id": self.name, "object": "model", "created": 1, "owned_by": "stub", "max_model_len": 2048}
            return await self.send_json(writer, 200, {"object": "list", "data": [listed]})
        kinds = {"/v1/chat/completions": "chat", "/v1/completions": "completions", "/v1/embeddings": "embeddings"}
        kind = kinds.get(path)
        if kind is None or self.wrong.only not in ("", kind):
            return await self.send_error(writer, 404, "NotFoundError", "Not Found")
        if method != "POST":
            return await self.send_error(writer, 405, "BadRequestError", "Method Not Allowed")
        return await self.generate(kind, body, writer)

    def write_down(self, body: bytes) -> None:
        with Path(self.wrong.journal).open("ab") as journal:
            journal.write(body.replace(b"\n", b" ") + b"\n")

    async def generate(self, kind: str, body: bytes, writer: asyncio.StreamWriter) -> bool:
        try:
            asked = json.loads(body)
            model = asked["model"]
        except (ValueError, KeyError, TypeError):
            return await self.send_error(writer, 400, "BadRequestError", "the body is no JSON object with a model")
        if model != self.name:
            return await self.send_error(writer, 404, "NotFoundError", f"The model `{model}` does not exist.")
        if self.wrong.completions_status:
            return await self.send_error(writer, self.wrong.completions_status, "InternalServerError", "as configured")
        self.arrivals += 1
        arrival = self.arrivals
        if self.wrong.journal:
            self.write_down(body)
        self.waiting += 1
        try:
            await self.seats.acquire()
        finally:
            self.waiting -= 1
        self.running += 1
        try:
            await asyncio.sleep(self.wrong.prefill_delay)
            if kind == "embeddings":
                return await self.embed(asked, arrival, writer)
            if asked.get("stream"):
                return await self.stream(kind, asked, arrival, writer)
            return await self.whole(kind, asked, arrival, writer)
        finally:
            self.running -= 1
            self.seats.release()

    async def token_texts(self, asked: dict[str, Any]) -> AsyncIterator[str]:
        first = already(asked)
        for number in range(first, first + token_count(asked)):
            await self.perhaps_hang()
            await asyncio.sleep(self.wrong.token_delay)
            yield self.wrong.garbage_answers or f"t{number} "
            self.tokens += 1
            if self.wrong.crash_after is not None and self.tokens >= self.wrong.crash_after:
                os.kill(os.getpid(), signal.SIGKILL)
            if self.wrong.exit_after is not None and self.tokens >= self.wrong.exit_after:
                os._exit(0)

    async def perhaps_hang(self) -> None:
        if self.wrong.hang_after is not None and self.tokens >= self.wrong.hang_after:
            await asyncio.Event().wait()

    async def whole(self, kind: str, asked: dict[str, Any], arrival: int, writer: asyncio.StreamWriter) -> bool:
        if self.wrong.empty_answers:
            asked = {**asked, "max_tokens": 0, "max_completion_tokens": None}
        tokens = [token async for token in self.token_texts(asked)]
        text = "".join(tokens)
        self.served += 1
        piece = {"message": {"role": "assistant", "content": text}} if kind == "chat" else {"text": text}
        choice: dict[str, Any] = {"index": 0, "finish_reason": "length", **piece}
        if asked.get("logprobs") and kind == "completions":
            tops = [{token: -0.1, "other ": -2.4} for token in tokens]
            choice["logprobs"] = {"tokens": tokens, "top_logprobs": tops, "token_logprobs": [-0.1] * len(tokens)}
        answer = {**self.frame(kind, arrival, "completion"), "choices": [choice], "usage": usage(asked)}
        return await self.send_json(writer, 200, answer, arrival=arrival)

    async def stream(self, kind: str, asked: dict[str, Any], arrival: int, writer: asyncio.StreamWriter) -> bool:
        writer.write(
            head(200, "text/event-stream; charset=utf-8", arrival=arrival) + b"transfer-encoding: chunked\r\n\r\n"
        )
        frame = self.frame(kind, arrival, "completion.chunk")
        ids = bool(asked.get("return_token_ids"))
        prompt = prompt_ids(asked) if ids else None
        if kind == "chat":
            said = {"index": 0, "delta": {"role": "assistant", "content": ""}}
            await event(writer, {**frame, "choices": [said], "prompt_token_ids": prompt}, compact=ids)
        number = already(asked)
        async for token in self.token_texts(asked):
            piece: dict[str, Any] = {"delta": {"content": token}}
            if kind == "completions":
                piece = {"text": token, "prompt_token_ids": prompt}
                prompt = None
            told = [FIRST_ID + number] if ids else None
            choice = {"index": 0, "finish_reason": None, **piece, "token_ids": told}
            await event(writer, {**frame, "choices": [choice]}, compact=ids)
            number += 1
        last = {"delta": {}} if kind == "chat" else {"text": ""}
        end = {"index": 0, "finish_reason": "length", **last, "token_ids": [] if ids else None}
        await event(writer, {**frame, "choices": [end]}, compact=ids)
        if (asked.get("stream_options") or {}).get("include_usage"):
            await event(writer, {**frame, "choices": [], "usage": usage(asked)})
        await chunk(writer, b"data: [DONE]\n\n")
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        self.served += 1
        return True

    async def embed(self, asked: dict[str, Any], arrival: int, writer: asyncio.StreamWriter) -> bool:
        texts = asked.get("input", "")
        texts = texts if isinstance(texts, list) else [texts]
        data = [
            {"object": "embedding", "index": index, "embedding": [float(len(str(text))), 0.5, -0.5]}
            for index, text in enumerate(texts)
        ]
        self.served += 1
        count = sum(len(str(text).split()) for text in texts)
        counted = {"prompt_tokens": count, "total_tokens": count}
        answer = {"object": "list", "model": self.name, "data": data, "usage": counted}
        return await self.send_json(writer, 200, answer, arrival=arrival)

    def frame(self, kind: str, arrival: int, what: str) -> dict[str, Any]:
        thing = f"chat.{what}" if kind == "chat" else "text_completion"
        return {"id": f"stub-{arrival}", "object": thing, "created": int(time.monotonic()), "model": self.name}

    def metrics(self) -> str:
        label = f'{{model_name="{self.name}"}}'
        return (
            f"# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running{label} {float(self.running)}\n"
            f"# TYPE vllm:num_requests_waiting gauge\nvllm:num_requests_waiting{label} {float(self.waiting)}\n"
            f"# TYPE vllm:generation_tokens_total counter\nvllm:generation_tokens_total{label} {float(self.tokens)}\n"
            f"# TYPE stub:aborted_total counter\nstub:aborted_total {float(self.aborted)}\n"
            f"# TYPE stub:served_total counter\nstub:served_total {float(self.served)}\n"
        )

    async def send_error(self, writer: asyncio.StreamWriter, status: int, kind: str, message: str) -> bool:
        error = {"message": message, "type": kind, "param": None, "code": status}
        return await self.send_json(writer, status, {"error": error})

    async def send_json(self, writer: asyncio.StreamWriter, status: int, value: object, *, arrival: int = 0) -> bool:
        return await self.send(writer, status, json.dumps(value).encode(), arrival=arrival)

    async def send(
        self,
        writer: asyncio.StreamWriter,
        status: int,
        body: bytes,
        *,
        kind: str = "application/json",
        arrival: int = 0,
    ) -> bool:
        writer.write(head(status, kind, arrival=arrival) + f"content-length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()
        return True


def head(status: int, kind: str, *, arrival: int) -> bytes:
    number = f"x-stub-arrival: {arrival}\r\n" if arrival else ""
    return f"HTTP/1.1 {status} Stub\r\nserver: uvicorn\r\ncontent-type: {kind}\r\n{number}".encode()


async def event(writer: asyncio.StreamWriter, value: object, *, compact: bool = False) -> None:
    said = json.dumps(value, separators=(",", ":") if compact else None)  # vLLM's ids are found by their bytes
    await chunk(writer, b"data: " + said.encode() + b"\n\n")


async def chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
    await writer.drain()


def token_count(asked: dict[str, Any]) -> int:
    count = asked.get("max_completion_tokens")
    count = asked.get("max_tokens") if count is None else count
    return count if isinstance(count, int) else DEFAULT_TOKENS


def prompt_ids(asked: dict[str, Any]) -> list[int]:
    """Return the tokens of the prompt: what was given, or one for each word."""
    given = asked.get("prompt")
    if isinstance(given, list) and all(isinstance(each, int) for each in given):
        return given
    messages = asked.get("messages")
    text = " ".join(str(m.get("content")) for m in messages) if messages else str(given or "")
    return list(range(1, len(text.split()) + 1))


def already(asked: dict[str, Any]) -> int:
    """Return how many tokens of the answer the prompt ends with."""
    return sum(each >= FIRST_ID for each in prompt_ids(asked))


def usage(asked: dict[str, Any]) -> dict[str, int]:
    prompt, answer = len(prompt_ids(asked)), token_count(asked)
    return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}


def options() -> tuple[argparse.Namespace, Misbehaviour]:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--stub", default=os.environ.get("STUB_ENGINE", "{}"))
    parser.add_argument("--model", default="stub")
    parser.add_argument("--served-model-name", default="")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--api-key", default="")
    parser.add_argument("--max-num-seqs", type=int, default=256)
    parser.add_argument("--shutdown-timeout", type=float, default=0)
    known, _ = parser.parse_known_args()
    wrong = json.loads(known.stub)
    if unknown := set(wrong) - {field.name for field in fields(Misbehaviour)}:
        parser.error(f"no such misbehaviour: {unknown}")
    made = Misbehaviour(**wrong)
    behaves = made.under_seqs not in (None, known.max_num_seqs)
    return known, Misbehaviour() if behaves else made


def misbehave_early(wrong: Misbehaviour) -> None:
    if wrong.garbage_output:
        sys.stdout.buffer.write(os.urandom(wrong.garbage_output).replace(b"\n", b"\0"))
        sys.stdout.flush()
    if wrong.ignore_sigterm:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if wrong.grandchild:
        subprocess.Popen([sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)"], start_new_session=True)
    time.sleep(wrong.slow_start)
    if wrong.crash_before_listening:
        sys.stderr.write(f"{wrong.crash_before_listening}\n")
        sys.exit(1)
    if wrong.exit_before_listening is not None:
        sys.exit(wrong.exit_before_listening)


async def run(known: argparse.Namespace, wrong: Misbehaviour) -> None:
    stub = Stub(known, wrong)
    stopping = asyncio.Event()
    if not wrong.ignore_sigterm:  # before it listens: whoever sees that may end it at once
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    server = await asyncio.start_server(stub.connection, known.host, known.port, limit=HEAD_LIMIT, backlog=1024)
    port = server.sockets[0].getsockname()[1]
    sys.stdout.write(f"stub engine listens on {known.host}:{port}\n")
    sys.stdout.flush()
    await stopping.wait()
    server.close()
    patience = time.monotonic() + known.shutdown_timeout
    while stub.running and time.monotonic() < patience:  # noqa: ASYNC110  # it looks, as vLLM does
        await asyncio.sleep(0.01)
    sys.stdout.write("stub engine ends\n")
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    arguments, misbehaviour = options()
    misbehave_early(misbehaviour)
    asyncio.run(run(arguments, misbehaviour))
