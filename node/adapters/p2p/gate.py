"""Who may come in: decides about sockets before a byte of theirs is read. Pure: no socket, no clock, no libp2p.

Each socket passes through two states: it shakes hands, then it is established. Both are bounded, in all and per
origin. A newcomer for whom there is no room to shake hands displaces the oldest that still does, of its own origin
first, else of the origin that has most: honest handshakes take milliseconds, so what is displaced is a socket that
says nothing. Established connections are never displaced; then the newcomer is refused.
"""

import ipaddress
from collections import Counter
from dataclasses import dataclass

from node.adapters.p2p.limits import P2pLimits

IPV6_ORIGIN_BITS = 64  # the smallest network that one customer gets


def origin_of(host: str) -> str:
    """Return what stands for one party: an IPv4 address, or the /64 around an IPv6 address."""
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, IPV6_ORIGIN_BITS), strict=False))
    return str(address)


@dataclass(frozen=True, slots=True)
class Ticket:
    """One socket that was let in."""

    number: int
    origin: str


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
        self._inside: set[int] = set()
        self._inside_from: Counter[str] = Counter()

    @property
    def shaking(self) -> int:
        """How many have not yet shown who they are."""
        return len(self._shaking)

    @property
    def inside(self) -> int:
        """How many are established."""
        return len(self._inside)

    def arrive(self, origin: str) -> Arrival:
        """Decide about a new socket."""
        if not self._room_inside(origin):
            return Arrival(None)
        displaced = self._to_displace(origin)
        if displaced is not None:
            self._forget(displaced)
        ticket = Ticket(self._next, origin)
        self._next += 1
        self._shaking[ticket.number] = ticket
        self._shaking_from[origin] += 1
        return Arrival(ticket, displaced)

    def establish(self, ticket: Ticket) -> bool:
        """Note that the handshake is done; False if there is no more room, or the ticket was displaced: close it."""
        if ticket.number not in self._shaking:
            return False
        self._forget(ticket)
        if not self._room_inside(ticket.origin):
            return False
        self._inside.add(ticket.number)
        self._inside_from[ticket.origin] += 1
        return True

    def leave(self, ticket: Ticket) -> None:
        """Note that the socket is closed. Safe to repeat."""
        self._forget(ticket)
        if ticket.number in self._inside:
            self._inside.remove(ticket.number)
            _lower(self._inside_from, ticket.origin)

    def _room_inside(self, origin: str) -> bool:
        limits = self._limits
        return len(self._inside) < limits.inbound and self._inside_from[origin] < limits.inbound_per_address

    def _to_displace(self, origin: str) -> Ticket | None:
        if self._shaking_from[origin] >= self._limits.handshakes_per_address:
            return self._oldest_of(origin)
        if len(self._shaking) >= self._limits.handshakes:
            return self._oldest_of(self._shaking_from.most_common(1)[0][0])
        return None

    def _oldest_of(self, origin: str) -> Ticket:
        return next(ticket for ticket in self._shaking.values() if ticket.origin == origin)

    def _forget(self, ticket: Ticket) -> None:
        if self._shaking.pop(ticket.number, None) is not None:
            _lower(self._shaking_from, ticket.origin)


def _lower(counter: Counter[str], origin: str) -> None:
    counter[origin] -= 1
    if not counter[origin]:
        del counter[origin]  # the origins of a lifetime must not pile up
