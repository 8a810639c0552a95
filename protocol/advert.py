"""A node's advert: what it serves, with what, and where it is reached. Specification: docs/protocol/advert.md.

Knows no swarm and no clock. Only what changes seldom is in it, because every node keeps every advert: how busy the
node is travels apart (`protocol.load`). What an advert says is a claim; nothing but its author's name is proven.

An advert is a lease. While the node lives it says the next one, with a higher sequence number; when it stops it
says `leaving`; when it dies the lease runs out. Its epoch is the start of this run of the node, so that the first
advert after a restart outranks all that the run before has left behind.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Annotated, Final

from protocol import limits
from protocol.addresses import MULTIADDR, Address, parse_address, parse_circuit
from protocol.hello import VERSIONS, Versions
from protocol.ids import ContentDigest, InvalidId, ModelName
from protocol.records import STAMP, Kind, Signed, Stamp
from protocol.schema import Blob, Flag, Id, Int, Items, Nested, Opaque, Text, Unknown, no_unknown
from protocol.wire import Value

_WORD: Final = Text(limits.WORD_CHARS, r"[A-Za-z0-9][A-Za-z0-9._+:/-]*")
_LABEL: Final = Text(limits.WORD_CHARS, r"[!-~](?:[ -~]*[!-~])?")  # what drivers call a device: ASCII, inner spaces
_COUNT: Final = Int(0, limits.COUNT_MAX)
_LONGEST_NAME: Final = limits.MODEL_NAME_CHARS + 100  # with a pin

SERVE: Final = "serve"  # answers prompts of those it lets
BOOTSTRAP: Final = "bootstrap"  # is meant to be dialled first
RELAY: Final = "relay"  # lends circuits to nodes that cannot be dialled

SWITCH: Final = "switch"  # wants to take its engine away for a moment, and waits for its turn
SWITCHING: Final = "switching"  # has its turn: the engine is away, or about to be, or just back


def _unpinned(text: str) -> str:
    return ModelName(text).name


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOffer:
    """A model that the node serves.

    Attributes:
        name: what clients ask for.
        digest: of config and weights index; absent where the node cannot tell (a server that it only speaks for).
        max_length: tokens of prompt and output together.
        modalities: what a prompt may hold beside text.
    """

    name: Annotated[str, Id(str, _unpinned, str)]
    digest: Annotated[ContentDigest | None, Id(bytes, ContentDigest, lambda digest: digest.digest)] = None
    max_length: Annotated[int | None, Int(1, limits.CONTEXT_MAX)] = None
    modalities: Annotated[tuple[str, ...] | None, Items(_WORD, limits.MODALITIES)] = None
    unknown: Unknown = field(default_factory=no_unknown, hash=False)

    def answers(self, wanted: ModelName) -> bool:
        """Whether this offer is what a client asks for: the name, and the content where it is pinned."""
        return self.name == wanted.name and (wanted.pin is None or wanted.pin == self.digest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Accelerator:
    """So many devices of one kind, as their driver names them."""

    name: Annotated[str, _LABEL]
    count: Annotated[int, Int(1, limits.DEVICES)]
    memory_bytes: Annotated[int | None, _COUNT] = None  # of one device
    unknown: Unknown = field(default_factory=no_unknown, hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """The machine in one line; what it can do is measured elsewhere."""

    accelerators: Annotated[tuple[Accelerator, ...], Items(Nested(Accelerator), limits.ACCELERATORS)]
    cpu_name: Annotated[str | None, _LABEL] = None
    cpu_cores: Annotated[int | None, Int(1, limits.DEVICES * limits.DEVICES)] = None
    memory_bytes: Annotated[int | None, _COUNT] = None
    unknown: Unknown = field(default_factory=no_unknown, hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """What answers the prompts."""

    name: Annotated[str, _WORD]
    version: Annotated[str | None, _WORD] = None
    unknown: Unknown = field(default_factory=no_unknown, hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeLimits:
    """How much the node takes from others; absent is unsaid, not unlimited. What counts is its answer."""

    running: Annotated[int | None, _COUNT] = None
    waiting: Annotated[int | None, _COUNT] = None
    body_bytes: Annotated[int | None, _COUNT] = None
    requests_per_minute: Annotated[int | None, _COUNT] = None
    tokens_per_minute: Annotated[int | None, _COUNT] = None
    concurrent: Annotated[int | None, _COUNT] = None
    unknown: Unknown = field(default_factory=no_unknown, hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Advert:
    """One node's advert.

    Attributes:
        addresses: as multiaddrs without the peer id, best first. Those that a receiver cannot dial it skips.
        roles: open words; see above for those in use.
        versions: as in the greeting, for those who have not met the node.
        leaving: true in the last advert of a run: the node is gone from now on.
        strategy: the fields of the acceleration strategy, for those who predict by it.
        intends: an open word: what the node is about to do with its engine; see above for those in use. Peers that
            serve the same model keep theirs meanwhile.
        circuits: relayed addresses, for who cannot dial the others.
        price: what the owner asks for; `device_hour_micro` is in use, see docs/protocol/advert.md.
        certificate: that the author belongs to its private swarm, sealed (`protocol.membership`).
    """

    stamp: Annotated[Stamp, STAMP]
    addresses: Annotated[tuple[str, ...], Items(MULTIADDR, limits.ADDRESSES)]
    models: Annotated[tuple[ModelOffer, ...], Items(Nested(ModelOffer), limits.MODELS)]
    roles: Annotated[tuple[str, ...], Items(_WORD, limits.ROLES)]
    software: Annotated[str, Text(limits.SOFTWARE_CHARS, r"[!-~]+")]
    versions: Annotated[Versions, VERSIONS]
    leaving: Annotated[bool | None, Flag()] = None
    name: Annotated[str | None, Text(limits.NODE_NAME_BYTES)] = None
    hardware: Annotated[Hardware | None, Nested(Hardware)] = None
    engine: Annotated[Engine | None, Nested(Engine)] = None
    strategy: Annotated[Mapping[str, Value] | None, Opaque()] = None
    intends: Annotated[str | None, _WORD] = None
    circuits: Annotated[tuple[str, ...] | None, Items(MULTIADDR, limits.CIRCUITS)] = None
    price: Annotated[Mapping[str, Value] | None, Opaque()] = None
    certificate: Annotated[bytes | None, Blob(1, limits.CERTIFICATE_BYTES)] = None
    limits: Annotated[ServeLimits | None, Nested(ServeLimits)] = None  # last: from here on the name is the field's
    unknown: Unknown = field(default_factory=no_unknown, hash=False)

    @property
    def rank(self) -> tuple[int, int]:
        """Epoch and sequence number: of two adverts of one author the greater counts."""
        return self.stamp.epoch.start_us, self.stamp.seq

    def offer(self, wanted: ModelName) -> ModelOffer | None:
        """Return the first offer of what a client asks for."""
        return next((offer for offer in self.models if offer.answers(wanted)), None)

    def dialable(self) -> tuple[Address, ...]:
        """Return the addresses that this version can dial and that lead to the author, in order, each once."""
        author = self.stamp.author
        parsed = (parse_address(text) for text in self.addresses)
        ours = (address.of(author) for address in parsed if address is not None and address.peer in {None, author})
        return tuple(dict.fromkeys(ours))

    def relayed(self) -> tuple[Address, ...]:
        """Return the ways through relays that lead to the author, in order, each once."""
        author = self.stamp.author
        parsed = (parse_circuit(text) for text in self.circuits or ())
        ours = (way.of(author) for way in parsed if way is not None and way.peer in {None, author})
        return tuple(dict.fromkeys(way for way in ours if way.relay != author))


ADVERT: Final = Kind(
    name="advert",
    version=1,
    body=Advert,
    lifetime_us=limits.ADVERT_LIFETIME_US,
    size=limits.ADVERT_BYTES,
    values=limits.ADVERT_VALUES,
)


def outranks(one: Signed[Advert], other: Signed[Advert]) -> bool:
    """Whether `one` counts and `other` does not, of two adverts of one author.

    The later epoch, then the higher sequence number. Two bodies of one name (a cloned key) are told apart by their
    digests, so that everybody keeps the same.
    """
    if one.body.rank != other.body.rank:
        return one.body.rank > other.body.rank
    return one.digest < other.digest


def interval_us(peers: int) -> int:
    """Return how often a node says its advert in a swarm of so many, unasked for: more seldom where they are many."""
    fair = max(peers, 1) * limits.SECOND_US // limits.ADVERTS_PER_SECOND
    return min(max(fair, limits.ADVERT_INTERVAL_US), limits.ADVERT_INTERVAL_MAX_US)


def lease_us(peers: int) -> int:
    """Return how long such an advert counts."""
    return limits.ADVERT_LEASES * interval_us(peers)


def model_name(text: str) -> ModelName | None:
    """Return what a client's `model` field asks for; None where nobody could serve a model of that name."""
    return _model_name(text) if len(text) <= _LONGEST_NAME else None


@lru_cache(maxsize=256)  # nearly every prompt names one of a few
def _model_name(text: str) -> ModelName | None:
    try:
        return ModelName.from_string(text)
    except InvalidId:
        return None
