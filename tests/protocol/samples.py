"""Values that several tests of the wire, its vectors and its benchmark share: a kind of record, keys, messages."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from protocol import inference_events as say
from protocol.ids import PUBLIC_SWARM, Epoch, PeerId
from protocol.records import STAMP, Kind, Stamp
from protocol.schema import Int, Items, Named, Text, Unknown, no_unknown

KEY: Final = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER_KEY: Final = Ed25519PrivateKey.from_private_bytes(bytes(range(32, 64)))
AUTHOR: Final = PeerId.from_public_key(KEY.public_key().public_bytes_raw())
NOW: Final = 1_763_640_000_000_000
HOUR: Final = 3_600_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """A body as a later kind will have it: a stamp, a text, a list and named numbers."""

    stamp: Annotated[Stamp, STAMP]
    text: Annotated[str, Text(1024)]
    tags: Annotated[tuple[str, ...], Items(Text(16), 4)]
    figures: Annotated[Mapping[str, int] | None, Named(Int(0, 2**40), 64)] = None
    unknown: Unknown = field(default_factory=no_unknown, hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class NextNote:
    """The same body one additive version later."""

    stamp: Annotated[Stamp, STAMP]
    text: Annotated[str, Text(1024)]
    mood: Annotated[str, Text(16)]
    tags: Annotated[tuple[str, ...], Items(Text(16), 4)]
    unknown: Unknown = field(default_factory=no_unknown, hash=False)


NOTE: Final = Kind(name="note", version=1, body=Note, lifetime_us=24 * HOUR)
NEXT_NOTE: Final = Kind(name="note", version=1, body=NextNote, lifetime_us=24 * HOUR)
LETTER: Final = Kind(name="letter", version=1, body=Note, lifetime_us=24 * HOUR)


def stamp(**changes: object) -> Stamp:
    """Return an honest stamp, but for the changes."""
    fields: dict[str, object] = {
        "version": 1,
        "swarm": PUBLIC_SWARM,
        "author": AUTHOR,
        "epoch": Epoch(NOW - HOUR),
        "seq": 7,
        "time": NOW,
        "expiry": NOW + HOUR,
    }
    return Stamp(**(fields | changes))  # type: ignore[arg-type]


def note(text: str = "hello", **changes: object) -> Note:
    """Return an honest body, but for the changes to its stamp."""
    return Note(stamp=stamp(**changes), text=text, tags=("a", "b"), figures={"ttft_us": 12_345})


ASK_WHOLE: Final = say.Ask(request_id="req-1", method="GET", target="/v1/models", headers=(), body_size=0, attempt=1)
ASK: Final = say.Ask(
    request_id="req-2",
    method="POST",
    target="/v1/chat/completions?x=1",
    headers=((b"content-type", b"application/json"), (b"accept", b"text/event-stream")),
    body_size=10,
    attempt=2,
    time_left_us=30_000_000,
    session="s-42",
    slo_ttft_ms=500,
    slo_tpot_ms=50,
    objective="latency:0.5,cost:0.5",
)
BODY: Final = say.Body(data=b'{"a":')
BODY_LAST: Final = say.Body(data=b"true}")
CANCEL: Final = say.Cancel()
REFUSE: Final = say.Refuse(
    status=429, type="rate_limited", message="The queue is full: 64 prompts wait.", code="queue_full", retry_after=2
)
HEAD: Final = say.Head(
    status=200, headers=((b"content-type", b"text/event-stream"),), load={"running": 3, "waiting": 0}
)
DATA: Final = say.Data(data=b"data: [DONE]\n\n")
END: Final = say.End(data_size=14, load={"running": 2, "waiting": 0})
FAIL: Final = say.Fail(code="engine_died", message="The engine ended while it answered.")
CANCELLED: Final = say.Cancelled(load={"running": 2})

MESSAGES: Final = {
    "ask without body": ASK_WHOLE,
    "ask with everything": ASK,
    "body": BODY,
    "cancel": CANCEL,
    "refuse": REFUSE,
    "head": HEAD,
    "data": DATA,
    "end": END,
    "fail": FAIL,
    "cancelled": CANCELLED,
}
