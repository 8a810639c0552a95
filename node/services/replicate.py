"""Keeping one history with everybody: what is new said to all, what gossip brings taken in, neighbours compared with.

Knows no transport, no store and no body, and decides neither what is believed nor what is retained. Gossip and the
directory are fast and may lose anything; comparing with a random neighbour, again and again, is what makes every node
end with the same. Whoever brings what no honest node passes on is named to `blame`, and left alone for a while.
"""

from collections import Counter, OrderedDict, deque
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final, TypeVar

import structlog
import trio

from node.core.pace import Allowance, Pace
from node.core.record_checks import Doubt
from node.errors import Unavailable
from node.ports import Directory, Gossip, Streams
from node.record_ports import History
from node.services.replicate_intake import Intake
from node.services.replicate_pull import End, Outcome, Puller
from node.services.replicate_serve import HistoryServer
from node.services.replicate_table import Table
from protocol import gossip, limits
from protocol.errors import RemoteProtocolError
from protocol.gossip import Subject, Topic, Verdict
from protocol.history import PROTOCOL_ID
from protocol.ids import Epoch, PeerId, RecordName, SwarmId
from protocol.records import Kind, Signed, SigningKey, verify_and_open

log = structlog.get_logger(__name__)

FIRST, LAST = 10.0, 30.0  # s between two comparisons while everything is as it should be
SOON_FIRST, SOON_LAST = 0.5, 2.0  # s after one that brought something, and with somebody just met
GATHER: Final = 0.5  # s after a new record of ours: a trial that ends says a dozen
PUBLISH: Final = 5.0  # s for handing a message to the neighbours' queues
UNSAID: Final = 4096  # own records not said yet; older ones are found by comparing
HEARD: Final = 16_384  # records that gossip brought, by digest, so that their copies cost a hash
TOLD: Final = 64  # forks to be told
RETRY: Final = 60.0  # s until what the disk kept from being told is tried again
# Records from gossip that are verified: on the loop, before they are passed on, 0.2 ms each. What is beyond it is found
# by comparing, which verifies elsewhere. Of one author: a trial's worth at once, and a record every two seconds.
VERIFIED: Final = Allowance(rate=200.0, burst=2000.0)
BY_ONE: Final = Allowance(rate=0.5, burst=256.0)
# s that a neighbour is left alone.
ALONE_FOR: Final[Mapping[End, float]] = {
    End.SILENT: 60.0,
    End.NOT_SPOKEN: 600.0,
    End.IN_VAIN: 120.0,
    End.FAULT: 600.0,
}
NEVER: Final = (float("-inf"), End.WHOLE)
EMPTY_PROMISES: Final = "empty_promises"
BAD_GOSSIP: Final = "bad_gossip"
FORGIVEN: Final = 1024  # neighbours whose vain exchanges are remembered

K = TypeVar("K")


@dataclass(frozen=True, slots=True, kw_only=True)
class Us:
    """Who this node is.

    Attributes:
        epoch: of this run, for what is kept in the directory.
        key: the private key that `me` names.
    """

    me: PeerId
    swarm: SwarmId
    epoch: Epoch
    key: SigningKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What replication has done since the node came up.

    Attributes:
        new, known: records brought by others that were not here, and that were.
        pulled: of the new ones, by comparing with neighbours. found: in the directory.
        said: own records that went out by gossip.
        heard: messages that gossip brought, well-formed or not.
        sent: records that neighbours pulled from here.
        bytes_in, bytes_out: of answers of neighbours, and to them. bytes_gossip: of messages heard.
        exchanges: by how they ended. rejected: records, by reason.
    """

    new: int
    known: int
    pulled: int
    found: int
    said: int
    heard: int
    sent: int
    bytes_in: int
    bytes_out: int
    bytes_gossip: int
    forks: int
    exchanges: Mapping[str, int]
    rejected: Mapping[str, int]


class Replication:
    """Keeps this node's history that of everybody. `run` is its one long-lived task."""

    def __init__(  # noqa: PLR0913 -- each is one capability
        self,
        streams: Streams,
        gossip: Gossip,
        directory: Directory,
        history: History,
        *,
        us: Us,
        kind: Kind[Any],
        check: Callable[[Signed[Any]], str | None],
        neighbours: Callable[[], Collection[PeerId]],
        met: Callable[[PeerId], Awaitable[bool]],
        welcome: Callable[[PeerId], bool],
        members: Callable[[], Collection[PeerId]],
        blame: Callable[[PeerId, str], None],
        wall: Callable[[], int],
        luck: Callable[[], float],
    ) -> None:
        """Prepare.

        Args:
            kind: of the records that the history holds.
            check: says why a verified record is not believed, as a short constant; None where it is. Cheap.
            neighbours: whom there is a connection with, and who has greeted.
            met: whether a peer has greeted; may wait a moment for it.
            welcome: whether what a peer says is listened to now: it has greeted, and is no outcast.
            members: who is in the swarm.
            blame: gets a peer and the reason's code.
            wall: microseconds since 1970.
            luck: uniform in [0, 1).
        """
        self._streams = streams
        self._gossip = gossip
        self._history = history
        self._us = us
        self._kind = kind
        self._check = check
        self._wall = wall
        self._neighbours = neighbours
        self._welcome = welcome
        self._members = members
        self._blame = blame
        self._luck = luck
        self._topic = str(Topic(us.swarm, Subject.RECORDS))
        self._intake = Intake(history, blame=blame, forked=self._fork)
        self._puller = Puller(streams, self._intake, blame=blame)
        self._server = HistoryServer(history, self._intake, met=met, kind=kind, blame=blame)
        self._table = Table(
            directory,
            history,
            self._intake,
            me=us.me,
            swarm=us.swarm,
            epoch=us.epoch,
            key=us.key,
            away=self._away,
            wall=wall,
            luck=luck,
        )
        self._unsaid: deque[bytes] = deque(maxlen=UNSAID)
        self._to_say = trio.Event()
        self._told: deque[tuple[RecordName, bytes]] = deque(maxlen=TOLD)  # forks to be told
        self.quarantined: Collection[PeerId] = self._intake.quarantined.keys()  # authors known for a fork
        self.key_forked = False  # another machine writes records under our name
        self._heard: OrderedDict[bytes, None] = OrderedDict()
        self._verified, self._by_one = Pace(VERIFIED), Pace(BY_ONE)
        self._fresh: dict[PeerId, None] = {}  # met, and not compared with since
        self._alone: dict[PeerId, tuple[float, End]] = {}  # until when, and why
        self._vain: OrderedDict[PeerId, None] = OrderedDict()
        self._met = trio.Event()
        self._ends: Counter[str] = Counter()
        self.whole_at: float | None = None  # the loop's time when a comparison last ended whole
        self._refused: Counter[str] = Counter()
        self._said = self._messages = self._bytes_gossip = self._pulled = 0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Say, hear, answer, compare; return never. Started once it is subscribed."""
        self._streams.serve(PROTOCOL_ID, self._server.handle, frame_bytes=limits.HISTORY_ASK_BYTES)
        async with self._gossip.subscribe(self._topic, self._judge) as messages, trio.open_nursery() as nursery:
            nursery.start_soon(self._say)
            nursery.start_soon(self._compare)
            nursery.start_soon(self._table.run)
            task_status.started()
            async for data in messages:
                await self._hear(data)

    def publish(self, sealed: Sequence[bytes]) -> None:
        """Say records of our own that are in the history now. Returns at once."""
        self._unsaid += sealed
        self._to_say.set()
        self._table.own_came()

    def greeted(self, peer: PeerId) -> None:
        """Note that a peer was met: it is compared with soon, unless it is at fault."""
        if peer in self._alone and self._alone[peer][1] in (End.SILENT, End.BUSY):
            del self._alone[peer]
        self._fresh[peer] = None
        self._met.set()

    async def look_up(self, author: PeerId) -> int:
        """Ask the directory for an author's records; return how many were new."""
        return await self._table.look_up(author)

    def counts(self) -> Counts:
        """Count what was done."""
        return Counts(
            new=self._intake.new,
            known=self._intake.known,
            pulled=self._pulled,
            found=self._table.found,
            said=self._said,
            heard=self._messages,
            sent=self._server.records,
            bytes_in=self._puller.bytes,
            bytes_out=self._server.bytes,
            bytes_gossip=self._bytes_gossip,
            forks=self._intake.forks,
            exchanges=dict(self._ends),
            rejected=dict(self._intake.rejected + self._refused),
        )

    # -- gossip

    def _judge(self, data: bytes, via: PeerId | None) -> bool:
        """Tell whether a message is to be taken in and passed on; who brings what no honest node would is blamed."""
        self._messages += 1
        self._bytes_gossip += len(data)
        if via is not None and not self._welcome(via):
            return False  # and no blame: comparing makes up for what may have been good
        accepted: list[tuple[bytes, PeerId]] = []
        verdicts: list[Verdict] = []
        try:
            for sealed in gossip.unpack_records(data):
                digest = sha256(sealed).digest()
                if digest not in self._heard:
                    verdicts.append(self._judge_one(sealed, digest, accepted))
                if Verdict.REJECT in verdicts:
                    return self._reject(via)
        except RemoteProtocolError as error:
            self._refused[error.reason.value] += 1
            return self._reject(via)
        if gossip.verdict_of_batch(verdicts) is not Verdict.ACCEPT:
            return False
        # Noted now and not before: packed with a bad one, a good record would else be kept from all.
        for digest, author in accepted:
            _keep(self._heard, digest, HEARD)
            self._by_one.charge(author, 1.0, trio.current_time())
        return True

    def _reject(self, via: PeerId | None) -> bool:
        if via is not None:
            self._blame(via, BAD_GOSSIP)
        return False

    def _judge_one(self, sealed: bytes, digest: bytes, accepted: list[tuple[bytes, PeerId]]) -> Verdict:
        now = trio.current_time()
        if not self._verified.take(None, 1.0, now):
            return Verdict.IGNORE
        try:
            record = verify_and_open(sealed, self._kind, swarm=self._us.swarm, now_us=self._wall())
        except RemoteProtocolError as error:
            self._refused[error.reason.value] += 1
            return gossip.verdict_of(error.reason)
        if reason := self._check(record):
            self._refused[reason] += 1
            return Verdict.IGNORE if reason == Doubt.CLOCK else Verdict.REJECT
        author = record.name.author
        if author in self._intake.quarantined or not self._by_one.has(author, 1.0, now):
            return Verdict.IGNORE
        accepted.append((digest, author))
        return Verdict.ACCEPT

    async def _hear(self, data: bytes) -> None:
        try:  # it was judged, so it opens; whoever brought it was held to it then, and an author brings nothing
            await self._intake.take(gossip.unpack_records(data), via=None)
        except Unavailable as error:
            log.warning("replicate.not_taken_in", reason=error.message)

    async def _say(self) -> None:
        while True:
            with trio.move_on_after(RETRY if self._told else float("inf")):
                await self._to_say.wait()
            await trio.sleep(GATHER)
            self._to_say = trio.Event()
            if self._unsaid:
                await self._intake.own_came(self._us.me)
            own, self._unsaid = list(self._unsaid), deque(maxlen=UNSAID)
            told, self._told = list(self._told), deque(maxlen=TOLD)
            pairs = [pair for name, raw in told if (pair := await self._both(name, raw))]
            for data in (*gossip.pack_records(own), *(each for pair in pairs for each in gossip.pack_records(pair))):
                with trio.move_on_after(PUBLISH):
                    try:
                        await self._gossip.publish(self._topic, data)
                    except ValueError as error:
                        log.warning("replicate.refused_ours", reason=str(error))  # comparing brings it to others
            self._said += len(own)

    def _fork(self, name: RecordName, sealed: bytes) -> None:
        """Have both bodies told to all, once for each author: whoever has one alone cannot know."""
        if name.author == self._us.me:
            self.key_forked = True
            log.error("replicate.our_key_forked", record=str(name))
        self._told.append((name, sealed))
        self._to_say.set()

    async def _both(self, name: RecordName, sealed: bytes) -> list[bytes]:
        """Return both bodies; where the disk refuses none, and they are to be told later."""
        one, size = ((name.seq, name.seq),), limits.RECORD_BYTES
        try:
            ours = await self._history.page(name.author, name.epoch, one, records=1, size=size)
        except Unavailable as error:
            log.warning("replicate.fork_not_told", reason=error.message)
            self._told.append((name, sealed))
            return []
        return sorted((*ours, sealed))  # equal pairs are one message, whoever says it

    # -- neighbours

    async def _compare(self) -> None:
        pause = 0.0
        while True:
            await self._wait(pause)
            peer = self._choose()
            if peer is None:
                pause = self._between(FIRST, LAST)
                continue
            self._fresh.pop(peer, None)
            outcome = await self._puller.exchange(peer)
            self._note(peer, outcome)
            brought = outcome.news and outcome.end in (End.WHOLE, End.CUT_SHORT, End.BUSY)
            pause = self._between(SOON_FIRST, SOON_LAST) if brought else self._between(FIRST, LAST)
            if outcome.end is End.NO_ROOM:
                log.warning("replicate.no_room", reason=outcome.reason)
                pause = ALONE_FOR[End.SILENT]

    async def _wait(self, pause: float) -> None:
        """Wait until it is time for the next; with somebody just met not for long."""
        until = trio.current_time() + pause
        while True:
            if self._choosable(self._fresh):
                soon = trio.current_time() + self._between(SOON_FIRST, SOON_LAST)
                await trio.sleep_until(min(until, soon))
                return
            self._met = trio.Event()
            with trio.move_on_at(until):
                await self._met.wait()
                continue
            return

    def _choose(self) -> PeerId | None:
        """Return whom to compare with: somebody just met, else anybody."""
        some = self._choosable(self._fresh) or self._choosable(self._neighbours())
        return some[int(self._luck() * len(some))] if some else None

    def _choosable(self, peers: Collection[PeerId]) -> list[PeerId]:
        here, now = frozenset(self._neighbours()), trio.current_time()
        if len(self._alone) > len(here):
            self._alone = {peer: until for peer, until in self._alone.items() if until[0] > now}
        self._fresh = {peer: None for peer in self._fresh if peer in here}
        return sorted(peer for peer in peers if peer in here and self._alone.get(peer, NEVER)[0] <= now)

    def _note(self, peer: PeerId, outcome: Outcome) -> None:
        self._ends[outcome.end.value] += 1
        self._pulled += outcome.news
        alone = outcome.wait if outcome.end is End.BUSY else ALONE_FOR.get(outcome.end, 0.0)
        if outcome.end is End.CUT_SHORT and not outcome.news:
            alone = ALONE_FOR[End.SILENT]  # it took all its time and brought nothing
        if alone:
            self._alone[peer] = trio.current_time() + alone, outcome.end
        if outcome.end is End.IN_VAIN:
            if peer in self._vain:  # once may be a moment's misfortune: it dropped what it had just listed
                self._blame(peer, EMPTY_PROMISES)
            _keep(self._vain, peer, FORGIVEN)
        elif outcome.end is End.WHOLE:
            self._vain.pop(peer, None)
            self.whole_at = trio.current_time()
        log.debug("replicate.compared", peer=str(peer), end=outcome.end.value, new=outcome.news, reason=outcome.reason)

    def _between(self, first: float, last: float) -> float:
        return first + self._luck() * (last - first)

    def _away(self) -> Collection[PeerId]:
        return frozenset(self._members()) - frozenset(self._neighbours()) - {self._us.me}


def _keep(memory: OrderedDict[K, None], key: K, most: int) -> None:
    """Remember a key, and of more than `most` forget the oldest."""
    memory[key] = None
    if len(memory) > most:
        memory.popitem(last=False)
