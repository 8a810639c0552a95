"""Scenarios of the work-arounds in gossip and directory; and the rules that these suites play by."""

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager

import trio

from node.adapters.p2p.host import P2pHost
from node.adapters.p2p.routing import Namespace, P2pDirectory, P2pGossip, open_directory, open_gossip
from node.adapters.p2p.workarounds import NONE, Workaround
from protocol.ids import PeerId
from tests.adapters.p2p.hosts import a_host, eventually, introduce

TOPIC = "metainf/test/numbers/1"
COUNTER = "counter"  # values are "NUMBER ..."; the highest counts


def a_number(data: bytes, via: PeerId | None) -> bool:
    del via
    return data.isdigit()


def number_of(value: bytes) -> int:
    return int(value.split(b" ", 1)[0])


def is_counter(key: str, value: bytes) -> bool:
    return key.startswith(f"/{COUNTER}/") and value.split(b" ", 1)[0].isdigit()


def highest(key: str, values: Sequence[bytes]) -> int:
    return max(range(len(values)), key=lambda index: (number_of(values[index]), -index))


RULES = {COUNTER: Namespace(valid=is_counter, best=highest)}


def name_of(topic: str, data: bytes) -> bytes:
    return hashlib.sha256(topic.encode() + b"\0" + data).digest()


@asynccontextmanager
async def gossiping(host: P2pHost, disabled: AbstractSet[Workaround] = NONE) -> AsyncIterator[P2pGossip]:
    async with open_gossip(host, topics={TOPIC}, message_id=name_of, disabled=disabled) as gossip:
        yield gossip


async def in_touch(*pairs: tuple[P2pGossip, P2pHost]) -> None:
    """Wait until each has the other host in the mesh of the topic."""
    for gossip, other in pairs:
        await eventually(
            lambda gossip=gossip, other=other: any(
                str(peer) == str(other.me) for peer in gossip.pubsub.router.mesh.get(TOPIC, ())
            )
        )


async def a_burst_of_gossip(disabled: AbstractSet[Workaround]) -> bool:
    sent, got = 60, set[bytes]()
    async with (
        a_host() as first,
        a_host() as second,
        gossiping(first, disabled) as speaker,
        gossiping(second, disabled) as listener,
        speaker.subscribe(TOPIC, a_number),
        listener.subscribe(TOPIC, a_number) as heard,
    ):
        await introduce(second, first)
        await in_touch((speaker, second), (listener, first))
        for number in range(sent):
            await speaker.publish(TOPIC, b"%d" % number)
        with trio.move_on_after(5):
            async for data in heard:
                got.add(data)
                if len(got) == sent:
                    return True
    return False


@asynccontextmanager
async def a_server_and_a_reader(
    disabled: AbstractSet[Workaround],
) -> AsyncIterator[tuple[P2pDirectory, P2pDirectory, P2pHost]]:
    """A node that holds values and writes them, and one that only reads."""
    async with (
        a_host() as first,
        a_host() as second,
        a_host() as third,
        open_directory(first, RULES, disabled=disabled) as writer,
        open_directory(third, RULES, disabled=disabled) as holder,
        open_directory(second, RULES, serve=False, disabled=disabled) as reader,
    ):
        await introduce(second, first)
        await introduce(second, third)
        await introduce(first, third)
        await eventually(lambda: reader.dht.get_routing_table_size() == 2)
        await eventually(lambda: holder.dht.get_routing_table_size() >= 1)
        await eventually(lambda: writer.dht.get_routing_table_size() >= 1)
        yield writer, reader, first


async def a_value_that_changed(disabled: AbstractSet[Workaround]) -> bool:
    key = f"/{COUNTER}/one"
    async with a_server_and_a_reader(disabled) as (writer, reader, _):
        assert await writer.put(key, b"1 old") >= 1
        assert await reader.get(key) == b"1 old"
        await writer.put(key, b"2 new")
        return await reader.get(key) == b"2 new"


async def a_value_that_is_published_again(disabled: AbstractSet[Workaround]) -> bool:
    """Well if the holder counts its life from the second time."""
    key = f"/{COUNTER}/again"
    async with (
        a_host() as first,
        a_host() as second,
        open_directory(first, RULES, disabled=disabled) as writer,
        open_directory(second, RULES, disabled=disabled) as holder,
    ):
        await introduce(first, second)
        await eventually(lambda: writer.dht.get_routing_table_size() == 1)
        assert await writer.put(key, b"1 same") == 1
        _, before = holder.dht.value_store.store[key.encode()]
        await writer.put(key, b"1 same")
        _, after = holder.dht.value_store.store[key.encode()]
        return after > before


async def a_key_as_long_as_ours(disabled: AbstractSet[Workaround]) -> bool:
    """Well if the value comes to a node that only somebody else knows."""
    key = f"/{COUNTER}/{'k' * 60}"
    async with (
        a_host() as first,
        a_host() as between,
        a_host() as far,
        open_directory(first, RULES, disabled=disabled) as writer,
        open_directory(between, RULES, disabled=disabled) as known,
        open_directory(far, RULES, disabled=disabled) as holder,
    ):
        await introduce(between, far)
        await introduce(first, between)
        await eventually(lambda: writer.dht.get_routing_table_size() == 1)
        await eventually(lambda: known.dht.get_routing_table_size() == 2)
        await writer.put(key, b"1")
        return key.encode() in holder.dht.value_store.store


Scenario = Callable[[AbstractSet[Workaround]], Awaitable[bool]]
GOSSIP_AND_DIRECTORY: dict[Workaround, list[Scenario]] = {
    Workaround.GOSSIP_LIMITS: [a_burst_of_gossip],
    Workaround.FRESH_GET: [a_value_that_changed],
    Workaround.EQUAL_REPUBLISH: [a_value_that_is_published_again],
    Workaround.LONG_KEYS: [a_key_as_long_as_ours],
}
