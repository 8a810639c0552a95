"""Learning who is in the swarm: adverts from gossip and the directory into the book, what changes out to the rest.

Knows no transport, and decides nothing about adverts or places: those are `protocol.gossip`'s and the book's. What
gossip brings is judged where it arrives, before it is passed on; so whatever comes out of the subscription has been
taken in already.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import structlog
import trio

from node.core.addressbook import AddressBook
from node.core.peerbook import GONE, Change, Peerbook, What
from node.core.standings import Standings
from node.ports import Directory, Gossip, Swarm
from protocol.advert import Advert
from protocol.dht import peer_key
from protocol.errors import Reason, RemoteProtocolError
from protocol.gossip import Subject, Topic, Verdict, open_advert
from protocol.ids import PeerId, SwarmId

log = structlog.get_logger(__name__)

TARGET = 32  # connections worth having: up to there a swarm is a full mesh; gossip itself needs six
REDRAW = 10.0  # s that a choice of whom to dial stands: two dials' time; a new one each time would dial them all
TICK = 0.2  # s between two looks for leases that ran out: a hundred adverts that come together are one look
LOOK_UPS = 64  # peers looked up in the directory at a time; others come by gossip
PAUSES = (2.0, 10.0, 60.0)  # s before each try: mostly gossip is first, and a newcomer's advert lies there only soon
LOOK_UP = 15.0  # s for one question to the directory


class Discovery:
    """Keeps the book of who is in the swarm. `run` is its one long-lived task."""

    def __init__(  # noqa: PLR0913 -- each is one capability
        self,
        swarm: Swarm,
        gossip: Gossip,
        directory: Directory,
        *,
        swarm_id: SwarmId,
        book: Peerbook,
        addresses: AddressBook,
        standings: Standings,
        wall: Callable[[], int],
        luck: Callable[[], float],
        outcast: Callable[[PeerId], bool],
        look_again: Callable[[], None],
        newcomer: Callable[[PeerId], None],
        tell: Callable[[str, Mapping[str, Any]], None],
        target: int = TARGET,
        belongs: Callable[[Advert], bool] = lambda _: True,
    ) -> None:
        """Prepare.

        Args:
            wall: microseconds since 1970.
            luck: uniform in [0, 1).
            outcast: whether nothing is to be heard of a peer now. Who has not greeted yet is heard: gossip knows an
                advert that was ignored for a copy from then on, whoever brings it, and nobody repeats it for minutes.
            look_again: called when whom to be connected with may have changed.
            newcomer: gets each peer that is in the swarm now and was only heard of: we have not met it.
            tell: gets the events `peer_joined` and `peer_left`, with their facts.
            target: connections up to which more are wanted.
            belongs: whether an advert's author is one of us; what others say is as good as unsaid.
        """
        self._swarm = swarm
        self._gossip = gossip
        self._directory = directory
        self._swarm_id = swarm_id
        self._book = book
        self._addresses = addresses
        self._standings = standings
        self._wall = wall
        self._luck = luck
        self._outcast = outcast
        self._look_again = look_again
        self._newcomer = newcomer
        self._tell = tell
        self._target = target
        self._belongs = belongs
        self._told: set[PeerId] = set()  # of whom `peer_joined` was the last that was told
        self._drawn: tuple[PeerId, ...] = ()  # whom to dial, until `_redraw_at`
        self._redraw_at = float("-inf")
        self._looking: set[PeerId] = set()
        self._nursery: trio.Nursery | None = None
        self._news = trio.Event()
        self.refused: Counter[str] = Counter()  # adverts that did not open, by the reason's code

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Take in what gossip brings, let go what runs out; return never. Started once it is subscribed."""
        topic = str(Topic(self._swarm_id, Subject.ADVERT))
        async with self._gossip.subscribe(topic, self._judge) as messages, trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._expire)
            task_status.started()
            try:
                async for _ in messages:
                    pass  # judging took it in
            finally:
                self._nursery = None

    def wanted(self) -> Iterable[PeerId]:
        """Return whom to be connected with besides those whom the operator gave, the dearest first."""
        connected, now = self._swarm.connected(), trio.current_time()
        if now >= self._redraw_at:
            self._drawn, self._redraw_at = (), now + REDRAW
        room = self._target - len(connected)
        chosen = dict.fromkeys(peer for peer in self._drawn if peer not in connected)
        if len(chosen) < room:
            chosen |= dict.fromkeys(self._book.to_dial(now, self._luck))
        self._drawn = tuple(chosen)[: max(room, 0)]
        return self._drawn

    def greeted(self, peer: PeerId) -> None:
        """Note that a peer was met: if gossip does not bring its advert, the directory is asked for it."""
        if self._nursery is None or peer in self._looking or len(self._looking) >= LOOK_UPS:
            return
        if self._book.advert_of(peer, trio.current_time()) is None:
            self._looking.add(peer)
            self._nursery.start_soon(self._look_up, peer)

    def apply(self, changes: Iterable[Change]) -> None:
        """Pass on what the book says has changed: to addresses, standings, dials, scripts."""
        for change in changes:
            log.debug("discover.changed", peer=str(change.peer), what=change.what.value)
            if change.what in GONE:
                self._take_leave(change.peer, change.what)
            else:
                self._take_in(change.peer, change.what)
        self._news.set()
        self._look_again()

    def _judge(self, data: bytes, via: PeerId | None) -> bool:
        """Take in an advert, and who brought it; whether it is to be passed on."""
        if via is not None and self._outcast(via):
            return False
        now_us = self._wall()
        try:
            advert = open_advert(data, swarm=self._swarm_id, now_us=now_us)
        except RemoteProtocolError as error:
            self.refused[error.reason.value] += 1
            return False
        if not self._belongs(advert.body):
            self.refused[Reason.NOT_A_MEMBER.value] += 1
            return False
        reaction = self._book.hear(advert, via=via, now=trio.current_time(), now_us=now_us)
        if reaction.changes:
            self.apply(reaction.changes)
        return reaction.verdict is Verdict.ACCEPT

    def _take_in(self, peer: PeerId, what: What) -> None:
        now = trio.current_time()
        if what is What.RESTARTED:
            self._standings.renewed(peer)
            self._say_left(peer, what)
        advert = self._book.advert_of(peer, now)
        if advert is not None:
            self._addresses.replace(peer, (*advert.body.dialable(), *advert.body.relayed()))
            self._swarm.learn(peer, self._addresses.addresses(peer))
        if what is not What.CHANGED:
            # Not for every advert: a peer that does not want us says one a minute, too.
            self._addresses.hopeful(peer)
            # One that restarted knows nobody, although its former run's connection may still seem to be there.
            if what is What.RESTARTED or peer not in self._book.connections():
                self._newcomer(peer)
        if advert is not None and peer not in self._told:
            # One that was met is told of when it has said what it is.
            self._told.add(peer)
            facts = {
                "peer": str(peer),
                "name": advert.body.name,
                "models": [offer.name for offer in advert.body.models],
                "addresses": list(advert.body.addresses),
            }
            self._tell("peer_joined", facts)

    def _take_leave(self, peer: PeerId, what: What) -> None:
        if what is not What.LOST:  # one that is lost may be back in a moment: what speaks against it holds
            self._standings.forget(peer)
        self._say_left(peer, what)

    def _say_left(self, peer: PeerId, what: What) -> None:
        if peer in self._told:
            self._told.remove(peer)
            self._tell("peer_left", {"peer": str(peer), "reason": what.value})

    async def _expire(self) -> None:
        while True:
            await trio.sleep(TICK)
            self._news = trio.Event()
            wake_at = self._book.wake_at()
            with trio.move_on_at(float("inf") if wake_at is None else wake_at):
                await self._news.wait()
            if changes := self._book.expire(trio.current_time()):
                self.apply(changes)

    async def _look_up(self, peer: PeerId) -> None:
        try:
            for pause in PAUSES:
                await trio.sleep(pause)
                if peer not in self._book.connections() or self._book.advert_of(peer, trio.current_time()):
                    return
                with trio.move_on_after(LOOK_UP):
                    found = await self._directory.get(str(peer_key(self._swarm_id, peer)))
                    if found is not None:
                        self._judge(found, None)
        finally:
            self._looking.discard(peer)
