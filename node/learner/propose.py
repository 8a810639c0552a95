"""A proposal for one context: strategies ranked by what they would cost, with those between the ones that are known.

Knows a brain, the search between strategies and the choice; knows no table file and no screen. Features say how a row
differs from the others of its context, and what was learnt stands on contexts of measured strategies. So each strategy
that the search looks at is judged as one more among the given ones, and not among its own kind.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from node.learner.brain import Brain
from node.learner.objective import NO_PROMISE, Objective
from node.learner.refine import BETTER, PARAMETERS, Parameter, Values, refine
from node.learner.select import LEAST_GAIN, Choice, Forecast, Limits, choose, feasible, lossy
from node.learner.table import CONTEXT, STRATEGY, Floats, Table, stack

NAME: Final = "strategy.name"
IS_DEFAULT: Final = "strategy.is_default"
BUDGET: Final = "strategy.max_num_batched_tokens"
SEATS: Final = "strategy.max_num_seqs"
DRAFTED: Final = "strategy.speculative_tokens"
SHORT: Final = {BUDGET: "budget", SEATS: "seqs", DRAFTED: "drafted"}  # as names of strategies have it
AMONG: Final = 24  # given strategies that each one looked at is judged among: as many as a measured context has
LOOKED_OVER: Final = 32  # of the search's best, made plainer
FOUND: Final = 4  # of those that are proposed: the rest are their neighbours
WORTH: Final = LEAST_GAIN  # log-cost by which one that is found must beat all given: else a known number is as good
BLOCK_ROWS: Final = 16_384  # judged at once: 60 MB of features
# The search takes the cheapest of hundreds, none of which was ever measured: what lies between two that were may err by
# as much again as these do.
UNMEASURED: Final = float(np.sqrt(2))


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """Strategies of one context, as they were given and then those that were found between them.

    Attributes:
        table: the rows, shape (rows,); those found have no outcome and no name of their own.
        names: for people. given: how many were given: the first ones.
        forecast: log-cost and the half-width of differences. level: half the 90 % interval of the log-cost itself;
            NaN where that is not known.
        choice: what is taken; `default` the engine's own, None where none was given.
        failure: foretold probability. lossy: which change answers. learnt: False where physics alone speaks.
        looked_at: how many strategies were foretold.
    """

    table: Table
    names: tuple[str, ...]
    given: int
    forecast: Forecast
    level: Floats
    choice: Choice
    default: int | None
    failure: Floats
    lossy: NDArray[np.bool_]
    learnt: bool
    looked_at: int

    @property
    def order(self) -> list[int]:
        """The rows, cheapest first."""
        return [int(at) for at in np.argsort(self.forecast.cost, kind="stable")]

    def gain(self, row: int) -> tuple[float, float, float] | None:
        """Return what a row saves against the default, as log-cost: foretold, at least and at most; 90 % certain."""
        if self.default is None:
            return None
        if row == self.default:
            return 0.0, 0.0, 0.0
        saved = float(self.forecast.cost[self.default] - self.forecast.cost[row])
        half = float(self.forecast.half_width[row])
        return saved, saved - half, saved + half


def propose(
    brain: Brain,
    given: Sequence[Values],
    goal: Objective,
    *,
    lossy_allowed: bool = False,
    parameters: Sequence[Parameter] = PARAMETERS,
) -> Proposal:
    """Rank the strategies of one context and those between them, and choose.

    Args:
        given: rows of one context, each with a strategy; at least one.
        parameters: numbers of a strategy that may lie between given ones; none for no search.
    """
    rows = [{name: value for name, value in row.items() if name != CONTEXT} for row in given]
    start = _one_context(rows)
    default = next((int(at) for at in np.flatnonzero(start.is_default)), None)
    first = brain.advise(start, goal, None)
    judge = _Judge(brain, goal, start, first.forecast.cost, default)
    known, failure = first.forecast.cost, brain.failures.probability(start)
    fits = feasible(Limits(failure=failure, lossy=lossy(start), lossy_allowed=lossy_allowed), start.rows, default)
    best = float(np.nanmin(np.where(fits, known, np.inf)))
    found, looked_at = _between(judge, rows, parameters, best - WORTH)
    whole = _one_context([*rows, *(row for row, _ in found)])
    widest = float(first.forecast.half_width.max())
    half = np.append(first.forecast.half_width, [widest * UNMEASURED for _ in found])
    forecast = replace(
        first.forecast, cost=np.append(first.forecast.cost, [cost for _, cost in found]), half_width=half
    )
    failure, changes = brain.failures.probability(whole), lossy(whole)
    limits = Limits(failure=failure, lossy=changes, lossy_allowed=lossy_allowed)
    names = [str(name) for name in start.choice_names]
    return Proposal(
        table=whole,
        names=(*names, *(_named(row, rows, names, parameters) for row, _ in found)),
        given=len(rows),
        forecast=forecast,
        level=_level(brain, goal, whole),
        choice=choose(forecast, default, limits),
        default=default,
        failure=failure,
        lossy=changes,
        learnt=first.learnt,
        looked_at=looked_at,
    )


class _Judge:
    """Says what strategies cost, each as one more among the given."""

    def __init__(self, brain: Brain, goal: Objective, given: Table, cost: Floats, default: int | None) -> None:
        order = [int(at) for at in np.argsort(cost, kind="stable") if at != default]
        chosen = ([] if default is None else [default]) + order
        self._brain, self._goal = brain, goal
        self._given = given.take(np.array(chosen[:AMONG]))
        self._alone = cost[chosen[:AMONG]]

    def cost(self, asked: Table) -> Floats:
        """Return the log-cost of each row, shape (rows,)."""
        size = self._given.rows + 1
        blocks = np.array_split(np.arange(asked.rows), max(-(-asked.rows * size // BLOCK_ROWS), 1))
        return np.concatenate([self._block(asked.take(block)) for block in blocks if len(block)])

    def _block(self, asked: Table) -> Floats:
        known, count = self._given.rows, asked.rows
        both = stack(self._given, asked)
        rows = np.concatenate([np.tile(np.arange(known), (count, 1)), known + np.arange(count)[:, None]], axis=1)
        table = replace(both.take(rows.reshape(-1)), contexts=np.repeat(np.arange(count), known + 1))
        cost = self._brain.advise(table, self._goal, None).forecast.cost.reshape(count, known + 1)
        # One more in the context moves the height of all: what it moves the given by is taken off.
        return cost[:, -1] - (cost[:, :-1] - self._alone).mean(axis=1)


def _between(
    judge: _Judge, rows: Sequence[Values], parameters: Sequence[Parameter], below: float
) -> tuple[list[tuple[Values, float]], int]:
    """Return the best strategies between the given ones, those below a log-cost, and how many were looked at."""
    if not parameters:
        return [], 0
    bare = [{name: value for name, value in row.items() if name not in (NAME, IS_DEFAULT)} for row in rows]
    known, allowed = {_key(row) for row in bare}, _rule(rows)
    searched = refine(bare, judge.cost, parameters=parameters, allowed=allowed)
    best = [(row, float(cost)) for row, cost in zip(searched.rows, searched.cost, strict=True) if cost < below]
    plain = _plainer(
        judge, [pair for pair in best if _key(pair[0]) not in known][:LOOKED_OVER], bare, parameters, allowed
    )
    found = {_key(row): (row, cost) for row, cost in reversed(plain) if _key(row) not in known and cost < below}
    kept: list[tuple[Values, float]] = []
    for row, cost in sorted(found.values(), key=lambda pair: pair[1]):
        if len(kept) < FOUND and (not kept or cost > kept[-1][1] + BETTER):  # of equals the first
            kept.append((row, cost))
    return kept, searched.looked_at


def _plainer(
    judge: _Judge,
    found: Sequence[tuple[Values, float]],
    rows: Sequence[Values],
    parameters: Sequence[Parameter],
    allowed: Callable[[Values], bool],
) -> list[tuple[Values, float]]:
    """Return what was found with the numbers of a given strategy wherever those are as good: a search leaves noise."""
    kept = [(row, cost, rows[_nearest(row, rows, parameters)]) for row, cost in found]
    for column in [parameter.column for parameter in parameters]:
        tried = [{**row, column: near[column]} if column in near else row for row, _, near in kept]
        if not tried:
            break
        costs = judge.cost(Table.of_rows(tried, merged=False)).tolist()
        kept = [
            (plain, cost, near) if cost <= before + BETTER and allowed(plain) else (row, before, near)
            for (row, before, near), plain, cost in zip(kept, tried, costs, strict=True)
        ]
    return [(row, cost) for row, cost, _ in kept]


def _rule(rows: Sequence[Values]) -> Callable[[Values], bool]:
    """Return what says whether an engine would start with a strategy: the rules of vLLM that numbers can break.

    Without chunked prefill a prompt must fit into one step: budgets only grow from those that are known to do.
    """
    whole = [value for row in rows if row.get("strategy.chunked_prefill") in (0, False) if (value := _at(row, BUDGET))]
    least = min(whole, default=0.0)

    def allowed(row: Values) -> bool:
        budget, seats = _at(row, BUDGET), _at(row, SEATS)
        if budget is not None and seats is not None and budget < seats:
            return False
        if row.get("strategy.speculation") and _at(row, DRAFTED) == 0:
            return False
        return budget is None or row.get("strategy.chunked_prefill") not in (0, False) or budget >= least

    return allowed


def _named(row: Values, rows: Sequence[Values], names: Sequence[str], parameters: Sequence[Parameter]) -> str:
    """Name a strategy that was found by the given one that it differs least from, and the numbers it has instead."""
    at = _nearest(row, rows, parameters)
    changed = [each.column for each in parameters if row.get(each.column) != rows[at].get(each.column)]
    return f"{names[at]} with " + ", ".join(f"{SHORT.get(n, n.removeprefix(STRATEGY))}={row.get(n)}" for n in changed)


def _nearest(row: Values, rows: Sequence[Values], parameters: Sequence[Parameter]) -> int:
    """Return which given strategy has all but the fewest numbers of a row."""
    columns = [parameter.column for parameter in parameters]

    def apart(at: int) -> tuple[bool, int]:
        other = rows[at]
        rest = {n for n in {*row, *other} if n.startswith(STRATEGY) and n not in (NAME, IS_DEFAULT, *columns)}
        return any(row.get(n) != other.get(n) for n in rest), sum(row.get(n) != other.get(n) for n in columns)

    return min(range(len(rows)), key=apart)


def _level(brain: Brain, goal: Objective, table: Table) -> Floats:
    """Return half-widths of what rows cost; NaN where the goal was not learnt as such but put together."""
    known = brain.learnt.get(goal.name)
    if known is None or goal.promises != NO_PROMISE:
        return np.full(table.rows, np.nan)
    return known.ask(table)[1]


def _one_context(rows: Sequence[Values]) -> Table:
    return Table.of_rows([{**row, CONTEXT: 0} for row in rows], merged=False)


def _at(row: Values, column: str) -> float | None:
    value = row.get(column)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _key(row: Values) -> tuple[tuple[str, object], ...]:
    return tuple(sorted((name, value) for name, value in row.items() if name.startswith(STRATEGY)))
