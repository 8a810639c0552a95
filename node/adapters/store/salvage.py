"""Opening whatever lies on the disk: a sound history as it is, of a damaged one what can still be read.

Knows no loop. The damaged file is set aside, never mended in place: what is in it stays for a person to look at.
Records are verified anew on the way, so that nothing that the disk made up gets in. Our own records that are lost
come back from the peers who have them; numbers are not given twice, because every run has an epoch of its own.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any, Final

import structlog

from node.adapters.store.database import Damaged, Database, Row
from node.adapters.store.pen import Pen
from node.adapters.store.rules import Rules
from node.adapters.store.schema import STEPS
from node.adapters.store.shelf import Shelf
from node.errors import Unavailable

log = structlog.get_logger(__name__)

ASIDE: Final = 3  # damaged files kept: they may be as large as the history
ROWS: Final = 256  # read at once of a damaged table; where that fails, its halves
ROWS_MAX: Final = 2**28  # a flipped bit may claim more; 10,000 new records a day get there in 70 years
BATCH: Final = 200  # records per transaction: one wait for the disk each
SMALLEST: Final = 512  # bytes: the smallest page that sqlite knows
COMPANIONS: Final = ("-wal", "-shm")


def open_shelf(file: Path, rules: Rules[Any], *, now_us: Callable[[], int], pen: Pen[Any] | None = None) -> Shelf[Any]:
    """Open the history in `file`, make it, or make it anew from what is left of it. Blocks: 2 s per 100,000 records.

    Raises:
        Unavailable: the file system refused, or a newer version of this program made the file.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if _mended(file).exists():  # the last run had made it and died before it was in place
            _swap(file, now_us())
        if file.exists() and file.stat().st_size < SMALLEST:  # nothing to set aside: sqlite takes it for a new one
            log.warning("history.empty_file", file=str(file))
        file.touch(mode=0o600)
    except OSError as error:
        raise Unavailable(
            f"cannot make or read {file}: {error.strerror or error}", remedy="choose another folder with --data-dir"
        ) from error
    try:
        return _open_sound(file, rules, now_us, pen)
    except Damaged as error:
        log.error("history.damaged", file=str(file), reason=error.message)  # noqa: TRY400 - the trace says no more
    _mend(file, rules, now_us)
    return _open_sound(file, rules, now_us, pen)


def _open_sound(file: Path, rules: Rules[Any], now_us: Callable[[], int], pen: Pen[Any] | None) -> Shelf[Any]:
    with ExitStack() as undo:
        database = undo.enter_context(Database(file, steps=STEPS))
        database.check()
        shelf = Shelf(database, rules, now_us=now_us, pen=pen)
        shelf.inspect()
        undo.pop_all()
    return shelf


def _mend(file: Path, rules: Rules[Any], now_us: Callable[[], int]) -> None:
    mending = file.with_name(f"{file.name}.mending")
    kept = read = 0
    try:
        for each in ("", *COMPANIONS):
            Path(f"{mending}{each}").unlink(missing_ok=True)
        mending.touch(mode=0o600)
        with Database(mending, steps=STEPS) as new:
            shelf = Shelf(new, rules, now_us=now_us)
            for batch in _batches(_readable_records(file)):
                read += len(batch)
                kept += shelf.take_over(batch)
            for first, second in _readable_forks(file):
                shelf.take_over_fork(first, second)
        mending.replace(_mended(file))
        aside = _swap(file, now_us())
    except OSError as error:
        raise Unavailable(
            f"{file} is damaged, and cannot be set aside: {error.strerror or error}",
            remedy=f"make room, or move {file} away yourself: peers have the records, and the node will get them again",
        ) from error
    log.error("history.set_aside", file=str(file), aside=str(aside), records_saved=kept, records_unreadable=read - kept)


def _swap(file: Path, now_us: int) -> Path:
    """Set the damaged file aside and put the mended one in its place. Done again after a crash, it goes on.

    The old log goes first: beside the new file, sqlite would play it into that.
    """
    aside = file.with_name(f"{file.name}.damaged-{now_us}")
    Path(f"{file}-shm").unlink(missing_ok=True)
    for each in ("-wal", ""):
        old = Path(f"{file}{each}")
        if old.exists():
            old.rename(f"{aside}{each}")
    _sync(file.parent)
    _mended(file).replace(file)
    _sync(file.parent)
    damaged = sorted(file.parent.glob(f"{file.name}.damaged-*"), key=lambda each: each.name.removesuffix("-wal"))
    names = sorted({each.name.removesuffix("-wal") for each in damaged})
    for each in damaged:
        if each.name.removesuffix("-wal") in names[:-ASIDE]:
            each.unlink(missing_ok=True)
    return aside


def _mended(file: Path) -> Path:
    return file.with_name(f"{file.name}.mended")


def _sync(folder: Path) -> None:
    """Make renames in this folder last."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _readable_records(file: Path) -> Iterator[bytes]:
    for (sealed,) in _readable(file, "SELECT sealed FROM records WHERE id BETWEEN ? AND ?", _last_row):
        if isinstance(sealed, bytes):
            yield sealed


def _readable_forks(file: Path) -> Iterator[tuple[bytes, bytes]]:
    def last(database: Database) -> int:
        return min(database.rows("SELECT max(rowid) FROM forks")[0][0] or 0, ROWS_MAX)

    for first, second in _readable(file, "SELECT first, second FROM forks WHERE rowid BETWEEN ? AND ?", last):
        if isinstance(first, bytes) and isinstance(second, bytes):
            yield first, second


def _readable(file: Path, between: str, last_row: Callable[[Database], int]) -> Iterator[Row]:
    try:
        with Database(file, steps=None) as database:
            for first in range(1, last_row(database) + 1, ROWS):
                yield from _span(database, between, first, first + ROWS - 1)
    except Damaged:
        return  # not even its beginning can be read


def _span(database: Database, between: str, first: int, last: int) -> Iterator[Row]:
    """Yield what can be read of these rows: where a whole span cannot, its halves."""
    try:
        yield from database.rows(between, first, last)
    except Damaged:
        if first < last:
            middle = (first + last) // 2
            yield from _span(database, between, first, middle)
            yield from _span(database, between, middle + 1, last)


def _last_row(database: Database) -> int:
    """Return the highest row that the records ever had, as whatever part of the file can be read tells."""
    for told in (
        "SELECT max(seq) FROM sqlite_sequence WHERE name = 'records'",
        "SELECT max(id) FROM records",
        "SELECT max(id) FROM (SELECT id FROM records INDEXED BY records_by_expiry)",
    ):
        try:
            ((last,),) = database.rows(told)
        except Damaged:
            continue
        if isinstance(last, int):
            return min(last, ROWS_MAX)
    return 0


def _batches(sealed: Iterator[bytes]) -> Iterator[list[bytes]]:
    while batch := list(islice(sealed, BATCH)):
        yield batch
