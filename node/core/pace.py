"""How much of something may be had in a time, by everybody and by each: token buckets.

Knows no clock and no unit: costs are whatever the caller counts. Accounts are bounded: the idlest is forgotten, which
gives it its burst anew and nobody anything else.
"""

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """`burst` at once, and `rate` of it back per second."""

    rate: float
    burst: float


class Pace:
    """What each has spent of its allowance."""

    def __init__(self, allowance: Allowance, *, accounts: int = 4096) -> None:
        self._allowance = allowance
        self._most = accounts
        self._spent: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()  # how much, and when that was true

    def has(self, who: Hashable, cost: float, now: float) -> bool:
        """Tell whether there is as much left."""
        return self._left(who, now) >= cost

    def take(self, who: Hashable, cost: float, now: float) -> bool:
        """Spend, if there is as much left; whether there was."""
        if not self.has(who, cost, now):
            return False
        self.charge(who, cost, now)
        return True

    def charge(self, who: Hashable, cost: float, now: float) -> None:
        """Spend what was had already, even beyond the allowance."""
        self._spent[who] = self._allowance.burst - self._left(who, now) + cost, now
        self._spent.move_to_end(who)
        if len(self._spent) > self._most:
            self._spent.popitem(last=False)

    def wait(self, who: Hashable, now: float) -> float:
        """Return the seconds until the allowance is not overdrawn."""
        return max(0.0, -self._left(who, now) / self._allowance.rate)

    def _left(self, who: Hashable, now: float) -> float:
        spent, when = self._spent.get(who, (0.0, now))
        return self._allowance.burst - max(0.0, spent - max(0.0, now - when) * self._allowance.rate)
