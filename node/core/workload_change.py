"""Whether traffic is another than it was: samples of what was, a rank test, and the least that counts.

Knows numbers and their names; knows no clock and no prompt. A feature has changed when what came last ranks so far
above or below what was that luck would not do it, and when the difference is large enough to matter for a strategy.
The rank test (Mann and Whitney's, against quantiles of the earlier sample) asks nothing of the distributions, and one
huge prompt is one rank. What is tested is said in words with figures, so that a person can follow it.

The load is two features that move together or did not move: a faster engine has fewer prompts at once at the same rate,
or answers more of them with as many at once. Only both together say that somebody wants more.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Final

KEPT: Final = 32  # quantiles of a sample: a rank is off by 1.5 % at most
TESTS: Final = 6  # features that are looked at: Bonferroni's correction divides by as many
# Of one look at all features, when nothing changed. A look each minute for 100 hours makes 6,000 of them, of which
# those within one stretch of answers are nearly one; the least difference, and the second look, do the rest.
FALSE_ALARM: Final = 0.003
FACTOR: Final = 1.5  # that a length, or the load, has to change by: the learner's forecast moves little for less
TOGETHER: Final = 1.2  # and that the other half of the load has to follow by
SHARE: Final = 0.2  # that a share has to change by
LEAST_LENGTHS: Final = 30  # answers, and gaps, that a change may be read off
LEAST_SHARES: Final = 6  # sampled answers, and readings of counters; of fewer, no ranks are beyond luck


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Numbers as they are kept: how many, their mean, and `KEPT` quantiles at most, ascending."""

    count: int = 0
    mean: float = 0.0
    quantiles: tuple[float, ...] = ()

    @property
    def median(self) -> float:
        """The middle one; 0 of none."""
        return self.quantiles[(len(self.quantiles) - 1) // 2] if self.quantiles else 0.0


NONE: Final = Sample()


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """What a workload's features were, as far as they are compared.

    Attributes:
        prompt, output: tokens of each answer.
        gaps: seconds between arrivals, without breaks.
        running: prompts at the engine when another came, it included.
        copied, prefix: shares: of sampled answers, and of the engine's counters a minute.
    """

    prompt: Sample = field(default_factory=Sample)
    output: Sample = field(default_factory=Sample)
    gaps: Sample = field(default_factory=Sample)
    running: Sample = field(default_factory=Sample)
    copied: Sample = field(default_factory=Sample)
    prefix: Sample = field(default_factory=Sample)


def sample(values: Sequence[float], *, mean: float | None = None) -> Sample:
    """Return what is kept of the values. `mean` where they have a better one than the plain."""
    if not values:
        return NONE
    ordered = sorted(values)
    size = len(ordered)
    if size > KEPT:
        ordered = [ordered[int((index + 0.5) * size / KEPT)] for index in range(KEPT)]
    return Sample(count=size, mean=fmean(values) if mean is None else mean, quantiles=tuple(ordered))


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A feature that changed: which of `Samples`, and the words for it."""

    feature: str
    words: str


def changes(before: Samples, after: Samples) -> tuple[Change, ...]:
    """Return what changed, each with its figures; empty where nothing did, or too little is known."""
    found = [
        _length("prompt", "prompt tokens", before.prompt, after.prompt),
        _length("output", "answer tokens", before.output, after.output),
        _load(before, after),
        _share("copied", "copied share of answers", before.copied, after.copied),
        _share("prefix", "shared prefix share", before.prefix, after.prefix),
    ]
    return tuple(each for each in found if each is not None)


def surprise(before: Sample, after: Sample) -> float:
    """Return how far the later values rank above (below: negative) the earlier ones, in standard errors."""
    if not before.quantiles or not after.quantiles:
        return 0.0
    rank = fmean(_rank(before.quantiles, value) for value in after.quantiles)
    return (rank - 0.5) / math.sqrt((1 / before.count + 1 / after.count) / 12)


def turned(before: Sample, values: Sequence[float]) -> int:
    """Return the index from which the values, in the order in which they came, are no longer like those before.

    Where the sum of their ranks, less what lies half way between before and now, is least (or most): the usual CUSUM.
    """
    ranks = [_rank(before.quantiles, value) - 0.5 for value in values]
    now = fmean(ranks[-max(len(ranks) // 3, 1) :])
    found, least, summed = 0, 0.0, 0.0
    for index, rank in enumerate(ranks):
        summed += (rank - now / 2) * (1 if now > 0 else -1)
        if summed < least:
            found, least = index + 1, summed
    return min(found, len(values) - 1)


def _rank(quantiles: Sequence[float], value: float) -> float:
    """Return the share of the quantiles below the value; of equal ones, half."""
    return (bisect_left(quantiles, value) + bisect_right(quantiles, value)) / 2 / len(quantiles)


def _beyond(tests: int) -> float:
    """Return how many standard errors are beyond luck on either side, so many tests being made at once."""
    # The normal distribution's inverse by bisection: erfc is exact, and this is called twice in a process's life.
    wanted, low, high = FALSE_ALARM / tests, 0.0, 10.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if math.erfc(middle / math.sqrt(2)) > wanted else (low, middle)
    return high


BEYOND: Final = _beyond(TESTS)  # standard errors: 3.5


def _length(feature: str, name: str, before: Sample, after: Sample) -> Change | None:
    if min(before.count, after.count) < LEAST_LENGTHS // 2 or after.count < LEAST_LENGTHS:
        return None
    far = surprise(before, after)
    if abs(far) < BEYOND:
        return None
    # A second kind of prompt beside the first moves the mean, and the middle may stay where it was.
    way, old, new = max(
        (("", before.median, after.median), (" (mean)", before.mean, after.mean)), key=lambda each: _apart(*each[1:])
    )
    if _apart(old, new) < FACTOR or (new > old) != (far > 0):
        return None
    return Change(feature=feature, words=f"{name}{way} {_figure(old)} -> {_figure(new)}")


def _load(before: Samples, after: Samples) -> Change | None:
    if after.gaps.count < LEAST_LENGTHS or before.gaps.count < LEAST_LENGTHS // 2:
        return None
    if min(each.mean for each in (before.gaps, after.gaps, before.running, after.running)) <= 0:
        return None
    rate = before.gaps.mean / after.gaps.mean
    running = after.running.mean / before.running.mean
    if (rate > 1) != (running > 1):
        return None
    moved = sorted((_apart(1.0, rate), _apart(1.0, running)))
    if moved[0] < TOGETHER or moved[1] < FACTOR:
        return None
    far = surprise(before.gaps, after.gaps)
    if (-far if rate > 1 else far) < BEYOND:
        return None
    words = (
        f"load {_figure(1 / before.gaps.mean)} -> {_figure(1 / after.gaps.mean)} requests/s, "
        f"{_figure(before.running.mean)} -> {_figure(after.running.mean)} at once"
    )
    return Change(feature="gaps", words=words)


def _share(feature: str, name: str, before: Sample, after: Sample) -> Change | None:
    if min(before.count, after.count) < LEAST_SHARES or abs(after.mean - before.mean) < SHARE:
        return None
    if abs(surprise(before, after)) < BEYOND * _few(after.count, before.count):
        return None
    return Change(feature=feature, words=f"{name} {before.mean:.2f} -> {after.mean:.2f}")


def _few(one: int, other: int) -> float:
    """Return by how much less far the ranks of few can be apart than those of many, at most 1."""
    most = 0.5 / math.sqrt((1 / one + 1 / other) / 12)
    return min(most * 0.9 / BEYOND, 1.0)


def _apart(one: float, other: float) -> float:
    """Return by what factor two differ; nothing and something differ without end."""
    if one <= 0 or other <= 0:
        return 1.0 if one == other else math.inf
    return max(one / other, other / one)


def _figure(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.2g}"
