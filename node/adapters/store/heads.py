"""What is held of whom, in memory: ranges and digests per author and epoch, worked out anew where something changed.

Knows no protocol that tells them, and no database beyond two questions to the tables.
"""

from collections.abc import Collection, Iterable
from itertools import groupby
from typing import Final

from node.adapters.store.tables import Head, Tables
from node.record_ports import Holding
from protocol.ids import Epoch, PeerId

DIGEST_BYTES: Final = 32


class Heads:
    """The holdings of a history. About 600 bytes for each author's epoch; the cap on records bounds them."""

    def __init__(self, tables: Tables, *, ranges: int) -> None:
        self._tables = tables
        self._ranges = ranges
        self._known: dict[bytes, dict[int, Holding]] | None = None  # None until they are first asked for
        self._stale: set[Head] = set()

    def touch(self, heads: Iterable[Head]) -> None:
        """Note that records came or went there."""
        if self._known is not None:
            self._stale.update(heads)

    def holdings(self, authors: Collection[PeerId] | None) -> tuple[Holding, ...]:
        """Return what is held of these authors, or of all: by author, the newest epoch first."""
        known = self._fresh()
        chosen = sorted(known) if authors is None else sorted({each.key for each in authors} & known.keys())
        return tuple(known[author][epoch] for author in chosen for epoch in sorted(known[author], reverse=True))

    def _fresh(self) -> dict[bytes, dict[int, Holding]]:
        if self._known is None:
            known: dict[bytes, dict[int, Holding]] = {}
            for head, rows in groupby(self._tables.all_numbers(), key=lambda row: (row[0], row[1])):
                self._put(known, head, ((seq, raw_hash) for _, _, seq, raw_hash in rows))
            self._known = known
            self._stale.clear()
        while self._stale:
            head = next(iter(self._stale))
            self._put(self._known, head, self._tables.numbers(head))
            self._stale.discard(head)
        return self._known

    def _put(self, known: dict[bytes, dict[int, Holding]], head: Head, rows: Iterable[tuple[int, bytes]]) -> None:
        author, epoch = head
        holding = summarise(PeerId(author), Epoch(epoch), rows, most=self._ranges)
        if holding is not None:
            known.setdefault(author, {})[epoch] = holding
        elif author in known:
            known[author].pop(epoch, None)
            if not known[author]:
                del known[author]


def summarise(author: PeerId, epoch: Epoch, rows: Iterable[tuple[int, bytes]], *, most: int) -> Holding | None:
    """Put (seq, hash) pairs that come newest first into at most so many ranges; None where there are none."""
    ranges: list[tuple[int, int]] = []
    count = digest = 0
    for seq, raw_hash in rows:
        if ranges and seq == ranges[-1][0] - 1:
            ranges[-1] = (seq, ranges[-1][1])
        elif len(ranges) == most:
            break
        else:
            ranges.append((seq, seq))
        count += 1
        digest ^= int.from_bytes(raw_hash, "big")
    if not ranges:
        return None
    whole = digest.to_bytes(DIGEST_BYTES, "big")
    return Holding(author=author, epoch=epoch, ranges=tuple(reversed(ranges)), count=count, digest=whole)
