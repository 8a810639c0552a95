"""What one answer of an engine took, read off its bytes as they pass: times, gaps, and the numbers in its last bytes.

Knows no engine, no clock and no text. It is called for every piece of every answer, so it does next to nothing there:
it keeps references to the last pieces, counts the ends of events and compares a gap. Numbers are looked for once, at
the end; so is, of a sampled answer, how much of it repeats, for which its first pieces are kept until then. Where an
answer does not tell its usage, its tokens are estimated: one for each event of a stream. Engines put several tokens
into one event when they speculate or fall behind, so the estimate is the least that it can have been.
"""

import re
from collections import deque
from dataclasses import dataclass
from typing import Final

import msgspec

from node.core.copying import ANSWER_BYTES, copied_ppm
from node.core.endpoints import Dialect
from node.core.prompt import Headers
from node.core.sse_events import is_event_stream

LAST_PIECES: Final = 6  # the last token, the reason it ended, the usage, [DONE]; and pieces that came cut in two
TAIL_BYTES: Final = 8 * 1024  # usage stands at the end, in the last event or the last object
# A reader that takes its time makes the engine look slow. What is away for longer than both says nothing of it.
AWAY_SHARE: Final = 0.25
AWAY_SECONDS: Final = 0.05
MICRO: Final = 1_000_000

_PROMPT = re.compile(rb'"(?:prompt|input)_tokens":\s*(\d{1,9})\b')
_OUTPUT = re.compile(rb'"(?:completion|output)_tokens":\s*(\d{1,9})\b')
_ERROR = re.compile(rb'(?:^|\n)data: ?\{"error"')
_NO_CHOICE = re.compile(rb'"choices":\s*\[\]')  # the event that tells nothing but usage
_SEVERAL = re.compile(rb'\s*\[\s*["\[]')  # prompts: texts, or lists of tokens
_EMPTY = re.compile(rb'"content":\s*(?:""|null)')  # the event that only says whose turn it is
# Events after the last token, where the dialect has them: `done` of text, part and item, and of the whole; or the
# ends of block and message.
_TRAILING: Final = {Dialect.OPENAI: 0, Dialect.RESPONSES: 4, Dialect.MESSAGES: 3}


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What one whole answer took. Times are µs.

    Attributes:
        latency: from the engine's being asked to the last byte.
        ttft: to the first content; None where the answer came in one piece.
        tpot: from there on, a token; None where there was no second, or nothing tells their number.
        stall: the longest wait for the next piece after the first content; 0 where nothing came after it.
        prompt_tokens: None where the answer does not tell.
        output_tokens: told, or estimated; None where it is neither.
        told: whether `output_tokens` is what the answer says.
        copied: how much of it repeats, in ppm (`node.core.copying`); None of those that are not sampled.
    """

    streamed: bool
    latency: int
    ttft: int | None = None
    tpot: int | None = None
    stall: int | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    told: bool = False
    copied: int | None = None


class AnswerMeter:
    """Fed with an answer's pieces in order. Times are seconds of one clock."""

    __slots__ = (
        "_away", "_began", "_body", "_content_at", "_dialect", "_events", "_first", "_first_events", "_last", "_pieces",
        "_preludes", "_room", "_stall", "_status", "_streamed",
    )  # fmt: skip

    def __init__(self, *, began: float, dialect: Dialect, body: bytes | None = None) -> None:
        """Begin when the engine is asked. Given the request's body, it is told how much of the answer repeats."""
        self._began = self._last = began
        self._body = body
        self._first: list[bytes] = []  # pieces, as far as they are looked at for what repeats
        self._room = 0 if body is None else ANSWER_BYTES
        self._dialect = dialect
        self._status = 0
        self._streamed = False
        self._pieces: deque[bytes] = deque(maxlen=LAST_PIECES)
        self._content_at: float | None = None
        self._first_events = 0  # in the piece that the first content came in
        self._events = 0  # after it
        self._preludes = 0
        self._away = 0.0  # seconds in which nobody waited for the next piece
        self._stall = 0.0

    def head(self, status: int, headers: Headers, now: float) -> None:
        """Take the answer's head."""
        self._status = status
        self._last = now
        self._streamed = is_event_stream(headers)

    def piece(self, data: bytes, asked: float, now: float) -> None:
        """Take the next bytes, which were asked for at `asked` and are here `now`; not the empty ones at the end."""
        self._pieces.append(data)
        if self._room > 0:
            self._first.append(data)
            self._room -= len(data)
        self._away += asked - self._last
        self._last = now
        if self._content_at is not None:
            self._events += data.count(b"\n\n")  # unescaped, so never within a text
            if now - asked > self._stall:
                self._stall = now - asked
        elif self._streamed:
            self._look_for_content(data, now)

    @property
    def began(self) -> float:
        """When the engine was asked."""
        return self._began

    @property
    def content_at(self) -> float | None:
        """When the first content was here; None before that, and where the answer is no stream."""
        return self._content_at

    @property
    def events(self) -> int:
        """How many events of a stream have ended since then."""
        return self._events

    @property
    def failed(self) -> bool:
        """Whether what came is the engine's failure, told as an answer."""
        return self._status >= 500 or (self._streamed and _ERROR.search(self._tail()) is not None)

    def measured(self) -> Measured | None:
        """Return what the answer, now whole, took; None where that says nothing of the engine.

        An answer that the engine refused, or that was read too slowly, says nothing.
        """
        took = self._last - self._began
        if not 200 <= self._status < 300 or self._away > max(AWAY_SHARE * took, AWAY_SECONDS):
            return None
        tail = self._tail()
        prompt, told = _last_number(_PROMPT, tail), _last_number(_OUTPUT, tail)
        if not self._streamed:
            return Measured(
                streamed=False, latency=_us(took), prompt_tokens=prompt, output_tokens=told, told=told is not None,
                copied=self._copied(),
            )  # fmt: skip
        if self._content_at is None:
            return None  # a stream without content: nothing was generated
        events = self._first_events + max(self._events - self._trailing(tail), 0)
        tokens = told if told is not None else (events or None)
        return Measured(
            streamed=True,
            latency=_us(took),
            ttft=_us(self._content_at - self._began),
            tpot=self._tpot(tokens, events),
            stall=_us(self._stall),
            prompt_tokens=prompt,
            output_tokens=tokens,
            told=told is not None,
            copied=self._copied(),
        )

    def _copied(self) -> int | None:
        body, self._body = self._body, None
        if body is None:
            return None
        first = b"".join(self._first)[:ANSWER_BYTES]
        self._first.clear()
        return copied_ppm(body, first, dialect=self._dialect, streamed=self._streamed)

    def _look_for_content(self, data: bytes, now: float) -> None:
        if self._dialect is not Dialect.OPENAI:
            if b'delta"' in data:  # what comes before are announcements
                self._content_at, self._first_events = now, 1
            return
        if b"data:" not in data:
            return  # a comment that keeps the connection alive
        events = data.count(b"\n\n")
        if not self._preludes and _EMPTY.search(data):
            self._preludes = 1
            events -= 1
            if events <= 0:
                return
        self._content_at, self._first_events = now, max(events, 1)

    def _trailing(self, tail: bytes) -> int:
        done, usage = b"[DONE]" in tail, _NO_CHOICE.search(tail) is not None
        return _TRAILING[self._dialect] + done + usage

    def _tpot(self, tokens: int | None, events: int) -> int | None:
        """Return µs a token after those that were there at the first look: as many as their share of the events."""
        later = events - self._first_events
        if tokens is None or later <= 0 or self._content_at is None:
            return None
        after = tokens * later / events
        return _us((self._last - self._content_at) / after) if after > 0 else None

    def _tail(self) -> bytes:
        return b"".join(self._pieces)[-TAIL_BYTES:]


class _Shape(msgspec.Struct):
    n: object = None
    best_of: object = None
    use_beam_search: object = None
    prompt: msgspec.Raw = msgspec.Raw()


_shapes = msgspec.json.Decoder(_Shape)


def one_sequence(body: bytes) -> bool:
    """Whether a request asks for one answer to one prompt: of several together, no time is that of one."""
    try:
        shape = _shapes.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    if shape.use_beam_search or shape.n not in (None, 1) or shape.best_of not in (None, 1):
        return False
    return _SEVERAL.match(shape.prompt) is None


def _last_number(pattern: re.Pattern[bytes], data: bytes) -> int | None:
    if b'_tokens"' not in data:
        return None  # most streams
    found = pattern.findall(data)
    return int(found[-1]) if found else None


def _us(seconds: float) -> int:
    return max(round(seconds * MICRO), 0)
