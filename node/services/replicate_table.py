"""An author's records in the directory: this node's own kept there, those of authors who are away found there.

Knows no stream, no gossip and no neighbour. What lies in the table is a head for each author, and the newest records
in batches that the head leads to; `protocol.dht` has the rules. The table forgets and is never the only copy.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any, Final

import structlog
import trio

from node.errors import Unavailable
from node.ports import Directory
from node.record_ports import History, Holding
from node.services.replicate_intake import Intake
from protocol import limits
from protocol.dht import BATCH, HEAD, Batch, Head, Mark, batch_key, head_key, validate
from protocol.errors import RemoteProtocolError
from protocol.ids import Epoch, PeerId, RecordName, SwarmId
from protocol.records import Kind, Signed, SigningKey, Stamp, sign

log = structlog.get_logger(__name__)

GATHER: Final = 10.0  # s after a new record: what comes meanwhile goes with it
AGAIN: Final = 3600.0  # s until everything is put anew: who held it may be gone; a batch lives for two days
RETRY: Final = 60.0  # s, where nobody took it: the table knows nobody yet
PUT: Final = 15.0  # s for one store in the table
GET: Final = 15.0  # s for one look into it
BATCHES: Final = 4  # of our newest records, kept there: some fifty of them
READ: Final = 16  # batches of one author read at a time
LOOK_FIRST, LOOK_LAST = 30.0, 90.0  # s between two authors that are looked up
ROOM: Final = BATCH.size - limits.KIB  # bytes of records in one batch: its stamp takes 150


class Table:
    """Puts and finds. `run` is its one long-lived task."""

    def __init__(  # noqa: PLR0913 -- each is one capability
        self,
        directory: Directory,
        history: History,
        intake: Intake,
        *,
        me: PeerId,
        swarm: SwarmId,
        epoch: Epoch,
        key: SigningKey,
        away: Callable[[], Collection[PeerId]],
        wall: Callable[[], int],
        luck: Callable[[], float],
    ) -> None:
        """Prepare.

        Args:
            epoch: of this run of the node: heads and batches are numbered anew in each.
            key: the private key that `me` names.
            away: authors who may have said more than is known here, and cannot be asked.
        """
        self._directory = directory
        self._history = history
        self._intake = intake
        self._me = me
        self._swarm = swarm
        self._epoch = epoch
        self._key = key
        self._away = away
        self._wall = wall
        self._luck = luck
        self._batches = self._heads = 0  # the next sequence numbers
        self._news = trio.Event()
        self.put = self.found = 0  # values that somebody took; records that were new

    async def run(self) -> None:
        """Keep our records there, and look for others'; return never."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep)
            while True:
                await trio.sleep(LOOK_FIRST + self._luck() * (LOOK_LAST - LOOK_FIRST))
                away = sorted(self._away())
                if away:
                    await self.look_up(away[int(self._luck() * len(away))])

    def own_came(self) -> None:
        """Say that there are new records of ours."""
        self._news.set()

    async def look_up(self, author: PeerId) -> int:
        """Take in what the table has of an author and is not here; return how many records were new."""
        head = await self._get(str(head_key(self._swarm, author)))
        if head is None or not isinstance(head.body, Head) or head.body.batch is None:
            return 0
        try:
            if head.body.newest is not None and await self._has(author, head.body.newest):
                return 0
        except Unavailable as error:
            log.warning("table.not_compared", reason=error.message)
            return 0
        news, mark = 0, head.body.batch
        for seq in range(mark.seq, max(mark.seq - READ, -1), -1):
            name = RecordName(author=author, epoch=mark.epoch, seq=seq)
            batch = await self._get(str(batch_key(self._swarm, name)))
            if batch is None or not isinstance(batch.body, Batch):
                break
            try:
                # The author has signed the batch, so it is the author who brings what is in it.
                taken = await self._intake.take(batch.body.records, via=author)
            except Unavailable as error:
                log.warning("table.not_taken_in", reason=error.message)
                break
            news += len(taken.news)
            if not taken.news:
                break
        self.found += news
        return news

    async def _has(self, author: PeerId, mark: Mark) -> bool:
        for held in await self._intake.held({author}):
            if held.epoch == mark.epoch:
                return any(first <= mark.seq <= last for first, last in held.ranges)
        return False

    async def _get(self, key: str) -> Signed[Any] | None:
        value = None
        with trio.move_on_after(GET):
            value = await self._directory.get(key)
        try:
            return None if value is None else validate(key, value, swarm=self._swarm, now_us=self._wall())
        except RemoteProtocolError as error:
            log.debug("table.refused", key=key, reason=error.reason.value)
            return None

    async def _keep(self) -> None:
        pause = RETRY  # records of earlier runs may lie here
        while True:
            with trio.move_on_after(pause):
                await self._news.wait()
            await trio.sleep(GATHER)
            self._news = trio.Event()
            pause = RETRY
            try:
                if await self._put_all():
                    pause = AGAIN
            except Unavailable as error:
                log.warning("table.not_put", reason=error.message)

    async def _put_all(self) -> bool:
        """Put our newest records there, the newest last, then the head that leads to them; whether it was taken."""
        holdings = await self._history.holdings({self._me})
        if not holdings:
            return True
        last: Mark | None = None
        for records in reversed(_batches(await self._newest(holdings))):
            seq, self._batches = self._batches, self._batches + 1
            stamp = self._stamp(BATCH, seq)
            name = RecordName(author=self._me, epoch=self._epoch, seq=seq)
            signed = sign(BATCH, Batch(stamp=stamp, records=records), self._key)
            await self._put(str(batch_key(self._swarm, name)), signed.sealed)
            last = Mark(epoch=self._epoch, seq=seq)
        seq, self._heads = self._heads, self._heads + 1
        newest = Mark(epoch=holdings[0].epoch, seq=holdings[0].ranges[-1][1])
        count = sum(each.count for each in holdings)
        head = Head(stamp=self._stamp(HEAD, seq), records=count, newest=newest, batch=last)
        return await self._put(str(head_key(self._swarm, self._me)), sign(HEAD, head, self._key).sealed)

    async def _newest(self, holdings: Sequence[Holding]) -> list[bytes]:
        found: list[bytes] = []
        size = BATCHES * ROOM
        for held in holdings:
            records = BATCHES * limits.BATCH_RECORDS - len(found)
            if records <= 0 or size <= 0:
                break
            some = await self._history.page(held.author, held.epoch, held.ranges, records=records, size=size)
            found += some
            size -= sum(map(len, some))
        return found

    def _stamp(self, kind: Kind[Any], seq: int) -> Stamp:
        now = max(self._wall(), self._epoch.start_us)
        return Stamp(
            version=kind.version,
            swarm=self._swarm,
            author=self._me,
            epoch=self._epoch,
            seq=seq,
            time=now,
            expiry=now + kind.lifetime_us,
        )

    async def _put(self, key: str, value: bytes) -> bool:
        taken = 0
        with trio.move_on_after(PUT):
            try:
                taken = await self._directory.put(key, value)
            except ValueError as error:
                log.warning("table.refused_ours", reason=str(error))  # the clock has jumped since it was signed
        self.put += taken > 0
        return taken > 0


def _batches(sealed: Sequence[bytes]) -> list[tuple[bytes, ...]]:
    """Divide records into what fits a batch each, at most `BATCHES`; what is too long for any is left out."""
    made: list[list[bytes]] = [[]]
    size = 0
    for one in sealed:
        if len(one) + 5 > ROOM:
            continue
        if size + len(one) + 5 > ROOM or len(made[-1]) == limits.BATCH_RECORDS:
            made.append([])
            size = 0
        made[-1].append(one)
        size += len(one) + 5  # the longest header of a byte string
    return [tuple(each) for each in made[:BATCHES] if each]
