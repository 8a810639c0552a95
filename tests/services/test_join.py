"""Finding the swarm, in virtual time on the fake network."""

import trio
from trio.testing import MockClock

from node.core.addressbook import AddressBook, Source
from node.errors import OtherSwarm, Unreachable, WhyNot
from node.services.join import Joining
from protocol.addresses import Address
from protocol.ids import PeerId
from tests.contracts.test_streams import a_peer
from tests.fakes.network import FakeNetwork, FakeNode, Weather
from tests.places import at


def joining(node: FakeNode, *bootstraps: Address, told: list[bool] | None = None) -> Joining:
    book = AddressBook(node.me)
    book.learn(bootstraps, Source.CONFIGURED)
    wanted: list[PeerId] = []
    service = Joining(
        node, book, wanted=lambda: wanted, luck=lambda: 0.5, tell=(told if told is not None else []).append
    )
    service.wanted = wanted  # type: ignore[attr-defined]
    return service


async def test_all_bootstraps_are_dialled_at_once_and_a_dead_one_costs_nothing(autojump_clock: MockClock) -> None:
    network = FakeNetwork(Weather(latency=0.05))
    told: list[bool] = []
    async with network.node(a_peer()) as me, network.node(a_peer()) as one, network.node(a_peer()) as two:
        service = joining(me, at("10.9.9.9", 1, a_peer()), one.address, two.address, told=told)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(service.run)
            with trio.fail_after(0.5):
                company: frozenset[PeerId] = frozenset()
                while len(company) < 2:
                    company = await me.changed(company)
            await trio.sleep(60)
            assert told == []
            nursery.cancel_scope.cancel()


async def test_a_node_that_finds_nobody_says_so_and_keeps_trying(autojump_clock: MockClock) -> None:
    network = FakeNetwork(Weather(latency=0.05))
    bootstrap, told = a_peer(), list[bool]()
    async with network.node(a_peer()) as me, trio.open_nursery() as nursery:
        nursery.start_soon(joining(me, at("10.0.0.2", 47470, bootstrap), told=told).run)
        await trio.sleep(300)
        assert told == [True]
        async with network.node(bootstrap):
            with trio.fail_after(30):
                assert await me.changed(frozenset()) == {bootstrap}
            await trio.sleep(1)
            assert told == [True, False]
            nursery.cancel_scope.cancel()


async def test_a_bootstrap_that_is_lost_and_comes_back_is_found_again(autojump_clock: MockClock) -> None:
    network = FakeNetwork(Weather(latency=0.05))
    async with network.node(a_peer()) as me, network.node(a_peer()) as other, trio.open_nursery() as nursery:
        nursery.start_soon(joining(me, other.address).run)
        assert await me.changed(frozenset()) == {other.me}
        await other.disconnect(me.me)
        with trio.fail_after(10):
            assert await me.changed(frozenset({other.me})) == frozenset()
            assert await me.changed(frozenset()) == {other.me}
        nursery.cancel_scope.cancel()


async def test_a_peer_that_is_heard_of_is_dialled_when_it_is_wanted(autojump_clock: MockClock) -> None:
    network = FakeNetwork(Weather(latency=0.05))
    async with network.node(a_peer()) as me, network.node(a_peer()) as near, trio.open_nursery() as nursery:
        service = joining(me)
        nursery.start_soon(service.run)
        service.hear([near.address, me.address], Source.NEAR)
        await trio.sleep(100)
        assert not me.connected()
        service.wanted.append(near.me)  # type: ignore[attr-defined]
        service.look_again()
        with trio.fail_after(1):
            assert await me.changed(frozenset()) == {near.me}
        nursery.cancel_scope.cancel()


async def test_what_became_of_each_dial_is_told_and_who_greets_in_vain_is_no_company(autojump_clock: MockClock) -> None:
    network = FakeNetwork(Weather(latency=0.05))
    told, ended = list[bool](), list[tuple[Address, bool]]()
    met: set[PeerId] = set()
    dead = at("10.9.9.9", 1, a_peer())
    async with network.node(a_peer()) as me, network.node(a_peer()) as other, trio.open_nursery() as nursery:
        book = AddressBook(me.me)
        book.learn([dead, other.address], Source.CONFIGURED)
        service = Joining(
            me,
            book,
            wanted=lambda: (),
            luck=lambda: 0.5,
            tell=told.append,
            met=lambda: met,
            ended=lambda address, error: ended.append((address, error is None)),
        )
        nursery.start_soon(service.run)
        await trio.sleep(8)
        assert set(ended[:2]) == {(other.address, True), (dead, False)}
        assert told == []  # it is connected, and may greet yet
        book.shun(other.me, trio.current_time() + 1000)
        await me.disconnect(other.me)
        service.in_vain()
        await trio.sleep(30)
        assert told == [True]
        met.add(other.me)
        service.look_again()
        await trio.sleep(6)
        assert told == [True, False]
        nursery.cancel_scope.cancel()


async def test_that_another_swarm_answers_at_an_address_is_passed_on_each_time(autojump_clock: MockClock) -> None:
    network = FakeNetwork(Weather(latency=0.05))
    ends: list[Unreachable | None] = []
    async with network.node(a_peer()) as me, network.node(a_peer(), key=b"k") as other, trio.open_nursery() as nursery:
        book = AddressBook(me.me)
        book.learn([other.address], Source.CONFIGURED)
        service = Joining(
            me,
            book,
            wanted=list,
            luck=lambda: 0.5,
            tell=lambda _: None,
            ended=lambda _, error: ends.append(error),
        )
        nursery.start_soon(service.run)
        await trio.sleep(600)  # many dials
        assert other.strangers() == len(ends) > 2
        assert all(isinstance(error, OtherSwarm) and error.why is WhyNot.WRONG_KEY for error in ends)
        other.key = None
        with trio.fail_after(600):
            assert await me.changed(frozenset()) == {other.me}
        await trio.sleep(1)
        assert ends[-1] is None
        nursery.cancel_scope.cancel()
