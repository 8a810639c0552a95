"""What to run now: the guard of the default, what was measured here, and whether going over pays."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from node.learner import brain, objective
from node.learner.asked import choose as answer
from node.learner.brain import Brain, Foretold
from node.learner.counsel import Counsel, Situation, advise
from node.learner.select import Forecast, Limits, Mask
from node.learner.table import Table
from tests.learner.trials_made import NAMES, NOW_US, asked, candidates, failure, trial

LATENCY = objective.parse("latency")
DEFAULT, FEW, SMALL, PLAIN = range(4)
EMPTY = Brain(make_heads=brain.trees)
LOVED = np.array([0.0, 0.05, -0.5, 0.02])  # the forecast loves `small`


class Foreteller(Brain):
    """A brain that foretells what a test says."""

    __slots__ = ()

    def foretell(self, candidates: Table, goal: objective.Objective) -> Foretold:
        return Foretold(forecast=Forecast(cost=LOVED, half_width=np.full(4, 0.1)), level=np.full(4, 1.0), learnt=True)


def counsel(rows: list[dict[str, Any]] | None = None, *, limits: Limits | None = None, **situation: Any) -> Counsel:
    evidence = Table.of_rows(rows, merged=False) if rows else None
    where = Situation(
        **({"current": DEFAULT, "horizon_s": 3600.0, "restart_s": 60.0, "now_s": NOW_US / 1e6} | situation),
        evidence=evidence,
    )
    return advise(Foreteller(make_heads=brain.trees), asked(), LATENCY, DEFAULT, where, limits or Limits())


def mask(*which: int) -> Mask:
    return np.isin(np.arange(4), which)


def test_what_is_loved_and_pays_is_taken() -> None:
    found = counsel()
    assert found.choice.index == SMALL
    assert found.worth
    assert found.switch is not None
    assert found.switch.cost_s == 60.0


def test_what_would_not_pay_for_the_restart_is_not_worth_it_and_what_costs_nothing_is() -> None:
    assert not counsel(horizon_s=100.0).worth
    assert not counsel(busy_share=0.01).worth
    assert counsel(horizon_s=100.0, lost_share=0.0).worth


def test_what_runs_already_is_no_switch() -> None:
    found = counsel(current=SMALL)
    assert (found.choice.index, found.worth, found.switch) == (SMALL, False, None)


def test_a_forecast_that_the_machine_contradicts_is_not_followed() -> None:
    rows = [row for run in "ab" for row in trial({"default": 2.0, "small": 3.0, "few": 1.6}, pair=run)]
    found = counsel(rows)
    assert (found.choice.index, found.worth) == (FEW, True)
    back = counsel(rows, current=SMALL)
    assert (back.choice.index, back.worth) == (FEW, True)


def test_the_gain_over_what_runs_is_as_sure_as_that_very_difference() -> None:
    rows = [row for run in "abcd" for row in trial({"few": 1.6, "small": 1.5}, pair=run)]
    over = counsel(rows, current=FEW).over_current
    assert over is not None
    assert over.mean[SMALL] == pytest.approx(np.log(1.6 / 1.5), abs=0.03)
    default = counsel(rows).over_default
    assert default is not None
    assert over.half_width[SMALL] < 0.05 < default.half_width[SMALL]  # against the default nobody measured it


def test_what_is_banned_failed_lossy_or_too_large_is_not_taken() -> None:
    assert counsel(banned=mask(SMALL)).choice.index == DEFAULT
    assert counsel([failure("small")]).choice.index == DEFAULT
    assert counsel(limits=Limits(lossy=mask(SMALL))).choice.index == DEFAULT
    assert counsel(limits=Limits(failure=np.array([0.0, 0.0, 0.9, 0.0]))).choice.index == DEFAULT
    nothing = counsel(memory_bytes=1e9)  # two gigabytes of weights
    assert (nothing.choice.why, nothing.worth) == ("nothing_fits", False)


def test_what_runs_and_may_not_is_left_whatever_it_costs() -> None:
    found = counsel(current=FEW, banned=mask(FEW, SMALL), horizon_s=0.0)
    assert (found.unfit, found.worth, found.choice.index) == (True, True, DEFAULT)
    assert not counsel(current=DEFAULT, banned=mask(DEFAULT, SMALL, FEW, PLAIN)).worth  # nothing else is left


def test_the_default_is_fallen_back_to_even_where_it_failed_once() -> None:
    assert counsel([failure("default")], banned=mask(SMALL)).choice.index == DEFAULT


def test_where_the_default_may_not_run_what_runs_is_guarded_as_the_default_is() -> None:
    unsure = Foretold(forecast=Forecast(cost=LOVED, half_width=np.full(4, 5.0)), level=np.full(4, 5.0), learnt=True)

    class Unsure(Brain):
        __slots__ = ()

        def foretell(self, candidates: Table, goal: objective.Objective) -> Foretold:
            return unsure

    where = Situation(current=FEW, horizon_s=1e6, banned=mask(DEFAULT), now_s=0.0)
    found = advise(Unsure(make_heads=brain.trees), asked(), LATENCY, DEFAULT, where, Limits())
    assert (found.choice.index, found.choice.why) == (FEW, "not_sure_enough")


def test_a_surer_gain_is_taken_where_the_larger_one_may_be_none() -> None:
    class Torn(Brain):
        __slots__ = ()

        def foretell(self, candidates: Table, goal: objective.Objective) -> Foretold:
            forecast = Forecast(cost=np.array([0.0, -0.2, -0.25, 0.3]), half_width=np.array([0.1, 0.1, 0.27, 0.1]))
            return Foretold(forecast=forecast, level=np.full(4, 1.0), learnt=True)

    where = Situation(current=DEFAULT, horizon_s=3600.0, restart_s=60.0, now_s=0.0)
    found = advise(Torn(make_heads=brain.trees), asked(), LATENCY, DEFAULT, where, Limits())
    assert (found.choice.index, found.choice.considered, found.worth) == (FEW, SMALL, True)
    assert 0 < found.choice.harm_probability < 0.15


def test_where_nothing_is_foretold_what_was_measured_still_speaks() -> None:
    class Silent(Brain):
        __slots__ = ()

        def foretell(self, candidates: Table, goal: objective.Objective) -> Foretold:
            forecast = Forecast(cost=LOVED, half_width=np.full(4, 0.1), abstains=True)
            return Foretold(forecast=forecast, level=np.full(4, 1.0), learnt=True)

    silent = Silent(make_heads=brain.trees)
    where = Situation(current=DEFAULT, horizon_s=3600.0, restart_s=60.0, now_s=NOW_US / 1e6)
    found = advise(silent, asked(), LATENCY, DEFAULT, where, Limits())
    assert (found.choice.why, found.worth) == ("abstained", False)
    told = Table.of_rows(trial({"default": 2.0, "few": 1.6}), merged=False)
    found = advise(silent, asked(), LATENCY, DEFAULT, replace(where, evidence=told), Limits())
    assert (found.choice.index, found.worth) == (FEW, True)


def test_probes_are_what_may_be_best_and_was_not_tried_and_never_what_is_banned() -> None:
    first = counsel(current=DEFAULT)
    assert first.probes[0].index == SMALL
    tried = [row for run in range(8) for row in trial({"default": 2.0, "small": 1.2}, pair=f"{run}")]
    assert SMALL not in [probe.index for probe in counsel(tried).probes[:1]]
    assert SMALL not in [probe.index for probe in counsel(banned=mask(SMALL)).probes]
    rest = [probe.value for probe in counsel(banned=mask(SMALL)).probes]
    assert len(rest) > 1
    assert rest == sorted(rest, reverse=True)


def test_energy_without_a_meter_is_estimated_and_says_so() -> None:
    energy = objective.parse("energy")

    def ask(rows: list[dict[str, Any]] | None) -> Counsel:
        evidence = Table.of_rows(rows, merged=False) if rows else None
        where = Situation(current=DEFAULT, horizon_s=3600.0, now_s=NOW_US / 1e6, evidence=evidence)
        return advise(EMPTY, asked(), energy, DEFAULT, where, Limits())

    assert ask(None).estimated
    pair = trial({"default": 2.0, "few": 1.0})
    assert ask(pair).estimated
    for row, joules in zip(pair, (100.0, 200.0), strict=True):
        row["outcome.energy_j"] = joules
    metered = ask(pair)
    assert metered.choice.index == DEFAULT  # the quicker one takes twice the energy
    over = metered.over_default
    assert over is not None
    assert over.mean[FEW] == pytest.approx(-np.log(2.0), abs=0.1)
    both = Situation(current=FEW, now_s=NOW_US / 1e6, evidence=Table.of_rows(pair, merged=False), banned=mask(2, 3))
    assert not advise(EMPTY, asked(), energy, DEFAULT, both, Limits()).estimated
    assert not advise(EMPTY, asked(), LATENCY, DEFAULT, both, Limits()).estimated


def test_energy_learnt_from_meters_is_no_estimate() -> None:
    pytest.importorskip("lightgbm")
    rows = [
        {**row, "context": run, "outcome.energy_j": joules, "workload.prompt_tokens": 100.0 + run}
        for run in range(40)
        for row, joules in zip(trial({"default": 2.0, "few": 1.0}, pair=f"{run}"), (100.0, 50.0), strict=True)
    ]
    energy = objective.parse("energy")
    learnt = EMPTY.taught(Table.of_rows(rows, merged=False), {}, [energy], np.random.default_rng(0), curves_too=False)
    assert not learnt.foretell(asked(), energy).estimated
    bare = [{name: value for name, value in row.items() if name != "outcome.energy_j"} for row in rows]
    unmetered = EMPTY.taught(
        Table.of_rows(bare, merged=False), {}, [energy], np.random.default_rng(0), curves_too=False
    )
    assert unmetered.foretell(asked(), energy).estimated
    assert "cost" in unmetered.learnt  # what it is estimated from was learnt too
    mixed = unmetered.foretell(asked(), objective.parse("energy:0.5,latency:0.5"))
    assert mixed.estimated
    assert np.isfinite(mixed.forecast.cost).all()


def test_physics_knows_that_drafts_by_lookup_live_on_text_that_repeats_itself() -> None:
    drafting = {"strategy.speculation": "ngram", "strategy.speculative_tokens": 4, "strategy.is_default": False}

    def gain(**share: float) -> float:
        default = candidates(**share)[0]
        asked_of = Table.of_rows([default, {**default, **drafting}], merged=False)
        cost = EMPTY.foretell(asked_of, LATENCY).forecast.cost
        return float(cost[0] - cost[1])

    assert gain(copy_share=0.02) < gain() < gain(copy_share=0.9)
    assert gain(copy_share=0.02) < 0.05


QUESTION: dict[str, Any] = {"rows": candidates(), "goal": "latency", "default": 0, "current": 0, "now_s": NOW_US / 1e6}


def test_the_answer_has_all_of_it_for_each_candidate() -> None:
    rows = trial({"default": 2.0, "few": 1.0}, noise=0.01)
    said = answer(EMPTY, QUESTION | {"evidence": rows, "horizon_s": 3600, "restart_s": 60, "banned": [3]})
    assert (said["index"], said["worth"], said["measured"]) == (FEW, True, [1, 1, 0, 0])
    for name in ("cost", "half_width", "level", "gains", "measured"):
        assert len(said[name]) == len(NAMES)
    mean, low, high = said["gains"][FEW]
    assert low < mean < high
    assert said["over_current"] == said["gains"][FEW]
    assert all(probe["index"] != PLAIN for probe in said["probes"])
    assert said["saved_s"] > said["cost_s"] == 60.0


@pytest.mark.parametrize(
    "wrong",
    [
        {"current": 4}, {"banned": [9]}, {"banned": 3}, {"evidence": [1]}, {"evidence": "all"}, {"horizon_s": -1},
        {"restart_s": float("nan")}, {"evidence": [{}] * 2000},
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError)):
        answer(EMPTY, QUESTION | wrong)


def test_old_questions_are_answered_as_ever() -> None:
    said = answer(EMPTY, {name: QUESTION[name] for name in ("rows", "goal", "default")})
    assert set(said) == {
        "index", "why", "gain", "gain_low", "harm_probability", "considered", "learnt", "cost", "half_width",
    }  # fmt: skip
