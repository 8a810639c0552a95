"""What strangers may try on a node's port and on its protocols: honest peers must not notice."""

import gc
import os
import random
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio
from libp2p.custom_types import TProtocol
from libp2p.peer.id import ID

from node.adapters.p2p.host import P2pHost
from node.adapters.p2p.limits import DEFAULT_LIMITS
from node.adapters.p2p.tcp import READ_AHEAD, TcpStream
from node.errors import Broken, NodeError, Unreachable
from node.ports import PeerStream
from protocol.errors import RemoteProtocolError
from protocol.framing import frame
from tests.adapters.p2p.hosts import ECHO, PATIENCE, a_host, a_pair, echo, eventually, introduce, says

pytestmark = [pytest.mark.slow, pytest.mark.libp2p]

FUZZ_ROUNDS = int(
    os.environ.get("METAINF_P2P_FUZZ", "1000")
)  # byte strings sent to a handler; CI's long run sets 10000
CONNECTIONS = int(os.environ.get("METAINF_P2P_CONNECTIONS", "300"))  # one after another
HELLO = b"\x13/multistream/1.0.0\n"


@asynccontextmanager
async def sockets(host: P2pHost, number: int) -> AsyncIterator[list[trio.SocketStream]]:
    """Open sockets that say nothing."""
    address = host.addresses()[0]
    opened: list[trio.SocketStream] = []
    try:
        while len(opened) < number:
            opened.append(await trio.open_tcp_stream(address.host, address.port))
        yield opened
    finally:
        for each in opened:
            await trio.aclose_forcefully(each)


@pytest.fixture
def no_collector() -> Iterator[None]:
    """It closes the sockets that it finds."""
    gc.disable()
    yield
    gc.enable()


def tasks() -> int:
    return trio.lowlevel.current_statistics().tasks_living


async def test_after_three_hundred_connections_the_next_is_accepted() -> None:
    """Ten peers come and go, each again and again; there is room for far fewer than come in all."""
    limits = replace(DEFAULT_LIMITS, inbound=32)
    peers = 10

    async def comes_and_goes(server: P2pHost) -> None:
        async with a_host() as client:
            for _ in range(CONNECTIONS // peers):
                await introduce(client, server)
                await client.disconnect(server.me)

    async with a_host(limits=limits) as server:
        server.serve(ECHO, echo)
        async with trio.open_nursery() as nursery:
            for _ in range(peers):
                nursery.start_soon(comes_and_goes, server)
        await eventually(lambda: server.swarm.gate.inside == 0)
        async with a_host() as client:
            await introduce(client, server)
            assert await says(client, server)


async def test_three_hundred_silent_sockets_block_nobody() -> None:
    async with a_pair() as (server, client), sockets(server, 300):
        assert server.swarm.gate.shaking <= DEFAULT_LIMITS.handshakes
        assert await says(client, server)
        async with a_host() as newcomer:
            began = trio.current_time()
            await introduce(newcomer, server)
            assert await says(newcomer, server)
            assert trio.current_time() - began < DEFAULT_LIMITS.handshake_seconds


async def test_silent_sockets_are_closed_after_a_while() -> None:
    limits = replace(DEFAULT_LIMITS, handshake_seconds=0.3)
    async with a_host(limits=limits) as server, sockets(server, 5) as opened:
        with trio.fail_after(PATIENCE):
            for each in opened:
                while await each.receive_some(100):
                    pass
        await eventually(lambda: server.swarm.gate.shaking == 0)


async def test_a_thousand_garbage_handshakes_block_nobody_and_leave_nothing() -> None:
    luck = random.Random(2024)  # noqa: S311 -- the same attack every time
    async with a_pair() as (server, client):
        address = server.addresses()[0]
        before = tasks()

        async def attack(number: int) -> None:
            garbage = luck.randbytes(luck.randrange(1, 600))
            start = [b"", HELLO, HELLO + b"\x07/noise\n", HELLO + b"\x07/noise\n\x00\x20"][number % 4]
            stream = await trio.open_tcp_stream(address.host, address.port)
            async with stream:
                try:
                    await stream.send_all(start + garbage)
                    with trio.move_on_after(luck.random() * 0.05):
                        await stream.receive_some(1000)
                except trio.BrokenResourceError:
                    return

        for wave in range(50):
            async with trio.open_nursery() as nursery:
                for number in range(20):
                    nursery.start_soon(attack, number)
                if wave % 5 == 0:
                    assert await says(client, server)
        async with a_host() as newcomer:
            await introduce(newcomer, server)
            assert await says(newcomer, server)
        await eventually(lambda: server.swarm.gate.shaking == 0)
        await eventually(lambda: tasks() <= before)


async def test_whoever_claims_a_long_frame_is_refused_before_it_comes() -> None:
    refused = trio.Event()

    async def reads(stream: PeerStream) -> None:
        with pytest.raises(RemoteProtocolError):
            await stream.receive()
        refused.set()

    async with a_pair() as (server, client):
        server.serve("/metainf/test-short/1", reads, frame_bytes=1000)
        there = ID(server.me.to_bytes())
        stream = await client.foreign.new_stream(there, [TProtocol("/metainf/test-short/1")])
        await stream.write((1001).to_bytes(4, "big"))  # and not a byte of the frame
        with trio.fail_after(PATIENCE):
            await refused.wait()


async def test_a_reader_asks_the_kernel_for_little_whatever_a_stranger_claims() -> None:
    """One who says that 30 GB will follow made the node ask for as much memory, and fail."""
    near, far = socket.socketpair()
    with far:
        stream = TcpStream(trio.SocketStream(trio.socket.from_stdlib_socket(near)))
        far.sendall(bytes(200_000))
        with trio.fail_after(PATIENCE):
            assert len(await stream.read(10)) == 10
            for claim in (30_358_763_060, 100_000, None, -1):
                assert 0 < len(await stream.read(claim)) <= READ_AHEAD
        await stream.close()


async def test_a_host_that_is_cancelled_closes_its_connections_all_the_same(no_collector: None) -> None:
    async with a_host() as server:
        with trio.CancelScope() as scope:
            async with a_host() as client:
                await introduce(client, server)
                scope.cancel()
                await trio.sleep_forever()
        await eventually(lambda: not server.connected(), patience=5)


async def test_a_connection_that_nobody_uses_is_closed() -> None:
    limits = replace(DEFAULT_LIMITS, idle_seconds=0.0)
    async with a_host(limits=limits) as server, a_host() as client:
        await introduce(client, server)
        with trio.fail_after(PATIENCE):
            assert await server.changed(frozenset({client.me})) == frozenset()


async def test_one_peer_has_few_connections_and_the_newest_counts() -> None:
    seed = os.urandom(32)
    async with (
        a_host() as server,
        a_host(seed=seed) as first,
        a_host(seed=seed) as second,
        a_host(seed=seed) as third,
        a_host(seed=seed) as fourth,
    ):
        server.serve(ECHO, echo)
        for each in (first, second, third, fourth):
            each.learn(server.me, server.addresses())
            await each.connect(server.me)
        with trio.fail_after(PATIENCE):
            await first.changed(frozenset({server.me}))
        assert await says(fourth, server)


async def test_bytes_of_any_kind_to_a_handler_end_their_stream_alone() -> None:
    """Random bytes, and whole frames with some bytes changed, cut or added."""
    luck = random.Random(7)  # noqa: S311 -- the same attack every time
    async with a_pair() as (server, client):
        ended = 0

        async def parse(stream: PeerStream) -> None:
            nonlocal ended
            try:
                await echo(stream)
            finally:
                ended += 1

        server.serve("/metainf/test-fuzz/1", parse)

        async def attack(data: bytes) -> None:
            async with client.open(server.me, "/metainf/test-fuzz/1", patience=PATIENCE) as stream:
                raw = stream._muxed._stream  # type: ignore[attr-defined]  # past our own framing
                await raw.write(data)
                await raw.close()
                try:
                    with trio.fail_after(PATIENCE):
                        while await stream.receive() is not None:
                            pass
                except (Broken, RemoteProtocolError):
                    return

        await attack(b"x")
        before, streams = tasks(), len(server.swarm.all_alive()[0].get_streams())
        for start in range(0, FUZZ_ROUNDS, 20):
            async with trio.open_nursery() as nursery:
                for _ in range(min(20, FUZZ_ROUNDS - start)):
                    nursery.start_soon(attack, mutated(luck))
        await eventually(lambda: ended == FUZZ_ROUNDS + 1)
        await eventually(lambda: tasks() <= before)
        await eventually(lambda: len(server.swarm.all_alive()[0].get_streams()) <= streams)
        connection = server.swarm.all_alive()[0].muxed_conn
        await eventually(lambda: len(connection.streams) <= 8)  # type: ignore[attr-defined]
        assert len(connection.stream_events) <= 8  # type: ignore[attr-defined]
        assert await says(client, server)


def mutated(luck: random.Random) -> bytes:
    kind = luck.randrange(4)
    if kind == 0:
        return luck.randbytes(luck.randrange(1, 300))
    data = bytearray(b"".join(frame(luck.randbytes(luck.randrange(1, 200))) for _ in range(luck.randrange(1, 4))))
    if kind == 1:
        data[luck.randrange(len(data))] ^= 1 << luck.randrange(8)
    elif kind == 2:
        del data[luck.randrange(len(data)) :]
    return bytes(data) or b"\0"


async def test_a_peer_that_is_refused_is_told_so_at_once() -> None:
    limits = replace(DEFAULT_LIMITS, inbound=1)
    async with a_pair(server_limits=limits) as (server, _), a_host() as late:
        late.learn(server.me, server.addresses())
        began = trio.current_time()
        with pytest.raises((Unreachable, NodeError)):
            await late.connect(server.me)
        assert trio.current_time() - began < 2
