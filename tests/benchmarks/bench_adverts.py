"""What it costs a node that all the others say what they serve: bytes and CPU per minute.

    python -m tests.benchmarks.bench_adverts
    python -m tests.benchmarks.bench_adverts --quick

Ten real hosts in one process, on loopback, hear as many adverts a second as a swarm of hundreds may say. What a
larger swarm costs follows from that by a model of the flood (`flood`), not by measuring it. See README.md.
"""

import argparse
import json
import logging
import os
import random
import socket
import statistics
import struct
import time
import warnings
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from pathlib import Path

import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

with warnings.catch_warnings():  # libp2p 0.8.1 imports a part of websockets that announces its end
    warnings.simplefilter("ignore", DeprecationWarning)
    from node.adapters.p2p.host import P2pHost, open_host
    from node.adapters.p2p.routing import P2pGossip, open_gossip
from protocol import limits
from protocol.addresses import Address
from protocol.advert import ADVERT
from protocol.errors import RemoteProtocolError
from protocol.gossip import Subject, Topic, message_id
from protocol.ids import PUBLIC_SWARM, PeerId
from protocol.records import sign, verify_and_open
from tests.protocol import samples, swarm_samples

HERE = Address("ip4", "127.0.0.1", 0)
TOPIC = str(Topic(PUBLIC_SWARM, Subject.ADVERT))
SETTLE = 3.0  # seconds in which new connections say who they are, and messages find their ways
PATIENCE = 60.0
MINUTE = 60.0
TCP_BYTES = struct.Struct("120xQQ")  # of tcp(7)'s tcp_info: tcpi_bytes_acked, tcpi_bytes_received
TCP_INFO_BYTES = 136


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much is measured."""

    hosts: int = 10
    links: int = 4  # dialled by each; as many again come in, so that some are beside the mesh
    seconds: float = 30.0
    per_second: float = limits.ADVERTS_PER_SECOND  # in the whole swarm: the most that adverts may be


QUICK = Size(hosts=4, links=1, seconds=2.0)
SWARMS = (10, 100, 500)


@dataclass(frozen=True, slots=True)
class Spent:
    """By all hosts together."""

    cpu: float  # seconds
    tcp: int  # bytes that left and that came


def spent() -> Spent:
    return Spent(time.process_time(), sum(each.sent + each.received for each in sockets()))


@dataclass(frozen=True, slots=True)
class Carried:
    sent: int
    received: int


def sockets() -> list[Carried]:
    """Return what each TCP connection of this process has carried, by the kernel's books."""
    found = []
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 -- names are all that is wanted
        try:
            with socket.socket(fileno=os.dup(int(name))) as each:
                if each.type == socket.SOCK_STREAM and each.family == socket.AF_INET and each.getpeername():
                    raw = each.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_BYTES)
                    found.append(Carried(*TCP_BYTES.unpack(raw)))
        except OSError:
            continue  # no socket, or one that listens
    return found


@dataclass
class Node:
    """One host in gossip, with a key for its adverts."""

    host: P2pHost
    gossip: P2pGossip
    key: Ed25519PrivateKey
    said: int = 0
    heard: int = 0

    def advert(self) -> bytes:
        """Return the next one, of the size that a real one has."""
        self.said += 1
        stamp = replace(swarm_samples.FULL_ADVERT.stamp, author=self.host.me, seq=self.said)
        addresses = tuple(each for each in swarm_samples.FULL_ADVERT.addresses if "/p2p/" not in each)
        return sign(ADVERT, replace(swarm_samples.FULL_ADVERT, stamp=stamp, addresses=addresses), self.key).sealed


def judge(data: bytes, _: PeerId | None) -> bool:
    """Verify as a node does, and take all that is true: who speaks too often is another matter."""
    try:
        verify_and_open(data, ADVERT, swarm=PUBLIC_SWARM, now_us=samples.NOW)
    except RemoteProtocolError:
        return False
    return True


@asynccontextmanager
async def a_swarm(size: Size) -> AsyncIterator[list[Node]]:
    async with AsyncExitStack() as stack:
        nodes, feeds = [], []
        for _ in range(size.hosts):
            seed = os.urandom(32)
            host = await stack.enter_async_context(open_host(seed, [HERE]))
            gossip = await stack.enter_async_context(open_gossip(host, topics={TOPIC}, message_id=message_id))
            nodes.append(Node(host, gossip, Ed25519PrivateKey.from_private_bytes(seed)))
            feeds.append(await stack.enter_async_context(gossip.subscribe(TOPIC, judge)))
        nursery = await stack.enter_async_context(trio.open_nursery())
        for node, feed in zip(nodes, feeds, strict=True):
            nursery.start_soon(listen, node, feed)
        for index, node in enumerate(nodes):
            for step in range(1, size.links + 1):
                other = nodes[(index + step) % len(nodes)].host
                node.host.learn(other.me, other.addresses())
                await node.host.connect(other.me)
        with trio.fail_after(PATIENCE):
            while not all(neighbours(node) for node in nodes):  # noqa: ASYNC110 -- nothing tells
                await trio.sleep(0.05)
        await trio.sleep(SETTLE)
        yield nodes
        nursery.cancel_scope.cancel()


async def listen(node: Node, messages: trio.MemoryReceiveChannel[bytes]) -> None:
    async for _ in messages:
        node.heard += 1


def neighbours(node: Node) -> int:
    return len(node.gossip.pubsub.router.mesh.get(TOPIC, ()))


async def say(nodes: list[Node], size: Size) -> int:
    """Have the nodes say adverts in turn; return how many."""
    until, said = trio.current_time() + size.seconds, 0
    while trio.current_time() < until:
        node = nodes[said % len(nodes)]
        await node.gossip.publish(TOPIC, node.advert())
        said += 1
        await trio.sleep_until(until - size.seconds + said / size.per_second)
    return said


async def measure(size: Size) -> dict[str, float]:
    async with a_swarm(size) as nodes:
        before = spent()
        await trio.sleep(size.seconds)
        quiet = spent()
        said = await say(nodes, size)
        await trio.sleep(SETTLE)
        after = spent()
        hosts, minutes = len(nodes), size.seconds / MINUTE
        degree = statistics.fmean(neighbours(node) for node in nodes)
        quiet_kb = (quiet.tcp - before.tcp) / hosts / minutes / 1e3
        quiet_ms = 1e3 * (quiet.cpu - before.cpu) / hosts / minutes
        longer = (size.seconds + SETTLE) / MINUTE  # of quiet that is in the second figure
        row = {
            "advert bytes": float(len(nodes[0].advert())),
            "mesh neighbours": degree,
            "delivered of all": sum(node.heard for node in nodes) / (said * (hosts - 1)),
            "quiet KB per node and minute": quiet_kb,
            "quiet CPU ms per node and minute": quiet_ms,
            "KB per node and advert": ((after.tcp - quiet.tcp) / hosts / 1e3 - quiet_kb * longer) / said,
            "CPU ms per node and advert": (1e3 * (after.cpu - quiet.cpu) / hosts - quiet_ms * longer) / said,
        }
        return row | projected(row, hosts, max(2, round(degree)))


def projected(row: dict[str, float], hosts: int, degree: int) -> dict[str, float]:
    """Return what swarms of several sizes cost one of their nodes, in the measured node's quiet and per advert."""
    figures: dict[str, float] = {}
    here = flood(hosts, degree).copies
    for nodes in SWARMS:
        interval = max(limits.ADVERT_INTERVAL_US / 1e6, nodes / limits.ADVERTS_PER_SECOND)
        adverts = nodes * MINUTE / interval
        there = flood(nodes, min(degree, nodes - 1))
        scale = adverts * there.copies / here
        figures |= {
            f"{nodes} nodes: adverts per minute": adverts,
            f"{nodes} nodes: KB per node and minute": row["quiet KB per node and minute"]
            + scale * row["KB per node and advert"],
            f"{nodes} nodes: CPU ms per node and minute": row["quiet CPU ms per node and minute"]
            + scale * row["CPU ms per node and advert"],
            f"{nodes} nodes: hops to the last": float(there.hops),
        }
    return figures


@dataclass(frozen=True, slots=True)
class Flood:
    """What becomes of one message."""

    copies: float  # sent per node, those included that the other end had already
    hops: int  # to the node that hears it last


def flood(nodes: int, degree: int, *, seed: int = 1) -> Flood:
    """Let one message run through a random mesh: each passes it on to all neighbours but the one it came from.

    Links take 10 to 100 ms, so that two neighbours often send it to each other at once, as they do in life.
    """
    luck = random.Random(seed)  # noqa: S311 -- a model, the same every time
    mesh: list[set[int]] = [set() for _ in range(nodes)]
    for ring in range(max(1, degree // 2)):  # a ring in another order each: connected, and nearly of equal degree
        order = list(range(nodes)) if ring == 0 else luck.sample(range(nodes), nodes)
        for one, other in zip(order, order[1:] + order[:1], strict=True):
            if one != other:
                mesh[one].add(other)
                mesh[other].add(one)
    heard: dict[int, int] = {}
    sent, underway = 0, [(0.0, 0, 0, -1)]
    while underway:
        when, node, hops, source = heappop(underway)
        if node in heard:
            continue
        heard[node] = hops
        for other in mesh[node] - {source}:
            sent += 1
            heappush(underway, (when + luck.uniform(0.01, 0.1), other, hops + 1, node))
    return Flood(sent / nodes, max(heard.values()))


def main() -> None:
    logging.getLogger("libp2p").setLevel(logging.CRITICAL)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path, help="write the row to this file too")
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--links", type=int, help="that each host dials; as many come in")
    chosen = parser.parse_args()
    size = QUICK if chosen.quick else Size()
    size = replace(size, seconds=chosen.seconds or size.seconds, links=chosen.links or size.links)
    row = trio.run(measure, size)
    for key, value in row.items():
        print(f"{key:44} {value:10.2f}")
    if chosen.json:
        chosen.json.write_text(json.dumps(row))


if __name__ == "__main__":
    main()
