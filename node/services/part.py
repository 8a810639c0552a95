"""Parting from peers that do again and again what no honest node does: the connection ends, and no other is made.

Knows no rule: whoever holds peers to one names them here. For how long, `core.conduct` says.
"""

import structlog
import trio

from node.core.addressbook import AddressBook
from node.core.conduct import HALF_LIFE, Conduct
from node.ports import Swarm
from protocol.ids import PeerId

log = structlog.get_logger(__name__)

PARTING = 2.0  # s for closing a connection


class Parter:
    """Keeps account of offences. `run` is its one long-lived task; it ends the connections."""

    def __init__(self, swarm: Swarm, addresses: AddressBook) -> None:
        self._swarm = swarm
        self._addresses = addresses
        self.conduct = Conduct()
        self._outcasts: set[PeerId] = set()  # to be parted from
        self._news = trio.Event()

    def blame(self, peer: PeerId, reason: str) -> None:
        """Note what no honest node does, by the reason's code."""
        log.debug("peers.offence", peer=str(peer), reason=reason)
        became = self.conduct.blame(peer, reason, trio.current_time())
        if became:
            log.warning("peers.outcast", peer=str(peer), offences=dict(self.conduct.offences(peer)))
        if became or (self.outcast(peer) and peer in self._swarm.connected()):  # it may have come back, or stayed
            self._outcasts.add(peer)
            self._news.set()

    def outcast(self, peer: PeerId) -> bool:
        """Tell whether a peer is not to be let in now."""
        return self.conduct.outcast(peer, trio.current_time())

    async def run(self) -> None:
        """End connections with outcasts; return never."""
        while True:
            await self._news.wait()
            self._news = trio.Event()
            outcasts, self._outcasts = self._outcasts, set()
            for peer in outcasts:
                self._addresses.shun(peer, trio.current_time() + HALF_LIFE)
                with trio.move_on_after(PARTING):
                    await self._swarm.disconnect(peer)
