"""Who belongs to a private swarm: invitations, certificates, revocations. Specification: docs/protocol/membership.md.

Knows no network, no file and no clock. A private swarm is its administrator's: an Ed25519 key of its own, whose
digest is a part of the swarm's id. It signs *invitations* to keys that are made for the purpose and travel in tokens;
whoever has such a key signs a *certificate* for a node with it, the invitation inside. So a node becomes a member
while the administrator is away, and everybody can check it with the administrator's public key alone. A certificate
may also be signed by the administrator, for one node.

*Revocations* are one list, the administrator's latest. It names members and invitations that count no more.
"""

from base64 import b32encode
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from hashlib import sha256
from typing import Annotated, Final, TypeAlias

from protocol import limits, records
from protocol.dialogue import Role, Script, Turn
from protocol.errors import Reason, RemoteProtocolError
from protocol.ids import InvalidId, PeerId, SwarmId
from protocol.messages import Vocabulary
from protocol.records import STAMP, Kind, Signed, SigningKey, Stamp
from protocol.schema import Blob, Id, Int, Items, Nested, Text, Unknown, no_unknown

PROTOCOL_ID: Final = "/metainf/membership/1"

_NAMED_AFTER: Final = b"metainf/swarm/1\0"
_MARK_CHARS: Final = 16  # of base32: 80 bits of the administrator's key; nobody finds another key of one mark
NAME_CHARS: Final = limits.SWARM_ID_CHARS - 1 - _MARK_CHARS  # of the part of a swarm's id that people choose

PEER_ID: Final = Id(bytes, PeerId.from_bytes, PeerId.to_bytes)
_ROLES: Final = Items(Text(limits.WORD_CHARS, r"[a-z][a-z-]*"), limits.MEMBER_ROLES)


class MemberRole(StrEnum):
    """What a member may do. Words that are not known here give no power."""

    SERVE = "serve"  # answer the prompts of other members, and so read them
    ASK = "ask"  # have its prompts answered by others
    RELAY = "relay"  # lend circuits to members that cannot be dialled
    OBSERVE = "observe"  # see who is there, and the history; whoever has any role may


def swarm_of(name: str, administrator: PeerId) -> SwarmId:
    """Return the id of an administrator's swarm of this name: two swarms never share one.

    Raises:
        InvalidId: the name is no lower-case label, or longer than `NAME_CHARS`.
    """
    SwarmId(name)
    if len(name) > NAME_CHARS:
        raise InvalidId(f"the name of a private swarm has {NAME_CHARS} characters at most, not {len(name)}")
    digest = sha256(_NAMED_AFTER + administrator.public_key()).digest()
    return SwarmId(f"{name}-{b32encode(digest).decode().lower()[:_MARK_CHARS]}")


def is_administrator(swarm: SwarmId, administrator: PeerId) -> bool:
    """Tell whether a swarm is this administrator's."""
    name = swarm.text[: -1 - _MARK_CHARS]
    try:
        return swarm_of(name, administrator) == swarm
    except InvalidId:
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Invitation:
    """Whoever holds the key `holder` may make members of these roles, as long as the invitation counts."""

    stamp: Annotated[Stamp, STAMP]
    holder: Annotated[PeerId, PEER_ID]
    roles: Annotated[tuple[str, ...], _ROLES]
    unknown: Unknown = field(default_factory=no_unknown, hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """The node `member` belongs to the swarm, in these roles, until the stamp's expiry.

    Attributes:
        invitation: sealed; the stamp's author is its holder. Absent where the author is the administrator.
    """

    stamp: Annotated[Stamp, STAMP]
    member: Annotated[PeerId, PEER_ID]
    roles: Annotated[tuple[str, ...], _ROLES]
    invitation: Annotated[bytes | None, Blob(1, limits.INVITATION_BYTES)] = None
    unknown: Unknown = field(default_factory=no_unknown, hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Revoked:
    """A member, or the holder's key of an invitation; with the latter, whoever came by it."""

    peer: Annotated[PeerId, PEER_ID]
    time: Annotated[int, Int(0, limits.TIME_MAX_US)]  # µs since 1970, by the administrator's clock
    unknown: Unknown = field(default_factory=no_unknown, hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Revocations:
    """All that is revoked. Of two lists the one of the later epoch, then of the higher sequence number, counts."""

    stamp: Annotated[Stamp, STAMP]
    revoked: Annotated[tuple[Revoked, ...], Items(Nested(Revoked), limits.REVOKED)]
    unknown: Unknown = field(default_factory=no_unknown, hash=False)


INVITATION: Final = Kind(name="invitation", version=1, body=Invitation, size=limits.INVITATION_BYTES, values=64)
CERTIFICATE: Final = Kind(name="certificate", version=1, body=Certificate, size=limits.CERTIFICATE_BYTES, values=64)
REVOCATIONS: Final = Kind(name="revocations", version=1, body=Revocations)


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """What a certificate that holds says.

    Attributes:
        came_by: the invitation's holder; None where the administrator signed for this node.
        until: µs since 1970 at which it counts no more.
    """

    peer: PeerId
    roles: frozenset[str]
    came_by: PeerId | None
    since: int
    until: int


def accept(
    invitation: Signed[Invitation], key: SigningKey, member: PeerId, roles: tuple[str, ...] | None = None
) -> Signed[Certificate]:
    """Return a node's certificate, made with an invitation's key.

    It counts as long as the invitation. It says no time of its own: that would be the joiner's word alone.

    Args:
        roles: some of the invitation's; None: all of them.
    """
    body = invitation.body
    stamp = body.stamp
    certificate = Certificate(
        stamp=Stamp(
            version=CERTIFICATE.version,
            swarm=stamp.swarm,
            author=body.holder,
            epoch=stamp.epoch,
            seq=0,
            time=stamp.time,
            expiry=stamp.expiry,
        ),
        member=member,
        roles=body.roles if roles is None else roles,
        invitation=invitation.sealed,
    )
    return records.sign(CERTIFICATE, certificate, key)


def open_invitation(sealed: bytes, *, swarm: SwarmId, administrator: PeerId, now_us: int) -> Signed[Invitation]:
    """Open an invitation to a swarm.

    Raises:
        RemoteProtocolError: it is none of this administrator's, or counts no more.
    """
    if len(sealed) > limits.INVITATION_BYTES:
        raise RemoteProtocolError(Reason.TOO_LARGE, f"an invitation above {limits.INVITATION_BYTES} bytes")
    invitation = records.verify_and_open(sealed, INVITATION, swarm=swarm, now_us=now_us)
    _hold_to(administrator, invitation.body.stamp)
    return invitation


def open_certificate(sealed: bytes, *, swarm: SwarmId, administrator: PeerId, now_us: int) -> Member:
    """Return whom a certificate makes a member of the swarm. Whether it was revoked is not seen here.

    Raises:
        RemoteProtocolError: it does not lead back to the administrator, says more than its invitation, or counts no
            more.
    """
    if len(sealed) > limits.CERTIFICATE_BYTES:
        raise RemoteProtocolError(Reason.TOO_LARGE, f"a certificate above {limits.CERTIFICATE_BYTES} bytes")
    certificate = records.verify_and_open(sealed, CERTIFICATE, swarm=swarm, now_us=now_us).body
    stamp = certificate.stamp
    if certificate.invitation is None:
        _hold_to(administrator, stamp)
    else:
        invitation = open_invitation(certificate.invitation, swarm=swarm, administrator=administrator, now_us=now_us)
        _hold_to(invitation.body.holder, stamp)
        if stamp.expiry > invitation.body.stamp.expiry:
            raise RemoteProtocolError(Reason.NOT_A_MEMBER, "it outlives its invitation", path="stamp.expiry")
        if not set(certificate.roles) <= set(invitation.body.roles):
            raise RemoteProtocolError(Reason.NOT_A_MEMBER, "it has roles that its invitation has not", path="roles")
    return Member(
        peer=certificate.member,
        roles=frozenset(certificate.roles),
        came_by=None if certificate.invitation is None else stamp.author,
        since=stamp.time,
        until=stamp.expiry,
    )


def open_revocations(sealed: bytes, *, swarm: SwarmId, administrator: PeerId) -> Signed[Revocations]:
    """Open a list of revocations, whatever the time: a wrong clock must not keep anybody in.

    Raises:
        RemoteProtocolError: it is none of this administrator's.
    """
    revocations = records.verify_archived(sealed, REVOCATIONS, swarm=swarm)
    _hold_to(administrator, revocations.body.stamp)
    return revocations


def outranks(one: Signed[Revocations], other: Signed[Revocations]) -> bool:
    """Tell whether `one` counts and `other` does not."""
    ours, theirs = one.body.stamp, other.body.stamp
    if (ours.epoch, ours.seq) != (theirs.epoch, theirs.seq):
        return (ours.epoch, ours.seq) > (theirs.epoch, theirs.seq)
    return one.digest < other.digest


def _hold_to(author: PeerId, stamp: Stamp) -> None:
    if stamp.author != author:
        raise RemoteProtocolError(Reason.NOT_A_MEMBER, f"by {stamp.author}, not {author}", path="stamp.author")


# -- passing revocations on


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """The list that the opener goes by, sealed."""

    revocations: Annotated[bytes, Blob(1, limits.RECORD_BYTES)]
    unknown: Unknown = field(default_factory=no_unknown, hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """The answerer goes by it, too, or by a later one."""

    unknown: Unknown = field(default_factory=no_unknown, hash=False)


Message: TypeAlias = Told | Taken


class State(Enum):
    """How far the dialogue is."""

    QUIET = "quiet"
    TOLD = "told"


SCRIPT: Final[Script[State, Message]] = Script(
    table={
        State.QUIET: {Told: Turn(Role.OPENER, State.TOLD)},
        State.TOLD: {Taken: Turn(Role.ANSWERER, State.QUIET)},
    },
    start=State.QUIET,
    rests=frozenset({State.QUIET}),
    vocabulary=Vocabulary({"told": Told, "taken": Taken}, limits.RECORD),
    limit=limits.RECORD_BYTES + limits.KIB,
)
