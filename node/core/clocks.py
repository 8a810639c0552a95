"""How far the clocks of peers are ahead of ours, as their greetings let it be known: whose clock is wrong.

Knows no clock itself. A greeting may be hours old and our clock may have been set since, so each is kept with what our
wall clock was ahead of the loop's at that moment; the difference to now is how far ours was moved.
"""

from collections import OrderedDict
from collections.abc import Collection
from statistics import median
from typing import Any

from protocol import limits
from protocol.ids import PeerId

PEERS = 1024  # remembered


class PeerClocks:
    """The clocks of those who greeted. Microseconds throughout; what is told is in seconds."""

    def __init__(self) -> None:
        self._heard: OrderedDict[PeerId, int] = OrderedDict()

    def note(self, peer: PeerId, ahead_us: int, drift_us: int) -> None:
        """Note how far a peer's clock was ahead of ours.

        Args:
            drift_us: our wall clock less a clock that nobody sets, at that moment.
        """
        self._heard.pop(peer, None)
        self._heard[peer] = ahead_us + drift_us
        if len(self._heard) > PEERS:
            self._heard.popitem(last=False)

    def ahead_us(self, peer: PeerId, drift_us: int) -> int | None:
        """Return how far a peer's clock is ahead of ours now; None where it never said."""
        heard = self._heard.get(peer)
        return None if heard is None else heard - drift_us

    def facts(self, peers: Collection[PeerId], drift_us: int) -> dict[str, Any]:
        """Return what is told of them all: how many there are, the median, how many disagree with ours."""
        known = [ahead for peer in peers if (ahead := self.ahead_us(peer, drift_us)) is not None]
        return {
            "peers": len(known),
            "ahead_s": round(median(known) / limits.SECOND_US, 3) if known else None,
            "disagreeing": sum(abs(ahead) > limits.CLOCK_SKEW_US for ahead in known),
            "tolerated_s": limits.CLOCK_SKEW_US / limits.SECOND_US,
        }
