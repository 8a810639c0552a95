"""Watching peers' load in virtual time: whom is polled, how often, and who counts as hung."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import pytest
import trio
from trio.testing import MockClock

from node.core.standings import Standings
from node.errors import Broken
from node.ports import PeerStream
from node.services.watch_load import LoadWatch, Vigil, WatchLimits
from protocol.ids import PeerId
from protocol.load import PROTOCOL_ID
from tests.fakes.network import FakeNetwork, FakeNode
from tests.fakes.peer_server import PeerServer

PEERS = [PeerId((8 * number + 9).to_bytes(32, "little")) for number in range(14)]


@dataclass
class Stage:
    network: FakeNetwork
    me: FakeNode
    servers: list[PeerServer]
    standings: Standings = field(default_factory=Standings)

    def __post_init__(self) -> None:
        self.trips: list[tuple[PeerId, float]] = []
        self.watch = LoadWatch(
            streams=self.me,
            swarm=self.me,
            standings=self.standings,
            round_trip=lambda peer, seconds: self.trips.append((peer, seconds)),
        )

    def fresh(self) -> list[bool]:
        now = trio.current_time()
        return [self.standings.standing(server.node.me, now).fresh for server in self.servers]

    def closed(self) -> list[str]:
        now = trio.current_time()
        return [self.standings.standing(server.node.me, now).closed for server in self.servers]


@asynccontextmanager
async def stage(peers: int) -> AsyncIterator[Stage]:
    network = FakeNetwork()
    async with AsyncExitStack() as stack:
        me = await stack.enter_async_context(network.node(PEERS[-1]))
        nodes = [await stack.enter_async_context(network.node(PEERS[index])) for index in range(peers)]
        for node in nodes:
            me.learn(node.me, node.addresses())
            await me.connect(node.me)
        built = Stage(network, me, [PeerServer(node) for node in nodes])
        nursery = await stack.enter_async_context(trio.open_nursery())
        nursery.start_soon(built.watch.run)
        yield built
        nursery.cancel_scope.cancel()


async def test_those_wanted_are_known_until_they_are_wanted_no_more(autojump_clock: MockClock) -> None:
    async with stage(3) as it:
        it.watch.want([server.node.me for server in it.servers[:2]])
        seen: list[list[bool]] = []
        for _ in range(18):
            await trio.sleep(0.5)
            seen.append(it.fresh())
        assert sum(fresh[0] and fresh[1] for fresh in seen) > 14
        assert not any(fresh[2] for fresh in seen)
        assert 4 <= it.servers[0].polls <= 6
        assert len(it.me.streams[PEERS[0]]) == 1
        await trio.sleep(5)
        polls = it.servers[0].polls
        await trio.sleep(100)
        assert it.servers[0].polls == polls
        it.watch.want([PEERS[0]])
        await trio.sleep(1)
        assert it.fresh()[0]


async def test_who_is_not_connected_is_not_dialled_for_its_load(autojump_clock: MockClock) -> None:
    async with stage(2) as it:
        await it.me.disconnect(PEERS[0])
        it.watch.want(PEERS[:2])
        await trio.sleep(5)
        assert (it.servers[0].polls, it.fresh()) == (0, [False, True])
        assert it.closed() == ["", ""]


async def test_two_misses_in_a_row_are_a_hang_and_few_polls_wait_at_a_time(autojump_clock: MockClock) -> None:
    async with stage(12) as it:
        for server in it.servers[:10]:
            server.tells = False
        it.watch.want(PEERS[:12])
        await trio.sleep(3)
        assert "hung" not in it.closed()
        assert it.fresh()[10:] == [True, True]  # they do not wait behind those that hang
        assert sum(server.polls for server in it.servers[:10]) <= 2 * WatchLimits().at_once
        hung = set[int]()
        for _ in range(20):
            await trio.sleep(0.5)
            hung |= {number for number, closed in enumerate(it.closed()) if closed == "hung"}
        assert hung == set(range(10))


async def test_who_was_hung_and_tells_its_load_again_is_asked_again_and_nobody_else_waits_behind_the_hung(
    autojump_clock: MockClock,
) -> None:
    async with stage(12) as it:
        for server in it.servers[:10]:
            server.tells = False
        for _ in range(40):
            it.watch.want(PEERS[:12])
            await trio.sleep(0.5)
        assert it.closed() == ["hung"] * 10 + [""] * 2
        polled, known = sum(server.polls for server in it.servers[:10]), 0
        it.servers[3].tells = True
        for _ in range(42):  # one of ten at a time, two seconds each
            it.watch.want(PEERS[:12])
            await trio.sleep(0.5)
            known += it.fresh()[10:] == [True, True]
        assert known > 30
        assert it.closed() == ["hung"] * 3 + [""] + ["hung"] * 6 + [""] * 2
        others = sum(server.polls for number, server in enumerate(it.servers[:10]) if number != 3)
        assert others - polled <= 22  # two where a kept stream is tried first


async def test_how_long_a_poll_took_is_how_far_away_the_peer_is_and_one_unanswered_tells_nothing(
    autojump_clock: MockClock,
) -> None:
    async with stage(1) as it:
        it.network.weather = replace(it.network.weather, latency=0.035)
        for _ in range(3):
            assert await it.watch.poll(PEERS[0])
        assert it.trips == [(PEERS[0], pytest.approx(0.07, rel=0.01))] * 3  # opening the stream apart
        it.servers[0].tells = False
        assert not await it.watch.poll(PEERS[0])
        assert len(it.trips) == 3


async def test_one_miss_is_forgiven(autojump_clock: MockClock) -> None:
    async with stage(1) as it:
        it.servers[0].tells = False
        assert not await it.watch.poll(PEERS[0])
        it.servers[0].tells = True
        assert await it.watch.poll(PEERS[0])
        it.servers[0].tells = False
        assert not await it.watch.poll(PEERS[0])
        assert it.closed() == [""]


async def test_whoever_asks_at_the_same_time_shares_one_poll(autojump_clock: MockClock) -> None:
    async with stage(1) as it:
        answers: list[bool] = []

        async def ask() -> None:
            answers.append(await it.watch.poll(PEERS[0]))

        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(ask)
        assert answers == [True] * 50
        assert it.servers[0].polls == 1


async def test_a_stream_that_died_while_it_was_idle_is_no_miss(autojump_clock: MockClock) -> None:
    async with stage(1) as it:
        assert await it.watch.poll(PEERS[0])
        for stream in it.me.streams[PEERS[0]]:
            stream.sending.break_at(trio.current_time() + 0.01, "reset")
            stream.receiving.break_at(trio.current_time() + 0.01, "reset")
        assert await it.watch.poll(PEERS[0])


@pytest.mark.parametrize("said", [b"\x93garbage", b"\x80", None])
async def test_garbage_for_an_answer_is_a_miss_and_nothing_more(autojump_clock: MockClock, said: bytes | None) -> None:
    async def babble(stream: PeerStream) -> None:
        while await stream.receive() is not None:
            if said is None:
                return
            await stream.send(said)

    async with stage(1) as it:
        it.servers[0].node.serve(PROTOCOL_ID, babble)
        assert not await it.watch.poll(PEERS[0])
        assert it.fresh() == [False]


async def test_many_who_wait_for_a_silent_peer_hear_it_together_and_it_is_one_fault(autojump_clock: MockClock) -> None:
    async with stage(2) as it:
        it.servers[0].tells = False
        given_up: list[float] = []

        async def ask_late() -> None:
            await trio.sleep(6)
            with it.watch.attend(PEERS[0]) as vigil:
                await vigil.wait(partial(trio.sleep, 1.9))  # too short a wait to say that the peer hangs

        async def wait(peer: PeerId) -> None:
            with it.watch.attend(peer) as vigil:
                try:
                    await vigil.wait(trio.sleep_forever)
                except Broken:
                    assert vigil.hung
                    given_up.append(trio.current_time())

        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask_late)
            for _ in range(20):
                nursery.start_soon(wait, PEERS[0])
                nursery.start_soon(wait, PEERS[1])
            await trio.sleep(60)
            assert len(given_up) == 20
            assert max(given_up) - began < 8
            assert 15 <= it.servers[1].polls <= 30
            nursery.cancel_scope.cancel()
        assert it.closed()[1] == ""


@pytest.mark.parametrize("left", [1.0, 10.0, 60.0])
async def test_a_wait_whose_time_is_over_is_told_from_one_for_a_peer_that_hangs(
    autojump_clock: MockClock, left: float
) -> None:
    async with stage(1) as it:
        it.servers[0].tells = left == 10.0
        began = trio.current_time()
        with it.watch.attend(PEERS[0]) as vigil:
            with pytest.raises(Broken if left == 60.0 else trio.TooSlowError):
                await vigil.wait(trio.sleep_forever, began + left)
            assert vigil.hung == (left == 60.0)
            assert (trio.current_time() - began == left) is not vigil.hung
            vigil.give_up()  # nobody waits
            assert await vigil.wait(partial(trio.sleep, 1)) is None
            assert not vigil.hung


async def test_a_peer_that_is_found_hung_once_the_time_is_over_is_not_blamed_for_it(autojump_clock: MockClock) -> None:
    vigil, ends = Vigil(trio.current_time), list[type[Exception]]()

    async def wait() -> None:
        try:
            await vigil.wait(trio.sleep_forever, trio.current_time() + 10)
        except (Broken, trio.TooSlowError) as error:
            ends.append(type(error))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.sleep(1)
        autojump_clock.jump(9)
        vigil.give_up()
    assert (ends, vigil.hung) == ([trio.TooSlowError], False)


async def test_a_wait_that_was_short_never_polls(autojump_clock: MockClock) -> None:
    async with stage(1) as it:
        with it.watch.attend(PEERS[0]) as vigil:
            for _ in range(50):
                await vigil.wait(partial(trio.sleep, 1.5))
            await trio.sleep(60)  # a slow client: nobody waits for the peer
        assert it.servers[0].polls == 0
