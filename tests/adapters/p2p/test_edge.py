"""What all peers together may hold, and who is not let in again: over real sockets."""

from dataclasses import replace

import pytest
import trio

from node.adapters.p2p.limits import DEFAULT_LIMITS, KIB
from node.adapters.p2p.muxer import HardenedYamux
from node.errors import Broken, NodeError
from node.ports import PeerStream
from protocol.errors import Reason, RemoteProtocolError
from tests.adapters.p2p.hosts import ECHO, PATIENCE, a_host, a_pair, echo, eventually, introduce, says

pytestmark = [pytest.mark.slow, pytest.mark.libp2p]

DEAF = "/metainf/test-deaf/1"
NONSENSE = "/metainf/test-nonsense/1"


async def deaf(stream: PeerStream) -> None:
    """Read nothing of what comes."""
    await trio.sleep_forever()


async def nonsense(stream: PeerStream) -> None:
    """Find what comes to be against the rules."""
    await stream.receive()
    raise RemoteProtocolError(Reason.MALFORMED, "nonsense")


async def test_of_all_who_are_not_read_the_largest_connection_ends_and_no_other() -> None:
    limits = replace(DEFAULT_LIMITS, unread_all=512 * KIB)
    async with a_pair(server_limits=limits) as (server, honest), a_host() as greedy:
        server.serve(DEAF, deaf)
        await introduce(greedy, server)

        async def pours() -> None:
            async with greedy.open(server.me, DEAF, patience=PATIENCE) as stream:
                while True:
                    await stream.send(bytes(32 * KIB))

        async def is_cut_off() -> None:
            with pytest.raises(NodeError):  # libp2p's own credit is 256 KiB for each stream
                await pours()

        async with honest.open(server.me, DEAF, patience=PATIENCE) as slow:
            await slow.send(bytes(100 * KIB))
            async with trio.open_nursery() as nursery:
                for _ in range(4):
                    nursery.start_soon(is_cut_off)
            assert server.connected() == {honest.me}
            assert await says(honest, server)


async def test_streams_are_bounded_over_all_connections_and_the_modest_get_theirs() -> None:
    limits = replace(DEFAULT_LIMITS, streams_all=12)
    async with a_pair(server_limits=limits) as (server, client):
        refused = 0
        async with trio.open_nursery() as nursery:

            async def holds() -> None:
                nonlocal refused
                try:
                    async with client.open(server.me, ECHO, patience=2.0) as stream:
                        await stream.send(b"x")
                        await stream.receive()
                        await trio.sleep_forever()
                except NodeError:
                    refused += 1

            for _ in range(20):
                nursery.start_soon(holds)
            await eventually(lambda: refused >= 8)
            connection = server.swarm.all_alive()[0].muxed_conn
            assert isinstance(connection, HardenedYamux)
            await eventually(lambda: connection.theirs() <= 12)  # those that are refused are gone a moment later
            nursery.cancel_scope.cancel()
        await eventually(lambda: connection.theirs() < 4)
        assert await says(client, server)


async def test_a_peer_that_talks_nonsense_again_and_again_is_not_let_in_for_a_while() -> None:
    async with a_pair() as (server, client), a_host() as other:
        server.serve(NONSENSE, nonsense)

        async def talks_nonsense() -> None:
            async with client.open(server.me, NONSENSE, patience=PATIENCE) as stream:
                await stream.send(b"x")
                await stream.receive()

        async def comes_back() -> None:
            await client.connect(server.me)
            await says(client, server)

        for _ in range(4):
            with pytest.raises(Broken):
                await talks_nonsense()
        await eventually(lambda: str(client.me) in server.edge().banned_peers)
        assert await says(client, server)  # what is established stays: whoever knows better may end it
        await client.disconnect(server.me)
        await eventually(lambda: not server.connected())
        with pytest.raises(NodeError):
            await comes_back()
        assert server.connected() == frozenset()
        assert server.edge().refused["peer_banned"] >= 1
        await introduce(other, server)
        assert await says(other, server)


async def test_a_peer_that_holds_a_stream_and_says_nothing_is_let_go() -> None:
    limits = replace(DEFAULT_LIMITS, quiet_seconds=0.5)
    async with a_pair(server_limits=limits) as (server, client), a_host() as talker:
        server.serve(DEAF, deaf)
        server.serve(ECHO, echo)
        await introduce(talker, server)
        async with client.open(server.me, DEAF, patience=PATIENCE) as stream, trio.open_nursery() as nursery:
            await stream.send(b"x")

            async def talks() -> None:
                while True:
                    assert await says(talker, server)
                    await trio.sleep(0.1)

            nursery.start_soon(talks)
            await eventually(lambda: client.me not in server.connected())
            assert talker.me in server.connected()
            nursery.cancel_scope.cancel()
