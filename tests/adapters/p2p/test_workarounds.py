"""Each work-around for libp2p, seen both ways: with it the scenario is well, without it the defect shows.

A scenario takes the work-arounds to do without and returns whether all was well. Without the one it is about it must
not be: the day it is, libp2p has mended the defect, and the work-around can go.
"""

import functools
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import replace

import pytest
import trio
from libp2p.custom_types import TProtocol
from libp2p.exceptions import BaseLibp2pError
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.peer.id import ID
from libp2p.stream_muxer.exceptions import MuxedStreamError
from libp2p.stream_muxer.yamux.yamux import YAMUX_HEADER_FORMAT
from multiaddr import Multiaddr

from node.adapters.p2p.host import P2pHost, open_host
from node.adapters.p2p.limits import DEFAULT_LIMITS
from node.adapters.p2p.muxer import HardenedYamux
from node.adapters.p2p.workarounds import NONE, Workaround
from node.errors import Broken, NodeError, Unavailable
from node.ports import PeerStream
from tests.adapters.p2p.gossip_and_directory import GOSSIP_AND_DIRECTORY
from tests.adapters.p2p.gossip_moves import a_relayed_connection_that_gives_way
from tests.adapters.p2p.hosts import ECHO, PATIENCE, a_host, a_pair, echo, eventually, says
from tests.adapters.p2p.proxy import CountingProxy
from tests.places import at

pytestmark = [pytest.mark.slow, pytest.mark.libp2p]

Scenario = Callable[[AbstractSet[Workaround]], Awaitable[bool]]


def falling(*errors: type[Exception]) -> Callable[[Scenario], Scenario]:
    """Have a scenario count as not well when it ends by one of these, alone or in a group."""

    def wrap(scenario: Scenario) -> Scenario:
        @functools.wraps(scenario)
        async def run(disabled: AbstractSet[Workaround]) -> bool:
            try:
                return await scenario(disabled)
            except errors:
                return False
            except BaseExceptionGroup as group:
                if group.split(errors)[1] is not None:
                    raise
                return False

        return run

    return wrap


def muxed(host: P2pHost, peer: P2pHost) -> HardenedYamux:
    connection = host.swarm.alive(ID(peer.me.to_bytes()))[-1]
    assert isinstance(connection, SwarmConn)
    assert isinstance(connection.muxed_conn, HardenedYamux)
    return connection.muxed_conn


@falling(NodeError, ZeroDivisionError)
async def a_handler_that_fails(disabled: AbstractSet[Workaround]) -> bool:
    async def fails(stream: PeerStream) -> None:
        raise ZeroDivisionError

    async with a_pair(server=disabled) as (server, client):
        server.serve("/metainf/test-fails/1", fails)
        with suppress(Broken):
            async with client.open(server.me, "/metainf/test-fails/1", patience=5) as stream:
                await stream.receive()
        return await says(client, server)


@falling(NodeError)
async def thirty_connections_one_after_another(disabled: AbstractSet[Workaround]) -> bool:
    """With room for ten; libp2p's own bound stands at as many."""
    limits = replace(DEFAULT_LIMITS, inbound=10, inbound_per_address=10)
    async with a_host(disabled=disabled, limits=limits) as server:
        server.swarm._inbound_limiter.total_tokens = 10
        server.serve(ECHO, echo)
        for _ in range(30):
            async with a_host() as client:
                client.learn(server.me, server.addresses())
                await client.connect(server.me)
                await eventually(lambda: len(server.connected()) == 1)
            await eventually(lambda: not server.connected())
        return server.swarm.gate.inside == 0


async def a_peer_that_wants_plain_text(disabled: AbstractSet[Workaround]) -> bool:
    async with a_host(disabled=disabled) as server:
        address = server.addresses()[0]
        stream = await trio.open_tcp_stream(address.host, address.port)
        async with stream:
            await stream.send_all(_line(b"/multistream/1.0.0") + _line(b"/plaintext/2.0.0"))
            said = b""
            with trio.fail_after(PATIENCE):
                while said.count(b"\n") < 2:
                    said += await stream.receive_some(100)
        return said.endswith(_line(b"na"))


def _line(text: bytes) -> bytes:
    return bytes([len(text) + 1]) + text + b"\n"


async def a_dial(disabled: AbstractSet[Workaround]) -> bool:
    """Well if one of a few dials, the way libp2p's own parts do it, takes less than its fixed delay."""
    times = []
    async with a_host() as server:
        for _ in range(4):
            async with a_host(disabled=disabled) as client:
                client.learn(server.me, server.addresses())
                began = trio.current_time()
                await client.swarm.dial_peer(ID(server.me.to_bytes()))
                times.append(trio.current_time() - began)
    return min(times) < 0.2


async def a_peer_with_a_dead_address_first(disabled: AbstractSet[Workaround]) -> bool:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        async with a_host() as server, a_host(disabled=disabled) as client:
            client.learn(server.me, [at("127.0.0.1", closed.getsockname()[1]), *server.addresses()])
            try:
                return bool(await client.swarm.dial_peer(ID(server.me.to_bytes())))
            except BaseLibp2pError:
                return False


async def a_hundred_small_messages(disabled: AbstractSet[Workaround]) -> bool:
    """Well if they cost their own bytes on the wire and no second message each."""
    rounds, size, frame = 100, 100, 4 + 12 + 16 + 2  # frame prefix, yamux header, cipher's tag and length
    async with a_host() as server, a_host(disabled=disabled) as client:
        server.serve(ECHO, echo)
        async with CountingProxy(server.addresses()[0]) as proxy:
            client.learn(server.me, [proxy.address])
            async with client.open(server.me, ECHO, patience=5) as stream:
                await stream.send(b"x")
                await stream.receive()
                before = proxy.upwards
                for _ in range(rounds):
                    await stream.send(b"x" * size)
                    await stream.receive()
                return proxy.upwards - before < rounds * (size + frame + 10)


async def a_peer_that_was_only_heard_of(disabled: AbstractSet[Workaround]) -> bool:
    """Well if it is left alone when another connection ends."""
    async with a_host() as heard_of, a_pair(client=disabled) as (server, client):
        addresses = [Multiaddr(str(each)) for each in heard_of.addresses()]
        client.swarm.peerstore.add_addrs(ID(heard_of.me.to_bytes()), addresses, 600)
        client.swarm._last_auto_connect_trigger = -60.0
        await client.disconnect(server.me)
        with trio.move_on_after(1.5):
            await heard_of.changed(frozenset())
        return not heard_of.connected()


async def a_reader_that_pauses(disabled: AbstractSet[Workaround]) -> bool:
    """For longer than libp2p's five seconds, with more on its way than the window holds."""
    size, frames = 200_000, 4

    async def pauses(stream: PeerStream) -> None:
        await trio.sleep(5.5)
        for _ in range(frames):
            await stream.receive()
        await stream.send(b"all")

    async with a_pair(client=disabled) as (server, client):
        server.serve("/metainf/test-pauses/1", pauses)
        try:
            async with client.open(server.me, "/metainf/test-pauses/1", patience=5) as stream:
                for _ in range(frames):
                    await stream.send(bytes(size))
                return await stream.receive() == b"all"
        except Broken:
            return False


@falling(NodeError, trio.TooSlowError)
async def writers_that_are_cancelled(disabled: AbstractSet[Workaround]) -> bool:
    """Many on one connection, each cancelled at some moment; a conversation beside them must not notice."""

    async def speak(client: P2pHost, server: P2pHost, seconds: float) -> None:
        with trio.move_on_after(seconds):
            async with client.open(server.me, ECHO, patience=5) as stream:
                while True:
                    await stream.send(b"x" * 3000)

    async with a_pair(client=disabled) as (server, client), client.open(server.me, ECHO, patience=5) as honest:
        for number in range(12):
            async with trio.open_nursery() as nursery:
                for each in range(6):
                    nursery.start_soon(speak, client, server, 0.02 + 0.001 * number + 0.003 * each)
            await honest.send(b"still here?")
            with trio.fail_after(PATIENCE):
                await honest.receive()
    return True


async def a_peer_that_ignores_flow_control(disabled: AbstractSet[Workaround]) -> bool:
    """Well if what it sends and nobody reads stays within bounds."""
    told = trio.Event()

    async def never_reads(stream: PeerStream) -> None:
        told.set()
        await trio.sleep_forever()

    async with a_pair(server=disabled) as (server, client):
        server.serve("/metainf/test-deaf/1", never_reads)
        there = muxed(server, client)
        async with client.open(server.me, "/metainf/test-deaf/1", patience=5):
            await told.wait()
            here = muxed(client, server)
            number = max(here.streams)
            data = bytes(60_000)
            with suppress(BaseLibp2pError):
                for _ in range(100):  # 6 MB, past the stream that would wait for credit
                    await here._write_frame(struct.pack(YAMUX_HEADER_FORMAT, 0, 0, 0, number, len(data)) + data)
            await eventually(lambda: there.is_closed or len(there.stream_buffers.get(number, b"")) >= 6_000_000)
            return there.is_closed


async def a_stranger_who_claims_a_long_name(disabled: AbstractSet[Workaround]) -> bool:
    """Well if it is hung up on before it has sent what it claims; else what it sends is kept until the deadline."""
    async with a_host(disabled=disabled) as server:
        address = server.addresses()[0]
        async with await trio.open_tcp_stream(address.host, address.port) as stream:
            await stream.send_all(_line(b"/multistream/1.0.0") + b"\xff\xff\xff\xff\x7f")
            with trio.move_on_after(2), suppress(trio.BrokenResourceError):
                while await stream.receive_some(100):
                    pass
                return True
    return False


async def a_peer_that_claims_a_long_name(disabled: AbstractSet[Workaround]) -> bool:
    """The same, on a stream of a connection that is established."""
    async with a_pair(server=disabled) as (server, client):
        stream = await muxed(client, server).open_stream()
        await stream.write(_line(b"/multistream/1.0.0") + b"\xff\xff\xff\xff\x7f")
        with trio.move_on_after(2):
            try:
                while True:
                    await stream.read(100)
            except MuxedStreamError:
                return True
    return False


async def a_peer_that_never_pauses(disabled: AbstractSet[Workaround]) -> bool:
    """Well if what libp2p reads without a bound, as it does to learn who a peer is, has one."""

    async def talks(stream: PeerStream) -> None:
        await stream.send(bytes(200_000))
        await stream.receive()

    async with a_pair(client=disabled) as (server, client):
        server.serve("/metainf/test-talks/1", talks)
        stream = await client.foreign.new_stream(ID(server.me.to_bytes()), [TProtocol("/metainf/test-talks/1")])
        number = max(muxed(client, server).streams)
        await eventually(lambda: len(muxed(client, server).stream_buffers[number]) > 200_000)
        return len(await stream.read()) <= 100_000


async def a_peer_that_sends_a_huge_frame(disabled: AbstractSet[Workaround]) -> bool:
    """Well if the connection ends at the announcement."""
    async with a_pair(server=disabled) as (server, client):
        here, there = muxed(client, server), muxed(server, client)
        await here._write_frame(struct.pack(YAMUX_HEADER_FORMAT, 0, 0, 1, 9_999, 8_000_000))
        with trio.move_on_after(2):
            await there.event_closed.wait()
        return there.is_closed


async def a_peer_that_opens_streams_without_end(disabled: AbstractSet[Workaround]) -> bool:
    async def stays(stream: PeerStream) -> None:
        await stream.receive()

    limits = replace(DEFAULT_LIMITS, streams=20)
    async with a_pair(server=disabled, server_limits=limits) as (server, client):
        server.serve("/metainf/test-stays/1", stays)
        here, there = muxed(client, server), muxed(server, client)
        for _ in range(200):
            await here.open_stream()
        await says_something_slow(there)
        return sum(not each.is_initiator for each in there.streams.values()) <= limits.streams


async def says_something_slow(connection: HardenedYamux) -> None:
    """Wait until the connection has worked off what was sent before."""
    before = connection._ping_id
    await connection._answers()
    assert connection._ping_id == before + 1
    for _ in range(1000):
        await trio.lowlevel.checkpoint()


async def a_second_node_on_the_port(disabled: AbstractSet[Workaround]) -> bool:
    async with a_host(disabled=disabled) as first:
        try:
            async with open_host(os.urandom(32), first.addresses(), disabled=disabled):
                return False
        except Unavailable:
            return True


async def a_connection_that_this_node_closes(disabled: AbstractSet[Workaround]) -> bool:
    """Well if its streams do not seem to have ended in order."""
    async with a_pair(client=disabled) as (server, client), client.open(server.me, ECHO, patience=5) as stream:
        await stream.send(b"one")
        await stream.receive()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.disconnect, server.me)
            try:
                with trio.fail_after(PATIENCE):
                    return await stream.receive() is not None
            except Broken:
                return True
    raise AssertionError


async def a_peer_that_hangs(disabled: AbstractSet[Workaround]) -> bool:
    """Its sockets stay open and silent, as those of a stopped process do."""
    limits = replace(DEFAULT_LIMITS, probe_seconds=0.2, probe_patience=0.5)
    async with a_host() as server, a_host(disabled=disabled, limits=limits) as client:
        server.serve(ECHO, echo)
        async with CountingProxy(server.addresses()[0]) as proxy:
            client.learn(server.me, [proxy.address])
            await client.connect(server.me)
            proxy.freeze()
            with trio.move_on_after(3):
                await client.changed(frozenset({server.me}))
            return not client.connected()


SCENARIOS: dict[Workaround, list[Scenario]] = {
    Workaround.HANDLER_ERRORS: [a_handler_that_fails],
    Workaround.INBOUND_SLOTS: [thirty_connections_one_after_another],
    Workaround.NOISE_ONLY: [a_peer_that_wants_plain_text],
    Workaround.OWN_DIALER: [a_dial, a_peer_with_a_dead_address_first],
    Workaround.WINDOW_CREDIT: [a_hundred_small_messages],
    Workaround.GOSSIP_MOVES: [a_relayed_connection_that_gives_way],
    Workaround.NO_AUTO_CONNECT: [a_peer_that_was_only_heard_of],
    Workaround.PATIENT_WRITES: [a_reader_that_pauses],
    Workaround.WHOLE_WRITES: [writers_that_are_cancelled],
    Workaround.BOUNDED_UNREAD: [a_peer_that_ignores_flow_control, a_peer_that_sends_a_huge_frame],
    Workaround.BOUNDED_READS: [
        a_stranger_who_claims_a_long_name,
        a_peer_that_claims_a_long_name,
        a_peer_that_never_pauses,
    ],
    Workaround.BOUNDED_STREAMS: [a_peer_that_opens_streams_without_end],
    Workaround.OWN_PORT: [a_second_node_on_the_port],
    Workaround.HONEST_END: [a_connection_that_this_node_closes],
    Workaround.LIVENESS: [a_peer_that_hangs],
    **GOSSIP_AND_DIRECTORY,
}
CASES = [
    pytest.param(workaround, scenario, id=f"{workaround.name.lower()}-{scenario.__name__}")
    for workaround, scenarios in SCENARIOS.items()
    for scenario in scenarios
]


def test_every_workaround_has_its_scenario() -> None:
    assert set(SCENARIOS) == set(Workaround)


@pytest.mark.parametrize(("workaround", "scenario"), CASES)
async def test_with_the_workaround_all_is_well(workaround: Workaround, scenario: Scenario) -> None:
    with trio.fail_after(60):
        assert await scenario(NONE), f"this happens in spite of the work-around: {workaround.value}"


@pytest.mark.parametrize(("workaround", "scenario"), CASES)
async def test_without_the_workaround_the_defect_shows(workaround: Workaround, scenario: Scenario) -> None:
    with trio.fail_after(60):
        assert not await scenario({workaround}), f"is it mended in libp2p? {workaround.value}"
