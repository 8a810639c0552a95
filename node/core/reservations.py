"""At which relays this node may be called: how many it keeps, when each is renewed, whom it asks next.

Knows no network: what relays answered goes in with the time (seconds of the loop) and luck, whom to ask now and when to
look again come out. Each reservation is renewed at half of its time, so that one answer may be lost and nothing is
noticed; a relay that fails is left alone for a while that doubles, and another takes its place at once.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from protocol.ids import PeerId

WANTED: Final = 2  # relays: one may die at any time, and callers need not wait for another
RENEW_AT: Final = 0.5  # of a reservation's time
FIRST_DELAY: Final = 10.0  # s after the first failure of a relay: a restart takes as long
LONGEST_DELAY: Final = 600.0  # s
RELAYS: Final = 64  # whose failures are remembered; the oldest are forgotten


@dataclass(frozen=True, slots=True)
class _Held:
    renew_at: float
    until: float


@dataclass(frozen=True, slots=True)
class _Failed:
    times: int
    retry_at: float


class Reservations:
    """The relays that take calls for this node. Every relay that `plan` names is answered for once."""

    def __init__(self) -> None:
        self._held: dict[PeerId, _Held] = {}
        self._failed: dict[PeerId, _Failed] = {}
        self._asking: set[PeerId] = set()

    def held(self, now: float) -> dict[PeerId, float]:
        """Return the relays that take calls now, and until when."""
        return {relay: held.until for relay, held in self._held.items() if held.until > now}

    def plan(self, candidates: Iterable[PeerId], now: float) -> tuple[PeerId, ...]:
        """Return whom to ask now: those whose time is half over, then as many others as are missing.

        Args:
            candidates: relays, the dearest first.
        """
        self._held = {relay: held for relay, held in self._held.items() if held.until > now}
        free = [relay for relay in candidates if relay not in self._asking and self._retry_at(relay) <= now]
        due = [relay for relay, held in self._held.items() if held.renew_at <= now and relay in free]
        missing = WANTED - len(self._held.keys() | self._asking)
        new = [relay for relay in free if relay not in self._held][: max(missing, 0)]
        self._asking.update(due, new)
        return (*due, *new)

    def wake_at(self, now: float) -> float | None:
        """Return when to plan again though nothing changes; None: never."""
        moments = [held.renew_at for held in self._held.values()] + [held.until for held in self._held.values()]
        moments += [failed.retry_at for failed in self._failed.values()]
        return min((moment for moment in moments if moment > now), default=None)

    def granted(self, relay: PeerId, seconds: float, now: float) -> None:
        """Note that a relay takes calls for so long."""
        self._asking.discard(relay)
        self._failed.pop(relay, None)
        self._held[relay] = _Held(now + RENEW_AT * seconds, now + seconds)

    def refused(self, relay: PeerId, now: float, luck: float) -> None:
        """Note that a relay did not answer, or would not. What it granted before holds to its end."""
        self._asking.discard(relay)
        failed = self._failed.pop(relay, None)
        times = failed.times + 1 if failed is not None else 1
        delay = min(FIRST_DELAY * 2.0 ** min(times - 1, 16), LONGEST_DELAY) * (0.5 + 0.5 * luck)
        self._failed[relay] = _Failed(times, now + delay)
        if len(self._failed) > RELAYS:
            del self._failed[next(iter(self._failed))]

    def gave_up(self, relay: PeerId) -> None:
        """Note that asking was broken off by us: it says nothing of the relay."""
        self._asking.discard(relay)

    def lost(self, relay: PeerId) -> None:
        """Note that the connection with a relay has ended, and its reservation with it."""
        self._held.pop(relay, None)

    def _retry_at(self, relay: PeerId) -> float:
        failed = self._failed.get(relay)
        return float("-inf") if failed is None else failed.retry_at
