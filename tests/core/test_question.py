"""Candidates as rows: what the learner is asked in the words of what it was taught."""

from dataclasses import replace

import pytest

from node.core.observation import Row, to_row, to_wire_strategy
from node.core.own_records import Setting
from node.core.question import CHAT_CONCURRENCY, canonical_rows, evidence, question
from node.core.strategy import DEFAULT, Speculation, Strategy
from node.core.trial_records import workload_on_wire
from node.core.workload import Description
from node.core.workloads import Lengths, Scale, loads
from protocol.performance import TRIAL, Outcome
from tests.protocol import samples
from tests.protocol.performance_samples import BENCHMARK, ENGINE, HARDWARE, MODEL

SETTING = Setting(model=MODEL, hardware=HARDWARE, benchmark=BENCHMARK, engine=ENGINE)
SEEN = Description(
    requests=64,
    prompt_tokens=Lengths(mean=120.5, p50=100, p95=400),
    output_tokens=Lengths(mean=30.0, p50=20, p95=90),
    shared_prefix_share=0.25,
    prefix_groups=None,
    concurrency=3.5,
    requests_per_s=1.5,
    burstiness=1.25,
    streaming_share=1.0,
    copy_share=0.4,
    busy_share=0.5,
    span_s=600.0,
)
CANDIDATES = (
    DEFAULT,
    Strategy(max_num_seqs=16, speculation=Speculation(method="ngram", tokens=4)),
    Strategy(prefix_caching=False),
)


def recorded(strategy: Strategy, latency_us: int | None = None) -> Row:
    """Return the row of a trial of ours."""
    load = loads(Scale(prefill=256, decode=16), kinds=("bursty",))[0]
    return to_row(
        SETTING.composing(
            origin=TRIAL,
            strategy=to_wire_strategy(strategy),
            workload=workload_on_wire(load.workload),
            outcome=Outcome(requests=3, failures=0, latency_mean_us=latency_us),
            pair=bytes(16),
            context=7,
        )(samples.stamp())
    )


def test_candidates_have_the_columns_of_records_with_the_values_of_records() -> None:
    rows = question(SETTING, SEEN, CANDIDATES)
    for row, strategy in zip(rows, CANDIDATES, strict=True):
        record = recorded(strategy)
        assert {name for name in row if not name.startswith("workload.")} <= set(record)
        for room in ("model.", "hardware.", "strategy."):
            assert {n: v for n, v in row.items() if n.startswith(room)} == {
                n: v for n, v in record.items() if n.startswith(room)
            }
    assert [row["strategy.is_default"] for row in rows] == [True, False, False]


def test_all_of_them_are_one_context_of_the_traffic_as_it_was_seen() -> None:
    first, *others = question(SETTING, SEEN, CANDIDATES)
    shape = {name: value for name, value in first.items() if name.startswith("workload.")}
    assert shape == {
        "workload.requests": 64,
        "workload.prompt_tokens": 120.5,
        "workload.prompt_tokens_p50": 100,
        "workload.prompt_tokens_p95": 400,
        "workload.output_tokens": 30.0,
        "workload.output_tokens_p50": 20,
        "workload.output_tokens_p95": 90,
        "workload.shared_prefix_share": 0.25,
        "workload.requests_per_s": 1.5,  # and no concurrency beside it: as in records of traffic
        "workload.burstiness": 1.25,
        "workload.streaming_share": 1.0,
        "workload.copy_share": 0.4,
    }
    for row in others:
        assert {n: v for n, v in row.items() if not n.startswith("strategy.")} == {
            n: v for n, v in first.items() if not n.startswith("strategy.")
        }


def test_a_load_without_a_rate_is_told_by_its_concurrency_and_what_is_unknown_is_absent() -> None:
    unknown = replace(SEEN, requests_per_s=None, prompt_tokens=None, copy_share=None, burstiness=None)
    (row,) = question(SETTING, unknown, [DEFAULT])
    assert row["workload.concurrency"] == 3.5
    assert not {"workload.requests_per_s", "workload.prompt_tokens", "workload.copy_share"} & set(row)


@pytest.mark.parametrize(("longest", "prompt"), [(None, 1155.0), (131_072, 1155.0), (1024, 768.0)])
def test_where_nothing_was_asked_yet_a_conversation_is_assumed_that_fits(longest: int | None, prompt: float) -> None:
    (row,) = question(replace(SETTING, model=replace(MODEL, max_length=longest)), None, [DEFAULT])
    assert (row["workload.prompt_tokens"], row["workload.concurrency"]) == (prompt, CHAT_CONCURRENCY)
    assert float(row["workload.prompt_tokens_p95"]) + float(row["workload.output_tokens_p95"]) <= (longest or 131_072)


def test_a_draft_model_on_this_machine_is_asked_about_without_its_path() -> None:
    drafted = Strategy(
        speculation=Speculation(method="draft_model", tokens=3), engine_extra=(("draft-model", "/home/me/tiny"),)
    )
    (row,) = question(SETTING, SEEN, [drafted])
    assert (row["strategy.speculation"], row["strategy.speculative_tokens"]) == ("draft_model", 3)
    assert "/home" not in str({name: value for name, value in row.items() if name != "strategy.name"})


def test_evidence_is_what_the_learner_compares_and_a_third_of_the_record() -> None:
    row = recorded(DEFAULT, latency_us=1_000_000)
    (told,) = evidence([row])
    assert told["outcome.latency_mean_s"] == 1.0
    assert {"record.time_us", "record.pair", "record.origin", "strategy.engine_version", "model.digest"} <= set(told)
    assert not [name for name in told if name.startswith(("hardware.measured", "record.s", "model.h"))]


def test_own_rows_are_compared_in_the_words_of_the_candidates() -> None:
    def canonical(strategy: Strategy) -> Strategy:
        kept = replace(strategy, prefix_caching=None) if strategy.prefix_caching else strategy
        return replace(kept, max_num_seqs=None) if kept.max_num_seqs == 256 else kept

    said = Strategy(prefix_caching=True, max_num_seqs=256)
    other = Strategy(prefix_caching=True, max_num_seqs=8, speculation=Speculation(method="ngram", tokens=4))
    unknown = {**recorded(other), "strategy.max_num_seqs": -1}
    default, changed, kept = canonical_rows([recorded(said), recorded(other), unknown], canonical)
    assert default == recorded(DEFAULT)
    assert changed == recorded(replace(other, prefix_caching=None))
    assert kept == unknown
