"""How well one quantity is foretold, and when that is no longer so: drift, with what its owner may do about it.

Knows no peer, no curve and no clock: logarithms of (observed / foretold) go in with the time. Drift is an episode. It
begins when far fewer answers than nine in ten are within their 90 % intervals, and ends when nearly as many are again
as should be; between the two nothing changes, so that an alarm is raised once and not with every answer.
"""

from dataclasses import dataclass
from math import exp
from typing import Final

from node.core.corrections import Z90

RECENT: Final = 200.0  # answers that calibration is the mean of
DRIFTED: Final = 0.7  # coverage of 90 % intervals below which forecasts have drifted; chance alone gives .82 in 200
SETTLED: Final = 0.8  # and from which on they are sound: by more above the former than chance moves the mean
ENOUGH: Final = 50  # answers before drift is spoken of
LEAN: Final = 1.15  # the factor, either way, from which on it is called slower or faster, and not just unsure

WHOSE: Final = "`metainf explain --last 50` shows whose answers"
SLOWER: Final = (
    f"{WHOSE} are late: a peer that is slow alone loses its prompts by itself; where all are, "
    "look at what else this machine does and at its way to the network"
)
FASTER: Final = f"{WHOSE} are early: prompts could go to better peers; corrections follow within a few answers of each"
UNSURE: Final = (
    f"{WHOSE} are off: right in the mean, and further from it than was said; "
    "a peer whose figures jump shares its machine with something else"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """An episode in which what comes is not what is foretold.

    Attributes:
        since: the last time at which forecasts were sound, or the first answer's; seconds of the clock that was given.
        factor: mean of observed / foretold over the latest answers, a geometric one: above 1 where answers are slower.
        coverage: share of the latest answers within their 90 % intervals.
    """

    since: float
    factor: float
    coverage: float

    @property
    def remedy(self) -> str:
        """What to do about it, for a person."""
        if self.factor >= LEAN:
            return SLOWER
        return FASTER if self.factor <= 1.0 / LEAN else UNSURE


class Calibration:
    """How well one quantity is foretold: running means over the latest answers."""

    __slots__ = ("_sound_at", "bias", "count", "covered", "drifted", "error")

    def __init__(self) -> None:
        self.count = 0
        self.error = 0.0  # mean of |log(observed / foretold)|
        self.bias = 0.0  # mean of log(observed / foretold): above 0 where answers are slower
        self.covered = 0.9  # share within the 90 % interval
        self.drifted = False  # whether what is foretold is no longer what comes
        self._sound_at = 0.0

    def add(self, off: float, variance: float, now: float) -> None:
        """Take in log(observed / foretold) of one answer, and the variance that had been foretold of it."""
        self.count += 1
        weight = 1.0 / min(self.count, RECENT)
        self.error += weight * (abs(off) - self.error)
        self.bias += weight * (off - self.bias)
        self.covered += weight * ((abs(off) <= Z90 * variance**0.5) - self.covered)
        if self.covered >= SETTLED:
            self._sound_at = now
            self.drifted = False
            return
        if self.count == 1:
            self._sound_at = now
        if self.count >= ENOUGH and self.covered < DRIFTED:
            self.drifted = True

    def drift(self) -> Drift | None:
        """Return the episode that lasts; None while forecasts are sound."""
        if not self.drifted:
            return None
        return Drift(since=self._sound_at, factor=exp(self.bias), coverage=self.covered)

    def facts(self) -> dict[str, float | int | bool]:
        """Return it for people and machines."""
        return {
            "answers": self.count,
            "error": round(self.error, 4),
            "bias": round(self.bias, 4),
            "coverage_90": round(self.covered, 4),
            "drifted": self.drifted,
        }
