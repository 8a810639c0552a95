"""Nodes of a swarm as far as their histories go: the real service on the fake network, gossip, table and history."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from node.core.retention import Quota
from node.errors import Unreachable
from node.services.replicate import Replication, Us
from protocol import dht, records
from protocol.ids import PUBLIC_SWARM, Epoch, PeerId
from protocol.records import Signed
from tests.fakes.history import FakeHistory
from tests.fakes.network import FakeNetwork, FakeNode, Weather
from tests.fakes.network_talk import FakeAir, FakeTable
from tests.protocol import samples
from tests.protocol.samples import NOTE
from tests.services.members import START_US, DirectoryRules, peer_of, wall

EPOCH = Epoch(START_US - samples.HOUR)


def key_of(seed: int) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(seed.to_bytes(32, "big"))


def a_record(key: Ed25519PrivateKey, seq: int, text: str = "hello", **changes: object) -> bytes:
    """Return a sealed note of the owner of the key."""
    stamp = {
        "author": peer_of(key),
        "epoch": EPOCH,
        "seq": seq,
        "time": START_US,
        "expiry": START_US + 2 * samples.HOUR,
    } | changes
    return records.sign(NOTE, samples.note(text, **stamp), key).sealed


DOUBTS = {"warp": "faster_than_light", "yesterday": "clock"}  # by the text of a note


def too_good(signed: Signed[Any]) -> str | None:
    return DOUBTS.get(signed.body.text)


@dataclass
class Swarm:
    """A network with gossip and a table on it, and whom each of its nodes would like to be connected with: all."""

    loss: float = 0.0
    weather: Weather = field(default_factory=lambda: Weather(latency=0.03, jitter=0.02))

    def __post_init__(self) -> None:
        self.luck = Random(7)  # noqa: S311 -- weather, not secrets
        self.network = FakeNetwork(self.weather)
        self.air = FakeAir(self.network, lambda: self.luck.random() < self.loss)
        rules = DirectoryRules(PUBLIC_SWARM)
        self.table = FakeTable(self.network, {each.value: rules for each in dht.Namespace})
        self.nodes: dict[PeerId, FakeNode] = {}


@dataclass
class Replica:
    """One node."""

    node: FakeNode
    key: Ed25519PrivateKey
    history: FakeHistory
    replication: Replication
    blamed: list[tuple[PeerId, str]]
    outcasts: set[PeerId]

    @property
    def me(self) -> PeerId:
        return self.node.me

    async def say(self, count: int, *, first: int = 0) -> list[bytes]:
        """Write records of its own, and say them."""
        sealed = [a_record(self.key, seq) for seq in range(first, first + count)]
        await self.keep(sealed)
        self.replication.publish(sealed)
        return sealed

    async def keep(self, sealed: Sequence[bytes]) -> None:
        """Have records in the history without anybody's being told."""
        for at in range(0, len(sealed), 64):
            await self.history.admit(sealed[at : at + 64], via=None)


@asynccontextmanager
async def replica(
    swarm: Swarm, seed: int, *, quota: Quota | None = None, history: FakeHistory | None = None
) -> AsyncIterator[Replica]:
    """Run a node until left; it keeps connected with every other."""
    key = key_of(seed)
    async with swarm.network.node(peer_of(key)) as node:
        blamed: list[tuple[PeerId, str]] = []
        outcasts: set[PeerId] = set()
        history = history or FakeHistory(NOTE, now_us=wall, check=too_good, quota=quota)

        async def met(peer: PeerId) -> bool:
            return peer in node.connected()

        replication = Replication(
            node,
            swarm.air.at(node),
            swarm.table.at(node),
            history,
            us=Us(me=node.me, swarm=PUBLIC_SWARM, epoch=Epoch(wall()), key=key),
            kind=NOTE,
            check=too_good,
            neighbours=node.connected,
            met=met,
            welcome=lambda peer: peer in node.connected() and peer not in outcasts,
            members=lambda: frozenset(swarm.nodes),
            blame=lambda peer, reason: blamed.append((peer, reason)),
            wall=wall,
            luck=swarm.luck.random,
        )
        swarm.nodes[node.me] = node
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(replication.run)
                nursery.start_soon(_greet, node, replication)
                nursery.start_soon(_join, swarm, node)
                yield Replica(node, key, history, replication, blamed, outcasts)
                nursery.cancel_scope.cancel()
        finally:
            swarm.nodes.pop(node.me, None)
        assert not node.failures


async def _greet(node: FakeNode, replication: Replication) -> None:
    seen: frozenset[PeerId] = frozenset()
    while True:
        here = await node.changed(seen)
        for peer in here - seen:
            replication.greeted(peer)
        seen = here


async def _join(swarm: Swarm, node: FakeNode) -> None:
    while True:
        for peer, other in list(swarm.nodes.items()):
            if peer > node.me and peer not in node.connected():
                node.learn(peer, other.addresses())
                with trio.move_on_after(1):
                    try:
                        await node.connect(peer)
                    except Unreachable:
                        continue
        await trio.sleep(1)


async def until(true: Callable[[], bool], within: float) -> float:
    """Wait for something; return how long it took."""
    began = trio.current_time()
    with trio.move_on_after(within):
        while not true():  # noqa: ASYNC110 -- what is waited for is not ours to make an event of
            await trio.sleep(0.2)
    assert true(), f"not within {within:g} s"
    return trio.current_time() - began
