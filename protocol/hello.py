"""The greeting `/metainf/hello/1`: who speaks, whether we belong together, and what we both speak.

Specification: docs/protocol/hello.md. Knows no stream, no clock and no list of who is welcome: the time and the
judgement are arguments. It comes before all else on a connection, from a peer of whom nothing is known but its
transport identity, and is bounded accordingly.

Both ends settle by the same pure function of both hellos, so that they agree without a further message. Nodes of
unlike versions speak what both speak; where that is nothing, they part and say why.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, StrEnum
from typing import Annotated, Final, TypeAlias

from protocol import limits
from protocol.dialogue import Dialogue, Role, Script, Turn
from protocol.errors import Reason, RemoteProtocolError
from protocol.ids import Epoch, PeerId, SwarmId
from protocol.messages import Vocabulary
from protocol.schema import Blob, Id, Int, Items, Named, Text, Unknown, no_unknown

PROTOCOL_ID: Final = "/metainf/hello/1"

Versions = Mapping[str, tuple[int, ...]]
VERSIONS: Final = Named(Items(Int(1, limits.VERSION_MAX), limits.VERSIONS), limits.PROTOCOLS)
_FEATURE: Final = Text(limits.FEATURE_CHARS, r"[a-z][a-z0-9_.-]*")
_SOFTWARE: Final = Text(limits.SOFTWARE_CHARS, r"[!-~]+")
_CODE: Final = Text(limits.CODE_CHARS, r"[a-z][a-z0-9_]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """Who speaks, and what it speaks.

    Attributes:
        sender: must be the transport's identity: a greeting cannot be passed on as somebody else's.
        incarnation: when this run of the sender began; the epoch of its adverts.
        time: the sender's clock, microseconds since 1970.
        versions: by name, each version spoken of a protocol or kind of record.
        features: what the sender can beyond its versions; only what both have counts.
        certificate: that it belongs to its private swarm, sealed (`protocol.membership`); not looked into here.
    """

    swarm: Annotated[SwarmId, Id(str, SwarmId, str)]
    sender: Annotated[PeerId, Id(bytes, PeerId.from_bytes, PeerId.to_bytes)]
    incarnation: Annotated[Epoch, Id(int, Epoch, lambda epoch: epoch.start_us)]
    time: Annotated[int, Int(0, limits.TIME_MAX_US)]
    software: Annotated[str, _SOFTWARE]
    versions: Annotated[Versions, VERSIONS]
    features: Annotated[tuple[str, ...], Items(_FEATURE, limits.FEATURES)]
    certificate: Annotated[bytes | None, Blob(1, limits.CERTIFICATE_BYTES)] = None
    unknown: Unknown = field(default_factory=no_unknown, hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """We do not go together. `code` is a `PartCode` or one that a newer version has."""

    code: Annotated[str, _CODE]
    message: Annotated[str, Text(limits.MESSAGE_BYTES // 4)]
    unknown: Unknown = field(default_factory=no_unknown, hash=False)


class PartCode(StrEnum):
    """Why nodes part. Their meanings are in docs/protocol/hello.md."""

    WRONG_SWARM = "wrong_swarm"
    NOTHING_IN_COMMON = "nothing_in_common"
    MYSELF = "myself"
    NOT_WELCOME = "not_welcome"
    NOT_A_MEMBER = "not_a_member"
    FULL = "full"
    STOPPING = "stopping"


Message: TypeAlias = Hello | Part
KINDS: Final[Mapping[str, type[Message]]] = {"hello": Hello, "part": Part}


class State(Enum):
    """How far the greeting is."""

    FRESH = "fresh"
    GREETED = "greeted"  # the opener has said hello
    MET = "met"  # both have
    PARTED = "parted"


SCRIPT: Final[Script[State, Message]] = Script(
    table={
        State.FRESH: {Hello: Turn(Role.OPENER, State.GREETED)},
        State.GREETED: {Hello: Turn(Role.ANSWERER, State.MET), Part: Turn(Role.ANSWERER, State.PARTED)},
        State.MET: {Part: Turn(Role.OPENER, State.PARTED)},
        State.PARTED: {},
    },
    start=State.FRESH,
    rests=frozenset({State.MET, State.PARTED}),
    vocabulary=Vocabulary(KINDS, limits.HELLO),
    limit=limits.HELLO_BYTES,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """What two nodes have in common.

    Attributes:
        versions: of each protocol that both speak, the highest version of both.
        skew_us: how far the peer's clock is ahead of ours, as far as the way of the message lets it be known.
        certificate: what the peer showed, unverified.
    """

    peer: PeerId
    incarnation: Epoch
    software: str
    versions: Mapping[str, int]
    features: frozenset[str]
    skew_us: int
    certificate: bytes | None = None

    @property
    def clocks_agree(self) -> bool:
        """Whether each would believe the other's stamps (docs/protocol/records.md)."""
        return abs(self.skew_us) <= limits.CLOCK_SKEW_US


@dataclass(frozen=True, slots=True, kw_only=True)
class Parted:
    """They do not go together; `by_us` tells who said so."""

    by_us: bool
    code: str
    message: str


def settle(ours: Hello, theirs: Hello) -> Settled | Part:
    """Return what both have in common, or why nothing. Symmetrical, but for the names and the sign of the skew."""
    if theirs.sender == ours.sender:
        return Part(code=PartCode.MYSELF.value, message="This is the node that you are.")
    if theirs.swarm != ours.swarm:
        # Ours is not named: a private swarm's name is its own business.
        return Part(code=PartCode.WRONG_SWARM.value, message=f"This node is of another swarm than {theirs.swarm}.")
    versions = _in_common(ours.versions, theirs.versions)
    if not versions:
        spoken = ", ".join(f"{name} {_listed(them)}" for name, them in sorted(ours.versions.items()))
        message = f"No version in common. Spoken here: {spoken}."[:1000]
        return Part(code=PartCode.NOTHING_IN_COMMON.value, message=message)
    return Settled(
        peer=theirs.sender,
        incarnation=theirs.incarnation,
        software=theirs.software,
        versions=versions,
        features=frozenset(ours.features) & frozenset(theirs.features),
        skew_us=theirs.time - ours.time,
        certificate=theirs.certificate,
    )


def _in_common(ours: Versions, theirs: Versions) -> Mapping[str, int]:
    both = {name: set(ours[name]) & set(theirs[name]) for name in ours.keys() & theirs.keys()}
    return {name: max(versions) for name, versions in sorted(both.items()) if versions}


def _listed(versions: tuple[int, ...]) -> str:
    return "/".join(map(str, versions))


Judge = Callable[[Settled], Part | None]


def welcome_all(_: Settled, /) -> Part | None:
    """Judge as a node that has room and no list."""
    return None


class Greeting:
    """One end of one greeting.

    The opener sends `begin(now)`; each end hands each payload that comes to `take` and sends what that returns, until
    there is an `outcome`. Then the opener closes the stream, once the last payload is sent.

    `them` is the identity that the transport has proven. `judge` says whether a peer that we could speak with is
    also wanted.
    """

    def __init__(self, role: Role, ours: Hello, them: PeerId, *, judge: Judge = welcome_all) -> None:
        self._dialogue = Dialogue(SCRIPT, role)
        self._ours = ours
        self._them = them
        self._judge = judge
        self._began_us: int | None = None
        self._outcome: Settled | Parted | None = None

    @property
    def outcome(self) -> Settled | Parted | None:
        """What came of it; None while it lasts. An opener's Parted may follow on the answerer's Settled."""
        return self._outcome

    def begin(self, now_us: int) -> bytes:
        """Return the opener's first payload."""
        self._began_us = now_us
        return self._dialogue.say(replace(self._ours, time=now_us))

    def take(self, payload: bytes, now_us: int) -> bytes | None:
        """Take what the peer has said; return what is to be said, if anything.

        Raises:
            RemoteProtocolError: the peer broke the protocol, or says to be somebody else than it is.
        """
        message = self._dialogue.hear(payload)
        if isinstance(message, Part):
            self._outcome = Parted(by_us=False, code=message.code, message=message.message)
            return None
        if message.sender != self._them:
            raise RemoteProtocolError(
                Reason.WRONG_SENDER, f"{message.sender} over a connection of {self._them}", path="sender"
            )
        # For the opener the peer's clock was read somewhere between its hello and now: half way, on average.
        read_at = now_us if self._began_us is None else (self._began_us + now_us) // 2
        verdict = settle(replace(self._ours, time=read_at), message)
        if isinstance(verdict, Settled):
            verdict = self._judge(verdict) or verdict
        if isinstance(verdict, Part):
            self._outcome = Parted(by_us=True, code=verdict.code, message=verdict.message)
            return self._dialogue.say(verdict)
        self._outcome = verdict
        ours = replace(self._ours, time=now_us)
        return None if self._dialogue.our_role is Role.OPENER else self._dialogue.say(ours)

    def end(self) -> None:
        """Say that the peer has closed its side.

        Raises:
            RemoteProtocolError: it did so before there was an outcome.
        """
        self._dialogue.end()
