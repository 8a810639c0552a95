"""What the node knows: forecasts of outcomes from physics, and from records where there are any that help.

Knows tables, heads, trust and selection, and puts them together for one node; knows no process, file or clock. Made
from nothing it answers by physics alone; `taught` returns another that has learnt. It never half-learns: what cannot
be fitted (too few rows, no library) is left to physics, outcome by outcome.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias

import numpy as np

from node.learner import failure, local, trust
from node.learner import objective as objectives
from node.learner.curves import Cell, Curve, curves
from node.learner.failure import Failures
from node.learner.features import prepare
from node.learner.head import Head
from node.learner.hearing import AUTHOR, Ranks, hear, possible, voices_of
from node.learner.intervals import coverage
from node.learner.methods import stack_of
from node.learner.objective import Objective
from node.learner.prior import PhysicsHead, Prior
from node.learner.select import UNCHECKED, Choice, Forecast, Limits, choose, lossy
from node.learner.stack import FittedStack, StackHead
from node.learner.table import OUTCOME, Floats, Table
from node.learner.trees import advantage_head, residual_head

LEAST_ROWS: Final = 60  # below it, physics and its mean error: a tree on less is noise
# Half-width where nothing was calibrated: physics alone is within a factor 1.8 nine times of ten on machines of which
# the micro-benchmark is known, within 3 on data sheets (docs/learner.md); differences within a context are far closer.
PHYSICS_HALF_WIDTH: Final = 1.1
JUDGED: Final = 5  # one in so many contexts judges the figures that are shown
MOST_ROWS: Final = 200_000  # learnt from; the newest

_COST: Final = objectives.parse("cost")

MakeHeads: TypeAlias = Callable[[Prior, int], Sequence[Head]]  # what to correct, and rows to learn from


@dataclass(frozen=True, slots=True, kw_only=True)
class Learnt:
    """One thing that can be foretold.

    Attributes:
        stack: None where physics alone speaks.
        error_median: of |log error| on contexts that were left out. coverage_90: share within the interval there.
        choice_half_width: half the 90 % interval of differences within a context: what is taken for that of gains over
            the default where none were left out.
        shift: by how much own records say that times differ here; None where heads learnt from them, or there are none.
    """

    prior: Prior
    stack: FittedStack | None = None
    rows: int = 0
    error_median: float | None = None
    coverage_90: float | None = None
    choice_half_width: float = UNCHECKED
    shift: local.Shift | None = None

    @property
    def gain_half_width(self) -> float:
        """Return half the 90 % interval of gains over the default on strange hardware: the harder case."""
        found = float("nan") if self.stack is None else self.stack.on_strange.gain_half_width
        return self.choice_half_width if math.isnan(found) else found

    def ask(self, table: Table) -> tuple[Floats, Floats]:
        """Return log-values and half-widths, both shape (rows,)."""
        off = 0.0 if self.shift is None else self.shift.of(table)
        if self.stack is None:
            return self.prior.log_cost(table) + off, np.full(table.rows, PHYSICS_HALF_WIDTH)
        foretold = self.stack.predict(table)
        width = self.stack.half_width(table, foretold)
        return foretold.mean + off, np.where(np.isnan(width), PHYSICS_HALF_WIDTH, width)

    def choice_width(self, table: Table) -> Floats:
        """Return half the 90 % interval of differences within the rows' context."""
        if self.stack is None:
            return np.full(table.rows, self.choice_half_width)
        found = self.stack.gain_half_width(table)
        return np.where(np.isnan(found), self.choice_half_width, found)

    def silent(self, table: Table, half_width: Floats) -> bool:
        """Tell whether nothing should be said of a context: too strange, or too unsure. Physics says something."""
        return self.stack is not None and bool(np.any(self.stack.silent(table, half_width)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """What to take of some candidates, and what was foretold of each: log-cost and half-widths, (candidates,)."""

    choice: Choice
    forecast: Forecast
    learnt: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Foretold:
    """What is foretold of the candidates of one context, measured there or not.

    Attributes:
        level: half the 90 % interval of the log-costs themselves, shape (candidates,).
        learnt: whether records speak, or physics alone.
        estimated: whether energy in it is device-seconds x watts, because nobody whose records were learnt from has a
            meter.
    """

    forecast: Forecast
    level: Floats
    learnt: bool
    estimated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Brain:
    """What is known now.

    Attributes:
        make_heads: the heads that may learn for choices, physics among them; times for curves are left to trees.
        breathe: called between the fits of a lesson; it may take its time while the machine is wanted for other things.
        learnt: by the name of an objective or outcome.
        rows: that were learnt from. trust: of authors, 0 to 1. failures: what is known of them.
    """

    make_heads: MakeHeads
    breathe: Callable[[], None] = lambda: None
    learnt: Mapping[str, Learnt] = field(default_factory=dict)
    rows: int = 0
    credibility: Mapping[str, float] = field(default_factory=dict)
    failures: Failures = field(default_factory=Failures)

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
        if any(objectives.ENERGY_WORD in goal.weights for goal in wanted) and _COST not in wanted:
            wanted.append(_COST)  # what energy is estimated from where nobody has a meter
        if curves_too:
            wanted += [objectives.outcome(objectives.TTFT), objectives.outcome(objectives.TPOT)]
        kept = table.take(np.arange(max(table.rows - MOST_ROWS, 0), table.rows))
        learnt: dict[str, Learnt] = {}
        credibility: Mapping[str, float] = {}
        for goal in wanted:
            self.breathe()
            learnt[goal.name], found = self._learn(kept, ranks, goal, rng)
            credibility = found or credibility
        failures = failure.learn(kept, _voiced(kept, ranks, credibility), rng)
        return replace(self, learnt=learnt, rows=kept.rows, credibility=credibility, failures=failures)

    def advise(self, candidates: Table, goal: Objective, default: int | None, limits: Limits | None = None) -> Advice:
        """Choose among the rows of one context. Where no limit says how likely they fail, what was learnt does."""
        told = self.foretell(candidates, goal)
        limits = self.limits(candidates, limits or Limits(lossy=lossy(candidates)))
        return Advice(choice=choose(told.forecast, default, limits), forecast=told.forecast, learnt=told.learnt)

    def limits(self, candidates: Table, limits: Limits) -> Limits:
        """Return limits with how likely candidates fail; as learnt, where they do not say."""
        if limits.failure is not None:
            return limits
        return replace(limits, failure=self.failures.probability(candidates))

    def curves(self, cells: Sequence[Cell]) -> list[Curve]:
        """Return curves of cells; of those times that were never learnt, by physics."""
        first = self._of(objectives.outcome(objectives.TTFT))
        each = self._of(objectives.outcome(objectives.TPOT))
        learnt = first.stack is not None and each.stack is not None
        return curves(cells, first.ask, each.ask, learnt=learnt)

    def foretell(self, candidates: Table, goal: Objective) -> Foretold:
        """Return what candidates cost: as learnt for this goal, else put together from what its outcomes are.

        Energy that was never learnt from a meter is estimated by what the cost is foretold to be: the two are never
        mixed.
        """
        estimated = objectives.ENERGY_WORD in goal.weights and not self._metered(goal)
        known = self.learnt.get(goal.name)
        if known is not None and not estimated and goal.promises == objectives.NO_PROMISE:
            cost, level = known.ask(candidates)
            forecast = Forecast(
                cost=cost, half_width=known.choice_width(candidates), abstains=known.silent(candidates, level)
            )
            return Foretold(forecast=forecast, level=level, learnt=known.stack is not None)
        parts = {name: self._of(objectives.outcome(name)) for name in goal.targets(lambda _: True)}
        if estimated:
            parts[objectives.ENERGY] = self._of(_COST)
        asked = {name: known.ask(candidates) for name, known in parts.items()}
        drawn = {name: np.exp(value) for name, (value, _) in asked.items()}
        if estimated:
            numbers = candidates.numbers
            drawn[objectives.ENERGY] *= objectives.watts(numbers) / objectives.price(numbers)
        cost = goal.log_cost(lambda name: drawn[name] if name in drawn else _numbers(candidates, name))
        forecast = Forecast(
            cost=cost,
            half_width=np.max([known.choice_width(candidates) for known in parts.values()], axis=0),
            abstains=any(known.silent(candidates, asked[name][1]) for name, known in parts.items()),
        )
        return Foretold(
            forecast=forecast,
            level=np.max([width for _, width in asked.values()], axis=0),
            learnt=all(known.stack is not None for known in parts.values()),
            estimated=estimated,
        )

    def _metered(self, goal: Objective) -> bool:
        """Tell whether energy in a goal was learnt from meters."""
        names = (goal.name, objectives.ENERGY_WORD, objectives.ENERGY)
        return any((known := self.learnt.get(name)) is not None and known.stack is not None for name in names)

    def _of(self, goal: Objective) -> Learnt:
        """Return what is known of a goal; what was never learnt, physics knows. One objective alone is its outcome."""
        same = {objectives.LATENCY: "latency", objectives.ENERGY: objectives.ENERGY_WORD}.get(goal.name, goal.name)
        return self.learnt.get(same) or self.learnt.get(goal.name) or _physics(goal)

    def _learn(
        self, table: Table, ranks: Ranks, goal: Objective, rng: np.random.Generator
    ) -> tuple[Learnt, Mapping[str, float]]:
        target = goal.of(table)
        there = np.flatnonzero(np.isfinite(target) & possible(table, ranks))
        told, target = prepare(table.take(there)), target[there]
        told, target = _foretellable(told, target, Prior.of(goal, told))
        own = local.few(told, ranks, AUTHOR)
        if told.rows - own.sum() < LEAST_ROWS:
            own = np.zeros(told.rows, dtype=np.bool_)  # too little beside them: then they are what heads learn from
        mine, mine_target = told.take(own), target[own]
        if told.rows < LEAST_ROWS:
            return _physics(goal, mine, mine_target), {}
        prior = Prior.of(goal, told)
        heard = hear(told, target, prior, ranks, rng).without(own)
        if len(heard.rows) < LEAST_ROWS:
            return _physics(goal, mine, mine_target), heard.credibility
        rows, target, weight = told.take(heard.rows), target[heard.rows], heard.weight
        heads = self.make_heads(prior, rows.rows) if goal.is_choice else trees(prior, rows.rows)
        head = replace(stack_of(heads), breathe=self.breathe)
        judged = _judged(head, rows, target, weight, rng)
        stack = head.fit(rows, target, weight, rng)
        shift = None
        if mine.rows:
            shift = local.shift(
                mine,
                mine_target - stack.predict(mine).mean,
                lambda: local.learn_scales(rows, stack.missed),
            )
        return replace(judged, prior=prior, stack=stack, rows=rows.rows, shift=shift), heard.credibility


def _foretellable(table: Table, target: Floats, prior: Prior) -> tuple[Table, Floats]:
    """Return the rows of which physics says anything at all: one that it chokes on must not spoil what others say."""
    said = np.isfinite(prior.log_cost(table)) if table.rows else np.ones(0, dtype=np.bool_)
    return (table, target) if said.all() else (table.take(said), target[said])


def _physics(goal: Objective, mine: Table | None = None, target: Floats | None = None) -> Learnt:
    """Return physics, and how far off it was on own records."""
    prior = Prior(objective=goal, outcomes=frozenset(_ALL_OUTCOMES))
    if mine is None or target is None or not mine.rows:
        return Learnt(prior=prior)
    return Learnt(prior=prior, shift=local.shift(mine, target - prior.log_cost(mine)))


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
    return [PhysicsHead(prior=prior), residual_head(prior), advantage_head(prior)]


def _choice_width(table: Table, error: Floats) -> float:
    """Return nine tenths of how far differences within a context were foretold wrong; physics' own where none are."""
    where = table.context_index
    counts = np.bincount(where)
    several = counts[where] > 1
    if several.sum() < LEAST_ROWS:
        return UNCHECKED
    inner = error - (np.bincount(where, weights=error) / counts)[where]
    return float(np.quantile(np.abs(inner[several]), 0.9) * np.sqrt(2))


def _voiced(table: Table, ranks: Ranks, credibility: Mapping[str, float]) -> Floats:
    """Return what rows count as evidence of failures: their authors were judged by what they measured."""
    if not table.has(AUTHOR):
        return np.ones(table.rows)
    voices = voices_of(table, ranks)
    believed = np.array([credibility.get(name, 1.0) for name in voices.author])
    return trust.capped(voices, trust.prior(voices) * believed**trust.STRICTNESS)
