"""Signed bodies: who said what, when, in which swarm, and until when. Specification: docs/protocol/records.md.

Knows no particular kind of record (each is declared as one `Kind` beside its body) and no store. What is signed
are the exact bytes that were sent; they are kept, so that a body with fields from the future still verifies here
and is passed on unharmed.
"""

from collections.abc import Callable
from dataclasses import InitVar, dataclass, field
from hashlib import sha256
from typing import Annotated, Final, Generic, Protocol, TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from protocol import limits, schema, wire
from protocol.errors import LocalProtocolError, Reason, RemoteProtocolError
from protocol.ids import ContentDigest, Epoch, PeerId, RecordName, SwarmId
from protocol.schema import Blob, Id, Int, Nested, Text, Unknown, no_unknown

_TIME: Final = Int(0, limits.TIME_MAX_US)
_DOOR: Final = object()  # what only this module can show to the constructor of `Signed`
_SEALED_BYTES: Final = 256  # the sealed form's own fields: kind, version, signature, names; 160 at present


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """What every signed body carries, under the key `stamp`. Times are microseconds since 1970."""

    version: Annotated[int, Int(1, 255)]
    swarm: Annotated[SwarmId, Id(str, SwarmId, str)]
    author: Annotated[PeerId, Id(bytes, PeerId.from_bytes, PeerId.to_bytes)]
    epoch: Annotated[Epoch, Id(int, Epoch, lambda epoch: epoch.start_us)]
    seq: Annotated[int, Int(0, limits.SEQ_MAX)]
    time: Annotated[int, _TIME]
    expiry: Annotated[int, _TIME]
    unknown: Unknown = field(default_factory=no_unknown, hash=False)

    @property
    def name(self) -> RecordName:
        """What this body is called among those of its kind."""
        return RecordName(author=self.author, epoch=self.epoch, seq=self.seq)


STAMP: Final = Nested(Stamp)


class Stamped(schema.Record, Protocol):
    """A body of any kind: `stamp: Annotated[Stamp, STAMP]` and what the kind adds."""

    @property
    def stamp(self) -> Stamp:
        """Author, order, time and swarm."""
        ...


B = TypeVar("B", bound=Stamped)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind(Generic[B]):
    """The declaration of a kind of record. Nothing is registered: who opens a record says what it must be.

    Attributes:
        name: lower-case letters and hyphens; with `version` it separates this kind's signatures from all others.
        body: the dataclass, as `protocol.schema` has it.
        lifetime_us: the longest that such a record may count, from `time` to `expiry`.
        size: bytes of the longest body.
        values: values in it at most: what it takes in memory, where many are kept.
    """

    name: str
    version: int
    body: type[B]
    lifetime_us: int = limits.LIFETIME_MAX_US
    size: int = limits.RECORD_BYTES - _SEALED_BYTES
    values: int = limits.VALUES

    @property
    def prefix(self) -> bytes:
        """What is signed in front of the body: no signature of one kind can pass for one of another."""
        return b"metainf/%s/%d\0" % (self.name.encode(), self.version)

    @property
    def bounds(self) -> limits.Bounds:
        """What a body of this kind may be, before it is looked into."""
        return limits.Bounds(size=self.size, blob=self.size, values=self.values)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sealed:
    """A record as it travels and lies in stores: the body's bytes and the signature, and what is needed to check it."""

    kind: Annotated[str, Text(limits.KIND_CHARS, r"[a-z][a-z-]*")]
    version: Annotated[int, Int(1, 255)]
    body: Annotated[bytes, Blob(1, limits.RECORD_BYTES)]
    signature: Annotated[bytes, Blob(limits.SIGNATURE_BYTES, limits.SIGNATURE_BYTES)]
    unknown: Unknown = field(default_factory=no_unknown, hash=False)


class SigningKey(Protocol):
    """The power to sign as somebody; `cryptography`'s Ed25519PrivateKey has it."""

    def sign(self, data: bytes, /) -> bytes:
        """Return the Ed25519 signature, 64 bytes."""
        ...

    def public_key(self) -> Ed25519PublicKey:
        """Return the key that verifies it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed(Generic[B]):
    """A body whose signature by its author holds. Come by with `sign` and `verify_and_open` alone.

    Attributes:
        sealed: the exact bytes as they came: what to store and to pass on.
        digest: of the body's bytes: equal for equal content, whatever surrounds it.
    """

    kind: Kind[B] = field(repr=False)
    body: B = field(compare=False)
    sealed: bytes = field(repr=False)
    digest: ContentDigest
    door: InitVar[object]

    def __post_init__(self, door: object) -> None:
        if door is not _DOOR:
            raise LocalProtocolError("a Signed comes from sign or verify_and_open, never from its constructor")

    @property
    def name(self) -> RecordName:
        """What the record is called among those of its kind."""
        return self.body.stamp.name


def sign(kind: Kind[B], body: B, key: SigningKey) -> Signed[B]:
    """Sign `body` as its author.

    Raises:
        LocalProtocolError: the key is not the author's, or the stamp or a field breaks a rule of the kind.
    """
    stamp = body.stamp
    if key.public_key().public_bytes_raw() != stamp.author.public_key():
        raise LocalProtocolError("the body names another author than the key's owner")
    if fault := _fault_of_stamp(kind, stamp):
        raise LocalProtocolError(f"{fault.reason.value} at {fault.path}: {fault.detail}")
    raw = wire.encode(schema.write(body), kind.bounds)
    signature = key.sign(kind.prefix + raw)
    sealed = _Sealed(kind=kind.name, version=kind.version, body=raw, signature=signature)
    return _signed(kind, body, wire.encode(schema.write(sealed), limits.RECORD), raw)


def verify_and_open(sealed: bytes, kind: Kind[B], *, swarm: SwarmId, now_us: int) -> Signed[B]:
    """Open a record that has just come in.

    The cheap checks come first, so a rejected record may have more wrong with it than the reason says.

    Raises:
        RemoteProtocolError: not of this kind, swarm or time, not well-formed, or not signed by its author.
    """
    return _open(sealed, kind, swarm, lambda stamp: _fault_of_time(stamp, now_us))


def verify_archived(sealed: bytes, kind: Kind[B], *, swarm: SwarmId) -> Signed[B]:
    """Open a record from a store or a proof, whose time may have passed. Raises as `verify_and_open` does."""
    return _open(sealed, kind, swarm, lambda _: None)


def open_unverified(sealed: bytes, kind: Kind[B]) -> B:
    """Return the body that somebody, anybody, wrote. For showing to people; decide nothing by it.

    Raises:
        RemoteProtocolError: not well-formed, or not of this kind.
    """
    return _open_body(_open_seal(sealed, kind), kind)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fork:
    """Proof, by signatures alone, that an author gave one name to two bodies.

    `first` and `second` are the sealed records in the order of their bodies' digests: equal proofs are equal bytes.
    """

    name: RecordName
    first: bytes
    second: bytes


def find_fork(one: Signed[B], other: Signed[B]) -> Fork | None:
    """Return the proof where these two verified records make one; None where they are honest or the same.

    Names are given per kind: records of different kinds never fork. Versions of one kind share its names.
    """
    if one.kind.name != other.kind.name or one.name != other.name or one.digest == other.digest:
        return None
    first, second = sorted((one, other), key=lambda record: record.digest)
    return Fork(name=one.name, first=first.sealed, second=second.sealed)


def _open(
    sealed: bytes, kind: Kind[B], swarm: SwarmId, fault_of_time: Callable[[Stamp], RemoteProtocolError | None]
) -> Signed[B]:
    seal = _open_seal(sealed, kind)
    body = _open_body(seal, kind)
    stamp = body.stamp
    if stamp.swarm != swarm:
        raise RemoteProtocolError(Reason.WRONG_SWARM, f"of {stamp.swarm}, not of {swarm}", path="stamp.swarm")
    if fault := _fault_of_stamp(kind, stamp) or fault_of_time(stamp):
        raise fault
    key = Ed25519PublicKey.from_public_bytes(stamp.author.public_key())
    try:
        key.verify(seal.signature, kind.prefix + seal.body)
    except InvalidSignature:
        raise RemoteProtocolError(Reason.BAD_SIGNATURE, f"not signed by {stamp.author}") from None
    return _signed(kind, body, sealed, seal.body)


def _open_seal(sealed: bytes, kind: Kind[B]) -> _Sealed:
    seal = schema.read(_Sealed, wire.decode(sealed, limits.RECORD))
    if seal.unknown:
        # Outside the signature anybody could add them: one record would get as many disguises as it has carriers.
        raise RemoteProtocolError(Reason.MALFORMED, "the sealed form has other fields than its four")
    if seal.kind != kind.name:
        raise RemoteProtocolError(Reason.WRONG_KIND, f"{seal.kind} where {kind.name} belongs", path="kind")
    if seal.version != kind.version:
        raise RemoteProtocolError(Reason.WRONG_VERSION, f"{seal.version} where {kind.version} belongs", path="version")
    return seal


def _open_body(seal: _Sealed, kind: Kind[B]) -> B:
    return schema.read(kind.body, wire.decode(seal.body, kind.bounds))


def _fault_of_stamp(kind: Kind[B], stamp: Stamp) -> RemoteProtocolError | None:
    """Say what is wrong with the stamp whatever the time."""
    if stamp.version != kind.version:
        return RemoteProtocolError(
            Reason.WRONG_VERSION, f"{stamp.version} where {kind.version} belongs", path="stamp.version"
        )
    if stamp.epoch.start_us > stamp.time:
        return RemoteProtocolError(Reason.OUT_OF_BOUNDS, "older than its own history", path="stamp.time")
    lifetime = stamp.expiry - stamp.time
    if not 0 < lifetime <= kind.lifetime_us:
        return RemoteProtocolError(
            Reason.OUT_OF_BOUNDS, f"{lifetime} µs of life where 1..{kind.lifetime_us} are allowed", path="stamp.expiry"
        )
    return None


def _fault_of_time(stamp: Stamp, now_us: int) -> RemoteProtocolError | None:
    """Say what is wrong with the stamp at this moment."""
    ahead = stamp.time - now_us
    if ahead > limits.CLOCK_SKEW_US:
        return RemoteProtocolError(Reason.FROM_THE_FUTURE, f"{ahead} µs ahead of this clock", path="stamp.time")
    if stamp.expiry <= now_us:
        return RemoteProtocolError(Reason.EXPIRED, f"since {now_us - stamp.expiry} µs", path="stamp.expiry")
    return None


def _signed(kind: Kind[B], body: B, sealed: bytes, raw: bytes) -> Signed[B]:
    return Signed(kind=kind, body=body, sealed=sealed, digest=ContentDigest(sha256(raw).digest()), door=_DOOR)
