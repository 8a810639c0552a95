"""Who is in the swarm: adverts, leases, leaves and connections in; who may answer a prompt now out.

Knows no network and no clock: `now` is the loop's time in seconds, `now_us` the wall clock that stamps speak of. A
peer is a *member* while it is connected or its advert counts, and a *candidate* for a model while its advert counts
and offers it, and nothing speaks against its being there.

Theory. Of each author the highest advert counts: the later epoch (a later run of that node), then the higher
sequence number; so the order in which adverts come changes nothing, and a restart replaces its ghost. An advert
counts until its expiry, which no one can move; the memory that outranks late copies lives as long as the longest
expiry that its author has signed. A lost connection puts a peer aside at once: it is believed again when it says
something new or connects.

Strangers choose their names, so the book is bounded and its places are given by what costs something: those
connected keep theirs; then those that have proven themselves; those merely heard of share the rest by who brought
them, so that a flood of made-up nodes displaces only what came the same way.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum

from protocol import limits
from protocol.advert import SERVE, Advert, ModelOffer
from protocol.gossip import Heard, Verdict, Why, judge_advert
from protocol.hello import Settled
from protocol.ids import Epoch, ModelName, PeerId
from protocol.records import Signed


@dataclass(frozen=True, slots=True, kw_only=True)
class BookLimits:
    """How many peers are kept.

    2,048 honest adverts take 10 MiB; made up to cost as much as their bounds allow, about 70 MiB.
    """

    peers: int = 2048


SMALL_SWARM = 64  # peers up to which the list of models is made anew each time it is asked for
LISTED_FOR = 2.0  # s that it stands where there are more
SHORTLIST = 32  # candidates that a prompt is weighed against: choosing from more costs time and gains nothing


class What(Enum):
    """What has changed about a peer."""

    JOINED = "joined"
    CHANGED = "changed"  # another advert counts: addresses, models or anything else may differ
    RESTARTED = "restarted"  # a later run of the same node: nothing learned of the former one holds
    LEFT = "left"  # it said so
    EXPIRED = "expired"  # its lease ran out
    LOST = "lost"  # its connection ended, or it could not be reached: set aside until it speaks again
    DISPLACED = "displaced"  # its place was given to somebody else; it may well be alive


GONE = frozenset({What.LEFT, What.EXPIRED, What.LOST, What.DISPLACED})


@dataclass(frozen=True, slots=True)
class Change:
    """One change of one peer."""

    peer: PeerId
    what: What


@dataclass(frozen=True, slots=True, kw_only=True)
class Reaction:
    """What becomes of an advert: the verdict for whoever brought it, and what it changed here."""

    verdict: Verdict
    why: Why | None
    changes: tuple[Change, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A peer that may answer, and the offer that fits."""

    peer: PeerId
    offer: ModelOffer
    advert: Advert
    connected: bool


@dataclass(slots=True, kw_only=True)
class _Entry:
    via: PeerId | None  # who brought the first advert; None: nobody in particular
    arrived: float
    heard: Heard | None = None
    lease_until: float = 0.0  # until when the advert counts
    forget_at: float = 0.0  # until when it is remembered that it outranks others
    floor: Epoch | None = None  # the run that greeted us: adverts of earlier ones are ghosts
    connected: bool = False
    proven_at: float | None = None
    aside: bool = False  # something speaks against its being there
    joined: bool = False  # the last change told of it was no farewell

    @property
    def advert(self) -> Advert | None:
        """The highest advert, unless a later run has greeted us: then it is a ghost's."""
        if self.heard is None:
            return None
        advert = self.heard.advert.body
        return None if self.floor is not None and advert.stamp.epoch < self.floor else advert

    def counting(self, now: float) -> Advert | None:
        """Return the advert where it counts and nothing speaks against its author's being there."""
        advert = self.advert
        return None if advert is None or advert.leaving or self.aside or now >= self.lease_until else advert

    def present(self, now: float) -> bool:
        """Whether it is a member."""
        advert = self.advert
        if self.connected:
            return advert is None or not advert.leaving
        return self.counting(now) is not None

    @property
    def merely_heard(self) -> bool:
        return not self.connected and self.proven_at is None


class Peerbook:
    """All that is known of other nodes. Not in it: where they are (`addressbook`) and how busy (`standings`)."""

    def __init__(self, ours: PeerId, limits: BookLimits | None = None) -> None:
        self._ours = ours
        self._limits = limits or BookLimits()
        self._entries: dict[PeerId, _Entry] = {}
        self._serving: dict[str, dict[PeerId, None]] = {}  # by model, whose highest advert offers it
        self._listed: tuple[ModelOffer, ...] = ()
        self._listed_at = float("-inf")
        self.edition = 0  # changes with whoever may be asked for what; leases run out by themselves
        self._open: dict[PeerId, None] = {}  # those connected
        self._brought: Counter[PeerId | None] = Counter()  # entries merely heard of, by who brought them

    def __len__(self) -> int:
        return len(self._entries)

    def hear(self, advert: Signed[Advert], *, via: PeerId | None, now: float, now_us: int) -> Reaction:
        """Take in an advert that has been opened (signature, swarm and time are good)."""
        author, epoch = advert.body.stamp.author, advert.body.stamp.epoch
        entry = self._entries.get(author)
        judged = judge_advert(advert, entry.heard if entry else None, now_us=now_us)
        ghost = entry is not None and entry.floor is not None and epoch < entry.floor
        if author == self._ours or judged.why is Why.KNOWN or ghost:
            return Reaction(verdict=Verdict.IGNORE, why=Why.KNOWN)
        displaced: tuple[Change, ...] = ()
        if entry is None:
            room = self._room_for(via)
            if room is None:
                # Not passed on either: a swarm whose books are full must not carry a flood any further.
                return Reaction(verdict=Verdict.IGNORE, why=Why.NO_ROOM)
            displaced, entry = room, self._add(author, via, now)
        before = entry.advert.stamp.epoch if entry.advert else entry.floor
        self._unindex(author, entry)
        entry.heard = judged.heard
        entry.lease_until = now + (advert.body.stamp.expiry - now_us) / limits.SECOND_US
        entry.forget_at = max(entry.forget_at, entry.lease_until)
        entry.aside = False
        self._index(author, advert.body)
        news = What.RESTARTED if before is not None and before < epoch else What.CHANGED
        changes = displaced + self._tell(author, entry, now, gone=What.LEFT, news=news)
        return Reaction(verdict=judged.verdict, why=judged.why, changes=changes)

    def connected(self, settled: Settled, *, dialled: bool, now: float) -> tuple[Change, ...] | None:
        """Note that a peer is connected and has greeted us; None where there is no place for it.

        `dialled` tells that we reached it, at an address of its own: a proof that costs an attacker something.
        """
        peer = settled.peer
        entry = self._entries.get(peer)
        displaced: tuple[Change, ...] = ()
        if entry is None:
            room = self._room_for_connected()
            if room is None:
                return None
            displaced, entry = room, self._add(peer, None, now)
        before = entry.advert.stamp.epoch if entry.advert else entry.floor
        self._uncount(entry)
        entry.connected, entry.aside, entry.floor = True, False, settled.incarnation
        self._open[peer] = None
        if dialled:
            entry.proven_at = now
        news = What.RESTARTED if before is not None and before < settled.incarnation else None
        return displaced + self._tell(peer, entry, now, gone=What.LEFT, news=news)

    def disconnected(self, peer: PeerId, now: float, *, by_us: bool = False) -> tuple[Change, ...]:
        """Note that the last connection to a peer has ended; `by_us`: we closed it, and it may well be alive."""
        entry = self._entries.get(peer)
        if entry is None or not entry.connected:
            return ()
        entry.connected, entry.aside = False, not by_us
        self._open.pop(peer)
        self._count(entry)
        changes = self._tell(peer, entry, now, gone=What.LOST)
        if entry.forget_at <= now:
            self._remove(peer)
        return changes

    def expel(self, peer: PeerId, now: float) -> tuple[Change, ...]:
        """Forget a peer that does not belong here, and all that it said."""
        changes = self.disconnected(peer, now)
        return changes + (self._give_away(peer) if peer in self._entries else ())

    def set_aside(self, peer: PeerId, now: float) -> tuple[Change, ...]:
        """Note that a peer could not be reached: no candidate until it says something new or connects."""
        entry = self._entries.get(peer)
        if entry is None or entry.connected:
            return ()
        entry.aside = True
        return self._tell(peer, entry, now, gone=What.LOST)

    def proven(self, peer: PeerId, now: float) -> None:
        """Note that a peer has done what it is here for: it answered a prompt."""
        entry = self._entries.get(peer)
        if entry is not None:
            self._uncount(entry)
            entry.proven_at = now

    def expire(self, now: float) -> tuple[Change, ...]:
        """Drop what has run out; returns those who are members no more."""
        changes: list[Change] = []
        for peer, entry in list(self._entries.items()):
            changes += self._tell(peer, entry, now, gone=What.EXPIRED)
            if entry.forget_at <= now and not entry.connected:
                self._remove(peer)
        return tuple(changes)

    def wake_at(self) -> float | None:
        """Return when `expire` has something to do next; None while nothing runs out."""
        times = (
            entry.lease_until if entry.joined else entry.forget_at
            for entry in self._entries.values()
            if not entry.connected
        )
        return min(times, default=None)

    def candidates(self, wanted: ModelName, now: float) -> tuple[Candidate, ...]:
        """Return everybody who may answer a prompt for this model, in no particular order."""
        return self._candidates(self._serving.get(wanted.name, ()), wanted, now)

    def shortlist(self, wanted: ModelName, now: float, luck: Callable[[], float]) -> tuple[Candidate, ...]:
        """Return some who may answer: everybody where they are few, else those connected and a draw of the rest.

        For the hot path: what it costs does not grow with the swarm.
        """
        serving = self._serving.get(wanted.name, {})
        if len(serving) <= SHORTLIST:
            return self._candidates(serving, wanted, now)
        chosen = dict.fromkeys(list(self._open.keys() & serving.keys())[:SHORTLIST])
        everybody = list(serving)
        while len(chosen) < SHORTLIST:
            # One that was drawn before makes way for the last: every draw is a new one.
            at = min(int(luck() * len(everybody)), len(everybody) - 1)
            everybody[at], everybody[-1] = everybody[-1], everybody[at]
            chosen[everybody.pop()] = None
        return self._candidates(chosen, wanted, now)

    def _candidates(self, peers: Iterable[PeerId], wanted: ModelName, now: float) -> tuple[Candidate, ...]:
        found: list[Candidate] = []
        for peer in peers:
            entry = self._entries[peer]
            advert = entry.counting(now)
            offer = advert.offer(wanted) if advert is not None else None
            if advert is not None and offer is not None:
                found.append(Candidate(peer=peer, offer=offer, advert=advert, connected=entry.connected))
        return tuple(found)

    def models(self, now: float) -> tuple[ModelOffer, ...]:
        """Return what the swarm serves now: unlike contents under one name apart, sorted by name.

        In a large swarm as of a moment ago: with 2,048 peers of 16 models each it takes 100 ms to find out.
        """
        if len(self._entries) <= SMALL_SWARM or not self._listed_at <= now < self._listed_at + LISTED_FOR:
            self._listed, self._listed_at = self._models(now), now
        return self._listed

    def _models(self, now: float) -> tuple[ModelOffer, ...]:
        found: dict[tuple[str, bytes], ModelOffer] = {}
        for name in sorted(self._serving):
            for candidate in self.candidates(ModelName(name), now):
                for offer in candidate.advert.models:
                    found.setdefault((offer.name, offer.digest.digest if offer.digest else b""), offer)
        return tuple(found[key] for key in sorted(found))

    def advert_of(self, peer: PeerId, now: float) -> Signed[Advert] | None:
        """Return the advert of a peer that counts now."""
        entry = self._entries.get(peer)
        return entry.heard.advert if entry is not None and entry.heard is not None and entry.counting(now) else None

    def members(self, now: float) -> tuple[PeerId, ...]:
        """Return who is in the swarm, in the order of their ids."""
        return tuple(sorted(peer for peer, entry in self._entries.items() if entry.present(now)))

    def connections(self) -> frozenset[PeerId]:
        """Return who is connected."""
        return frozenset(self._open)

    def to_dial(self, now: float, luck: Callable[[], float]) -> tuple[PeerId, ...]:
        """Return those we are not connected to although their lease runs, those most likely to answer first.

        Among equals luck decides, so that a swarm does not dial the same few all at once.
        """
        order = {
            peer: (entry.aside, entry.proven_at is None, luck())
            for peer, entry in self._entries.items()
            if not entry.connected and now < entry.lease_until and entry.advert and not entry.advert.leaving
        }
        return tuple(sorted(order, key=order.__getitem__))

    def _tell(
        self, peer: PeerId, entry: _Entry, now: float, *, gone: What, news: What | None = None
    ) -> tuple[Change, ...]:
        """Return what has become of its membership since that was last told; `news` where it lasts."""
        self.edition += 1
        was, entry.joined = entry.joined, entry.present(now)
        what = (news if was else What.JOINED) if entry.joined else (gone if was else None)
        return () if what is None else (Change(peer, what),)

    def _index(self, peer: PeerId, advert: Advert) -> None:
        if SERVE in advert.roles:
            for offer in advert.models:
                self._serving.setdefault(offer.name, {})[peer] = None

    def _unindex(self, peer: PeerId, entry: _Entry) -> None:
        for offer in entry.heard.advert.body.models if entry.heard else ():
            serving = self._serving.get(offer.name, {})
            serving.pop(peer, None)
            if not serving:
                self._serving.pop(offer.name, None)

    # -- places

    def _add(self, peer: PeerId, via: PeerId | None, now: float) -> _Entry:
        entry = self._entries[peer] = _Entry(via=via, arrived=now)
        self._count(entry)
        return entry

    def _remove(self, peer: PeerId) -> None:
        self.edition += 1
        entry = self._entries.pop(peer)
        self._unindex(peer, entry)
        self._uncount(entry)

    def _give_away(self, peer: PeerId) -> tuple[Change, ...]:
        joined = self._entries[peer].joined
        self._remove(peer)
        return (Change(peer, What.DISPLACED),) if joined else ()

    def _count(self, entry: _Entry) -> None:
        if entry.merely_heard:
            self._brought[entry.via] += 1

    def _uncount(self, entry: _Entry) -> None:
        if entry.merely_heard:
            self._brought[entry.via] -= 1
            if not self._brought[entry.via]:
                del self._brought[entry.via]

    def _room_for(self, via: PeerId | None) -> tuple[Change, ...] | None:
        """Make room for somebody merely heard of, if that is fair to who is here; None where it is not."""
        if len(self._entries) < self._limits.peers:
            return ()
        heaviest = max(self._brought.values(), default=0)
        return self._displace(heaviest) if heaviest > self._brought[via] + 1 else None

    def _room_for_connected(self) -> tuple[Change, ...] | None:
        """Make room for somebody who is connected; None where everybody is."""
        if len(self._entries) < self._limits.peers:
            return ()
        if self._brought:
            return self._displace(max(self._brought.values()))
        absent = [(entry.proven_at or 0.0, peer) for peer, entry in self._entries.items() if not entry.connected]
        if not absent:
            return None
        return self._give_away(min(absent)[1])

    def _displace(self, heaviest: int) -> tuple[Change, ...]:
        """Remove the youngest of those merely heard of whose bringer has brought most."""
        youngest = max(
            (entry.arrived, peer)
            for peer, entry in self._entries.items()
            if entry.merely_heard and self._brought[entry.via] == heaviest
        )[1]
        return self._give_away(youngest)
