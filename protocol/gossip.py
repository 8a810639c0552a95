"""What is said to all: topics, message ids, and what becomes of a message. Specification: docs/protocol/gossip.md.

Knows no network: pure rules that the gossip library is told. Gossip is the fast path and may lose anything; what
must not be lost comes by other ways too.

A verdict is about the peer that *brought* the message. `REJECT` says that no honest node of any version and with
any clock would have passed it on; everything short of that is `IGNORE`, or honest peers would be blamed for what
they could not know.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from hashlib import sha256
from typing import Annotated, Final

from protocol import limits, records, schema, wire
from protocol.advert import ADVERT, Advert, outranks
from protocol.errors import LocalProtocolError, Reason, RemoteProtocolError
from protocol.ids import InvalidId, SwarmId
from protocol.records import Signed
from protocol.schema import Blob, Items, Unknown, no_unknown

VERSION: Final = 1
_ID_PREFIX: Final = b"metainf/gossip/1\0"


class Subject(Enum):
    """What a topic is about."""

    ADVERT = "advert"  # one sealed advert per message
    RECORDS = "records"  # a batch of sealed records


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic of one swarm; as text `metainf/<swarm>/<subject>/1`."""

    swarm: SwarmId
    subject: Subject

    def __str__(self) -> str:
        return f"metainf/{self.swarm}/{self.subject.value}/{VERSION}"


def parse_topic(text: str) -> Topic | None:
    """Return the topic that a name stands for; None where it is none of ours."""
    parts = text.split("/", maxsplit=4)
    if len(parts) != 4 or parts[0] != "metainf" or parts[3] != str(VERSION):
        return None
    try:
        return Topic(SwarmId(parts[1]), Subject(parts[2]))
    except (InvalidId, ValueError):
        return None


def message_id(topic: str, data: bytes) -> bytes:
    """Return what the message is called: equal content is one message, whoever says it and however often.

    So nobody can make a swarm carry a message twice by saying it again under another name.
    """
    name = topic.encode(errors="surrogatepass")
    return sha256(_ID_PREFIX + len(name).to_bytes(4, "big") + name + data).digest()


class Verdict(Enum):
    """What becomes of a message."""

    ACCEPT = "accept"  # take it and pass it on
    IGNORE = "ignore"  # neither, and nobody is to blame
    REJECT = "reject"  # neither, and whoever brought it is to blame


# Faults that an honest carrier may not see: its clock or its version is another than ours.
_BLAMELESS: Final = frozenset({Reason.EXPIRED, Reason.FROM_THE_FUTURE, Reason.WRONG_VERSION})


def verdict_of(reason: Reason) -> Verdict:
    """Return what becomes of a message that is refused for this reason."""
    return Verdict.IGNORE if reason in _BLAMELESS else Verdict.REJECT


class Why(Enum):
    """Why an advert without a fault is not passed on."""

    KNOWN = "known"  # this very one, or one that outranks it, was here before
    TOO_SOON = "too_soon"  # its author speaks without pause
    NO_ROOM = "no_room"  # the receiver's book is full


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """What a node remembers of an author to judge the next advert by.

    Attributes:
        advert: the highest so far, leaves included.
        due_us: by the receiver's clock, when all that was passed on of this author has been paid for.
    """

    advert: Signed[Advert]
    due_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A verdict on an advert, why it is not ACCEPT, and what to remember from now on."""

    verdict: Verdict
    heard: Heard
    why: Why | None = None


def open_advert(data: bytes, *, swarm: SwarmId, now_us: int) -> Signed[Advert]:
    """Open what came on the advert topic, or from elsewhere.

    Raises:
        RemoteProtocolError: see `records.verify_and_open`.
    """
    return records.verify_and_open(data, ADVERT, swarm=swarm, now_us=now_us)


def judge_advert(advert: Signed[Advert], heard: Heard | None, *, now_us: int) -> Judged:
    """Return what becomes of an advert that opened, given what its author said before.

    An author who says adverts without pause is passed on at one per `ADVERT_GAP_US`, after a first few: a signature
    must not buy the whole swarm's work. What is too soon to be passed on still counts where it arrived.
    """
    if heard is not None and not outranks(advert, heard.advert):
        return Judged(verdict=Verdict.IGNORE, heard=heard, why=Why.KNOWN)
    most = now_us + limits.ADVERT_BURST * limits.ADVERT_GAP_US  # a clock that was set back must not silence anybody
    due = now_us if heard is None else min(max(heard.due_us, now_us), most)
    if due - now_us > (limits.ADVERT_BURST - 1) * limits.ADVERT_GAP_US:
        return Judged(verdict=Verdict.IGNORE, heard=Heard(advert=advert, due_us=due), why=Why.TOO_SOON)
    return Judged(verdict=Verdict.ACCEPT, heard=Heard(advert=advert, due_us=due + limits.ADVERT_GAP_US))


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordBatch:
    """Sealed records of any authors and kinds, in one message."""

    records: Annotated[tuple[bytes, ...], Items(Blob(1, limits.RECORD_BYTES), limits.BATCH_RECORDS)]
    unknown: Unknown = field(default_factory=no_unknown, hash=False)


def pack_records(sealed: Sequence[bytes]) -> tuple[bytes, ...]:
    """Return messages that say these records, in order, as few as the bounds allow.

    Raises:
        LocalProtocolError: one of them is no sealed record's size.
    """
    room = limits.GOSSIP_BYTES - limits.KIB  # the map around them
    batches: list[list[bytes]] = []
    size = 0
    for one in sealed:
        if not 0 < len(one) <= limits.RECORD_BYTES:
            raise LocalProtocolError(f"a sealed record has 1 to {limits.RECORD_BYTES} bytes, not {len(one)}")
        if not batches or len(batches[-1]) == limits.BATCH_RECORDS or size + len(one) + 5 > room:
            batches.append([])
            size = 0
        batches[-1].append(one)
        size += len(one) + 5  # the longest header of a byte string
    return tuple(wire.encode(schema.write(RecordBatch(records=tuple(batch))), limits.GOSSIP) for batch in batches)


def unpack_records(data: bytes) -> tuple[bytes, ...]:
    """Return the sealed records of a message; none of them has been looked into.

    Raises:
        RemoteProtocolError: it is no batch, or an empty one.
    """
    batch = schema.read(RecordBatch, wire.decode(data, limits.GOSSIP))
    if not batch.records:
        raise RemoteProtocolError(Reason.OUT_OF_BOUNDS, "a batch of nothing", path="records")
    return batch.records


def verdict_of_batch(verdicts: Iterable[Verdict]) -> Verdict:
    """Return what becomes of a batch, given the verdicts on those of its records that were not accepted before.

    Whoever passes a batch on answers for all of it, and the next may judge by another clock: so one record that was
    not found good keeps the batch from being passed on, and so does there being nothing new in it.
    """
    seen = set(verdicts)
    if Verdict.REJECT in seen:
        return Verdict.REJECT
    return Verdict.ACCEPT if seen == {Verdict.ACCEPT} else Verdict.IGNORE
