"""The distributed table: its keys, what may lie under them, and which of two values counts.

Specification: docs/protocol/dht.md. Knows no network: pure rules that the table's library is told. A key names its
value's author (and, for a batch, the record), and the value is signed by that author with swarm, sequence number
and expiry inside; so whoever stores it can neither forge, move, nor keep it alive, only forget it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated, Any, Final

from protocol import limits, records
from protocol.advert import ADVERT
from protocol.errors import Reason, RemoteProtocolError
from protocol.ids import Epoch, InvalidId, PeerId, RecordName, SwarmId
from protocol.records import STAMP, Kind, Signed, Stamp
from protocol.schema import Blob, Id, Int, Items, Nested, Unknown, no_unknown


class Namespace(Enum):
    """The first part of a key."""

    PEER = "metainf-peer"  # /metainf-peer/SWARM/AUTHOR: the author's advert
    HEAD = "metainf-head"  # /metainf-head/SWARM/AUTHOR: how far the author's history goes
    BATCH = "metainf-batch"  # /metainf-batch/SWARM/AUTHOR/EPOCH/SEQ: some of the author's records


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A key of the table. `batch` is the record's name in that namespace and None in the others."""

    namespace: Namespace
    swarm: SwarmId
    author: PeerId
    batch: RecordName | None = None

    def __str__(self) -> str:
        return f"/{self.namespace.value}/{self.swarm}/{self.batch or self.author}"


def peer_key(swarm: SwarmId, author: PeerId) -> Key:
    """Return where an author's advert lies."""
    return Key(namespace=Namespace.PEER, swarm=swarm, author=author)


def head_key(swarm: SwarmId, author: PeerId) -> Key:
    """Return where an author's head lies."""
    return Key(namespace=Namespace.HEAD, swarm=swarm, author=author)


def batch_key(swarm: SwarmId, name: RecordName) -> Key:
    """Return where a batch lies."""
    return Key(namespace=Namespace.BATCH, swarm=swarm, author=name.author, batch=name)


def parse_key(text: str) -> Key:
    """Read a key. Each has one spelling.

    Raises:
        RemoteProtocolError: it is none of the table's.
    """
    parts = text.split("/", maxsplit=4) if len(text) <= limits.DHT_KEY_CHARS else []
    if len(parts) < 4 or parts[0]:
        raise RemoteProtocolError(Reason.MALFORMED, "a key is /NAMESPACE/SWARM/AUTHOR, and more for a batch")
    try:
        namespace, swarm = Namespace(parts[1]), SwarmId(parts[2])
        if namespace is Namespace.BATCH:
            return batch_key(swarm, RecordName.from_string("/".join(parts[3:])))
        return Key(namespace=namespace, swarm=swarm, author=PeerId.from_string("/".join(parts[3:])))
    except (InvalidId, ValueError) as error:
        raise RemoteProtocolError(Reason.MALFORMED, str(error)) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A place in an author's history."""

    epoch: Annotated[Epoch, Id(int, Epoch, lambda epoch: epoch.start_us)]
    seq: Annotated[int, Int(0, limits.SEQ_MAX)]
    unknown: Unknown = field(default_factory=no_unknown, hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """How far an author's history goes.

    Attributes:
        newest: the last record; absent where there is none yet.
        batch: the last batch in the table; absent where there is none.
        records: how many the author keeps.
    """

    stamp: Annotated[Stamp, STAMP]
    records: Annotated[int, Int(0, limits.COUNT_MAX)]
    newest: Annotated[Mark | None, Nested(Mark)] = None
    batch: Annotated[Mark | None, Nested(Mark)] = None
    unknown: Unknown = field(default_factory=no_unknown, hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Some of an author's own records, sealed each; whoever reads them opens each."""

    stamp: Annotated[Stamp, STAMP]
    records: Annotated[tuple[bytes, ...], Items(Blob(1, limits.RECORD_BYTES), limits.BATCH_RECORDS)]
    unknown: Unknown = field(default_factory=no_unknown, hash=False)


HEAD: Final = Kind(name="head", version=1, body=Head, lifetime_us=limits.DHT_LIFETIME_US, size=limits.KIB)
BATCH: Final = Kind(name="batch", version=1, body=Batch, lifetime_us=limits.DHT_LIFETIME_US)

_KINDS: Final[dict[Namespace, Kind[Any]]] = {
    Namespace.PEER: ADVERT,
    Namespace.HEAD: HEAD,
    Namespace.BATCH: BATCH,
}


def validate(key: str, value: bytes, *, swarm: SwarmId, now_us: int) -> Signed[Any]:
    """Open the value that lies, or is to lie, under a key; its kind is the namespace's.

    Raises:
        RemoteProtocolError: no key of this swarm's table, or a value that does not belong there now.
    """
    place = parse_key(key)
    if place.swarm != swarm:
        raise RemoteProtocolError(Reason.WRONG_SWARM, f"of {place.swarm}, not of {swarm}", path="key")
    signed = records.verify_and_open(value, _KINDS[place.namespace], swarm=swarm, now_us=now_us)
    if signed.name.author != place.author:
        raise RemoteProtocolError(Reason.WRONG_KEY, f"by {signed.name.author}, not the key's author")
    if place.batch is not None and signed.name != place.batch:
        raise RemoteProtocolError(Reason.WRONG_KEY, f"it is {signed.name}, not the key's record")
    return signed


def select(key: str, values: Sequence[bytes], *, swarm: SwarmId, now_us: int) -> int:
    """Return the index of the value that counts: the latest epoch, then the highest sequence number.

    Of one name the smallest digest counts, and of equal values the first. An equal value never replaces itself, so
    an author who wants its value kept says it anew with a higher sequence number. Values that do not belong there
    now are passed over: an expired one gives way to any other.

    Raises:
        RemoteProtocolError: none of them belongs there; the reason is the last one's.
    """
    best: tuple[int, Signed[Any]] | None = None
    fault = RemoteProtocolError(Reason.MALFORMED, "no values to select from")
    for index, value in enumerate(values):
        try:
            signed = validate(key, value, swarm=swarm, now_us=now_us)
        except RemoteProtocolError as error:
            fault = error
            continue
        if best is None or _outranks(signed, best[1]):
            best = index, signed
    if best is None:
        raise fault
    return best[0]


def _outranks(one: Signed[Any], other: Signed[Any]) -> bool:
    if one.name != other.name:
        return one.name > other.name  # one author: by epoch, then by sequence number
    return one.digest < other.digest
