"""What answers cost, made comparable: the log of a time, less what its lengths and the load of the moment explain.

Knows answers as numbers; knows no strategy, no engine and nothing of what was said. All costs are natural logarithms:
a difference of 0.02 is two per cent. An answer is held against what an answer of its lengths, at its rate of arrivals,
took before the switch; the rule for that is fitted on the answers before alone: what comes after cannot bend it.
The load is the number of arrivals shortly before, not the number that run: a slow engine makes the latter grow itself.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import exp, log, log1p, sqrt
from statistics import fmean, median, pstdev
from typing import Final, TypeAlias

from node.core.workload import Timed

MICRO: Final = 1_000_000
RECENT: Final = 60.0  # s before an arrival in which others count as its load: longer than most answers
# Strength of the prior that a feature explains nothing, in answers (ridge): with a dozen answers it halves what was
# fitted, with 256 it is not felt.
PRIOR: Final = 8.0
ROUNDS: Final = 4  # of reweighting; Huber's estimate moves by less than a per cent afterwards
HUBER: Final = 1.345  # sd beyond which an answer pulls less: 95 % efficient where noise is normal (Huber, 1964)
MAD_TO_SD: Final = 1.4826  # of a normal
LEAST_SD: Final = 0.05  # log-cost; quieter than any engine is, and guards against a handful of equal answers
NEAR: Final = log(1.5)  # how far beyond the lengths and loads seen before the rule is still believed
MOVED: Final = 3.5  # standard errors: three features, looked at now and again
LEAST_SPREAD: Final = 0.1  # of a feature (a logarithm): equal prompts before say little of how far the next may be
ARRIVALS: Final = 2  # which feature they are
CLIP: Final = 3.0  # sd at which a residual is cut: one answer that hung does not decide alone, before or after
MOST_CORRELATED: Final = 0.8  # of neighbouring answers; more would leave one answer of nine

Features: TypeAlias = tuple[float, ...]  # log1p of prompt tokens, output tokens, recent arrivals
Matrix: TypeAlias = list[list[float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One answer as a point: what may explain its costs, and the costs themselves (log of seconds).

    Attributes:
        stall: None where it came in one piece, or never stalled.
    """

    features: Features
    latency: float
    stall: float | None = None


def samples(answers: Sequence[Timed], earlier: Sequence[Timed] = ()) -> list[Sample]:
    """Return the points of answers, in order of their ends. `earlier` ones count as load only."""
    begins = sorted(each.began for each in (*earlier, *answers))
    points: list[Sample] = []
    for each in sorted(answers, key=lambda each: each.at):
        one = each.measured
        if one.latency <= 0:
            continue
        load = _between(begins, each.began - RECENT, each.began)
        features = (log1p(one.prompt_tokens or 0), log1p(one.output_tokens or 0), log1p(load))
        stall = log(one.stall / MICRO) if one.stall else None
        points.append(Sample(features=features, latency=log(one.latency / MICRO), stall=stall))
    return points


def busy_s(answers: Sequence[Timed]) -> float:
    """Return the seconds in which at least one of these was being answered."""
    total, until = 0.0, float("-inf")
    for each in sorted(answers, key=lambda each: each.began):
        total += max(each.at - max(each.began, until), 0.0)
        until = max(until, each.at)
    return total


def _between(ordered: Sequence[float], low: float, high: float) -> int:
    return bisect_left(ordered, high) - bisect_left(ordered, low)


@dataclass(frozen=True, slots=True, kw_only=True)
class Usual:
    """What answers took before, given their features.

    Attributes:
        middle: mean features, and `spread`: their standard deviations. slopes: log-cost for each. level: at the middle.
        sd: of what is left. correlation: of neighbours in it, at least 0.
        count: answers that it was fitted on. effective: as many independent ones.
        low, high: of each feature.
        upper: the 90 % quantile of what is left; `beyond`: the share of the answers before that lie above it.
    """

    middle: Features
    spread: Features
    level: float
    slopes: Features
    sd: float
    correlation: float
    count: int
    low: Features
    high: Features
    upper: float
    beyond: float

    @property
    def effective(self) -> float:
        """How many independent answers would tell as much (of an autoregressive series of first order)."""
        return max(self.count * (1 - self.correlation) / (1 + self.correlation), 1.0)

    def left(self, features: Features, cost: float) -> float:
        """Return what of a cost its features do not explain, cut at some standard deviations."""
        return _cut(cost - self.level - self._explained(features), CLIP * self.sd)

    def raw(self, features: Features, cost: float) -> float:
        """Return the same, uncut."""
        return cost - self.level - self._explained(features)

    def knows(self, features: Features) -> bool:
        """Tell whether such answers were seen before."""
        return all(
            low - NEAR <= value <= high + NEAR for value, low, high in zip(features, self.low, self.high, strict=True)
        )

    def moved(self, after: Sequence[Features]) -> bool:
        """Tell whether prompts of other lengths come than before, in the mean, or more of them: another workload.

        Fewer arrivals say nothing: who waits for an answer before asking on comes less often to a slow engine.
        """
        for at, (middle, spread) in enumerate(zip(self.middle, self.spread, strict=True)):
            apart = fmean(features[at] for features in after) - middle
            error = max(spread, LEAST_SPREAD) * sqrt(1 / len(after) + 1 / self.count)
            if (apart if at == ARRIVALS else abs(apart)) > max(NEAR, MOVED * error):
                return True
        return False

    def _explained(self, features: Features) -> float:
        return sum(
            slope * (value - middle) for slope, value, middle in zip(self.slopes, features, self.middle, strict=True)
        )


def usual(points: Sequence[tuple[Features, float]]) -> Usual:
    """Fit what is usual on (features, cost) of answers in their order; at least two.

    Robust regression by Huber's weights with a ridge: a handful of answers moves the level, hardly the slopes.
    """
    width, count = len(points[0][0]), len(points)
    middle = tuple(fmean(features[at] for features, _ in points) for at in range(width))
    centred = [[value - mean for value, mean in zip(features, middle, strict=True)] for features, _ in points]
    costs = [cost for _, cost in points]
    level, slopes, spread = median(costs), [0.0] * width, 0.0
    weights = [1.0] * count
    for _ in range(ROUNDS):
        level, slopes = _fit(centred, costs, weights)
        rest = [cost - level - sum(map(_times, slopes, row)) for cost, row in zip(costs, centred, strict=True)]
        spread = max(MAD_TO_SD * median(abs(value - median(rest)) for value in rest), LEAST_SD)
        weights = [min(1.0, HUBER * spread / abs(value)) if value else 1.0 for value in rest]
    rest = [cost - level - sum(map(_times, slopes, row)) for cost, row in zip(costs, centred, strict=True)]
    kept = [_cut(value, CLIP * spread) for value in rest]
    # The mean of what is left is taken out, so that means before and after are of one kind.
    shift = fmean(kept)
    sd = max((sum((value - shift) ** 2 for value in kept) / max(count - 1 - width, 1)) ** 0.5, LEAST_SD)
    ordered = sorted(rest)
    upper = ordered[min(int(0.9 * count), count - 1)]
    return Usual(
        middle=middle,
        spread=tuple(pstdev(features[at] for features, _ in points) for at in range(width)),
        level=level + shift,
        slopes=tuple(slopes),
        sd=sd,
        correlation=_correlation(kept, shift),
        count=count,
        low=tuple(min(features[at] for features, _ in points) for at in range(width)),
        high=tuple(max(features[at] for features, _ in points) for at in range(width)),
        upper=upper - shift,
        beyond=sum(value > upper for value in rest) / count,
    )


def typical(points: Sequence[Sample]) -> float:
    """Return the seconds that an answer takes, in the middle of these; at least one."""
    return exp(median(point.latency for point in points))


def _fit(rows: Matrix, costs: Sequence[float], weights: Sequence[float]) -> tuple[float, list[float]]:
    """Return level and slopes of least squares, weighted; slopes are drawn towards 0 by the prior."""
    width, total = len(rows[0]), sum(weights)
    level = sum(map(_times, weights, costs)) / total
    means = [sum(weight * row[at] for weight, row in zip(weights, rows, strict=True)) / total for at in range(width)]
    spreads = [
        max(sum(weight * (row[at] - means[at]) ** 2 for weight, row in zip(weights, rows, strict=True)) / total, 1e-6)
        for at in range(width)
    ]
    square = [
        [
            sum(
                weight * (row[one] - means[one]) * (row[two] - means[two])
                for weight, row in zip(weights, rows, strict=True)
            )
            + (PRIOR * max(spreads[one], 0.01) if one == two else 0.0)
            for two in range(width)
        ]
        for one in range(width)
    ]
    right = [
        sum(
            weight * (row[at] - means[at]) * (cost - level)
            for weight, row, cost in zip(weights, rows, costs, strict=True)
        )
        for at in range(width)
    ]
    slopes = _solved(square, right)
    return level - sum(map(_times, slopes, means)), slopes


def _solved(square: Matrix, right: Sequence[float]) -> list[float]:
    """Solve a small, positive definite system (the prior makes it so) by elimination."""
    size = len(right)
    rows = [[*row, value] for row, value in zip(square, right, strict=True)]
    for at in range(size):
        for below in range(at + 1, size):
            share = rows[below][at] / rows[at][at]
            rows[below] = [value - share * above for value, above in zip(rows[below], rows[at], strict=True)]
    found = [0.0] * size
    for at in reversed(range(size)):
        known = sum(rows[at][other] * found[other] for other in range(at + 1, size))
        found[at] = (rows[at][size] - known) / rows[at][at]
    return found


def _correlation(values: Sequence[float], mean: float) -> float:
    """Return the correlation of neighbours, between 0 and a bound, drawn to 0 where there are few."""
    spread = sum((value - mean) ** 2 for value in values)
    if spread <= 0 or len(values) < 3:
        return 0.0
    pairs = pairwise(values)
    found = sum((one - mean) * (two - mean) for one, two in pairs) / spread
    return min(max(found * len(values) / (len(values) + PRIOR), 0.0), MOST_CORRELATED)


def _cut(value: float, most: float) -> float:
    return min(max(value, -most), most)


def _times(one: float, two: float) -> float:
    return one * two
