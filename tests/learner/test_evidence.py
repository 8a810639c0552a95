"""Forecasts and own measurements together: right where there are none, right where there are many, wary between."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from node.learner import objective
from node.learner.evidence import Weighed, weigh
from node.learner.select import NORMAL_90, Forecast
from node.learner.speaking import FAILURE_LASTS_S, TRAFFIC_NOISE, distance
from node.learner.table import Floats, Table
from tests.learner.trials_made import CHAT, NAMES, NOW_US, asked, failure, trial

LATENCY = objective.parse("latency")
FORETOLD = np.array([0.0, -0.2, 0.1, 0.3])
WIDTH = np.full(4, 0.25)
LEVEL = np.full(4, 1.1)
TRUE = {"default": 2.0, "few": 3.0, "small": 1.6, "plain": 2.0}


def of(
    rows: Sequence[dict[str, Any]], *, words: str = "latency", width: Floats = WIDTH, cost: Floats = FORETOLD
) -> Weighed:
    forecast = Forecast(cost=cost, half_width=width)
    evidence = Table.of_rows(rows, merged=False) if rows else None
    return weigh(forecast, LEVEL, asked(), evidence, objective.parse(words), default=0, now_s=NOW_US / 1e6)


def gains(weighed: Weighed) -> tuple[Floats, Floats]:
    return weighed.joint.gains_over(0)


def test_without_evidence_the_forecast_is_what_it_was_and_its_widths_too() -> None:
    found = of([])
    assert np.array_equal(found.forecast.cost, FORETOLD)
    gain, sigma = gains(found)
    assert np.allclose(gain, -FORETOLD)
    assert np.allclose(sigma[1:] * NORMAL_90, WIDTH[1:])
    assert not found.measured.any()
    assert np.array_equal(found.level, LEVEL)


@pytest.mark.parametrize("unknown", [np.nan, np.inf])
def test_what_nobody_can_say_is_unknown_and_evidence_speaks_all_the_same(unknown: float) -> None:
    rows = [row for run in range(5) for row in trial(TRUE, pair=f"{run}", noise=0.03, seed=run)]
    gain, sigma = gains(of(rows, width=np.array([0.25, unknown, 0.25, unknown])))
    assert np.isfinite(sigma).all()
    assert gain[1] == pytest.approx(np.log(2.0 / 3.0), abs=0.1)


def test_much_evidence_is_all_that_counts_whatever_was_foretold() -> None:
    rows = [row for run in range(30) for row in trial(TRUE, pair=f"{run}", noise=0.03, seed=run)]
    gain, sigma = gains(of(rows))
    assert np.allclose(gain, np.log(2.0) - np.log(list(TRUE.values())), atol=0.02)
    assert (sigma[1:] < 0.02).all()
    assert of(rows).measured.tolist() == [30] * 4


def test_the_more_repeats_the_surer_and_the_interval_holds_the_truth_nine_times_of_ten() -> None:
    true, hits, widths = -np.log(1.6 / 2.0), 0, []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        foretold = np.array([0.0, 0.4, true + 0.15 * rng.standard_normal(), 0.0])
        foretold[2] = -foretold[2]
        rows = trial({"default": 2.0, "small": 1.6}, noise=0.03, seed=seed)
        gain, sigma = gains(of(rows, cost=foretold))
        hits += abs(gain[2] - true) < NORMAL_90 * sigma[2]
        widths.append(sigma[2])
    assert 170 <= hits <= 198
    assert max(widths) < 0.08


def test_physics_alone_and_a_measured_pair_the_measured_gain_decides() -> None:
    gain, _ = gains(of(trial({"default": 2.0, "few": 3.0})))
    assert gain[1] == pytest.approx(-np.log(1.5), abs=0.05)  # a gain of .2 was foretold


@pytest.mark.parametrize(
    ("words", "outcome", "saves"),
    [
        ("latency", "outcome.latency_mean_s", 1.0),
        ("tail", "outcome.stall_p95_s", 0.5),
        ("throughput", "outcome.output_tokens_per_s", -1.0),
        ("cost", "outcome.device_seconds_per_request", 1.0),
        ("energy", "outcome.energy_j", 1.0),
    ],
)
def test_every_objective_of_which_the_columns_are_there_is_learnt(words: str, outcome: str, saves: float) -> None:
    rows = trial({"default": 2.0, "small": 2.0})
    rows[0] |= {outcome: 10.0}
    rows[1] |= {outcome: 10.0 * float(np.exp(-0.4 * np.sign(saves)))}
    gain, _ = gains(of(rows, words=words, cost=np.zeros(4)))
    assert gain[2] == pytest.approx(0.4 * abs(saves), abs=0.05)


def test_a_run_on_a_loaded_machine_says_as_much_as_any_other_of_who_was_in_it() -> None:
    quick, slow = trial({"default": 2.0, "small": 1.6}, pair="a"), trial({"default": 8.0, "small": 6.4}, pair="b")
    gain, sigma = gains(of([*quick, *slow]))
    alone, wider = gains(of(quick))
    assert gain[2] == pytest.approx(np.log(1.25), abs=0.03)
    assert abs(gain[2] - alone[2]) < 0.03
    assert sigma[2] < wider[2]


def test_a_row_that_stands_alone_compares_nothing() -> None:
    found = of(trial({"small": 0.1}))
    gain, sigma = gains(found)
    assert np.allclose(gain, -FORETOLD, atol=1e-6)
    assert np.allclose(sigma[1:] * NORMAL_90, WIDTH[1:])
    assert not found.measured.any()


def shift_of(rows: Sequence[dict[str, Any]]) -> float:
    """Return how far a measured loss of ln 1.5 moved a foretold gain of .2 towards it: 1 is all the way."""
    return float((0.2 - gains(of(rows))[0][1]) / (0.2 + np.log(1.5)))


def test_it_says_the_less_the_farther_the_workload_and_nothing_of_another_kind() -> None:
    pair = {"default": 2.0, "few": 3.0}
    moved = [shift_of(trial(pair, workload_output_tokens=100.0 * factor)) for factor in (1.0, 1.5, 3.0, 6.0, 20.0)]
    assert moved == sorted(moved, reverse=True)
    assert moved[0] > 0.9
    assert moved[2] < 0.9 * moved[0]
    assert moved[4] == 0.0
    assert shift_of(trial(pair, workload_shared_prefix_share=0.96)) < 0.5
    assert shift_of(trial(pair, workload_copy_share=0.9)) < shift_of(trial(pair))


def test_it_says_the_less_the_older_it_is() -> None:
    pair = {"default": 2.0, "few": 3.0}
    moved = [shift_of(trial(pair, age_days=days)) for days in (0.0, 30.0, 180.0, 700.0)]
    assert moved == sorted(moved, reverse=True)
    assert shift_of(trial(pair, age_days=700.0)) < 0.1


@pytest.mark.parametrize(
    "changes",
    [
        {"strategy_engine_version": "0.33.0"},
        {"hardware.name": "there"},
        {"model.digest": "cd"},
        {"model.weights": "dummy"},
    ],
)
def test_of_another_engine_machine_or_model_it_says_nothing(changes: dict[str, Any]) -> None:
    rows = [*trial({"default": 2.0, "few": 3.0}, **changes), failure("plain") | {"strategy.engine_version": "0.33.0"}]
    found = of(rows)
    assert np.allclose(found.forecast.cost, FORETOLD)
    assert not found.failed.any()


def test_traffic_counts_and_less_than_a_trial() -> None:
    pair = {"default": 2.0, "few": 3.0}
    rows = [{**row, "record.origin": "traffic", "record.pair": None} for row in trial(pair)]
    seen, tried = of(rows), of(trial(pair))
    assert 0.3 < shift_of(rows) < shift_of(trial(pair))
    assert gains(seen)[1][1] > gains(tried)[1][1]
    assert not seen.measured.any()  # measured is what was tried
    many = of([{**row} for row in rows for _ in range(100)])
    assert gains(many)[1][1] > TRAFFIC_NOISE / 10


def test_where_it_contradicts_the_forecast_the_rest_is_believed_less() -> None:
    sure = np.full(4, 0.02)
    kept = gains(of(trial({"default": 2.0, "few": 1.64}), width=sure))[1]
    shaken = gains(of(trial({"default": 2.0, "few": 4.0}), width=sure))[1]
    assert shaken[3] > 2 * kept[3]


def test_one_row_that_contradicts_all_others_does_not_decide() -> None:
    rows = [row for run in range(5) for row in trial({"default": 2.0, "small": 1.6}, pair=f"{run}")]
    rows += trial({"default": 2.0, "small": 4.0}, pair="accident")
    assert gains(of(rows))[0][2] == pytest.approx(np.log(1.25), abs=0.05)


def test_unsure_repetitions_say_less_than_steady_ones() -> None:
    steady, wild = trial({"default": 2.0, "few": 3.0}), trial({"default": 2.0, "few": 3.0})
    for row in wild:
        row["outcome.latency_mad_s"] = 0.3 * row["outcome.latency_mean_s"]
    assert gains(of(wild))[1][1] > 2 * gains(of(steady))[1][1]
    loaded = trial({"default": 2.0, "few": 3.0}, outcome={"outcome.foreign_load_share": 0.5})
    assert gains(of(loaded))[1][1] > 2 * gains(of(steady))[1][1]


@pytest.mark.parametrize("kind", ["start_failed", "out_of_memory", "crashed", "timed_out"])
def test_what_failed_here_is_out_until_it_did_well_or_long_ago(kind: str) -> None:
    assert np.flatnonzero(of([failure("few", kind)]).failed).tolist() == [1]
    assert not of([failure("few", kind, age_days=FAILURE_LASTS_S / 86_400 + 1)]).failed.any()
    well = [row for run in "ab" for row in trial({"few": 2.0, "default": 2.0}, pair=run, age_days=0.1)]
    assert not of([failure("few", kind), *well]).failed.any()
    assert of([failure("few", kind), *well[:2]]).failed[1]
    assert of([failure("few", kind), *trial({"few": 2.0}, age_days=3.0), *trial({"few": 2.0}, age_days=3.0)]).failed[1]


def test_levels_are_those_measured_and_surer_for_it() -> None:
    found = of(trial(TRUE))
    assert found.forecast.cost[0] == pytest.approx(np.log(2.0), abs=0.1)
    assert found.forecast.cost[2] == pytest.approx(np.log(1.6), abs=0.1)
    assert (found.level < 0.5 * LEVEL).all()


def test_joules_and_estimates_of_energy_are_never_compared() -> None:
    both = trial({"default": 2.0, "small": 1.6})
    both[0]["outcome.energy_j"] = 100.0
    found = of(both, words="energy", cost=np.zeros(4))
    assert found.by_joules is True
    assert np.allclose(found.forecast.cost - found.forecast.cost[0], 0.0, atol=1e-6)  # one row with joules: no pair
    bare = of(trial({"default": 2.0, "small": 1.6}), words="energy", cost=np.zeros(4))
    assert bare.by_joules is False
    assert gains(bare)[0][2] == pytest.approx(np.log(2.0 / 1.6), abs=0.05)
    assert of(both).by_joules is None


def test_more_candidates_than_were_measured_and_strategies_that_are_none_are_no_trouble() -> None:
    stranger = [{**row, "strategy.max_num_seqs": 99} for row in trial({"few": 1.0})]
    found = of([*trial({"default": 2.0, "small": 1.6}), *stranger, {"context": 1}])
    assert found.measured.tolist() == [1, 0, 1, 0]
    blank = np.array([0.0, np.nan, 0.1, 0.3])
    assert np.isnan(of(trial(TRUE), cost=blank).forecast.cost).tolist() == [False, True, False, False]


def test_without_a_default_among_the_candidates_differences_are_learnt_all_the_same() -> None:
    evidence = Table.of_rows(trial({"few": 3.0, "small": 1.6}), merged=False)
    found = weigh(
        Forecast(cost=FORETOLD, half_width=WIDTH), LEVEL, asked(), evidence, LATENCY, default=None, now_s=NOW_US / 1e6
    )
    assert found.joint.gains_over(1)[0][2] == pytest.approx(np.log(3.0 / 1.6), abs=0.06)


def test_the_distance_of_workloads_is_none_to_itself_and_grows_with_each_difference() -> None:
    here = asked()
    assert np.allclose(distance(here, here), 0.0)
    for name in ("prompt_tokens", "output_tokens", "requests_per_s"):
        twice = asked(**{name: CHAT[f"workload.{name}"] * 2})
        assert np.allclose(distance(here, twice), np.log(2))
    assert np.allclose(distance(here, asked(shared_prefix_share=0.5)), 1.0)
    closed = Table.of_rows(
        [{**{k: v for k, v in CHAT.items() if "per_s" not in k}, "workload.concurrency": 4.0}] * 4, merged=False
    )
    assert (distance(here, closed) > 0.3).all()
    assert len(NAMES) == here.rows
