"""What every `Gossip` and `Directory` promises: libp2p's on real sockets, and the fakes that stand in for them."""

import warnings
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

import pytest
import trio

from node.ports import Directory, Gossip
from protocol import limits
from protocol.addresses import Address
from protocol.ids import PeerId
from tests.contracts.test_streams import a_peer
from tests.fakes.network import FakeNetwork, Weather
from tests.fakes.network_talk import FakeAir, FakeTable

with warnings.catch_warnings():  # libp2p 0.8.1 imports a part of websockets that announces its end
    warnings.simplefilter("ignore", DeprecationWarning)
    from node.adapters.p2p.routing import open_directory
    from tests.adapters.p2p.gossip_and_directory import COUNTER, RULES, TOPIC, gossiping
    from tests.adapters.p2p.hosts import a_host, eventually, introduce

pytestmark = [pytest.mark.slow, pytest.mark.libp2p]

PATIENCE = 20.0


@dataclass
class Stage:
    """Two nodes that are connected."""

    gossip: Sequence[Gossip]
    tables: Sequence[Directory]
    peers: tuple[PeerId, ...]
    second_at: tuple[Address, ...]
    settled: Callable[[], bool]


@asynccontextmanager
async def on_fakes() -> AsyncIterator[Stage]:
    network = FakeNetwork(Weather(latency=0.002))
    air, table = FakeAir(network), FakeTable(network, RULES)
    async with network.node(a_peer()) as one, network.node(a_peer()) as two:
        one.learn(two.me, two.addresses())
        await one.connect(two.me)
        yield Stage(
            [air.at(one), air.at(two)], [table.at(one), table.at(two)], (one.me, two.me), two.addresses(), lambda: True
        )


@asynccontextmanager
async def on_libp2p() -> AsyncIterator[Stage]:
    async with (
        a_host() as one,
        a_host() as two,
        gossiping(one) as here,
        gossiping(two) as there,
        open_directory(one, RULES) as first,
        open_directory(two, RULES) as second,
    ):
        await introduce(one, two)
        await eventually(lambda: first.dht.get_routing_table_size() == second.dht.get_routing_table_size() == 1)

        def settled() -> bool:
            return all(each.pubsub.router.mesh.get(TOPIC) for each in (here, there))

        yield Stage([here, there], [first, second], (one.me, two.me), two.addresses(), settled)


def a_number(data: bytes, via: PeerId | None) -> bool:
    del via
    return data.isdigit()


Staging = Callable[[], AbstractAsyncContextManager[Stage]]
both = pytest.mark.parametrize("staging", [on_fakes, on_libp2p])


@both
async def test_a_message_reaches_the_others_and_not_its_author(staging: Staging) -> None:
    async with staging() as stage:
        one, two = stage.gossip
        async with one.subscribe(TOPIC, a_number) as at_one, two.subscribe(TOPIC, a_number) as at_two:
            await eventually(stage.settled)
            await one.publish(TOPIC, b"1")
            await two.publish(TOPIC, b"2")
            with trio.fail_after(PATIENCE):
                assert await at_two.receive() == b"1"
                assert await at_one.receive() == b"2"


@both
async def test_a_message_of_the_largest_size_reaches_the_others(staging: Staging) -> None:
    largest = b"1" * limits.GOSSIP_BYTES
    async with staging() as stage:
        one, two = stage.gossip
        async with one.subscribe(TOPIC, a_number), two.subscribe(TOPIC, a_number) as heard:
            await eventually(stage.settled)
            await one.publish(TOPIC, largest)
            with trio.fail_after(PATIENCE):
                assert await heard.receive() == largest


@both
async def test_the_judge_is_told_who_brought_a_message(staging: Staging) -> None:
    async with staging() as stage:
        one, two = stage.gossip
        bringers: list[PeerId | None] = []

        def judge(_: bytes, via: PeerId | None) -> bool:
            bringers.append(via)
            return True

        async with one.subscribe(TOPIC, a_number), two.subscribe(TOPIC, judge) as heard:
            await eventually(stage.settled)
            await one.publish(TOPIC, b"1")
            with trio.fail_after(PATIENCE):
                await heard.receive()
        assert bringers == [stage.peers[0]]


@both
async def test_what_is_judged_bad_is_not_delivered(staging: Staging) -> None:
    async with staging() as stage:
        one, two = stage.gossip
        async with one.subscribe(TOPIC, lambda _, __: True), two.subscribe(TOPIC, a_number) as heard:
            await eventually(stage.settled)
            for data in (b"1", b"bad", b"2"):
                await one.publish(TOPIC, data)
            with trio.fail_after(PATIENCE):
                assert {await heard.receive(), await heard.receive()} == {b"1", b"2"}  # gossip keeps no order


@both
async def test_our_own_word_goes_out_whatever_our_judge_thinks_of_it(staging: Staging) -> None:
    # A judge may well refuse what comes back of our own as known.
    async with staging() as stage:
        one, two = stage.gossip
        async with one.subscribe(TOPIC, lambda _, __: False), two.subscribe(TOPIC, a_number) as heard:
            await eventually(stage.settled)
            await one.publish(TOPIC, b"1")
            with trio.fail_after(PATIENCE):
                assert await heard.receive() == b"1"


@both
async def test_a_value_is_found_by_another_and_the_best_counts(staging: Staging) -> None:
    key = f"/{COUNTER}/value"
    async with staging() as stage:
        one, two = stage.tables
        with trio.fail_after(PATIENCE):
            assert await two.get(key) is None
            assert await one.put(key, b"1 old") == 1
            assert await two.get(key) == b"1 old"
            assert await one.put(key, b"2 new") == 1
            assert await two.get(key) == b"2 new"
            assert await one.put(key, b"2 new") == 1


@both
async def test_a_value_against_the_rules_is_our_own_fault(staging: Staging) -> None:
    async with staging() as stage:
        with pytest.raises(ValueError, match="refuse"):
            await stage.tables[0].put(f"/{COUNTER}/value", b"no number")


@both
async def test_who_provides_something_is_found(staging: Staging) -> None:
    async with staging() as stage:
        one, two = stage.tables
        with trio.fail_after(PATIENCE):
            assert await one.providers("model") == ()
            await two.provide("model")
            assert set(await one.providers("model")) == set(stage.second_at)
