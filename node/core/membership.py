"""Who belongs to this node's private swarm, and what each may do: certificates and revocations in, answers out.

Knows no network, no file and no clock: times are microseconds since 1970. Nobody is a member by being connected, nor
by having the swarm's key: only by a certificate that leads back to the administrator and was not revoked.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from protocol import limits
from protocol.addresses import Address
from protocol.errors import Reason, RemoteProtocolError
from protocol.hello import Part, PartCode
from protocol.ids import Epoch, PeerId, SwarmId
from protocol.membership import (
    Member,
    MemberRole,
    Revocations,
    Revoked,
    open_certificate,
    open_revocations,
    outranks,
)
from protocol.records import Signed, Stamp

KEPT: Final = 4096  # members whose certificates are kept, 1 KiB each: twice the book of peers


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """What makes this node one of a private swarm.

    Attributes:
        key: the swarm's, 32 bytes; secret.
        certificate: this node's own, sealed.
        addresses: of members to join through, peer ids included.
    """

    swarm: SwarmId
    administrator: PeerId
    key: bytes = field(repr=False)
    certificate: bytes = field(repr=False)
    addresses: tuple[Address, ...] = ()


# Why somebody is no member, in words that are told to it and to people.
NO_CERTIFICATE: Final = "no certificate was shown"
ANOTHERS: Final = "the certificate is another node's"
REVOKED: Final = "its membership was revoked"
WORDS: Final[Mapping[Reason, str]] = {
    Reason.EXPIRED: "its certificate has run out",
    Reason.FROM_THE_FUTURE: "its certificate is from the future: one of the two clocks is wrong",
    Reason.WRONG_SWARM: "its certificate is of another swarm",
    Reason.BAD_SIGNATURE: "its certificate is not signed by whom it names",
    Reason.NOT_A_MEMBER: "its certificate does not lead back to this swarm's administrator",
}
NOT_TO_BE_READ: Final = "its certificate cannot be read"


class Members:
    """The members that this node has seen certificates of, and what is revoked."""

    def __init__(self, membership: Membership, *, revocations: bytes | None = None) -> None:
        """Begin with the revocations that were kept, sealed; a list that is not the administrator's counts as none."""
        self.membership: Final = membership
        self._members: OrderedDict[PeerId, tuple[bytes, Member]] = OrderedDict()
        self._revocations: Signed[Revocations] | None = None
        self._revoked: frozenset[PeerId] = frozenset()
        if revocations is not None:
            try:
                self.take(revocations)
            except RemoteProtocolError:
                return

    def refusal(self, peer: PeerId, certificate: bytes | None, now_us: int) -> str | None:
        """Note a certificate that a peer showed; return why it is no member by it, None where it is.

        One that does not hold takes nothing away from what was noted before.
        """
        if certificate is None:
            return NO_CERTIFICATE
        known = self._members.get(peer)
        if known is None or known[0] != certificate:
            try:
                member = open_certificate(
                    certificate,
                    swarm=self.membership.swarm,
                    administrator=self.membership.administrator,
                    now_us=now_us,
                )
            except RemoteProtocolError as error:
                return WORDS.get(error.reason, NOT_TO_BE_READ)
            if member.peer != peer:
                return ANOTHERS
        else:
            member = known[1]
        if why := self._fault(member, now_us):
            return why
        self._members[peer] = certificate, member
        self._members.move_to_end(peer)
        if len(self._members) > KEPT:
            self._members.popitem(last=False)
        return None

    def part(self, peer: PeerId, certificate: bytes | None, now_us: int) -> Part | None:
        """Judge a greeting: as `refusal`, in the terms of the greeting."""
        why = self.refusal(peer, certificate, now_us)
        if why is None:
            return None
        message = f"This swarm is for its members: {why}. Its administrator can invite this node."
        return Part(code=PartCode.NOT_A_MEMBER.value, message=message)

    def may(self, peer: PeerId, role: MemberRole, now_us: int) -> bool:
        """Tell whether a peer is a member now that has this role."""
        known = self._members.get(peer)
        return known is not None and role in known[1].roles and self._fault(known[1], now_us) is None

    def outsider(self, peer: PeerId, now_us: int) -> bool:
        """Tell whether a peer is not, or not any more, known for a member."""
        known = self._members.get(peer)
        return known is None or self._fault(known[1], now_us) is not None

    def own(self, me: PeerId, now_us: int) -> tuple[Member | None, str | None]:
        """Return what this node's own certificate says, and what is wrong with it."""
        sealed = self.membership.certificate
        why = self.refusal(me, sealed, now_us)
        known = self._members.get(me)
        return (None if known is None else known[1]), why

    def take(self, sealed: bytes) -> bool:
        """Take in a list of revocations; return whether it is news.

        Raises:
            RemoteProtocolError: it is none of this swarm's administrator's.
        """
        if self._revocations is not None and sealed == self._revocations.sealed:
            return False
        heard = open_revocations(sealed, swarm=self.membership.swarm, administrator=self.membership.administrator)
        if self._revocations is not None and not outranks(heard, self._revocations):
            return False
        self._revocations = heard
        self._revoked = frozenset(each.peer for each in heard.body.revoked)
        return True

    @property
    def revocations(self) -> Signed[Revocations] | None:
        """The list that counts; None where there is none yet."""
        return self._revocations

    def revoked(self, peer: PeerId) -> bool:
        """Tell whether a peer, or an invitation by its holder, is revoked."""
        return peer in self._revoked

    def seen(self, now_us: int) -> tuple[Member, ...]:
        """Return the members whose certificates were seen and count, in the order of their ids."""
        return tuple(member for _, (_, member) in sorted(self._members.items()) if self._fault(member, now_us) is None)

    def _fault(self, member: Member, now_us: int) -> str | None:
        if member.peer in self._revoked or (member.came_by is not None and member.came_by in self._revoked):
            return REVOKED
        if member.until <= now_us:
            return WORDS[Reason.EXPIRED]
        return None


def revoke(
    known: Signed[Revocations] | None, peers: tuple[PeerId, ...], *, membership: Membership, now_us: int
) -> Revocations:
    """Return the administrator's next list: the one before, and these peers. To be signed with its key.

    What was revoked longer ago than any certificate can last is left out.

    Raises:
        ValueError: more are revoked than one list has room for, for a person.
    """
    from_before = () if known is None else known.body.revoked
    kept = tuple(each for each in from_before if each.time + limits.LIFETIME_MAX_US > now_us and each.peer not in peers)
    revoked = kept + tuple(Revoked(peer=peer, time=now_us) for peer in peers)
    if len(revoked) > limits.REVOKED:
        raise ValueError(f"{limits.REVOKED} members and invitations are revoked already: found the swarm anew")
    before = None if known is None else known.body.stamp
    # A clock that was set back must not make the new list an older one.
    epoch = Epoch(now_us) if before is None else before.epoch
    time = max(now_us, epoch.start_us)
    return Revocations(
        stamp=Stamp(
            version=1,
            swarm=membership.swarm,
            author=membership.administrator,
            epoch=epoch,
            seq=0 if before is None else before.seq + 1,
            time=time,
            expiry=time + limits.LIFETIME_MAX_US,
        ),
        revoked=revoked,
    )
