import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from node.learner import methods
from node.learner.evaluate import Fold, Maker, NothingToJudge, Task, evaluate
from node.learner.head import Fitted, Prediction
from node.learner.objective import parse
from node.learner.prior import Prior
from node.learner.report import FIGURES, figures, lines, report, unsupported
from node.learner.stack import StackHead
from node.learner.table import Floats, Table
from tests.learner.synthetic import world

CLASSICS = ("single_best", "isac", "alors", "nearest", "gradient_boosting", "default", "random", "physics", "oracle")


def clock() -> float:
    return next(_ticks)


_ticks = map(float, itertools.count())


def makers(*names: str) -> dict[str, Maker]:
    return {name: maker for name in names if (maker := methods.maker(name)) is not None}


def task(table: Table, *names: str, group: str = "hardware.family", objective: str = "latency") -> Task:
    return Task(table=table, group=group, objective=parse(objective), methods=makers(*names))


class Cheat:
    """Foretells what a column says."""

    name = "cheat"

    def __init__(self, column: str) -> None:
        self.column = column

    def fit(self, table: Table, target: Floats, weight: Floats, rng: np.random.Generator) -> Fitted:
        assert not set(table.words("hardware.family")) & {"held"}
        return self

    def predict(self, table: Table) -> Prediction:
        assert not any(name.startswith("outcome.") for name in table.columns)
        return Prediction(mean=table.numbers(self.column))


class Blind(Cheat):
    """Foretells the same of all."""

    def __init__(self) -> None:
        super().__init__("score")

    def fit(self, table: Table, target: Floats, weight: Floats, rng: np.random.Generator) -> Fitted:
        return self


def test_figures_of_choices_that_are_known_beforehand_are_as_computed_by_hand() -> None:
    rows = [
        {"context": c, "hardware.family": f, "strategy.x": x, "strategy.is_default": x == 0, "score": score,
         "outcome.latency_mean_s": seconds}
        for c, f, x, score, seconds in (
            (1, "held", 0, 2, 2.0), (1, "held", 1, 1, 1.0),  # the best: twice as fast as the default
            (2, "held", 0, 1, 1.0), (2, "held", 1, 0, 1.5),  # worse than the default by half
            (3, "kept", 0, 1, 1.0), (3, "kept", 1, 2, 1.0),
            (4, "held", 0, 0, 1.0),  # no choice there
        )
    ]  # fmt: skip
    asked = Task(
        table=Table.of_rows(rows), group="hardware.family", objective=parse("latency"),
        methods={"cheat": lambda _: Cheat("score")},
    )  # fmt: skip
    # The fold that leaves "kept" out would break the cheat's promise, so that one is given.
    kept: dict[str, Fold] = {}
    with pytest.raises(AssertionError):
        evaluate(asked, clock, kept)
    (key,) = kept
    summary = report_of_only(key, kept)

    assert summary["accuracy_1pct"] == summary["accuracy_strict"] == 0.5
    assert summary["regret_mean"] == pytest.approx(0.25)
    assert summary["speedup_over_default"] == pytest.approx(np.exp((np.log(2) - np.log(1.5)) / 2))
    assert summary["oracle_gain_share"] == pytest.approx((np.log(2) - np.log(1.5)) / np.log(2))
    assert summary["worse_than_default_2pct"] == 0.5


def report_of_only(key: str, kept: Mapping[str, Fold]) -> dict[str, Any]:
    assert key.endswith(":held")
    return figures(kept[key], True, "cheat")


def test_every_method_is_judged_on_groups_that_it_did_not_see_and_ours_is_ahead() -> None:
    table = world(90, families=("a", "b", "c"))
    names = ("ours", *CLASSICS)
    summary = report(evaluate(task(table, *names), clock), names)

    assert summary["contexts"] == 90
    assert set(summary["groups"]) == {"a", "b", "c"}
    found = summary["methods"]
    assert found["oracle"]["accuracy_strict"] == 1
    assert found["oracle"]["regret_mean"] == 0
    others = [found[name]["regret_mean"] for name in ("default", "random", "physics", "single_best")]
    assert found["ours"]["regret_mean"] < min(others)
    assert 0.6 < found["ours"]["coverage_90_all"] <= 1
    assert found["isac"]["error_median"] is None  # it ranks, and foretells no time
    assert all(set(FIGURES) <= set(named) for named in found.values())
    assert lines(summary)


def test_the_order_of_a_table_tells_nobody_which_row_is_best() -> None:
    rows = [
        {"context": c, "hardware.family": "held" if c % 2 else "other", "strategy.x": x, "score": 0.0,
         "outcome.latency_mean_s": 1.0 + x}
        for c in range(200) for x in range(2)
    ]  # fmt: skip
    task = Task(
        table=Table.of_rows(rows), group="hardware.family", objective=parse("latency"),
        methods={"cheat": lambda _: Blind()},
    )  # fmt: skip

    found = figures(evaluate(task, clock).folds["held"]["cheat"], False, "cheat")["accuracy_1pct"]

    assert found is not None
    assert 0.35 < found < 0.65


def test_a_long_evaluation_goes_on_where_it_was_interrupted() -> None:
    table = world(20)
    kept: dict[str, Fold] = {}
    told: list[str] = []

    first = report(evaluate(task(table, "single_best", "default"), clock, kept, told.append), ["single_best"])
    folds = len(kept)
    again = report(evaluate(task(table, "single_best", "default"), clock, kept), ["single_best"])

    assert folds == 4 == len(told)
    assert len(kept) == folds
    assert again == first
    evaluate(task(table, "single_best", objective="latency:1,cost:1"), clock, kept)
    assert len(kept) > folds  # another question has other folds


def test_with_a_table_to_learn_from_nothing_is_left_out_and_the_group_splits_the_report() -> None:
    judged = Task(
        table=world(20, seed=3), train=world(60), group="model.name", objective=parse("latency"),
        methods=makers("ours", "gradient_boosting"),
    )  # fmt: skip
    summary = report(evaluate(judged, clock), ("ours", "gradient_boosting"))

    assert len(summary["groups"]) == 3
    assert summary["methods"]["ours"]["accuracy_1pct"] > 0.3


def test_a_table_without_a_default_has_no_figures_that_need_one() -> None:
    table = world(20).without("strategy.is_default")
    found = report(evaluate(task(table, "default", "single_best"), clock), ("default", "single_best"))["methods"]

    assert set(found["default"].values()) == {None}
    assert found["single_best"]["speedup_over_default"] is None
    assert found["single_best"]["regret_mean"] is not None


def test_a_table_without_a_choice_or_a_group_says_so() -> None:
    alone = Table.of_rows([{"context": number, "outcome.latency_mean_s": 1.0} for number in range(3)])
    with pytest.raises(NothingToJudge, match="nothing to choose"):
        evaluate(task(alone, "random"), clock)
    with pytest.raises(NothingToJudge, match="one value"):
        evaluate(task(world(5, families=("one",)), "random"), clock)
    assert unsupported(["ours"])["methods"]["ours"]["accuracy_1pct"] is None


def test_gains_that_were_foretold_wrongly_of_what_was_left_out_leave_the_default() -> None:
    table = world(60, families=("a", "b", "c"))
    other = table.words("strategy.name") == "budget 256"
    score = np.where(table.is_default, 0.0, np.where(other, -0.1, 1.0))
    told = table.with_columns({"score": score})

    class Told(Blind):
        name = "told"

        def predict(self, table: Table) -> Prediction:
            return Prediction(mean=table.numbers("score"))

    def stack(_: Prior) -> StackHead:
        return StackHead(heads=[Told()])

    asked = Task(
        table=told, group="hardware.family", objective=parse("latency"),
        methods={"ours": stack, "bare": lambda _: Told()},
    )  # fmt: skip
    found = report(evaluate(asked, clock), ("ours", "bare"))["methods"]

    assert found["ours"]["speedup_over_default"] == pytest.approx(1.0)
    assert found["ours"]["worse_than_default_2pct"] == 0
    assert found["bare"]["worse_than_default_2pct"] > 0.1
