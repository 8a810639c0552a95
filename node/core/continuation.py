"""Going on with an answer whose engine is gone: from which token, what to ask, or how to end it without asking.

Knows no stream and no engine: what was told of an answer goes in (`Told`), a decision comes out. Lengths are counted
in characters of the answer's text, from its beginning or, of a long one, from some place in it that stays the same.

Not every token is a place to go on from. A token may end in the middle of a character; an engine that watches for stop
strings has said less than it has generated. So the answer goes on from the last token whose text the client certainly
has, whole; what the client has beyond it is generated once more and swallowed (`node.core.splice`).
"""

from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from node.core.resumable import COMPLETIONS, Terms
from node.core.sse_events import DONE

TARGET: Final = COMPLETIONS
SAID_CHARS: Final = 4096  # kept of what was said last: more than is ever generated twice
MARKS: Final = 64  # places to go on from that are kept: the last will do, but for stop strings


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A place in an answer after a token whose text is known to an engine.

    Attributes:
        tokens: of the answer up to here.
        end: of their text.
        clean: whether they certainly end with a whole character. Where several tokens were told together, the last of
            them may be the first half of one.
    """

    tokens: int
    end: int
    clean: bool


@dataclass(slots=True, kw_only=True)
class Told:
    """What has been told of an answer.

    Attributes:
        prompt: the prompt's tokens.
        ids: the answer's.
        shown: those that a client which asks for ids has got: while some are generated again, more than `ids`.
        marks: places to go on from, in order, the last `MARKS`.
        said: the end of the text that the client has.
        end: where that ends.
        head: `id`, `created` and `model` of its events.
        spoken: whether any text was told.
        finish: why the answer ended, as it told; None where it did not end yet.
        usage_told, done: what came after that.
        blind: why it cannot be continued any more; "" where it can.
    """

    prompt: list[int]
    ids: list[int]
    marks: list[Mark]
    shown: list[int] = field(default_factory=list[int])
    said: str = ""
    end: int = 0
    head: dict[str, Any] = field(default_factory=dict[str, Any])
    spoken: bool = False
    finish: str | None = None
    usage_told: bool = False
    done: bool = False
    blind: str = ""

    def say(self, text: str) -> None:
        """Note text that the client has got."""
        self.end += len(text)
        self.said = (self.said + text)[-SAID_CHARS:]

    def mark(self, mark: Mark) -> None:
        """Note a place to go on from."""
        self.marks.append(mark)
        del self.marks[:-MARKS]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rest:
    """Ask this of an engine, and go on with its answer at `mark`.

    Attributes:
        body: of a request for `TARGET`.
    """

    body: bytes
    mark: Mark


@dataclass(frozen=True, slots=True)
class Closing:
    """Nothing is left to be generated: these bytes end the stream as its engine would have."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Lost:
    """It cannot be continued; `reason` for a person."""

    reason: str


def go_on(told: Told, terms: Terms, room: int | None) -> Rest | Closing | Lost:
    """Decide how to go on with an answer that broke off.

    Args:
        room: tokens of prompt and answer together that the engines of this model take; None where that is not known.
    """
    if told.done:
        return Closing(b"")
    if told.finish is not None:
        return Closing(_closing(told, terms))
    if told.blind:
        return Lost(told.blind)
    mark = _place(told, terms)
    if mark is None:
        return Lost("what was said last is no place to go on from")
    left = _left(told, terms, mark, room)
    if isinstance(left, Lost):
        return left
    if left == 0:
        return Closing(_finish(told, terms) + _closing(told, terms))
    return Rest(body=_body(told, terms, mark, left), mark=mark)


def _place(told: Told, terms: Terms) -> Mark | None:
    """Return where to go on from: the last place such that nothing the client lacks lies before it.

    An engine that goes on from there sees every stop string that began in what it did not see: of those that are told
    too, the beginning may have been told already; of those that are not told none was, so `end` is early enough.
    """
    latest = told.end - (terms.overlap if terms.stop_shown else 0)
    earliest = told.end - len(told.said) if terms.greedy else told.end
    marks = [each for each in told.marks if each.end >= earliest and (each.end <= latest or not each.tokens)]
    if terms.greedy:
        clean = [each for each in marks if each.clean]
        marks = clean or marks
    return marks[-1] if marks else None


def _left(told: Told, terms: Terms, mark: Mark, room: int | None) -> int | Lost:
    """Return how many tokens may follow the mark."""
    if terms.ids_wanted and not terms.greedy and mark.tokens < max(len(told.ids), len(told.shown)):
        return Lost("tokens were told that luck will not choose again")
    if terms.limit is None:
        if room is None:
            return Lost("it is not known how long its engine would let it become")
        return max(room - len(told.prompt) - mark.tokens, 0)
    if len(told.ids) > terms.limit:
        return Lost("it is longer than it was to become")
    return terms.limit - mark.tokens


def _body(told: Told, terms: Terms, mark: Mark, left: int) -> bytes:
    fields: dict[str, Any] = {
        **terms.repeated,
        "prompt": [*told.prompt, *told.ids[: mark.tokens]],
        "max_tokens": left,
        "stream": True,
        "return_token_ids": True,
    }
    if terms.least > mark.tokens:
        fields["min_tokens"] = terms.least - mark.tokens
    return msgspec.json.encode(fields)


def event(value: dict[str, Any]) -> bytes:
    """Write an event as vLLM does."""
    return b"data: " + msgspec.json.encode(value) + b"\n\n"


def choice(terms: Terms, text: str, *, ids: list[int] | None, finish: str | None, stop: object) -> dict[str, Any]:
    """Return the one choice of an event, in the shape that the client asked for.

    Args:
        ids: tokens to tell; None tells none.
        stop: what stopped the answer, where `finish` says that something did.
    """
    if not terms.chat:
        ends = {"finish_reason": finish, "stop_reason": stop, "prompt_token_ids": None, "token_ids": ids}
        return {"index": 0, "text": text, "logprobs": None, **ends}
    ended = {} if finish is None else {"stop_reason": stop}
    return {
        "index": 0,
        "delta": {"content": text},
        "logprobs": None,
        "finish_reason": finish,
        **ended,
        "token_ids": ids,
    }


def headed(told: Told, terms: Terms, choices: list[dict[str, Any]]) -> dict[str, Any]:
    """Return an event of this answer with these choices."""
    head = told.head
    kind = "chat.completion.chunk" if terms.chat else "text_completion"
    return {"id": head.get("id"), "object": kind, **_when(head), "choices": choices}


def _when(head: dict[str, Any]) -> dict[str, Any]:
    return {"created": head.get("created"), "model": head.get("model")}


def _finish(told: Told, terms: Terms) -> bytes:
    last = choice(terms, "", ids=[] if terms.ids_wanted else None, finish="length", stop=None)
    return event(headed(told, terms, [last]))


def _closing(told: Told, terms: Terms) -> bytes:
    """Return what follows the last token."""
    if not terms.usage or told.usage_told:
        return DONE
    prompt, answer = len(told.prompt), len(told.ids)
    usage = {"prompt_tokens": prompt, "total_tokens": prompt + answer, "completion_tokens": answer}
    return event({**headed(told, terms, []), "usage": usage}) + DONE
