"""Where peers may be reached, and which address to dial next.

Knows no network: what became of each dial goes in with the time (seconds of the loop) and luck, the next dials and
the moment to ask again come out. Each address has its own back-off, so that one dead address of a peer does not
hide a good one.

What strangers say is doubted. Their addresses are dialled one per host and `HOST_GAP`, so that adverts cannot turn
a swarm against somebody's machine; those that only this machine or this network could answer are taken from them
only where the node itself lives there (`nearest`); and they are forgotten before those that have worked or that
the operator gave.

A way through a relay is tried a moment after a peer's own addresses, and at once where those have all failed.
"""

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import IntEnum

from protocol import limits
from protocol.addresses import Address, Reach
from protocol.ids import PeerId

DIAL_SECONDS = 5.0  # for one dial with its handshakes: a round trip to the other side of the world takes 0.3 s
FIRST_DELAY = 1.0  # s after the first failure: a node that restarts is back within seconds
LONGEST_DELAY = 600.0  # s; a volunteer's machine may be off for the night
LONGEST_CONFIGURED = 20.0  # s for those the operator gave: without them a lone node stays alone
GIVE_UP = 12  # failures in a row after which a stranger's word is forgotten: about an hour
PER_PEER = 2  # addresses of one peer tried at a time: the slowest must not hold up the best
RELAY_LATER = 1.0  # s that a peer's own addresses have before a relay is asked: two round trips around the world
HOST_GAP = 1.0  # s between dials to one host on strangers' word
PEERS = 2048  # as many as the peerbook keeps
REMEMBERED = 64  # peers for the next run: one that still lives is enough to come back


class Source(IntEnum):
    """Who said so; the lesser is believed before the greater."""

    CONFIGURED = 0  # the operator
    NEAR = 1  # found on this network (mDNS)
    REMEMBERED = 2  # it worked in the last run
    ADVERT = 3  # signed by the peer itself
    HEARSAY = 4  # anybody: the distributed table, other peers


@dataclass(frozen=True, slots=True, kw_only=True)
class Dial:
    """Dial this now, and say what became of it: `succeeded`, `failed` or `gave_up`.

    Within `DIAL_SECONDS`, twice that through a relay.
    """

    peer: PeerId
    address: Address


@dataclass(frozen=True, slots=True, kw_only=True)
class DialPlan:
    """What to dial now, best first, and when there may be more; None: only after something changes."""

    dials: tuple[Dial, ...]
    wake_at: float | None


@dataclass(slots=True, kw_only=True)
class _Place:
    address: Address
    source: Source
    failures: int = 0
    retry_at: float = 0.0
    proven_at: float | None = None
    dialling: bool = False
    began_at: float = float("-inf")

    @property
    def relayed(self) -> bool:
        return self.address.relay is not None

    @property
    def trusted(self) -> bool:
        return self.source <= Source.REMEMBERED or self.proven_at is not None

    @property
    def paced(self) -> bool:
        """Whether its host is somebody's who never asked us: this machine itself is not."""
        return not self.trusted and self.address.reach is not Reach.LOOPBACK

    @property
    def order(self) -> tuple[int, bool, bool, int, int, int]:
        """Sorts a peer's addresses: fewest failures, relays last, those that worked, by source, then the nearest."""
        address = self.address
        return self.failures, self.relayed, self.proven_at is None, self.source, address.reach, address.port


class AddressBook:
    """The addresses of other nodes. Each that goes in leads to a peer by name."""

    def __init__(self, ours: PeerId, *, nearest: Reach = Reach.PRIVATE) -> None:
        self._ours = ours
        self._nearest = nearest
        self._places: dict[PeerId, dict[Address, _Place]] = {}
        self._shunned: dict[PeerId, float] = {}  # until when: whatever addresses are heard of meanwhile
        self._hosts: dict[str, float] = {}  # when a host may be dialled again on a stranger's word
        self._dialling: Counter[PeerId] = Counter()

    def __len__(self) -> int:
        return len(self._places)

    def learn(self, addresses: Iterable[Address], source: Source) -> None:
        """Take in addresses; those that lead to nobody in particular, or to ourselves, are left out.

        What was known of an address stays; a better source raises it.
        """
        for address in addresses:
            peer = address.peer
            if peer is None or peer == self._ours or (source >= Source.ADVERT and address.reach < self._nearest):
                continue
            places = self._places.get(peer)
            if places is None:
                if len(self._places) >= PEERS and not self._forget_one(source):
                    continue
                places = self._places[peer] = {}
            known = places.get(address)
            if known is not None:
                known.source = min(known.source, source)
            elif len(places) < limits.ADDRESSES or self._drop_worst(places, source):
                places[address] = _Place(address=address, source=source)

    def replace(self, peer: PeerId, addresses: Iterable[Address]) -> None:
        """Take in the addresses of a new advert: those of the one before that never worked are forgotten."""
        now = [address.of(peer) for address in addresses]
        places = self._places.get(peer, {})
        for address, place in list(places.items()):
            # One that has failed stays, and its back-off with it: else it would be forgotten by naming it anew.
            idle = place.proven_at is None and not place.failures and not place.dialling
            if place.source is Source.ADVERT and idle and address not in now:
                del places[address]
        self.learn(now, Source.ADVERT)
        if peer in self._places and not self._places[peer]:
            del self._places[peer]

    def hopeful(self, peer: PeerId) -> None:
        """Note a sign of life (a new advert, a run that began): every address of the peer may be tried at once."""
        self._shunned.pop(peer, None)
        for place in self._places.get(peer, {}).values():
            place.retry_at, place.failures = 0.0, min(place.failures, 1)

    def shun(self, peer: PeerId, until: float) -> None:
        """Dial a peer no more before `until`, at whatever address: it is of another swarm, or wants none of us."""
        self._shunned[peer] = max(self._shunned.pop(peer, 0.0), until)
        if len(self._shunned) > PEERS:
            del self._shunned[next(iter(self._shunned))]

    def plan(self, *, wanted: Iterable[PeerId], connected: Collection[PeerId], room: int, now: float) -> DialPlan:
        """Return what to dial now, at most `room` dials, and count them as begun.

        Those whom the operator gave come first, for as long as they are not connected, then `wanted` in its order.
        """
        self._hosts = {host: until for host, until in self._hosts.items() if until > now}
        self._shunned = {peer: until for peer, until in self._shunned.items() if until > now}
        dials: list[Dial] = []
        wakes: list[float] = []
        for peer in dict.fromkeys((*self._configured(), *wanted)):
            if peer in connected:
                continue
            for place in sorted(self._places.get(peer, {}).values(), key=lambda place: place.order):
                # A relay is asked beside the slow ones, not in place of one of them.
                if place.dialling or self._dialling[peer] >= PER_PEER + place.relayed:
                    continue
                due = self._due(place, peer, connected)
                if due > now:
                    wakes.append(due)
                elif len(dials) < room:
                    dials.append(self._begin(place, peer, now, paced=place.address.relay not in connected))
        return DialPlan(dials=tuple(dials), wake_at=min(wakes, default=None))

    def _due(self, place: _Place, peer: PeerId, connected: Collection[PeerId]) -> float:
        """Return when an address may be dialled."""
        due = max(place.retry_at, self._shunned.get(peer, 0.0))
        if place.relayed:
            direct = (each for each in self._places[peer].values() if not each.relayed and each.dialling)
            due = max((due, *(each.began_at + RELAY_LATER for each in direct)))
        # To ask a relay that is connected takes no socket of its host's.
        if place.paced and place.address.relay not in connected:
            due = max(due, self._hosts.get(place.address.host, 0.0))
        return due

    def succeeded(self, dial: Dial, now: float) -> None:
        """Note that a dial led to the peer that it should."""
        place = self._end(dial)
        if place is not None:
            place.failures, place.retry_at, place.proven_at = 0, 0.0, now

    def failed(self, dial: Dial, now: float, luck: float) -> None:
        """Note that a dial led nowhere, or to somebody else. `luck` in [0, 1) spreads the next."""
        place = self._end(dial)
        if place is None:
            return
        place.failures += 1
        longest = LONGEST_CONFIGURED if place.source is Source.CONFIGURED else LONGEST_DELAY
        place.retry_at = now + min(FIRST_DELAY * 2.0 ** min(place.failures - 1, 16), longest) * (0.5 + 0.5 * luck)
        if place.failures >= GIVE_UP and place.source > Source.CONFIGURED:
            del self._places[dial.peer][dial.address]
            if not self._places[dial.peer]:
                del self._places[dial.peer]

    def gave_up(self, dial: Dial) -> None:
        """Note that a dial was broken off by us: it says nothing of the address."""
        self._end(dial)

    def configured(self, peer: PeerId) -> bool:
        """Tell whether the operator named the peer to join through."""
        return any(place.source is Source.CONFIGURED for place in self._places.get(peer, {}).values())

    def addresses(self, peer: PeerId) -> tuple[Address, ...]:
        """Return all addresses of a peer, best first."""
        return tuple(place.address for place in sorted(self._places.get(peer, {}).values(), key=lambda p: p.order))

    def introduced(self) -> tuple[PeerId, ...]:
        """Return who is worth a dial before anything else is heard of it: found on this network, or remembered."""
        found = {peer: min(place.source for place in places.values()) for peer, places in self._places.items()}
        return tuple(
            sorted((peer for peer in found if Source.NEAR <= found[peer] <= Source.REMEMBERED), key=found.__getitem__)
        )

    def to_remember(self) -> tuple[Address, ...]:
        """Return what to write down for the next run: of each peer the address that worked last, newest first."""
        best = (
            max((each for each in places.values() if _rememberable(each)), key=_proven, default=None)
            for places in self._places.values()
        )
        worked = sorted((place for place in best if place is not None), key=_proven, reverse=True)
        return tuple(place.address for place in worked[:REMEMBERED])

    def _configured(self) -> list[PeerId]:
        return [peer for peer in self._places if self.configured(peer)]

    def _begin(self, place: _Place, peer: PeerId, now: float, *, paced: bool) -> Dial:
        place.dialling, place.began_at = True, now
        self._dialling[peer] += 1
        if paced and place.paced:
            self._hosts[place.address.host] = now + HOST_GAP
        return Dial(peer=peer, address=place.address)

    def _end(self, dial: Dial) -> _Place | None:
        place = self._places.get(dial.peer, {}).get(dial.address)
        if place is None or not place.dialling:
            return None
        place.dialling = False
        self._dialling[dial.peer] -= 1
        if not self._dialling[dial.peer]:
            del self._dialling[dial.peer]
        return place

    def _forget_one(self, source: Source) -> bool:
        """Make room for a peer: the one that is believed least goes, where it is believed less than the newcomer."""
        least, worst, all_worked = None, (source, 0), True
        for peer, places in self._places.items():
            if any(place.trusted or place.dialling for place in places.values()):
                continue
            all_worked = False
            standing = (min(place.source for place in places.values()), min(p.failures for p in places.values()))
            if standing > worst:
                least, worst = peer, standing
        if all_worked and source <= Source.ADVERT:
            least = self._longest_unproven()
        if least is None:
            return False
        del self._places[least]
        return True

    def _longest_unproven(self) -> PeerId | None:
        """Return whom to forget where everybody's addresses have worked once: those of strangers, the oldest proof."""
        strangers = {
            peer: max(map(_proven, places.values()))
            for peer, places in self._places.items()
            if all(place.source > Source.REMEMBERED and not place.dialling for place in places.values())
        }
        return min(strangers, key=strangers.__getitem__, default=None)

    def _drop_worst(self, places: dict[Address, _Place], source: Source) -> bool:
        idle = [place for place in places.values() if not place.trusted and not place.dialling]
        worst = max(idle, key=lambda place: (place.source, place.failures), default=None)
        if worst is None or (worst.source, worst.failures) <= (source, 0):
            return False
        del places[worst.address]
        return True


def _rememberable(place: _Place) -> bool:
    """Whether an address is worth a line in a file: it worked, and depends on nobody else's being there tomorrow."""
    return place.proven_at is not None and not place.relayed


def _proven(place: _Place) -> float:
    return place.proven_at or 0.0
