"""Who greets whom, how long that may take, and what becomes of those we do not go together with."""

from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from node.core.addressbook import AddressBook, Source
from node.core.peerbook import BookLimits, Change, Peerbook, What
from node.core.self_advert import our_hello
from node.errors import WhyNot
from node.ports import PeerStream
from node.services.greet import CLOCK_REMEDY, COME_FORWARD, GREETING, Greeter
from protocol import hello
from protocol.dialogue import Role
from protocol.hello import Greeting, Judge, Part, PartCode, Settled, welcome_all
from protocol.ids import PUBLIC_SWARM, Epoch, PeerId
from tests.fakes.network import FakeNetwork, FakeNode
from tests.services.members import START_US, VERSION, World, a_key, member, peer_of, until, wall

HOUR = 3600


class Host:
    """A greeter on a node, and what it said of its guests."""

    def __init__(
        self, node: FakeNode, *, judge: Judge = welcome_all, room: int = 8, clock: Callable[[], int] = wall
    ) -> None:
        self.node = node
        self.book = Peerbook(node.me, BookLimits(peers=room))
        self.addresses = AddressBook(node.me)
        self.changes: list[Change] = []
        self.met: list[PeerId] = []
        self.parted: list[tuple[PeerId, WhyNot, str]] = []
        self.ours = our_hello(me=node.me, swarm=PUBLIC_SWARM, epoch=Epoch(START_US), version=VERSION)
        self.greeter = Greeter(
            node,
            node,
            ours=self.ours,
            book=self.book,
            addresses=self.addresses,
            wall=clock,
            apply=self.changes.extend,
            greeted=self.met.append,
            judge=judge,
            parted=lambda peer, why, words: self.parted.append((peer, why, words)),
        )
        node.nursery.start_soon(self.greeter.run)

    def would_dial(self, peer: PeerId, after: float) -> bool:
        now = trio.current_time() + after
        plan = self.addresses.plan(wanted=[peer], connected=(), room=1, now=now)
        for dial in plan.dials:
            self.addresses.gave_up(dial)
        return bool(plan.dials)


async def meet(here: Host, there: FakeNode) -> None:
    here.addresses.learn(there.addresses(), Source.ADVERT)
    await here.node.dial(there.address)


async def test_the_one_that_dialled_greets_and_both_have_met(autojump_clock: MockClock) -> None:
    network = FakeNetwork()
    async with network.node(peer_of(a_key())) as one, network.node(peer_of(a_key())) as two:
        here, there = Host(one), Host(two)
        await meet(here, two)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect, here.greeter.met(two.me), True)
            nursery.start_soon(expect, there.greeter.met(one.me), True)
        await trio.sleep(1)
        assert (here.met, there.met) == ([two.me], [one.me])
        assert here.changes == [Change(two.me, What.JOINED)]
        settled = there.greeter.settled(one.me)
        assert settled is not None
        assert settled.versions == {"infer": 1, "load": 1, "advert": 1, "history": 1, "performance": 1, "reach": 1}
        await trio.sleep(HOUR)
        assert one.links == {two.me}
        await one.disconnect(two.me)
        await trio.sleep(1)
        assert not await there.greeter.met(one.me)
        assert there.changes[-1] == Change(one.me, What.LOST)


async def expect(answer: Awaitable[bool], right: bool) -> None:
    assert await answer is right


async def test_a_peer_that_never_greets_is_waited_for_and_then_disconnected(autojump_clock: MockClock) -> None:
    network = FakeNetwork()
    async with network.node(peer_of(a_key())) as one, network.node(peer_of(a_key())) as silent:
        here = Host(one)
        await silent.dial(one.address)
        before = trio.current_time()
        assert not await here.greeter.met(silent.me)
        assert trio.current_time() - before == pytest.approx(GREETING)
        assert one.links
        await trio.sleep(COME_FORWARD - GREETING + 0.1)
        assert not one.links
        assert not await here.greeter.met(silent.me)
        assert len(here.book) == 0


@pytest.mark.parametrize("speaks", [True, False])
async def test_a_peer_that_does_not_answer_our_greeting_is_let_go_and_dialled_less_and_less(
    autojump_clock: MockClock, speaks: bool
) -> None:
    async def sleep(_: PeerStream) -> None:
        await trio.sleep_forever()

    network = FakeNetwork()
    async with network.node(peer_of(a_key())) as one, network.node(peer_of(a_key())) as deaf:
        if speaks:
            deaf.serve(hello.PROTOCOL_ID, sleep)
        here = Host(one)
        for wait in (5.0, 10.0, 20.0):
            await meet(here, deaf)
            took = await until(lambda: not one.links, GREETING + 0.2)
            assert (took > GREETING - 1) is speaks
            assert here.parted[-1][:2] == (deaf.me, WhyNot.HANGING)
            assert not here.would_dial(deaf.me, wait - 1)
            assert here.would_dial(deaf.me, wait + 1)


async def test_who_is_not_welcome_is_told_and_does_not_come_again_for_an_hour(autojump_clock: MockClock) -> None:
    def nobody(_: Settled) -> Part:
        return Part(code=PartCode.NOT_WELCOME.value, message="\x1b[31mgo")

    network = FakeNetwork()
    async with network.node(peer_of(a_key())) as one, network.node(peer_of(a_key())) as two:
        here, there = Host(one), Host(two, judge=nobody)
        with capture_logs() as logs:
            await meet(here, two)
            await until(lambda: not one.links and not two.links, 1)
        said = {entry["by_us"]: entry for entry in logs if entry["event"] == "greet.parted"}
        assert said[False]["code"] == said[True]["code"] == "not_welcome"
        assert "\x1b" not in said[False]["said"]
        assert here.met == there.met == []
        ((peer, why, words),) = here.parted  # once: how the connection then ends says nothing more
        assert (peer, why) == (two.me, WhyNot.PARTED)
        assert words == "it parted (not_welcome): \\x1b[31mgo"
        assert not here.would_dial(two.me, HOUR - 1)
        assert here.would_dial(two.me, HOUR + 1)


async def test_whom_the_operator_named_is_asked_again_within_a_quarter_of_an_hour(autojump_clock: MockClock) -> None:
    def nobody(_: Settled) -> Part:
        return Part(code=PartCode.WRONG_SWARM.value, message="another swarm")

    network = FakeNetwork()
    async with network.node(peer_of(a_key())) as one, network.node(peer_of(a_key())) as two:
        here, _ = Host(one), Host(two, judge=nobody)
        here.addresses.learn([two.address], Source.CONFIGURED)
        await one.dial(two.address)
        await until(lambda: bool(here.parted) and not one.links, 2)
        assert here.parted[0][1] is WhyNot.WRONG_SWARM
        assert not here.would_dial(two.me, 15 * 60 - 5)
        assert here.would_dial(two.me, 15 * 60 + 1)


async def test_adverts_of_a_peer_that_does_not_want_us_do_not_make_us_dial_it_again(
    autojump_clock: MockClock,
) -> None:
    world, unwelcome = World(), a_key()

    def not_that_one(settled: Settled) -> Part | None:
        return Part(code="not_welcome", message="") if settled.peer == peer_of(unwelcome) else None

    async with (
        member(world) as first,
        member(world, first.node.address, judge=not_that_one) as picky,
        member(world, first.node.address, key=unwelcome) as other,
    ):
        await until(lambda: other.me in picky.known() and picky.me in other.known(), 10)
        dials = 0

        async def count() -> None:
            nonlocal dials
            while True:
                with_it = picky.me in other.node.links
                links = await other.node.changed(other.node.connected())
                dials += picky.me in links and not with_it

        other.node.nursery.start_soon(count)
        await trio.sleep(HOUR - 60)
        assert dials <= 2


async def test_a_node_that_is_going_or_full_says_so(autojump_clock: MockClock) -> None:
    network = FakeNetwork()
    keys = [peer_of(a_key()) for _ in range(4)]
    async with network.node(keys[0]) as one, network.node(keys[1]) as two, network.node(keys[2]) as three:
        here, there, late = Host(one, room=1), Host(two), Host(three)
        await meet(there, one)
        assert await there.greeter.met(one.me)
        with capture_logs() as logs:
            await meet(late, one)
            await until(lambda: three.me not in one.links, 1)
        assert {entry["code"] for entry in logs if entry["event"] == "greet.parted"} == {"full"}
        assert not late.would_dial(one.me, 170)
        assert late.would_dial(one.me, 190)
        async with network.node(keys[3]) as four:
            here.greeter.stop()
            with capture_logs() as logs:
                await meet(Host(four), one)
                await until(lambda: four.me not in one.links, 1)
            assert {entry["code"] for entry in logs if entry["event"] == "greet.parted"} == {"stopping"}
        assert await here.greeter.met(two.me)


async def test_two_that_dial_each_other_meet_once(autojump_clock: MockClock) -> None:
    network = FakeNetwork()
    async with network.node(peer_of(a_key())) as one, network.node(peer_of(a_key())) as two:
        here, there = Host(one), Host(two)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(meet, here, two)
            nursery.start_soon(meet, there, one)
        one.opened.add(two.me)  # as libp2p has it: each has a connection of its own
        two.opened.add(one.me)
        await trio.sleep(30)
        assert (here.met, there.met) == ([two.me], [one.me])
        assert one.links


Attack = Callable[[PeerStream, Host], Awaitable[None]]


async def garbage(stream: PeerStream, host: Host) -> None:
    await stream.send(b"\xc1 no msgpack")


async def another_s_name(stream: PeerStream, host: Host) -> None:
    await stream.send(Greeting(Role.OPENER, replace(host.ours, sender=peer_of(a_key())), host.node.me).begin(wall()))


async def hello_twice(stream: PeerStream, host: Host) -> None:
    ours = replace(host.ours, sender=stream_owner(stream, host))
    greeting = Greeting(Role.OPENER, ours, host.node.me)
    first = greeting.begin(wall())
    await stream.send(first)
    await stream.send(first)


def stream_owner(stream: PeerStream, host: Host) -> PeerId:
    (guest,) = host.node.links
    return guest


@pytest.mark.parametrize("attack", [garbage, another_s_name, hello_twice])
async def test_a_peer_that_breaks_the_greeting_is_disconnected_and_not_in_the_book(
    autojump_clock: MockClock, attack: Attack
) -> None:
    network = FakeNetwork()
    async with network.node(peer_of(a_key())) as one, network.node(peer_of(a_key())) as bad:
        here = Host(one)
        await bad.dial(one.address)
        async with bad.open(one.me, hello.PROTOCOL_ID, patience=5) as stream:
            await attack(stream, here)
            await until(lambda: not one.links, 1)
        assert here.book.members(trio.current_time()) == ()
        assert not here.greeter.settled(bad.me)
        assert not one.failures


async def test_one_that_says_to_have_restarted_over_and_over_is_heard_once_a_second(
    autojump_clock: MockClock,
) -> None:
    network = FakeNetwork()
    async with network.node(peer_of(a_key())) as one, network.node(peer_of(a_key())) as bad:
        here = Host(one)
        await bad.dial(one.address)

        async def greet(run: int) -> None:
            ours = replace(here.ours, sender=bad.me, incarnation=Epoch(START_US + run))
            async with bad.open(one.me, hello.PROTOCOL_ID, patience=5) as stream:
                await stream.send(Greeting(Role.OPENER, ours, one.me).begin(wall()))
                await stream.receive()
                await stream.finish()
                await stream.receive()

        with trio.move_on_after(5.5):
            async with trio.open_nursery() as nursery:
                for run in range(60):
                    nursery.start_soon(greet, run)
        assert len(here.changes) <= 7
        assert one.links


async def test_a_clock_that_is_far_off_is_told_of_once_with_what_to_do(autojump_clock: MockClock) -> None:
    network = FakeNetwork()
    async with network.node(peer_of(a_key())) as one, network.node(peer_of(a_key())) as two:
        here = Host(one)
        Host(two, clock=lambda: wall() + 3_600_000_000)
        with capture_logs() as logs:
            for _ in range(3):
                await meet(here, two)
                assert await here.greeter.met(two.me)
                await one.disconnect(two.me)
                await trio.sleep(1)
        warned = [entry for entry in logs if entry["event"] == "greet.clocks_disagree" and entry["peer"] == str(two.me)]
        assert [(entry["ahead_s"], entry["remedy"]) for entry in warned] == [(3600, CLOCK_REMEDY)]
