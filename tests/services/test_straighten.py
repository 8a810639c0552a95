"""Away from relays: tried soon, then ever more seldom, by the end that was called. In virtual time."""

import itertools

import trio
from trio.testing import MockClock

from node.services.straighten import AT_ONCE, DELAYS, Straightener
from tests.contracts.test_streams import a_peer
from tests.fakes.network import FakeNetwork, Weather
from tests.fakes.ways import FakeWays


async def test_who_called_through_a_relay_is_met_soon(autojump_clock: MockClock) -> None:
    network, ways = FakeNetwork(Weather()), FakeWays()
    async with network.node(a_peer()) as me, network.node(a_peer()) as caller, network.node(a_peer()) as direct:
        service = Straightener(me, ways)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(service.run)
            for each in (caller, direct):
                await each.dial(me.address)
            ways.behind[caller.me] = a_peer()
            ways.callers.add(caller.me)
            await trio.sleep(60)
            assert [peer for peer, _ in ways.tried] == [caller.me]
            assert (service.met, service.failed) == (1, 0)
            nursery.cancel_scope.cancel()


async def test_who_cannot_be_met_is_tried_ever_more_seldom_and_whoever_comes_back_at_once(
    autojump_clock: MockClock,
) -> None:
    network, ways = FakeNetwork(Weather()), FakeWays(meets=False)
    async with network.node(a_peer()) as me, network.node(a_peer()) as caller:
        service = Straightener(me, ways)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(service.run)
            await caller.dial(me.address)
            ways.callers.add(caller.me)
            await trio.sleep(3600)
            moments = [moment for _, moment in ways.tried]
            gaps = [late - early for early, late in itertools.pairwise(moments)]
            for gap, delay in zip(gaps, (*DELAYS[1:], *[DELAYS[-1]] * 99), strict=False):
                assert delay <= gap < delay + 3
            assert len(moments) < 12
            await caller.disconnect(me.me)
            await trio.sleep(5)
            before, now = len(ways.tried), trio.current_time()
            await caller.dial(me.address)
            await trio.sleep(DELAYS[1])
            assert len(ways.tried) == before + 1
            assert ways.tried[-1][1] - now < 3
            nursery.cancel_scope.cancel()


async def test_few_are_tried_at_a_time(autojump_clock: MockClock) -> None:
    network, ways = FakeNetwork(Weather()), FakeWays(meets=False)
    async with network.node(a_peer()) as me, trio.open_nursery() as nursery:
        nursery.start_soon(Straightener(me, ways).run)
        for _ in range(3 * AT_ONCE):
            other = await nursery.start(lives, network)
            await other.dial(me.address)
            ways.callers.add(other.me)
        await trio.sleep(20)
        together = max(sum(begun <= moment < begun + 1 for _, begun in ways.tried) for _, moment in ways.tried)
        assert together <= AT_ONCE
        assert len({peer for peer, _ in ways.tried}) == 3 * AT_ONCE
        nursery.cancel_scope.cancel()


async def lives(network: FakeNetwork, *, task_status: trio.TaskStatus[object]) -> None:
    async with network.node(a_peer()) as node:
        task_status.started(node)
        await trio.sleep_forever()
