"""Lessons for the learner: the records that count most, out of the history's file into a private one.

Knows the tables and reads them beside whoever writes; knows no learner and opens no record: a lesson carries sealed
records, and the learner's own process, at its low priority, pays for reading them. A page at a time is read in a
thread, so that neither the loop nor a writer ever waits for more. What metainf ships with comes last, from beside the
history and never into it: see docs/decisions/warm-start.md.
"""

import contextlib
import os
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from itertools import islice
from pathlib import Path
from typing import Final, TypeVar

import trio

from node.adapters.store.reader import read_history
from node.adapters.store.tables import Query, Tables
from node.core.cells import cell_of
from node.core.snapshot import Snapshot
from node.errors import Unavailable
from node.files import PRIVATE
from node.learner_ports import Authors, Lesson
from protocol.ids import PeerId

T = TypeVar("T")

PAGE: Final = 200  # records read at once: two milliseconds
# Share of a lesson that one author other than ourselves gets: what the learner would let it count for, at most (see
# `node.learner.trust`). Where there are few, twice an equal share.
ONE_AUTHOR: Final = 0.1
EQUAL_SHARES: Final = 2
KNOWN: Final = 0.75  # share of what is left after our own that known authors get, where there are others too
SCAN: Final = 4  # times as many records as are wanted are looked through for those of unknown authors


class LessonFile:
    """Writes lessons beside the history. Keeps the port `Lessons`."""

    def __init__(self, history: Path, *, shipped: Snapshot | None = None) -> None:
        """`history`: the file of a swarm's records. `shipped`: what metainf came with; None where there is none."""
        self._history = history
        self._shipped = shipped
        self._file = history.with_name(f".{history.stem}.lesson.jsonl")
        self._partial = self._file.with_suffix(".partial")

    async def write(self, authors: Authors, *, most: int) -> Lesson:
        """See `node.learner_ports.Lessons`."""
        try:
            return await self._write(authors, most)
        except OSError as error:
            raise Unavailable(f"cannot write {self._file}: {error.strerror or error}") from error
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(_unlink, self._partial)

    async def _write(self, authors: Authors, most: int) -> Lesson:
        written: Counter[PeerId] = Counter()
        ours = frozenset[PeerId]() if self._shipped is None else self._shipped.authors
        seen: set[bytes] = set()  # of what is shipped, what the history has too
        shipped = 0
        with contextlib.ExitStack() as resources:
            out = await _off(lambda: resources.enter_context(os.fdopen(_private(self._partial), "wb")))
            tables = await _off(lambda: resources.enter_context(read_history(self._history)))
            pages = choose(tables, authors, most)

            def copy_page() -> bool:
                if (page := next(pages, None)) is None:
                    return False
                out.writelines(b'{"record.sealed":"' + b64encode(sealed) + b'"}\n' for _, sealed in page)
                written.update(author for author, _ in page)
                seen.update(sealed for author, sealed in page if author in ours)
                return True

            while await _off(copy_page):
                pass
            if self._shipped is not None:
                snapshot, left = self._shipped, most - written.total()
                pages = iter([await _off(lambda: choose_shipped(snapshot, tables, authors, seen, left))])
                held = written.total()
                await _off(copy_page)
                shipped = written.total() - held
            await _off(resources.close)
        await _off(lambda: self._partial.replace(self._file))
        return Lesson(
            path=self._file,
            records=written.total(),
            own=written[authors.own],
            authors=len(written),
            shipped=shipped,
        )

    async def remove(self) -> None:
        """See `node.learner_ports.Lessons`."""
        for file in (self._partial, self._file):
            await trio.to_thread.run_sync(_unlink, file)


def choose(tables: Tables, authors: Authors, most: int) -> Iterator[list[tuple[PeerId, bytes]]]:
    """Yield pages of (author, sealed record), at most `most` records: own, then known authors', then the newest.

    Whoever floods the history with new identities pushes out other unknown ones, and nobody else.
    """
    left = most
    for page in _of(tables, authors.own, left):
        left -= len(page)
        yield page
    each = max(int(most * max(ONE_AUTHOR, EQUAL_SHARES / max(tables.totals()[1], EQUAL_SHARES))), 1)
    known = sorted(authors.known - authors.shunned - {authors.own})
    for_known = int(left * KNOWN)
    share = min(each, max(for_known // max(len(known), 1), 1))
    for author in known:
        for page in _of(tables, author, min(share, left) if not tables.quarantined(author) else 0):
            left -= len(page)
            yield page
    yield from _of_others(tables, authors, left=left, each=each, scan=most * SCAN)


def choose_shipped(
    snapshot: Snapshot, tables: Tables, authors: Authors, seen: Collection[bytes], most: int
) -> list[tuple[PeerId, bytes]]:
    """Return what of the shipped records belongs into a lesson that the history has left so much room in, newest first.

    They lose against what is fresh: they come last, and where this node has measured the very same itself, not at all.

    Args:
        seen: sealed records that are in the lesson already.
    """
    if most <= 0:
        return []
    measured = {entry.cell for entry in tables.entries(authors.own.key)}
    newest = sorted(snapshot.records, key=lambda each: each.body.stamp.time, reverse=True)
    fresh = (each for each in newest if each.sealed not in seen and cell_of(each) not in measured)
    return [(each.name.author, each.sealed) for each in islice(fresh, most)]


def _of(tables: Tables, author: PeerId, most: int) -> Iterator[list[tuple[PeerId, bytes]]]:
    """Yield an author's newest records."""
    after = None
    while most > 0 and (found := tables.newest_of(author, after=after, most=min(PAGE, most))):
        most -= len(found)
        after = found[-1][:2]
        yield [(author, sealed) for _, _, sealed in found]


def _of_others(
    tables: Tables, authors: Authors, *, left: int, each: int, scan: int
) -> Iterator[list[tuple[PeerId, bytes]]]:
    """Yield the newest records of authors that are neither known nor shunned, of one not more than `each`."""
    aside = authors.known | authors.shunned | {authors.own} | {fork.name.author for fork in tables.forks()}
    query, taken = Query(), Counter[PeerId]()
    while left > 0 and scan > 0 and (listed := tables.browse(query, most=PAGE)):
        page: list[tuple[PeerId, bytes]] = []
        for one in listed:
            author = one.name.author
            if author not in aside and taken[author] < each and len(page) < left:
                taken[author] += 1
                page.append((author, one.sealed))
        left, scan = left - len(page), scan - len(listed)
        query = Query(after=listed[-1].place)
        yield page


def _private(file: Path) -> int:
    return os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, PRIVATE)


def _unlink(file: Path) -> None:
    with contextlib.suppress(OSError):  # gone, or on a disk that refuses; the next lesson is written over it
        file.unlink()


async def _off(ask: Callable[[], T]) -> T:
    """Do it off the loop."""
    return await trio.to_thread.run_sync(ask)
