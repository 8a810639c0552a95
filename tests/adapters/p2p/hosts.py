"""Hosts on loopback for the p2p suites, and what they say to each other."""

import logging
import os
from collections.abc import AsyncIterator, Callable
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager

import trio

from node.adapters.p2p.host import P2pHost, open_host
from node.adapters.p2p.limits import DEFAULT_LIMITS, P2pLimits
from node.adapters.p2p.workarounds import NONE, Workaround
from node.ports import PeerStream
from protocol.addresses import Address

PATIENCE = 20.0  # seconds of the real clock that any step may take on a busy machine
HERE = Address("ip4", "127.0.0.1", 0)
ECHO = "/metainf/test-echo/1"

logging.getLogger("libp2p").setLevel(logging.CRITICAL)


@asynccontextmanager
async def a_host(
    *, disabled: AbstractSet[Workaround] = NONE, limits: P2pLimits = DEFAULT_LIMITS, seed: bytes | None = None
) -> AsyncIterator[P2pHost]:
    async with open_host(seed or os.urandom(32), [HERE], limits=limits, disabled=disabled) as host:
        yield host


@asynccontextmanager
async def a_pair(
    *,
    server: AbstractSet[Workaround] = NONE,
    client: AbstractSet[Workaround] = NONE,
    server_limits: P2pLimits = DEFAULT_LIMITS,
    client_limits: P2pLimits = DEFAULT_LIMITS,
) -> AsyncIterator[tuple[P2pHost, P2pHost]]:
    """A server that echoes, and a client that is connected with it."""
    async with (
        a_host(disabled=server, limits=server_limits) as first,
        a_host(disabled=client, limits=client_limits) as second,
    ):
        first.serve(ECHO, echo)
        await introduce(second, first)
        yield first, second


async def introduce(client: P2pHost, server: P2pHost) -> None:
    client.learn(server.me, server.addresses())
    with trio.fail_after(PATIENCE):
        await client.connect(server.me)
        while client.me not in (there := server.connected()):
            await server.changed(there)


async def echo(stream: PeerStream) -> None:
    while (payload := await stream.receive()) is not None:
        await stream.send(payload)


async def says(client: P2pHost, server: P2pHost, payload: bytes = b"hello", *, patience: float = 5.0) -> bool:
    """Whether the server answers on a stream."""
    async with client.open(server.me, ECHO, patience=patience) as stream:
        await stream.send(payload)
        with trio.fail_after(patience):
            return await stream.receive() == payload


async def eventually(condition: Callable[[], bool], patience: float = PATIENCE) -> None:
    """Wait for what no event tells: the far side's doings."""
    with trio.fail_after(patience):
        while not condition():  # noqa: ASYNC110  # see above
            await trio.sleep(0.005)
