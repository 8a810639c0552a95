"""How many bytes a node answers for each that it is asked with: protocol by protocol, before and after a greeting.

    python -m tests.benchmarks.bench_amplification           seconds; a whole node and a stranger on loopback

Counted by the kernel at the stranger's socket: what TCP carried, handshakes and ciphers included, headers not. All of
it goes to whoever asked: an address that does not answer TCP's own handshake is sent nothing.
"""

import argparse
import json
import logging
import os
import socket
import struct
import sys
import tempfile
import warnings
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import structlog
import trio

with warnings.catch_warnings():  # libp2p 0.8.1 imports a part of websockets that announces its end
    warnings.simplefilter("ignore", DeprecationWarning)
    from libp2p.exceptions import BaseLibp2pError
    from libp2p.kad_dht.pb.kademlia_pb2 import Message as KadMessage
    from libp2p.pubsub.pb import rpc_pb2
    from libp2p.utils import encode_varint_prefixed

    from node.adapters.p2p.host import P2pHost
    from node.adapters.p2p.muxer import HardenedYamux
    from node.adapters.p2p.negotiate import BoundedTalk
    from node.adapters.p2p.tcp import TcpStream
    from tests.adapters.p2p.hostile import (
        EPOCH,
        TOPIC,
        Mallory,
        WholeNode,
        a_key,
        a_record,
        a_stranger,
        a_whole_node,
        in_touch,
    )
    from tests.adapters.p2p.hosts import a_host, introduce
from node.clock import wall_us
from protocol.gossip import message_id
from protocol.history import PROTOCOL_ID as HISTORY
from protocol.history import SCRIPT, Compare, Fetch, Want
from protocol.ids import PeerId
from tests.fakes.stranger import Stranger, id_of

TCP_BYTES = struct.Struct("120xQQ")  # of tcp(7)'s tcp_info: tcpi_bytes_acked, tcpi_bytes_received
TCP_INFO_BYTES = 136
HELLO = b"\x13/multistream/1.0.0\n"
NOISE = HELLO + b"\x07/noise\n\x00\x20" + bytes(31) + b"\x09"  # a key that is one: the node answers it
RECORDS = 400
SAID_BYTES = 50_000  # of the message of gossip that is wanted again
SETTLE_S = 1.0  # for what is still on its way
BEFORE, AFTER = "before", "after"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One question, and what came of it. `greeting`: whether it was put before or after one."""

    what: str
    greeting: str
    asked: int
    answered: int

    @property
    def factor(self) -> float:
        """Bytes out per byte in."""
        return self.answered / max(1, self.asked)


def carried(sock: trio.socket.SocketType) -> tuple[int, int]:
    """Return the bytes sent and received so far."""
    sent, received = TCP_BYTES.unpack(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_BYTES))
    return sent, received


async def raw(what: str, host: P2pHost, says: bytes) -> Row:
    """Connect, say something, and count what comes until the node hangs up, or for as long as it bears that."""
    address = host.addresses()[0]
    stream = await trio.open_tcp_stream(address.host, address.port)
    async with stream:
        if says:
            await stream.send_all(says)
        answered = 0
        with trio.move_on_after(8.0):
            while data := await stream.receive_some(65536):
                answered += len(data)
    return Row(what=what, greeting=BEFORE, asked=len(says), answered=answered)


def socket_of(client: P2pHost, server: P2pHost) -> trio.socket.SocketType:
    """Return the socket of the client's connection with the server."""
    connection = next(each for each in client.swarm.all_alive() if str(each.muxed_conn.peer_id) == str(server.me))
    assert isinstance(connection.muxed_conn, HardenedYamux)
    below = connection.muxed_conn._raw
    assert isinstance(below, TcpStream)
    return below.stream.socket


async def counted(
    what: str, greeting: str, client: P2pHost, server: P2pHost, work: Callable[[], Awaitable[object]]
) -> Row:
    """Do something, and count what it made the connection carry."""
    sock = socket_of(client, server)
    sent, received = carried(sock)
    with trio.move_on_after(5.0):
        await work()
    await trio.sleep(SETTLE_S)
    after = carried(sock)
    return Row(what=what, greeting=greeting, asked=after[0] - sent, answered=after[1] - received)


async def ask(client: P2pHost, protocol: str, says: bytes) -> bytes:
    """Open a stream of any protocol, say something, and read until its end or for two seconds."""
    connection = client.swarm.all_alive()[-1]
    stream = await connection.new_stream()
    heard = b""
    try:
        await BoundedTalk(stream).agree_on(protocol)
        if says:
            await stream.write(says)
        with trio.move_on_after(2.0), suppress(BaseLibp2pError):  # the end of a stream is one
            while data := await stream.read(65536):
                heard += data
    finally:
        await stream.reset()
    return heard


async def of_the_door(node: WholeNode) -> list[Row]:
    """Ask without being anybody."""
    host = node.host
    return [
        await raw("TCP, and not a byte", host, b""),
        await raw("first words of multistream", host, HELLO),
        await raw("first message of Noise", host, NOISE),
    ]


async def before_greeting(node: WholeNode) -> list[Row]:
    """Ask as keys that have not greeted: each is parted from after ten seconds."""
    find, value = KadMessage(), KadMessage()
    find.type = KadMessage.MessageType.FIND_NODE
    find.key = node.host.foreign.get_id().to_bytes()
    value.type = KadMessage.MessageType.GET_VALUE
    value.key = b"/metainf-peer/nobody"
    async with a_host() as client:
        await introduce(client, node.host)
        await trio.sleep(SETTLE_S)
        sent, received = carried(socket_of(client, node.host))
    rows = [Row(what="a connection: Noise, yamux, identify", greeting=BEFORE, asked=sent, answered=received)]
    for what, protocol, says in (
        ("identify", "/ipfs/id/1.0.0", b""),
        ("ping", "/ipfs/ping/1.0.0", os.urandom(32)),
        ("directory: who is near", "/ipfs/kad/1.0.0", encode_varint_prefixed(find.SerializeToString())),
        ("directory: a value", "/ipfs/kad/1.0.0", encode_varint_prefixed(value.SerializeToString())),
    ):
        async with a_host() as client:
            await introduce(client, node.host)
            await trio.sleep(SETTLE_S)
            rows.append(await counted(what, BEFORE, client, node.host, partial(ask, client, protocol, says)))
    return rows


async def after_greeting(node: WholeNode, author: PeerId, copies: int) -> list[Row]:
    """Ask as a peer that has been met."""

    async def talks(question: Compare | Fetch) -> None:
        async with client.open(node.host.me, HISTORY, patience=5.0, frame_bytes=SCRIPT.limit) as stream:
            await stream.send(SCRIPT.vocabulary.encode(question))
            await stream.receive()

    wants = (Want(author=author, epoch=EPOCH, ranges=((0, RECORDS - 1),)),)
    async with a_host() as client:
        await introduce(client, node.host)
        stranger = Stranger(client, node.host.me, clock=wall_us)
        rows = [
            await counted("greeting", BEFORE, client, node.host, stranger.greet),
            await counted("load", AFTER, client, node.host, stranger.poll),
            await counted(
                "history: what is held", AFTER, client, node.host, lambda: talks(Compare(digest=os.urandom(32)))
            ),
            await counted("history: a page of records", AFTER, client, node.host, lambda: talks(Fetch(wants=wants))),
        ]
    async with a_stranger(node) as mallory:
        await in_touch(mallory, node)
        rows.append(await wanted(mallory, node, copies))
    return rows


async def wanted(mallory: Mallory, node: WholeNode, copies: int) -> Row:
    """Have the node say something, and want it again and again in one message of gossip."""
    data = os.urandom(SAID_BYTES)
    await node.gossip.publish(TOPIC, data)
    await trio.sleep(SETTLE_S)
    packet = rpc_pb2.RPC()
    packet.control.iwant.append(rpc_pb2.ControlIWant(messageIDs=[message_id(TOPIC, data)] * copies))

    async def want() -> None:
        stream = next(iter(mallory.gossip.pubsub.peers.values()))
        await stream.write(encode_varint_prefixed(packet.SerializeToString()))

    return await counted(f"gossip: a message wanted {copies} times", BEFORE, mallory.host, node.host, want)


async def benchmark(copies: int = 1000) -> list[Row]:
    """Ask a whole node with some hundred records everything."""
    key = a_key()
    records = [a_record(key, number) for number in range(RECORDS)]
    with tempfile.TemporaryDirectory(prefix="bench-amplification-") as folder:
        async with a_whole_node(Path(folder) / "history.sqlite", records=records) as node:
            return [
                *await of_the_door(node),
                *await before_greeting(node),
                *await after_greeting(node, id_of(key), copies),
            ]


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the rows to this file too")
    options = parser.parse_args(arguments)
    logging.getLogger("libp2p").setLevel(logging.CRITICAL)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    rows = trio.run(benchmark)
    print(f"{'':44}{'greeting':>10}{'in':>10}{'out':>10}{'out/in':>9}")
    for row in rows:
        print(f"{row.what:44}{row.greeting:>10}{row.asked:10}{row.answered:10}{row.factor:9.1f}")
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
