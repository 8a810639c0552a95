"""Who may be called through this node, and what passes through it: a relay's account, within its limits.

Pure: no socket, no clock, no libp2p. Times in seconds of the loop. Who reserves first has a place until it stops
renewing; nobody is displaced by a newcomer.
"""

from collections import Counter
from dataclasses import dataclass

from node.adapters.p2p.limits import RelayLimits
from protocol.ids import PeerId


@dataclass(frozen=True, slots=True, eq=False)
class Circuit:
    """One connection that passes through."""

    caller: PeerId
    called: PeerId


class Full(Exception):
    """There is no room; says of what."""


@dataclass(frozen=True, slots=True)
class _Place:
    origin: str
    until: float


class Ledger:
    """What is lent. Every circuit that `begin` gives must be returned by `end`."""

    def __init__(self, limits: RelayLimits) -> None:
        self._limits = limits
        self._places: dict[PeerId, _Place] = {}
        self._circuits: set[Circuit] = set()
        self._of: Counter[PeerId] = Counter()
        self.carried = 0  # bytes, since the beginning
        self.lent = 0  # circuits, since the beginning

    def reservations(self, now: float) -> int:
        """Count those who may be called."""
        self._expire(now)
        return len(self._places)

    @property
    def circuits(self) -> int:
        """How many pass through now."""
        return len(self._circuits)

    def reserve(self, peer: PeerId, origin: str, now: float) -> float:
        """Give a peer a place, or renew it; return until when.

        Raises:
            Full: there is none.
        """
        self._expire(now)
        others = [place for holder, place in self._places.items() if holder != peer]
        if len(others) >= self._limits.reservations:
            raise Full("reservations")
        if sum(place.origin == origin for place in others) >= self._limits.reservations_per_origin:
            raise Full("reservations from one address")
        until = now + self._limits.reservation_seconds
        self._places[peer] = _Place(origin, until)
        return until

    def reserved(self, peer: PeerId, now: float) -> bool:
        """Whether a peer may be called."""
        place = self._places.get(peer)
        return place is not None and place.until > now

    def holders(self) -> tuple[PeerId, ...]:
        """Return who has a place."""
        return tuple(self._places)

    def drop(self, peer: PeerId) -> None:
        """Note that a peer is gone. Safe to repeat."""
        self._places.pop(peer, None)

    def drop_all(self) -> None:
        """Note that nothing is lent any more; what passes through goes on."""
        self._places.clear()

    def begin(self, caller: PeerId, called: PeerId) -> Circuit:
        """Note a circuit.

        Raises:
            Full: there is no room for it.
        """
        if len(self._circuits) >= self._limits.circuits:
            raise Full("circuits")
        if max(self._of[caller], self._of[called]) >= self._limits.circuits_per_peer:
            raise Full("circuits of one peer")
        circuit = Circuit(caller, called)
        self._circuits.add(circuit)
        self._of.update((caller, called))
        self.lent += 1
        return circuit

    def end(self, circuit: Circuit) -> None:
        """Note the end of a circuit. Safe to repeat."""
        if circuit in self._circuits:
            self._circuits.remove(circuit)
            self._of.subtract((circuit.caller, circuit.called))
            self._of += Counter()  # those of nobody must not pile up

    def _expire(self, now: float) -> None:
        self._places = {peer: place for peer, place in self._places.items() if place.until > now}
