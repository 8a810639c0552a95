"""Reservations at relays while nobody reaches this node: kept, renewed, replaced, let go. In virtual time."""

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio
from trio.testing import MockClock

from node.services.reserve import LOOK, Reserver
from protocol.addresses import Address
from protocol.advert import RELAY, Advert
from protocol.ids import PeerId
from tests.contracts.test_streams import a_peer
from tests.fakes.network import FakeNetwork, FakeNode, Weather
from tests.fakes.ways import FakeWays
from tests.protocol import swarm_samples

TTL = 600.0
PUBLIC = "/ip4/44.44.0.{}/tcp/47470"


@dataclass
class Node:
    place: FakeNode
    ways: FakeWays
    adverts: dict[PeerId, Advert] = field(default_factory=dict)
    needed: bool = True
    told: int = 0

    def tell(self) -> None:
        self.told += 1


@asynccontextmanager
async def a_node(network: FakeNetwork) -> AsyncIterator[tuple[Node, Reserver]]:
    async with network.node(a_peer()) as place, trio.open_nursery() as nursery:
        node = Node(place, FakeWays())
        reserver = Reserver(
            place,
            node.ways,
            members=lambda: node.adverts,
            advert=node.adverts.get,
            needed=lambda: node.needed,
            luck=lambda: 0.5,
            changed=node.tell,
        )
        nursery.start_soon(reserver.run)
        yield node, reserver
        nursery.cancel_scope.cancel()


def lends(node: Node, relay: FakeNode, *addresses: str, seconds: float = TTL) -> None:
    """Have a relay be known, and grant what it is asked for."""
    said = addresses or (PUBLIC.format(len(node.adverts) + 1),)
    node.adverts[relay.me] = swarm_samples.advert_body(author=relay.me, addresses=said, roles=(RELAY,))
    node.ways.grants[relay.me] = seconds
    node.place.learn(relay.me, [relay.address])


async def test_two_relays_are_kept_and_their_ways_are_told(autojump_clock: MockClock) -> None:
    network = FakeNetwork(Weather())
    async with (
        network.node(a_peer()) as one,
        network.node(a_peer()) as two,
        network.node(a_peer()) as three,
        a_node(network) as (node, reserver),
    ):
        for each in (one, two, three):
            lends(node, each)
        await trio.sleep(5)
        held = reserver.relays()
        assert len(held) == 2
        assert node.told == 2
        assert {str(way) for way in reserver.circuits()} == {
            f"{node.adverts[relay].addresses[0]}/p2p/{relay}/p2p-circuit/p2p/{node.place.me}" for relay in held
        }


async def test_each_is_renewed_at_half_time_and_never_runs_out(autojump_clock: MockClock) -> None:
    network = FakeNetwork(Weather())
    async with network.node(a_peer()) as one, a_node(network) as (node, reserver):
        lends(node, one)
        await trio.sleep(10 * TTL)
        moments = [moment for _, moment in node.ways.asked]
        assert all(abs(late - early - TTL / 2) < 3 * LOOK for early, late in itertools.pairwise(moments))
        assert len(moments) in range(18, 22)
        assert one.me in reserver.relays()
        assert node.told == 1


async def test_a_renewal_that_fails_does_not_spin(autojump_clock: MockClock) -> None:
    network = FakeNetwork(Weather())
    async with network.node(a_peer()) as one, a_node(network) as (node, reserver):
        lends(node, one)
        await trio.sleep(10)
        node.ways.grants.clear()
        await trio.sleep(TTL / 2 - 20)
        before = len(node.ways.asked)
        await trio.sleep(TTL)
        assert len(node.ways.asked) - before < 10
        assert reserver.relays() == {}
        assert node.ways.released == [one.me]


async def test_a_relay_that_dies_is_replaced_within_seconds(autojump_clock: MockClock) -> None:
    network = FakeNetwork(Weather())
    async with (
        network.node(a_peer()) as one,
        network.node(a_peer()) as two,
        network.node(a_peer()) as three,
        a_node(network) as (node, reserver),
    ):
        for each in (one, two, three):
            lends(node, each)
        await trio.sleep(5)
        dead = next(iter(reserver.relays()))
        network.kill(dead)
        await trio.sleep(5)
        assert dead not in reserver.relays()
        assert len(reserver.relays()) == 2


async def test_who_is_reached_keeps_none(autojump_clock: MockClock) -> None:
    network = FakeNetwork(Weather())
    async with network.node(a_peer()) as one, a_node(network) as (node, reserver):
        node.needed = False
        lends(node, one)
        await trio.sleep(30)
        assert node.ways.asked == []
        node.needed = True
        await trio.sleep(5)
        assert one.me in reserver.relays()
        node.needed = False
        await trio.sleep(5)
        assert (reserver.relays(), node.ways.released) == ({}, [one.me])


async def test_no_relay_is_one_that_the_world_does_not_reach(autojump_clock: MockClock) -> None:
    network = FakeNetwork(Weather())
    async with network.node(a_peer()) as one, a_node(network) as (node, _):
        lends(node, one, "/ip4/192.168.1.2/tcp/47470")
        await trio.sleep(30)
        assert node.ways.asked == []


async def test_of_a_relays_addresses_the_public_ones_are_told(autojump_clock: MockClock) -> None:
    network = FakeNetwork(Weather())
    async with network.node(a_peer()) as one, a_node(network) as (node, reserver):
        lends(node, one, "/ip4/10.0.0.1/tcp/1", "/dns4/relay.example.org/tcp/2", PUBLIC.format(9))
        await trio.sleep(5)
        assert [(way.host, way.relay, way.peer) for way in reserver.circuits()] == [
            ("relay.example.org", one.me, node.place.me),
            ("44.44.0.9", one.me, node.place.me),
        ]
        assert all(isinstance(way, Address) for way in reserver.circuits())
