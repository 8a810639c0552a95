"""Outcasts are parted from, and again when they come back and go on."""

import trio
from trio.testing import MockClock

from node.core.addressbook import AddressBook
from node.services.part import Parter
from tests.fakes.network import FakeNetwork, Weather
from tests.services.members import peer_of, until
from tests.services.replicas import key_of


async def test_an_outcast_that_came_back_and_offends_again_is_parted_from_again(autojump_clock: MockClock) -> None:
    network = FakeNetwork(Weather(latency=0.01))
    async with network.node(peer_of(key_of(1))) as node, network.node(peer_of(key_of(2))) as bad:
        parter = Parter(node, AddressBook(node.me))
        node.nursery.start_soon(parter.run)
        bad.learn(node.me, node.addresses())
        for offences in (3, 1):
            await bad.connect(node.me)
            await until(lambda: bad.me in node.connected(), 5)
            for _ in range(offences):
                parter.blame(bad.me, "bad_gossip")
            await until(lambda: bad.me not in node.connected(), 5)
        parter.blame(bad.me, "bad_gossip")  # one that is gone is noted, and no more
        await trio.sleep(5)
        assert parter.outcast(bad.me)
