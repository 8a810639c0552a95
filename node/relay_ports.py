"""What the services need of the ways to peers: which is direct, which passes through a relay, and how to change it.

Knows no implementation. A part of `node.ports`, apart because a node in memory, in a simulation, has none of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from protocol.addresses import Address
from protocol.ids import PeerId


@dataclass(frozen=True, slots=True, kw_only=True)
class Lent:
    """What a node lends to those who cannot be reached.

    Attributes:
        reservations: nodes that may be called through it now.
        circuits: connections that pass through it now.
        circuits_total, bytes_total: since it came up.
    """

    reservations: int
    circuits: int
    circuits_total: int
    bytes_total: int


class Ways(Protocol):
    """How peers are reached, and how this node is."""

    def via(self, peer: PeerId) -> PeerId | None:
        """Return the relay that carries the best connection with a peer; None where it is direct, or there is none."""
        ...

    def observed(self, peer: PeerId) -> Address | None:
        """Return from where a peer has connected, or where it was dialled; None without a direct connection."""
        ...

    async def knock(self, address: Address) -> None:
        """Dial an address afresh, see that the peer it names is there, and hang up.

        Raises:
            node.errors.Unreachable: it does not answer in time, or somebody else does.
        """
        ...

    async def reserve(self, relay: PeerId) -> float:
        """Have a relay take calls for this node; return for how many seconds.

        Raises:
            node.errors.Unreachable: it is not connected directly, or will not; says why.
        """
        ...

    def release(self, relay: PeerId) -> None:
        """Take no more calls through a relay."""
        ...

    def lend(self, willing: bool) -> None:
        """Take calls for others from now on, or no more. What passes through at the moment goes on."""
        ...

    def lent(self) -> Lent:
        """Count what is lent."""
        ...

    def believe(self, addresses: Sequence[Address]) -> None:
        """Note where others see this node: what a peer is told that is to meet it halfway."""
        ...

    async def straighten(self, peer: PeerId) -> None:
        """Have a direct connection with a peer that a relay connects with this node, which it called.

        Raises:
            node.errors.Unreachable: neither its addresses answer nor do the two ends meet halfway.
        """
        ...

    def called_by(self, peer: PeerId) -> bool:
        """Whether a peer is connected through a relay alone, and it was the peer that called."""
        ...
