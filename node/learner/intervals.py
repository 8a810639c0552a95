"""How wrong a prediction may be: 90 % intervals from groups that were left out, and when to say nothing.

Knows errors that were made on groups (hardware families, architectures) of which the predictor had seen nothing; knows
no head. Conformal in the way of Lee, Barber and Willett (2023, hierarchical conformal prediction): each group counts as
one voice, however many rows it has. Plain split conformal takes rows of one group for independent: measured here, its
"90 %" covered 67 % of an unseen GPU. Two things more, both learnt from the left-out groups:

- the error grows with distance and with the heads' disagreement: errors are divided by a scale fitted to these;
- one group is harder than another, and the next may be harder than all: the interval is widened by how unlike the
  groups' own errors are, with Student's t for how few they are.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from node.learner.table import Floats

LEVEL: Final = 0.9
LEAST_ERROR: Final = 1e-3  # log-seconds: nothing is foretold better than to 0.1 %, and a zero has no logarithm
# Between groups, before anything is known: half of all groups within a factor 1.25 of the typical error.
PRIOR_UNLIKE: Final = 0.33
PRIOR_GROUPS: Final = 2.0  # as if so many groups had shown it
STEEPEST: Final = 1.0  # power of distance or spread; beyond it the fit would be of noise
RIDGE_GROUPS: Final = 5.0  # pull to "no matter", in groups
# Nothing is said where an interval is wider than nearly all of those on left-out groups, or beyond twice their
# distance: there not even the interval is known to hold. Within, a wide interval says enough.
WIDE_SHARE: Final = 0.95
WIDE_FACTOR: Final = 1.25
FAR_FACTOR: Final = 2.0
_T_POINTS: Final = 81
_WIDEST: Final = 12.0  # log-seconds, a factor of 160,000: as good as unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What left-out groups taught.

    Attributes:
        base: log of the scale of an error at distance 0 and spread 1.
        by_distance, by_spread: powers by which the scale grows.
        factor: scale to half-width.
        widest: half-width beyond which nothing should be said.
        farthest: distance beyond which nothing should be said.
    """

    base: float
    by_distance: float
    by_spread: float
    factor: float
    widest: float
    farthest: float

    def half_width(self, distance: Floats, spread: Floats | None = None) -> Floats:
        """Return half the interval's width in log-seconds, shape (rows,)."""
        return np.minimum(np.exp(self._log_scale(distance, spread)) * self.factor, _WIDEST)

    def _log_scale(self, distance: Floats, spread: Floats | None) -> Floats:
        return self.base + _drivers(distance, spread) @ np.array([self.by_distance, self.by_spread])


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """Errors on rows of groups that were left out.

    Attributes:
        error: observed minus foretold, log-seconds, shape (rows,); NaN rows are left out here.
        group: the group of each row, shape (rows,).
        distance: to what was seen without that group, shape (rows,).
        spread: the heads' disagreement, log-seconds, shape (rows,); None where there is none.
    """

    error: Floats
    group: NDArray[np.object_]
    distance: Floats
    spread: Floats | None = None


def calibrate(found: LeftOut, level: float = LEVEL) -> Calibration:
    """Learn widths so that a new group's rows are covered with probability `level`.

    Raises:
        ValueError: no row has an error.
    """
    known = np.isfinite(found.error)
    if not known.any():
        raise ValueError("no left-out row to calibrate on")
    error = np.maximum(np.abs(found.error[known]), LEAST_ERROR)
    _, group = np.unique(found.group[known].astype(str), return_inverse=True)
    voice = 1.0 / np.bincount(group)[group]  # each group one voice
    distance = found.distance[known]
    spread = None if found.spread is None else found.spread[known]
    drivers = _drivers(distance, spread)
    powers, base = _powers(np.log(error), drivers, voice)
    score = error / np.exp(base + drivers @ powers)
    calibration = Calibration(
        base=base,
        by_distance=float(powers[0]),
        by_spread=float(powers[1]),
        factor=_factor(score, group, voice, level),
        widest=_WIDEST,
        farthest=np.inf,
    )
    widths = calibration.half_width(distance, spread)
    farthest = FAR_FACTOR * float(distance.max())
    return Calibration(
        base=base,
        by_distance=calibration.by_distance,
        by_spread=calibration.by_spread,
        factor=calibration.factor,
        widest=WIDE_FACTOR * quantile(widths, voice, WIDE_SHARE),
        farthest=farthest if farthest > 0 else np.inf,
    )


def coverage(error: Floats, half_width: Floats) -> float:
    """Return the share of errors within their interval; NaN where there is none."""
    known = np.isfinite(error)
    return float(np.mean(np.abs(error[known]) <= half_width[known])) if known.any() else float("nan")


def _drivers(distance: Floats, spread: Floats | None) -> Floats:
    """Return what scales an error, shape (rows, 2): log of one plus distance, log of the spread (0 where none)."""
    disagreement = np.zeros_like(distance) if spread is None else np.log(np.maximum(spread, LEAST_ERROR))
    return np.stack([np.log1p(distance), disagreement], axis=1)


def _powers(log_error: Floats, drivers: Floats, voice: Floats) -> tuple[Floats, float]:
    """Fit log-errors to their drivers: never falling, never steeper than STEEPEST, pulled to zero.

    Coordinate descent; two coordinates settle in a few rounds.
    """
    share = voice / voice.sum()
    middle = share @ drivers
    centred, target = drivers - middle, log_error - share @ log_error
    weight = voice.sum() * share  # sums to the number of groups
    powers = np.zeros(2)
    for _ in range(50):
        for at in range(2):
            rest = target - centred @ powers + centred[:, at] * powers[at]
            curvature = weight @ centred[:, at] ** 2 + RIDGE_GROUPS * 0.01
            powers[at] = np.clip((weight * centred[:, at]) @ rest / curvature, 0.0, STEEPEST)
    return powers, float(share @ log_error - middle @ powers)


def _factor(score: Floats, group: NDArray[np.int64], voice: Floats, level: float) -> float:
    """Return the factor that covers a new group's scores with probability `level`.

    A new group's scores are the pooled ones, each group brought to the typical scale, times a scale of its own: that
    is log-Student around the typical one, as wide as the groups differ.
    """
    groups = int(group.max()) + 1
    own = np.array([np.log(quantile(score[group == each], voice[group == each], level)) for each in range(groups)])
    typical = float(own.mean())
    unlike = float(((own - typical) ** 2).sum())
    variance = (unlike + PRIOR_GROUPS * PRIOR_UNLIKE**2) / (max(groups - 1, 0) + PRIOR_GROUPS)
    points = (np.arange(_T_POINTS) + 0.5) / _T_POINTS
    freedom = max(groups - 1, 0) + PRIOR_GROUPS
    shifts = stats.t.ppf(points, df=freedom) * np.sqrt(variance * (1 + 1 / groups))
    level_scores = score / np.exp(own[group] - typical)
    order = np.argsort(level_scores)
    ordered, mass = level_scores[order], np.cumsum(voice[order]) / voice.sum()

    def covered(factor: float) -> float:
        at = np.searchsorted(ordered, factor / np.exp(shifts), side="right")
        return float(np.mean(np.where(at > 0, mass[np.maximum(at - 1, 0)], 0.0)))

    low, high = 1e-6, float(ordered[-1] * np.exp(shifts[-1]))
    for _ in range(60):
        middle = np.sqrt(low * high)
        low, high = (middle, high) if covered(middle) < level else (low, middle)
    return float(high)


def quantile(values: Floats, voice: Floats, level: float) -> float:
    """Return the least value that a share `level` of the voices does not exceed."""
    order = np.argsort(values)
    mass = np.cumsum(voice[order]) / voice.sum()
    return float(values[order][min(int(np.searchsorted(mass, level)), len(values) - 1)])
