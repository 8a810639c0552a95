"""What the node knows: forecasts of outcomes from physics, and from records where there are any that help.

Knows tables, heads, trust and selection, and puts them together for one node; knows no process, file or clock. Made
from nothing it answers by physics alone; `taught` returns another that has learnt. It never half-learns: what cannot
be fitted (too few rows, no library) is left to physics, outcome by outcome.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from node.learner import objective as objectives
from node.learner import trust
from node.learner.curves import Cell, Curve, curves
from node.learner.groups import labels
from node.learner.head import Head
from node.learner.intervals import coverage
from node.learner.objective import Objective
from node.learner.prior import PhysicsHead, Prior
from node.learner.select import Choice, Forecast, Limits, choose, lossy
from node.learner.stack import FittedStack, StackHead
from node.learner.table import OUTCOME, Floats, Ints, Table
from node.learner.trees import Growth, TreesHead, advantage_head, residual_head
from node.learner.trust import Standing, Voices

AUTHOR: Final = "record.author"
LEAST_ROWS: Final = 60  # below it, physics and its mean error: a tree on less is noise
# Half-width where nothing was calibrated: physics alone is within a factor 1.8 nine times of ten on machines of which
# the micro-benchmark is known, within 3 on data sheets (docs/learner.md); differences within a context are far closer.
PHYSICS_HALF_WIDTH: Final = 1.1
PHYSICS_CHOICE_HALF_WIDTH: Final = 0.25
QUICK: Final = Growth(rounds=60, rate=0.1, leaves=15, huber=0.3, near=0.0, bags=1)  # to find liars by: many fits
JUDGED: Final = 5  # one in so many contexts judges the figures that are shown
MOST_ROWS: Final = 200_000  # learnt from; the newest

MakeHeads: TypeAlias = Callable[[Prior, int], Sequence[Head]]  # what to correct, and rows to learn from
Ranks: TypeAlias = Mapping[str, Standing]  # author to standing; who is not in it is unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class Learnt:
    """One thing that can be foretold.

    Attributes:
        stack: None where physics alone speaks.
        error_median: of |log error| on contexts that were left out. coverage_90: share within the interval there.
        choice_half_width: half the 90 % interval of differences within a context.
    """

    prior: Prior
    stack: FittedStack | None = None
    rows: int = 0
    error_median: float | None = None
    coverage_90: float | None = None
    choice_half_width: float = PHYSICS_CHOICE_HALF_WIDTH

    def ask(self, table: Table) -> tuple[Floats, Floats]:
        """Return log-values and half-widths, both shape (rows,)."""
        if self.stack is None:
            return self.prior.log_cost(table), np.full(table.rows, PHYSICS_HALF_WIDTH)
        foretold = self.stack.predict(table)
        width = self.stack.half_width(table, foretold)
        return foretold.mean, np.where(np.isnan(width), PHYSICS_HALF_WIDTH, width)

    def choice_width(self, table: Table) -> Floats:
        """Return half the 90 % interval of differences within the rows' context: wider far from what was learnt."""
        calibration = None if self.stack is None else self.stack.calibration
        if self.stack is None or calibration is None:
            return np.full(table.rows, self.choice_half_width)
        return self.choice_half_width * (1 + self.stack.seen.distance(table)) ** calibration.by_distance

    def forecast(self, table: Table) -> Forecast:
        """Return what candidates of one context cost."""
        return Forecast(cost=self.ask(table)[0], half_width=self.choice_width(table), abstains=self.strange(table))

    def strange(self, table: Table) -> bool:
        """Tell whether the rows lie beyond what was learnt. Physics alone has no such place."""
        return self.stack is not None and bool(np.asarray(self.stack.strange(table)).any())


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """What to take of some candidates, and what was foretold of each: log-cost and half-widths, (candidates,)."""

    choice: Choice
    forecast: Forecast
    learnt: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Brain:
    """What is known now.

    Attributes:
        make_heads: the heads that may learn for choices; times for curves are left to trees.
        learnt: by the name of an objective or outcome.
        rows: that were learnt from. trust: of authors, 0 to 1.
    """

    make_heads: MakeHeads
    learnt: Mapping[str, Learnt] = field(default_factory=dict)
    rows: int = 0
    credibility: Mapping[str, float] = field(default_factory=dict)

    def taught(
        self,
        table: Table,
        ranks: Ranks,
        goals: Iterable[Objective],
        rng: np.random.Generator,
        *,
        curves_too: bool = True,
    ) -> "Brain":
        """Return a brain that has learnt from records.

        Args:
            table: records, repeats apart; what it lacks for a goal leaves that goal to physics.
            goals: objectives that choices are made by.
            curves_too: learn times to first token and per token as well.
        """
        wanted = list(goals)
        if curves_too:
            wanted += [objectives.outcome(objectives.TTFT), objectives.outcome(objectives.TPOT)]
        kept = table.take(np.arange(max(table.rows - MOST_ROWS, 0), table.rows))
        learnt: dict[str, Learnt] = {}
        credibility: Mapping[str, float] = {}
        for goal in wanted:
            learnt[goal.name], found = self._learn(kept, ranks, goal, rng)
            credibility = found or credibility
        return replace(self, learnt=learnt, rows=kept.rows, credibility=credibility)

    def advise(self, candidates: Table, goal: Objective, default: int | None, limits: Limits | None = None) -> Advice:
        """Choose among the rows of one context."""
        forecast, learnt = self._foretell(goal, candidates)
        limits = limits or Limits(lossy=lossy(candidates))
        return Advice(choice=choose(forecast, default, limits), forecast=forecast, learnt=learnt)

    def curves(self, cells: Sequence[Cell]) -> list[Curve]:
        """Return curves of cells."""
        first = self._of(objectives.outcome(objectives.TTFT))
        each = self._of(objectives.outcome(objectives.TPOT))
        return curves(cells, first.ask, each.ask)

    def _foretell(self, goal: Objective, candidates: Table) -> tuple[Forecast, bool]:
        """Return what candidates cost: as learnt for this goal, else put together from what its outcomes are."""
        known = self.learnt.get(goal.name)
        if known is not None and goal.promises == objectives.NO_PROMISE:
            return known.forecast(candidates), known.stack is not None
        parts = {name: self._of(objectives.outcome(name)) for name in goal.targets(lambda _: True)}
        drawn = {name: np.exp(known.ask(candidates)[0]) for name, known in parts.items()}
        cost = goal.log_cost(lambda name: drawn[name] if name in drawn else _numbers(candidates, name))
        return Forecast(
            cost=cost,
            half_width=np.max([known.choice_width(candidates) for known in parts.values()], axis=0),
            abstains=any(known.strange(candidates) for known in parts.values()),
        ), all(known.stack is not None for known in parts.values())

    def _of(self, goal: Objective) -> Learnt:
        """Return what is known of a goal; what was never learnt, physics knows. Latency alone is its outcome."""
        same = "latency" if goal.name == objectives.LATENCY else goal.name
        return self.learnt.get(same) or self.learnt.get(goal.name) or _physics(goal)

    def _learn(
        self, table: Table, ranks: Ranks, goal: Objective, rng: np.random.Generator
    ) -> tuple[Learnt, Mapping[str, float]]:
        target = goal.of(table)
        there = np.flatnonzero(np.isfinite(target))
        if len(there) < LEAST_ROWS:
            return _physics(goal), {}
        rows, target = table.take(there), target[there]
        prior = Prior.of(goal, rows)
        weight, credibility = _weights(rows, target, prior, ranks, rng)
        heads = self.make_heads(prior, len(there)) if goal.is_choice else trees(prior, len(there))
        head = StackHead(heads=[PhysicsHead(prior=prior), *heads])
        judged = _judged(head, rows, target, weight, rng)
        stack = head.fit(rows, target, weight, rng)
        return replace(judged, prior=prior, stack=stack, rows=len(there)), credibility


def _physics(goal: Objective) -> Learnt:
    return Learnt(prior=Prior(objective=goal, outcomes=frozenset(_ALL_OUTCOMES)))


def _numbers(table: Table, name: str) -> Floats:
    return np.full(table.rows, np.nan) if name.startswith(OUTCOME) else table.numbers(name)


def _judged(head: StackHead, table: Table, target: Floats, weight: Floats, rng: np.random.Generator) -> Learnt:
    """Return figures of a fit on four fifths of the contexts, judged on the last: what `status` shows."""
    each = np.unique(table.contexts)
    left = np.isin(table.contexts, rng.choice(each, size=len(each) // JUDGED, replace=False))
    figures = Learnt(prior=Prior(objective=objectives.outcome(objectives.LATENCY), outcomes=frozenset()))
    if left.sum() == 0 or (~left).sum() < LEAST_ROWS:
        return figures
    stack = head.fit(table.take(~left), target[~left], weight[~left], rng)
    judge = table.take(left)
    foretold = stack.predict(judge)
    error, width = target[left] - foretold.mean, stack.half_width(judge, foretold)
    return replace(
        figures,
        error_median=float(np.median(np.abs(error))),
        coverage_90=coverage(error, width) if np.isfinite(width).all() else None,
        choice_half_width=_choice_width(judge, error),
    )


_ALL_OUTCOMES: Final = (
    objectives.LATENCY,
    objectives.LATENCY_P95,
    objectives.STALL,
    objectives.TTFT,
    objectives.TPOT,
    objectives.THROUGHPUT,
    objectives.ENERGY,
    objectives.DEVICE_SECONDS,
)


def trees(prior: Prior, _rows: int) -> Sequence[Head]:
    """Return the heads of a worker without torch: one that foretells times, one that foretells which row is best."""
    return [residual_head(prior), advantage_head(prior)]


def _choice_width(table: Table, error: Floats) -> float:
    """Return nine tenths of how far differences within a context were foretold wrong; physics' own where none are."""
    where = table.context_index
    counts = np.bincount(where)
    several = counts[where] > 1
    if several.sum() < LEAST_ROWS:
        return PHYSICS_CHOICE_HALF_WIDTH
    inner = error - (np.bincount(where, weights=error) / counts)[where]
    return float(np.quantile(np.abs(inner[several]), 0.9) * np.sqrt(2))


def _weights(
    table: Table, target: Floats, prior: Prior, ranks: Ranks, rng: np.random.Generator
) -> tuple[Floats, Mapping[str, float]]:
    """Return the rows' weights and their authors' credibility. Observations, which nobody signed, count alike."""
    if not table.has(AUTHOR):
        return np.ones(table.rows), {}
    author = np.array([str(name or "") for name in table.words(AUTHOR)], dtype=object)
    voices = Voices(
        author=author,
        gpu=labels(table, "hardware.name"),
        standing=np.array([ranks.get(name, "unknown") for name in author], dtype=object),
        context=table.context_index,
    )
    quick = TreesHead(name="quick", prior=prior, centred=False, growth=QUICK)

    def foretell(learn: Ints, weight: Floats, ask: Ints) -> Floats:
        heard: NDArray[np.bool_] = weight > 0
        fitted = quick.fit(table.take(learn[heard]), target[learn[heard]], weight[heard], rng)
        return fitted.predict(table.take(ask)).mean

    found = trust.weigh(voices, target, foretell, rng)
    return np.maximum(found.weight, 1e-6), found.credibility
