"""Boosted trees on what physics leaves over: the residual head foretells times, the advantage head which row is best.

Knows features, priors and LightGBM; knows no stack. The residual head learns log(outcome / physics). The advantage head
learns that less its mean in the context: what all strategies of a context have in common (a slow host, a driver, a
wrong data sheet) cannot drown what parts them. It looks hardest at the rows near the best of their context: how bad the
worst strategy is matters to nobody. The coarse head is a residual head too small to learn machines by heart: where a
new one is like none before (another vendor's), it errs less.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from node.learner.features import Vocabulary, centre, nearness, see
from node.learner.head import Prediction
from node.learner.prior import Prior
from node.learner.table import Floats, Table

if TYPE_CHECKING:
    import lightgbm

SEED_END: Final = 2**31
ODDS_ROUNDS: Final = 60  # of trees for odds: failures are few
BINS: Final = 63  # of a feature's values: four times as many took twice as long and chose no better


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """How trees grow.

    Attributes:
        huber: error in log-seconds beyond which it counts linearly: outliers and liars.
        near: how fast a row's weight falls with its distance from the best of its context; 0 is not at all.
        bags: ensembles whose mean is taken.
    """

    rounds: int = 160
    rate: float = 0.1
    leaves: int = 31
    least_rows: int = 40
    huber: float = 0.1
    near: float = 4.0
    bags: int = 2


COARSE: Final = Growth(rounds=80, rate=0.08, leaves=7, least_rows=60, huber=0.3, near=0.0, bags=1)
RESIDUAL: Final = Growth(huber=0.3, near=0.0, bags=1)
ADVANTAGE: Final = Growth()
# A machine's own ways are seen on few rows.
FINE: Final = Growth(least_rows=20)
FINER: Final = Growth(least_rows=10, huber=0.3, near=0.0, bags=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedTrees:
    """Trees that have grown, none where there was nothing to learn, and the words that they know."""

    prior: Prior | None
    vocabulary: Vocabulary
    boosters: Sequence["lightgbm.Booster"]
    names: tuple[str, ...]

    def predict(self, table: Table) -> Prediction:
        """Foretell rows; the spread is that of the bags."""
        seen = see(table, self.vocabulary)
        matrix = align(seen.names, seen.matrix, self.names)
        drawn = [np.asarray(booster.predict(matrix, num_threads=1)) for booster in self.boosters]
        base = np.zeros(table.rows) if self.prior is None else self.prior.log_cost(table)
        return Prediction(mean=base + np.mean(drawn, axis=0) if drawn else base)

    def contributions(self, table: Table) -> tuple[tuple[str, ...], Floats]:
        """Return the names of the features, and what each adds to each row (log-seconds), shape (rows, features)."""
        seen = see(table, self.vocabulary)
        matrix = align(seen.names, seen.matrix, self.names)
        if not self.boosters:
            return self.names, np.zeros_like(matrix)
        parts = [np.asarray(b.predict(matrix, pred_contrib=True, num_threads=1))[:, :-1] for b in self.boosters]
        return self.names, np.mean(parts, axis=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class TreesHead:
    """Boosted trees.

    Attributes:
        prior: what they correct; None for the bare target.
        centred: learn each row's distance from its context's mean rather than its own height.
        machines: tell known machines apart by name; of an unknown one that says nothing.
    """

    name: str
    prior: Prior | None
    centred: bool
    growth: Growth
    machines: bool = False

    def fit(self, table: Table, target: Floats, weight: Floats, rng: np.random.Generator) -> FittedTrees:
        """Learn from rows: one to three seconds for ten thousand on a core."""
        where = table.context_index
        rest = target if self.prior is None else target - self.prior.log_cost(table)
        counted = weight * nearness(target, where, self.growth.near)
        if self.centred:
            rest = centre(rest, where, nearness(target, where, self.growth.near))
            counted = counted * (np.bincount(where)[where] > 1)  # alone in its context a row tells of no advantage
        vocabulary = Vocabulary(table, machines=self.machines)
        seen = see(table, vocabulary)
        kept = counted > 0
        if not kept.any():  # no context with a choice: there is no advantage to learn
            return FittedTrees(prior=self.prior, vocabulary=vocabulary, boosters=[], names=seen.names)
        boosters = [
            grow(seen.matrix[kept], rest[kept], counted[kept], self.growth, int(rng.integers(SEED_END)))
            for _ in range(self.growth.bags)
        ]
        return FittedTrees(prior=self.prior, vocabulary=vocabulary, boosters=boosters, names=seen.names)


def residual_head(prior: Prior) -> TreesHead:
    """Return the head that foretells times."""
    return TreesHead(name="residual", prior=prior, centred=False, growth=RESIDUAL)


def coarse_head(prior: Prior) -> TreesHead:
    """Return the head that corrects physics with few and simple rules."""
    return TreesHead(name="coarse", prior=prior, centred=False, growth=COARSE)


def advantage_head(prior: Prior) -> TreesHead:
    """Return the head that foretells which row of a context is best."""
    return TreesHead(name="advantage", prior=prior, centred=True, growth=ADVANTAGE)


def machine_heads(prior: Prior) -> list[TreesHead]:
    """Return heads that learn what each known machine does beside physics: a driver's faults, a slow backend.

    The names of machines are among what they see. One learns what physics leaves over, one the advantage, one the
    outcome without physics: where that is far off, it is not in the way.
    """
    return [
        TreesHead(name="machine", prior=prior, centred=False, growth=RESIDUAL, machines=True),
        TreesHead(name="machine_advantage", prior=prior, centred=True, growth=FINE, machines=True),
        TreesHead(name="machine_plain", prior=None, centred=False, growth=FINER, machines=True),
    ]


def grow(matrix: Floats, target: Floats, weight: Floats, growth: Growth, seed: int) -> "lightgbm.Booster":
    """Grow one ensemble, on one thread: learners run beside an engine."""
    import lightgbm  # noqa: PLC0415 -- seconds; the daemon never pays them

    settings = {
        "objective": "huber", "alpha": growth.huber, "learning_rate": growth.rate, "num_leaves": growth.leaves,
        "min_data_in_leaf": max(min(growth.least_rows, len(target) // 20), 1), "feature_fraction": 0.6,
        "bagging_fraction": 0.8, "bagging_freq": 1, "lambda_l2": 1.0, "verbose": -1, "num_threads": 1, "seed": seed,
        "max_bin": BINS, "deterministic": True, "force_col_wise": True,
    }  # fmt: skip
    rows = lightgbm.Dataset(matrix, target, weight=weight, params={"max_bin": BINS})
    return lightgbm.train(settings, rows, growth.rounds)


def grow_odds(
    matrix: Floats, label: Floats, weight: Floats, offset: Floats, *, rising: Sequence[int], seed: int
) -> Callable[[Floats], Floats]:
    """Grow a small ensemble for the log-odds of a label, of which an offset is known; on one thread.

    Returns what gives, for the rows of a matrix, the log-odds to add to their own offsets.

    Args:
        label: 0 to 1, shape (rows,). offset: log-odds that the trees only correct, shape (rows,).
        rising: 1 for each feature with which the odds must not fall, 0 for the others.
    """
    import lightgbm  # noqa: PLC0415 -- seconds; the daemon never pays them

    settings = {
        "objective": "cross_entropy", "learning_rate": 0.1, "num_leaves": 7, "min_data_in_leaf": 10,
        "min_sum_hessian_in_leaf": 0.1, "lambda_l2": 2.0, "boost_from_average": False, "verbose": -1, "num_threads": 1,
        "seed": seed, "max_bin": BINS, "deterministic": True, "force_col_wise": True,
        "monotone_constraints": list(rising), "feature_fraction": 0.8,
    }  # fmt: skip
    rows = lightgbm.Dataset(matrix, label, weight=weight, init_score=offset, params={"max_bin": BINS})
    booster = lightgbm.train(settings, rows, ODDS_ROUNDS)
    return lambda asked: np.asarray(booster.predict(asked, raw_score=True, num_threads=1))


def align(names: tuple[str, ...], matrix: Floats, wanted: tuple[str, ...]) -> Floats:
    """Return the columns that were learnt from, in their order; NaN for those that are not there."""
    if names == wanted:
        return matrix
    at = {name: number for number, name in enumerate(names)}
    absent = np.full(len(matrix), np.nan)
    return np.column_stack([matrix[:, at[name]] if name in at else absent for name in wanted])
