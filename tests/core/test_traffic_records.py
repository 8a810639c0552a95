"""Windows as records: what is told and what is not, and that no receiver doubts what an honest node saw."""

from dataclasses import fields, replace
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.core import engine_counters as counters
from node.core.answer_meter import AnswerMeter, Measured
from node.core.endpoints import Dialect
from node.core.own_records import Setting
from node.core.record_checks import doubts
from node.core.strategy import DEFAULT, Speculation, Strategy
from node.core.traffic import LEAST_ANSWERS, Arrivals, Window, life_of
from node.core.traffic_records import FAILURES, failure_record, record_of, rough, rough_share
from node.core.workload import Description
from node.core.workload_change import Sample, Samples
from node.core.workloads import Lengths
from protocol import records, schema
from protocol.errors import LocalProtocolError
from protocol.performance import PERFORMANCE, TRAFFIC, Performance
from tests.fakes.engine_board import READY
from tests.fakes.upstream import EVENTS, JSON
from tests.protocol import samples
from tests.protocol.performance_samples import BENCHMARK, ENGINE, HARDWARE, MODEL, body

SETTING = Setting(model=MODEL, hardware=HARDWARE, benchmark=BENCHMARK, engine=ENGINE)
SPECULATING = Strategy(prefix_caching=True, speculation=Speculation(method="ngram", tokens=4))
STEP_US = 18_500  # the sample machine reads the model's weights once
PREFILL_US = 2 * 7_000_000_000 / 65_000_000_000_000 * 1_000_000  # a token of prompt, on it


def arrivals(gaps: list[float]) -> Arrivals:
    made, now = Arrivals(), 0.0
    made.note(now)
    for gap in gaps:
        now += gap
        made.note(now)
    return made


def window(answers: list[Measured], **changes: Any) -> Window:
    spent = sum(answer.latency for answer in answers) / 1e6
    given = {"failures": 1, "arrivals": arrivals([2.0] * len(answers)), "began": 0.0, "busy": spent} | changes
    return Window(life=life_of(READY), answers=answers, **given)


def streamed(**changes: Any) -> Measured:
    plain = Measured(
        streamed=True, latency=2_300_000, ttft=300_000, tpot=20_000, stall=50_000, prompt_tokens=1_234,
        output_tokens=101, told=True,
    )  # fmt: skip
    return replace(plain, **changes)


def whole(**changes: Any) -> Measured:
    return replace(
        Measured(streamed=False, latency=2_300_000, prompt_tokens=1_234, output_tokens=101, told=True), **changes
    )


def recorded(
    seen: Window, *, strategy: Strategy = DEFAULT, grown: dict[str, float] | None = None, setting: Setting = SETTING
) -> Performance:
    """Return the record's body as it comes out of its seal."""
    compose = record_of(seen, strategy=strategy, setting=setting, grown=grown or {})
    return records.sign(PERFORMANCE, compose(body().stamp), samples.KEY).body


def test_a_window_is_a_record_of_traffic_with_what_the_engine_did() -> None:
    grown = {counters.PREFIX_QUERIES: 1000.0, counters.PREFIX_HITS: 543.0, counters.PREEMPTIONS: 2.0}
    made = recorded(window([streamed() for _ in range(40)]), grown=grown)
    assert (made.origin, made.pair, made.context, made.workload.kind) == (TRAFFIC, None, None, None)
    outcome = made.outcome
    assert (outcome.requests, outcome.failures, outcome.repetitions) == (41, 1, 1)
    assert (outcome.ttft_mean_us, outcome.tpot_p50_us, outcome.latency_p95_us) == (300_000, 20_000, 2_300_000)
    assert (outcome.stall_mean_us, outcome.prefix_hit_ppm, outcome.preemptions) == (50_000, 550_000, 2)
    assert outcome.output_tokens_per_s_milli == 43_400  # of 100 tokens, as the workload has it, in 2.3 s
    # One run has no spread over runs, and nobody read the meters of the machine.
    assert outcome.ttft_mad_us is outcome.energy_mj is outcome.cpu_us is outcome.peak_memory_bytes is None
    assert (made.workload.requests_per_s_milli, made.workload.burstiness_ppm) == (500, 0)
    assert made.workload.streaming_ppm == 1_000_000


def test_of_prompts_a_record_tells_their_shape_in_two_digits_and_nothing_else() -> None:
    luck = Random(1)  # noqa: S311 -- lengths, not secrets
    seen = window([streamed(prompt_tokens=luck.randrange(100, 99_999), latency=9_000_000) for _ in range(40)])
    seen.arrivals = arrivals([luck.uniform(0, 9) for _ in range(40)])
    grown = {counters.PREFIX_QUERIES: 1_000_000.0, counters.PREFIX_HITS: 123_456.0}
    workload = recorded(seen, grown=grown, setting=replace(SETTING, model=replace(MODEL, max_length=None))).workload
    told = {item.name: getattr(workload, item.name) for item in fields(workload) if item.name != "unknown"}
    numbers = [value for value in told.values() if value is not None]
    assert len(numbers) >= 8
    assert all(isinstance(value, int) and len(str(value).rstrip("0")) <= 2 for value in numbers)
    assert not workload.unknown
    assert [rough(value) for value in (7, 99, 101, 1_987, 1_999.9, 0.4)] == [7, 99, 100, 1_900, 1_900, 0]


def test_what_is_cut_off_lengths_is_nowhere_else_in_the_record() -> None:
    def seen(output: int, prompt: int, part: float) -> Performance:
        answers = [streamed(prompt_tokens=prompt, output_tokens=output + one % 3) for one in range(40)]
        grown = {
            counters.PREFIX_QUERIES: 40.0 * prompt, counters.PREFIX_HITS: 40 * prompt * part,
            counters.DRAFTED: 40.0 * output, counters.ACCEPTED: 40 * output * part / 2,
        }  # fmt: skip
        return recorded(window(answers, busy=61.234567), strategy=SPECULATING, grown=grown)

    made = seen(101, 1_234, 0.621)
    assert made.outcome == seen(107, 1_299, 0.629).outcome
    assert made.workload == seen(107, 1_299, 0.629).workload
    outcome = made.outcome
    assert (outcome.prefix_hit_ppm, outcome.acceptance_ppm, outcome.duration_us) == (630_000, 310_000, 61_200_000)
    assert outcome.output_tokens_per_s_milli == 65_300


def test_a_prompt_of_which_nearly_all_was_in_the_cache_is_believed_to_be_answered_fast() -> None:
    grown = {counters.PREFIX_QUERIES: 1_000_000.0, counters.PREFIX_HITS: 999_123.0}
    quick = [streamed(prompt_tokens=190_000, ttft=60_000) for _ in range(40)]
    made = recorded(window(quick), grown=grown, setting=replace(SETTING, model=replace(MODEL, max_length=None)))
    assert doubts(made, now_us=samples.NOW) == ()
    assert made.outcome.prefix_hit_ppm == 999_130
    assert [rough_share(share) for share in (0, 7, 123_456, 1_000_000)] == [0, 7, 120_000, 1_000_000]


def test_what_is_not_told_of_lengths_is_taken_from_the_engine_or_left_out() -> None:
    untold = [streamed(prompt_tokens=None, told=False) for _ in range(40)]
    grown = {counters.PROMPT_TOKENS: 80_000.0, counters.PROMPTS: 41.0}
    made = recorded(window(untold), grown=grown).workload
    assert (made.prompt_tokens_mean_milli, made.prompt_tokens_p50, made.output_tokens_p50) == (1_900_000, None, 100)
    assert recorded(window(untold)).workload.prompt_tokens_mean_milli is None


def test_events_are_no_tokens_where_several_may_come_together() -> None:
    made = recorded(window([streamed(told=False) for _ in range(40)]), strategy=SPECULATING)
    assert made.workload.output_tokens_mean_milli is made.outcome.tpot_mean_us is None
    assert made.outcome.output_tokens_per_s_milli is None
    assert made.outcome.ttft_mean_us is not None
    told = recorded(window([streamed() for _ in range(40)]), strategy=SPECULATING)
    assert told.outcome.tpot_mean_us == 20_000


def test_figures_over_a_few_answers_are_not_told() -> None:
    made = recorded(window([*(whole() for _ in range(40)), *(streamed() for _ in range(5))]))
    assert made.outcome.ttft_mean_us is made.outcome.tpot_mean_us is made.outcome.stall_p95_us is None
    assert made.workload.streaming_ppm == 110_000


def test_first_tokens_of_those_whose_prompts_are_unlike_the_rest_are_not_told() -> None:
    short = [streamed(prompt_tokens=10) for _ in range(20)]
    assert recorded(window([*short, *(whole() for _ in range(20))])).outcome.ttft_mean_us is None
    alike = [streamed() for _ in range(20)] + [whole() for _ in range(20)]
    assert recorded(window(alike)).outcome.ttft_mean_us == 300_000
    untold = [streamed(prompt_tokens=None) for _ in range(20)] + [whole() for _ in range(20)]
    grown = {counters.PROMPT_TOKENS: 40_000.0, counters.PROMPTS: 40.0}
    assert recorded(window(untold), grown=grown).outcome.ttft_mean_us is None


def test_a_counter_of_what_the_strategy_has_not_is_left_out() -> None:
    grown = {
        counters.PREFIX_QUERIES: 9.0, counters.PREFIX_HITS: 3.0, counters.DRAFTED: 10.0, counters.ACCEPTED: 4.0
    }  # fmt: skip
    seen = window([streamed() for _ in range(40)])
    without = recorded(seen, strategy=Strategy(prefix_caching=False), grown=grown).outcome
    assert without.prefix_hit_ppm is without.acceptance_ppm is None
    assert recorded(seen, strategy=SPECULATING, grown=grown).outcome.acceptance_ppm == 400_000


# --- what honest nodes see


def _answer(luck: Random, strategy: Strategy, *, streams: bool, usage: bool, longest: int) -> Measured:
    """Return one answer of the sample machine, as it came over the wire: with several tokens to an event or a piece."""
    prompt, tokens = luck.randrange(1, longest), luck.choice([1, 2, 16, 128, 128, 1_000])
    first = 0.025 + (prompt * PREFILL_US + STEP_US) / 1e6 + luck.expovariate(10) + luck.choice([0, 0, 0, 2])
    slow = luck.choice([0.0005, 0.02, 0.4])
    most = 1 + (strategy.speculation.tokens if strategy.speculation else 0)
    meter = AnswerMeter(began=0.0, dialect=Dialect.OPENAI)
    told = b'"usage":{"prompt_tokens":%d,"completion_tokens":%d}}' % (prompt, tokens) if usage else b"}"
    pieces, now, left = [(first, b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n')], first, tokens - 1
    while left > 0:
        now += STEP_US / 1e6 + luck.expovariate(1 / slow)
        left -= luck.randint(1, most)
        pieces.append((now, b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n'))
    pieces.append((now, (b'data: {"choices":[],' + told + b"\n\n" if usage else b"") + b"data: [DONE]\n\n"))
    if not streams:
        pieces = [(now, b'{"choices":[{"text":"x"}],' + told if usage else b"{}")]
    if luck.random() < 0.2:  # a busy loop finds everything at once
        pieces = [(now, b"".join(data for _, data in pieces))]
    meter.head(200, EVENTS if streams else JSON, 0.0)
    before = 0.0
    for at, data in pieces:
        meter.piece(data, before, at)
        before = at
    measured = meter.measured()
    assert measured is not None
    return measured


@given(
    st.integers(0, 10**6),
    st.integers(LEAST_ANSWERS, 80),
    st.sampled_from([DEFAULT, SPECULATING, Strategy(prefix_caching=False)]),
    st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    st.sampled_from([0.0, 0.5, 1.0]),
)
@settings(max_examples=60, deadline=None)
def test_no_receiver_doubts_what_an_honest_node_saw(
    seed: int, count: int, strategy: Strategy, streaming: float, telling: float
) -> None:
    luck = Random(seed)  # noqa: S311 -- seeded
    longest = luck.choice([100, 20_000])
    answers = [
        _answer(luck, strategy, streams=luck.random() < streaming, usage=luck.random() < telling, longest=longest)
        for _ in range(count)
    ]
    outputs = [answer.output_tokens or 1 for answer in answers]
    grown = {
        counters.PREFIX_QUERIES: 1000.0,
        counters.PREFIX_HITS: luck.choice([0.0, 123.0, 400.0]) if strategy.prefix_caching is not False else 0.0,
        counters.DRAFTED: 100.0 if strategy.speculation else 0.0,
        counters.ACCEPTED: 40.0 if strategy.speculation else 0.0,
        counters.OUTPUT_TOKENS: float(sum(outputs)),
        counters.OUTPUTS: float(count),
    }
    busy = sum(answer.latency for answer in answers) / 1e6 / luck.uniform(1, 4)
    seen = window(answers, busy=busy, failures=luck.randrange(20))
    assert doubts(recorded(seen, strategy=strategy, grown=grown), now_us=samples.NOW) == ()


def test_what_answers_repeat_is_told_in_two_digits_and_of_ten_at_least() -> None:
    many = [streamed(copied=123_456 if index < 10 else None) for index in range(LEAST_ANSWERS)]
    assert recorded(window(many)).workload.copy_ppm == 120_000
    assert recorded(window(many[1:])).workload.copy_ppm is None


ASKED = Description(
    requests=345,
    prompt_tokens=Lengths(mean=1234.5, p50=1111, p95=2345),
    output_tokens=None,
    shared_prefix_share=0.1234,
    prefix_groups=None,
    concurrency=3.456,
    requests_per_s=0.5678,
    burstiness=1.234,
    streaming_share=0.999,
    copy_share=0.4567,
    busy_share=0.5,
    span_s=7000.0,
    samples=Samples(prompt=Sample(count=40), output=Sample(count=40), copied=Sample(count=10)),
)


@pytest.mark.parametrize("kind", sorted(FAILURES))
@pytest.mark.parametrize("asked", [ASKED, None])
def test_a_strategy_that_the_engine_could_not_bear_is_a_record_that_receivers_believe(
    kind: str, asked: Description | None
) -> None:
    made = records.sign(PERFORMANCE, failure_record(SETTING, SPECULATING, asked, kind)(body().stamp), samples.KEY).body
    assert (made.origin, made.outcome.failure, made.outcome.requests) == (TRAFFIC, kind, 0)
    assert made.strategy.speculation is not None
    assert doubts(made, now_us=samples.NOW) == ()


def test_what_a_failed_strategy_was_meant_for_is_told_as_roughly_as_traffic_is() -> None:
    told = schema.write(failure_record(SETTING, DEFAULT, ASKED, "crashed")(body().stamp))["workload"]
    assert told == {
        "requests": 340,
        "prompt_tokens_mean_milli": 1_200_000,
        "prompt_tokens_p50": 1100,
        "prompt_tokens_p95": 2300,
        "shared_prefix_ppm": 120_000,
        "requests_per_s_milli": 560,
        "burstiness_ppm": 1_200_000,
        "streaming_ppm": 990_000,
        "copy_ppm": 450_000,
    }


def test_figures_of_fewer_than_ten_answers_are_not_told_with_a_failure_either() -> None:
    few = Samples(prompt=Sample(count=40), output=Sample(count=1), copied=Sample(count=9))
    asked = replace(ASKED, output_tokens=Lengths(mean=777.0, p50=777, p95=777), samples=few)
    told = failure_record(SETTING, DEFAULT, asked, "crashed")(body().stamp).workload
    assert (told.output_tokens_mean_milli, told.output_tokens_p50, told.copy_ppm) == (None, None, None)
    assert told.prompt_tokens_p50 == 1100


def test_a_failure_of_which_records_know_nothing_and_a_path_of_this_machine_are_refused() -> None:
    with pytest.raises(ValueError, match="sulked"):
        failure_record(SETTING, DEFAULT, None, "sulked")
    drafted = Strategy(
        speculation=Speculation(method="draft_model", tokens=3), engine_extra=(("draft-model", "/home/me/draft"),)
    )
    with pytest.raises(LocalProtocolError):
        failure_record(SETTING, drafted, ASKED, "crashed")
