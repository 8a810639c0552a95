"""The weather of the fake network: what it promises beyond the ports, in virtual time."""

import pytest
import trio
from trio.testing import MockClock

from node.errors import Broken, Unreachable
from tests.contracts.test_streams import ECHO, a_peer, echo, exchange
from tests.fakes.network import FakeNetwork, Weather

WEATHER = Weather(latency=0.05, notice=30.0, dial=5.0)


async def test_a_message_takes_the_latency_and_comes_in_order(autojump_clock: MockClock) -> None:
    network = FakeNetwork(Weather(latency=0.05, jitter=0.04))
    async with network.node(a_peer()) as one, network.node(a_peer()) as two:
        one.learn(two.me, two.addresses())
        two.serve(ECHO, echo)
        async with one.open(two.me, ECHO, patience=5) as stream:
            began = trio.current_time()
            for number in range(50):
                await stream.send(b"%d" % number)
            assert [await stream.receive() for _ in range(50)] == [b"%d" % number for number in range(50)]
            assert 0.1 <= trio.current_time() - began <= 0.2


async def test_a_death_with_a_word_is_felt_at_once_and_one_in_silence_late(autojump_clock: MockClock) -> None:
    for silently, least, most in ((False, 0.0, 0.1), (True, 29.0, 31.0)):
        network = FakeNetwork(WEATHER)
        async with network.node(a_peer()) as one, network.node(a_peer()) as two:
            one.learn(two.me, two.addresses())
            two.serve(ECHO, echo)
            async with one.open(two.me, ECHO, patience=5) as stream:
                died = trio.current_time()
                network.kill(two.me, silently=silently)
                with pytest.raises(Broken):
                    await stream.receive()
                assert least <= trio.current_time() - died <= most
            with trio.fail_after(1):
                assert await one.changed(frozenset({two.me})) == frozenset()
            with pytest.raises(Unreachable):
                await one.connect(two.me)


async def test_a_link_that_is_cut_and_healed_in_time_delivers_late(autojump_clock: MockClock) -> None:
    network = FakeNetwork(WEATHER)
    async with network.node(a_peer()) as one, network.node(a_peer()) as two:
        one.learn(two.me, two.addresses())
        two.serve(ECHO, echo)
        async with one.open(two.me, ECHO, patience=5) as stream, trio.open_nursery() as nursery:
            network.cut(one.me, two.me)

            async def heal() -> None:
                await trio.sleep(10)
                network.heal(one.me, two.me)

            nursery.start_soon(heal)
            began = trio.current_time()
            await stream.send(b"late")
            assert await stream.receive() == b"late"
            assert trio.current_time() - began >= 10
            await trio.sleep(60)
            assert one.connected() == {two.me}


async def test_a_link_that_stays_cut_breaks_and_can_be_dialled_when_healed(autojump_clock: MockClock) -> None:
    network = FakeNetwork(WEATHER)
    async with network.node(a_peer()) as one, network.node(a_peer()) as two:
        one.learn(two.me, two.addresses())
        two.serve(ECHO, echo)
        async with one.open(two.me, ECHO, patience=5) as stream:
            network.cut(one.me, two.me)
            began = trio.current_time()
            with pytest.raises(Broken):
                await stream.receive()
            assert trio.current_time() - began == pytest.approx(30)
        assert await one.changed(frozenset({two.me})) == frozenset()
        with pytest.raises(Unreachable):
            await one.connect(two.me)
        network.heal(one.me, two.me)
        assert await exchange(one, two.me, b"again") == [b"again"]
