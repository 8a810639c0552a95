"""Getting rid of relays: a direct connection with every peer that has called through one, where it can be had.

Knows no transport's words. Of two peers the one that was called tries, so that both do not at once; the other has tried
its addresses already. What begins after that goes directly by itself, and the transport lets the relayed connection go.
"""

from typing import Final

import structlog
import trio

from node.errors import Unreachable
from node.ports import Swarm
from node.relay_ports import Ways
from protocol.ids import PeerId

log = structlog.get_logger(__name__)

LOOK: Final = 0.5  # s between two looks at who is behind a relay
# s before each try, the last again and again: of two routers that let nobody in, none will in an hour either, but one
# may be restarted, or its owner forward a port. The second is soon: at first an end may not know yet where it is seen.
DELAYS: Final = (0.5, 3.0, 10.0, 60.0, 600.0)
AT_ONCE: Final = 4  # tries: each dials two addresses for seconds


class Straightener:
    """Tries. `run` is its one long-lived task.

    Attributes:
        met: how often it led to a direct connection. failed: how often not.
    """

    def __init__(self, swarm: Swarm, ways: Ways) -> None:
        self._swarm = swarm
        self._ways = ways
        self._tries: dict[PeerId, int] = {}
        self._due: dict[PeerId, float] = {}
        self._trying: set[PeerId] = set()
        self.met = self.failed = 0

    async def run(self) -> None:
        """Look who is behind a relay; return never."""
        async with trio.open_nursery() as nursery:
            while True:
                self._look(nursery)
                await trio.sleep(LOOK)

    def _look(self, nursery: trio.Nursery) -> None:
        now = trio.current_time()
        behind = [peer for peer in self._swarm.connected() if self._ways.called_by(peer)]
        for gone in self._due.keys() - set(behind) - self._trying:
            del self._due[gone], self._tries[gone]
        for peer in behind:
            due = self._due.setdefault(peer, now + DELAYS[0])
            self._tries.setdefault(peer, 0)
            if due <= now and peer not in self._trying and len(self._trying) < AT_ONCE:
                self._trying.add(peer)
                nursery.start_soon(self._try, peer)

    async def _try(self, peer: PeerId) -> None:
        try:
            await self._ways.straighten(peer)
            self.met += 1
        except Unreachable as error:
            self.failed += 1
            log.debug("straighten.failed", peer=str(peer), reason=error.message)
        finally:
            self._trying.discard(peer)
            self._tries[peer] = self._tries.get(peer, 0) + 1
            self._due[peer] = trio.current_time() + DELAYS[min(self._tries[peer], len(DELAYS) - 1)]
