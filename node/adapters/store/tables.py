"""Questions and changes in the history's tables: records by name, expiry and time; sums by author; proofs of forks.

Knows no signature, no clock and no thread: what it is given has been judged, and whoever calls it calls it alone.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from node.adapters.store.database import Database
from node.core.retention import Entry, author_digest
from protocol import limits
from protocol.ids import Epoch, PeerId, RecordName
from protocol.records import Fork, Stamp

Head = tuple[bytes, int]  # public key of an author, start of an epoch: what holdings are told by

# Proofs kept at most: as many authors can be in quarantine at once. An identity costs nothing, so somebody can push
# others' proofs out with ones of his own; the proof of an author who goes on speaking is found again.
FORKS: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What to list, newest first. Times in microseconds since 1970, by the authors' clocks.

    Attributes:
        since_us, until_us: both are in it.
        after: `Listed.place` of the last record of the page before; None begins with the newest.
    """

    author: PeerId | None = None
    since_us: int = 0
    until_us: int = limits.TIME_MAX_US
    after: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """One record of a listing. `place` is where a next page goes on."""

    place: tuple[int, int]
    name: RecordName
    sealed: bytes


class Tables:
    """The history's tables in one database. Errors of the disk are those of `Database`."""

    def __init__(self, database: Database) -> None:
        self._sql = database

    # -- what is there

    def named(self, raw_hash: bytes, *, now_us: int) -> RecordName | None:
        """Return the name of the living record of this SHA-256; None where there is none."""
        sql = "SELECT author, epoch, seq FROM records WHERE hash = ? AND expiry > ?"
        found = self._sql.rows(sql, raw_hash, now_us)
        return _name(*found[0]) if found else None

    def under(self, name: RecordName) -> bytes | None:
        """Return the sealed record of this name."""
        found = self._sql.rows(
            "SELECT sealed FROM records WHERE author = ? AND epoch = ? AND seq = ?",
            *(name.author.key, name.epoch.start_us, name.seq),
        )
        return found[0][0] if found else None

    def last_epoch(self, author: PeerId) -> int | None:
        """Return the latest epoch that there is a record of."""
        return self._sql.rows("SELECT max(epoch) FROM records WHERE author = ?", author.key)[0][0]

    def last_seq(self, author: PeerId, epoch: int) -> int:
        """Return the highest number of this epoch; -1 where there is none."""
        sql = "SELECT max(seq) FROM records WHERE author = ? AND epoch = ?"
        (last,) = self._sql.rows(sql, author.key, epoch)[0]
        return -1 if last is None else last

    def totals(self) -> tuple[int, int, int]:
        """Return records, authors and bytes."""
        records, authors, size = self._sql.rows("SELECT records, authors, bytes FROM totals")[0]
        return records, authors, size

    def authors_by_size(self, *, most: int) -> list[tuple[int, bytes, bytes]]:
        """Return (records, digest, author) of those who have the most records, in falling order."""
        return self._sql.rows(
            "SELECT records, digest, author FROM authors ORDER BY records DESC, digest DESC LIMIT ?", most
        )

    def records_of(self, author: bytes) -> int:
        """Return how many records there are of an author."""
        found = self._sql.rows("SELECT records FROM authors WHERE author = ?", author)
        return found[0][0] if found else 0

    def entries(self, author: bytes) -> list[Entry]:
        """Return an author's records as the retention rule sees them."""
        found = self._sql.rows("SELECT epoch, seq, cell, time, expiry FROM records WHERE author = ?", author)
        return [
            Entry(name=_name(author, epoch, seq), cell=cell, time=time, expiry=expiry)
            for epoch, seq, cell, time, expiry in found
        ]

    def expires_by(self, now_us: int) -> bool:
        """Whether anything has expired."""
        return bool(self._sql.rows("SELECT 1 FROM records WHERE expiry <= ? LIMIT 1", now_us))

    def numbers(self, head: Head) -> Iterator[tuple[int, bytes]]:
        """Yield (seq, hash) of one epoch of an author, newest first."""
        sql = "SELECT seq, hash FROM records WHERE author = ? AND epoch = ? ORDER BY seq DESC"
        yield from self._sql.each(sql, *head)

    def all_numbers(self) -> Iterator[tuple[bytes, int, int, bytes]]:
        """Yield (author, epoch, seq, hash) of all, the records of an epoch together and newest first."""
        yield from self._sql.each(
            "SELECT author, epoch, seq, hash FROM records ORDER BY author DESC, epoch DESC, seq DESC"
        )

    def some(self, head: Head, first: int, last: int, *, now_us: int, most: int) -> Iterator[tuple[int, bytes, bytes]]:
        """Yield (row, hash, sealed) of the living records of these numbers, newest first."""
        yield from self._sql.each(
            "SELECT id, hash, sealed FROM records WHERE author = ? AND epoch = ? AND seq BETWEEN ? AND ?"
            " AND expiry > ? ORDER BY seq DESC LIMIT ?",
            *(*head, first, last, now_us, most),
        )

    def browse(self, query: Query, *, most: int) -> list[Listed]:
        """Return a page of what was asked for."""
        time, row = query.after or (limits.TIME_MAX_US + 1, 0)
        author = query.author.key if query.author else None
        found = self._sql.rows(
            "SELECT time, id, author, epoch, seq, sealed FROM records"
            " WHERE (time, id) < (?, ?) AND time BETWEEN ? AND ? AND (? IS NULL OR author = ?)"
            " ORDER BY time DESC, id DESC LIMIT ?",
            *(time, row, query.since_us, query.until_us, author, author, most),
        )
        return [Listed(place=(at, row), name=_name(*name), sealed=sealed) for at, row, *name, sealed in found]

    def newest_of(
        self, author: PeerId, *, after: tuple[int, int] | None = None, most: int
    ) -> list[tuple[int, int, bytes]]:
        """Return (epoch, seq, sealed) of an author, newest first, those that come after that place."""
        epoch, seq = after or (limits.TIME_MAX_US + 1, 0)
        return self._sql.rows(
            "SELECT epoch, seq, sealed FROM records WHERE author = ? AND (epoch, seq) < (?, ?)"
            " ORDER BY epoch DESC, seq DESC LIMIT ?",
            *(author.key, epoch, seq, most),
        )

    # -- what changes; in a transaction of the caller's

    def insert(self, stamp: Stamp, sealed: bytes, raw_hash: bytes, cell: bytes) -> None:
        """Add a record whose name and hash are new."""
        author = stamp.author.key
        self._sql.rows(
            "INSERT INTO records (author, epoch, seq, time, expiry, cell, hash, sealed)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            *(author, stamp.epoch.start_us, stamp.seq, stamp.time, stamp.expiry, cell, raw_hash, sealed),
        )
        self._sql.rows(
            "INSERT INTO authors VALUES (?, ?, 1, ?)"
            " ON CONFLICT DO UPDATE SET records = records + 1, bytes = bytes + excluded.bytes",
            *(author, author_digest(stamp.author), len(sealed)),
        )

    def remove(self, name: RecordName) -> None:
        """Drop the record of this name."""
        self._sql.rows(
            "DELETE FROM records WHERE author = ? AND epoch = ? AND seq = ?",
            *(name.author.key, name.epoch.start_us, name.seq),
        )

    def drop_rows(self, rows: Collection[int]) -> set[Head]:
        """Drop these rows."""
        heads: set[Head] = set()
        for row in rows:
            heads.update(self._sql.rows("DELETE FROM records WHERE id = ? RETURNING author, epoch", row))
        return heads

    def drop_expired(self, now_us: int, *, most: int) -> set[Head]:
        """Drop what has expired, the longest expired first; an empty answer says that nothing has."""
        dropped = self._sql.rows(
            "DELETE FROM records WHERE id IN (SELECT id FROM records WHERE expiry <= ? ORDER BY expiry LIMIT ?)"
            " RETURNING author, epoch",
            *(now_us, most),
        )
        return set(dropped)

    # -- forks

    def quarantined(self, author: PeerId) -> bool:
        """Whether there is a proof against this author."""
        return bool(self._sql.rows("SELECT 1 FROM forks WHERE author = ?", author.key))

    def forks(self, *, most: int = FORKS) -> list[Fork]:
        """Return the proofs, the latest first."""
        found = self._sql.rows(
            "SELECT author, epoch, seq, first, second FROM forks ORDER BY found DESC, rowid DESC LIMIT ?", most
        )
        return [Fork(name=_name(*name), first=first, second=second) for *name, first, second in found]

    def count_forks(self) -> int:
        """Return how many proofs there are: one for each author in quarantine."""
        return self._sql.rows("SELECT count(*) FROM forks")[0][0]

    def add_fork(self, fork: Fork, now_us: int) -> None:
        """Keep the proof; the first one of an author counts."""
        name = fork.name
        self._sql.rows(
            "INSERT INTO forks VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            *(name.author.key, name.epoch.start_us, name.seq, fork.first, fork.second, now_us),
        )
        self._sql.rows(
            "DELETE FROM forks WHERE rowid IN (SELECT rowid FROM forks ORDER BY found DESC LIMIT -1 OFFSET ?)", FORKS
        )

    # -- whether it is what was written

    def rotten(self) -> Sequence[int]:
        """Return the rows whose record is no longer the one that was written. Reads everything."""
        return [
            row
            for row, raw_hash, sealed in self._sql.each("SELECT id, hash, sealed FROM records")
            if sha256(sealed).digest() != raw_hash
        ]

    def recount(self) -> None:
        """Mend the sums, where they are not those of the records."""
        real: list[tuple[bytes, int, int]] = self._sql.rows(
            "SELECT author, count(*), sum(length(sealed)) FROM records GROUP BY author"
        )
        kept = self._sql.rows("SELECT author, records, bytes FROM authors ORDER BY author")
        sums = sum(count for _, count, _ in real), len(real), sum(size for *_, size in real)
        if sorted(real) == kept and self.totals() == sums:
            return
        with self._sql.transaction():
            self._sql.rows("DELETE FROM authors")
            for author, count, size in real:
                digest = author_digest(PeerId(author))
                self._sql.rows("INSERT INTO authors VALUES (?, ?, ?, ?)", author, digest, count, size)
            self._sql.rows("UPDATE totals SET records = ?, authors = ?, bytes = ?", *sums)


def _name(author: bytes, epoch: int, seq: int) -> RecordName:
    return RecordName(author=PeerId(author), epoch=Epoch(epoch), seq=seq)
