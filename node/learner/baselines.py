"""What the meta-learner must beat: the classics of algorithm selection, and plain learners on plain numbers.

Knows tables and scikit-learn; knows no physics. Each is a head: what it foretells is a log-cost, or for those that only
rank, a score that is smaller for the better row (`RANKS_ONLY`). ISAC: Kadioglu et al., "Instance-specific algorithm
configuration" (2010). ALORS: Misir and Sebag, "ALORS: an algorithm recommender system" (2017).
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from node.learner.features import Vocabulary, centre
from node.learner.head import Fitted, Prediction
from node.learner.table import Column, Floats, Ints, Table
from node.learner.trees import Growth, grow

RANKS_ONLY: Final = frozenset({"default", "random", "single_best", "isac", "alors", "nearest"})
CLUSTERS: Final = 12  # of contexts, of ISAC
RANK: Final = 6  # of ALORS' factors
MOST_CHOICES: Final = 1024  # strategies that are told apart: a context is a row of so many numbers
NEIGHBOURS: Final = 10  # contexts that vote
SHRINK: Final = 2.0  # contexts of doubt in a strategy's mean: seen once and lucky is not best
NEVER_SEEN: Final = 0.5  # log-cost that a strategy without a record is thought to be worse than the mean
TREES: Final = 150  # of the random forest
GROWTH: Final = Growth(huber=1.0, near=0.0, bags=1)
SEED_END: Final = 2**31


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scored:
    """A fitted baseline: a function of a table."""

    score: Any  # Callable[[Table], Floats]; frozen dataclasses and methods do not mix well in pyright

    def predict(self, table: Table) -> Prediction:
        return Prediction(mean=self.score(table))


@dataclass(frozen=True, slots=True, kw_only=True)
class Default:
    """The engine's default, whatever comes."""

    name: str = "default"

    def fit(self, table: Table, target: Floats, weight: Floats, rng: np.random.Generator) -> Fitted:
        """Learn nothing."""
        return _Scored(score=lambda judged: np.where(judged.is_default, 0.0, 1.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Random:
    """Any row."""

    name: str = "random"

    def fit(self, table: Table, target: Floats, weight: Floats, rng: np.random.Generator) -> Fitted:
        """Learn nothing."""
        return _Scored(score=lambda judged: rng.random(judged.rows))


@dataclass(frozen=True, slots=True, kw_only=True)
class SingleBest:
    """The strategy that was best in the mean."""

    name: str = "single_best"

    def fit(self, table: Table, target: Floats, weight: Floats, rng: np.random.Generator) -> Fitted:
        """Learn a mean for each strategy."""
        means = strategy_means(table.choice_names, centre(target, table.context_index))
        return _Scored(score=lambda judged: _look_up(means, judged.choice_names))


@dataclass(frozen=True, slots=True, kw_only=True)
class Isac:
    """Contexts in clusters by what they are; in each, the strategy that was best there."""

    name: str = "isac"

    def fit(self, table: Table, target: Floats, weight: Floats, rng: np.random.Generator) -> Fitted:
        """Cluster, and learn a mean for each strategy of each cluster."""
        from sklearn.cluster import KMeans  # noqa: PLC0415 -- a second

        places = _Places.of(table)
        points, _ = places.contexts(table)
        clusters = KMeans(min(CLUSTERS, len(points)), random_state=int(rng.integers(SEED_END))).fit(points)
        of_row = np.asarray(clusters.labels_)[table.context_index]
        gains, names = centre(target, table.context_index), table.choice_names
        everywhere = strategy_means(names, gains)
        local = {n: strategy_means(names[of_row == n], gains[of_row == n], everywhere) for n in set(of_row)}

        def score(judged: Table) -> Floats:
            where = clusters.predict(places.of_rows(judged))
            parts = [_look_up(local[n], np.array([name])) for n, name in zip(where, judged.choice_names, strict=True)]
            return np.concatenate(parts) if parts else np.zeros(0)

        return _Scored(score=score)


@dataclass(frozen=True, slots=True, kw_only=True)
class Nearest:
    """The contexts nearest by what they are vote with what they measured."""

    name: str = "nearest"

    def fit(self, table: Table, target: Floats, weight: Floats, rng: np.random.Generator) -> Fitted:
        """Remember every context."""
        grid = _Grid.of(table, centre(target, table.context_index))
        return _Scored(score=lambda judged: _vote(grid, judged))


@dataclass(frozen=True, slots=True, kw_only=True)
class Alors:
    """Contexts x strategies as a matrix of low rank; a forest foretells a new context's factors."""

    name: str = "alors"

    def fit(self, table: Table, target: Floats, weight: Floats, rng: np.random.Generator) -> Fitted:
        """Factor the matrix (gaps filled with each strategy's mean), and learn the factors from contexts."""
        from sklearn.ensemble import RandomForestRegressor  # noqa: PLC0415 -- a second

        grid = _Grid.of(table, centre(target, table.context_index))
        filled = np.where(np.isnan(grid.gains), grid.means, grid.gains)
        left, strength, right = np.linalg.svd(filled - grid.means, full_matrices=False)
        rank = min(RANK, len(strength))
        factors = left[:, :rank] * strength[:rank]
        seed = int(rng.integers(SEED_END))
        forest = RandomForestRegressor(100, min_samples_leaf=2, random_state=seed, n_jobs=1).fit(grid.points, factors)

        def score(judged: Table) -> Floats:
            points, _ = grid.places.contexts(judged)
            foretold = np.asarray(forest.predict(points)).reshape(len(points), -1)
            return grid.pick(foretold @ right[:rank] + grid.means, judged)

        return _Scored(score=score)


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomForest:
    """A forest on the table's own numbers and words."""

    name: str = "random_forest"

    def fit(self, table: Table, target: Floats, weight: Floats, rng: np.random.Generator) -> Fitted:
        """Learn log-costs; half a minute for twenty thousand rows."""
        from sklearn.ensemble import RandomForestRegressor  # noqa: PLC0415 -- a second

        plain = Plain.of(table)
        forest = RandomForestRegressor(
            TREES,
            min_samples_leaf=2,
            max_features=0.4,
            max_samples=0.7,
            n_jobs=1,
            random_state=int(rng.integers(SEED_END)),
        ).fit(_without_gaps(plain.matrix(table)), target, sample_weight=weight)
        return _Scored(score=lambda judged: np.asarray(forest.predict(_without_gaps(plain.matrix(judged)))))


@dataclass(frozen=True, slots=True, kw_only=True)
class GradientBoosting:
    """Boosted trees on the table's own numbers and words; also a head of the stack."""

    name: str = "gradient_boosting"

    def fit(self, table: Table, target: Floats, weight: Floats, rng: np.random.Generator) -> Fitted:
        """Learn log-costs."""
        plain = Plain.of(table)
        booster = grow(plain.matrix(table), target, weight, GROWTH, int(rng.integers(SEED_END)))
        return _Scored(score=lambda judged: np.asarray(booster.predict(plain.matrix(judged), num_threads=1)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Plain:
    """Numbers of a table as they are, and its strategies' words.

    Attributes:
        names: columns that were there when it was learnt from.
    """

    names: tuple[str, ...]
    vocabulary: Vocabulary

    @staticmethod
    def of(table: Table) -> "Plain":
        """Settle the columns."""
        rooms = ("model.", "hardware.", "workload.", "strategy.")
        kept = [n for n, c in table.columns.items() if n.startswith(rooms) and c.dtype != object]
        return Plain(names=tuple(kept), vocabulary=Vocabulary(table))

    def matrix(self, table: Table) -> Floats:
        """Return shape (rows, columns); NaN is unknown."""
        words = self.vocabulary.columns(table)
        return np.column_stack([*(table.numbers(name) for name in self.names), *words.values()])


def strategy_means(names: Column, gains: Floats, prior: Mapping[str, float] | None = None) -> dict[str, float]:
    """Return each strategy's mean distance from its contexts' means, pulled to `prior` (or to worse) by few records."""
    means = dict(prior or {})
    for name in set(names):
        own = gains[names == name]
        before = NEVER_SEEN if prior is None else prior.get(name, NEVER_SEEN)
        means[str(name)] = float((own.sum() + SHRINK * before) / (len(own) + SHRINK))
    return means


def _look_up(means: Mapping[str, float], names: Column) -> Floats:
    return np.array([means.get(str(name), NEVER_SEEN) for name in names], dtype=np.float64)


def _without_gaps(matrix: Floats) -> Floats:
    return np.where(np.isnan(matrix), -1.0, matrix)  # no column is negative: a forest can split it off


@dataclass(frozen=True, slots=True, kw_only=True)
class _Places:
    """Contexts as points: the logs of what describes them, standardised."""

    names: tuple[str, ...]
    middle: Floats
    width: Floats

    @staticmethod
    def of(table: Table) -> "_Places":
        rooms = ("model.", "hardware.", "workload.")
        names = tuple(n for n, c in table.columns.items() if n.startswith(rooms) and c.dtype != object)
        raw = _logs(table, names)
        known: Column = np.asarray(~np.isnan(raw).all(axis=0))
        names = tuple(name for name, there in zip(names, known.tolist(), strict=True) if there)
        raw = raw[:, known]
        return _Places(names=names, middle=np.nanmean(raw, axis=0), width=np.nanstd(raw, axis=0) + 1e-9)

    def of_rows(self, table: Table) -> Floats:
        standard = (_logs(table, self.names) - self.middle) / self.width
        return np.clip(np.where(np.isnan(standard), 0.0, standard), -5, 5)

    def contexts(self, table: Table) -> tuple[Floats, Ints]:
        """Return a point for each context, in the order of `context_index`, and the first row of each."""
        first = np.unique(table.context_index, return_index=True)[1]
        return self.of_rows(table)[first], first


def _logs(table: Table, names: tuple[str, ...]) -> Floats:
    return np.column_stack([np.log1p(np.abs(table.numbers(name))) for name in names])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Grid:
    """Contexts x strategies: what was measured, NaN elsewhere; a mean for each strategy."""

    places: _Places
    points: Floats
    gains: Floats
    means: Floats
    column: Mapping[str, int]

    @staticmethod
    def of(table: Table, gains: Floats) -> "_Grid":
        places = _Places.of(table)
        points, _ = places.contexts(table)
        often = {name for name, _ in Counter(str(name) for name in table.choice_names).most_common(MOST_CHOICES)}
        known = np.array([str(name) in often for name in table.choice_names], dtype=np.bool_)
        means = strategy_means(table.choice_names[known], gains[known])
        column = {name: number for number, name in enumerate(sorted(means))}
        matrix = np.full((len(points), len(column)), np.nan)
        matrix[table.context_index[known], [column[str(name)] for name in table.choice_names[known]]] = gains[known]
        return _Grid(
            places=places, points=points, gains=matrix, means=np.array([means[n] for n in column]), column=column
        )

    def pick(self, scores: Floats, judged: Table) -> Floats:
        """Return each row's score out of those of its context (rows) and strategy (columns)."""
        columns = np.array([self.column.get(str(name), -1) for name in judged.choice_names], dtype=np.int64)
        return np.where(columns >= 0, scores[judged.context_index, columns], NEVER_SEEN)


def _vote(grid: _Grid, judged: Table) -> Floats:
    points, _ = grid.places.contexts(judged)
    scores = np.empty((len(points), len(grid.means)))
    for number, point in enumerate(points):
        near = np.argsort(((grid.points - point) ** 2).sum(axis=1), kind="stable")[:NEIGHBOURS]
        known = ~np.isnan(grid.gains[near])
        total = np.where(known, grid.gains[near], 0.0).sum(axis=0) + SHRINK * grid.means
        scores[number] = total / (known.sum(axis=0) + SHRINK)
    return grid.pick(scores, judged)


def classics() -> tuple[Any, ...]:
    """Return the baselines that need neither physics nor texts."""
    return Default(), Random(), SingleBest(), Isac(), Alors(), Nearest(), RandomForest(), GradientBoosting()
