"""What every network promises of private swarms: unlike keys never connect, and say so; a key is told of nowhere."""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

import pytest
import trio

from node.errors import OtherSwarm
from protocol.addresses import Address
from tests.contracts.test_streams import PATIENCE, a_peer, open_host
from tests.fakes.network import FakeNetwork, FakeNode, Weather

pytestmark = [pytest.mark.slow, pytest.mark.libp2p]

RED, BLUE = bytes(range(32)), bytes(range(1, 33))
Keys = tuple[bytes | None, ...]


@asynccontextmanager
async def on_fakes(keys: Keys) -> AsyncIterator[list[FakeNode]]:
    network = FakeNetwork(Weather(latency=0.002, jitter=0.001, dial=1.0))
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(network.node(a_peer(), key=key)) for key in keys]


@asynccontextmanager
async def on_libp2p(keys: Keys) -> AsyncIterator[list[FakeNode]]:
    from node.adapters.p2p.private import SwarmKey  # noqa: PLC0415 -- libp2p warns when it is first imported

    async with AsyncExitStack() as stack:
        hosts = []
        for key in keys:
            private = None if key is None else SwarmKey(swarm="team", key=key)
            here = [Address("ip4", "127.0.0.1", 0)]
            hosts.append(await stack.enter_async_context(open_host(os.urandom(32), here, private=private)))
        yield hosts


Staging = Callable[[Keys], AbstractAsyncContextManager[list[FakeNode]]]
both = pytest.mark.parametrize("staging", [on_fakes, on_libp2p])


@both
@pytest.mark.parametrize(
    "keys", [(RED, BLUE), (RED, None), (None, RED)], ids=["unlike", "private-public", "public-private"]
)
async def test_unlike_keys_never_connect_and_the_dialler_is_told(staging: Staging, keys: Keys) -> None:
    async with staging(keys) as (one, two):
        with trio.fail_after(PATIENCE):
            for _ in range(2):
                with pytest.raises(OtherSwarm):
                    await one.dial(two.addresses()[0])
        assert not one.connected()
        assert not two.connected()
        assert one.strangers() == 0


@both
async def test_equal_keys_connect(staging: Staging) -> None:
    async with staging((RED, RED)) as (one, two):
        with trio.fail_after(PATIENCE):
            await one.dial(two.addresses()[0])
        assert one.connected() == {two.me}
        assert one.strangers() == two.strangers() == 0
