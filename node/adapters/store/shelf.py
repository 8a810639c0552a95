"""The history as its one thread sees it: judges records, keeps what is good and retained, and answers.

Knows no loop and no network. Every method blocks for the disk; whoever calls one calls it alone.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from hashlib import sha256
from types import MappingProxyType
from typing import Final, Generic, TypeVar

import structlog

from node.adapters.store.database import Database
from node.adapters.store.heads import Heads
from node.adapters.store.pen import Pen
from node.adapters.store.retain import retain
from node.adapters.store.rules import Rules
from node.adapters.store.tables import Head, Listed, Query, Tables
from node.record_ports import Admitted, HistoryFacts, Holding, Standing
from protocol import limits
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.ids import PeerId, RecordName
from protocol.records import Fork, Signed, Stamp, Stamped, find_fork, verify_and_open, verify_archived

log = structlog.get_logger(__name__)

QUARANTINED: Final = "quarantined"
NOT_RETAINED: Final = "not_retained"  # its author's share is filled with what is worth more
REASONS: Final = 64  # kinds of rejection counted apart; the wire's reasons and the checks' are some forty
OTHER: Final = "other"
EXPIRED_AT_ONCE: Final = 256  # dropped on the side of a batch: four times what comes in with it

B = TypeVar("B", bound=Stamped)


class Shelf(Generic[B]):
    """The records of one kind in one swarm, in one database. All errors of the disk are `node.errors.Unavailable`."""

    def __init__(
        self, database: Database, rules: Rules[B], *, now_us: Callable[[], int], pen: Pen[B] | None = None
    ) -> None:
        self.database = database
        self._rules = rules
        self._now_us = now_us
        self._tables = Tables(database)
        self._heads = Heads(self._tables, ranges=limits.HISTORY_RANGES)
        self._rejected: Counter[str] = Counter()
        self._pen = pen
        self.facts = self._count()

    # -- what comes in

    def admit(self, sealed: Sequence[bytes], *, via: PeerId | None) -> tuple[Admitted, ...]:
        """Judge records in order and keep the good ones; a verdict for each. All of them or none are kept."""
        now = self._now_us()
        judged = [self._judge(raw, now) for raw in sealed]
        verdicts = [each if isinstance(each, Admitted) else None for each in judged]
        if None in verdicts:
            touched: set[Head] = set()
            with self.database.transaction():
                touched |= self._tables.drop_expired(now, most=EXPIRED_AT_ONCE)
                placed = [each if isinstance(each, Admitted) else self._place(each, now, touched) for each in judged]
                dropped = retain(self._tables, self._rules.quota, _new_authors(placed), now_us=now, touched=touched)
            self._heads.touch(touched)
            verdicts = [_unless_dropped(each, dropped) for each in placed]
        done = tuple(each for each in verdicts if each is not None)
        self._rejected.update(self._counted(each.reason) for each in done if each.standing is Standing.REJECTED)
        quarantined, self.facts = self.facts.quarantined, self._count()
        if self.facts.quarantined > quarantined:
            proven = [str(each.name) for each in done if each.standing is Standing.FORK]
            log.warning("history.fork", names=proven, via=str(via))
        return done

    def _counted(self, reason: str) -> str:
        return reason if reason in self._rejected or len(self._rejected) < REASONS else OTHER

    def _judge(self, raw: bytes, now: int) -> Signed[B] | Admitted:
        if len(raw) <= limits.RECORD_BYTES and (name := self._tables.named(sha256(raw).digest(), now_us=now)):
            return Admitted(standing=Standing.KNOWN, name=name)  # cheap, so that repetition costs us nothing
        try:
            return verify_and_open(raw, self._rules.kind, swarm=self._rules.swarm, now_us=now)
        except RemoteProtocolError as error:
            return Admitted(standing=Standing.REJECTED, reason=error.reason.value)

    def _place(self, signed: Signed[B], now: int, touched: set[Head]) -> Admitted:
        name = signed.name
        if raw := self._tables.under(name):
            if held := self._archived(raw):
                return self._meet(signed, held, now, touched)
            self._tables.remove(name)  # the disk has changed it
        if self._tables.quarantined(name.author):
            return Admitted(standing=Standing.REJECTED, name=name, reason=QUARANTINED)
        if reason := self._rules.check(signed):
            return Admitted(standing=Standing.REJECTED, name=name, reason=reason)
        self._put(signed, touched)
        return Admitted(standing=Standing.NEW, name=name)

    def _meet(self, signed: Signed[B], held: Signed[B], now: int, touched: set[Head]) -> Admitted:
        """Judge a record whose name is taken."""
        if fork := find_fork(held, signed):
            self._tables.add_fork(fork, now)
            return Admitted(standing=Standing.FORK, name=signed.name)
        if signed.sealed < held.sealed:
            # An author can make several valid signatures of one body. Everybody keeps the same: the smallest.
            self._tables.remove(signed.name)
            self._put(signed, touched)
        return Admitted(standing=Standing.KNOWN, name=signed.name)

    def _put(self, signed: Signed[B], touched: set[Head]) -> None:
        raw = signed.sealed
        self._tables.insert(signed.body.stamp, raw, sha256(raw).digest(), self._rules.cell(signed))
        touched.add((signed.name.author.key, signed.name.epoch.start_us))

    # -- our own

    def append(self, compose: Callable[[Stamp], B], *, lifetime_us: int) -> Signed[B]:
        """Write a record of our own: `compose` makes the body around the stamp. Returns once it is on the disk.

        Raises:
            LocalProtocolError: the history was opened without a pen, or the body breaks a rule of its kind.
        """
        if self._pen is None:
            raise LocalProtocolError("a history that was opened without a pen has no records of its own")
        now = self._now_us()
        signed = self._pen.write(self._tables, compose, now_us=now, lifetime_us=lifetime_us)
        touched: set[Head] = set()
        with self.database.transaction():
            self._put(signed, touched)
            retain(self._tables, self._rules.quota, [signed.name.author], now_us=now, touched=touched)
        self._heads.touch(touched)
        self.facts = self._count()
        return signed

    # -- what goes out

    def holdings(self, authors: Collection[PeerId] | None) -> tuple[Holding, ...]:
        """See `node.record_ports.History`."""
        self._sweep()
        return self._heads.holdings(authors)

    def _sweep(self) -> None:
        """Drop whatever has expired."""
        now, gone = self._now_us(), True
        while gone and self._tables.expires_by(now):
            with self.database.transaction():
                gone = self._tables.drop_expired(now, most=EXPIRED_AT_ONCE)
            self._heads.touch(gone)
            self.facts = self._count()

    def page(self, head: Head, ranges: Sequence[tuple[int, int]], *, records: int, size: int) -> tuple[bytes, ...]:
        """See `node.record_ports.History`. A record that the disk has changed is dropped, not handed on."""
        now, page, rotten = self._now_us(), list[bytes](), list[int]()
        for first, last in sorted(ranges, reverse=True):
            if size < 0 or len(page) >= records:
                break
            for row, raw_hash, sealed in self._tables.some(head, first, last, now_us=now, most=records - len(page)):
                if sha256(sealed).digest() != raw_hash:
                    rotten.append(row)
                    continue
                size -= len(sealed)
                if size < 0:
                    break
                page.append(sealed)
        self._forget(rotten)
        return tuple(page)

    def browse(self, query: Query, *, most: int) -> tuple[Listed, ...]:
        """Return records as people ask for them, newest first, at most so many."""
        return tuple(self._tables.browse(query, most=most))

    def forks(self, *, most: int) -> tuple[Fork, ...]:
        """Return the proofs of forks, the latest first."""
        return tuple(self._tables.forks(most=most))

    # -- whether it is whole

    def inspect(self) -> None:
        """Hold every record against its hash, and the sums against the records. Reads everything."""
        self._forget(self._tables.rotten())
        self._tables.recount()
        self.facts = self._count()

    def _forget(self, rotten: Collection[int]) -> None:
        if not rotten:
            return
        with self.database.transaction():
            touched = self._tables.drop_rows(rotten)
        self._heads.touch(touched)
        self.facts = self._count()
        log.error("history.records_damaged", file=str(self.database.file), dropped=len(rotten))

    def take_over(self, sealed: Sequence[bytes]) -> int:
        """Keep what verifies of a damaged history, whatever its time; return how many did."""
        kept = 0
        with self.database.transaction():
            for raw in sealed:
                signed = self._archived(raw)
                if signed is not None and self._tables.under(signed.name) is None:
                    self._tables.insert(signed.body.stamp, raw, sha256(raw).digest(), self._rules.cell(signed))
                    kept += 1
        return kept

    def take_over_fork(self, one: bytes, other: bytes) -> None:
        """Keep the proof of a fork from a damaged history, if it is one."""
        first, second = self._archived(one), self._archived(other)
        if first is not None and second is not None and (fork := find_fork(first, second)):
            with self.database.transaction():
                self._tables.add_fork(fork, self._now_us())

    def _archived(self, raw: bytes) -> Signed[B] | None:
        try:
            return verify_archived(raw, self._rules.kind, swarm=self._rules.swarm)
        except RemoteProtocolError:
            return None

    def close(self) -> None:
        """Close the file."""
        self.database.close()

    def _count(self) -> HistoryFacts:
        records, authors, size = self._tables.totals()
        return HistoryFacts(
            records=records,
            authors=authors,
            bytes=size,
            quarantined=self._tables.count_forks(),  # one proof is kept of each author
            rejected=MappingProxyType(dict(self._rejected)),
        )


def _new_authors(verdicts: Iterable[Admitted]) -> set[PeerId]:
    return {each.name.author for each in verdicts if each.standing is Standing.NEW and each.name}


def _unless_dropped(verdict: Admitted, dropped: Collection[RecordName]) -> Admitted:
    if verdict.standing is Standing.NEW and verdict.name in dropped:
        return Admitted(standing=Standing.REJECTED, name=verdict.name, reason=NOT_RETAINED)
    return verdict
