"""How far a context lies from all that was seen: model, hardware and workload apart, so that it can be said of which.

Knows columns and their spread over what was seen; knows no prediction. A distance of 1 is that between any two that
were seen (the median of all pairs): what lies so far from the nearest is as strange as another kind altogether.
Neighbours would be no measure: half of all machines have a twin under another name.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from node.learner.table import Floats, Ints, Table

PARTS: Final = ("model", "hardware", "workload")
# Names and texts tell apart what numbers already do; of two machines with equal numbers, the name is no distance.
_NAMES: Final = frozenset(
    {"model.name", "model.family", "hardware.name", "hardware.family", "workload.text", "workload.kind"}
)
SEEN_MOST: Final = 4096  # distinct workloads that distances are taken to; beyond it, evenly chosen ones
FLOOR: Final = 0.05  # of a column's spread: all that was seen may be twins
PAIRED: Final = 512  # points, evenly chosen, whose distances to each other are taken
LEAST_WIDTH: Final = 0.25  # log units of a column: where all seen are within a few percent, a third is no abyss
_PAIRS: Final = 1 << 20  # distances computed at once


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """One part of the contexts that were seen.

    Attributes:
        columns: that distances are taken in, numbers on a log scale.
        middle, width: of each, shape (columns,).
        points: distinct ones, standardised, shape (points, columns).
        unit: median distance between two of them.
    """

    columns: tuple[str, ...]
    middle: Floats
    width: Floats
    points: Floats
    unit: float

    @staticmethod
    def of(part: str, table: Table) -> "_Part":
        names = (name for name in sorted(table.columns) if name.startswith(f"{part}.") and name not in _NAMES)
        columns = tuple(name for name in names if table.columns[name].dtype != object and _varies(table.numbers(name)))
        raw = _logs(table, columns)
        middle = np.nanmedian(raw, axis=0) if columns else np.zeros(0)
        width = np.maximum(np.nanstd(raw, axis=0), LEAST_WIDTH) if columns else np.zeros(0)
        points = np.unique(_filled((raw - middle) / width), axis=0) if columns else np.zeros((1, 0))
        if len(points) > SEEN_MOST:
            points = points[np.linspace(0, len(points) - 1, SEEN_MOST).astype(int)]
        unit = _unit(points) if columns and len(points) > 1 else 1.0
        return _Part(columns=columns, middle=middle, width=width, points=points, unit=max(unit, FLOOR))

    def distance(self, table: Table) -> Floats:
        if not self.columns:
            return np.zeros(table.rows)
        where = (_logs(table, self.columns) - self.middle) / self.width
        distinct, back = np.unique(where, axis=0, return_inverse=True, equal_nan=False)
        near = np.zeros(len(distinct))
        known = ~np.isnan(distinct)
        for pattern in np.unique(known, axis=0):  # a column of which nothing is known is no distance
            rows = np.flatnonzero((known == pattern).all(axis=1))
            near[rows] = _nearest(distinct[np.ix_(rows, pattern)], self.points[:, pattern])
        return (near / self.unit)[back.reshape(-1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """All that was seen, as points that distances are taken to."""

    parts: Mapping[str, _Part]
    words: Mapping[str, frozenset[str]]

    @staticmethod
    def of(table: Table) -> "Seen":
        """Remember the contexts of a table."""
        words = {name: frozenset(str(word) for word in table.words(name) if word is not None) for name in _NAMES}
        return Seen(parts={part: _Part.of(part, table) for part in PARTS}, words=words)

    def distances(self, table: Table) -> Mapping[str, Floats]:
        """Return each part's distance to the nearest that was seen, shape (rows,), in units of what was seen."""
        return {part: seen.distance(table) for part, seen in self.parts.items()}

    def distance(self, table: Table) -> Floats:
        """Return the distance of whole contexts, shape (rows,): the root of the parts' squares."""
        return np.sqrt(np.sum([each**2 for each in self.distances(table).values()], axis=0))

    def unheard(self, table: Table, column: str) -> NDArray[np.bool_]:
        """Tell which rows have a name, family or kind that was never seen; the unknown is not unheard of."""
        known = self.words.get(column, frozenset())
        return np.array([word is not None and str(word) not in known for word in table.words(column)], dtype=bool)


def _varies(column: Floats) -> bool:
    known = column[~np.isnan(column)]
    return len(known) > 0 and bool(np.ptp(known) > 0)


def _logs(table: Table, columns: tuple[str, ...]) -> Floats:
    """Return columns as logs, shape (rows, columns); what may be nothing or negative is shifted by its sign."""
    if not columns:
        return np.zeros((table.rows, 0))
    raw = np.stack([table.numbers(name) for name in columns], axis=1)
    return np.sign(raw) * np.log1p(np.abs(raw))


def _filled(standard: Floats) -> Floats:
    return np.where(np.isnan(standard), 0.0, standard)  # the unknown lies in the middle


def _unit(points: Floats) -> float:
    some = points[np.linspace(0, len(points) - 1, min(len(points), PAIRED)).astype(int)]
    return float(np.median(np.sqrt(_squares(some, some)[np.triu_indices(len(some), k=1)])))


def _nearest(points: Floats, seen: Floats) -> Floats:
    near = np.empty(len(points))
    for rows in _blocks(len(points), len(seen)):
        near[rows] = np.sqrt(_squares(points[rows], seen).min(axis=1))
    return near


def _blocks(count: int, against: int) -> list[Ints]:
    size = max(_PAIRS // max(against, 1), 1)
    return [np.arange(at, min(at + size, count)) for at in range(0, count, size)]


def _squares(upper: Floats, lower: Floats) -> Floats:
    crossed = (upper**2).sum(1)[:, None] + (lower**2).sum(1)[None, :] - 2 * upper @ lower.T
    return np.maximum(crossed, 0.0)
