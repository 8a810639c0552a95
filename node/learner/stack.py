"""Heads put together: those that foretell new hardware best lead on new hardware, and others where it is known.

Knows the protocol of a head; knows no head by name. Weights are learnt (weights.py) in two situations apart: on rows of
hardware that was left out, and on rows of models that were left out on hardware that was not. What a machine did before
says much of what it will do with another model; of another machine it says little.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from node.learner import weights
from node.learner.features import context_median, prepare
from node.learner.groups import inner_folds, labels
from node.learner.head import Fitted, Head, Prediction
from node.learner.intervals import Calibration
from node.learner.novelty import Seen
from node.learner.table import Column, Floats, Table
from node.learner.weights import LeftOutPredictions, Weights, disagreement, mix

# An interval of a factor 4 either way is no prediction: the safe default is taken then, unless all are so wide that
# this one stands out by nothing (ranks still hold where milliseconds do not).
WIDEST: Final = float(np.log(4.0))
LEAST_ROWS: Final = 60  # below it nothing is left out, and only what needs no proof counts

Failure = type[Exception]


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedStack:
    """Heads that have learnt, and how much each counts.

    Attributes:
        absolute: which heads foretell levels; others only rank.
        on_strange, on_known: weights on hardware that was not learnt from, and on that which was.
        hardware: names of the latter.
        missed: observed less foretold of the rows that were learnt from, where their hardware had been left out; NaN
            elsewhere, shape (rows,).
    """

    heads: Sequence[Fitted]
    names: tuple[str, ...]
    absolute: NDArray[np.bool_]
    on_strange: Weights
    on_known: Weights
    hardware: frozenset[str]
    seen: Seen
    missed: Floats

    def predict(self, table: Table) -> Prediction:
        """Foretell rows; the spread is the heads' disagreement."""
        ready = prepare(table)
        drawn = np.stack([head.predict(ready).mean for head in self.heads])
        strange, known = (
            mix(drawn, ready.context_index, one.level, one.advantage) for one in (self.on_strange, self.on_known)
        )
        mean = np.where(self.is_strange(ready), strange, known)
        return Prediction(mean=mean, spread=disagreement(drawn, self.absolute))

    def is_strange(self, table: Table) -> NDArray[np.bool_]:
        """Tell which rows are on hardware that was not learnt from."""
        return ~np.isin(machines(table), sorted(self.hardware))

    def half_width(self, table: Table, prediction: Prediction) -> Floats:
        """Return half the width of each row's 90 % interval, in log-cost; NaN where nothing could be calibrated."""
        distance = self.seen.distance(table)
        return self._by_situation(table, lambda found: found.half_width(distance, prediction.spread))

    def widest(self, table: Table) -> Floats:
        """Return the half-width of each row that few of what was left out exceeded; NaN as above."""
        return self._by_situation(table, lambda found: np.full(table.rows, found.widest))

    def gain_half_width(self, table: Table) -> Floats:
        """Return half the 90 % interval of the gain over the default that the foretold best of a context has.

        One figure for each row, by whether its hardware is known; NaN where no gain was ever checked. Rows that look
        bad are foretold worse than this: it is for whom a choice may fall on.
        """
        return np.where(self.is_strange(table), self.on_strange.gain_half_width, self.on_known.gain_half_width)

    def silent(self, table: Table, half_width: Floats) -> Column:
        """Tell which rows belong to contexts of which nothing should be said: too strange, or too unsure.

        Args:
            half_width: of each row's interval.
        """
        usual = np.nan_to_num(self.widest(table), nan=np.inf)
        unsure = context_median(half_width, table.context_index) > np.maximum(WIDEST, usual)
        beyond = np.bincount(table.context_index, weights=self.strange(table)) > 0
        return unsure | beyond[table.context_index]

    def strange(self, table: Table) -> Column:
        """Tell which rows lie so far from all that was seen that nothing should be said of them."""
        distance = self.seen.distance(table)
        return distance > np.nan_to_num(
            self._by_situation(table, lambda c: np.full(table.rows, c.farthest)), nan=np.inf
        )

    def _by_situation(self, table: Table, ask: Callable[[Calibration], Floats]) -> Floats:
        nothing = np.full(table.rows, np.nan)
        strange, known = (
            nothing if one.calibration is None else ask(one.calibration) for one in (self.on_strange, self.on_known)
        )
        return np.where(self.is_strange(table), strange, known)


@dataclass(frozen=True, slots=True, kw_only=True)
class StackHead:
    """A head made of heads.

    Attributes:
        heads: those that may count. rankers: those of them that only rank: their levels mean nothing.
        settled: those that tell known machines apart: of a strange one they know less than others pretend.
        proven: those that need no proof: they alone count where nothing could be left out to prove the others.
        optional: what their `fit` raises when they cannot be had (no torch): they are left out then.
        folds: what is left out by turns to learn the weights.
        gate: which rows are learnt from at all; whoever hears authors (hearing.py) has gated them already.
        breathe: called before each fit of a head; it may take its time while the machine is wanted for other things.
    """

    heads: Sequence[Head]
    rankers: frozenset[str] = frozenset()
    settled: frozenset[str] = frozenset()
    proven: frozenset[str] = frozenset()
    name: str = "ours"
    optional: tuple[Failure, ...] = (ImportError,)
    folds: Callable[[Table, np.random.Generator], Iterable[Column]] = inner_folds
    gate: Callable[[Table], Column] = lambda table: np.ones(table.rows, dtype=np.bool_)
    breathe: Callable[[], None] = lambda: None

    def fit(self, table: Table, target: Floats, weight: Floats, rng: np.random.Generator) -> FittedStack:
        """Learn heads and weights: every head is fitted once for each fold and once on all."""
        ready = prepare(table)
        kept = self.gate(ready)
        if not kept.all():
            ready, target, weight = ready.take(kept), target[kept], weight[kept]
        fitted = [(h, f) for h in self.heads if (f := self._fit(h, ready, target, weight, rng)) is not None]
        heads = [head for head, _ in fitted]
        absolute, anywhere = ~_among(heads, self.rankers), ~_among(heads, self.settled)
        trusted = _among(heads, self.proven)
        left = self._leave_out(heads, ready, target, weight, rng) if ready.rows >= LEAST_ROWS else None
        strange = known = weights.even(absolute, trusted if trusted.any() else anywhere)
        missed = np.full(len(kept), np.nan)
        if left is not None:
            everything = np.ones(len(left.rows), dtype=np.bool_)
            apart = [which if which.any() else everything for which in (left.strange, ~left.strange)]
            # Among one family's devices a left-out one is nearly a known one: it tells nothing of another family.
            several = len(set(labels(ready, "hardware.family"))) > 1
            strange = weights.learn(ready, target, left.among(apart[0]), anywhere, telling=several)
            known = weights.learn(ready, target, left.among(apart[1]))
            away = left.among(left.strange)
            at = np.flatnonzero(kept)[away.rows]
            missed[at] = target[away.rows] - weights.foretell(ready, away, strange)
        return FittedStack(
            heads=[fit for _, fit in fitted], names=tuple(head.name for head in heads), absolute=absolute,
            on_strange=strange, on_known=known, hardware=frozenset(machines(ready).tolist()), seen=Seen.of(ready),
            missed=missed,
        )  # fmt: skip

    def _fit(self, head: Head, table: Table, target: Floats, weight: Floats, rng: np.random.Generator) -> Fitted | None:
        self.breathe()
        try:
            return head.fit(table, target, weight, rng)
        except self.optional:
            return None

    def _leave_out(
        self, heads: Sequence[Head], table: Table, target: Floats, weight: Floats, rng: np.random.Generator
    ) -> LeftOutPredictions | None:
        rows, folds, foretold, distances, strange = [], [], [], [], []
        for number, left in enumerate(self.folds(table, rng)):
            kept = ~left
            if kept.sum() < LEAST_ROWS:
                continue
            train, judge = table.take(kept), table.take(left)
            fits: list[Fitted] = []
            for head in heads:
                self.breathe()
                fits.append(head.fit(train, target[kept], weight[kept], rng))
            rows.append(np.flatnonzero(left))
            folds.append(np.full(judge.rows, number))
            foretold.append(np.stack([fit.predict(judge).mean for fit in fits]))
            distances.append(Seen.of(train).distance(judge))
            strange.append(~np.isin(machines(judge), sorted(set(machines(train).tolist()))))
        if not rows:
            return None
        return LeftOutPredictions(
            rows=np.concatenate(rows), fold=np.concatenate(folds), foretold=np.concatenate(foretold, axis=1),
            distance=np.concatenate(distances), strange=np.concatenate(strange),
            absolute=~_among(heads, self.rankers),
        )  # fmt: skip


def _among(heads: Sequence[Head], names: frozenset[str]) -> NDArray[np.bool_]:
    return np.array([head.name in names for head in heads], dtype=np.bool_)


def machines(table: Table) -> Column:
    """Return the name of each row's hardware; its family, or nothing, where it has none."""
    names = zip(table.words("hardware.name"), table.words("hardware.family"), strict=True)
    return np.array([str(name or family or "") for name, family in names])
