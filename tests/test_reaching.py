"""What a node adds to what is told of it once it knows how others reach it. In virtual time, on hands in memory."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio
from trio.testing import MockClock

from node.core.reachability import Sight
from node.core.self_advert import Description
from node.reaching import Around, Reaching
from protocol.advert import RELAY, SERVE, Advert
from protocol.ids import PeerId
from tests.contracts.test_streams import a_peer
from tests.fakes.network import PORT, FakeNetwork, FakeNode, Weather
from tests.fakes.ways import FakeWays
from tests.places import at
from tests.protocol import swarm_samples

INSIDE, OUTSIDE = "10.0.0.5", "44.44.0.11"


@dataclass
class Node:
    place: FakeNode
    ways: FakeWays
    reaching: Reaching

    def hear(self, *, reached: bool, host: str = OUTSIDE) -> None:
        """Have a peer say what it saw."""
        sight = Sight(host=host, tried=(PORT,), reached=(PORT,) if reached else ())
        self.reaching._reacher.known.note(a_peer(), "1.1.1.1", sight, trio.current_time())
        self.reaching._look_again()

    def told(self) -> Description:
        return self.reaching.told(Description(addresses=(at(INSIDE, PORT, self.place.me),), roles=(SERVE,)))


@asynccontextmanager
async def a_node(
    *, willing: bool = True, announced: bool = False, adverts: dict[PeerId, Advert] | None = None
) -> AsyncIterator[Node]:
    async def met(_: PeerId) -> bool:
        await trio.lowlevel.checkpoint()
        return True

    known = adverts if adverts is not None else {}
    around = Around(
        members=lambda: known,
        advert=known.get,
        settled=lambda _: None,
        met=met,
        announce=lambda: None,
        luck=lambda: 0.5,
    )
    network, ways = FakeNetwork(Weather()), FakeWays()
    async with network.node(a_peer()) as place:
        yield Node(place, ways, Reaching(place, place, ways, around, willing=willing, announced=announced))


async def test_where_it_was_reached_is_told_first_and_it_lends(autojump_clock: MockClock) -> None:
    async with a_node() as node:
        assert node.told() == Description(addresses=(at(INSIDE, PORT, node.place.me),), roles=(SERVE,))
        node.hear(reached=True)
        assert [each.host for each in node.told().addresses] == [OUTSIDE, INSIDE]
        assert node.told().roles == (SERVE, RELAY)
        assert node.ways.lending
        facts = node.reaching.facts()
        assert facts is not None
        assert (facts["verdict"], len(facts["seen_from"]), facts["lends"]) == ("public", 1, True)


async def test_whose_owner_does_not_want_it_lends_nothing(autojump_clock: MockClock) -> None:
    async with a_node(willing=False) as node:
        node.hear(reached=True)
        assert (node.told().roles, node.ways.lending) == ((SERVE,), False)


async def test_who_is_reached_by_neighbours_alone_lends_nothing(autojump_clock: MockClock) -> None:
    async with a_node() as node:
        node.hear(reached=True, host=INSIDE)
        assert (node.told().roles, node.ways.lending) == ((SERVE,), False)


async def test_nothing_is_added_to_what_the_owner_announces(autojump_clock: MockClock) -> None:
    async with a_node(announced=True) as node:
        node.hear(reached=True)
        assert [each.host for each in node.told().addresses] == [INSIDE]


async def test_who_is_not_reached_tells_the_ways_through_relays(autojump_clock: MockClock) -> None:
    adverts: dict[PeerId, Advert] = {}
    async with a_node(adverts=adverts) as node, node.place.network.node(a_peer()) as relay:
        adverts[relay.me] = swarm_samples.advert_body(
            author=relay.me, addresses=("/ip4/44.44.0.1/tcp/47470",), roles=(RELAY,)
        )
        node.ways.grants[relay.me] = 600.0
        node.place.learn(relay.me, [relay.address])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.reaching._reserver.run)
            await trio.sleep(5)
            assert node.told().circuits == ()
            node.hear(reached=False)
            await trio.sleep(5)
            assert [str(way) for way in node.told().circuits] == [
                f"/ip4/44.44.0.1/tcp/47470/p2p/{relay.me}/p2p-circuit/p2p/{node.place.me}"
            ]
            assert node.told().roles == (SERVE,)
            assert node.ways.believed == (at(OUTSIDE, PORT),)
            assert node.reaching.via(relay.me) == "direct"
            assert node.reaching.via(a_peer()) is None
            nursery.cancel_scope.cancel()
