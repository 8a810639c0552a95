"""What strangers may do to a whole node: garbage, floods and greed. Honest peers and the owner must hardly notice.

`METAINF_FUZZ_REQUESTS` sets how many byte strings each handler gets (10,000 for the record).
"""

import gc
import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial

import pytest
import structlog
import trio
from structlog.testing import capture_logs

from node.core.access import Access
from node.core.addressbook import AddressBook
from node.core.peerbook import BookLimits, Peerbook
from node.core.quota import QuotaLimits
from node.core.standings import Standings
from node.errors import Broken, NodeError
from node.hands import dht_rules
from protocol import dht, hello, inference, limits, load
from protocol.errors import RemoteProtocolError
from protocol.gossip import Subject, Topic
from protocol.ids import PUBLIC_SWARM, Epoch, PeerId, SwarmId
from protocol.inference_events import Body, Cancel, Data, End, Head, Refuse
from protocol.inference_events import encode as say
from tests.fakes.garbage import damaged, vectors
from tests.fakes.network import FakeNode
from tests.fakes.stranger import Poller, Stranger, an_ask, greeted, id_of, key_of, stranger
from tests.protocol import swarm_samples
from tests.sim.node import SimAnswer, SimNode
from tests.sim.swarm import BEGINNING, SimSwarm, engine, sim_swarm, wall
from tests.sim.test_swarm import ASK, WHOLE, ask, until_served

STRINGS = int(os.environ.get("METAINF_FUZZ_REQUESTS", "1000"))
AT_ONCE = 20
SETTLED = 90.0  # s after which nothing of an attack is under way: longer than every deadline of a stream
ADVERTS = str(Topic(PUBLIC_SWARM, Subject.ADVERT))
BOOKS = (Peerbook, AddressBook, Standings)


@asynccontextmanager
async def a_pair(**engine_is: object) -> AsyncIterator[tuple[SimSwarm, SimNode, SimNode]]:
    """A, who asks, and B, who serves; both know each other."""
    async with sim_swarm() as swarm:
        a = await swarm.start("a")
        b = await swarm.start("b", engine=engine(**engine_is), join=["a"])
        await until_served(a, {b.peer_id})
        yield swarm, a, b


def place_of(swarm: SimSwarm, name: str) -> FakeNode:
    place = swarm.network.find(swarm.network_id(name))
    assert place is not None
    return place


def held() -> Counter[str]:
    """Count what the memories of all living nodes hold, by their kind."""
    gc.collect()
    found: Counter[str] = Counter()
    for each in gc.get_objects():
        if isinstance(each, BOOKS):
            found[type(each).__name__] += len(each)
    return found


def tasks() -> int:
    return trio.lowlevel.current_statistics().tasks_living


async def facts(node: SimNode, name: str) -> dict[str, int]:
    _, status = await node.call("GET", "/status", on="control")
    return status[name]


async def one_string_each(attack: Callable[[int], Awaitable[None]]) -> None:
    for start in range(0, STRINGS, AT_ONCE):
        async with trio.open_nursery() as nursery:
            for number in range(start, min(start + AT_ONCE, STRINGS)):
                nursery.start_soon(attack, number)


async def throw(one: Stranger, protocol: str, strings: list[bytes], luck: random.Random) -> None:
    """Say these on a new stream, listen for a moment or not at all, and leave in one of the ways there are."""
    with suppress(NodeError, RemoteProtocolError):
        async with one.node.open(one.victim, protocol, patience=5.0) as stream:
            for each in strings:
                await stream.send(each)
            if luck.random() < 0.5:
                await stream.finish()
            with trio.move_on_after(luck.choice((0.0, 0.1, 1.0))):
                while await stream.receive() is not None:
                    pass


ORDERLY = (
    say(an_ask(0, target="/v1/models", method="GET")),
    say(an_ask(len(ASK))),
    say(Body(data=ASK)),
    say(Cancel()),
    say(an_ask(limits.BODY_BYTES)),
    load.SCRIPT.vocabulary.encode(load.Poll()),
)


@pytest.mark.parametrize("protocol", [hello.PROTOCOL_ID, inference.PROTOCOL_ID, load.PROTOCOL_ID])
async def test_bytes_of_every_kind_to_a_handler_leave_the_node_as_it_was(autojump_clock: object, protocol: str) -> None:
    async with a_pair(prefill_time=0.01, token_time=0.001) as (swarm, a, b):
        place, right = place_of(swarm, "b"), (*vectors("hello", "inference", "load", "wire", "framing"), *ORDERLY)
        assert (await ask(a)).body == WHOLE  # its streams are kept for the next
        await trio.sleep(SETTLED)
        before, remembered, known = tasks(), held(), await swarm.known("b")
        luck = random.Random(2026)  # noqa: S311 -- the same attack every time

        async with stranger(swarm.network, place.me, "mallory") as mallory:

            async def attack(number: int) -> None:
                strings = [damaged(right, luck) for _ in range(luck.randint(1, 3))]
                if luck.random() < 0.7:
                    strings.insert(0, luck.choice(ORDERLY))
                if luck.random() < 0.5 or number % AT_ONCE == 0:
                    with suppress(NodeError):
                        await mallory.greet()
                await throw(mallory, protocol, strings, luck)
                if number % 100 == 0:
                    assert (await ask(a)).body == WHOLE

            await one_string_each(attack)
        await trio.sleep(SETTLED)
        assert not place.failures
        assert tasks() == before
        assert held() == remembered
        assert await swarm.known("b") == known
        assert (await facts(b, "requests_of_peers"))["running"] == 0
        assert b.engine is not None
        assert b.engine.at_work == 0
        assert (await ask(a)).body == WHOLE
