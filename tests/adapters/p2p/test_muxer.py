"""What the connection that conversations share promises beyond libp2p: bounds for all of them, and few round trips."""

import struct
from contextlib import suppress
from dataclasses import replace

import pytest
import trio
from libp2p.exceptions import BaseLibp2pError
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.peer.id import ID
from libp2p.protocol_muxer.exceptions import MultiselectClientError, ProtocolNotSupportedError
from libp2p.stream_muxer.yamux.yamux import DEFAULT_WINDOW_SIZE, YAMUX_HEADER_FORMAT

from node.adapters.p2p.host import P2pHost
from node.adapters.p2p.limits import DEFAULT_LIMITS, KIB
from node.adapters.p2p.muxer import GROWING, HardenedYamux
from node.adapters.p2p.negotiate import BoundedTalk
from node.errors import NodeError
from node.ports import PeerStream
from tests.adapters.p2p.hosts import ECHO, PATIENCE, a_pair, eventually, says

pytestmark = [pytest.mark.slow, pytest.mark.libp2p]

DEAF, PUMP = "/metainf/test-deaf/1", "/metainf/test-pump/1"


def muxed(host: P2pHost, peer: P2pHost) -> HardenedYamux:
    connection = host.swarm.alive(ID(peer.me.to_bytes()))[-1]
    assert isinstance(connection, SwarmConn)
    assert isinstance(connection.muxed_conn, HardenedYamux)
    return connection.muxed_conn


async def stays(stream: PeerStream) -> None:
    await trio.sleep_forever()


async def test_what_lies_unread_on_all_streams_of_a_connection_has_a_bound() -> None:
    """Each stream keeps to what it was granted; it is their number that is too much."""
    limits = replace(DEFAULT_LIMITS, unread_theirs=1024 * KIB)
    async with a_pair(server_limits=limits) as (server, client):
        server.serve(DEAF, stays)
        here, there = muxed(client, server), muxed(server, client)
        data = bytes(60_000)
        async with trio.open_nursery() as nursery:

            async def flood() -> None:
                with suppress(BaseLibp2pError, NodeError):  # of those that find the connection closed
                    async with client.open(server.me, DEAF, patience=PATIENCE):
                        number = max(here.streams)
                        for _ in range(4):
                            await here._write_frame(struct.pack(YAMUX_HEADER_FORMAT, 0, 0, 0, number, len(data)) + data)
                        await trio.sleep_forever()

            for _ in range(3):  # 720 KB
                await open_streams(nursery, flood, there)
            assert not there.is_closed
            for _ in range(3):
                await open_streams(nursery, flood, there)
            await eventually(lambda: there.is_closed)
            nursery.cancel_scope.cancel()


async def open_streams(nursery: trio.Nursery, flood: object, there: HardenedYamux) -> None:
    before = sum(map(len, there.stream_buffers.values()))
    nursery.start_soon(flood)  # type: ignore[arg-type]
    await eventually(
        lambda: there.event_shutting_down.is_set() or sum(map(len, there.stream_buffers.values())) >= before + 240_000
    )


async def test_a_fast_readers_credit_grows_unless_it_has_many_streams() -> None:
    async def pump(stream: PeerStream) -> None:
        while (payload := await stream.receive()) is not None:
            for _ in range(int(payload)):
                await stream.send(bytes(256 * KIB))

    async def grown(client: P2pHost, server: P2pHost) -> int:
        async with client.open(server.me, PUMP, patience=PATIENCE) as stream:
            number = max(muxed(client, server).streams)
            await stream.send(b"16")
            for _ in range(16):
                await stream.receive()
            return muxed(client, server).streams[number].target_recv_window

    async with a_pair() as (server, client):
        server.serve(PUMP, pump)
        server.serve(DEAF, stays)
        # How fast it grows depends on the round trip: here it is allowed to at every read.
        for each in (muxed(client, server), muxed(server, client)):
            each._rtt = 60.0
        assert DEFAULT_WINDOW_SIZE < await grown(client, server) <= DEFAULT_LIMITS.unread
        streams = [await muxed(client, server).open_stream() for _ in range(GROWING + 1)]
        assert await grown(client, server) == DEFAULT_WINDOW_SIZE
        for each in streams:
            await each.reset()


class Lines:
    """The other end of a negotiation: what it says, and after how many bytes it was first listened to."""

    def __init__(self, *lines: str) -> None:
        self.said = b"".join(bytes([len(line) + 1]) + line.encode() + b"\n" for line in lines)
        self.heard = b""
        self.heard_first: bytes | None = None

    async def write(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.heard += data

    async def read(self, n: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        if self.heard_first is None:
            self.heard_first = self.heard
        data, self.said = self.said[:n], self.said[n:]
        return data


async def test_a_protocol_is_asked_for_in_the_breath_that_says_hello() -> None:
    lines = Lines("/multistream/1.0.0", "/x/1")
    await BoundedTalk(lines).agree_on("/x/1")  # type: ignore[arg-type]
    assert lines.heard_first == b"\x13/multistream/1.0.0\n\x05/x/1\n"


@pytest.mark.parametrize(
    ("lines", "error"),
    [
        (("/multistream/1.0.0", "na"), ProtocolNotSupportedError),
        (("/multistream/1.0.0", "/y/1"), MultiselectClientError),
        (("/multistream/2.0.0", "/x/1"), MultiselectClientError),
    ],
)
async def test_what_else_the_other_end_says_is_told_apart(lines: tuple[str, ...], error: type[Exception]) -> None:
    with pytest.raises(MultiselectClientError) as caught:
        await BoundedTalk(Lines(*lines)).agree_on("/x/1")  # type: ignore[arg-type]
    assert type(caught.value) is error


async def test_the_address_of_the_other_end_is_known_through_the_sealed_connection() -> None:
    async with a_pair() as (server, client):
        address = server.addresses()[0]
        assert muxed(client, server).get_remote_address() == (address.host, address.port)
        assert await says(client, server)


async def test_a_crowd_that_comes_back_soon_finds_its_streams_kept() -> None:
    many = DEFAULT_LIMITS.pooled
    fresh: list[bool] = []

    async def use(arrived: list[None], together: trio.Event) -> None:
        async with client.open(server.me, ECHO, patience=PATIENCE) as stream:
            fresh.append(stream.fresh)
            arrived.append(None)
            if len(arrived) == many:
                together.set()
            await together.wait()
            await stream.send(b"x")
            await stream.receive()
            stream.keep()

    async with a_pair() as (server, client):
        for _ in range(2):
            arrived, together = list[None](), trio.Event()
            async with trio.open_nursery() as nursery:
                for _ in range(many):
                    nursery.start_soon(use, arrived, together)
        assert fresh == [True] * many + [False] * many
        assert many >= 64  # prompts at once are as many on a busy day: to open a stream costs ten messages
