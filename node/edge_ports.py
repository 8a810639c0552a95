"""What the node knows of its door for peers, and may say of those who came through it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from protocol.ids import PeerId


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """How the node's door for peers fares.

    Attributes:
        inbound, handshaking: connections that others opened; sockets that have not shown yet who they are.
        accepted: connections let in so far.
        refused: sockets closed before that, by reason.
        banned_addresses, banned_peers: who is refused now, and for how many seconds still.
    """

    inbound: int
    handshaking: int
    accepted: int
    refused: Mapping[str, int]
    banned_addresses: Mapping[str, float]
    banned_peers: Mapping[str, float]


class Door(Protocol):
    """Who is let in. Decided below, by addresses and keys; above, it is known what peers say."""

    def complain(self, peer: PeerId, reason: str) -> None:
        """Note that a peer said what no honest one says: done often, it is not let in for a while."""
        ...

    def edge(self) -> Edge:
        """Return who is let in and who is not."""
        ...
