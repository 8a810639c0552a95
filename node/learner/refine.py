"""Strategies between those that were measured: token budget, batch cap and speculation length as numbers, not toggles.

Knows which parameters are continuous and how far they may go; knows no predictor: a cost is a function of a table. A
coarse grid around each given strategy first, then a local search around the best of it (pattern search: Hooke and
Jeeves, 1961), since predictors built of trees have no slope to follow.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np

from node.learner.table import Floats, Table

Values: TypeAlias = Mapping[str, object]  # a row: columns by name

GRID_STEP: Final = 4.0  # factor between points of the grid
FINEST: Final = 1.2  # factor at which the local search ends: 20 % more tokens a step is measurable, 5 % is not
KEPT: Final = 6  # of the grid's best that are searched around
MOST: Final = 4096  # candidates that a search may look at
BETTER: Final = 1e-3  # log-cost; a smaller gain is none


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A whole number of a strategy that may be anything between two bounds, stepped by factors.

    Attributes:
        column: its name. low, high: bounds, both allowed.
        off: value that turns it off, beside the range; None where there is none.
    """

    column: str
    low: int
    high: int
    off: int | None = None

    def grid(self) -> list[int]:
        """Return values from low to high in steps of GRID_STEP, and `off`."""
        count = max(int(np.ceil(np.log(self.high / self.low) / np.log(GRID_STEP))), 1) + 1
        points = {round(value) for value in np.geomspace(self.low, self.high, count)}
        return sorted(points if self.off is None else points | {self.off})

    def near(self, value: float, factor: float) -> list[int]:
        """Return the neighbours at that factor, at least one away; `off` is a neighbour of the lowest."""
        if self.off is not None and value == self.off:
            return [self.low]
        around = {max(round(value * factor), int(value) + 1), min(round(value / factor), int(value) - 1)}
        found = {int(np.clip(each, self.low, self.high)) for each in around} - {int(value)}
        if self.off is not None and value <= self.low:
            found.add(self.off)
        return sorted(found)


# Bounds: below 128 tokens a step is all overhead; above 32 Ki no prompt of the tables needs more. vLLM's own defaults
# lie between. Acceptance of drafted tokens falls off beyond eight.
PARAMETERS: Final = (
    Parameter(column="strategy.max_num_batched_tokens", low=128, high=32768),
    Parameter(column="strategy.max_num_seqs", low=1, high=1024),
    Parameter(column="strategy.speculative_tokens", low=1, high=8, off=0),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refined:
    """What the search found. `rows` are candidates, best first, `cost` their log-costs; the given ones are among them.

    Attributes:
        looked_at: how many candidates were foretold.
    """

    rows: tuple[Values, ...]
    cost: Floats
    looked_at: int


def refine(
    start: Sequence[Values],
    cost: Callable[[Table], Floats],
    *,
    parameters: Sequence[Parameter] = PARAMETERS,
    allowed: Callable[[Values], bool] = lambda _: True,
) -> Refined:
    """Search around given strategies.

    Args:
        start: rows of one context, each with a strategy; at least one.
        cost: log-cost of each row of a table; NaN is infeasible.
        parameters: those that the engine here lets be set; a row without the column is left alone in it.
        allowed: the rules of strategies, which no predictor knows.
    """
    search = _Search(cost=cost, allowed=allowed)
    search.look(start)
    search.look([moved for row in start for moved in _on_grid(row, parameters)])
    factor = np.sqrt(GRID_STEP)
    while factor >= FINEST and len(search.found) < MOST:
        around = [moved for row in search.best(KEPT) for moved in _neighbours(row, parameters, float(factor))]
        if not search.look(around):
            factor = np.sqrt(factor)
    ranked = search.best(len(search.found))
    return Refined(
        rows=tuple(ranked),
        cost=np.array([search.found[_key(row)][0] for row in ranked]),
        looked_at=len(search.found),
    )


class _Search:
    """What was looked at."""

    def __init__(self, *, cost: Callable[[Table], Floats], allowed: Callable[[Values], bool]) -> None:
        self.found: dict[tuple[tuple[str, object], ...], tuple[float, Values]] = {}
        self._cost = cost
        self._allowed = allowed

    def look(self, rows: Sequence[Values]) -> bool:
        """Foretell those that are new; tell whether one is better than all before."""
        new = {_key(row): row for row in rows if _key(row) not in self.found and self._allowed(row)}
        new = dict(list(new.items())[: max(MOST - len(self.found), 0)])
        if not new:
            return False
        before = min((cost for cost, _ in self.found.values()), default=np.inf)
        costs = self._cost(Table.of_rows(new.values(), merged=False))
        costs = np.where(np.isfinite(costs), costs, np.inf)
        self.found |= {key: (float(each), row) for (key, row), each in zip(new.items(), costs, strict=True)}
        return bool(costs.min() < before - BETTER)

    def best(self, count: int) -> list[Values]:
        """Return the cheapest, best first."""
        return [row for _, row in sorted(self.found.values(), key=lambda pair: pair[0])[:count]]


def _on_grid(row: Values, parameters: Sequence[Parameter]) -> list[Values]:
    """Return the row with each pair of parameters on the grid: a budget and a cap are best chosen together."""
    mine = [parameter for parameter in parameters if _number(row, parameter.column) is not None]
    rows: list[Values] = []
    for at, first in enumerate(mine):
        for value in first.grid():
            once = {**row, first.column: value}
            rows.append(once)
            rows += [{**once, other.column: more} for other in mine[at + 1 :] for more in other.grid()]
    return rows


def _neighbours(row: Values, parameters: Sequence[Parameter], factor: float) -> list[Values]:
    return [
        {**row, parameter.column: near}
        for parameter in parameters
        if (value := _number(row, parameter.column)) is not None
        for near in parameter.near(value, factor)
    ]


def _number(row: Values, column: str) -> float | None:
    value = row.get(column)
    return float(value) if isinstance(value, int | float) and np.isfinite(value) else None


def _key(row: Values) -> tuple[tuple[str, object], ...]:
    return tuple(sorted((name, value) for name, value in row.items() if name.startswith("strategy.")))
