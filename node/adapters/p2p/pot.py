"""What all connections hold together: bytes that nobody has read yet, and streams that peers keep open.

Knows no libp2p. Bounds for each connection do not bound their sum: 256 of them may hold gigabytes. Whoever holds most
is the one to suffer, and not whoever comes last: first the address that has most is found, then its largest connection.
"""

from collections import Counter
from typing import Protocol
from weakref import WeakSet

SLACK = 8  # received, as a share of the bound, until all is counted again: counting looks at every stream


class Member(Protocol):
    """One connection."""

    @property
    def party(self) -> str:
        """Where it comes from."""
        ...

    def held(self) -> int:
        """Return the bytes received and not read."""
        ...

    def theirs(self) -> int:
        """Return the streams that the peer has opened."""
        ...

    def spill(self) -> None:
        """End the connection, at once."""
        ...


class Pot:
    """Bounds what its members hold together."""

    def __init__(self, *, unread: int, streams: int) -> None:
        self._unread = unread
        self._streams = streams
        self._members: WeakSet[Member] = WeakSet()
        self._since = 0  # bytes received since all was counted
        self.spilt = 0  # connections that were ended for what they held

    def enter(self, member: Member) -> None:
        """Take in a connection. It is forgotten with its last user."""
        self._members.add(member)

    def received(self, size: int) -> None:
        """Note bytes that were received; now and then all is counted, and who holds too much is ended."""
        self._since += size
        if self._since * SLACK < self._unread:
            return
        self._since = 0
        held = {member: member.held() for member in self._members}
        while sum(held.values()) > self._unread:
            parties = Counter[str]()
            for member, size in held.items():
                parties[member.party] += size
            worst = parties.most_common(1)[0][0]
            largest = max((each for each in held if each.party == worst), key=held.__getitem__)
            del held[largest]
            self.spilt += 1
            largest.spill()

    def has_room(self, newcomer: Member) -> bool:
        """Tell whether one more stream that the newcomer's peer has just opened may stay."""
        open_ = {member: member.theirs() for member in self._members}
        if sum(open_.values()) <= self._streams:
            return True
        parties = {member.party for member, count in open_.items() if count}
        own = sum(count for member, count in open_.items() if member.party == newcomer.party)
        return own <= self._streams // max(1, len(parties))
