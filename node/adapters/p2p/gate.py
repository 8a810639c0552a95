"""Who may come in: decides about sockets before a byte of theirs is read. Pure: no socket, no clock, no libp2p.

Each socket passes through two states: it shakes hands, then it is established. Both are bounded, in all, per party and
per subnet. A newcomer for whom there is no room to shake hands displaces the oldest that still does, of its own party
first, else of the party that has most: honest handshakes take milliseconds, so what is displaced is a socket that says
nothing. Handshakes are paced as well, those of parties whose handshakes failed lately the most, and a party whose
handshakes fail again and again is refused for a while, before the first costly step. Where all places are taken, a
newcomer from a subnet that has few displaces the youngest of the subnet that has most; nobody else who is established
is ever displaced.
"""

from collections import Counter
from dataclasses import dataclass
from enum import Enum

from node.adapters.p2p.limits import P2pLimits
from node.adapters.p2p.origin import Origin
from node.core.bans import Ban, Bans, Terms
from node.core.pace import Allowance, Pace
from protocol.ids import PeerId

# The twelfth failure within seconds, and a household waits for seconds; five minutes at most: others may share the
# address. (A little fades between two failures, so the weight of twelve is less than twelve.)
PARTY_TERMS = Terms(failures=11.5, half_life=60.0, first=5.0, longest=300.0, forgotten=600.0)
# A peer is one key and nobody else: the fourth greeting or frame that no honest node says; an hour at most.
PEER_TERMS = Terms(failures=3.5, half_life=600.0, first=30.0, longest=3600.0, forgotten=3600.0)
KNOWN_WEIGHT = 0.25  # of a failure, where somebody else of that party is established: it is shared by honest ones
FAIR = 8  # established of one subnet, up to which it gives up no place
ALL = "all"


class Refusal(Enum):
    """Why a socket was closed before it became a connection."""

    PARTY_BANNED = "address_banned"
    PEER_BANNED = "peer_banned"
    PACED = "too_many_a_second"
    FULL = "no_room"
    DISPLACED = "displaced"
    FAILED = "handshake_failed"


@dataclass(frozen=True, slots=True)
class Ticket:
    """One socket that was let in."""

    number: int
    origin: Origin


@dataclass(frozen=True, slots=True)
class Arrival:
    """What to do with a newcomer: let it in if it has a ticket, and close the displaced one."""

    ticket: Ticket | None
    displaced: Ticket | None = None


class Gate:
    """Counts who is in. Every ticket that was given must be returned by `leave`, the displaced one too."""

    def __init__(self, limits: P2pLimits) -> None:
        self._limits = limits
        self._next = 0
        self._shaking: dict[int, Ticket] = {}  # oldest first
        self._shaking_from: Counter[str] = Counter()
        self._inside: dict[int, Ticket] = {}  # oldest first
        self._inside_from: Counter[str] = Counter()
        self._inside_subnet: Counter[str] = Counter()
        self._paces = {
            "party": Pace(_allowance(limits.handshakes_per_second_address)),
            "subnet": Pace(_allowance(limits.handshakes_per_second_subnet)),
            "suspects": Pace(_allowance(limits.handshakes_per_second_suspects)),
            ALL: Pace(_allowance(limits.handshakes_per_second)),
        }
        self.parties = Bans(PARTY_TERMS)
        self.peers = Bans(PEER_TERMS)
        self.refusals: Counter[Refusal] = Counter()
        self.accepted = 0

    @property
    def shaking(self) -> int:
        """How many have not yet shown who they are."""
        return len(self._shaking)

    @property
    def inside(self) -> int:
        """How many are established."""
        return len(self._inside)

    def arrive(self, origin: Origin, now: float) -> Arrival:
        """Decide about a new socket."""
        if (reason := self._against(origin, now)) is not None:
            self.refusals[reason] += 1
            return Arrival(None)
        displaced = self._to_displace(origin)
        if displaced is not None:
            self._forget(displaced)
            self._blame(displaced.origin, now)
            self.refusals[Refusal.DISPLACED] += 1
        ticket = Ticket(self._next, origin)
        self._next += 1
        self._shaking[ticket.number] = ticket
        self._shaking_from[origin.party] += 1
        return Arrival(ticket, displaced)

    def establish(self, ticket: Ticket, peer: PeerId | None, now: float) -> Arrival:
        """Note that the handshake is done; without a ticket: there is no room, it was displaced, or is refused."""
        if ticket.number not in self._shaking:
            return Arrival(None)
        if peer is None:  # a key that is none of ours: `leave` counts it as failed
            return Arrival(None)
        self._forget(ticket)
        origin = ticket.origin
        if self.peers.refused(peer, now):
            self.refusals[Refusal.PEER_BANNED] += 1
            return Arrival(None)
        displaced = None if self._free_place() else self._to_give_way(origin)
        if not self._room_for(origin) or not (self._free_place() or displaced):
            self.refusals[Refusal.FULL] += 1
            return Arrival(None)
        if displaced is not None:
            self.leave(displaced, now)
            self.refusals[Refusal.DISPLACED] += 1
        self._inside[ticket.number] = ticket
        self._inside_from[origin.party] += 1
        self._inside_subnet[_net(origin)] += 1
        self.accepted += 1
        return Arrival(ticket, displaced)

    def leave(self, ticket: Ticket, now: float) -> None:
        """Note that the socket is closed; one that had not shown who it is has failed. Safe to repeat."""
        if ticket.number in self._shaking:
            self._forget(ticket)
            self._blame(ticket.origin, now)
            self.refusals[Refusal.FAILED] += 1
        if self._inside.pop(ticket.number, None) is not None:
            _lower(self._inside_from, ticket.origin.party)
            _lower(self._inside_subnet, _net(ticket.origin))

    def complain(self, peer: PeerId, origin: Origin | None, now: float) -> bool:
        """Note that a peer said what no honest one says; return whether it is refused from now on.

        A new key costs nothing: where it comes from is blamed too.
        """
        if origin is not None:
            self._blame(origin, now)
        return self.peers.failed(peer, now)

    def banned(self, now: float) -> tuple[tuple[Ban, ...], tuple[Ban, ...]]:
        """Return the parties and the peers that are refused now."""
        return self.parties.listed(now), self.peers.listed(now)

    def _against(self, origin: Origin, now: float) -> Refusal | None:
        """Return why a newcomer is not even to shake hands; spends its allowance if there is no reason."""
        if not origin.spared and self.parties.refused(origin.party, now):
            return Refusal.PARTY_BANNED
        if not self._room_for(origin) or not (self._free_place() or self._to_give_way(origin)):
            return Refusal.FULL
        if origin.spared:
            return None
        dues = [("party", origin.party), (ALL, ALL)]
        if origin.subnet is not None:
            dues.append(("subnet", origin.subnet))
        if self.parties.suspect(origin.party, now):
            dues.append(("suspects", ALL))
        if not all(self._paces[kind].has(who, 1.0, now) for kind, who in dues):
            return Refusal.PACED
        for kind, who in dues:
            self._paces[kind].charge(who, 1.0, now)
        return None

    def _blame(self, origin: Origin, now: float) -> None:
        if not origin.spared:
            known = self._inside_from[origin.party] > 0
            self.parties.failed(origin.party, now, KNOWN_WEIGHT if known else 1.0)

    def _free_place(self) -> bool:
        return len(self._inside) < self._limits.inbound

    def _room_for(self, origin: Origin) -> bool:
        if origin.trusted:
            return True
        limits = self._limits
        return self._inside_from[origin.party] < limits.inbound_per_address and (
            origin.subnet is None or self._inside_subnet[origin.subnet] < limits.inbound_per_subnet
        )

    def _to_give_way(self, origin: Origin) -> Ticket | None:
        """Return the youngest of the subnet that has most, if that has more than is fair beside the newcomer's."""
        crowd, most = self._inside_subnet.most_common(1)[0]
        if most <= max(FAIR, self._inside_subnet[_net(origin)] + 1):
            return None
        return next(each for each in reversed(self._inside.values()) if _net(each.origin) == crowd)

    def _to_displace(self, origin: Origin) -> Ticket | None:
        if not origin.trusted and self._shaking_from[origin.party] >= self._limits.handshakes_per_address:
            return self._oldest_of(origin.party)
        if len(self._shaking) >= self._limits.handshakes:
            return self._oldest_of(self._shaking_from.most_common(1)[0][0])
        return None

    def _oldest_of(self, party: str) -> Ticket:
        return next(ticket for ticket in self._shaking.values() if ticket.origin.party == party)

    def _forget(self, ticket: Ticket) -> None:
        if self._shaking.pop(ticket.number, None) is not None:
            _lower(self._shaking_from, ticket.origin.party)


def _net(origin: Origin) -> str:
    """Return what places are shared by: of a LAN, whose subnet says nothing, each address is for itself."""
    return origin.subnet or origin.party


def _allowance(per_second: float) -> Allowance:
    return Allowance(rate=per_second, burst=4 * per_second)


def _lower(counter: Counter[str], origin: str) -> None:
    counter[origin] -= 1
    if not counter[origin]:
        del counter[origin]  # the origins of a lifetime must not pile up
