"""Choices, trials, switches and the search between measured strategies."""

import numpy as np
import pytest

from node.learner import select
from node.learner.refine import PARAMETERS, Parameter, Values, refine
from node.learner.select import Forecast, Limits
from node.learner.table import Floats, Table


def forecast(*cost: float, half_width: float = 0.01, abstains: bool = False) -> Forecast:
    return Forecast(cost=np.array(cost), half_width=np.full(len(cost), half_width), abstains=abstains)


def test_the_cheapest_is_taken_when_it_is_surely_no_worse_than_the_default() -> None:
    choice = select.choose(forecast(0.0, -0.3, -0.1), default=0)
    assert (choice.index, choice.why) == (1, "best")
    assert choice.gain == pytest.approx(0.3)
    assert choice.gain_low == pytest.approx(0.29)
    assert choice.harm_probability < 1e-6


def test_a_small_gain_that_may_well_be_a_loss_leaves_the_default() -> None:
    unsure = select.choose(forecast(0.0, -0.03, half_width=0.4), default=0)
    assert (unsure.index, unsure.why, unsure.considered) == (0, "not_sure_enough", 1)
    assert select.choose(forecast(0.0, -0.03, half_width=0.02), default=0).index == 1


def test_a_surer_second_is_taken_before_an_unsure_first() -> None:
    found = Forecast(cost=np.array([0.0, -0.2, -0.15]), half_width=np.array([0.0, 0.9, 0.05]))
    choice = select.choose(found, default=0)
    assert (choice.index, choice.considered) == (2, 1)


def test_beyond_what_was_learnt_the_default_is_taken_and_without_one_the_cheapest() -> None:
    far = forecast(0.0, -0.5, abstains=True)
    assert select.choose(far, default=0).why == "abstained"
    assert select.choose(far, default=None).index == 1
    assert select.choose(forecast(-0.5, 0.0), default=0).why == "default_is_best"


def test_what_does_not_fit_is_never_taken_not_even_the_default() -> None:
    limits = Limits(memory_share=np.array([1.2, 0.5, np.nan]), failure=np.array([0.0, 0.0, 0.3]))
    assert select.choose(forecast(-1.0, 0.0, -0.5), default=0, limits=limits).index == 1
    none = select.choose(forecast(np.nan, np.nan), default=0)
    assert (none.index, none.why) == (None, "nothing_fits")


def test_what_may_well_fail_is_left_but_for_the_default_and_what_is_as_safe_as_it() -> None:
    costs = forecast(0.0, -0.3, -0.2, -0.1)
    failure = np.array([0.01, 0.5, 0.04, 0.01])
    assert select.choose(costs, default=0, limits=Limits(failure=failure)).index == 2
    assert select.choose(costs, default=0, limits=Limits(failure=failure, failure_limit=0.03)).index == 3
    risky = np.array([0.4, 0.4, 0.6, np.nan])
    assert select.choose(costs, default=0, limits=Limits(failure=risky)).index == 1
    assert select.choose(forecast(0.0, 1.0), default=0, limits=Limits(failure=np.array([0.9, 0.0]))).index == 0


def test_promises_come_first_and_where_nobody_keeps_them_the_least_broken() -> None:
    fast, promised = np.log([0.2, 0.6, 3.0]), float(np.log(0.5))
    costs = forecast(0.0, -1.0, -2.0)
    assert select.choose(costs, None, Limits(promised=((fast, promised),))).index == 0
    assert select.choose(costs, None, Limits(promised=((fast + 2.0, promised),))).index == 0
    assert select.choose(costs, None, Limits(promised=((fast, float(np.log(1.0))),))).index == 1


def test_lossy_strategies_are_taken_only_when_allowed() -> None:
    rows = [
        {"strategy.kv_cache_dtype": "auto", "model.weight_dtype": "bfloat16"},
        {"strategy.kv_cache_dtype": "fp8_e4m3", "model.weight_dtype": "bfloat16"},
        {"strategy.weight_quantization": "awq"},
        {"strategy.precision": "fp4", "model.weight_dtype": "fp8"},
        {"strategy.precision": "fp8", "model.weight_dtype": "fp8"},
    ]
    lossy = select.lossy(Table.of_rows(rows, merged=False))
    assert lossy.tolist() == [False, True, True, True, False]
    costs = forecast(0.0, -1.0, -2.0, -3.0, -0.5)
    assert select.choose(costs, 0, Limits(lossy=lossy)).index == 4
    assert select.choose(costs, 0, Limits(lossy=lossy, lossy_allowed=True)).index == 3


def test_the_trial_that_teaches_most_per_second_is_uncertain_near_the_best_and_quick() -> None:
    found = Forecast(cost=np.array([0.0, 0.05, 0.05, 2.0]), half_width=np.array([0.01, 0.01, 0.5, 0.5]))
    same = select.trials(found, current=0, seconds=np.full(4, 60.0))
    assert same[0].index == 2
    assert same[0].value == pytest.approx(same[0].saves / 60)
    alike = forecast(0.0, 0.05, 0.05, half_width=0.5)
    assert select.trials(alike, current=0, seconds=np.array([60.0, 60.0, 20.0]))[0].index == 2
    by_index = {trial.index: trial.saves for trial in same}
    assert by_index[1] < 1e-6  # surely worse: it teaches nothing
    assert select.trials(forecast(0.0), current=0, seconds=np.ones(1)) == ()


def test_sampling_takes_each_candidate_as_often_as_it_may_be_the_best() -> None:
    rng = np.random.default_rng(1)
    drawn = [select.sample(forecast(0.0, 0.0, 9.0, half_width=0.5), rng) for _ in range(400)]
    assert 120 < drawn.count(0) < 280
    assert drawn.count(2) == 0
    assert select.sample(forecast(np.nan), rng) is None


def test_a_switch_must_save_more_than_it_costs_with_hysteresis() -> None:
    worth = select.worth_switching(0.2, busy_s=3600, restart_s=60)
    assert worth.worth
    assert worth.pays_after_s == pytest.approx(60 * 1.5 / (1 - np.exp(-0.2)))
    assert not select.worth_switching(0.2, busy_s=300, restart_s=60).worth
    assert select.worth_switching(0.2, busy_s=300, restart_s=60, lost_share=0.2).worth
    assert not select.worth_switching(-0.1, busy_s=1e9, restart_s=1).worth
    assert not select.worth_switching(0.005, busy_s=1e9, restart_s=0).worth
    assert select.worth_switching(0.0, busy_s=1, restart_s=1).pays_after_s == float("inf")


# --- between measured strategies

START = {"strategy.max_num_batched_tokens": 2048, "strategy.max_num_seqs": 256, "strategy.speculative_tokens": 0}


def valley(table: Table) -> Floats:
    """Cheapest at 900 tokens, 48 sequences and three drafted tokens."""
    tokens = np.log(table.numbers("strategy.max_num_batched_tokens") / 900)
    seqs = np.log(table.numbers("strategy.max_num_seqs") / 48)
    return tokens**2 + seqs**2 + 0.1 * (table.numbers("strategy.speculative_tokens") - 3) ** 2


def test_a_search_finds_numbers_that_nobody_measured() -> None:
    found = refine([START], valley)
    best = found.rows[0]
    assert best["strategy.max_num_batched_tokens"] == pytest.approx(900, rel=0.2)
    assert best["strategy.max_num_seqs"] == pytest.approx(48, rel=0.2)
    assert best["strategy.speculative_tokens"] == 3
    assert found.looked_at < 600
    assert found.cost[0] == found.cost.min()
    assert any(dict(row) == START for row in found.rows)


def test_a_search_keeps_the_rules_and_leaves_alone_what_a_strategy_does_not_set() -> None:
    def rule(row: Values) -> bool:
        budget, seqs = row["strategy.max_num_batched_tokens"], row["strategy.max_num_seqs"]
        return isinstance(budget, int) and isinstance(seqs, int) and budget >= 1024 and budget >= seqs

    found = refine([START], valley, allowed=rule)
    assert all(rule(row) for row in found.rows)
    bare = refine([{"strategy.max_num_seqs": 256}], lambda table: table.numbers("strategy.max_num_seqs"))
    assert set(bare.rows[0]) == {"strategy.max_num_seqs"}
    assert bare.rows[0]["strategy.max_num_seqs"] == 1
    nothing = refine([START], lambda table: np.full(table.rows, np.nan))
    assert np.isinf(nothing.cost).all()


@pytest.mark.parametrize("parameter", PARAMETERS)
def test_grid_and_neighbours_stay_within_bounds(parameter: Parameter) -> None:
    allowed = set(range(parameter.low, parameter.high + 1)) | ({parameter.off} - {None})
    assert set(parameter.grid()) <= allowed
    for value in parameter.grid():
        near = parameter.near(value, 1.2)
        assert near
        assert set(near) <= allowed - {value}


@pytest.mark.parametrize("half_width", [0.01, 0.1, 0.5])
def test_the_default_is_left_from_the_least_gain_on(half_width: float) -> None:
    least = float(select.least_gain(np.array(half_width)))
    wide = np.full(2, half_width)

    above = Forecast(cost=np.array([0.0, -least - 1e-6]), half_width=wide)
    assert select.choose(above, default=0).index == 1
    assert select.choose(above, default=0).harm_probability <= select.RISK
    if least:
        below = Forecast(cost=np.array([0.0, -least + 1e-6]), half_width=wide)
        assert select.choose(below, default=0).why == "not_sure_enough"
