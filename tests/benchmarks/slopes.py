"""Whether something grows: the slope of samples over time with its 95 % confidence interval, against a bound.

Pure. Several series (nodes, and runs that were broken off) have one slope and each its own height. Neighbouring samples
resemble each other, so an interval from all of them would be too narrow: they are averaged in blocks first, and the
blocks are what is counted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, sqrt
from statistics import fmean

from scipy import stats

BLOCKS = 8  # of each series: enough for a slope, and each still of many samples
CONFIDENCE = 0.95

Series = Sequence[tuple[float, float]]  # seconds, and what was read then


@dataclass(frozen=True, slots=True, kw_only=True)
class Slope:
    """Per hour, with the interval that it lies in."""

    value: float
    low: float
    high: float

    def against(self, bound: float) -> str:
        """Tell what is shown of a bound: `within`, `beyond`, or `undecided`."""
        if self.high <= bound:
            return "within"
        return "beyond" if self.low > bound else "undecided"


def slope(series: Mapping[str, Series], *, blocks: int = BLOCKS) -> Slope:
    """Return the slope that all series have in common; an interval without end where there are too few samples."""
    hours: list[float] = []
    values: list[float] = []
    degrees = -1
    for samples in series.values():
        means = _blocks(samples, blocks)
        if len(means) < 2:
            continue
        middle = fmean(at for at, _ in means), fmean(value for _, value in means)
        hours += [(at - middle[0]) / 3600 for at, _ in means]
        values += [value - middle[1] for _, value in means]
        degrees += len(means) - 1
    spread = sum(at * at for at in hours)
    if degrees < 1 or not spread:
        return Slope(value=0.0, low=-inf, high=inf)
    value = sum(at * each for at, each in zip(hours, values, strict=True)) / spread
    left = sum((each - value * at) ** 2 for at, each in zip(hours, values, strict=True))
    margin = float(stats.t.ppf((1 + CONFIDENCE) / 2, degrees)) * sqrt(left / degrees / spread)
    return Slope(value=value, low=value - margin, high=value + margin)


def without(series: Mapping[str, Series], cause: Mapping[str, Series]) -> dict[str, list[tuple[float, float]]]:
    """Return the series less what goes up and down with a cause that was read at the same moments.

    How much that is, is found beside the growth with time, so that a cause that grows too takes none of it.
    """
    rows: list[tuple[float, float, float]] = []  # time, cause, value: each about the middle of its series
    middles: dict[str, float] = {}
    for name, samples in series.items():
        times, causes = [at for at, _ in samples], [value for _, value in cause[name]]
        heights = [value for _, value in samples]
        middles[name] = fmean(causes)
        rows += zip(*([each - fmean(column) for each in column] for column in (times, causes, heights)), strict=True)
    tt, cc = sum(t * t for t, _, _ in rows), sum(c * c for _, c, _ in rows)
    tc, tv, cv = sum(t * c for t, c, _ in rows), sum(t * v for t, _, v in rows), sum(c * v for _, c, v in rows)
    left = tt * cc - tc * tc
    weight = (tt * cv - tc * tv) / left if left else 0.0
    return {
        name: [
            (at, value - weight * (each - middles[name]))
            for (at, value), (_, each) in zip(samples, cause[name], strict=True)
        ]
        for name, samples in series.items()
    }


def _blocks(samples: Series, blocks: int) -> list[tuple[float, float]]:
    size = max(1, len(samples) // blocks)
    cut = [samples[at : at + size] for at in range(0, len(samples) - size + 1, size)]
    return [(fmean(at for at, _ in block), fmean(value for _, value in block)) for block in cut]
