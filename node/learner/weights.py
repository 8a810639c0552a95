"""How much each head counts, learnt from what it foretold of rows that it had not seen.

Knows predictions and what was measured; knows no head. A prediction has two parts, and each has weights of its own: its
level (what a context's rows have in common) is what predicted times stand on, the distances within the context are what
a choice stands on. Heads that are good at one are seldom the best at the other. Half of a weight comes from greedy
selection with replacement (Caruana et al., "Ensemble selection from libraries of models", 2004), half from how each
head did alone; the loss is the one that counts: error for levels, regret of the choice for distances.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from node.learner.features import context_mean
from node.learner.groups import voices
from node.learner.intervals import LEVEL, Calibration, LeftOut, calibrate, quantile
from node.learner.table import Floats, Ints, Table

ROUNDS: Final = 20  # of the greedy selection
LEAST_LOSS: Final = 1e-9  # where one head is perfect
WORST_REGRET: Final = 2.0  # beyond it a choice is just bad: outliers must not set the weights
WORST_ERROR: Final = 1.0  # log-seconds: beyond a factor e an error is just bad
NEAR: Final = 0.01  # a choice so close to the best is as good
NEAR_VALUE: Final = 0.05  # regret that being within it is worth
LEAST_CONTEXTS: Final = 8  # with a choice; below it their regret is luck
SHARPNESS: Final = 0.3  # share of the best head's loss by which another's must be worse to count a factor e less


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """How much heads count in one situation.

    Attributes:
        level, advantage: by head, each summing to 1.
        calibration: None where nothing could be left out.
        gain_half_width: half the 90 % interval of the gain over the engine's default that was foretold of a context's
            best; NaN where too few were left out.
    """

    level: Floats
    advantage: Floats
    calibration: Calibration | None = None
    gain_half_width: float = float("nan")


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOutPredictions:
    """What heads foretold of rows that they had not seen.

    Attributes:
        rows: of the table, shape (n,); a row comes once for each way of leaving out.
        fold: which way, shape (n,).
        foretold: shape (heads, n).
        distance: of each row to what was seen, shape (n,). strange: whether its hardware was not, shape (n,).
        absolute: which heads foretell levels, shape (heads,); others only rank.
    """

    rows: Ints
    fold: Ints
    foretold: Floats
    distance: Floats
    strange: NDArray[np.bool_]
    absolute: NDArray[np.bool_]

    def among(self, which: NDArray[np.bool_]) -> "LeftOutPredictions":
        """Return some of them."""
        return LeftOutPredictions(
            rows=self.rows[which], fold=self.fold[which], foretold=self.foretold[:, which],
            distance=self.distance[which], strange=self.strange[which], absolute=self.absolute,
        )  # fmt: skip


def even(absolute: NDArray[np.bool_], allowed: NDArray[np.bool_]) -> Weights:
    """Return weights that nothing was learnt for: all heads that may count do so alike."""
    levels = absolute & allowed
    return Weights(level=levels / max(int(levels.sum()), 1), advantage=allowed / max(int(allowed.sum()), 1))


def learn(
    table: Table,
    target: Floats,
    left: LeftOutPredictions,
    allowed: NDArray[np.bool_] | None = None,
    *,
    telling: bool = True,
) -> Weights:
    """Learn weights and intervals from left-out predictions of a table's rows.

    Args:
        allowed: heads that may count, shape (heads,); None: all.
        telling: whether what was left out is like what is to come; if not, all heads have an equal say in the choice,
            and no distance is known to be too far.
    """
    may = np.ones(len(left.absolute), dtype=np.bool_) if allowed is None else allowed
    if not len(left.rows):
        return even(left.absolute, may)
    heads = np.arange(len(left.absolute))
    level = _select(heads[left.absolute & may], len(heads), _level_loss(table, target, left))
    advantage = even(left.absolute, may).advantage
    if telling:
        advantage = _select(heads[may], len(heads), _choice_loss(table, target, left))
    foretold = mix(left.foretold, _places(table, left), level, advantage)
    calibration = _calibrate(target, left, foretold)
    return Weights(
        level=level,
        advantage=advantage,
        calibration=calibration if telling or calibration is None else replace(calibration, farthest=float("inf")),
        gain_half_width=_gain_half_width(table, target, left, foretold),
    )


def foretell(table: Table, left: LeftOutPredictions, found: Weights) -> Floats:
    """Return what the heads together foretold of left-out rows, shape (n,)."""
    return mix(left.foretold, _places(table, left), found.level, found.advantage)


def mix(drawn: Floats, where: Ints, level: Floats, advantage: Floats) -> Floats:
    """Return levels by one set of weights plus distances by the other.

    Args:
        drawn: predictions of the heads, shape (heads, rows). where: the context of each row.
    """
    heights = np.stack([context_mean(row, where) for row in drawn])
    return level @ heights + advantage @ (drawn - heights)


def disagreement(drawn: Floats, absolute: NDArray[np.bool_]) -> Floats:
    """Return the standard deviation among the heads that foretell levels, shape (rows,)."""
    return np.std(drawn[absolute], axis=0)


def _select(heads: Ints, count: int, loss: Callable[[Floats], float]) -> Floats:
    """Return weights: the mean of two ways to find them, of which one is bold and the other careful.

    The greedy selection takes what the left-out rows say at its word, and they are few groups; an exponential of each
    head's own loss keeps a say for all that are nearly as good. On rows that neither had seen the mean did best or
    nearly so on every table, and each alone was the worse one on some (docs/learner.md).
    """
    ballots = np.eye(count)[heads]
    alone = np.array([loss(one) for one in ballots])
    careful = np.exp((alone.min() - alone) / (SHARPNESS * alone.min() + LEAST_LOSS)) @ ballots
    return (_greedy(ballots, alone, loss) + careful / careful.sum()) / 2


def _greedy(ballots: Floats, alone: Floats, loss: Callable[[Floats], float]) -> Floats:
    """Return weights: each round one more voice goes to that head that helps most; the best round counts."""
    first = int(np.argmin(alone))
    elected = ballots[first]
    best, best_loss = elected, alone[first]
    for _ in range(ROUNDS):
        tried = [loss((elected + one) / (elected.sum() + 1)) for one in ballots]
        elected = elected + ballots[int(np.argmin(tried))]
        if min(tried) < best_loss:
            best, best_loss = elected, min(tried)
    return best / best.sum()


def _level_loss(table: Table, target: Floats, left: LeftOutPredictions) -> Callable[[Floats], float]:
    where = _places(table, left)
    heights = np.stack([context_mean(row, where) for row in left.foretold])
    truth = context_mean(target[left.rows], where)
    share = voices(left.fold)
    return lambda weights: float(share @ np.minimum(np.abs(weights @ heights - truth), WORST_ERROR))


def _choice_loss(table: Table, target: Floats, left: LeftOutPredictions) -> Callable[[Floats], float]:
    where = _places(table, left)
    cut = Choices.of(where)
    if len(cut.starts) < LEAST_CONTEXTS:
        return _level_loss(table, target, left)
    drawn = np.stack([row - context_mean(row, where) for row in left.foretold])[:, cut.order]
    truth = target[left.rows][cut.order]
    share = voices(left.fold[cut.order][cut.starts])

    def loss(weights: Floats) -> float:
        regret = cut.regret(weights @ drawn, truth)
        return float(share @ (np.minimum(np.expm1(regret), WORST_REGRET) + NEAR_VALUE * (regret > np.log1p(NEAR))))

    return loss


def _calibrate(target: Floats, left: LeftOutPredictions, foretold: Floats) -> Calibration | None:
    error = target[left.rows] - foretold
    group = np.array([str(number) for number in left.fold], dtype=object)
    return calibrate(
        LeftOut(error=error, group=group, distance=left.distance, spread=disagreement(left.foretold, left.absolute))
    )


def _gain_half_width(table: Table, target: Floats, left: LeftOutPredictions, foretold: Floats) -> float:
    """Return what nine of ten gains that were foretold for a choice other than the default were wrong by at most.

    How wrong the rest of a context is foretold does not matter: that is the worst strategies' doing.
    """
    where = _places(table, left)
    truth, default = target[left.rows], table.is_default[left.rows]
    cut = Choices.of(where)
    chosen = cut.order[cut.chosen(foretold[cut.order])]
    usual = np.full(int(where.max(initial=-1)) + 1, -1)
    usual[where[default]] = np.flatnonzero(default)
    chosen = chosen[(usual[where[chosen]] >= 0) & ~default[chosen]]
    if len(chosen) < LEAST_CONTEXTS:
        return float("nan")
    against = usual[where[chosen]]
    error = np.abs((truth[against] - truth[chosen]) - (foretold[against] - foretold[chosen]))
    return quantile(error, voices(left.fold[chosen]), LEVEL)


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
