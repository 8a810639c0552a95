"""Leave-group-out evaluation: every method learns without a group, then chooses in its contexts, and is judged there.

Knows heads, tables and objectives; knows no file, clock or screen: `clock` and `kept` (a place for finished folds, so
that a long evaluation can be resumed) are handed in. A fold's result is plain data, a figure for each context.
"""

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final, TypeAlias
from zlib import crc32

import numpy as np

from node.learner import groups, select
from node.learner.baselines import RANKS_ONLY
from node.learner.features import prepare
from node.learner.head import Head, Prediction
from node.learner.objective import Objective
from node.learner.prior import Prior
from node.learner.stack import FittedStack
from node.learner.table import Floats, Table
from node.learner.weights import Choices

Fold: TypeAlias = dict[str, Any]  # of one method: lists with an entry for each context, and seconds
Maker: TypeAlias = Callable[[Prior], Head]  # heads are made for a prior

ORACLE: Final = "oracle"
DEFAULT: Final = "default"
EQUAL: Final = 1e-9
WITHIN: Final = float(np.log(1.01))
HARM: Final = float(np.log(1.02))


class NothingToJudge(ValueError):
    """The table has no context with a choice, or no group to leave out. The message says which."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What is evaluated.

    Attributes:
        table: judged. train: learnt from; None: the rest of the table, one group after the other left out.
        group: the column that is held out, or by which the report is split.
        methods: makers of heads by name; `oracle` needs none.
        seed: of all luck.
        recipe: names the methods as they are written: folds that other ones left behind are not theirs.
    """

    table: Table
    group: str
    objective: Objective
    methods: Mapping[str, Maker]
    train: Table | None = None
    seed: int = 0
    recipe: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What came of it: for each group and method the finished fold, and which contexts it is about."""

    folds: Mapping[str, Mapping[str, Fold]]
    has_default: bool
    notes: Sequence[str] = field(default=())


def evaluate(
    task: Task,
    clock: Callable[[], float],
    kept: MutableMapping[str, Fold] | None = None,
    progress: Callable[[str], None] | None = None,
) -> Judged:
    """Judge every method on every group.

    Args:
        clock: seconds that rise. kept: finished folds by key; read before, written after each. progress: told of each.

    Raises:
        NothingToJudge: there is no choice to judge, or no group to leave out.
    """
    table, cost = _with_cost(_shuffled(task.table, task.seed), task.objective)
    if not len(Choices.of(table.context_index).starts):
        raise NothingToJudge("no context has two strategies with a known outcome: there is nothing to choose")
    train = None if task.train is None else _with_cost(_shuffled(task.train, task.seed), task.objective)
    store: MutableMapping[str, Fold] = {} if kept is None else kept
    digest = _digest(task)
    labels = groups.labels(table, task.group)
    names = sorted({str(label) for label in labels})
    if train is None and len(names) < 2:
        raise NothingToJudge(f"{task.group} has one value only: leaving it out leaves nothing to learn from")
    folds: dict[str, dict[str, Fold]] = {name: {} for name in names}
    for method, maker in task.methods.items():
        once: _Learnt | None = None
        for name in names:
            key, own = f"{digest}:{method}:{name}", labels == name
            if key not in store:
                job = _Job(method, maker, task, clock)
                if train is None:
                    fitted = job.fit((table.take(~own), cost[~own]), name)
                else:
                    fitted = once = once or job.fit(train, "")
                store[key] = fitted.judge(table.take(own), cost[own])
            folds[name][method] = store[key]
            if progress is not None:
                progress(f"{method} without {name}" if train is None else f"{method} on {name}")
    return Judged(folds=folds, has_default=bool(table.is_default.any()))


@dataclass(frozen=True, slots=True)
class _Job:
    """One method, ready to learn."""

    method: str
    maker: Maker
    task: Task
    clock: Callable[[], float]

    def fit(self, learnt: tuple[Table, Floats], name: str) -> "_Learnt":
        table, cost = learnt
        rng = np.random.default_rng([self.task.seed, crc32(self.method.encode()), crc32(name.encode())])
        head = self.maker(Prior.of(self.task.objective, table))
        begun = self.clock()
        fitted = head.fit(table, cost, np.ones(table.rows), rng)
        spent = self.clock() - begun
        return _Learnt(self.method, fitted, spent, self.clock)


@dataclass(frozen=True, slots=True)
class _Learnt:
    """One method that has learnt. Ours takes the default where it says nothing, and its best where there is none."""

    method: str
    fitted: Any
    train_s: float
    clock: Callable[[], float]

    def judge(self, table: Table, cost: Floats) -> Fold:
        """Choose in each context of rows that were not learnt from, and compare with what was measured."""
        blind = table.without("outcome.")
        begun = self.clock()
        foretold: Prediction = self.fitted.predict(blind)
        spent = self.clock() - begun
        score, half, silent = foretold.mean, np.full(table.rows, np.nan), np.zeros(table.rows, dtype=np.bool_)
        if isinstance(self.fitted, FittedStack):
            half = self.fitted.half_width(blind, foretold)
            gain = np.nan_to_num(self.fitted.gain_half_width(blind), nan=select.UNCHECKED)
            score = np.where(table.is_default, score - select.least_gain(gain), score)
            silent = self.fitted.silent(blind, half)
            safe = np.bincount(table.context_index, weights=table.is_default)[table.context_index] > 0
            score = np.where(silent & safe & ~table.is_default, np.inf, score)
        fold = _figures(table, cost, score)
        cut = Choices.of(table.context_index)
        error = np.abs(cost - foretold.mean)
        absolute = self.method not in RANKS_ONLY
        fold["error"] = _medians_of(error, cut) if absolute else None
        if np.isfinite(half).any():
            fold["covered"] = _means_of((error <= half).astype(np.float64), cut)
            fold["width"] = _medians_of(2 * half, cut)
            fold["abstained"] = [bool(value) for value in silent[cut.order][cut.starts]]
        fold["train_s"], fold["predict_us"] = self.train_s, 1e6 * spent / max(table.rows, 1)
        return fold


def _figures(table: Table, cost: Floats, score: Floats) -> Fold:
    """Return, for each context with a choice, its number, the choice's log-regret and that of the default (or None)."""
    cut = Choices.of(table.context_index)
    truth, tried = cost[cut.order], np.where(np.isnan(score), np.inf, score)[cut.order]
    default = np.where(table.is_default[cut.order], truth, np.inf)
    best = cut.best(truth)
    behind = cut.best(default) - best
    return {
        "context": [int(number) for number in table.contexts[cut.order][cut.starts]],
        "regret": [float(value) for value in truth[cut.chosen(tried)] - best],
        "default": [float(value) if np.isfinite(value) else None for value in behind],
        "error": None, "covered": None, "width": None, "abstained": None, "train_s": None, "predict_us": None,
    }  # fmt: skip


def oracle(judged: Judged) -> dict[str, Fold]:
    """Return for each group what who knows all would have chosen."""
    result = {}
    for group, methods in judged.folds.items():
        some = next(iter(methods.values()))
        result[group] = {**some, "regret": [0.0] * len(some["regret"]), "error": None, "covered": None,
                         "width": None, "abstained": None, "train_s": None, "predict_us": None}  # fmt: skip
    return result


def merged(folds: Sequence[Fold]) -> Fold:
    """Put folds of one method together: contexts one after the other, seconds as their mean."""
    whole: Fold = {}
    for key in ("context", "regret", "default", "error", "covered", "width", "abstained"):
        parts = [fold[key] for fold in folds]
        whole[key] = None if any(part is None for part in parts) else [value for part in parts for value in part]
    for key in ("train_s", "predict_us"):
        known = [fold[key] for fold in folds if fold[key] is not None]
        whole[key] = float(np.mean(known)) if known else None
    return whole


def _shuffled(table: Table, seed: int) -> Table:
    """Return the rows in an order that tells nothing: tables are sorted, and of equal forecasts the first is taken."""
    return table.take(np.random.default_rng(seed).permutation(table.rows))


def _with_cost(table: Table, objective: Objective) -> tuple[Table, Floats]:
    cost = objective.of(table)
    known = np.isfinite(cost)
    kept = prepare(table.take(known)) if known.any() else table.take(known)
    return kept, cost[known]


def _digest(task: Task) -> str:
    """Name what was asked: the same table, group, objective and seed give the same folds."""
    digest = sha256(f"{task.recipe}|{task.group}|{task.objective.name}|{task.seed}".encode())
    for table in (task.table, task.train):
        if table is not None:
            digest.update(table.contexts.tobytes())
            for name in sorted(table.columns):
                column = table.columns[name]
                words = column.dtype == object
                digest.update(name.encode() + (repr(column.tolist()).encode() if words else column.tobytes()))
    return digest.hexdigest()[:24]


def _medians_of(values: Floats, cut: Choices) -> list[float]:
    return [float(np.median(part)) for part in np.split(values[cut.order], cut.starts[1:])]


def _means_of(values: Floats, cut: Choices) -> list[float]:
    return [float(np.mean(part)) for part in np.split(values[cut.order], cut.starts[1:])]
