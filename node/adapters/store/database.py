"""One sqlite file: opened, brought to today's shape, asked in transactions. Knows no record.

One foreign library: sqlite3. Its errors end here: a disk that refuses is `Unavailable`, a file whose content is not
to be trusted is `Damaged`. Any other error of sqlite is a bug in a statement and passes as it is.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final, Self

from node.errors import Unavailable

# A record of 2 KiB fills half a page of sqlite's usual 4 KiB and leaves the other half empty: a third of the file is
# saved by this, for a tenth more work on the indexes.
PAGE_BYTES: Final = 8192
CACHE_KIB: Final = 16 * 1024  # pages in memory: the upper parts of all indexes of a million records
LOG_PAGES: Final = 4000  # of the write-ahead log, 32 MiB, before it is folded in: what is hot is written once for all
LOG_BYTES: Final = 2 * LOG_PAGES * PAGE_BYTES  # what the log is cut back to, should it have grown
NEWEST: Final = 1000  # versions of the schema that there may ever be; a higher number is a flipped bit
BUSY_S: Final = 5.0  # for a reader on the command line that holds the file; it reads one page at a time

# Primary codes of sqlite that say "what is in this file is wrong"; the primary code is the low byte of the extended.
_DAMAGE: Final = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT}
_SHORT_READ: Final = sqlite3.SQLITE_IOERR | (2 << 8)  # SQLITE_IOERR_SHORT_READ: the file ends before it should

Row = tuple[Any, ...]  # columns as sqlite has them; the tables are STRICT, so their types are the declared ones


class Damaged(Unavailable):
    """The file holds something that sqlite did not write, or no longer all of it."""


class Database:
    """A connection. Not for several threads at once; it may move from one to another between calls."""

    def __init__(self, file: Path, *, steps: Sequence[Sequence[str]] | None, reading: bool = False) -> None:
        """Open the file, make it where there is none, and bring it to the shape that `steps` describe.

        Args:
            steps: statements that lead from each version of the schema to the next; each step is one transaction.
                None: the file is known to be damaged and is only read, whatever its shape.
            reading: never write; the file must be there and of today's shape.

        Raises:
            Damaged: this is no database, or not a whole one.
            Unavailable: the file system refused, or a newer version of this program made the file.
        """
        self.file = file
        self._shapeless = steps is None
        reading = reading or steps is None
        with self._translated():
            where = f"{file.absolute().as_uri()}?mode={'ro' if reading else 'rwc'}"
            self._sqlite = sqlite3.connect(
                where, uri=True, timeout=BUSY_S, isolation_level=None, check_same_thread=False
            )
        with ExitStack() as undo:
            undo.callback(self.close)
            self._prepare(steps, reading=reading)
            undo.pop_all()

    def _prepare(self, steps: Sequence[Sequence[str]] | None, *, reading: bool) -> None:
        if steps is None:  # before all else, which looks into the file
            self.rows("PRAGMA writable_schema = ON")  # without it, nothing is read of a file that was cut off
        self.rows("PRAGMA trusted_schema = OFF")
        self.rows("PRAGMA cell_size_check = ON")  # notices a torn page when it is read, not when it crashes
        self.rows(f"PRAGMA cache_size = -{CACHE_KIB}")
        if steps is None:
            return
        if not reading:
            self.rows(f"PRAGMA page_size = {PAGE_BYTES}")  # of a new file; an old one keeps its own
            self.rows("PRAGMA journal_mode = WAL")
            self.rows("PRAGMA synchronous = FULL")  # each commit waits for the disk: what was acknowledged survives
            self.rows(f"PRAGMA wal_autocheckpoint = {LOG_PAGES}")
            self.rows(f"PRAGMA journal_size_limit = {LOG_BYTES}")
        version = self._version(steps)
        if reading and version < len(steps):
            raise Unavailable(
                f"{self.file} is of an older version of metainf", remedy="start the node once: it brings it up to date"
            )
        for number, step in enumerate(steps[version:], start=version + 1):
            with self.transaction():
                for statement in step:
                    self.rows(statement)
                self.rows(f"PRAGMA user_version = {number}")

    def _version(self, steps: Sequence[Sequence[str]]) -> int:
        """Return the version of the schema that the file says to have, and has."""
        (version,) = self.rows("PRAGMA user_version")[0]
        if len(steps) < version <= NEWEST:
            raise Unavailable(
                f"{self.file} was written by a newer version of metainf (schema {version}, ours is {len(steps)})",
                remedy="upgrade, or choose another folder with --data-dir",
            )
        if not 0 <= version <= len(steps) or self._shape() != _shape_after(steps[:version]):
            raise Damaged(f"{self.file} is damaged: its tables are not those of its version")
        return version

    def _shape(self) -> set[Row]:
        return set(self.rows("SELECT type, name, sql FROM sqlite_schema"))

    def rows(self, sql: str, *values: object) -> list[Row]:
        """Run one statement and return all it yields; say LIMIT where that may be much.

        Raises:
            Damaged: the file is not whole.
            Unavailable: the disk refused; inside a transaction everything of it is undone.
        """
        with self._translated():
            return self._sqlite.execute(sql, values).fetchall()

    def each(self, sql: str, *values: object) -> Iterator[Row]:
        """Run one statement and yield as it goes. Raises as `rows` does, on the way too."""
        with self._translated():
            yield from self._sqlite.execute(sql, values)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing, and on the disk when the block is left. Raises as `rows` does."""
        self.rows("BEGIN IMMEDIATE")
        try:
            yield
            self.rows("COMMIT")
        finally:
            if self._sqlite.in_transaction:  # not committed; and some errors of the disk have ended it already
                with suppress(sqlite3.Error):  # the reason for undoing is the error to report
                    self._sqlite.execute("ROLLBACK")

    def check(self) -> None:
        """Read every page and hold tables and indexes against each other.

        Raises:
            Damaged: they do not agree, or cannot be read.
        """
        (found,) = self.rows("PRAGMA integrity_check(1)")[0]
        if found != "ok":
            raise Damaged(f"{self.file} is damaged: {found}")

    def close(self) -> None:
        """Close the file; the write-ahead log is folded into it where possible."""
        try:
            self._sqlite.close()
        except sqlite3.Error:
            return  # the log stays beside the file, and the next to open it reads it

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.IntegrityError, sqlite3.ProgrammingError):
            raise  # bugs, both
        except UnicodeDecodeError as error:  # of a message that quotes what is in the file; we write ASCII alone
            raise Damaged(f"{self.file} is damaged: text in it is none") from error
        except sqlite3.DatabaseError as error:
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)  # without one: text that is no UTF-8
            unknown = code & 0xFF == sqlite3.SQLITE_ERROR  # no such table: a bug, or the damage in a shapeless file
            if code & 0xFF in _DAMAGE or code == _SHORT_READ or (unknown and self._shapeless):
                raise Damaged(f"{self.file} is damaged: {error}") from error
            if unknown:
                raise
            raise Unavailable(
                f"the history in {self.file} cannot be read or written: {error}",
                remedy="look whether the disk is full, read-only or failing; `metainf doctor` says what it sees",
            ) from error


def _shape_after(steps: Sequence[Sequence[str]]) -> set[Row]:
    """Return the shape that these steps give an empty database."""
    model = sqlite3.connect(":memory:", isolation_level=None)
    try:
        for step in steps:
            for statement in step:
                model.execute(statement)
        return set(model.execute("SELECT type, name, sql FROM sqlite_schema"))
    finally:
        model.close()
