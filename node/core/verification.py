"""Whether a strategy does what was foretold of it, judged answer by answer, so that looking often does not cheat.

Knows costs of answers before and after a switch; knows no engine, clock or strategy. Values in, a verdict out.

Three tests share the risk of a false alarm, by Bonferroni, so that a strategy that is as good as the one before is
taken back in less than two of a hundred switches, however often it is looked at:

- **each answer**: a confidence sequence for the mean difference, the normal mixture of Robbins (1970; as boundary (14)
  of Howard, Ramdas, McAuliffe and Sekhon, "Time-uniform, nonparametric, nonasymptotic confidence sequences", Annals of
  Statistics 49, 2021), tuned to the first handful of answers: a strategy twice as slow is found out at once.
- **one long look** at a number of answers that is fixed beforehand: an ordinary test, which finds out small harm that a
  test valid at every moment would need thrice the answers for.
- **counts**: a likelihood ratio against what was usual, which may be looked at at any time (Ville's inequality): of
  failures, and, where tails matter, of answers slower than nine of ten were before.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from math import exp, log, sqrt
from statistics import NormalDist, fmean, stdev
from typing import Final, TypeAlias

from node.core.answer_costs import Features, Sample, Usual, usual

HARM: Final = 0.02  # log-cost: what counts as worse (as the learner's own guard has it)
ALARM: Final = 0.003  # risk of a false alarm by looks at each answer
LONG_ALARM: Final = 0.015  # by the long look
COUNT_ALARM: Final = 0.001  # by counts, each of at most two
SHOWN: Final = 0.10  # of the interval that people are shown: 90 %
TUNED_TO: Final = 6.0  # answers at which the first test is sharpest
LONG_LOOK: Final = 150  # answers
MOST: Final = 200  # answers after which a strategy that looks no worse is taken for good
BUSY_MOST: Final = 1800.0  # s with a prompt at the engine, likewise: long answers are few
PATIENCE: Final = 2  # times that much, after which one that looks worse and could not be told so is no more waited for
LEAST_BEFORE: Final = 8  # answers; of fewer nothing is known of what is usual
LEAST_AFTER: Final = 2  # answers before which nothing is said by their times
LEAST_CONFIRMED: Final = 8  # answers before which time alone confirms nothing
IN_A_ROW: Final = 3  # failures with no whole answer between
FAILING: Final = 0.30  # share of failures that is looked for
LEAST_FAILING: Final = 0.02  # usual share, at least: a swarm's clients and networks have bad moments
SLOW_TAIL: Final = 0.35  # share of answers slower than nine of ten were before, that is looked for
DISAPPOINTING: Final = 0.25  # of what was promised at least: less than that, and worse than before, is enough to return
# log-cost: how far off the rule for usual costs may be where the lengths or loads are no longer those that it saw: the
# same lengths may come with other prefixes, and cost half as much again.
STRANGE_SD: Final = 0.5
LEAST_LEVEL_SD: Final = 0.4  # log-cost of single answers, where no answers before tell: lengths differ
LEAST_PAIR_SD: Final = 0.1  # log-cost, of equal requests one after another: a warm engine's spread
LEAST_PAIRS: Final = 4  # equal requests, of which no more need be sent where they say something
HOPELESS: Final = 0.4  # log-cost: half as slow again; no more equal requests are needed to tell
PAIR_ERRORS: Final = 3.0  # standard errors: of a few pairs with a spread of their own, one alarm in some hundred
FEW: Final = 4.0  # by what share of 1 / answers a deviation known from few is widened (as Student's t at these risks)

Points: TypeAlias = Sequence[tuple[Features, float]]


class Verdict(Enum):
    """What is to become of a strategy."""

    UNDECIDED = "undecided"
    CONFIRMED = "confirmed"
    UNJUDGED = "unjudged"  # enough came, and nothing to hold it against
    CONTRADICTED = "contradicted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What was seen to be gained: log-cost saved, positive is better, its 90 % interval, by so many answers."""

    gain: float
    low: float
    high: float
    answers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A verdict, why, and what was seen; `observed` is None where nothing can be compared yet."""

    verdict: Verdict
    reason: str
    observed: Observed | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """What the strategy before would have taken, as foretold: mean log of seconds, and its standard deviation."""

    cost: float
    sd: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Basis:
    """What was usual before the switch, fitted once; None where too few answers tell.

    Attributes:
        answers: under the old strategy.
        stall: None as well where stalls do not matter.
    """

    answers: int = 0
    latency: Usual | None = None
    stall: Usual | None = None


def basis(before: Sequence[Sample], *, tail: bool) -> Basis:
    """Fit what was usual on answers in order of their ends.

    Args:
        tail: whether the slowest answers and the stalls matter, and not the mean alone.
    """
    return Basis(
        answers=len(before),
        latency=_usual([(one.features, one.latency) for one in before]),
        stall=_usual(_stalls(before)) if tail else None,
    )


def _usual(points: Points) -> Usual | None:
    return usual(points) if len(points) >= LEAST_BEFORE else None


def _stalls(samples: Sequence[Sample]) -> list[tuple[Features, float]]:
    return [(one.features, one.stall) for one in samples if one.stall is not None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What a strategy is judged by.

    Attributes:
        before: what was usual.
        after: answers under the new one, in order of their ends.
        failed_before, failed_after: answers that the engine broke off.
        in_a_row: the last failures that no whole answer came between.
        busy_s: seconds with a prompt at the engine since the switch.
        tail: whether the slowest answers and the stalls matter, and not the mean alone.
        promised: (gain, low, high) in log-cost against the strategy before; None where nothing was promised.
        level: what the old one would take as foretold; used where `before` tells nothing.
    """

    before: Basis
    after: Sequence[Sample]
    failed_before: int = 0
    failed_after: int = 0
    in_a_row: int = 0
    busy_s: float = 0.0
    tail: bool = False
    promised: tuple[float, float, float] | None = None
    level: Level | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Difference:
    """Costs after less costs before.

    Attributes:
        left: of each answer after, what of its cost is not usual, in order.
        sd: of one, widened where neighbours are alike.
        base_error: standard error of what is usual.
        slow: which of them were slower than nine of ten before. usual_slow: what share of those before was, at most.
        what: is compared.
    """

    left: tuple[float, ...]
    sd: float
    base_error: float
    slow: tuple[bool, ...] = ()
    usual_slow: float = 1.0
    what: str = "latency"

    @property
    def mean(self) -> float:
        return fmean(self.left)

    def error(self, count: int) -> float:
        """Return the standard error of the mean of the first so many."""
        return sqrt(self.sd**2 / count + self.base_error**2)


def judge(case: Case) -> Judged:
    """Judge a strategy by what came so far."""
    if failing := _failing(case):
        return Judged(verdict=Verdict.CONTRADICTED, reason=failing)
    differences = _differences(case)
    if not differences:
        return _unknown(case, "no answers of before to compare with")
    observed = _observed(differences[0])
    for difference in differences:
        if harm := _harm(difference, tests=len(differences)) or (_slow(difference) if case.tail else ""):
            return Judged(verdict=Verdict.CONTRADICTED, reason=harm, observed=observed)
    if case.promised is not None and _disappoints(case.promised, observed):
        words = f"{_percent(-observed.gain)} where {_percent(-case.promised[0])} was foretold"
        return Judged(verdict=Verdict.CONTRADICTED, reason=words, observed=observed)
    if case.before.latency is None:
        if observed.low > 0 and observed.answers >= LEAST_CONFIRMED:
            words = f"{_percent(-observed.gain)} against what was foretold of the one before"
            return Judged(verdict=Verdict.CONFIRMED, reason=words, observed=observed)
        return _unknown(case, "only a forecast to compare with", observed)
    return _settled(case, differences, observed)


def judge_pairs(before: Sequence[float], after: Sequence[float]) -> Judged:
    """Judge by the same requests sent under both strategies, in order: logs of their times.

    One look, by a test of the mean of pairs: nothing but the strategy differs, so a handful tells. Confirms nothing.
    """
    pairs = min(len(before), len(after))
    if pairs < LEAST_AFTER:
        return Judged(verdict=Verdict.UNDECIDED, reason="too few equal requests")
    mean, error = _slower(before, after)
    width = _quantile(SHOWN / 2) * error
    return Judged(
        verdict=Verdict.CONTRADICTED if mean - PAIR_ERRORS * error > HARM else Verdict.UNDECIDED,
        reason=f"{_percent(mean)} time for {pairs} equal requests",
        observed=Observed(gain=-mean, low=-mean - width, high=-mean + width, answers=pairs),
    )


def hopeless(before: Sequence[float], after: Sequence[float]) -> bool:
    """Tell whether equal requests take so much longer that the rest of them need not be sent; as `judge_pairs`."""
    if min(len(before), len(after)) < LEAST_PAIRS:
        return False
    mean, error = _slower(before, after)
    return mean - PAIR_ERRORS * error > HOPELESS


def _slower(before: Sequence[float], after: Sequence[float]) -> tuple[float, float]:
    """Return how much longer equal requests take, in log-cost, and the standard error of that."""
    apart = [late - early for early, late in zip(before, after, strict=False)]
    return fmean(apart), max(stdev(apart), LEAST_PAIR_SD) / sqrt(len(apart))


# --- what differs


def _differences(case: Case) -> list[_Difference]:
    """Return what can be compared, latency first; nothing where there is nothing to hold it against."""
    after = [(one.features, one.latency) for one in case.after]
    if len(after) < LEAST_AFTER:
        return []
    if case.before.latency is None:
        return [] if case.level is None else [_against_level(after, case.level)]
    found = [_against(case.before.latency, after, "latency")]
    if case.before.stall is not None:
        found.append(_against(case.before.stall, _stalls(case.after), "longest stall"))
    return [each for each in found if each is not None]


def _against(base: Usual, after: Points, what: str) -> _Difference | None:
    """Compare with what was usual; None where too little came that can be."""
    known = [point for point in after if base.knows(point[0])]
    unknown = 2 * len(known) < len(after)
    if unknown and len(after) < LEAST_CONFIRMED:
        return None  # other lengths or loads than ever before: the next may be more like them
    points = after if unknown else known
    if len(points) < LEAST_AFTER:
        return None
    strange = unknown or base.moved([features for features, _ in points])
    left = tuple(base.left(features, cost) for features, cost in points)
    sd = max(base.sd, stdev(left)) if len(left) >= LEAST_CONFIRMED else base.sd
    alike = sqrt((1 + base.correlation) / (1 - base.correlation))
    few = 1 + FEW / base.count
    rare = sqrt(base.beyond * (1 - base.beyond) / base.effective)
    return _Difference(
        left=left,
        sd=sd * alike * few,
        base_error=sqrt((base.sd * few) ** 2 / base.effective + (STRANGE_SD**2 if strange else 0.0)),
        slow=tuple(base.raw(features, cost) > base.upper for features, cost in points),
        usual_slow=base.beyond + _quantile(SHOWN / 2) * rare if not strange else 1.0,
        what=what,
    )


def _against_level(after: Points, level: Level) -> _Difference:
    left = tuple(cost - level.cost for _, cost in after)
    return _Difference(left=left, sd=max(stdev(left), LEAST_LEVEL_SD), base_error=level.sd, what="foretold latency")


# --- the tests


def _harm(difference: _Difference, *, tests: int) -> str:
    """Return how much worse it is in words, if it is for certain; "" if not. The risk is divided among the tests."""
    mean, count = difference.mean, len(difference.left)
    if mean - _radius(difference, ALARM / tests, tuned_to=TUNED_TO) > HARM:
        return f"{_percent(mean)} {difference.what} over {count} answers"
    if count >= LONG_LOOK:
        mean = fmean(difference.left[:LONG_LOOK])
        if mean > HARM and mean > _quantile(LONG_ALARM / tests) * difference.error(LONG_LOOK):
            return f"{_percent(mean)} {difference.what} over {LONG_LOOK} answers"
    return ""


def _slow(difference: _Difference) -> str:
    """Return in words that too many answers are slow, if they are."""
    count, slow = len(difference.slow), sum(difference.slow)
    if _evidence(slow, count - slow, usual=difference.usual_slow, feared=SLOW_TAIL) <= log(1 / COUNT_ALARM):
        return ""
    return f"{slow} of {count} answers beyond the slowest tenth of before ({difference.what})"


def _failing(case: Case) -> str:
    """Return in words that it fails more than is usual, if it does."""
    before = case.before.answers + case.failed_before
    often = max((case.failed_before + 0.5) / (before + 25.0), LEAST_FAILING)  # as if one of fifty had been seen to
    if case.in_a_row >= IN_A_ROW and often < FAILING / 2:
        return f"the engine broke off {case.in_a_row} answers in a row"
    if _evidence(case.failed_after, len(case.after), usual=often, feared=FAILING) > log(1 / COUNT_ALARM):
        return f"the engine broke off {case.failed_after} of {case.failed_after + len(case.after)} answers"
    return ""


def _evidence(hits: int, misses: int, *, usual: float, feared: float) -> float:
    """Return the log likelihood ratio of so many hits: at the share that is feared, against the usual one.

    Its exponential has mean 1 at each moment while the usual holds, so it passes 1/a with probability a at most, ever.
    """
    if usual >= feared:
        return 0.0
    return hits * log(feared / usual) + misses * log((1 - feared) / (1 - usual))


def _disappoints(promised: tuple[float, float, float], observed: Observed) -> bool:
    gain_low = promised[1]
    return gain_low > 0 and observed.gain < 0 and observed.high < DISAPPOINTING * gain_low


def _settled(case: Case, differences: Sequence[_Difference], observed: Observed) -> Judged:
    """Decide whether enough came to take it for good."""
    count = min(len(each.left) for each in differences)
    worst = max(each.mean for each in differences)
    seen = f"{_percent(-observed.gain)} latency over {observed.answers} answers"
    if count >= LEAST_CONFIRMED:
        if all(each.mean + _radius(each, SHOWN / 2, tuned_to=LONG_LOOK) < HARM for each in differences):
            return Judged(verdict=Verdict.CONFIRMED, reason=seen, observed=observed)
        share = max(count / MOST, case.busy_s / BUSY_MOST)
        if share >= PATIENCE or (share >= 1 and worst <= HARM):
            return Judged(verdict=Verdict.CONFIRMED, reason=f"{seen}, no worse for certain", observed=observed)
    return Judged(verdict=Verdict.UNDECIDED, reason=seen, observed=observed)


def _unknown(case: Case, reason: str, observed: Observed | None = None) -> Judged:
    enough = len(case.after) >= MOST or case.busy_s >= BUSY_MOST
    return Judged(verdict=Verdict.UNJUDGED if enough else Verdict.UNDECIDED, reason=reason, observed=observed)


def _observed(difference: _Difference) -> Observed:
    width = _radius(difference, SHOWN / 2, tuned_to=LONG_LOOK)
    mean = difference.mean
    return Observed(gain=-mean, low=-mean - width, high=-mean + width, answers=len(difference.left))


# --- arithmetic


def _radius(difference: _Difference, risk: float, *, tuned_to: float) -> float:
    """Return how far the mean may be from the truth on one side, at every moment at once, but with that risk.

    The error of what is usual is one draw for all moments: it adds as an ordinary interval does.
    """
    count, variance = len(difference.left), difference.sd**2
    both = 2 * risk
    spread = -2 * log(both)
    prior = variance * tuned_to / (spread + log(1 + spread))
    total = count * variance + prior
    sequence = sqrt(total * log(total / (prior * both**2))) / count
    return sqrt(sequence**2 + (_quantile(risk) * difference.base_error) ** 2)


def _quantile(risk: float) -> float:
    return NormalDist().inv_cdf(1 - risk)


def _percent(cost: float) -> str:
    return f"{100 * (exp(cost) - 1):+.0f} %"
