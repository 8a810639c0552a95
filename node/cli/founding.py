"""What the verbs of `metainf swarm` do with keys and files: found, invite, join, revoke, rotate.

Knows no terminal: values in, values out, errors for a person. A node that runs reads its membership at its start, so
these change files; what must not wait (a revocation) is also handed to it by whoever calls.
"""

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from node.adapters import keystore, membership_file
from node.adapters.keystore import Identity
from node.core.membership import Members, Membership, revoke
from node.errors import ConfigError, Unavailable
from node.places import Places
from protocol import limits, records
from protocol.addresses import Address, parse_address
from protocol.errors import RemoteProtocolError
from protocol.ids import Epoch, InvalidId, PeerId, SwarmId
from protocol.membership import (
    CERTIFICATE,
    INVITATION,
    REVOCATIONS,
    Certificate,
    Invitation,
    Member,
    MemberRole,
    Revocations,
    accept,
    open_certificate,
    open_invitation,
    swarm_of,
)
from protocol.records import Signed, Stamp
from protocol.token import InvalidToken, Token, parse, spell

EVERY_ROLE = tuple(sorted(role.value for role in MemberRole))
LONGEST_US = limits.LIFETIME_MAX_US


def now_us() -> int:
    """Return the wall clock, µs since 1970."""
    return time.time_ns() // 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Office:
    """A private swarm as its administrator has it."""

    membership: Membership
    key: Identity

    def stamp(self, life_us: int, *, now: int) -> Stamp:
        """Return the stamp of something that the administrator signs now, for so long."""
        return Stamp(
            version=1,
            swarm=self.membership.swarm,
            author=self.membership.administrator,
            epoch=Epoch(now),
            seq=0,
            time=now,
            expiry=now + life_us,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Invited:
    """A token, and what is told of it. `invitation` is what `swarm revoke` takes; None where it is for one peer."""

    token: str = field(repr=False)
    swarm: SwarmId
    roles: tuple[str, ...]
    until: int
    addresses: tuple[str, ...]
    invitation: PeerId | None = None
    peer: PeerId | None = None


def membership_of(where: Places) -> Membership:
    """Return the private swarm that this node belongs to.

    Raises:
        Unavailable: it belongs to none, or the file cannot be read.
        ConfigError: the file is damaged, or readable by others.
    """
    membership = membership_file.load(where.membership_file)
    if membership is None:
        raise Unavailable(
            "this node belongs to no private swarm", remedy="`metainf swarm create NAME`, or `metainf swarm join TOKEN`"
        )
    return membership


def office_of(where: Places) -> Office:
    """Return what the administrator's machine has.

    Raises:
        NodeError: this is not that machine, or a file is damaged.
    """
    membership = membership_of(where)
    file = where.administrator_file(membership.swarm)
    try:
        key = keystore.load(file)
    except FileNotFoundError as error:
        raise Unavailable(
            f"this node does not administer {membership.swarm}",
            remedy=f"do it where the swarm was created, or bring {file.name} from there to {file.parent}",
        ) from error
    except OSError as error:
        raise Unavailable(f"cannot read {file}: {error.strerror}", remedy="check its permissions") from error
    if PeerId.from_public_key(key.public_key) != membership.administrator:
        raise ConfigError(f"{file} holds another key than this swarm's administrator's", remedy="restore a back-up")
    return Office(membership=membership, key=key)


def create(where: Places, name: str) -> Membership:
    """Found a private swarm: a key of its administrator, a key of the swarm, and this node as its first member.

    Raises:
        NodeError: this node belongs to one already, or the name will not do, or a file cannot be written.
    """
    _require_free(where, None)
    administrator = keystore.generate()
    me = PeerId.from_public_key(administrator.public_key)
    try:
        swarm = swarm_of(name, me)
    except InvalidId as error:
        raise ConfigError(f"{name[:80]!r} cannot name a swarm: {error}", remedy="write it as `my-team`") from error
    keystore.keep(where.administrator_file(swarm), administrator)
    bare = Membership(swarm=swarm, administrator=me, key=secrets.token_bytes(limits.SWARM_KEY_BYTES), certificate=b"")
    office = Office(membership=bare, key=administrator)
    membership = replace(bare, certificate=_signed_for(office, _own_id(where), EVERY_ROLE, LONGEST_US).sealed)
    membership_file.save(where.membership_file, membership)
    return membership


def invite(
    where: Places, *, roles: Sequence[str], life_us: int, addresses: Sequence[str], peer: PeerId | None = None
) -> Invited:
    """Make a token: for whoever gets it, or for one peer.

    Args:
        addresses: where nodes of the swarm are reached, peer ids included.

    Raises:
        NodeError: see `office_of`; or no address is known.
    """
    office = office_of(where)
    _renew_own(where, office)
    chosen, given, now = _addresses(addresses), tuple(sorted(set(roles))), now_us()
    fields = _token_of(office.membership, chosen)
    until = now + life_us
    if peer is not None:
        token = replace(fields, certificate=_signed_for(office, peer, given, life_us).sealed)
        return _invited(token, given, until, peer=peer)
    holder = keystore.generate()
    holder_id = PeerId.from_public_key(holder.public_key)
    body = Invitation(stamp=office.stamp(life_us, now=now), holder=holder_id, roles=given)
    invitation = records.sign(INVITATION, body, office.key.signing_key())
    token = replace(fields, invitation=invitation.sealed, secret=holder.secret_seed())
    return _invited(token, given, until, invitation=holder_id)


def join(where: Places, text: str) -> tuple[Membership, Member]:
    """Become a member with a token, or take the swarm's new key from it.

    Raises:
        NodeError: the token is none, counts no more or is for somebody else; or this node belongs to another swarm.
    """
    try:
        token = parse(text)
    except InvalidToken as error:
        remedy = "copy all of it, from metainf-join- to its end"
        raise ConfigError(f"this is no token of a private swarm: {error}", remedy=remedy) from error
    _require_free(where, token.swarm)
    before = membership_file.load(where.membership_file)
    me, now = _own_id(where), now_us()
    try:
        certificate = _certificate(token, before, me, now)
        member = open_certificate(certificate, swarm=token.swarm, administrator=token.administrator, now_us=now)
    except RemoteProtocolError as error:
        raise ConfigError(
            f"the token does not count now: {error}",
            remedy="check this machine's clock; else ask the swarm's administrator for a new token",
        ) from error
    if member.peer != me:
        raise ConfigError(f"the token is for the node {member.peer}, and this is {me}", remedy="ask for one for this")
    addresses = tuple(each for each in map(parse_address, token.addresses) if each is not None and each.peer != me)
    membership = Membership(
        swarm=token.swarm,
        administrator=token.administrator,
        key=token.key,
        certificate=certificate,
        addresses=addresses,
    )
    membership_file.save(where.membership_file, membership)
    return membership, member


def next_revocations(where: Places, known: bytes | None, peers: tuple[PeerId, ...]) -> Signed[Revocations]:
    """Sign the list that revokes these, too, and keep it.

    Args:
        known: the list that the running node goes by, sealed; what was kept counts as well.

    Raises:
        NodeError: see `office_of`; or more are revoked than a list has room for.
    """
    office = office_of(where)
    file = where.revocations_file(office.membership.swarm)
    members = Members(office.membership, revocations=membership_file.load_revocations(file))
    if known is not None:
        try:
            members.take(known)
        except RemoteProtocolError as error:
            raise ConfigError(f"the node goes by a list that is not this administrator's: {error}") from error
    try:
        body = revoke(members.revocations, peers, membership=office.membership, now_us=now_us())
    except ValueError as error:
        raise ConfigError(str(error), remedy="metainf swarm leave; metainf swarm create NAME") from error
    revocations = records.sign(REVOCATIONS, body, office.key.signing_key())
    membership_file.save_revocations(file, revocations.sealed)
    return revocations


def rotate(where: Places, addresses: Sequence[str]) -> Invited:
    """Give the swarm a new key; the token brings it to those who are members already.

    Raises:
        NodeError: see `office_of`; or no address is known.
    """
    office = office_of(where)
    chosen = _addresses(addresses)
    membership = replace(office.membership, key=secrets.token_bytes(limits.SWARM_KEY_BYTES))
    membership_file.save(where.membership_file, membership)
    office = replace(office, membership=membership)
    _renew_own(where, office)
    return _invited(_token_of(membership, chosen), (), now_us() + LONGEST_US)


def leave(where: Places) -> tuple[SwarmId, bool]:
    """Forget the swarm's key and this node's certificate; return the swarm, and whether its administrator's key stays.

    Raises:
        NodeError: see `membership_of`.
    """
    membership = membership_of(where)
    try:
        where.membership_file.unlink()
    except OSError as error:
        raise Unavailable(f"cannot remove {where.membership_file}: {error.strerror}") from error
    return membership.swarm, where.administrator_file(membership.swarm).exists()


def standing(where: Places) -> tuple[Members, PeerId]:
    """Return what is known of the members without a running node, and this node's id.

    Raises:
        NodeError: see `membership_of`.
    """
    membership = membership_of(where)
    kept = membership_file.load_revocations(where.revocations_file(membership.swarm))
    return Members(membership, revocations=kept), _own_id(where)


def _certificate(token: Token, before: Membership | None, me: PeerId, now: int) -> bytes:
    """Return what makes this node a member. Raises ConfigError, RemoteProtocolError."""
    if token.certificate is not None:
        return token.certificate
    if token.invitation is not None and token.secret is not None:
        invitation = open_invitation(token.invitation, swarm=token.swarm, administrator=token.administrator, now_us=now)
        holder = keystore.from_seed(token.secret)
        if PeerId.from_public_key(holder.public_key) != invitation.body.holder:
            raise ConfigError("the key in the token is not its invitation's", remedy="ask for a new token")
        return accept(invitation, holder.signing_key(), me).sealed
    if before is None:
        raise ConfigError(
            "this token brings a new key to members, and this node is none",
            remedy="ask the swarm's administrator for an invitation: metainf swarm invite",
        )
    return before.certificate


def _signed_for(office: Office, member: PeerId, roles: tuple[str, ...], life_us: int) -> Signed[Certificate]:
    body = Certificate(stamp=office.stamp(life_us, now=now_us()), member=member, roles=roles)
    return records.sign(CERTIFICATE, body, office.key.signing_key())


def _renew_own(where: Places, office: Office) -> None:
    """Begin the administrator's own membership anew: nobody else could."""
    certificate = _signed_for(office, _own_id(where), EVERY_ROLE, LONGEST_US).sealed
    membership_file.save(where.membership_file, replace(office.membership, certificate=certificate))


def _require_free(where: Places, swarm: SwarmId | None) -> None:
    before = membership_file.load(where.membership_file)
    if before is not None and before.swarm != swarm:
        raise ConfigError(
            f"this node belongs to the private swarm {before.swarm} already",
            remedy="`metainf swarm leave` first, or use another --data-dir: a node is of one swarm",
        )


def _own_id(where: Places) -> PeerId:
    identity, _ = keystore.load_or_create(where.identity_file)
    return PeerId.from_public_key(identity.public_key)


def _addresses(given: Sequence[str]) -> tuple[Address, ...]:
    found: list[Address] = []
    for text in given:
        address = parse_address(text)
        if address is None or address.peer is None:
            raise ConfigError(
                f"{text[:200]!r} is no address of a node",
                remedy="write it as the node prints it: /ip4/192.0.2.1/tcp/47470/p2p/12D3Koo...",
            )
        found.append(address)
    if not found:
        raise Unavailable(
            "no address is known at which a newcomer would find the swarm",
            remedy="start this node first (`metainf up`), or give one with --address",
        )
    return tuple(dict.fromkeys(found))[: limits.TOKEN_ADDRESSES]


def _token_of(membership: Membership, addresses: tuple[Address, ...]) -> Token:
    return Token(
        version=1,
        swarm=membership.swarm,
        administrator=membership.administrator,
        key=membership.key,
        addresses=tuple(map(str, addresses)),
    )


def _invited(
    token: Token, roles: tuple[str, ...], until: int, *, invitation: PeerId | None = None, peer: PeerId | None = None
) -> Invited:
    return Invited(
        token=spell(token),
        swarm=token.swarm,
        roles=roles,
        until=until,
        addresses=token.addresses,
        invitation=invitation,
        peer=peer,
    )
