"""What peers did that no honest node does, and what they are taken for in consequence. Forgotten by halves.

Knows no network and no rule: who did what is told with the time, by whoever holds peers to the rules. Only what a peer
itself brought counts, never what others say of it.
"""

from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field

from protocol.ids import PeerId

# s in which an offence comes to weigh half. Who is left alone for ten minutes after each (`replicate.ALONE_FOR`) is an
# outcast at the fourth, after half an hour; who offends every half an hour never is.
HALF_LIFE = 1800.0
OUTCAST = 0.15  # standing below which a peer is parted from: three offences within minutes
BACK = 0.5  # standing at which it may come back: after some fifty minutes without another
PEERS = 4096  # remembered; of more, those longest without an offence are forgotten
REASONS = 32  # counted apart of one peer
OTHER = "other"


@dataclass(slots=True)
class _Record:
    weight: float = 0.0
    at: float = 0.0
    outcast: bool = False
    offences: Counter[str] = field(default_factory=Counter[str])


class Conduct:
    """The standing of peers: 1 of whom nothing is known, halved by each offence, recovering with time."""

    def __init__(self) -> None:
        self._records: OrderedDict[PeerId, _Record] = OrderedDict()

    def blame(self, peer: PeerId, reason: str, now: float) -> bool:
        """Note an offence; return whether the peer has become an outcast by it."""
        record = self._records.pop(peer, None) or _Record()
        self._records[peer] = record
        if len(self._records) > PEERS:
            self._records.popitem(last=False)
        record.weight, record.at = self._weight(record, now) + 1.0, now
        record.offences[reason if reason in record.offences or len(record.offences) < REASONS else OTHER] += 1
        was, record.outcast = record.outcast, record.outcast or 0.5**record.weight < OUTCAST
        return record.outcast and not was

    def standing(self, peer: PeerId, now: float) -> float:
        """Return what it is taken for: 1 for the best, near 0 for the worst."""
        record = self._records.get(peer)
        return 1.0 if record is None else 0.5 ** self._weight(record, now)

    def outcast(self, peer: PeerId, now: float) -> bool:
        """Tell whether nothing is to be had to do with it for now."""
        record = self._records.get(peer)
        if record is None:
            return False
        record.outcast = record.outcast and 0.5 ** self._weight(record, now) < BACK
        return record.outcast

    def outcasts(self, now: float) -> tuple[PeerId, ...]:
        """Return all of those, the latest last."""
        return tuple(peer for peer in self._records if self.outcast(peer, now))

    def offences(self, peer: PeerId) -> Mapping[str, int]:
        """Count what it did, by reason, as far as it is remembered."""
        record = self._records.get(peer)
        return {} if record is None else dict(record.offences)

    @staticmethod
    def _weight(record: _Record, now: float) -> float:
        return record.weight * 0.5 ** ((now - record.at) / HALF_LIFE)
