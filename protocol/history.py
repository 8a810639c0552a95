"""`/metainf/history/1`: what each of two nodes holds, and what one lacks pulled from the other.

Specification: docs/protocol/history.md. Knows no store, no stream and no clock. Only the opener gains by it; who
wants both to gain lets both open. Nothing here is believed: records are signed, and what a listing promises is only
asked for.

First one digest of everything is compared, then one per bucket of authors; of the unlike buckets the answerer lists
what it holds, in order, from where the opener says; then the opener fetches. Each answer is bounded, and each says
from where to go on, so an exchange may end anywhere and another take it up.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from hashlib import sha256
from itertools import pairwise
from typing import Annotated, Final, TypeAlias

from protocol import limits, ranges
from protocol.dialogue import Role, Script, Turn
from protocol.errors import Reason, RemoteProtocolError
from protocol.ids import Epoch, PeerId
from protocol.messages import Vocabulary
from protocol.ranges import Bounded, Ranges
from protocol.schema import Blob, Flag, Id, Int, Items, Nested, Unknown, no_unknown

PROTOCOL_ID: Final = "/metainf/history/1"
_PREFIX: Final = b"metainf/history/1\0"
_BITMAP_BYTES: Final = limits.HISTORY_BUCKETS // 8
_DIGESTS_BYTES: Final = limits.HISTORY_BUCKETS * limits.DIGEST_BYTES

_AUTHOR: Final = Id(bytes, PeerId.from_bytes, PeerId.to_bytes)
_EPOCH: Final = Id(int, Epoch, lambda epoch: epoch.start_us)
_DIGEST: Final = Blob(limits.DIGEST_BYTES, limits.DIGEST_BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What a node holds of one author in one epoch.

    Attributes:
        ranges: sequence numbers; where there are more ranges than the bound allows, the newest.
        digest: XOR of the SHA-256 of every sealed record in them.
    """

    author: Annotated[PeerId, _AUTHOR]
    epoch: Annotated[Epoch, _EPOCH]
    ranges: Annotated[Ranges, Bounded(limits.HISTORY_RANGES)]
    digest: Annotated[bytes, _DIGEST]
    unknown: Unknown = field(default_factory=no_unknown, hash=False)

    @property
    def place(self) -> "Place":
        """Where it comes in a listing."""
        return Place(author=self.author, epoch=self.epoch)


@dataclass(frozen=True, slots=True, kw_only=True)
class Want:
    """Records of one author in one epoch that are asked for."""

    author: Annotated[PeerId, _AUTHOR]
    epoch: Annotated[Epoch, _EPOCH]
    ranges: Annotated[Ranges, Bounded(limits.HISTORY_WANT_RANGES)]
    unknown: Unknown = field(default_factory=no_unknown, hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A place in a listing: by author's key, and of one author the newest epoch first."""

    author: Annotated[PeerId, _AUTHOR]
    epoch: Annotated[Epoch, _EPOCH]
    unknown: Unknown = field(default_factory=no_unknown, hash=False)

    @property
    def rank(self) -> tuple[bytes, int]:
        """What places are ordered by."""
        return self.author.key, -self.epoch.start_us


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One record's name, as far as a page has come."""

    author: Annotated[PeerId, _AUTHOR]
    epoch: Annotated[Epoch, _EPOCH]
    seq: Annotated[int, Int(0, limits.SEQ_MAX)]
    unknown: Unknown = field(default_factory=no_unknown, hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Compare:
    """Asks whether the answerer holds the same. `digest` is the opener's `root`."""

    digest: Annotated[bytes, _DIGEST]
    unknown: Unknown = field(default_factory=no_unknown, hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Alike:
    """It does."""

    unknown: Unknown = field(default_factory=no_unknown, hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Buckets:
    """It does not. `digests` holds the answerer's `bucket_digest` of every bucket, in order."""

    digests: Annotated[bytes, Blob(_DIGESTS_BYTES, _DIGESTS_BYTES)]
    unknown: Unknown = field(default_factory=no_unknown, hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class List:
    """Asks what the answerer holds in some buckets, from behind a place on.

    Attributes:
        buckets: a bit for each, the first the highest bit of the first byte.
        after: the last place that was listed; absent for the beginning.
    """

    buckets: Annotated[bytes, Blob(_BITMAP_BYTES, _BITMAP_BYTES)]
    after: Annotated[Place | None, Nested(Place)] = None
    unknown: Unknown = field(default_factory=no_unknown, hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Holdings:
    """What it holds there, in order. `more`: there is more behind the last."""

    held: Annotated[tuple[Held, ...], Items(Nested(Held), limits.HISTORY_HOLDINGS)]
    more: Annotated[bool, Flag()]
    unknown: Unknown = field(default_factory=no_unknown, hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetch:
    """Asks for records, the dearest author first; of each the newest come first."""

    wants: Annotated[tuple[Want, ...], Items(Nested(Want), limits.HISTORY_WANTS)]
    unknown: Unknown = field(default_factory=no_unknown, hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Sealed records, in the order of the wants, of each the newest first; those that are not there are passed over.

    Attributes:
        next: where the next page begins: everything before it has been answered. Absent where all has.
    """

    records: Annotated[tuple[bytes, ...], Items(Blob(1, limits.RECORD_BYTES), limits.HISTORY_RECORDS)]
    next: Annotated[Point | None, Nested(Point)] = None
    unknown: Unknown = field(default_factory=no_unknown, hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Busy:
    """Not now; the question was not looked into. `wait_ms`: ask again no sooner."""

    wait_ms: Annotated[int, Int(0, limits.HISTORY_WAIT_MAX_MS)]
    unknown: Unknown = field(default_factory=no_unknown, hash=False)


Question: TypeAlias = Compare | List | Fetch
Answer: TypeAlias = Alike | Buckets | Holdings | Page | Busy
Message: TypeAlias = Question | Answer
KINDS: Final[Mapping[str, type[Message]]] = {
    "compare": Compare,
    "alike": Alike,
    "buckets": Buckets,
    "list": List,
    "holdings": Holdings,
    "fetch": Fetch,
    "page": Page,
    "busy": Busy,
}


class State(Enum):
    """How far question and answer are."""

    IDLE = "idle"
    COMPARING = "comparing"
    LISTING = "listing"
    FETCHING = "fetching"


def _answered(*kinds: type[Message]) -> Mapping[type[Message], Turn[State]]:
    return {kind: Turn(Role.ANSWERER, State.IDLE) for kind in (*kinds, Busy)}


SCRIPT: Final[Script[State, Message]] = Script(
    table={
        State.IDLE: {
            Compare: Turn(Role.OPENER, State.COMPARING),
            List: Turn(Role.OPENER, State.LISTING),
            Fetch: Turn(Role.OPENER, State.FETCHING),
        },
        State.COMPARING: _answered(Alike, Buckets),
        State.LISTING: _answered(Holdings),
        State.FETCHING: _answered(Page),
    },
    start=State.IDLE,
    rests=frozenset({State.IDLE}),
    vocabulary=Vocabulary(KINDS, limits.HISTORY),
    limit=limits.FRAME_BYTES,
)


# -- digests


def bucket_of(author: PeerId) -> int:
    """Return the bucket of an author: the first byte of the key, which is as good as random."""
    return author.key[0]


def author_digest(held: Iterable[Held]) -> bytes:
    """Return the digest of all that is held of one author, given the newest epoch first.

    A digest of digests and not their XOR: whoever may choose a few hundred records can make an XOR whatever it likes,
    and so hide what another author's difference is.
    """
    total = sha256(_PREFIX)
    for one in held:
        bounds = b"".join(bound.to_bytes(8, "big") for pair in one.ranges for bound in pair)
        total.update(b"%b%b%b%b" % (_eight(one.epoch.start_us), _eight(len(one.ranges)), bounds, one.digest))
    return total.digest()


def bucket_digest(authors: Iterable[tuple[PeerId, bytes]]) -> bytes:
    """Return the digest of a bucket, given its authors in ascending order of keys, each with its `author_digest`."""
    total = sha256(_PREFIX)
    for author, digest in authors:
        total.update(author.key + digest)
    return total.digest()


def root(digests: bytes) -> bytes:
    """Return the digest of everything, given those of all buckets in order."""
    return sha256(_PREFIX + digests).digest()


def _eight(number: int) -> bytes:
    return number.to_bytes(8, "big")


def unlike(ours: bytes, theirs: bytes) -> bytes:
    """Return the bitmap of the buckets whose digests differ.

    Raises:
        RemoteProtocolError: none does, although the roots did.
    """
    size = limits.DIGEST_BYTES
    bits = bytearray(_BITMAP_BYTES)
    for index in range(limits.HISTORY_BUCKETS):
        if ours[index * size : (index + 1) * size] != theirs[index * size : (index + 1) * size]:
            bits[index // 8] |= 0x80 >> index % 8
    if not any(bits):
        raise RemoteProtocolError(Reason.MALFORMED, "no bucket differs, so the histories are alike", path="digests")
    return bytes(bits)


def is_in(buckets: bytes, author: PeerId) -> bool:
    """Tell whether an author's bucket is among those of a bitmap."""
    index = bucket_of(author)
    return bool(buckets[index // 8] & 0x80 >> index % 8)


# -- what an answer must be, given its question


def check_listing(asked: List, said: Holdings) -> None:
    """Hold a listing to its question.

    Raises:
        RemoteProtocolError: it is not in order, goes back behind the place asked from, or names what was not asked.
    """
    ranks = [one.place.rank for one in said.held]
    if asked.after is not None:
        ranks.insert(0, asked.after.rank)
    if any(one >= two for one, two in pairwise(ranks)):
        raise RemoteProtocolError(Reason.MALFORMED, "a listing goes on in order", path="held")
    if not all(is_in(asked.buckets, one.author) for one in said.held):
        raise RemoteProtocolError(Reason.OUT_OF_BOUNDS, "an author of a bucket that was not asked for", path="held")
    if said.more and not said.held:
        raise RemoteProtocolError(Reason.OUT_OF_BOUNDS, "more to come behind nothing", path="more")


def rest_of(asked: Fetch, said: Page) -> tuple[Want, ...]:
    """Hold a page to its question; return what is still to be asked: less in every case.

    Raises:
        RemoteProtocolError: it has more records than were asked for, or goes on where it began or elsewhere.
    """
    total = sum(ranges.count(want.ranges) for want in asked.wants)
    if len(said.records) > total:
        raise RemoteProtocolError(Reason.TOO_MANY, f"{len(said.records)} records where {total} were asked for")
    if said.next is None:
        return ()
    for index, want in enumerate(asked.wants):
        if (want.author, want.epoch) != (said.next.author, said.next.epoch):
            continue
        left = ranges.up_to(want.ranges, said.next.seq)
        after = asked.wants[index + 1 :]
        if not left or (index == 0 and left == want.ranges):
            break
        return (Want(author=want.author, epoch=want.epoch, ranges=left), *after)
    raise RemoteProtocolError(Reason.OUT_OF_BOUNDS, "a page goes on behind what it has answered", path="next")


def point_after(wants: Sequence[Want], index: int, lowest: int | None) -> Point | None:
    """Return where the page behind this one begins; None where all has been answered.

    Args:
        index: of the want that the page came to.
        lowest: the lowest sequence number of it that was looked for; None where none was.
    """
    for want in wants[index:]:
        left = want.ranges if lowest is None else ranges.up_to(want.ranges, lowest - 1)
        if left:
            return Point(author=want.author, epoch=want.epoch, seq=left[-1][1])
        lowest = None
    return None
