"""From raw figures to outcomes: the arithmetic, what is absent, what is refused."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.core.trial_outcome import NotATrial, Outcome, Spread, from_plain, outcome, repeated, to_plain


def row(at: int = 0, first: int = 100_000, end: int = 400_000, **more: int) -> dict[str, int]:
    return {"at": at, "prompt": 64, "first": first, "end": end, "tokens": 4, "stall": 150_000, "cached": 32} | more


RAW: dict[str, Any] = {
    "requests": [
        row(),
        row(at=50_000, first=200_000, end=650_000, stall=200_000),
        {"at": 60_000, "prompt": 9, "failed": 1},
    ],
    "cores": 2,
    "drafted": 200,
    "accepted": 50,
    "wall_us": 1_000_000,
    "cpu_us": 900_000,
    "busy_us": 1_300_000,
    "waited_us": 30_000,
}  # fmt: skip


def test_latencies_shares_and_loads_come_out_of_the_raw_figures() -> None:
    made = outcome(RAW)
    assert (made.requests, made.failures) == (3, 1)
    assert made.ttft == Spread(mean=125_000, p50=125_000, p95=150_000)
    assert made.tpot == Spread(mean=125_000, p50=125_000, p95=150_000)
    assert made.latency == Spread(mean=500_000, p50=500_000, p95=600_000)
    assert made.stall == Spread(mean=175_000, p50=175_000, p95=200_000)
    assert made.throughput == 8_000  # eight tokens in a second, in thousandths
    assert (made.prefix_hit_share, made.acceptance) == (500_000, 250_000)
    assert (made.foreign_load, made.waited) == (200_000, 30_000)


def test_no_share_is_more_than_the_whole() -> None:
    made = outcome(RAW | {"requests": [row(cached=65)], "accepted": 201})
    assert (made.prefix_hit_share, made.acceptance) == (1_000_000, 1_000_000)


def test_what_was_not_measured_is_absent_and_never_zero() -> None:
    made = outcome({"requests": [row()], "wall_us": 1_000_000, "drafted": 0})
    assert made.acceptance is made.energy_mj is made.foreign_load is made.waited is made.peak_memory_bytes is None


def test_a_trial_that_answered_nothing_has_failures_and_no_latency() -> None:
    made = outcome({"requests": [{"at": 0, "prompt": 9, "failed": 1}], "wall_us": 1000})
    assert (made.failures, made.latency, made.throughput, made.prefix_hit_share) == (1, None, 0, None)


@pytest.mark.parametrize(
    "changes",
    [
        {"requests": []},
        {"requests": "none"},
        {"requests": [row(at=-1)]},
        {"requests": [row(first=10, at=20)]},
        {"requests": [{"at": 0, "end": 9}]},
        {"requests": [{"at": 0, "first": 1.5}]},
        {"wall_us": "1"},
        {"energy_mj": -5},
    ],
)
def test_figures_that_no_trial_can_have_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(NotATrial):
        outcome(RAW | changes)


counts = st.integers(0, 1 << 60)
spreads = st.none() | st.builds(Spread, mean=counts, p50=counts, p95=counts)
outcomes = st.builds(
    Outcome,
    **dict.fromkeys(("requests", "failures", "wall_us", "throughput"), counts),
    **dict.fromkeys(("ttft", "tpot", "latency", "stall"), spreads),
    **{name: st.none() | counts for name in ("acceptance", "energy_mj", "foreign_load", "strangers")},
)  # fmt: skip


@given(outcomes)
def test_an_outcome_survives_being_written_down(made: Outcome) -> None:
    assert from_plain(to_plain(made) | {"of a later version": "word"}) == made


def test_repetitions_become_a_median_and_its_deviation_and_only_common_metrics_stay() -> None:
    def one(throughput: int, **more: Any) -> Outcome:
        return Outcome(requests=1, failures=0, wall_us=1, throughput=throughput, **more)

    figures = repeated([one(10, energy_mj=1), one(30), one(11, energy_mj=2)])
    assert (figures["throughput"].median, figures["throughput"].mad) == (11, 1)
    assert "energy_mj" not in figures
