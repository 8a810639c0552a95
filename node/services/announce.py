"""Saying what this node serves, as long as it does: adverts by gossip and into the directory, a leave at the end.

Knows no transport and decides neither what an advert says nor when it is due: that is `node.core.self_advert`. An
advert goes out when somebody has come who cannot have heard the last, when the description changed, and in any case
before the lease ends; while nobody is there to hear it, none does.
"""

from collections.abc import Callable

import structlog
import trio

from node.core.peerbook import Peerbook
from node.core.self_advert import (
    DEBOUNCE,
    MET_FIRST,
    MET_LAST,
    REPEAT_FIRST,
    REPEAT_LAST,
    Description,
    OwnAdverts,
    Timetable,
    sayable,
)
from node.ports import Directory, Gossip
from protocol import limits
from protocol.advert import ADVERT, Advert
from protocol.dht import peer_key
from protocol.gossip import Subject, Topic
from protocol.ids import PeerId
from protocol.records import Signed, SigningKey, sign

log = structlog.get_logger(__name__)

LOOK = 2.0  # s between two looks at the description; what changes it need not know of us
PUBLISH = 5.0  # s for handing an advert to the neighbours' queues
PUT = 15.0  # s for one store in the directory
PUT_AGAIN = 600.0  # s, or half the advert's life where that is less: after it the directory gives it to nobody
LEAVE = 2.0  # s that a leave may take
LAST_WORDS = 0.25  # s of it for the neighbours' queues to empty before the connections close


class Announcer:
    """Says the adverts of this run. `run` is its one long-lived task; `leave` ends it."""

    def __init__(  # noqa: PLR0913 -- each is one capability
        self,
        gossip: Gossip,
        directory: Directory,
        *,
        book: Peerbook,
        own: OwnAdverts,
        key: SigningKey,
        describe: Callable[[], Description],
        wall: Callable[[], int],
        luck: Callable[[], float],
    ) -> None:
        """Prepare.

        Args:
            key: the private key that `own.me` names.
            describe: what the node is and serves now; cheap, it is asked every `LOOK` seconds.
            wall: microseconds since 1970.
            luck: uniform in [0, 1).
        """
        self._gossip = gossip
        self._directory = directory
        self._book = book
        self._own = own
        self._key = key
        self._describe = describe
        self._wall = wall
        self._table = Timetable(luck)
        self._topic = str(Topic(own.swarm, Subject.ADVERT))
        self._said: Description | None = None
        self._seen: Description | None = None  # the last that an advert was asked for
        self._left = False
        self._news = trio.Event()
        self._to_put: Signed[Advert] | None = None
        self._put_at = float("-inf")  # when the next is due in the directory
        self._putting = trio.Event()

    async def run(self) -> None:
        """Say an advert whenever one is due, until `leave`."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._store)
            while not self._left:
                await self._wait()
                if self._due():
                    await self._say()
            nursery.cancel_scope.cancel()

    def met(self, peer: PeerId) -> None:
        """Note that a peer has greeted: it is to hear us within a second, and the first one twice."""
        now = trio.current_time()
        if len(self._book.connections()) <= 1:
            # What is said before the mesh has taken us in reaches this one peer, or nobody.
            self._table.ask(now, REPEAT_FIRST, REPEAT_LAST)
        self._table.ask(now, MET_FIRST, MET_LAST)
        self._news.set()

    def newcomer(self, peer: PeerId) -> None:
        """Note a peer that was only heard of: some of us answer it."""
        self._table.heard_newcomer(trio.current_time(), len(self._book) + 1)
        self._news.set()

    def look_again(self) -> None:
        """Say that the description may have changed."""
        self._news.set()

    async def leave(self) -> None:
        """Say that this node is gone, to whoever is there; takes `LEAVE` seconds at most. Nothing is said after it."""
        if self._left:
            return
        self._left = True
        self._news.set()
        if not self._own.made:
            return
        advert = sign(ADVERT, self._own.leave(now_us=self._wall()), self._key)
        with trio.move_on_after(LEAVE):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._put, advert)
                await self._gossip.publish(self._topic, advert.sealed)
                await trio.sleep(LAST_WORDS)
        log.debug("announce.left")

    async def _wait(self) -> None:
        """Wait until there may be something to say."""
        self._news = trio.Event()
        now = trio.current_time()
        description = self._describe()
        if self._said is not None and description not in (self._said, self._seen):
            self._seen = description
            self._table.ask(now, DEBOUNCE, DEBOUNCE)
        until = now + LOOK
        if self._book.connections():
            until = min(until, self._table.next_at)
        with trio.move_on_at(until):
            await self._news.wait()

    def _due(self) -> bool:
        return not self._left and bool(self._book.connections()) and self._table.next_at <= trio.current_time()

    async def _say(self) -> None:
        now = trio.current_time()
        members = len(self._book.members(now)) + 1
        description = self._describe()
        changed, self._said, self._seen = description != self._said, description, None
        advert = sign(ADVERT, self._own.next(description, members=members, now_us=self._wall()), self._key)
        self._table.said(now, members)
        if changed:
            self._check(description)
        if changed or now >= self._put_at:
            life = (advert.body.stamp.expiry - advert.body.stamp.time) / limits.SECOND_US
            self._put_at = now + min(PUT_AGAIN, life / 2)
            self._to_put = advert
            self._putting.set()
        log.debug("announce.said", seq=advert.body.stamp.seq, members=members, changed=changed)
        with trio.move_on_after(PUBLISH):
            await self._gossip.publish(self._topic, advert.sealed)

    def _check(self, description: Description) -> None:
        unsaid = [offer.name for offer in description.models if not sayable(offer)]
        if unsaid:
            remedy = "give them names of letters, digits and ._-/ (engine.served_name)"
            log.warning("announce.models_left_out", models=unsaid, remedy=remedy)

    async def _store(self) -> None:
        """Put what is due into the directory, one at a time: it takes seconds, and the newest is all that counts."""
        while True:
            await self._putting.wait()
            self._putting = trio.Event()
            advert, self._to_put = self._to_put, None
            if advert is not None and not self._left:
                await self._put(advert)

    async def _put(self, advert: Signed[Advert]) -> None:
        key, taken = str(peer_key(self._own.swarm, self._own.me)), 0
        with trio.move_on_after(PUT):
            try:
                taken = await self._directory.put(key, advert.sealed)
            except ValueError as error:
                # The clock has jumped since it was signed. The next one is in order.
                log.warning("announce.not_stored", reason=str(error))
                return
        if not taken:
            self._put_at = float("-inf")  # the table knew nobody yet: with the next advert, then
        log.debug("announce.stored", seq=advert.body.stamp.seq, nodes=taken)
