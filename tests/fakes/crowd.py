"""A swarm's members as a test lists them: what services read of the peerbook, without leases that run out."""

from protocol.advert import Advert
from protocol.ids import PeerId
from protocol.records import Signed


class Crowd:
    """Whoever `said` an advert, or is `near`, is a member."""

    def __init__(self) -> None:
        self.said: dict[PeerId, Signed[Advert]] = {}
        self.near: set[PeerId] = set()

    def say(self, advert: Signed[Advert]) -> PeerId:
        """Have an author say an advert; return who it is."""
        author = advert.body.stamp.author
        self.said[author] = advert
        return author

    def leave(self, peer: PeerId) -> None:
        self.said.pop(peer, None)
        self.near.discard(peer)

    def members(self, now: float) -> tuple[PeerId, ...]:
        return tuple(sorted({*self.said, *self.near}))

    def connections(self) -> frozenset[PeerId]:
        return frozenset(self.near)

    def advert_of(self, peer: PeerId, now: float) -> Signed[Advert] | None:
        return self.said.get(peer)
