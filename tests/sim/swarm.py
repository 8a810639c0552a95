"""A swarm in virtual time: N whole nodes by the real composition root, on one network in memory with weather.

A test starts nodes, kills them, cuts links, asks prompts; what goes wrong on the network is `FakeNetwork`'s to say.
"""

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from node.core.access import Access
from node.core.cells import cell_of
from node.core.own_records import Setting
from node.core.spending import SpendLimits
from node.directory_rules import dht_rules
from node.hands import SwarmHands
from node.history import doubt_of
from node.policies import RoutingPolicy, SwarmPolicies
from node.private_hands import PrivateHands
from node.services.serve_peers import PeerLimits
from node.tuner_hands import TunerTools
from protocol.addresses import Address, Reach
from protocol.ids import PUBLIC_SWARM, Epoch, PeerId, SwarmId
from protocol.performance import PERFORMANCE
from tests.fakes.account_store import FakeAccountStore
from tests.fakes.engine import FakeEngine
from tests.fakes.history import FakeHistory
from tests.fakes.network import FakeNetwork, FakeNode, Weather
from tests.fakes.network_talk import FakeAir, FakeTable
from tests.sim.node import SimNode, wall


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """As `node.adapters.p2p.routing.Namespace`."""

    valid: object
    best: object


@dataclass
class SimSwarm:
    """The nodes of one swarm, by name."""

    nursery: trio.Nursery
    network: FakeNetwork
    air: FakeAir
    table: FakeTable
    luck: random.Random
    nodes: dict[str, SimNode] = field(default_factory=dict)
    _places: dict[str, FakeNode] = field(default_factory=dict)
    _remembered: dict[str, tuple[Address, ...]] = field(default_factory=dict)
    _histories: dict[str, FakeHistory] = field(default_factory=dict)
    _scopes: dict[str, trio.CancelScope] = field(default_factory=dict)

    async def start(
        self,
        name: str,
        *,
        engine: FakeEngine | None = None,
        join: Sequence[str] = (),
        access: Access | None = None,
        swarm: SwarmId = PUBLIC_SWARM,
        setting: Setting | None = None,
        tuner: TunerTools | None = None,
        price: float | None = None,
        spend: SpendLimits | None = None,
        account: FakeAccountStore | None = None,
        private: PrivateHands | None = None,
    ) -> SimNode:
        """Start a node; returns once its API answers. A name that was used before is the same identity again.

        Args:
            join: names of nodes to join through.
            setting: what its engine's records tell of model and machine; None: its traffic is not recorded.
            tuner: what it tunes its engine with; None: it does not.
            price: that it asks for an hour of its machine. spend: what it may owe. account: where that is kept.
            private: what makes it a member of a private swarm, which is then its swarm.
        """
        key = Ed25519PrivateKey.from_private_bytes(name.encode().ljust(32, b"\0"))
        public_key = key.public_key().public_bytes_raw()
        policies = SwarmPolicies(
            swarm=swarm if private is None else private.membership.swarm,
            listen=(),
            join=tuple(self._places[other].address for other in join),
            announce=(),
            lan=False,
            bootstrap=False,
            access=access or Access(),
            nearest=Reach.PRIVATE,
            limits=PeerLimits(),
            price_per_hour=price,
        )
        up = trio.Event()

        async def live() -> None:
            async with self.network.node(
                PeerId.from_public_key(public_key), key=None if private is None else private.membership.key
            ) as place:
                self._places[name] = place
                hands = SwarmHands(
                    network=place,
                    gossip=self.air.at(place),
                    directory=self.table.at(place),
                    key=key,
                    epoch=Epoch(wall()),
                    interfaces=lambda: (place.host,),
                    nearby=None,
                    remembered=self._remembered.get(name, ()),
                    remember=lambda addresses: self._remember(name, addresses),
                    account=account,
                    private=private,
                )
                seed = self.luck.randrange(1 << 30)
                node = SimNode(
                    engine,
                    public_key=public_key,
                    among=(hands, policies),
                    luck=random.Random(seed).random,  # noqa: S311
                    history=self._history_of(name, key),
                    setting=setting,
                    tuner=tuner,
                    routing=RoutingPolicy(spend=spend or SpendLimits()),
                )
                self.nodes[name] = node
                up.set()
                with trio.CancelScope() as scope:
                    self._scopes[name] = scope
                    await node.live()

        self.nursery.start_soon(live)
        await up.wait()
        await self.nodes[name].until("ready", within=5.0)
        return self.nodes[name]

    async def kill(self, name: str, *, silently: bool = False) -> None:
        """Have a node die in the middle of everything."""
        self.network.kill(self._places[name].me, silently=silently)
        self._scopes[name].cancel()
        await self.nodes.pop(name).ended.wait()

    def network_id(self, name: str) -> PeerId:
        """Return what the network calls a node."""
        return self._places[name].me

    async def stop(self, name: str) -> None:
        """Stop a node in good order."""
        node = self.nodes.pop(name)
        node.wish.ask("the test")
        await node.ended.wait()

    async def known(self, name: str) -> set[str]:
        """Return the names of the nodes that a node knows."""
        ids = {node.peer_id: other for other, node in self.nodes.items()}
        _, document = await self.nodes[name].call("GET", "/peers", on="control")
        found: list[str] = [peer["peer_id"] for peer in document["peers"]]
        return {ids.get(each, each) for each in found}

    async def until_known(self, name: str, others: set[str], *, within: float) -> float:
        """Wait until a node knows exactly these others; return how long that took, in virtual seconds."""

        async def all_known() -> bool:
            return await self.known(name) == others

        return await until(all_known, within=within)

    def _history_of(self, name: str, key: Ed25519PrivateKey) -> FakeHistory:
        """Return what is on a node's disk, which outlives it."""
        history = self._histories.setdefault(
            name, FakeHistory(PERFORMANCE, now_us=wall, check=doubt_of(wall), cell=cell_of, key=key)
        )
        history.begin_run()
        return history

    async def _remember(self, name: str, addresses: Sequence[Address]) -> None:
        await trio.lowlevel.checkpoint()
        self._remembered[name] = tuple(addresses)


async def until(true: Callable[[], Awaitable[bool]], *, within: float) -> float:
    """Wait for something that is asked for as a user would ask; return how long that took, in virtual seconds."""
    began = trio.current_time()
    with trio.fail_after(within):
        while not await true():  # noqa: ASYNC110 -- nothing tells when: it is asked, as a user would
            await trio.sleep(0.05)
    return trio.current_time() - began


def engine(**more: object) -> FakeEngine:
    """Return an engine that streams: a quarter of a second of prefill, then 16 tokens at 50 a second."""
    return replace(FakeEngine(load_time=1.0, tokens=16, prefill_time=0.25, token_time=0.02), **more)


@asynccontextmanager
async def sim_swarm(weather: Weather | None = None, *, seed: int = 0) -> AsyncIterator[SimSwarm]:
    """Enter an empty swarm; leaving stops whoever is still there."""
    luck = random.Random(seed)  # noqa: S311 -- weather, not secrets
    network = FakeNetwork(weather, luck=luck)
    namespaces = {name: Rules(valid=valid, best=best) for name, (valid, best) in dht_rules(PUBLIC_SWARM, wall).items()}
    async with trio.open_nursery() as nursery:
        yield SimSwarm(
            nursery=nursery,
            network=network,
            air=FakeAir(network),
            table=FakeTable(network, namespaces),  # type: ignore[arg-type]
            luck=luck,
        )
        nursery.cancel_scope.cancel()
