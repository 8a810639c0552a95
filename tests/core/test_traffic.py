"""One answer measured off its bytes, and windows of them: what counts, what does not, and when a window ends."""

import json
from dataclasses import replace
from typing import Any

import pytest

from node.core.answer_meter import AnswerMeter, Measured, one_sequence
from node.core.endpoints import Dialect
from node.core.engine_state import EngineSnapshot
from node.core.prompt import OWNER, Prompt
from node.core.traffic import (
    FEWEST,
    LEAST_ANSWERS,
    LONGEST,
    MOST_ANSWERS,
    SAMPLED,
    SAMPLED_AT_ONCE,
    SAMPLED_GAP,
    SPAN,
    SPARSELY,
    Ending,
    Traffic,
    Verdict,
    life_of,
)
from node.core.workload import LEAST_COPIED
from tests.fakes.engine_board import READY
from tests.fakes.upstream import EVENTS, JSON

ROLE = b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":40,"total_tokens":50,"completion_tokens":10}}\n\n'
DONE = b"data: [DONE]\n\n"


def token(text: str = "a") -> bytes:
    return b'data: {"choices":[{"index":0,"delta":{"content":"%s"}}]}\n\n' % text.encode()


def metered(
    pieces: list[tuple[float, bytes]], *, dialect: Dialect = Dialect.OPENAI, status: int = 200, streamed: bool = True
) -> AnswerMeter:
    """Return a meter that was fed pieces at their times by a reader that always waits for the next."""
    meter = AnswerMeter(began=0.0, dialect=dialect)
    meter.head(status, EVENTS if streamed else JSON, 0.0)
    before = 0.0
    for at, data in pieces:
        meter.piece(data, before, at)
        before = at
    return meter


def test_a_stream_is_measured_from_its_first_content_to_its_last_byte() -> None:
    pieces = [(0.5, ROLE), (1.0, token()), *((1.0 + 0.1 * step, token()) for step in range(1, 5)), (2.5, token())]
    found = metered([*pieces, (2.5, DONE)]).measured()
    assert found == Measured(
        streamed=True, latency=2_500_000, ttft=1_000_000, tpot=300_000, stall=1_100_000, output_tokens=6
    )


def test_told_usage_outweighs_the_count_of_events_and_what_was_there_at_the_first_look_took_no_time() -> None:
    # Three tokens in each of three events, as with speculation: the first event is there at the first look.
    pieces = [(1.0, ROLE + token("abc")), (1.3, token("abc")), (1.6, token("abc") + USAGE + DONE)]
    found = metered(pieces).measured()
    assert found is not None
    assert (found.prompt_tokens, found.output_tokens, found.told) == (40, 10, True)
    assert found.tpot == pytest.approx(600_000 / (10 * 2 / 3), abs=1)


def test_an_answer_that_came_in_one_piece_has_no_time_per_token() -> None:
    found = metered([(1.0, token() * 20 + USAGE + DONE)]).measured()
    assert found is not None
    assert (found.ttft, found.tpot, found.stall) == (1_000_000, None, 0)


def test_a_whole_answer_has_its_latency_and_its_usage() -> None:
    body = json.dumps({"choices": [{"text": "x" * 9000}], "usage": {"prompt_tokens": 7, "completion_tokens": 9}})
    found = metered([(1.5, body.encode())], streamed=False).measured()
    assert found == Measured(streamed=False, latency=1_500_000, prompt_tokens=7, output_tokens=9, told=True)


def test_announcements_before_the_first_delta_are_not_content() -> None:
    delta = b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","delta":"a"}\n\n'
    events = [
        (0.1, b'event: response.created\ndata: {"type":"response.created"}\n\n'),
        (0.9, delta),
        (1.9, delta),
        (1.9, b'data: {"type":"response.completed","usage":{"input_tokens":5,"output_tokens":2}}\n\n'),
    ]
    found = metered(events, dialect=Dialect.RESPONSES).measured()
    assert found is not None
    assert (found.ttft, found.prompt_tokens, found.output_tokens) == (900_000, 5, 2)


def test_what_the_engine_refused_and_what_was_read_too_slowly_says_nothing_of_the_engine() -> None:
    assert metered([(0.1, b'{"error":{}}')], status=400, streamed=False).measured() is None
    slow = AnswerMeter(began=0.0, dialect=Dialect.OPENAI)
    slow.head(200, EVENTS, 0.0)
    slow.piece(token(), 0.0, 0.2)
    slow.piece(token(), 1.2, 1.2)  # it was there long before anybody asked for it
    assert slow.measured() is None


def test_an_error_told_as_an_answer_is_a_failure_and_one_that_the_model_talks_of_is_not() -> None:
    assert metered([(0.1, b"")], status=500, streamed=False).failed
    assert metered([(0.1, token()), (0.2, b'data: {"error":{"message":"died"}}\n\n' + DONE)]).failed
    assert not metered([(0.1, token('data: {\\"error\\"')), (0.2, DONE)]).failed


@pytest.mark.parametrize(
    ("body", "one"),
    [
        ({"prompt": "hi"}, True),
        ({"messages": [{"role": "user", "content": '"n": 3'}], "n": 1}, True),
        ({"prompt": [1, 2, 3]}, True),
        ({"prompt": ["a", "b"]}, False),
        ({"prompt": [[1], [2]]}, False),
        ({"prompt": "hi", "n": 2}, False),
        ({"prompt": "hi", "best_of": 4}, False),
        ({"prompt": "hi", "use_beam_search": True}, False),
    ],
)
def test_requests_for_several_sequences_are_told_apart(body: dict[str, Any], one: bool) -> None:
    assert one_sequence(json.dumps(body).encode()) is one
    assert not one_sequence(b"no JSON")


@pytest.mark.parametrize("space", [b"", b"\t", b"\r\n", b" " * 100])
def test_no_white_space_hides_that_there_are_several_prompts(space: bytes) -> None:
    assert not one_sequence(b'{"prompt": %b[%b"a", "b"]}' % (space, space))
    assert not one_sequence(b'{"prompt": %b[%b[1], [2]]}' % (space, space))
    assert one_sequence(b'{"prompt": %b[%b1, 2]}' % (space, space))


# --- windows


def prompt(target: str = "/v1/chat/completions", body: bytes = b"{}") -> Prompt:
    return Prompt(
        request_id="r", method="POST", target=target, headers=(), body=body, model="m", stream=True, requester=OWNER
    )


def opened(now: float = 0.0) -> Traffic:
    traffic = Traffic()
    traffic.open(life_of(READY), now)
    return traffic


def answer(
    traffic: Traffic,
    at: float,
    *,
    took: float = 1.0,
    ending: Ending = Ending.WHOLE,
    snapshot: EngineSnapshot = READY,
    body: bytes = b"{}",
) -> None:
    meter = traffic.begin(prompt(body=body), snapshot, at)
    assert meter is not None
    meter.head(200, EVENTS, at)
    meter.piece(token(), at, at + took)
    traffic.end(meter, ending, at + took)


def verdict(traffic: Traffic, now: float) -> Verdict:
    assert traffic.window is not None
    return traffic.window.verdict(now)


def test_a_window_ends_after_its_span_with_enough_answers_and_is_given_up_after_an_hour_with_too_few() -> None:
    traffic = opened(now=0.0)
    for index in range(LEAST_ANSWERS - 1):
        answer(traffic, 1000.0 + index)
    assert verdict(traffic, 1000.0 + SPAN) is Verdict.GO_ON
    assert verdict(traffic, 1000.0 + LONGEST) is Verdict.DROP
    answer(traffic, 1500.0)
    assert verdict(traffic, 1000.0 + SPAN - 1) is Verdict.GO_ON
    assert verdict(traffic, 1000.0 + SPAN) is Verdict.KEEP


def test_a_window_holds_so_many_answers_and_no_more_and_says_when_it_is_full() -> None:
    traffic, told = opened(), []
    traffic.on_full = lambda: told.append(verdict(traffic, 0.0))
    for index in range(MOST_ANSWERS + 20):
        answer(traffic, float(index))
    window = traffic.close(1000.0)
    assert window is not None
    assert len(window.answers) == MOST_ANSWERS
    assert told == [Verdict.KEEP]


@pytest.mark.parametrize("change", [{"strategy": "other"}, {"model": "other"}, {"pid": 7}, {"restarts": 1}])
def test_another_model_strategy_or_life_of_the_engine_ends_the_window(change: dict[str, Any]) -> None:
    traffic, other = opened(), replace(READY, **change)
    for index in range(LEAST_ANSWERS):
        answer(traffic, float(index))
    late = traffic.begin(prompt(), READY, 50.0)
    answer(traffic, 60.0, snapshot=other)
    assert verdict(traffic, 61.0) is Verdict.KEEP
    assert late is not None
    traffic.end(late, Ending.BROKEN, 62.0)  # the old life's last
    window = traffic.close(63.0)
    assert window is not None
    assert (len(window.answers), window.failures, window.arrivals.count) == (LEAST_ANSWERS, 1, LEAST_ANSWERS + 1)


def test_who_left_and_who_asked_for_several_answers_at_once_are_load_and_nothing_else() -> None:
    traffic = opened()
    answer(traffic, 0.0, ending=Ending.LEFT)
    answer(traffic, 10.0, body=b'{"n": 2}')
    assert traffic.begin(prompt("/v1/embeddings"), READY, 20.0) is None
    window = traffic.close(30.0)
    assert window is not None
    assert (window.answers, window.failures) == ([], 0)
    assert (window.arrivals.count, window.busy) == (2, 2.0)
    assert traffic.running == 0


def test_time_is_busy_while_anybody_is_answered_however_many_are() -> None:
    traffic = Traffic()
    before = traffic.begin(prompt(), READY, 0.0)
    traffic.open(life_of(READY), 10.0)
    beside = traffic.begin(prompt(), READY, 11.0)
    assert before is not None
    assert beside is not None
    traffic.end(before, Ending.LEFT, 12.0)
    traffic.end(beside, Ending.LEFT, 13.0)
    window = traffic.close(99.0)
    assert window is not None
    assert window.busy == 3.0


def test_the_spread_of_arrivals_is_that_of_their_gaps() -> None:
    traffic = opened()
    for at in (0.0, 1.0, 4.0, 5.0, 8.0):
        answer(traffic, at, took=0.1)
    window = traffic.close(9.0)
    assert window is not None
    assert window.arrivals.mean_gap == pytest.approx(2.0)
    assert window.arrivals.variation == pytest.approx(0.5)


@pytest.mark.parametrize(("answers", "expected"), [(FEWEST - 1, Verdict.DROP), (FEWEST, Verdict.KEEP)])
def test_a_window_that_is_hurried_ends_at_once_and_counts_with_ten_answers(answers: int, expected: Verdict) -> None:
    traffic, told = opened(), []
    traffic.on_full = lambda: told.append(True)
    for index in range(answers):
        answer(traffic, float(index))
    assert verdict(traffic, 60.0) is Verdict.GO_ON
    assert traffic.hurry()
    assert told == [True]
    assert verdict(traffic, 60.0) is expected
    traffic.close(61.0)
    assert not traffic.hurry()


# --- the watch over all of it


def test_the_watch_is_told_of_everything_whether_a_window_is_open_or_not() -> None:
    traffic, body = Traffic(), json.dumps({"messages": [{"role": "user", "content": "hello there"}]}).encode()
    for index in range(20):
        answer(traffic, 10.0 * index, body=body)
    answer(traffic, 200.0, ending=Ending.BROKEN)
    answer(traffic, 210.0, ending=Ending.LEFT)
    answer(traffic, 220.0, body=b'{"n": 2}')
    kept = traffic.watch.answers(0.0)
    assert [(each.began, each.at) for each in kept] == [(10.0 * index, 10.0 * index + 1.0) for index in range(20)]
    assert {(each.strategy, each.asked_bytes) for each in kept} == {(READY.strategy, len(body))}
    assert traffic.watch.failures(0.0) == traffic.watch.failures(0.0, "default") == 1
    assert traffic.watch.failures(0.0, "another") == 0
    found = traffic.watch.description(230.0)
    assert found is not None
    assert (found.requests, found.span_s, found.busy_share) == (20, 230.0, pytest.approx(23 / 230))
    assert found.concurrency == 1.0


def test_one_answer_in_eight_is_looked_at_for_what_it_repeats_and_few_at_once() -> None:
    words = "one two three four five six seven eight nine ten eleven twelve"
    body = json.dumps({"prompt": words}).encode()
    traffic = Traffic()
    for index in range(3 * SAMPLED):
        meter = traffic.begin(prompt(body=body), READY, float(index))
        assert meter is not None
        meter.head(200, JSON, float(index))
        meter.piece(json.dumps({"choices": [{"text": words}]}).encode(), float(index), index + 0.5)
        traffic.end(meter, Ending.WHOLE, index + 0.5)
    copied = [each.measured.copied for each in traffic.watch.answers(0.0)]
    assert sum(each is not None for each in copied) == 3
    assert max(each or 0 for each in copied) > 800_000
    begins = [100.0 + index * SAMPLED_GAP / SAMPLED for index in range(2 * SAMPLED * SAMPLED_AT_ONCE)]
    under_way = [traffic.begin(prompt(body=body), READY, begin) for begin in begins]
    for meter in under_way:
        assert meter is not None
        meter.head(200, EVENTS, 100.0)
        meter.piece(token(words), 100.0, 101.0)
    held = [meter for meter in under_way if meter is not None and meter._first]
    assert len(held) == SAMPLED_AT_ONCE
    for meter in under_way:
        assert meter is not None
        traffic.end(meter, Ending.LEFT, 102.0)
    late = [traffic.begin(prompt(body=body), READY, 200.0) for _ in range(SAMPLED)]
    for meter in late:
        assert meter is not None
        meter.head(200, EVENTS, 200.0)
        meter.piece(token(words), 200.0, 201.0)
    assert sum(bool(meter and meter._first) for meter in late) == 1  # those that left made room


def test_of_answers_that_come_in_a_flood_fewer_are_looked_at_but_enough_to_tell() -> None:
    words = "one two three four five six seven eight nine ten eleven twelve"
    body, answered = json.dumps({"prompt": words}).encode(), json.dumps({"choices": [{"text": words}]}).encode()
    traffic = Traffic()
    for _ in range(512):
        meter = traffic.begin(prompt(body=body), READY, 1.0)
        assert meter is not None
        meter.head(200, JSON, 1.0)
        meter.piece(answered, 1.0, 1.0)
        traffic.end(meter, Ending.WHOLE, 1.0)
    looked_at = sum(each.measured.copied is not None for each in traffic.watch.answers(0.0))
    assert LEAST_COPIED < looked_at == 512 // SPARSELY
