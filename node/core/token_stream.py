"""An answer's token ids, read off its events as they pass and taken out of what the client gets.

Knows vLLM's events and nothing of engines. It sees every event of every stream that may have to be continued, so it
searches for a few bytes, keeps references and parses nothing: that is done once, if the stream breaks off (`told`).
Quotes within a JSON string are escaped, so that the bytes it searches for are never part of an answer's text.

What the client gets are the bytes that its engine would have sent without the ids: `null` stands in their place. An
engine that sends none is left alone. What a liar sends costs the answer nothing but the chance to be continued, and
this node no more memory than `IDS_BYTES`, `TAIL_BYTES` and some ids for each byte of the request.
"""

import re
from collections import deque
from dataclasses import dataclass
from typing import Any, Final, cast

import msgspec

from node.core.continuation import Mark, Told
from node.core.resumable import Terms
from node.core.sse_events import data_of, events_of, is_quiet

IDS_BYTES: Final = 1024 * 1024  # of an answer's ids as text: some 150,000 tokens
TAIL: Final = 64  # blocks kept, each an event or a few
TAIL_BYTES: Final = 64 * 1024
ID_MAX: Final = 2**31 - 1  # a tokenizer with more entries there is none
# Ids of a prompt, for each byte of a request: no token has less than a byte, and none more than ten digits; and for
# what a chat's template adds, where a model's own system prompt has some thousand tokens.
PROMPT_BYTES: Final = 12
TEMPLATE_BYTES: Final = 128 * 1024

_IDS: Final = b'"token_ids":['
_AT: Final = len(_IDS) - 1
# No quote among the ids: a liar's many beginnings without an end are then looked at once.
_ANY: Final = re.compile(rb'"((?:prompt_)?token_ids)"\s*:\s*\[([^\]\["]*)\]')
_NUMBERS: Final = re.compile(rb"\s*(?:\d{1,10}\s*(?:,\s*\d{1,10}\s*)*)?")
_FAILED: Final = b'data: {"error"'
# An event that an engine with a parser (for tools, for reasoning) sends for its ids alone.
_EMPTY: Final = b'"delta":{},'
_GOES_ON: Final = b'"finish_reason":null'
# An engine's own failure; an error in the 400s is the request's, and would come again.
_ERROR: Final = re.compile(rb'\s*\{\s*"error"\s*:(?!.*"code"\s*:\s*"?4\d\d\b)', re.DOTALL)
_PROMPT: Final = b'"prompt_token_ids":['
_PROMPT_ANY: Final = re.compile(rb'"prompt_token_ids"\s*:\s*\[([^\]\["]*)\]')
_NO_CHOICE: Final = re.compile(rb'"choices"\s*:\s*\[\s*\]')
_NULL: Final = b"null"
_END: Final = b"\n\n"
_BEGIN: Final = b"data: {"
_NEXT: Final = _END + _BEGIN
_OBJECT: Final = re.compile(rb"\s*\{.*\}\s*", re.DOTALL)
NO_IDS: Final = "its engine told token ids that are none"


class TokenStream:
    """Fed with an answer's whole events in order."""

    __slots__ = ("_ids", "_lost", "_most", "_prompt", "_tail", "_tail_bytes", "_terms", "_whole", "deaf", "failure")

    def __init__(self, terms: Terms, *, asked_bytes: int) -> None:
        """Begin. `asked_bytes`: of the request, by which it is known how many ids its prompt may have."""
        self._terms = terms
        self._most = PROMPT_BYTES * asked_bytes + TEMPLATE_BYTES
        self._prompt: bytes | None = None
        self._ids = bytearray()  # numbers, each followed by a comma
        self._tail: deque[tuple[int, bytes]] = deque()  # how much of `_ids` was there before, and the events
        self._tail_bytes = 0
        self._whole = True  # whether the tail is all that there was
        self._lost = ""
        self.deaf = False  # the engine sends no ids: nothing need pass here any more
        self.failure = b""  # the event by which the engine told that it failed, or garbage; what follows it is nothing

    @property
    def begun(self) -> bool:
        """Whether anything was told beside comments."""
        return self.deaf or self._prompt is not None

    def take(self, block: bytes) -> bytes:
        """Return what the client gets of whole events."""
        at = block.find(_IDS)
        if at < 0 or self._prompt is None or block.find(_FAILED) >= 0 or block.find(_EMPTY) >= 0:
            return self._with_care(block)
        ids, terms = self._ids, self._terms
        end = block.find(b"]", at)
        if end < 0 or not _is_common(block):
            return self._with_care(block)
        self._tail.append((len(ids), block))
        self._tail_bytes += len(block)
        if self._tail_bytes > TAIL_BYTES or len(self._tail) > TAIL:
            self._shorten()
        out: list[bytes] = []
        start = 0
        while at >= 0 and end >= 0:
            if end > at + _AT + 1:
                ids += block[at + _AT + 1 : end]
                ids += b","
            out += (block[start : at + _AT], _NULL)
            start = end + 1
            at = block.find(_IDS, start)
            end = block.find(b"]", at) if at >= 0 else -1
        out.append(block[start:])
        return block if terms.ids_wanted else b"".join(out)

    def ended(self) -> bool:
        """Whether the stream has told that it is at its end, or cannot tell."""
        if self.deaf or self._prompt is None or not self._tail:
            return True
        return data_of(events_of(self._tail[-1][1])[-1]) == b"[DONE]"

    def told(self) -> Told | str:
        """Return what has been told so far, or why that cannot be known."""
        if self._prompt is None:
            return "its engine tells no token ids"
        prompt, ids = numbers(self._prompt), numbers(bytes(self._ids[:-1]))
        if self._lost or not prompt or ids is None:
            return self._lost or NO_IDS
        told = Told(prompt=prompt, ids=ids, marks=[])
        if self._whole:
            told.mark(Mark(tokens=0, end=0, clean=True))
        try:
            tokens = self._read(told)
        except ValueError:
            return "what its engine told is more than text, or not understood"
        return told if tokens == len(ids) or not self._tail else NO_IDS

    def _read(self, told: Told) -> int:
        """Add what the tail tells; return how many tokens there are at its end.

        Raises:
            ValueError: it is not understood.
        """
        reader = Reader(told, self._terms)
        for number, (before, block) in enumerate(self._tail):
            tokens = self._ids.count(b",", 0, before)
            if number and tokens != reader.tokens:
                raise ValueError("ids that are none")
            reader.tokens = tokens
            for each in events_of(block):
                piece = piece_of(each)
                if piece is not None:
                    reader.take(piece)
        return reader.tokens

    def _with_care(self, block: bytes) -> bytes:
        """Take events that are not the common one: the first, the last, an error, a comment, another engine's."""
        out: list[bytes] = []
        events = events_of(block)
        if sum(map(len, events)) != len(block):
            self._lose("part of an event was passed on alone")
            return _ANY.sub(_nothing, block) if self._prompt is not None and not self._terms.ids_wanted else block
        for number, each in enumerate(events):
            data = data_of(each)
            # What cannot be continued passes as it comes: part of an event may have gone out before this.
            garbage = not self._lost and _is_garbage(each, data)
            if garbage or (data is not None and _ERROR.match(data)):
                self.failure = b"".join(events[number:])
                break
            out.append(self._one(each, data))
            if self.deaf:
                out += events[number + 1 :]
                break
        return b"".join(out)

    def _one(self, each: bytes, data: bytes | None) -> bytes:
        if data is None:
            return each
        begins, bare = self._prompt is None, each
        if begins:
            prompt, bare = _prompt_of(each)
            if prompt is None:
                self.deaf = True
                return each
            self._prompt = prompt if len(prompt) <= self._most else b""
        ids = dict(cast("list[tuple[bytes, bytes]]", _ANY.findall(bare))).get(b"token_ids")
        if ids is None and not begins and data != b"[DONE]" and _NO_CHOICE.search(data) is None:
            self._lose("an event came without its token ids")
        self._tail.append((len(self._ids), bare))
        self._tail_bytes += len(bare)
        self._shorten()
        if ids is not None and ids.strip():
            self._ids += ids + b","
        if self._terms.ids_wanted:
            return each
        return b"" if _EMPTY in data and _GOES_ON in data else _ANY.sub(_nothing, bare)

    def _shorten(self) -> None:
        """Keep of the last events what may be kept; the last one always, unless it is beyond all measure."""
        tail = self._tail
        while len(tail) > TAIL or (self._tail_bytes > TAIL_BYTES and tail):
            self._tail_bytes -= len(tail.popleft()[1])
            self._whole = False
        if len(self._ids) > IDS_BYTES:
            self._lose("it is longer than what is kept of an answer")

    def _lose(self, reason: str) -> None:
        """Note why the answer cannot be continued; ids are taken out of it as before, and none are kept."""
        self._lost = self._lost or reason
        self._ids.clear()


class Garbage(ValueError):
    """What should be an event is none: no engine in its senses says that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """What one event says of the one choice.

    Attributes:
        text: "" where it says none.
        ids: None where it tells none.
        finish, stop: why the answer ended and what stopped it; None while it goes on.
        usage: as it stands in the event that tells nothing else; None in all others.
        done: whether it is the last of the stream.
        whole: all of it.
    """

    text: str = ""
    ids: list[int] | None = None
    finish: str | None = None
    stop: object = None
    usage: dict[str, Any] | None = None
    done: bool = False
    whole: dict[str, Any]


def piece_of(each: bytes) -> Piece | None:
    """Read an event of a chat or a completion; None of one that says nothing.

    Raises:
        Garbage: it is none.
        ValueError: it says what a continuation could not go on with.
    """
    data = data_of(each)
    if data is None and not is_quiet(each):
        raise Garbage("no event")
    if data is None:
        return None
    if data == b"[DONE]":
        return Piece(done=True, whole={})
    whole = _whole(data)
    choices = whole.get("choices")
    if choices == []:
        usage = whole.get("usage")
        return Piece(usage=cast("dict[str, Any]", usage) if isinstance(usage, dict) else {}, whole=whole)
    try:
        (only,) = cast("list[dict[str, Any]]", choices)
        delta = only.get("delta")
        text = only.get("text") if delta is None else delta.get("content")
        other = delta is not None and any(value for key, value in delta.items() if key not in {"role", "content"})
        ids, finish = only.get("token_ids"), only.get("finish_reason")
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError("no chunk of an answer") from error
    if other or not isinstance(text, str | None) or not isinstance(finish, str | None):
        raise ValueError("more than text")
    if ids is not None and not (isinstance(ids, list) and all(_is_id(one) for one in cast("list[object]", ids))):
        raise ValueError("ids that are none")
    return Piece(
        text=text or "", ids=cast("list[int] | None", ids), finish=finish, stop=only.get("stop_reason"), whole=whole
    )


def _whole(data: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(data, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Garbage("no JSON object") from error


class Reader:
    """Adds what pieces tell to what has been told. `tokens`: how many there were before the next piece."""

    __slots__ = ("_terms", "_told", "tokens")

    def __init__(self, told: Told, terms: Terms) -> None:
        self._told = told
        self._terms = terms
        self.tokens = 0

    def take(self, piece: Piece) -> None:
        """Take the next one."""
        told = self._told
        if piece.done:
            told.done = True
            return
        if piece.usage is not None:
            told.usage_told = True
            return
        told.head = {name: piece.whole.get(name) for name in ("id", "created", "model")}
        told.finish = piece.finish
        self.tokens += len(piece.ids or ())
        if piece.text:
            told.say(piece.text)
            told.spoken = True
            told.mark(Mark(tokens=self.tokens, end=told.end + self._terms.held, clean=len(piece.ids or ()) == 1))


def numbers(text: bytes) -> list[int] | None:
    """Read ids as they stand in a JSON list; None where they are none."""
    if _NUMBERS.fullmatch(text) is None:
        return None
    found = [int(each) for each in text.split(b",")] if text.strip() else []
    return found if all(each <= ID_MAX for each in found) else None


def _prompt_of(each: bytes) -> tuple[bytes | None, bytes]:
    """Return the ids of the prompt that an event tells, and the event without them.

    They may be a hundred thousand: the one list that is worth a way of its own past the patterns.
    """
    at = each.find(_PROMPT) + len(_PROMPT)
    end = each.find(b"]", at) if at >= len(_PROMPT) else -1
    if end < 0:
        found = _PROMPT_ANY.search(each)
        if found is None:
            return None, each
        at, end = found.span(1)
    return each[at:end], each[: at - 1] + _NULL + each[end + 1 :]


def _is_common(block: bytes) -> bool:
    """Whether a block, with a list of ids in it, is one event or more of the common kind and nothing else."""
    if not (block.startswith(_BEGIN) and block.endswith(_END)):
        return False
    ends = block.count(_END)
    # Where there are fewer lists than events, one of another kind is among them.
    return ends == 1 or (block.count(_NEXT) == ends - 1 and ends <= block.count(_IDS))


def _is_garbage(each: bytes, data: bytes | None) -> bool:
    """Whether this can be no event of an answer: by its ends alone, for the first may hold a hundred thousand ids."""
    if data is None:
        return not is_quiet(each)
    return data != b"[DONE]" and _OBJECT.fullmatch(data) is None


def _nothing(match: re.Match[bytes]) -> bytes:
    return match.group(0)[: match.start(2) - 1 - match.start()] + _NULL


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= ID_MAX
