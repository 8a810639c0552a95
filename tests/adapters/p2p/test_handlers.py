"""A whole node over real libp2p, and a stranger who sends its handlers bytes of every kind: nothing stays behind.

Volume and variety are tested on the fake network (tests/sim/test_hostile.py); here are the sockets, the streams of the
real muxer and the descriptors.
"""

import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from libp2p.custom_types import TProtocol
from libp2p.peer.id import ID

from node.adapters.p2p.host import P2pHost
from node.adapters.p2p.limits import DEFAULT_LIMITS
from protocol import hello, inference, limits, load
from protocol.framing import frame
from protocol.inference_events import Ask, Body, Cancel, Data, End, encode
from tests.adapters.p2p.hosts import PATIENCE, a_host, eventually, introduce
from tests.adapters.p2p.whole import a_place
from tests.adapters.test_http_server import open_descriptors
from tests.fakes.engine import FakeEngine
from tests.fakes.garbage import damaged, vectors
from tests.fakes.stranger import Stranger, an_ask
from tests.sim.node import SimNode
from tests.sim.swarm import wall
from tests.sim.test_swarm import ASK

pytestmark = [pytest.mark.slow, pytest.mark.libp2p]

STREAMS = int(os.environ.get("METAINF_P2P_FUZZ", "300"))
AT_ONCE = 20
AFTER_HELLO = (inference.PROTOCOL_ID, load.PROTOCOL_ID)
ORDERLY = (
    encode(Ask(request_id="r", method="GET", target="/v1/models", headers=(), body_size=0, attempt=1)),
    encode(an_ask(len(ASK))),
    encode(Body(data=ASK)),
    encode(Cancel()),
    load.SCRIPT.vocabulary.encode(load.Poll()),
)
RIGHT = (*vectors("hello", "inference", "load", "wire", "framing"), *ORDERLY)
LENGTHS = (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", (limits.FRAME_BYTES + 1).to_bytes(4, "big"), b"\0\0\0\0", b"\0\0")


@asynccontextmanager
async def a_whole_node() -> AsyncIterator[tuple[SimNode, P2pHost]]:
    """Run the daemon on real libp2p, over an engine in memory."""
    seed = os.urandom(32)
    key = Ed25519PrivateKey.from_private_bytes(seed)
    async with a_place(seed, clock=wall) as place, trio.open_nursery() as nursery:
        engine = FakeEngine(load_time=0.0, tokens=16, token_time=0.001)
        node = SimNode(engine, public_key=key.public_key().public_bytes_raw(), among=place.among, clock=wall)
        nursery.start_soon(node.live)
        await node.until("engine_state", within=PATIENCE, state="ready")
        yield node, place.host
        nursery.cancel_scope.cancel()


async def throw(client: P2pHost, server: P2pHost, protocol: str, data: bytes, luck: random.Random) -> bool:
    """Write bytes past our own framing, and leave in one of the ways there are; whether they went out."""
    thrown = False
    with suppress(Exception):  # libp2p's own errors are many: what counts is what becomes of the other end
        stream = await client.foreign.new_stream(ID(server.me.to_bytes()), [TProtocol(protocol)])
        await stream.write(data)
        thrown = True
        if luck.random() < 0.5:
            await stream.close()
        with trio.move_on_after(luck.choice((0.0, 0.05, 0.2))):
            await stream.read(1000)
        await stream.reset()
    return thrown


def bytes_of_some_kind(luck: random.Random) -> bytes:
    """Return frames in a row, few of which are right, and at their end perhaps one that claims too much."""
    parts = [frame(damaged(RIGHT, luck)[:5000]) for _ in range(luck.randint(1, 3))]
    if luck.random() < 0.5:
        parts.insert(0, frame(luck.choice(ORDERLY)))
    if luck.random() < 0.3:
        parts.append(luck.choice(LENGTHS) + luck.randbytes(luck.choice((0, 10, 5000))))
    return b"".join(parts)


async def ask_well(honest: Stranger) -> None:
    answer = await honest.ask(ASK)
    assert isinstance(answer[-1], End)
    assert b"".join(each.data for each in answer if isinstance(each, Data)).endswith(b"[DONE]\n\n")


async def test_bytes_of_every_kind_over_sockets_leave_no_task_no_stream_and_no_descriptor() -> None:
    luck = random.Random(31)  # noqa: S311 -- the same attack every time
    async with a_whole_node() as (node, host), a_host() as honest_host:
        honest = Stranger(honest_host, host.me)
        await introduce(honest_host, host)
        assert await honest.greet()
        await ask_well(honest)
        assert (await honest.poll()).accepting
        before = trio.lowlevel.current_statistics().tasks_living, open_descriptors()
        thrown: list[bool] = []
        async with a_host() as evil_host:  # it is gone at the end: where it only hung up, the node might dial it

            async def attack(number: int) -> None:
                thrown.append(await throw(evil_host, host, AFTER_HELLO[number % 2], bytes_of_some_kind(luck), luck))

            await introduce(evil_host, host)
            assert await Stranger(evil_host, host.me).greet()
            for start in range(0, STREAMS, AT_ONCE):
                async with trio.open_nursery() as nursery:
                    for number in range(start, start + AT_ONCE):
                        nursery.start_soon(attack, number)
                    await ask_well(honest)
            assert sum(thrown) > STREAMS * 0.9
        for _ in range(STREAMS // 10):  # each greeting that goes wrong ends its connection
            async with a_host() as another:
                await introduce(another, host)
                assert await throw(another, host, hello.PROTOCOL_ID, bytes_of_some_kind(luck), luck)
        await eventually(lambda: host.connected() == {honest_host.me})
        patience = DEFAULT_LIMITS.pooled_seconds + PATIENCE  # the honest one may keep a second stream for so long
        await eventually(lambda: trio.lowlevel.current_statistics().tasks_living <= before[0], patience=patience)
        await eventually(lambda: open_descriptors() <= before[1])
        assert (await honest.poll()).accepting
        await ask_well(honest)
        _, status = await node.call("GET", "/status", on="control")
        assert status["requests_of_peers"]["running"] == 0
        assert status["peers"]["connected"] == 1
        assert node.engine is not None
        assert node.engine.at_work == 0
