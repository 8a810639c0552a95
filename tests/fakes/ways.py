"""`node.relay_ports.Ways` in memory: which peers are behind relays, what answers knocks, what is granted, is data."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import trio

from node.errors import Unreachable
from node.relay_ports import Lent
from protocol.addresses import Address
from protocol.ids import PeerId


@dataclass
class FakeWays:
    """What is told of it: `knocked`, `asked` (relays, and when), `released`, `tried`, `lending`, `believed`."""

    behind: dict[PeerId, PeerId] = field(default_factory=dict)  # peers and their relays
    callers: set[PeerId] = field(default_factory=set)  # those of them that called
    places: dict[PeerId, Address] = field(default_factory=dict)  # where peers come from
    open: set[Address] = field(default_factory=set)  # what answers a knock
    grants: dict[PeerId, float] = field(default_factory=dict)  # relays, and for how many seconds
    meets: bool = True
    knocked: list[Address] = field(default_factory=list)
    asked: list[tuple[PeerId, float]] = field(default_factory=list)
    released: list[PeerId] = field(default_factory=list)
    tried: list[tuple[PeerId, float]] = field(default_factory=list)
    lending: bool = False
    believed: tuple[Address, ...] = ()

    def via(self, peer: PeerId) -> PeerId | None:
        return self.behind.get(peer)

    def observed(self, peer: PeerId) -> Address | None:
        return None if peer in self.behind else self.places.get(peer)

    def called_by(self, peer: PeerId) -> bool:
        return peer in self.callers

    async def knock(self, address: Address) -> None:
        self.knocked.append(address)
        await trio.sleep(0.1)
        if address not in self.open:
            await trio.sleep_forever()  # what a router drops is not answered

    async def reserve(self, relay: PeerId) -> float:
        self.asked.append((relay, trio.current_time()))
        await trio.sleep(0.1)
        if relay not in self.grants:
            raise Unreachable("refused")
        return self.grants[relay]

    def release(self, relay: PeerId) -> None:
        self.released.append(relay)

    def lend(self, willing: bool) -> None:
        self.lending = willing

    def lent(self) -> Lent:
        return Lent(reservations=0, circuits=0, circuits_total=0, bytes_total=0)

    def believe(self, addresses: Sequence[Address]) -> None:
        self.believed = tuple(addresses)

    async def straighten(self, peer: PeerId) -> None:
        self.tried.append((peer, trio.current_time()))
        await trio.sleep(1)
        if not self.meets:
            raise Unreachable("nobody was met")
        self.behind.pop(peer, None)
        self.callers.discard(peer)
