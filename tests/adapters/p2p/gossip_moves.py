"""Gossip between two whose relayed connection gives way to a direct one: whether they go on hearing each other."""

from collections.abc import AsyncIterator
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager

import trio
from libp2p.peer.id import ID

from node.adapters.p2p.circuits import P2pWays, open_ways
from node.adapters.p2p.host import P2pHost
from node.adapters.p2p.routing import P2pGossip, open_gossip
from node.adapters.p2p.workarounds import Workaround
from protocol.gossip import message_id
from tests.adapters.p2p.hosts import a_host, eventually, introduce

TOPIC = "metainf/test/advert/1"
TRIES = 4  # messages, of which one at least has to come: the mesh takes a heartbeat
HEARD_S = 1.5  # for each
SETTLED_S = 4.0  # from the end of a connection until whatever it sets off is over


@asynccontextmanager
async def a_gossip(
    disabled: AbstractSet[Workaround],
) -> AsyncIterator[tuple[P2pHost, P2pWays, P2pGossip, list[bytes]]]:
    heard: list[bytes] = []
    async with (
        a_host() as host,
        open_ways(host, trio.current_time) as ways,
        open_gossip(host, topics={TOPIC}, message_id=message_id, disabled=disabled) as gossip,
        gossip.subscribe(TOPIC, lambda data, _: not heard.append(data)),
    ):
        yield host, ways, gossip, heard


async def told(gossip: P2pGossip, heard: list[bytes], word: bytes) -> bool:
    """Whether what one says comes to the other, one time in a few."""
    for number in range(TRIES):
        await gossip.publish(TOPIC, word + b"%d" % number)
        with trio.move_on_after(HEARD_S):
            await eventually(lambda: any(each.startswith(word) for each in heard))
            return True
    return False


async def a_relayed_connection_that_gives_way(disabled: AbstractSet[Workaround]) -> bool:
    """Two ends that know nobody else but the relay, which does not gossip."""
    async with (
        a_host() as middle,
        open_ways(middle, trio.current_time) as lends,
        a_gossip(disabled) as (one, _, first, heard_by_one),
        a_gossip(disabled) as (other, ways, second, heard_by_other),
    ):
        lends.lend(True)
        await introduce(other, middle)
        await ways.reserve(middle.me)
        await one.dial(middle.addresses()[0].through(other.me))
        assert await told(first, heard_by_other, b"relayed there ")
        assert await told(second, heard_by_one, b"relayed back ")
        await one.dial(other.addresses()[0])
        await eventually(lambda: len(one.swarm.alive(ID(other.me.to_bytes()))) == 1)
        await trio.sleep(SETTLED_S)
        return await told(first, heard_by_other, b"direct there ") and await told(second, heard_by_one, b"direct back ")
