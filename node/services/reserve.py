"""Being called through relays where nobody reaches this node: reservations kept at two of them, renewed at half time.

Knows no transport's words; whom to ask and when is `node.core.reservations`'. Whether relays are needed it is told.
"""

from collections.abc import Callable, Iterable
from typing import Final

import structlog
import trio

from node.core.reservations import Reservations
from node.errors import Unreachable
from node.ports import Swarm
from node.relay_ports import Ways
from protocol.addresses import Address, Reach
from protocol.advert import RELAY, Advert
from protocol.ids import PeerId

log = structlog.get_logger(__name__)

ASK: Final = 12.0  # s for connecting with a relay and for its answer
LOOK: Final = 1.0  # s between two looks at who lends; what changes it need not know of us
EACH: Final = 2  # addresses of one relay that are told: one of each family, or a name


def relays_own(advert: Advert) -> tuple[Address, ...]:
    """Return the addresses at which the whole world reaches a relay; none where that is not what it says to be."""
    if RELAY not in advert.roles:
        return ()
    return tuple(each for each in advert.dialable() if each.reach >= Reach.NAME)[:EACH]


class Reserver:
    """Keeps reservations. `run` is its one long-lived task."""

    def __init__(  # noqa: PLR0913 -- each is one capability
        self,
        swarm: Swarm,
        ways: Ways,
        *,
        members: Callable[[], Iterable[PeerId]],
        advert: Callable[[PeerId], Advert | None],
        needed: Callable[[], bool],
        luck: Callable[[], float],
        changed: Callable[[], None],
    ) -> None:
        """Prepare.

        Args:
            members: who is in the swarm. advert: what one of them says of itself.
            needed: whether this node has to be called through relays.
            luck: uniform in [0, 1).
            changed: called when the ways to this node have changed.
        """
        self._swarm = swarm
        self._ways = ways
        self._members = members
        self._advert = advert
        self._needed = needed
        self._luck = luck
        self._changed = changed
        self._kept = Reservations()
        self._holding: frozenset[PeerId] = frozenset()

    def relays(self) -> dict[PeerId, float]:
        """Return the relays that take calls for this node, and for how many seconds more."""
        now = trio.current_time()
        return {relay: until - now for relay, until in self._kept.held(now).items()}

    def circuits(self) -> tuple[Address, ...]:
        """Return the ways to this node through them."""
        found: list[Address] = []
        for relay in self._kept.held(trio.current_time()):
            advert = self._advert(relay)
            if advert is not None:
                found += [each.through(self._swarm.me) for each in relays_own(advert)]
        return tuple(found)

    async def run(self) -> None:
        """Reserve, renew, replace; return never."""
        async with trio.open_nursery() as nursery:
            while True:
                self._look(nursery)
                await trio.sleep(LOOK)

    def _look(self, nursery: trio.Nursery) -> None:
        now = trio.current_time()
        held = self._kept.held(now)
        for relay in held:
            if relay not in self._swarm.connected() or self._ways.via(relay) is not None or not self._needed():
                self._kept.lost(relay)
        if self._needed():
            for relay in self._kept.plan(self._candidates(), now):
                nursery.start_soon(self._reserve, relay)
        self._tell()

    def _candidates(self) -> list[PeerId]:
        connected = self._swarm.connected()
        found = {peer: advert for peer in self._members() if (advert := self._advert(peer)) is not None}
        relays = [peer for peer, advert in found.items() if relays_own(advert)]
        return sorted(relays, key=lambda relay: (relay not in connected, self._luck()))

    async def _reserve(self, relay: PeerId) -> None:
        ended = False
        try:
            seconds = await self._asked(relay)
            ended = True
            self._kept.granted(relay, seconds, trio.current_time())
        except Unreachable as error:
            ended = True
            log.debug("reserve.refused", relay=str(relay), reason=error.message)
            self._kept.refused(relay, trio.current_time(), self._luck())
        finally:
            if not ended:
                self._kept.gave_up(relay)
        self._tell()

    async def _asked(self, relay: PeerId) -> float:
        with trio.move_on_after(ASK):
            await self._swarm.connect(relay)
            return await self._ways.reserve(relay)
        raise Unreachable(f"relay {relay} did not answer within {ASK:g} s")

    def _tell(self) -> None:
        holding = frozenset(self._kept.held(trio.current_time()))
        for relay in self._holding - holding:
            self._ways.release(relay)
        if holding != self._holding:
            log.info("reserve.relays", relays=sorted(map(str, holding)))
            self._holding = holding
            self._changed()
