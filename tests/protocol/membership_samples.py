"""A private swarm for tests: its administrator, and what comes of its key."""

from dataclasses import dataclass, field
from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from protocol import records
from protocol.ids import Epoch, PeerId, SwarmId
from protocol.membership import (
    CERTIFICATE,
    INVITATION,
    REVOCATIONS,
    Certificate,
    Invitation,
    Revocations,
    Revoked,
    accept,
    swarm_of,
)
from protocol.records import Signed, Stamp
from tests.protocol.samples import HOUR, NOW

ROLES = ("ask", "observe", "serve")


def key_of(name: str) -> Ed25519PrivateKey:
    """The key of whoever has this name, always the same."""
    return Ed25519PrivateKey.from_private_bytes(sha256(name.encode()).digest())


def peer_of(key: Ed25519PrivateKey) -> PeerId:
    return PeerId.from_public_key(key.public_key().public_bytes_raw())


@dataclass(frozen=True, kw_only=True)
class Founder:
    """The administrator of a private swarm. `now`: when it signs, µs since 1970."""

    name: str = "team"
    admin: Ed25519PrivateKey = field(default_factory=lambda: key_of("administrator"))
    now: int = NOW

    @property
    def me(self) -> PeerId:
        return peer_of(self.admin)

    @property
    def swarm(self) -> SwarmId:
        return swarm_of(self.name, self.me)

    @property
    def key(self) -> bytes:
        return sha256(str(self.swarm).encode()).digest()

    def stamp(self, **changes: object) -> Stamp:
        fields: dict[str, object] = {
            "version": 1,
            "swarm": self.swarm,
            "author": self.me,
            "epoch": Epoch(self.now),
            "seq": 0,
            "time": self.now,
            "expiry": self.now + 24 * HOUR,
        }
        return Stamp(**(fields | changes))  # type: ignore[arg-type]

    def invitation(
        self, holder: str = "holder", *, roles: tuple[str, ...] = ROLES, **stamp: object
    ) -> Signed[Invitation]:
        body = Invitation(stamp=self.stamp(**stamp), holder=peer_of(key_of(holder)), roles=roles)
        return records.sign(INVITATION, body, self.admin)

    def certificate(
        self, member: PeerId, *, by: str = "holder", roles: tuple[str, ...] = ROLES, **stamp: object
    ) -> Signed[Certificate]:
        """What a node gets that came by an invitation."""
        return accept(self.invitation(by, roles=roles, **stamp), key_of(by), member)

    def direct(self, member: PeerId, *, roles: tuple[str, ...] = ROLES, **stamp: object) -> Signed[Certificate]:
        """What a node gets that the administrator signs for."""
        body = Certificate(stamp=self.stamp(**stamp), member=member, roles=roles)
        return records.sign(CERTIFICATE, body, self.admin)

    def revocations(self, *peers: PeerId, **stamp: object) -> Signed[Revocations]:
        revoked = tuple(Revoked(peer=peer, time=self.now) for peer in peers)
        return records.sign(REVOCATIONS, Revocations(stamp=self.stamp(**stamp), revoked=revoked), self.admin)
