"""How a node among others finds them and is found again: its address book, bootstraps, names, memory, wired.

A part of the composition (`company`). Decides nothing: who is told of what, and no more.
"""

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import structlog
import trio

from node.core.addressbook import AddressBook, Source
from node.core.bootstraps import Bootstraps, told
from node.core.clocks import PeerClocks
from node.errors import OtherSwarm, Unreachable, WhyNot
from node.hands import SwarmHands
from node.policies import SwarmPolicies
from node.remembering import keep_remembered
from node.services.join import Joining
from node.services.resolve import Resolving
from protocol.addresses import Address
from protocol.hello import Settled
from protocol.ids import PeerId

log = structlog.get_logger(__name__)

OTHERS = 64  # addresses at which another swarm answers, remembered so as to tell


class Finding:
    """Those services. `run` is their one long-lived task."""

    def __init__(  # noqa: PLR0913 -- each is one capability
        self,
        hands: SwarmHands,
        among: SwarmPolicies,
        me: PeerId,
        *,
        wanted: Callable[[], Iterable[PeerId]],
        met: Callable[[], Collection[PeerId]],
        wall: Callable[[], int],
        luck: Callable[[], float],
        tell: Callable[[str, Mapping[str, Any]], None],
    ) -> None:
        """Prepare.

        Args:
            wanted: whom to be connected with, as `Joining` wants it.
            met: who is connected and has greeted.
            wall: microseconds since 1970.
            tell: gets the events `alone` and `other_swarm`.
        """
        self._hands = hands
        self._among = among
        self._met = met
        self._wall = wall
        self._tell = tell
        self._alone = False
        self.addresses = AddressBook(me, nearest=among.nearest)
        self._clocks = PeerClocks()
        private = hands.private
        self._join = among.join if private is None else (*among.join, *private.membership.addresses)
        self._bootstraps = Bootstraps(me, self._join, among.join_names)
        self._others: OrderedDict[Address, str] = OrderedDict()
        self.joining = Joining(
            hands.network,
            self.addresses,
            wanted=wanted,
            luck=luck,
            tell=self._tell_alone,
            met=met,
            ended=self._ended,
        )
        self._resolving = Resolving(
            among.join_names,
            hands.text_records,
            bootstraps=self._bootstraps,
            hear=lambda addresses: self.joining.hear(addresses, Source.CONFIGURED),
        )

    async def run(self) -> None:
        """Look for company and keep it; return never."""
        self.addresses.learn(self._hands.remembered, Source.REMEMBERED)
        self.addresses.learn(self._join, Source.CONFIGURED)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.joining.run)
            nursery.start_soon(self._resolving.run)
            nursery.start_soon(self._remember)
            nursery.start_soon(self._look_around)

    def facts(self) -> dict[str, Any]:
        """Return the blocks `alone`, `bootstraps`, `other_swarms`, `remembered` and `clock` of `status --json`."""
        return {
            "other_swarms": {
                "dialled": {str(address): words for address, words in self._others.items()},
                "strangers": self._hands.network.strangers(),
            },
            "alone": self._alone,
            "bootstraps": self._bootstraps.facts(self._met(), trio.current_time()),
            "remembered": len(self._hands.remembered),
            "clock": self._clocks.facts(self._met(), self._drift_us()),
        }

    def ahead_s(self, peer: PeerId) -> float | None:
        """Return how many seconds a peer's clock is ahead of ours; None where it never greeted."""
        ahead = self._clocks.ahead_us(peer, self._drift_us())
        return None if ahead is None else round(ahead / 1e6, 3)

    def greeted(self, settled: Settled) -> None:
        """Note what a peer's greeting tells of its clock."""
        self._clocks.note(settled.peer, settled.skew_us, self._drift_us())

    def parted(self, peer: PeerId, why: WhyNot, words: str) -> None:
        """Note that nothing came of a greeting."""
        self._bootstraps.parted(peer, why, words, trio.current_time())
        self.joining.in_vain()

    def _ended(self, address: Address, error: Unreachable | None) -> None:
        why, words = (None, "") if error is None else (error.why, error.message)
        if isinstance(error, OtherSwarm):
            self._note_other(address, error)
        elif error is None:
            self._others.pop(address, None)
        self._bootstraps.ended(address, why, words, trio.current_time())

    def _note_other(self, address: Address, error: OtherSwarm) -> None:
        """Tell once that another swarm seems to answer at an address: it will be dialled again and again."""
        if address not in self._others:
            log.warning("join.other_swarm", address=str(address), likely_cause=error.message, remedy=error.remedy)
            self._tell("other_swarm", {"address": str(address), "likely_cause": error.message})
        self._others[address] = error.message
        if len(self._others) > OTHERS:
            self._others.popitem(last=False)

    def _drift_us(self) -> int:
        """Return the wall clock less the loop's: it changes when somebody sets the clock."""
        return self._wall() - round(trio.current_time() * 1_000_000)

    def _tell_alone(self, alone: bool) -> None:
        self._alone = alone
        rows = self._bootstraps.facts(self._met(), trio.current_time())
        if alone:
            log.warning("join.alone", bootstraps={row["address"]: row["error"] for row in rows})
        else:
            log.info("join.company")
        self._tell("alone", {"alone": alone, "reason": told(rows) if alone else ""})

    async def _look_around(self) -> None:
        """Take in whom the local network tells of."""
        if self._hands.nearby is not None:
            async for address in self._hands.nearby:
                self.joining.hear([address], Source.NEAR)

    async def _remember(self) -> None:
        hands = self._hands
        kept, working = hands.remembered, self.addresses.to_remember
        await keep_remembered(hands.network.changed, working, kept=kept, keep=hands.remember)
