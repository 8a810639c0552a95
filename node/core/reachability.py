"""Whether others can dial this node, by what peers say who tried: seen from so many, not from so many, and where.

Knows no network: what peers saw goes in with the time (seconds of the loop), the verdict comes out. A peer's word is
one voice, and so is an address's however many peers are behind it. Where a peer saw this node come from a public
address, the words of those count that did: what neighbours on one network reach says nothing of the world.

A liar can do little: told that it is reached, a node that is not has one relay fewer only where liars are the most of
those it asked; told that it is not, it keeps reservations that it does not need.
"""

import ipaddress
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from protocol.addresses import Address, Reach, parse_address
from protocol.ids import PeerId

WANTED: Final = 3  # voices: two agree where one errs or lies
FRESH: Final = 1800.0  # s that a voice counts: routers are restarted, addresses change
AGAIN: Final = 600.0  # s until the same peer is asked again
EVERY: Final = 200.0  # s between two questions once there are as many voices as are wanted
PEERS: Final = 64  # whose words are kept, and whom we asked; the oldest go
IPV6_ORIGIN_BITS: Final = 64  # the smallest network that one customer gets


class Verdict(Enum):
    """Whether this node can be dialled."""

    UNKNOWN = "unknown"  # nobody was asked, or nobody answered
    PUBLIC = "public"
    PRIVATE = "private"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What one peer saw.

    Attributes:
        host: the IP address from which this node is connected with it.
        tried, reached: ports that it dialled there, and those of them at which it found this node.
    """

    host: str
    tried: tuple[int, ...]
    reached: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Voice:
    sight: Sight
    origin: str
    at: float

    @property
    def reach(self) -> Reach:
        place = _place(self.sight.host, 1)
        return Reach.LOOPBACK if place is None else place.reach


class Reachability:
    """What is known of how others reach this node."""

    def __init__(self) -> None:
        self._voices: dict[PeerId, _Voice] = {}
        self._asked: dict[PeerId, float] = {}
        self._last_asked = float("-inf")

    def whom_to_ask(self, candidates: Iterable[PeerId], now: float) -> tuple[PeerId, ...]:
        """Return whom to ask now, in their order, and count them as asked."""
        missing = WANTED - len(self._fresh(now))
        if missing <= 0:
            missing = 1 if now >= self._last_asked + EVERY else 0
        due = [peer for peer in candidates if now >= self._asked.get(peer, float("-inf")) + AGAIN][:missing]
        for peer in due:
            self._asked.pop(peer, None)
            self._asked[peer] = self._last_asked = now
        while len(self._asked) > PEERS:
            del self._asked[next(iter(self._asked))]
        return tuple(due)

    def note(self, peer: PeerId, at: str, sight: Sight, now: float) -> None:
        """Take in what a peer saw. `at`: its own IP address, whose other peers are the same voice."""
        self._voices.pop(peer, None)
        if not sight.tried or _place(sight.host, 1) is None:
            return
        self._voices[peer] = _Voice(sight=sight, origin=_origin(at), at=now)
        while len(self._voices) > PEERS:
            del self._voices[next(iter(self._voices))]

    def forget(self) -> None:
        """Begin anew: nobody is connected any more, so this may be another network."""
        self._voices.clear()
        self._asked.clear()
        self._last_asked = float("-inf")

    def verdict(self, now: float) -> Verdict:
        """Say whether this node can be dialled: as most of the voices say that count."""
        seen, unseen = len(self.seen_from(now)), len(self.unseen_from(now))
        if not seen and not unseen:
            return Verdict.UNKNOWN
        return Verdict.PUBLIC if seen > unseen else Verdict.PRIVATE

    def worldwide(self, now: float) -> bool:
        """Whether the voices that count saw this node at a public address."""
        return any(voice.reach is Reach.PUBLIC for voice in self._counting(now).values())

    def seen_from(self, now: float) -> tuple[PeerId, ...]:
        """Return the voices that say it can."""
        return tuple(peer for peer, voice in self._counting(now).items() if voice.sight.reached)

    def unseen_from(self, now: float) -> tuple[PeerId, ...]:
        """Return the voices that say it cannot."""
        return tuple(peer for peer, voice in self._counting(now).items() if not voice.sight.reached)

    def external(self, now: float) -> tuple[Address, ...]:
        """Return the addresses at which it was reached, by the most voices first; none unless the verdict is public."""
        if self.verdict(now) is not Verdict.PUBLIC:
            return ()
        counted: Counter[Address] = Counter()
        for voice in self._counting(now).values():
            found = (_place(voice.sight.host, port) for port in voice.sight.reached)
            counted.update(each for each in found if each is not None)
        return tuple(address for address, _ in counted.most_common())

    def guessed(self, ports: Sequence[int], now: float) -> tuple[Address, ...]:
        """Return where it would be reached if its router kept port numbers: for meeting others halfway."""
        hosts = Counter(voice.sight.host for voice in self._counting(now).values())
        found = (_place(host, port) for host, _ in hosts.most_common() for port in ports)
        return tuple(each for each in found if each is not None)

    def _fresh(self, now: float) -> dict[PeerId, _Voice]:
        """Return the voices that are not too old, one for each origin: the latest."""
        by_origin = {voice.origin: peer for peer, voice in self._voices.items() if voice.at + FRESH > now}
        return {peer: self._voices[peer] for peer in by_origin.values()}

    def _counting(self, now: float) -> dict[PeerId, _Voice]:
        fresh = self._fresh(now)
        public = {peer: voice for peer, voice in fresh.items() if voice.reach is Reach.PUBLIC}
        return public or fresh


def _place(host: str, port: int) -> Address | None:
    return parse_address(f"/{'ip6' if ':' in host else 'ip4'}/{host}/tcp/{port}")


def _origin(host: str) -> str:
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return host
    return str(ip) if ip.version == 4 else str(ipaddress.ip_network((ip, IPV6_ORIGIN_BITS), strict=False))
