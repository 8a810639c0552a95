"""Knowing how busy the peers are that prompts may go to, and noticing those that have fallen silent.

Knows no prompt: it polls `/metainf/load/1` of peers that were wanted a moment ago, and of those that somebody waits
for in vain. What it hears goes into the standings. A peer that answers two polls in a row with nothing is hung:
whoever waits for it is told so, and it is barred for a while, or until it tells again how busy it is. An answer may
take minutes (a long prompt's prefill); what tells that apart from a hang is that a busy node still says how busy it is.
How long a poll took is how far away the peer is, read off for nothing.
"""

from collections.abc import Awaitable, Callable, Iterable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf
from typing import TypeVar

import structlog
import trio

from node.core.standings import FAULTS, HUNG, Standings
from node.errors import Broken, NotSpoken, Unreachable
from node.ports import Streams, Swarm
from protocol.dialogue import Dialogue, Role
from protocol.errors import Reason, RemoteProtocolError
from protocol.ids import PeerId
from protocol.load import PROTOCOL_ID, SCRIPT, Load, Poll, Report, read_figures

PEERS = 256  # looked after at a time; who comes on top is routed to without a reading
T = TypeVar("T")

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchLimits:
    """How closely peers are looked at. Times in seconds.

    Attributes:
        tick: between looks, while there is anybody to look at.
        silence: somebody waits that long for a peer's next word before the peer is asked whether it lives.
        patience: for the answer to one poll, the stream included.
        misses: polls in a row without an answer that make a peer hung.
        wanted: a peer counts as wanted for so long after the last prompt that it was weighed for.
        spaced: between two polls of one peer that answers. It may reset us for more than ten a second.
        at_once: polls under way.
    """

    tick: float = 0.25
    silence: float = 2.0
    patience: float = 2.0
    misses: int = 2
    wanted: float = 10.0
    spaced: float = 1.0
    at_once: int = 8


class Vigil:
    """One wait after another for the words of one peer."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.hung = False
        self._clock = clock
        self._since = inf
        self._scope: trio.CancelScope | None = None

    @property
    def since(self) -> float:
        """When the present wait began; infinite while nobody waits."""
        return self._since

    async def wait(self, work: Callable[[], Awaitable[T]], deadline: float = inf) -> T:
        """Do `work`, which waits for the peer, until `deadline` at most, on the loop's clock.

        Raises:
            Broken: the peer has fallen silent altogether; `hung` is true then. `work` was cancelled.
            trio.TooSlowError: the deadline came first. `work` was cancelled.
        """
        self.hung, self._since = False, self._clock()
        try:
            with trio.CancelScope(deadline=deadline) as self._scope:  # one for both ends: a scope has its price
                return await work()
        finally:
            self._since, self._scope = inf, None
        if self.hung:
            raise Broken("The peer has fallen silent.")
        raise trio.TooSlowError

    def give_up(self) -> None:
        """End the present wait: the peer is hung."""
        if self._scope is not None and not self._scope.cancel_called:  # else the deadline was first
            self.hung = True
            self._scope.cancel()


@dataclass(slots=True)
class _Watched:
    wanted_until: float = -inf
    vigils: list[Vigil] = field(default_factory=list)
    heard_at: float = -inf  # when it last answered a poll
    asked_at: float = -inf  # when it was polled last
    misses: int = 0
    polling: trio.Event | None = None
    alive: bool = False  # how the last poll ended


class LoadWatch:
    """Polls peers. `run` is its one long-lived task; without it nobody is found hung."""

    def __init__(
        self,
        *,
        streams: Streams,
        swarm: Swarm,
        standings: Standings,
        limits: WatchLimits | None = None,
        clock: Callable[[], float] = trio.current_time,
        round_trip: Callable[[PeerId, float], None] = lambda _peer, _seconds: None,
    ) -> None:
        """Prepare. `round_trip`: gets the seconds that a poll took, from its first byte sent to its answer."""
        self._streams = streams
        self._swarm = swarm
        self._standings = standings
        self._limits = limits or WatchLimits()
        self._clock = clock
        self._round_trip = round_trip
        self._watched: dict[PeerId, _Watched] = {}
        self._news = trio.Event()

    def want(self, peers: Iterable[PeerId]) -> None:
        """Keep the readings of these fresh for a while, those connected at least. Cheap: for the hot path."""
        until = self._clock() + self._limits.wanted
        for peer in peers:
            watched = self._watched.get(peer)
            if watched is None:
                if len(self._watched) >= PEERS:
                    continue
                watched = self._watch(peer)
            watched.wanted_until = until

    @contextmanager
    def attend(self, peer: PeerId) -> Iterator[Vigil]:
        """Enter with a vigil over a peer that is to answer; every wait for it goes through the vigil."""
        vigil = Vigil(self._clock)
        watched = self._watched.get(peer) or self._watch(peer)
        watched.vigils.append(vigil)
        try:
            yield vigil
        finally:
            watched.vigils.remove(vigil)

    async def poll(self, peer: PeerId) -> bool:
        """Ask a peer how busy it is, or join the question under way; tell whether it answered.

        Takes at most the limits' patience. Two misses in a row bar the peer and end the waits for it.
        """
        watched = self._watched.get(peer) or self._watch(peer)
        if watched.polling is not None:
            await watched.polling.wait()
            return watched.alive
        over = watched.polling = trio.Event()
        watched.asked_at = self._clock()
        try:
            watched.alive = await self._ask(peer)
        finally:
            watched.polling = None
            over.set()
        self._judge(peer, watched)
        return watched.alive

    async def run(self) -> None:
        """Poll whoever is due; return never."""
        async with trio.open_nursery() as nursery:
            while True:
                self._forget()
                for peer in self._due():
                    nursery.start_soon(self.poll, peer)
                if not self._watched:
                    self._news = trio.Event()
                    await self._news.wait()
                await trio.sleep(self._limits.tick)

    def _watch(self, peer: PeerId) -> _Watched:
        self._news.set()
        return self._watched.setdefault(peer, _Watched())

    def _forget(self) -> None:
        now = self._clock()
        for peer, watched in list(self._watched.items()):
            if now >= watched.wanted_until and not watched.vigils and watched.polling is None:
                del self._watched[peer]

    def _due(self) -> list[PeerId]:
        """Return whom to poll now: first those who are waited for, then those whose reading is old."""
        now = self._clock()
        connected = self._swarm.connected()
        idle = {peer: watched for peer, watched in self._watched.items() if watched.polling is None}
        silent = [peer for peer, watched in idle.items() if self._is_silent(watched, now)]
        stale = [
            peer
            for peer, watched in idle.items()
            if now < watched.wanted_until and peer in connected and self._is_stale(peer, watched, now)
        ]
        stale.sort(key=lambda peer: idle[peer].misses)  # those that answer do not wait behind those that do not
        room = self._limits.at_once - (len(self._watched) - len(idle))
        return list(dict.fromkeys(silent + stale + self._hung(connected, now)))[: max(room, 0)]

    def _hung(self, connected: AbstractSet[PeerId], now: float) -> list[PeerId]:
        """Return one that is barred as hung, the longest unasked first: one at a time, however many there are."""
        found = [
            peer
            for peer, watched in self._watched.items()
            if now < watched.wanted_until and peer in connected and self._standings.standing(peer, now).closed == HUNG
        ]
        if not found or any(self._watched[peer].polling is not None for peer in found):
            return []
        return [min(found, key=lambda peer: self._watched[peer].asked_at)]

    def _is_silent(self, watched: _Watched, now: float) -> bool:
        long_ago = now - self._limits.silence
        return watched.heard_at <= long_ago and any(vigil.since <= long_ago for vigil in watched.vigils)

    def _is_stale(self, peer: PeerId, watched: _Watched, now: float) -> bool:
        standing = self._standings.standing(peer, now)
        return not standing.fresh and standing.closed not in FAULTS and watched.heard_at + self._limits.spaced <= now

    def _judge(self, peer: PeerId, watched: _Watched) -> None:
        now = self._clock()
        if watched.alive:
            watched.heard_at, watched.misses = now, 0
            return
        watched.misses += 1
        if watched.misses < self._limits.misses:
            return
        watched.misses = 0
        if self._standings.failed(peer, now, hung=True):
            log.info("peer.hung", peer=str(peer), waiting=len(watched.vigils))
        for vigil in watched.vigils:
            if vigil.since <= now - self._limits.silence:
                vigil.give_up()

    async def _ask(self, peer: PeerId) -> bool:
        with trio.move_on_after(self._limits.patience):
            try:
                load = await self._question(peer) or await self._question(peer)
            except NotSpoken:
                return True  # it lives, and tells nobody how busy it is
            except (Broken, Unreachable, RemoteProtocolError) as error:
                log.debug("load.untold", peer=str(peer), reason=str(error))
                return False
            if load is not None:
                self._standings.read(peer, load, self._clock())
                return True
        return False

    async def _question(self, peer: PeerId) -> Load | None:
        """Ask once; None where a kept stream turned out to have died while it was idle."""
        dialogue = Dialogue(SCRIPT, Role.OPENER)
        async with self._streams.open(
            peer, PROTOCOL_ID, patience=self._limits.patience, frame_bytes=SCRIPT.limit
        ) as stream:
            asked = self._clock()
            try:
                await stream.send(dialogue.say(Poll()))
                payload = await stream.receive()
            except Broken:
                if stream.fresh:
                    raise
                return None
            if payload is None:
                if stream.fresh:
                    raise RemoteProtocolError(Reason.TRUNCATED, "the stream ended where a report belongs")
                return None
            report = dialogue.hear(payload)
            assert isinstance(report, Report)  # noqa: S101 -- the script lets nothing else through
            load = read_figures(report.load)
            self._round_trip(peer, self._clock() - asked)
            stream.keep()
            return load
