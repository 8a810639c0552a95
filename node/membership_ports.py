"""What a private swarm needs of the world: doors that open after the greeting, and a file for revocations.

Capabilities, as in `node.ports`.
"""

from collections.abc import Awaitable, Callable
from typing import Protocol

from protocol.ids import PeerId


class Doors(Protocol):
    """The transport's own conversations: identification, gossip, the directory."""

    def admit(self, met: Callable[[PeerId], Awaitable[bool]]) -> None:
        """Have these wait, in both directions, until a peer was met; before this is called nobody was.

        Of no effect where the swarm is public: there everybody may be told of everybody.

        Args:
            met: waits a little while for a peer's greeting, and tells whether it went well.
        """
        ...

    def strangers(self) -> int:
        """Return how many handshakes others began with another key than the swarm's."""
        ...


Keep = Callable[[bytes], Awaitable[None]]
"""Keeps the latest list of revocations, sealed, for the next run. Failing is logged and no more."""
