"""What this node holds, by author, as the digests that the exchange of histories compares.

Knows no record: only digests, and whose. It says nothing about what it was not told, so whoever keeps it tells it of
every author whose holdings may have changed. A quarter of a kilobyte for each author.
"""

from bisect import bisect_left
from collections.abc import Sequence

from protocol import limits
from protocol.history import Held, Place, author_digest, bucket_digest, bucket_of, root
from protocol.ids import PeerId


class Ledger:
    """Digests of authors and buckets. Adding is cheap; what changed is digested when it is asked for."""

    def __init__(self) -> None:
        self._digests: list[dict[PeerId, bytes]] = [{} for _ in range(limits.HISTORY_BUCKETS)]
        self._orders: dict[int, list[PeerId]] = {}  # of buckets that have not changed since
        self._buckets: dict[int, bytes] = {}  # likewise
        self._authors: set[PeerId] = set()

    def __len__(self) -> int:
        """Return how many authors there are."""
        return len(self._authors)

    @property
    def authors(self) -> frozenset[PeerId]:
        """All of them."""
        return frozenset(self._authors)

    def put(self, author: PeerId, held: Sequence[Held]) -> None:
        """Note all that is held of an author, the newest epoch first; nothing forgets it."""
        index = bucket_of(author)
        bucket = self._digests[index]
        if not held:
            if bucket.pop(author, None) is None:
                return
            self._authors.discard(author)
            self._orders.pop(index, None)
        else:
            digest = author_digest(held)
            if author not in bucket:
                self._orders.pop(index, None)
            elif bucket[author] == digest:
                return
            bucket[author] = digest
            self._authors.add(author)
        self._buckets.pop(index, None)

    def digests(self) -> bytes:
        """Return the digests of all buckets, in order."""
        for index in range(limits.HISTORY_BUCKETS):
            if index not in self._buckets:
                bucket = self._digests[index]
                self._buckets[index] = bucket_digest((author, bucket[author]) for author in self._order(index))
        return b"".join(self._buckets[index] for index in range(limits.HISTORY_BUCKETS))

    def root(self) -> bytes:
        """Return the digest of everything."""
        return root(self.digests())

    def listed(self, buckets: bytes, after: Place | None, *, most: int) -> list[PeerId]:
        """Return authors of those buckets in order; beginning with that of `after`: it may have other epochs."""
        found: list[PeerId] = []
        first = 0 if after is None else bucket_of(after.author)
        for index in range(first, limits.HISTORY_BUCKETS):
            if not buckets[index // 8] & 0x80 >> index % 8:
                continue
            order = self._order(index)
            begin = bisect_left(order, after.author) if after is not None and index == first else 0
            found += order[begin : begin + most - len(found)]
            if len(found) == most:
                break
        return found

    def _order(self, index: int) -> list[PeerId]:
        order = self._orders.get(index)
        if order is None:
            order = self._orders[index] = sorted(self._digests[index])
        return order
