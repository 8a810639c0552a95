"""An engine for chaos: its answers can be foretold to the letter, and after a while it may lose its senses.

A program of its own beside the stub engine, whose HTTP it speaks; asyncio, because it is no part of the daemon. A
token of an answer tells which prompt it answers and the how-manieth it is, so that a loss, a doubling, a disorder and
another prompt's answer all show. It tells token ids as vLLM does, and given a prompt's and an answer's first ids it
goes on from there.

    python chaos_engine.py --then garbage:4000 --stub '{"token_delay": 0.05}' ...    and vLLM's flags

After so many tokens, over all answers, it sends garbage for ever (`garbage`), or a byte a second (`trickle`), while its
health stays good: the worst that a broken engine does to those who trust its health.
"""

import argparse
import asyncio
import json
import signal
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # it is started by its file, from anywhere

from tests.fakes import stub_engine
from tests.fakes.stub_engine import FIRST_ID, HEAD_LIMIT, Misbehaviour, Stub, head, token_count

SENSES = ("", "garbage", "trickle")
BYTE_S = 1.0  # between two bytes of one that trickles
NOT_HTTP = b"\x00\xff\x13not http at all\r\n\r\n" * 4
NO_CHUNK = b"zz\r\n\xde\xad\xbe\xef\r\n"
NO_EVENT = b"data: \x8f\x00\xfe{{{]\n\n"
TORN_EVENT = b'data: {"id":"x","choices":[{"index":0,"delta":{"con\n\n'
DONE = b"data: [DONE]\n\n"


def prompt_of(asked: dict[str, Any]) -> list[int]:
    """Return the tokens of a request's prompt: those that it gives, or one for each word."""
    given = asked.get("prompt")
    if isinstance(given, list):
        return [int(each) for each in given]
    messages = asked.get("messages")
    text = " ".join(str(each.get("content")) for each in messages) if messages else str(given or "")
    return [1 + zlib.crc32(word.encode()) % (FIRST_ID - 1) for word in text.split()]


def said(prompt: Sequence[int], number: int) -> str:
    """Return the text of one token of the answer to a prompt."""
    digest = zlib.crc32(b",".join(b"%d" % each for each in prompt if each < FIRST_ID))
    return f"{digest % 10_000:04d}.{number} "


def answer_to(text: str, tokens: int) -> str:
    """Return the whole answer to a chat of one message."""
    prompt = prompt_of({"messages": [{"content": text}]})
    return "".join(said(prompt, number) for number in range(tokens))


class ChaosEngine(Stub):
    """One server; streams are its own, all else is the stub's."""

    def __init__(self, options: argparse.Namespace, wrong: Misbehaviour, *, then: str, after: int) -> None:
        super().__init__(options, wrong)
        self._then = then
        self._after = after

    def lost(self, what: str) -> bool:
        """Whether it has lost its senses in that way."""
        return self._then == what and self.tokens >= self._after

    async def generate(self, kind: str, body: bytes, writer: asyncio.StreamWriter) -> bool:
        """See the stub."""
        asked = json.loads(body)
        if not asked.get("stream"):
            return await super().generate(kind, body, writer)
        self.arrivals += 1
        self.running += 1
        try:
            return await self._tell(kind, asked, self.arrivals, writer)
        finally:
            self.running -= 1

    async def _tell(self, kind: str, asked: dict[str, Any], arrival: int, writer: asyncio.StreamWriter) -> bool:
        if self.lost("garbage") and arrival % 3 == 0:
            await self._say(writer, NOT_HTTP)
            return False
        start = head(200, "text/event-stream; charset=utf-8", arrival=arrival)
        await self._say(writer, start + b"transfer-encoding: chunked\r\n\r\n")
        prompt, chat = prompt_of(asked), kind == "chat"
        frame = self.frame(kind, arrival, "completion.chunk")
        ids = bool(asked.get("return_token_ids"))
        first = sum(each >= FIRST_ID for each in prompt)
        total = token_count(asked)
        if chat:
            begin = {"index": 0, "delta": {"role": "assistant", "content": ""}}
            await self._event(writer, {**frame, "choices": [begin], "prompt_token_ids": prompt if ids else None})
        for number in range(first, first + total):
            await asyncio.sleep(self.wrong.token_delay)
            if self.lost("garbage"):
                return await self._rave(writer, arrival)
            piece: dict[str, Any] = {"delta": {"content": said(prompt, number)}}
            if not chat:
                told = prompt if ids and number == first else None
                piece = {"text": said(prompt, number), "prompt_token_ids": told}
            finish = "length" if number == first + total - 1 else None
            one = {"index": 0, **piece, "finish_reason": finish, "token_ids": [FIRST_ID + number] if ids else None}
            await self._event(writer, {**frame, "choices": [one]})
            self.tokens += 1
        if (asked.get("stream_options") or {}).get("include_usage"):
            usage = {"prompt_tokens": len(prompt), "completion_tokens": total, "total_tokens": len(prompt) + total}
            await self._event(writer, {**frame, "choices": [], "usage": usage})
        await self._say(writer, chunk(DONE) + b"0\r\n\r\n")
        self.served += 1
        return True

    async def _rave(self, writer: asyncio.StreamWriter, arrival: int) -> bool:
        """Say garbage in the middle of a stream, in one of three ways."""
        if arrival % 3 == 0:
            await self._say(writer, NO_CHUNK)
            return False
        rest = chunk(NO_EVENT) * 3 if arrival % 3 == 1 else chunk(TORN_EVENT)
        await self._say(writer, rest + chunk(DONE) + b"0\r\n\r\n")
        return True

    async def _event(self, writer: asyncio.StreamWriter, value: object) -> None:
        # vLLM's own spacing: its ids are found by their bytes.
        await self._say(writer, chunk(b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"))

    async def _say(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        while data and self.lost("trickle"):
            writer.write(data[:1])
            await writer.drain()
            await asyncio.sleep(BYTE_S)
            data = data[1:]
        writer.write(data)
        await writer.drain()


def chunk(data: bytes) -> bytes:
    """Return data as one piece of a body that comes in pieces."""
    return b"%x\r\n%b\r\n" % (len(data), data)


async def run(known: argparse.Namespace, wrong: Misbehaviour, *, then: str, after: int) -> None:
    """Serve until SIGTERM."""
    engine = ChaosEngine(known, wrong, then=then, after=after)
    server = await asyncio.start_server(engine.connection, known.host, known.port, limit=HEAD_LIMIT, backlog=1024)
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    await stopping.wait()
    server.close()
    sys.exit(0)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(allow_abbrev=False, add_help=False)
    parser.add_argument("--then", default="")
    then, _, after = parser.parse_known_args()[0].then.partition(":")
    if then not in SENSES:
        parser.error(f"it can lose its senses in these ways: {', '.join(SENSES[1:])}")
    known, wrong = stub_engine.options()
    asyncio.run(run(known, wrong, then=then, after=int(after or 0)))


if __name__ == "__main__":
    main()
