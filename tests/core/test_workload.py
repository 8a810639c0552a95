"""What a node is asked, described: known traffic comes out as what it was, whatever the strategy that served it."""

import json
import random
from dataclasses import replace

import pytest

from node.core.answer_meter import Measured
from node.core.engine_counters import OUTPUT_TOKENS, OUTPUTS, PROMPT_TOKENS, PROMPTS
from node.core.workload import (
    LEAST_ANSWERS,
    LONGEST,
    MOST_ANSWERS,
    Description,
    Timed,
    WorkloadWatch,
    from_plain,
    shown,
    to_plain,
)
from tests.core.workload_traffic import Kind, Stream


def watched(kind: Kind, seconds: float = 3600.0, seed: int = 1) -> Stream:
    stream = Stream(WorkloadWatch(), random.Random(seed))  # noqa: S311 -- traffic, not secrets
    stream.run(kind, seconds)
    return stream


def described(stream: Stream) -> Description:
    found = stream.watch.description(stream.now)
    assert found is not None
    return found


def test_traffic_is_described_as_what_it_was() -> None:
    found = described(watched(Kind(rate=0.2, prompt=300, output=80, copied=0.5, prefix=0.4), 2400))
    assert found.prompt_tokens is not None
    assert found.output_tokens is not None
    assert found.prompt_tokens.p50 == pytest.approx(300, rel=0.15)
    assert found.prompt_tokens.p95 == pytest.approx(300 * 3.16, rel=0.3)  # exp(0.7 x 1.645)
    assert found.output_tokens.mean == pytest.approx(80 * 1.28, rel=0.15)
    assert found.requests_per_s == pytest.approx(0.2, rel=0.15)
    assert found.burstiness == pytest.approx(1.0, abs=0.2)
    assert found.copy_share == pytest.approx(0.5, abs=0.1)
    assert found.shared_prefix_share == pytest.approx(0.4, abs=0.05)
    # Little: 0.2/s x 2.75 s at the engine, over the time in which it has any (1 - 1/e^0.55)
    assert found.busy_share == pytest.approx(0.42, abs=0.08)
    assert found.concurrency == pytest.approx(0.55 / 0.42, rel=0.15)
    assert (found.streaming_share, found.prefix_groups) == (1.0, None)
    assert found.latency_s == pytest.approx(0.2 + 80 * 1.28 / 40, rel=0.15)


def test_of_too_few_answers_nothing_is_told_and_of_long_ago_nothing_is_left() -> None:
    stream = Stream(WorkloadWatch(), random.Random(1))  # noqa: S311 -- traffic, not secrets
    while stream.answered < LEAST_ANSWERS - 1:
        stream.run(Kind(), 1.0)
    assert stream.watch.description(stream.now) is None
    stream.run(Kind(), 60.0)
    assert stream.watch.description(stream.now) is not None
    assert stream.watch.description(stream.now + LONGEST + 60) is None


def test_memory_is_bounded_and_the_oldest_go_first() -> None:
    stream = watched(Kind(rate=1.0), 3000)
    assert described(stream).requests <= MOST_ANSWERS
    kept = stream.watch.answers(0.0)
    assert len(kept) == MOST_ANSWERS
    assert kept[-1].at > kept[0].at > 2000
    assert [each.at for each in stream.watch.answers(kept[500].at)] == [each.at for each in kept[500:]]


def test_one_huge_prompt_and_a_break_for_lunch_do_not_decide() -> None:
    stream = watched(Kind(rate=0.1), 1800)
    before = described(stream)
    huge = Measured(streamed=True, latency=1, prompt_tokens=1_000_000, output_tokens=10, told=True)
    stream.watch.answered(Timed(began=stream.now, at=stream.now, strategy=None, measured=huge))
    stream.run(replace(Kind(), rate=1e-9), 2400)
    stream.run(Kind(rate=0.1), 600)
    after = described(stream)
    assert before.prompt_tokens is not None
    assert after.prompt_tokens is not None
    assert after.prompt_tokens.mean == pytest.approx(before.prompt_tokens.mean, rel=0.25)
    assert after.requests_per_s == pytest.approx(0.1, rel=0.25)
    assert after.burstiness is not None
    assert after.burstiness < 1.5
    assert after.busy_share < before.busy_share  # the break is time all the same


def test_prompts_that_tell_no_tokens_are_judged_by_their_bytes_and_by_the_engine_s_counters() -> None:
    blind = described(watched(Kind(told=False)))
    assert blind.prompt_tokens is not None
    assert blind.prompt_tokens.p50 == pytest.approx(300 + 25, rel=0.2)  # four bytes a token, and the form around them
    stream = watched(Kind(told=False))
    stream.watch.counted({PROMPT_TOKENS: 100 * 700.0, PROMPTS: 100.0}, stream.now)
    counted = described(stream)
    assert counted.prompt_tokens is not None
    assert counted.prompt_tokens.mean == pytest.approx(700, rel=0.1)


def test_answers_whose_events_carry_several_tokens_are_as_long_as_the_counters_say() -> None:
    # With speculation each event has four tokens or so: the traffic is the same as before.
    stream = watched(Kind(told=False, output=20))
    stream.watch.counted({OUTPUT_TOKENS: 100 * 104.0, OUTPUTS: 100.0}, stream.now)
    found = described(stream)
    assert found.output_tokens is not None
    assert found.output_tokens.mean == pytest.approx(104, rel=0.1)


def test_what_the_engine_broke_off_is_counted_since_any_moment() -> None:
    watch = WorkloadWatch()
    for at in (1.0, 2.0, 3.0):
        watch.failed(at)
    assert (watch.failures(0.0), watch.failures(2.0), watch.failures(3.5)) == (3, 2, 0)


def test_a_description_survives_its_way_through_a_file_and_is_shown_without_what_only_tests_need() -> None:
    found = described(watched(Kind()))
    assert from_plain(json.loads(json.dumps(to_plain(found)))) == found
    told = shown(found)
    assert "samples" not in told
    assert told["prompt_tokens"]["p50"] == found.prompt_tokens.p50 if found.prompt_tokens else False
    with pytest.raises(ValueError, match="requests"):
        from_plain({"requests": "many"})
