"""A private swarm as its node lives in it: who is let in, who may do what, what is told of it.

A part of the composition root: wires the members and the revocations to the services among peers. Decides nothing.
"""

from base64 import b64encode
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Protocol

import structlog
import trio

from node.core.access import NOBODY, Access
from node.core.addressbook import AddressBook
from node.core.membership import Members
from node.core.peerbook import Change, Peerbook
from node.membership_ports import Doors
from node.ports import Streams, Swarm
from node.private_hands import PrivateHands
from node.services.spread_revocations import Revoking
from protocol import limits
from protocol.advert import Advert
from protocol.hello import Part, Settled
from protocol.ids import PeerId
from protocol.membership import Member, MemberRole

log = structlog.get_logger(__name__)

SOON_US = 14 * limits.DAY_US  # before its end a certificate is told to be running out


class Network(Swarm, Streams, Doors, Protocol):
    """Connections, conversations, and doors that can be kept shut."""


class Circle:
    """Who belongs to this node's swarm: in the public one everybody, in a private one its members.

    `run` is its one long-lived task.

    Attributes:
        certificate: this node's own, sealed; None in the public swarm.
    """

    def __init__(self, hands: PrivateHands | None, network: Network, *, me: PeerId, wall: Callable[[], int]) -> None:
        self._network = network
        self._me = me
        self._wall = wall
        self._hands = hands
        self._revoking: Revoking | None = None
        self._members: Members | None = None
        self._own: Member | None = None
        self.certificate: bytes | None = None
        if hands is not None:
            self._members = Members(hands.membership, revocations=hands.revocations)
            self.certificate = hands.membership.certificate
            self._own, wrong = self._members.own(me, wall())
            _warn(self._own, wrong, wall())

    def connect(
        self,
        *,
        book: Peerbook,
        addresses: AddressBook,
        met: Callable[[PeerId], Awaitable[bool]],
        apply: Callable[[Iterable[Change]], None],
    ) -> None:
        """Get to know the other services, before `run`: `met` is the greeter's, `apply` discovery's."""

        def expel(peer: PeerId, seconds: float) -> None:
            now = trio.current_time()
            addresses.shun(peer, now + seconds)
            apply(book.expel(peer, now))

        self._network.admit(met)
        if self._members is None or self._hands is None:
            return
        self._revoking = Revoking(
            self._network,
            self._network,
            members=self._members,
            peers=lambda: book.connections() | set(book.members(trio.current_time())),
            connections=book.connections,
            met=met,
            expel=expel,
            keep=self._hands.keep,
            wall=self._wall,
        )

    async def run(self) -> None:
        """Keep outsiders out; return never."""
        if self._revoking is None:
            await trio.sleep_forever()
        else:
            await self._revoking.run()

    def met(self, peer: PeerId) -> None:
        """Note that a peer has greeted."""
        if self._revoking is not None:
            self._revoking.met(peer)

    def revoke(self, sealed: bytes) -> bool:
        """Go by a list of revocations, and spread it; return whether it is news. Raises RemoteProtocolError."""
        return self._revoking is not None and self._revoking.take(sealed)

    def judge(self, settled: Settled) -> Part | None:
        """Judge a greeting."""
        if self._members is None:
            return None
        return self._members.part(settled.peer, settled.certificate, self._wall())

    def belongs(self, advert: Advert) -> bool:
        """Tell whether an advert's author is one of us, in a private swarm by the certificate in it."""
        if self._members is None:
            return True
        return self._members.refusal(advert.stamp.author, advert.certificate, self._wall()) is None

    def access(self, given: Access) -> Access:
        """Return the owner's rules, and those of the swarm with them: ours by our certificate, peers' by theirs."""
        if self._members is None:
            return given
        members, mine = self._members, frozenset[str]() if self._own is None else self._own.roles
        return replace(
            given,
            serve=given.serve if MemberRole.SERVE in mine else NOBODY,
            ask=given.ask if MemberRole.ASK in mine else NOBODY,
            may_be_served=lambda peer: members.may(peer, MemberRole.ASK, self._wall()),
            may_serve=lambda peer: members.may(peer, MemberRole.SERVE, self._wall()),
        )

    def may(self, peer: PeerId, role: MemberRole) -> bool:
        """Tell whether a peer has a role; in the public swarm everybody has every one."""
        return self._members is None or self._members.may(peer, role, self._wall())

    # -- what is told of it

    def facts(self) -> dict[str, Any] | None:
        """Return the part of `metainf status --json`; None in the public swarm. Times are seconds since 1970."""
        members, now = self._members, self._wall()
        if members is None:
            return None
        own, wrong = members.own(self._me, now)
        return {
            "administrator": str(members.membership.administrator),
            "roles": [] if own is None else sorted(own.roles),
            "until": None if own is None else own.until // limits.SECOND_US,
            "trouble": wrong,
            "members": len(members.seen(now)),
            "revoked": len(_revoked(members)),
        }

    def document(self) -> dict[str, Any] | None:
        """Return the document of `metainf swarm members --json`; None in the public swarm."""
        members, facts = self._members, self.facts()
        if members is None or facts is None:
            return None
        current = members.revocations
        return {
            "swarm": str(members.membership.swarm),
            **facts,
            "members": [_told(each) | {"this_node": each.peer == self._me} for each in members.seen(self._wall())],
            "revoked": [
                {"id": str(peer), "at": at // limits.SECOND_US} for peer, at in sorted(_revoked(members).items())
            ],
            "revocations": None if current is None else b64encode(current.sealed).decode(),
        }


def _warn(own: Member | None, wrong: str | None, now_us: int) -> None:
    if wrong is not None:
        log.warning("membership.not_a_member", reason=wrong, remedy="metainf swarm join TOKEN, with a new token")
    elif own is not None and own.until - now_us < SOON_US:
        log.warning("membership.runs_out", days=(own.until - now_us) // limits.DAY_US)


def _revoked(members: Members) -> Mapping[PeerId, int]:
    current = members.revocations
    return {} if current is None else {each.peer: each.time for each in current.body.revoked}


def _told(member: Member) -> dict[str, Any]:
    return {
        "peer_id": str(member.peer),
        "roles": sorted(member.roles),
        "invitation": None if member.came_by is None else str(member.came_by),
        "since": member.since // limits.SECOND_US,
        "until": member.until // limits.SECOND_US,
    }
