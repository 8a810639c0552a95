"""Streams whose server loses its senses: what is no answer reaches no client, and whoever gave it is named."""

import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

import pytest
import trio

from node.core.prompt import Prompt
from node.errors import Broken, Refusal, Refused
from node.ports import ServedAnswer
from node.services.resume import ResumingReplica
from tests.fakes.replica import FakeReplica
from tests.fakes.token_engine import TokenEngine, heard, tokens_of
from tests.fakes.upstream import EVENTS, Request, Script
from tests.services.test_resume import CHAT, TEXT, WORDS, Stage, prompt, run, run_to_break, same, whole, with_ids

GARBAGE = {
    "no JSON": b"data: \x8f\x00\xfe{{{]\n\n",
    "torn": b'data: {"id":"x","choices":[{"index":0,"delta":{"con\n\n',
    "no event": b"\xde\xad\xbe\xef\n\n",
    "a page": b"<html><body>502</body></html>\r\n\r\n",
}
HONEST = (b": keep-alive\n\n", b"event: ping\nid: 7\nretry: 10\n\n", b": a\r\n: b\r\n\r\n")


def spoilt(garbage: bytes, *numbers: int, first: bool = False, ends: bool = True) -> Callable[[int, bytes], bytes]:
    """Return what puts garbage into the answers of these numbers; after it they end, or go on as if nothing was."""

    def change(number: int, stream: bytes) -> bytes:
        if number not in numbers:
            return stream
        at = 0 if first else stream.index(b"\n\n", 900) + 2
        return stream[:at] + garbage + (b"data: [DONE]\n\n" if ends else stream[at:])

    return change


def blaming(stage: Stage) -> list[str]:
    """Have who is to blame written down."""
    blamed: list[str] = []
    stage.replica = ResumingReplica(stage.inner, room=lambda _: 1000, blame=blamed.append)
    return blamed


@pytest.mark.parametrize("piece", [1 << 20, 90, 7])
@pytest.mark.parametrize("ends", [True, False])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("kind", GARBAGE)
def test_garbage_among_events_never_reaches_a_client(kind: str, first: bool, ends: bool, piece: int) -> None:
    one = prompt(stream_options={"include_usage": True})
    stage = Stage([TokenEngine(WORDS)], change=spoilt(GARBAGE[kind], 0, first=first, ends=ends), piece=piece)
    blamed = blaming(stage)
    told = run(stage, one)
    same(heard(told), heard(whole(TokenEngine(WORDS), one)))
    assert GARBAGE[kind] not in told
    assert blamed == ["node-under-test"]


@pytest.mark.parametrize("kind", GARBAGE)
def test_who_goes_on_with_garbage_is_named_too_and_another_asked(kind: str) -> None:
    one = prompt(stream_options={"include_usage": True})
    stage = Stage([TokenEngine(WORDS)], change=spoilt(GARBAGE[kind], 0, 1))
    blamed = blaming(stage)
    same(heard(run(stage, one)), heard(whole(TokenEngine(WORDS), one)))
    assert len(blamed) == 2


@pytest.mark.parametrize("comment", HONEST)
@pytest.mark.parametrize("first", [True, False])
def test_comments_and_other_fields_of_the_standard_are_no_garbage(comment: bytes, first: bool) -> None:
    one = prompt()
    stage = Stage([TokenEngine(WORDS)], change=spoilt(comment, 0, first=first, ends=False))
    blamed = blaming(stage)
    assert run(stage, one).replace(comment, b"") == whole(TokenEngine(WORDS), one)
    assert (stage.asked, blamed) == (1, [])


def test_an_event_of_another_kind_among_several_at_once_keeps_its_place() -> None:
    # Two events in one piece have one list of ids between them: each is looked at by itself.
    one = prompt()
    other = b'data: {"id":"x","object":"o","created":1,"model":"m","choices":[],"usage":{"total_tokens":9}}\n\n'
    stage = Stage([TokenEngine(WORDS)], change=spoilt(other, 0, ends=False))
    told = run(stage, one)
    assert told.replace(other, b"") == whole(TokenEngine(WORDS), one)
    assert b'token_ids":[' not in told


def test_a_near_tie_that_falls_otherwise_is_nobody_s_fault() -> None:
    text = TEXT[:20] + "and something else altogether, ##END##"
    one = prompt(stop=["##END##"], include_stop_str_in_output=True)
    words = [*WORDS, *tokens_of(text)]
    right, other = (TokenEngine(tokens_of(each), words=words) for each in (TEXT, text))
    stage = Stage([right, other, right], [sum(map(len, with_ids(right, one)[:12]))])
    blamed = blaming(stage)
    assert heard(run(stage, one)).text == TEXT.partition(" more")[0]
    assert blamed == []


def test_a_break_that_the_replica_knows_of_is_not_told_to_it() -> None:
    stage = Stage([TokenEngine(WORDS)], [1500])
    blamed = blaming(stage)
    same(heard(run(stage, prompt())), heard(whole(TokenEngine(WORDS), prompt())))
    assert blamed == []


@pytest.mark.parametrize("kind", GARBAGE)
def test_garbage_between_events_that_come_in_one_piece_is_found_too(kind: str) -> None:
    stage = Stage([TokenEngine(WORDS)])
    blamed = blaming(stage)

    def answer(request: Request) -> Script:
        number, stage.asked = stage.asked, stage.asked + 1
        first, second, *rest = TokenEngine(WORDS).events(request.target, request.body)
        garbage = b"" if number else GARBAGE[kind]
        return Script([first, second + garbage + rest[0], b"".join(rest[1:])], headers=EVENTS)

    stage.inner.upstream.answer_with = answer
    told = run(stage, prompt())
    same(heard(told), heard(whole(TokenEngine(WORDS), prompt())))
    assert (stage.asked, blamed) == (2, ["node-under-test"])


def trickling(stage: Stage, *, gap: float, size: int, after: int = 1, begins: bytes = b"") -> list[float]:
    """Have the first answer trickle from its `after`-th event on; return how long whoever asked waited, in the end.

    `begins`: what comes first of what trickles.
    """
    ended: list[float] = []

    async def wait() -> None:
        try:
            await trio.sleep(gap)
        finally:
            ended[:] = [trio.current_time()]

    def answer(request: Request) -> Script:
        number, stage.asked = stage.asked, stage.asked + 1
        events = TokenEngine(WORDS).events(request.target, request.body)
        if number:
            return Script(list(events), headers=EVENTS)
        rest = begins + b"".join(events[after:])
        pieces: list[Any] = list(events[:after])
        for at in range(0, len(rest), size):
            pieces += [wait, rest[at : at + size]]
        return Script(pieces, headers=EVENTS)

    stage.inner.upstream.answer_with = answer
    return ended


@pytest.mark.parametrize("after", [0, 1, 9])
def test_an_answer_that_trickles_a_byte_a_second_goes_on_elsewhere_within_seconds(after: int) -> None:
    stage = Stage([TokenEngine(WORDS)])
    blamed = blaming(stage)
    ended = trickling(stage, gap=1.0, size=1, after=after)
    one = prompt()
    same(heard(run(stage, one)), heard(whole(TokenEngine(WORDS), one)))
    assert (stage.asked, blamed) == (2, ["node-under-test"])
    assert ended[0] < 8.0


LONG = b": " + b"x" * 2000 + b"\n\n"  # takes twenty seconds at a hundred bytes each


@pytest.mark.parametrize(("gap", "size"), [(1.0, 100), (4.0, 1 << 20), (60.0, 1 << 20)])
def test_an_answer_that_is_merely_slow_is_left_to_who_gives_it(gap: float, size: int) -> None:
    stage = Stage([TokenEngine(WORDS)])
    blamed = blaming(stage)
    trickling(stage, gap=gap, size=size, begins=LONG)
    assert run(stage, prompt()).replace(LONG, b"") == whole(TokenEngine(WORDS), prompt())
    assert (stage.asked, blamed) == (1, [])


def test_where_nobody_else_can_the_garbage_ends_the_answer_with_an_error_and_is_not_passed_on() -> None:
    begins, goes_on = spoilt(GARBAGE["no JSON"], 0), spoilt(GARBAGE["no JSON"], *range(1, 20), first=True)
    stage = Stage([TokenEngine(WORDS)], change=lambda number, stream: goes_on(number, begins(number, stream)))
    told, broken = run_to_break(stage, prompt())
    assert isinstance(broken, Broken)
    assert GARBAGE["no JSON"] not in told
    assert TEXT.startswith(heard(told).text)
    assert json.loads(stage.inner.prompts[0].body)["return_token_ids"] is True
    assert stage.inner.prompts[0].path == CHAT


@dataclass
class Barred:
    """A replica that has set everybody aside so many times, once its first answer has begun."""

    inner: FakeReplica
    times: int
    code: str | None
    status: int = 503

    def answer(self, prompt: Prompt) -> AbstractAsyncContextManager[ServedAnswer]:
        if not self.inner.prompts or not self.times:
            return self.inner.answer(prompt)
        self.times -= 1
        told = Refusal(status=self.status, type="engine_unavailable", code=self.code, message="None can be asked now.")
        raise Refused(told)


@pytest.mark.parametrize(
    ("code", "waits"), [("failed", True), ("hung", True), ("probing", True), ("unreachable", True), ("loading", False)]
)
def test_where_everybody_failed_lately_it_waits_for_the_first_who_is_tried_again(code: str, waits: bool) -> None:
    stage = Stage([TokenEngine(WORDS)], [3000])
    stage.replica = ResumingReplica(Barred(stage.inner, 12, code), room=lambda _: 1000)
    if waits:
        same(heard(run(stage, prompt())), heard(whole(TokenEngine(WORDS), prompt())))
    else:
        assert "None can be asked now" in run_to_break(stage, prompt())[1].message


@pytest.mark.parametrize(("times", "comes_back"), [(12, True), (30, False)])
def test_a_model_that_nobody_knows_for_a_moment_is_waited_for_and_not_for_long(times: int, *, comes_back: bool) -> None:
    stage = Stage([TokenEngine(WORDS)], [3000])
    stage.replica = ResumingReplica(Barred(stage.inner, times, None, status=404), room=lambda _: 1000)
    if comes_back:
        same(heard(run(stage, prompt())), heard(whole(TokenEngine(WORDS), prompt())))
    else:
        assert "None can be asked now" in run_to_break(stage, prompt())[1].message
