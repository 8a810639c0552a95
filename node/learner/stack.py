"""Heads put together: weights learnt from what each foretold of hardware families and architectures it had not seen.

Knows the protocol of a head; knows no head by name. A prediction has two parts, and each has weights of its own: its
level (what a context's rows have in common) is what predicted times stand on, the distances within the context are what
a choice stands on. Heads that are good at one are seldom the best at the other. Weights come from greedy selection with
replacement (Caruana et al., "Ensemble selection from libraries of models", 2004) on left-out rows: few weights, all
positive, and the loss is the one that counts: error for levels, regret of the choice for distances.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from node.learner.features import context_mean, prepare
from node.learner.groups import inner_folds
from node.learner.head import Fitted, Head, Prediction
from node.learner.intervals import Calibration, LeftOut, calibrate
from node.learner.novelty import Seen
from node.learner.table import Column, Floats, Ints, Table

ROUNDS: Final = 20  # of the greedy selection: weights are multiples of 5 %
WORST_REGRET: Final = 2.0  # beyond it a choice is just bad: outliers must not set the weights
WORST_ERROR: Final = 1.0  # log-seconds: beyond a factor e an error is just bad
NEAR: Final = 0.01  # a choice so close to the best is as good
NEAR_VALUE: Final = 0.05  # regret that being within it is worth
LEAST_ROWS: Final = 60  # below it nothing is left out: heads count alike
LEAST_CONTEXTS: Final = 8  # with a choice; below it their regret is luck
MARGINS: Final = (0.0, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.08)  # log-cost that must be gained over the default
HARM: Final = 0.02  # worse than the default by so much is harm
HARM_PRICE: Final = 0.15  # regret that one harmed context costs

Failure = type[Exception]


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOutPredictions:
    """What heads foretold of rows that they had not seen.

    Attributes:
        rows: of the table, shape (n,); a row comes once for each way of leaving out.
        fold: which way, shape (n,).
        foretold: shape (heads, n).
        distance: of each row to what was seen, shape (n,).
    """

    rows: Ints
    fold: Ints
    foretold: Floats
    distance: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedStack:
    """Heads that have learnt, and how much each counts.

    Attributes:
        level, advantage: weights by head, each summing to 1.
        margin: log-cost that a choice must be foretold to gain over the default to be preferred to it.
        calibration: None where nothing could be left out.
    """

    heads: Sequence[Fitted]
    names: tuple[str, ...]
    level: Floats
    advantage: Floats
    margin: float
    calibration: Calibration | None
    seen: Seen

    def predict(self, table: Table) -> Prediction:
        """Foretell rows; the spread is the heads' disagreement."""
        ready = prepare(table)
        drawn = np.stack([head.predict(ready).mean for head in self.heads])
        return Prediction(mean=mix(drawn, ready.context_index, self.level, self.advantage), spread=_spread(drawn))

    def half_width(self, table: Table, prediction: Prediction) -> Floats:
        """Return half the width of each row's 90 % interval, in log-cost; NaN where nothing could be calibrated."""
        if self.calibration is None:
            return np.full(table.rows, np.nan)
        return self.calibration.half_width(self.seen.distance(table), prediction.spread)

    def strange(self, table: Table) -> Column:
        """Tell which rows lie so far from all that was seen that nothing should be said of them."""
        if self.calibration is None:
            return np.zeros(table.rows, dtype=np.bool_)
        return self.seen.distance(table) > self.calibration.farthest


@dataclass(frozen=True, slots=True, kw_only=True)
class StackHead:
    """A head made of heads.

    Attributes:
        heads: those that may count.
        optional: what their `fit` raises when they cannot be had (no torch): they are left out then.
        level_only: names of heads whose distances are not asked for; advantage_only: whose levels are not.
    """

    heads: Sequence[Head]
    name: str = "ours"
    optional: tuple[Failure, ...] = (ImportError,)
    folds: Callable[[Table, np.random.Generator], Iterable[Column]] = inner_folds

    def fit(self, table: Table, target: Floats, weight: Floats, rng: np.random.Generator) -> FittedStack:
        """Learn heads and weights: every head is fitted once for each fold and once on all."""
        ready = prepare(table)
        fitted = [(h, f) for h in self.heads if (f := self._fit(h, ready, target, weight, rng)) is not None]
        heads = [head for head, _ in fitted]
        left = self._leave_out(heads, ready, target, weight, rng) if ready.rows >= LEAST_ROWS else None
        names = tuple(head.name for head in heads)
        even = np.full(len(heads), 1 / max(len(heads), 1))
        level, advantage, margin, calibration = even, even, MARGINS[2], None
        if left is not None:
            level = _select(len(heads), _level_loss(ready, target, left))
            advantage = _select(len(heads), _choice_loss(ready, target, left))
            margin = _margin(ready, target, left, advantage)
            calibration = _calibrate(ready, target, left, level, advantage)
        return FittedStack(
            heads=[fit for _, fit in fitted], names=names, level=level, advantage=advantage, margin=margin,
            calibration=calibration, seen=Seen.of(ready),
        )  # fmt: skip

    def _fit(self, head: Head, table: Table, target: Floats, weight: Floats, rng: np.random.Generator) -> Fitted | None:
        try:
            return head.fit(table, target, weight, rng)
        except self.optional:
            return None

    def _leave_out(
        self, heads: Sequence[Head], table: Table, target: Floats, weight: Floats, rng: np.random.Generator
    ) -> LeftOutPredictions | None:
        rows, folds, foretold, distances = [], [], [], []
        for number, left in enumerate(self.folds(table, rng)):
            kept = ~left
            if kept.sum() < LEAST_ROWS:
                continue
            train, judge = table.take(kept), table.take(left)
            fits = [head.fit(train, target[kept], weight[kept], rng) for head in heads]
            rows.append(np.flatnonzero(left))
            folds.append(np.full(judge.rows, number))
            foretold.append(np.stack([fit.predict(judge).mean for fit in fits]))
            distances.append(Seen.of(train).distance(judge))
        if not rows:
            return None
        return LeftOutPredictions(
            rows=np.concatenate(rows), fold=np.concatenate(folds), foretold=np.concatenate(foretold, axis=1),
            distance=np.concatenate(distances),
        )  # fmt: skip


def mix(drawn: Floats, where: Ints, level: Floats, advantage: Floats) -> Floats:
    """Return levels by one set of weights plus distances by the other.

    Args:
        drawn: predictions of the heads, shape (heads, rows). where: the context of each row.
    """
    heights = np.stack([context_mean(row, where) for row in drawn])
    return level @ heights + advantage @ (drawn - heights)


def _spread(drawn: Floats) -> Floats:
    return np.std(drawn, axis=0)


def _select(count: int, loss: Callable[[Floats], float]) -> Floats:
    """Return weights: each round one more voice goes to the head that helps most."""
    voices = np.zeros(count)
    best, best_loss = voices, np.inf
    for _ in range(ROUNDS):
        tried = [loss((voices + one) / (voices.sum() + 1)) for one in np.eye(count)]
        voices = voices + np.eye(count)[int(np.argmin(tried))]
        if min(tried) < best_loss:
            best, best_loss = voices.copy(), min(tried)
    return best / best.sum()


def _level_loss(table: Table, target: Floats, left: LeftOutPredictions) -> Callable[[Floats], float]:
    where = _places(table, left)
    heights = np.stack([context_mean(row, where) for row in left.foretold])
    truth = context_mean(target[left.rows], where)
    voice = 1.0 / np.bincount(left.fold)[left.fold]  # each group has one: the largest must not set the weights
    share = voice / voice.sum()
    return lambda weights: float(share @ np.minimum(np.abs(weights @ heights - truth), WORST_ERROR))


def _choice_loss(table: Table, target: Floats, left: LeftOutPredictions) -> Callable[[Floats], float]:
    where = _places(table, left)
    cut = Choices.of(where)
    if len(cut.starts) < LEAST_CONTEXTS:
        return _level_loss(table, target, left)
    drawn = np.stack([row - context_mean(row, where) for row in left.foretold])[:, cut.order]
    truth = target[left.rows][cut.order]

    def loss(weights: Floats) -> float:
        regret = cut.regret(weights @ drawn, truth)
        return float(np.mean(np.minimum(np.expm1(regret), WORST_REGRET) + NEAR_VALUE * (regret > np.log1p(NEAR))))

    return loss


def _margin(table: Table, target: Floats, left: LeftOutPredictions, advantage: Floats) -> float:
    """Return the gain that must be foretold before the default is left: the cheapest by regret and by harm."""
    default = table.is_default[left.rows]
    if not default.any():
        return 0.0
    where = _places(table, left)
    foretold = advantage @ np.stack([row - context_mean(row, where) for row in left.foretold])
    cut = Choices.of(where)
    truth = target[left.rows][cut.order]
    losses = []
    for margin in MARGINS:
        score = np.where(default, foretold - margin, foretold)[cut.order]
        chosen = cut.chosen(score)
        regret = np.minimum(np.expm1(truth[chosen] - cut.best(truth)), WORST_REGRET)
        harm = truth[chosen] - cut.best(np.where(default[cut.order], truth, np.inf)) > np.log1p(HARM)
        losses.append(float(np.mean(regret + HARM_PRICE * harm + NEAR_VALUE * (regret > NEAR))))
    return MARGINS[int(np.argmin(losses))]


def _calibrate(
    table: Table, target: Floats, left: LeftOutPredictions, level: Floats, advantage: Floats
) -> Calibration | None:
    foretold = mix(left.foretold, _places(table, left), level, advantage)
    error = target[left.rows] - foretold
    group = np.array([str(number) for number in left.fold], dtype=object)
    return calibrate(LeftOut(error=error, group=group, distance=left.distance, spread=_spread(left.foretold)))


def _places(table: Table, left: LeftOutPredictions) -> Ints:
    """Return numbers of the contexts of left-out rows: a context left out in two ways is two."""
    contexts = int(table.context_index.max(initial=0)) + 1
    return np.unique(left.fold * contexts + table.context_index[left.rows], return_inverse=True)[1].astype(np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """Rows sorted by context, those of contexts with a choice only.

    Attributes:
        order: of the rows. starts: where each context begins in it. where: context of each row in that order.
    """

    order: Ints
    starts: Ints
    where: Ints

    @staticmethod
    def of(where: Ints) -> "Choices":
        """Sort rows by their contexts' numbers."""
        several = np.bincount(where, minlength=1)[where] > 1
        order = np.flatnonzero(several)[np.argsort(where[several], kind="stable")]
        if not len(order):
            empty = np.zeros(0, dtype=np.int64)
            return Choices(order=empty, starts=empty, where=empty)
        starts = np.concatenate([[0], np.flatnonzero(np.diff(where[order])) + 1])
        lengths = np.diff(np.concatenate([starts, [len(order)]]))
        return Choices(order=order, starts=starts, where=np.repeat(np.arange(len(starts)), lengths))

    def best(self, values: Floats) -> Floats:
        """Return the least value of each context; values are in `order`."""
        return np.minimum.reduceat(values, self.starts) if len(self.starts) else np.zeros(0)

    def chosen(self, score: Floats) -> Ints:
        """Return for each context the place (in `order`) of the least score, the first of equal ones."""
        hit = np.flatnonzero(score == self.best(score)[self.where])
        return hit[np.unique(self.where[hit], return_index=True)[1]]

    def regret(self, score: Floats, truth: Floats) -> Floats:
        """Return for each context how much more log-cost the choice has than the best."""
        return truth[self.chosen(score)] - self.best(truth)
