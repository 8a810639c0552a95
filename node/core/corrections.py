"""How much slower or faster each replica is than its curve says, learnt from the answers that this node got from it.

Knows no curve, peer or clock: logarithms of (observed / foretold) go in with the time, what to add to the next forecast
comes out with how sure that is. One line for each replica and model, for the time to first token and the time per
output token apart.

Theory. The logarithm of the true factor is taken for an Ornstein-Uhlenbeck process around zero: without observations
its mean and its variance return to the curve's own within ten minutes, for machines get other work and are restarted.
Observations come in by a scalar Kalman filter, whose prior variance is that of the curve's interval: what the learner
is sure of takes more observations to move. Two things make it robust (a Student's t filter does both, see Roth, Ozkan
and Gustafsson 2013; this is its cheap form). What is further off than the model can explain moves the mean by a bounded
step only: one odd answer is an accident. But it also widens the variance, so that a second one like it is believed:
a peer that is ten times slower than its hardware says is known for it after a handful of answers.

What is wrong with one curve is partly wrong with all: they come of one learner, or of one rough guess. So a replica
that has not answered yet is taken to be off by what those who did are in the mean, for the same model, in standard
deviations of their curves: a guess moves far, a curve that is sure of itself hardly. One replica's word counts for
half. Without it the first peer that turns out faster than guessed gets all prompts, and the others never show theirs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from math import exp, inf, log
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from protocol.ids import PeerId

Floats: TypeAlias = NDArray[np.float64]
Rows: TypeAlias = NDArray[np.intp]

RETURN_S: Final = 600.0  # in which a correction shrinks to 1/e of itself where nothing is observed
BOUND: Final = log(100.0)  # of a correction, either way: beyond that the curve is another machine's
TTFT_NOISE: Final = 0.35**2  # variance of one answer's log-ratio: queues move, prompts differ, networks jitter
TPOT_NOISE: Final = 0.20**2  # a mean over many tokens
LATENCY_NOISE: Final = 0.45**2  # where only the whole answer's time is seen: its length was guessed, too
ODD: Final = 2.5  # standard deviations beyond which an answer is odd
DEGREES: Final = 4.0  # of freedom, of the Student's t that answers are taken to come from
LEAST_PRIOR: Final = 0.10**2  # no curve is surer of a machine that it never saw
MOST_VARIANCE: Final = 1.4**2  # a factor of ten either way, at 90 %
Z90: Final = 1.645  # half widths of 90 % intervals are so many standard deviations
LINES: Final = 4096  # as many as standings
FAR: Final = 2.0  # standard deviations that one replica's mean speaks for others at most: beyond that it is odd itself
ALONE: Final = 1.0  # replicas' worth of "the curves are right"
UNKNOWN_ROW: Final = 0


class Column(IntEnum):
    """The columns of `Corrections.columns`: what is added to log-times, its variance, and when that was so."""

    TTFT = 0
    TPOT = 1
    TTFT_VARIANCE = 2
    TPOT_VARIANCE = 3
    SEEN_AT = 4  # -inf: never
    RUN = 5  # of the replica, as `node.core.standings` numbers them


_UNKNOWN: Final = (0.0, 0.0, 0.0, 0.0, -inf, -1.0)
NOTHING: Final = (0.0, 0.0)  # what curves are off where nobody has said


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What one answer said. Logarithms of (observed / what the curve alone had foretold); None where it did not say.

    Attributes:
        ttft_width, tpot_width: half widths of the curve's 90 % intervals, log-seconds.
        rough: whether the figures are shares of the whole answer's time, which is all that is known of it.
    """

    ttft: float | None = None
    tpot: float | None = None
    ttft_width: float
    tpot_width: float
    rough: bool = False


class _Common:
    """What the replicas of one model say of their curves together, of TTFT and TPOT apart; sums of weighted means."""

    __slots__ = ("_parts", "_sums")

    def __init__(self) -> None:
        self._parts: dict[PeerId, tuple[float, ...]] = {}
        self._sums = [0.0, 0.0, 0.0, 0.0]

    def tell(self, replica: PeerId, *lines: tuple[float, float, float]) -> None:
        """Take in where a replica stands: (mean, variance, the curve's variance) of TTFT and of TPOT."""
        self.drop(replica)
        part: list[float] = []
        for mean, variance, own in lines:
            weight = max(1.0 - variance / own, 0.0)  # what its answers have told
            part += (weight * min(max(mean / own**0.5, -FAR), FAR), weight)
        self._parts[replica] = tuple(part)
        self._sums = [whole + each for whole, each in zip(self._sums, part, strict=True)]

    def drop(self, replica: PeerId) -> None:
        """Forget a replica. Safe to repeat."""
        part = self._parts.pop(replica, None)
        if part is not None:
            self._sums = [whole - each for whole, each in zip(self._sums, part, strict=True)]

    def __len__(self) -> int:
        return len(self._parts)

    def off(self) -> tuple[float, float]:
        """Return how far curves are off, of TTFT and of TPOT, in standard deviations of each."""
        ttft, ttft_weight, tpot, tpot_weight = self._sums
        return ttft / (ttft_weight + ALONE), tpot / (tpot_weight + ALONE)


class Corrections:
    """One line for each replica and model; bounded, those longest unseen go first."""

    def __init__(self) -> None:
        self._common: dict[str, _Common] = {}  # by model
        self._rows: dict[tuple[PeerId, str], int] = {}  # longest unseen first
        self._free: list[int] = []
        self._table: Floats = np.empty((len(Column), 1))
        self._table[:, UNKNOWN_ROW] = _UNKNOWN
        self.version = 0  # changes whenever a line may be in another row than before

    def __len__(self) -> int:
        return len(self._rows)

    def observe(self, replica: PeerId, model: str, seen: Seen, *, run: int, now: float) -> None:
        """Learn from an answer. What was learnt of another run of that node is void."""
        row = self._row(replica, model)
        ttft, tpot, ttft_variance, tpot_variance, seen_at, known_run = self._table[:, row].tolist()
        common = self._common.setdefault(model, _Common())
        if known_run != run:
            seen_at = -inf
            common.drop(replica)
        ttft_prior, tpot_prior = prior(seen.ttft_width), prior(seen.tpot_width)
        ttft_off, tpot_off = common.off()
        ttft, ttft_variance = _returned(ttft, ttft_variance, ttft_off, ttft_prior, now - seen_at)
        tpot, tpot_variance = _returned(tpot, tpot_variance, tpot_off, tpot_prior, now - seen_at)
        if seen.ttft is not None:
            noise = LATENCY_NOISE if seen.rough else TTFT_NOISE
            ttft, ttft_variance = _learnt(ttft, ttft_variance, seen.ttft, noise)
        if seen.tpot is not None:
            noise = LATENCY_NOISE if seen.rough else TPOT_NOISE
            tpot, tpot_variance = _learnt(tpot, tpot_variance, seen.tpot, noise)
        self._table[:, row] = (ttft, tpot, ttft_variance, tpot_variance, now, run)
        common.tell(replica, (ttft, ttft_variance, ttft_prior), (tpot, tpot_variance, tpot_prior))

    def common(self, model: str) -> tuple[float, float]:
        """Return how far the curves for a model are off, of TTFT and of TPOT, in standard deviations of each."""
        common = self._common.get(model)
        return NOTHING if common is None else common.off()

    def drop(self, replica: PeerId, model: str) -> None:
        """Forget a line."""
        row = self._rows.pop((replica, model), None)
        if row is not None:
            self._table[:, row] = _UNKNOWN
            self._free.append(row)
            self.version += 1
            common = self._common[model]
            common.drop(replica)
            if not len(common):
                del self._common[model]

    def rows(self, replicas: Sequence[PeerId], model: str) -> Rows:
        """Return the row of each, shape (n,). A caller keeps them while `version` stays."""
        found = self._rows
        return np.array([found.get((each, model), UNKNOWN_ROW) for each in replicas], dtype=np.intp)

    def columns(self, rows: Rows) -> Floats:
        """Return the lines of so many, shape (columns, n): a copy. `at` makes of it what holds now."""
        return self._table.take(rows, axis=1)

    def _row(self, replica: PeerId, model: str) -> int:
        key = (replica, model)
        row = self._rows.pop(key, None)
        if row is None:
            if len(self._rows) >= LINES:
                self.drop(*next(iter(self._rows)))
            if not self._free:
                size = self._table.shape[1]
                more = np.repeat(self._table[:, :1], max(size, 15), axis=1)
                self._table = np.concatenate([self._table, more], axis=1)
                self._free += reversed(range(size, size + more.shape[1]))
            row = self._free.pop()
            self.version += 1
        self._rows[key] = row  # the latest last
        return row


def at(
    columns: Floats, runs: Floats, widths: Floats, now: float, common: tuple[float, float] = NOTHING
) -> tuple[Floats, Floats]:
    """Return what to add to the log-times of n candidates now, and how sure that is.

    Args:
        columns: of `Corrections.columns`, shape (6, n). runs: the replicas' present ones, shape (n,).
        widths: half widths of the curves' 90 % intervals, log-seconds: of TTFT and TPOT, shape (2, n).
        common: how far curves are off (`Corrections.common`).

    Returns:
        Corrections and variances, both of TTFT and TPOT, shape (2, n).
    """
    held = columns[Column.SEEN_AT] - now
    held /= RETURN_S
    np.exp(held, out=held)
    held *= columns[Column.RUN] == runs  # of another run nothing holds
    variance = widths / Z90
    variance *= variance
    np.maximum(variance, LEAST_PRIOR, out=variance)
    np.minimum(variance, MOST_VARIANCE, out=variance)
    added = held * columns[Column.TTFT : Column.TPOT + 1]
    if common is not NOTHING:
        off = np.sqrt(variance)
        off *= np.array(common)[:, None]
        off *= 1.0 - held
        added += off
    held *= held
    variance += held * (columns[Column.TTFT_VARIANCE : Column.TPOT_VARIANCE + 1] - variance)
    return added, variance


def prior(width: float) -> float:
    """Return the variance of a machine's own factor that a curve's half width stands for."""
    return min(max((width / Z90) ** 2, LEAST_PRIOR), MOST_VARIANCE)


def _returned(mean: float, variance: float, off: float, prior_variance: float, idle: float) -> tuple[float, float]:
    """Return what is left of a line after seconds without an answer; `off`: see `Corrections.common`."""
    held = exp(-max(idle, 0.0) / RETURN_S)
    return held * mean + (1.0 - held) * off * prior_variance**0.5, prior_variance + held * held * (
        variance - prior_variance
    )


def _learnt(mean: float, variance: float, seen: float, noise: float) -> tuple[float, float]:
    """Take in one log-ratio; see the theory."""
    surprise = min(max(seen, -BOUND), BOUND) - mean
    expected = variance + noise
    gain = variance / expected
    most = ODD * expected**0.5
    mean += gain * min(max(surprise, -most), most)
    # Odd answers say that less is known than was thought; ordinary ones leave the filter what it is.
    widened = max((DEGREES + surprise * surprise / expected) / (DEGREES + 1.0), 1.0)
    variance = min(max((1.0 - gain) * variance * widened, LEAST_PRIOR * gain), MOST_VARIANCE)
    return min(max(mean, -BOUND), BOUND), variance
