"""Knowing how far away connected peers are before anything was asked of them: the transport's own probes, read off.

Knows no estimate (`node.core.round_trips` makes it) and sends nothing: the transport asks every connection from time to
time whether it lives, and keeps how long that took. Peers that are asked how busy they are tell more (`watch_load`).
"""

from collections.abc import Callable
from typing import Final, Protocol

import trio

from protocol.ids import PeerId

LOOK: Final = 2.0  # s; a look costs a microsecond a peer, and the transport probes every half minute


class Connections(Protocol):
    """The transport (`node.ports.Swarm`)."""

    def connected(self) -> frozenset[PeerId]:
        """Return the peers that there is a connection with now."""
        ...

    def round_trip(self, peer: PeerId) -> float | None:
        """Return the seconds that a message there and back last took; None if not measured yet."""
        ...


class RttReader:
    """Passes on what the transport measured, each measurement once. `run` is its one long-lived task."""

    def __init__(self, swarm: Connections, note: Callable[[PeerId, float], None]) -> None:
        """`note`: gets a peer, and the seconds of a round trip."""
        self._swarm = swarm
        self._note = note
        self._told: dict[PeerId, float] = {}  # of those connected

    async def run(self) -> None:
        """Look from time to time; return never."""
        while True:
            self._look()
            await trio.sleep(LOOK)

    def _look(self) -> None:
        connected = self._swarm.connected()
        self._told = {peer: seconds for peer, seconds in self._told.items() if peer in connected}
        for peer in connected:
            seconds = self._swarm.round_trip(peer)
            if seconds is not None and self._told.get(peer) != seconds:
                self._told[peer] = seconds
                self._note(peer, seconds)
