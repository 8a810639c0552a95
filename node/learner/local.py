"""What a node's first own records say of its machine: how far off forecasts are there, as a level that ranks nothing.

Knows errors of forecasts that had not learnt from those records, and columns of contexts; knows no head and no author's
worth. Theory: a forecast's error on a machine is a level of the machine, plus a part of the context (alike in contexts
that are alike), plus noise of the row; normal each (a Gaussian process with a constant, Rasmussen and Williams, 2006,
section 2.7). How large these are is learnt from machines that were left out of the swarm's records: where the swarm's
forecasts hold on new machines (one vendor, micro-benchmarks known) a first record hardly moves them, where they miss
by factors it moves them nearly all the way. Heads do not learn from so few records: on the measured tables that made
both times and choices worse than leaving them out, and a correction that differs by strategy would be the same thing.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from node.learner.features import context_mean
from node.learner.table import Floats, Table

ENOUGH: Final = 60  # own records from which on heads learn from them as from others'
# Contexts are alike whose lengths, loads and model sizes are within half a power of e. Open loads are unlike closed.
ALIKE: Final = 0.5
WHERE: Final = (
    "workload.prompt_tokens", "workload.output_tokens", "workload.concurrency", "workload.requests_per_s",
    "model.parameters",
)  # fmt: skip
UNKNOWN: Final = 100.0  # on the log scale: like nothing but the unknown
# Before any machine was left out: physics is within a factor 1.8 nine times of ten (docs/learner.md).
PRIOR_MACHINE, PRIOR_CONTEXT, PRIOR_ROW = 0.3, 0.15, 0.1  # standard deviations, log-seconds
PRIOR_MACHINES: Final = 0.25  # as if so many machines had shown it
LEAST_ROW: Final = 0.02  # log-seconds: nothing repeats better
OUTLIER: Final = 3.0  # standard deviations, beyond which one record's error counts as that
_MAD: Final = 1.4826


@dataclass(frozen=True, slots=True, kw_only=True)
class Scales:
    """Variances of the parts of an error, log-seconds squared."""

    machine: float = PRIOR_MACHINE**2
    context: float = PRIOR_CONTEXT**2
    row: float = PRIOR_ROW**2


@dataclass(frozen=True, slots=True, kw_only=True)
class Shift:
    """What to add to forecasts.

    Attributes:
        hardware: the name of the machine that it is of.
        points: contexts of own records, shape (records, columns). pull: of each, shape (records,).
    """

    hardware: str
    points: Floats
    pull: Floats
    scales: Scales

    def of(self, table: Table) -> Floats:
        """Return the correction of each row, log-seconds, shape (rows,); nothing on other machines.

        It is the same for all rows of a context: no choice changes by it.
        """
        here = np.array([str(name or "") == self.hardware for name in table.words("hardware.name")], dtype=np.bool_)
        shared = self.scales.machine + self.scales.context * _likeness(_places(table), self.points)
        return np.where(here, shared @ self.pull, 0.0)


def few(table: Table, ranks: Mapping[str, str], author: str) -> NDArray[np.bool_]:
    """Tell which rows are own records too few to be learnt from by heads; none where there are ENOUGH.

    Args:
        author: the column that names authors.
    """
    own = np.array([ranks.get(str(name)) == "own" for name in table.words(author)], dtype=np.bool_)
    return own & (own.sum() < ENOUGH)


def shift(own: Table, error: Floats, scales: Callable[[], Scales] = Scales) -> Shift | None:
    """Learn a correction from errors (observed less foretold) on own records; None where there is no record.

    `scales` is asked only where there is one: it may be dear. Of records on several machines only those on the one
    with the most count: a node is one machine.
    """
    if not own.rows:
        return None
    names, code = np.unique([str(name or "") for name in own.words("hardware.name")], return_inverse=True)
    main = int(np.argmax(np.bincount(code)))
    sizes, points = scales(), _places(own)[code == main]
    most = OUTLIER * float(np.sqrt(sizes.machine + sizes.context + sizes.row))
    shared = sizes.machine + sizes.context * _likeness(points, points)
    pull = np.linalg.solve(shared + sizes.row * np.eye(len(points)), np.clip(error[code == main], -most, most))
    return Shift(hardware=str(names[main]), points=points, pull=pull.astype(np.float64), scales=sizes)


def learn_scales(table: Table, missed: Floats) -> Scales:
    """Learn how far forecasts miss on machines that were left out.

    Args:
        missed: observed less foretold, log-cost, shape (rows,); NaN where a row's machine was not left out.
    """
    known = np.isfinite(missed)
    if not known.any():
        return Scales()
    error, rows = missed[known], table.take(known)
    machines, code = np.unique([str(name or "") for name in rows.words("hardware.name")], return_inverse=True)
    level = np.array([np.median(error[code == each]) for each in range(len(machines))])
    rest = error - level[code]
    apart = float(((level - np.median(level)) ** 2).sum())
    inner = context_mean(rest, rows.context_index)
    return Scales(
        machine=(apart + PRIOR_MACHINES * PRIOR_MACHINE**2) / (len(machines) + PRIOR_MACHINES),
        context=(_MAD * float(np.median(np.abs(inner)))) ** 2,
        row=max(_MAD * float(np.median(np.abs(rest - inner))), LEAST_ROW) ** 2,
    )


def _places(table: Table) -> Floats:
    raw = np.stack([table.numbers(name) for name in WHERE], axis=1)
    return np.nan_to_num(np.log(np.where(raw > 0, raw, np.nan)), nan=UNKNOWN)


def _likeness(upper: Floats, lower: Floats) -> Floats:
    """Return how alike contexts are, 0 to 1, shape (upper, lower)."""
    apart = ((upper[:, None, :] - lower[None, :, :]) ** 2).sum(axis=-1)
    return np.exp(-apart / (2 * ALIKE**2))
