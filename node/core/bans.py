"""Who is refused for a while, because what it began failed again and again. Doubles with each time, and is forgotten.

Knows no network: whoever has seen a failure tells it with the time, under a name of its choice (an address, a peer).
A refusal is short at first: many may share an address, and most of them have done nothing. What comes while it lasts
neither lengthens it nor counts, so it ends by itself however hard somebody knocks.
"""

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

NAMES = 4096  # remembered, some 300 bytes each; of more, those longest without a failure are forgotten


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """When somebody is refused, and for how long. Times in seconds.

    Attributes:
        failures: whose weight together brings a refusal.
        half_life: in which a failure comes to weigh half.
        first, longest: a refusal; each is twice as long as the one before.
        forgotten: after the end of a refusal, until the next is half as long again.
    """

    failures: float
    half_life: float
    first: float
    longest: float
    forgotten: float


@dataclass(slots=True)
class _Record:
    weight: float = 0.0
    at: float = 0.0  # when that was the weight
    times: float = 0.0  # refusals, less what was forgotten
    until: float = 0.0


@dataclass(frozen=True, slots=True)
class Ban:
    """Somebody who is refused now."""

    who: Hashable
    seconds: float  # still to go
    times: int


class Bans:
    """Counts failures, and says who is refused."""

    def __init__(self, terms: Terms, *, names: int = NAMES) -> None:
        self._terms = terms
        self._most = names
        self._records: OrderedDict[Hashable, _Record] = OrderedDict()

    def failed(self, who: Hashable, now: float, weight: float = 1.0) -> bool:
        """Note a failure; return whether it brings a refusal. One that is refused already has nothing added."""
        if self.refused(who, now):
            return False
        record = self._records.pop(who, None) or _Record(at=now)
        self._records[who] = record
        if len(self._records) > self._most:
            self._records.popitem(last=False)
        record.weight, record.at = self._weight(record, now) + weight, now
        if record.weight < self._terms.failures:
            return False
        record.times = self._times(record, now)
        record.until = now + min(self._terms.first * 2.0**record.times, self._terms.longest)
        record.times += 1.0
        record.weight = 0.0
        return True

    def refused(self, who: Hashable, now: float) -> bool:
        """Tell whether it is refused now."""
        record = self._records.get(who)
        return record is not None and now < record.until

    def suspect(self, who: Hashable, now: float) -> bool:
        """Tell whether a failure of it is remembered that has not faded yet."""
        record = self._records.get(who)
        return record is not None and (self._weight(record, now) >= 0.5 or self._times(record, now) >= 0.5)

    def listed(self, now: float) -> tuple[Ban, ...]:
        """Return all who are refused now, the latest last."""
        return tuple(
            Ban(who, record.until - now, round(record.times))
            for who, record in self._records.items()
            if now < record.until
        )

    def _weight(self, record: _Record, now: float) -> float:
        return record.weight * 0.5 ** ((now - record.at) / self._terms.half_life)

    def _times(self, record: _Record, now: float) -> float:
        """Return how many refusals still count: one less for each time that was spent without any."""
        return max(0.0, record.times - max(0.0, now - record.until) / self._terms.forgotten)
