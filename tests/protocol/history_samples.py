"""Values that several tests of the exchange of histories and its vectors share."""

from typing import Final

from protocol.history import (
    Alike,
    Buckets,
    Busy,
    Compare,
    Fetch,
    Held,
    Holdings,
    List,
    Message,
    Page,
    Point,
    Want,
    check_listing,
    rest_of,
)
from protocol.ids import Epoch
from tests.protocol import samples, swarm_samples

OLDER: Final = Epoch(samples.NOW - 2 * samples.HOUR)
HELD: Final = Held(
    author=samples.AUTHOR, epoch=swarm_samples.EPOCH, ranges=((0, 7), (9, 9), (20, 31)), digest=bytes(range(32))
)
HELD_BEFORE: Final = Held(author=samples.AUTHOR, epoch=OLDER, ranges=((5, 5),), digest=bytes(31) + b"\1")
HELD_OTHER: Final = Held(author=swarm_samples.OTHER, epoch=OLDER, ranges=((0, 1),), digest=b"\xff" * 32)
IN_ORDER: Final = tuple(sorted((HELD, HELD_BEFORE, HELD_OTHER), key=lambda held: held.place.rank))

WANT: Final = Want(author=samples.AUTHOR, epoch=swarm_samples.EPOCH, ranges=((3, 7), (9, 9)))
WANT_OTHER: Final = Want(author=swarm_samples.OTHER, epoch=OLDER, ranges=((0, 1),))
ALL: Final = b"\xff" * 32

MESSAGES: Final[dict[str, Message]] = {
    "compare": Compare(digest=bytes(range(32))),
    "alike": Alike(),
    "buckets": Buckets(digests=bytes(range(256)) * 32),
    "list from the beginning": List(buckets=ALL),
    "list from behind a place": List(buckets=b"\x80" + bytes(31), after=HELD.place),
    "holdings": Holdings(held=IN_ORDER, more=True),
    "holdings of nothing": Holdings(held=(), more=False),
    "fetch": Fetch(wants=(WANT,)),
    "fetch of two": Fetch(wants=(WANT, WANT_OTHER)),
    "page": Page(records=(b"sealed", b"another")),
    "page that goes on": Page(
        records=(b"sealed",), next=Point(author=samples.AUTHOR, epoch=swarm_samples.EPOCH, seq=7)
    ),
    "busy": Busy(wait_ms=2_000),
    "busy of a newer node": Busy(wait_ms=0, unknown={"mood": "grumpy"}),
}


def hold(asked: Message, said: Message) -> tuple[Want, ...]:
    """Hold an answer to its question, as an opener does; return what is still to be fetched."""
    if isinstance(asked, Fetch) and isinstance(said, Page):
        return rest_of(asked, said)
    assert isinstance(asked, List)
    assert isinstance(said, Holdings)
    check_listing(asked, said)
    return ()
