"""What this very machine measured of some candidates, put together with what is foretold of them.

Knows a forecast, its uncertainty and rows of measurements; knows no head, no record and no clock. Theory: candidate i
costs m_i + e_i, where m is foretold and e its error, normal and independent, of such variances that differences to the
default are as unsure as the forecast says. Rows that were measured side by side make a group: each is a group's level,
which is nobody's business (flat prior), plus the candidate's cost, plus noise. That is a linear Gaussian model, solved
exactly (Rasmussen and Williams, 2006, section 2.1); the level drops out as in a randomised block design, so that a run
on a loaded machine harms nobody who was in it. No row, and the forecast stays; many, and they are all that counts.

A surprise speaks of all: where measurements miss the forecast by more than it admits, the rest of it is believed less,
too. How much a row says at all is `speaking`'s.
"""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from node.learner import objective as objectives
from node.learner import speaking
from node.learner.objective import Objective
from node.learner.select import LEAST_SIGMA, NORMAL_90, Forecast, Mask
from node.learner.table import Floats, Ints, Table

LEVEL_NOISE: Final = 0.1  # log-cost by which one context's level differs from run to run
DEGREES: Final = 4.0  # of freedom of Student's t: one row that contradicts all others is an accident
UNKNOWN_WIDTH: Final = 10.0  # log-cost: a factor of twenty thousand either way
ROUNDS: Final = 4  # of weighing rows by how far off they are; it settles in two or three
MOST_SURPRISE: Final = 25.0  # times the forecast's variance
DOUBT: Final = 2.0  # as if so many measurements had come as foretold
# A row of less weight than that does not count as measured: it is a month old, or its prompts are twice as long.
SPEAKS: Final = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Joint:
    """Costs of all candidates, normal: shape (candidates,) each; those in `known` depend on each other.

    Attributes:
        shared: covariances of `known`, shape (known, known).
    """

    mean: Floats
    variance: Floats
    known: Ints
    shared: Floats

    def gains_over(self, reference: int) -> tuple[Floats, Floats]:
        """Return log-cost saved against one candidate, and the standard deviations of these very differences."""
        shared = np.zeros(len(self.mean))
        if reference in self.known:
            shared[self.known] = self.shared[int(np.flatnonzero(self.known == reference)[0])]
        variance = self.variance + self.variance[reference] - 2 * shared
        sigma = np.sqrt(np.maximum(variance, LEAST_SIGMA**2))
        sigma[reference] = LEAST_SIGMA
        return self.mean[reference] - self.mean, sigma


@dataclass(frozen=True, slots=True, kw_only=True)
class Weighed:
    """Forecast and measurements together. Arrays are of shape (candidates,).

    Attributes:
        measured: how many rows of own trials speak of each.
        failed: which did not come up, or broke down, here and lately.
        level: half of the 90 % interval of the log-cost itself.
        by_joules: whether energy, where it is asked for, was compared by meters; None where nothing was compared.
    """

    forecast: Forecast
    joint: Joint
    measured: Ints
    failed: Mask
    level: Floats
    by_joules: bool | None = None


def weigh(  # noqa: PLR0913 -- a forecast, what was measured, and what was asked
    forecast: Forecast,
    level: Floats,
    candidates: Table,
    evidence: Table | None,
    goal: Objective,
    *,
    default: int | None,
    now_s: float,
) -> Weighed:
    """Put a forecast of one context together with own measurements.

    Args:
        level: half of the 90 % interval of the forecast's log-costs, shape (candidates,).
        evidence: rows of the observation table, outcomes included; of any context.
        default: which candidate the forecast's half-widths are differences to.
        now_s: seconds since 1970.
    """
    prior = _prior(forecast, default)
    count = len(forecast.cost)
    nothing = Weighed(
        forecast=forecast,
        joint=Joint(mean=forecast.cost, variance=prior, known=np.zeros(0, np.int64), shared=np.zeros((0, 0))),
        measured=np.zeros(count, dtype=np.int64),
        failed=np.zeros(count, dtype=np.bool_),
        level=level,
    )
    if evidence is None or not evidence.rows:
        return nothing
    rows = evidence.take(speaking.same(candidates, evidence))
    which = speaking.which_of(candidates, rows)
    age = np.maximum(now_s - rows.numbers(speaking.TIME) * speaking.MICRO, 0.0)
    failed = speaking.failed_of(rows, which, age, count)
    cost, by_joules = _costs(goal, rows)
    far = speaking.distance(candidates.take(np.zeros(rows.rows, dtype=np.int64)), rows)
    speaks = (which >= 0) & np.isfinite(cost) & (far < speaking.FARTHEST) & ~speaking.broken(rows)
    speaks &= np.isfinite(forecast.cost[np.maximum(which, 0)])
    if not speaks.any():
        return replace(nothing, failed=failed)
    told = _Told(rows.take(speaks), goal, which[speaks], cost[speaks], far[speaks], age[speaks])
    joint = told.update(forecast.cost, prior)
    shift, level = told.level(joint, level)
    joint = replace(joint, mean=joint.mean + shift)
    return Weighed(
        forecast=replace(forecast, cost=joint.mean, half_width=_half_widths(joint, default)),
        joint=joint,
        measured=told.trials(count),
        failed=failed,
        level=level,
        by_joules=by_joules,
    )


def _costs(goal: Objective, rows: Table) -> tuple[Floats, bool | None]:
    """Return log-costs, and whether energy among them was measured; joules and estimates are never compared."""
    measured = goal.of(rows)
    if objectives.ENERGY_WORD not in goal.weights:
        return measured, None
    if np.isfinite(measured).any():
        return measured, True
    return goal.log_cost(objectives.by_power(rows.numbers)), False


# --- what they say together


class _Told:
    """Rows that speak: of which candidate, what it cost, and how unsure each is."""

    def __init__(self, rows: Table, goal: Objective, which: Ints, cost: Floats, far: Floats, age: Floats) -> None:
        self.which, self.cost, self.far = which, cost, far
        self.trial = rows.words("record.origin") != "traffic"
        likeness = np.exp(-((far / speaking.REACH) ** 2) / 2)
        fresh = np.exp2(-np.where(np.isnan(age), speaking.AGE_HALVES_S, age) / speaking.AGE_HALVES_S)
        self.weight = likeness**2 * fresh
        noise = np.where(
            self.trial, speaking.noise(rows, goal), np.maximum(speaking.noise(rows, goal), speaking.TRAFFIC_NOISE)
        )
        # Of traffic the levels differ as the workloads do: it was not measured side by side.
        drift = np.where(self.trial, speaking.DRIFT, 1.0) * far
        self.variance = (noise**2 + drift**2) / self.weight
        self.group = speaking.groups(rows, self.trial)

    def trials(self, count: int) -> Ints:
        """Return how many trials speak of each candidate."""
        loud = self.trial & (self.weight >= SPEAKS) & self._compared()
        return np.bincount(self.which[loud], minlength=count).astype(np.int64)

    def _compared(self) -> Mask:
        """Return which rows stand beside a row of another strategy."""
        pairs = np.unique(np.column_stack([self.group, self.which]), axis=0)
        return np.bincount(pairs[:, 0], minlength=int(self.group.max()) + 1)[self.group] > 1

    def update(self, cost: Floats, prior: Floats) -> Joint:
        """Return what is thought of all candidates now."""
        known, place = np.unique(self.which, return_inverse=True)
        variance, widened = self.variance, 1.0
        shift, shared = np.zeros(len(known)), np.diag(prior[known])
        for _ in range(ROUNDS):
            widened = self._surprise(cost, prior, variance)
            weights = self._precision(variance, place, len(known))
            missed = self._pull(variance, place, len(known), self.cost - cost[self.which])
            shared = np.linalg.inv(np.diag(1 / (prior[known] * widened)) + weights).astype(np.float64)
            shift = shared @ missed
            rest = self._centred(variance, self.cost - cost[self.which] - shift[place])
            variance = self.variance * (DEGREES + rest**2 / self.variance) / (DEGREES + 1)
            variance = np.maximum(variance, self.variance)
        mean, spread = cost.copy(), prior * widened
        mean[known] += shift
        spread[known] = np.diag(shared)
        return Joint(mean=mean, variance=spread, known=known, shared=shared)

    def level(self, joint: Joint, level: Floats) -> tuple[float, Floats]:
        """Return what to add to all log-costs, and half-widths of these: measured levels against the forecast's."""
        off = self.cost - joint.mean[self.which]
        apart = self.variance + LEVEL_NOISE**2 + self.far**2
        width = float(np.nanmedian(level)) / NORMAL_90
        sure = 1 / np.array([np.mean(apart[self.group == each]) for each in np.unique(self.group)])
        mean = np.array([np.mean(off[self.group == each]) for each in np.unique(self.group)])
        total = sure.sum() + 1 / width**2
        return float(sure @ mean / total), NORMAL_90 * np.sqrt(1 / total + joint.variance)

    def _surprise(self, cost: Floats, prior: Floats, variance: Floats) -> float:
        """Return by what the forecast's variances are too small, going by what was measured; at least 1."""
        found, count = 0.0, 0
        for each in np.unique(self.group):
            rows = np.flatnonzero(self.group == each)
            members, first = np.unique(self.which[rows], return_index=True)
            if len(members) < 2:
                continue
            off = (self.cost - cost[self.which])[rows[first]]
            spread = prior[members] + variance[rows[first]]
            mean = np.average(off, weights=1 / spread)
            found += float((((off - mean) ** 2) / spread).sum())
            count += len(members) - 1
        return float(np.clip((found + DOUBT) / (count + DOUBT), 1.0, MOST_SURPRISE))

    def _precision(self, variance: Floats, place: Ints, count: int) -> Floats:
        """Return what the rows add to the precision of costs, shape (count, count): the groups' levels are left out."""
        found = np.zeros((count, count))
        for each in np.unique(self.group):
            rows = np.flatnonzero(self.group == each)
            sure = 1 / variance[rows]
            held = np.bincount(place[rows], weights=sure, minlength=count)
            found += np.diag(held) - np.outer(held, held) / sure.sum()
        return found

    def _pull(self, variance: Floats, place: Ints, count: int, missed: Floats) -> Floats:
        centred = self._centred(variance, missed)
        return np.bincount(place, weights=centred / variance, minlength=count).astype(np.float64)

    def _centred(self, variance: Floats, values: Floats) -> Floats:
        """Return values less the mean of their group, weighted by how sure they are."""
        sure = np.bincount(self.group, weights=1 / variance)
        mean = np.bincount(self.group, weights=values / variance) / np.where(sure > 0, sure, 1.0)
        return values - mean[self.group]


def _prior(forecast: Forecast, default: int | None) -> Floats:
    """Return variances of single costs: so that differences to the default are as unsure as the forecast says."""
    # Of what nobody can say how unsure it is, nothing is known; but infinities cannot be inverted.
    half = np.nan_to_num(forecast.half_width, nan=UNKNOWN_WIDTH, posinf=UNKNOWN_WIDTH)
    whole = np.maximum(half / NORMAL_90, LEAST_SIGMA) ** 2
    if default is None:
        return whole / 2
    own = float(np.min(whole)) / 2
    found = whole - own
    found[default] = own
    return found


def _half_widths(joint: Joint, default: int | None) -> Floats:
    if default is None:
        return NORMAL_90 * np.sqrt(2 * joint.variance)
    _, sigma = joint.gains_over(default)
    sigma[default] = np.sqrt(2 * joint.variance[default])  # as a rival's: it is foretold no better than they are
    return NORMAL_90 * sigma
