"""Which records are retained: a pure function of their signed fields and the time, so that honest nodes agree.

Knows no store and no body: a record is an `Entry` here. Everything below is about counts, never about bytes: with a
quota in bytes, a small record that comes late may fit where a larger one did not, and what is retained would depend
on the order of arrival. The kind bounds a record's size, so a count bounds the bytes.

The rule.
1. What has expired is not retained.
2. An author's records are in order: first the newest of every cell (of what measures the same thing), then the second
   newest of every cell, and so on; within such a layer the newest first. The first `AUTHOR_RECORDS` are retained.
3. Where these are more than `RETAINED_RECORDS` in all, every author gives up its last in turn: authors have equal
   shares, and of the last round those keep their record whose key's digest is smaller. Not the newest: a flood of
   made-up authors can claim any time, while a digest below everybody else's costs keys.

Why the order of arrival does not matter. An entry's position in its author's order only grows when others come, and
dropping from an order's end moves nobody; so what was dropped of a part would be dropped of the whole, and retaining
of what is retained is retaining of all.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

from protocol import limits
from protocol.ids import PeerId, RecordName


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What the rule looks at of one record.

    Attributes:
        cell: equal for records of one author that measure the same thing.
        time, expiry: of its stamp, microseconds since 1970.
    """

    name: RecordName
    cell: bytes
    time: int
    expiry: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """How many records are retained. Nodes agree only where these are equal."""

    author: int = limits.AUTHOR_RECORDS
    total: int = limits.RETAINED_RECORDS


def in_order(entries: Iterable[Entry]) -> list[Entry]:
    """Return one author's entries, the most valuable first."""
    layer: Counter[bytes] = Counter()
    layered: list[tuple[int, int, Entry]] = []
    for place, entry in enumerate(sorted(entries, key=_age)):
        layered.append((layer[entry.cell], place, entry))
        layer[entry.cell] += 1
    layered.sort(key=lambda each: each[:2])
    return [entry for _, _, entry in layered]


def _age(entry: Entry) -> tuple[int, int, int]:
    return -entry.time, -entry.name.epoch.start_us, -entry.name.seq


def of_author(entries: Iterable[Entry], *, now_us: int, most: int = limits.AUTHOR_RECORDS) -> list[Entry]:
    """Return what is retained of one author, the most valuable first: rules 1 and 2."""
    return in_order(entry for entry in entries if entry.expiry > now_us)[:most]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """How many records each author may have, by rule 3.

    Attributes:
        level: what everybody may have.
        last: the greatest digest of an author that may have one more; empty where none may.
    """

    level: int
    last: bytes = b""

    def of(self, author: PeerId) -> int:
        """Return how many of an author's records are retained at most."""
        return self.level + (author_digest(author) <= self.last)


def author_digest(author: PeerId) -> bytes:
    """Return what authors of equal claims are ordered by, 32 bytes."""
    return sha256(author.key).digest()


def shares(counts: Mapping[PeerId, int], *, most: int = limits.RETAINED_RECORDS) -> Shares:
    """Divide `most` places, given how many records of each author rules 1 and 2 retain."""
    sizes = Counter(counts.values())  # how many authors have so many records
    level, having, room = 0, len(counts), most
    for size, authors in sorted(sizes.items()):
        if (size - level) * having > room:
            break
        room -= (size - level) * having
        level, having = size, having - authors
    else:
        return Shares(level=level)
    level, room = level + room // having, room % having
    if not room:
        return Shares(level=level)
    larger = sorted(author_digest(author) for author, count in counts.items() if count > level)
    return Shares(level=level, last=larger[room - 1])


def retained(entries: Iterable[Entry], *, now_us: int, quota: Quota | None = None) -> frozenset[RecordName]:
    """Return the names of what is retained of all these: the whole rule."""
    quota = quota or Quota()
    authors: defaultdict[PeerId, list[Entry]] = defaultdict(list)
    for entry in entries:
        authors[entry.name.author].append(entry)
    kept: dict[PeerId, Sequence[Entry]] = {
        author: of_author(theirs, now_us=now_us, most=quota.author) for author, theirs in authors.items()
    }
    share = shares({author: len(theirs) for author, theirs in kept.items()}, most=quota.total)
    return frozenset(entry.name for author, theirs in kept.items() for entry in theirs[: share.of(author)])
