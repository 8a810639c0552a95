"""Asking peers whether they reach this node, and dialling those who ask: on the fake network, in virtual time."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import pytest
import trio
from trio.testing import MockClock

from node.core.reachability import Verdict
from node.errors import Broken
from node.ports import PeerStream
from node.services.reach import AT_ONCE, LOOK, SELDOM, Reacher
from protocol.dialogue import Dialogue, Role
from protocol.ids import PeerId
from protocol.reach import PROTOCOL_ID, SCRIPT, Ask, Message, Seen, State
from tests.contracts.test_streams import a_peer
from tests.fakes.network import PORT, FakeNetwork, FakeNode, Weather
from tests.fakes.ways import FakeWays
from tests.places import at

OURS = "44.44.0.11"


@dataclass
class Node:
    place: FakeNode
    ways: FakeWays
    reacher: Reacher
    strangers: set[PeerId] = field(default_factory=set)  # who have not greeted


@asynccontextmanager
async def a_node(network: FakeNetwork) -> AsyncIterator[Node]:
    ways, strangers = FakeWays(), set[PeerId]()

    async def met(peer: PeerId) -> bool:
        await trio.lowlevel.checkpoint()
        return peer not in strangers

    async with network.node(a_peer()) as place, trio.open_nursery() as nursery:
        reacher = Reacher(
            place,
            place,
            ways,
            ports=(PORT,),
            speaks=lambda peer: peer not in strangers,
            met=met,
            changed=lambda: None,
        )
        nursery.start_soon(reacher.run)
        yield Node(place, ways, reacher, strangers)
        nursery.cancel_scope.cancel()


async def connect(one: Node, other: Node, *, behind: str = OURS, answers: bool = False) -> None:
    """Have `one` dial `other`, which sees it come from `behind` and reaches it there or not."""
    one.ways.places[other.place.me] = at("44.44.0.1", PORT, other.place.me)
    other.ways.places[one.place.me] = at(behind, 50_000, one.place.me)
    if answers:
        other.ways.open.add(at(behind, PORT, one.place.me))
    await one.place.dial(other.place.address)


async def asked(node: Node, of: Node, ports: tuple[int, ...] = (PORT,)) -> Seen:
    dialogue: Dialogue[State, Message] = Dialogue(SCRIPT, Role.OPENER)
    async with node.place.open(of.place.me, PROTOCOL_ID, patience=5.0) as stream:
        await stream.send(dialogue.say(Ask(ports=ports)))
        payload = await stream.receive()
        assert payload is not None
        answer = dialogue.hear(payload)
        await stream.finish()
    assert isinstance(answer, Seen)
    return answer


async def test_a_node_learns_that_nobody_reaches_it_and_another_that_everybody_does(autojump_clock: MockClock) -> None:
    network = FakeNetwork(Weather())
    async with a_node(network) as home, a_node(network) as public:
        await connect(home, public)
        public.ways.places[home.place.me] = at(OURS, 50_000, home.place.me)
        home.ways.open.add(at("44.44.0.1", PORT, public.place.me))
        await trio.sleep(10)
        now = trio.current_time()
        assert home.reacher.known.verdict(now) is Verdict.PRIVATE
        assert home.reacher.known.unseen_from(now) == (public.place.me,)
        assert [str(each) for each in home.reacher.known.guessed((PORT,), now)] == [f"/ip4/{OURS}/tcp/{PORT}"]
        assert public.reacher.known.verdict(now) is Verdict.PUBLIC
        assert [each.host for each in public.reacher.known.external(now)] == ["44.44.0.1"]


async def test_only_the_address_that_the_asker_comes_from_is_dialled(autojump_clock: MockClock) -> None:
    network = FakeNetwork(Weather())
    async with a_node(network) as asker, a_node(network) as answerer:
        await connect(asker, answerer, behind="44.44.0.11", answers=True)
        seen = await asked(asker, answerer, (PORT, 22, PORT))
        assert (seen.host, seen.tried, seen.reached) == ("44.44.0.11", (PORT, 22), (PORT,))
        assert {each.host for each in answerer.ways.knocked} == {"44.44.0.11"}
        assert {each.peer for each in answerer.ways.knocked} == {asker.place.me}


async def test_one_behind_a_relay_is_not_dialled_at_all(autojump_clock: MockClock) -> None:
    network = FakeNetwork(Weather())
    async with a_node(network) as asker, a_node(network) as answerer:
        await connect(asker, answerer)
        answerer.ways.behind[asker.place.me] = a_peer()
        seen = await asked(asker, answerer)
        assert (seen.host, seen.tried, seen.reached) == (None, (), ())
        assert answerer.ways.knocked == []


async def test_whoever_asks_again_soon_is_told_that_nothing_was_tried(autojump_clock: MockClock) -> None:
    network = FakeNetwork(Weather())
    async with a_node(network) as asker, a_node(network) as answerer:
        asker.strangers.add(answerer.place.me)  # so that it does not ask by itself
        await connect(asker, answerer, answers=True)
        assert (await asked(asker, answerer)).tried == (PORT,)
        assert (await asked(asker, answerer)).tried == ()
        await trio.sleep(SELDOM)
        assert (await asked(asker, answerer)).tried == (PORT,)


async def test_no_more_are_dialled_for_at_a_time_than_may_be(autojump_clock: MockClock) -> None:
    network = FakeNetwork(Weather())
    async with a_node(network) as answerer, trio.open_nursery() as nursery:
        tried: list[int] = []

        async def ask_as_another() -> None:
            async with a_node(network) as asker:
                asker.strangers.add(answerer.place.me)
                await connect(asker, answerer)
                tried.append(len((await asked(asker, answerer)).tried))

        for _ in range(3 * AT_ONCE):
            nursery.start_soon(ask_as_another)
        await trio.sleep(60)
        assert sorted(tried) == [0] * 2 * AT_ONCE + [1] * AT_ONCE


async def test_who_has_not_greeted_is_answered_nothing(autojump_clock: MockClock) -> None:
    network = FakeNetwork(Weather())
    async with a_node(network) as asker, a_node(network) as answerer:
        await connect(asker, answerer)
        answerer.strangers.add(asker.place.me)
        with pytest.raises((AssertionError, Broken)):
            await asked(asker, answerer)
        assert answerer.ways.knocked == []


async def test_a_port_that_was_not_asked_for_is_not_believed(autojump_clock: MockClock) -> None:
    network = FakeNetwork(Weather())
    async with a_node(network) as asker, a_node(network) as liar:

        async def lie(stream: PeerStream) -> None:
            with suppress(Broken):
                await stream.receive()
                await stream.send(SCRIPT.vocabulary.encode(Seen(host=OURS, tried=(PORT,), reached=(1,))))

        liar.place.serve(PROTOCOL_ID, lie)
        await connect(asker, liar)
        await trio.sleep(10 * LOOK)
        assert asker.reacher.known.verdict(trio.current_time()) is Verdict.PRIVATE


async def test_alone_on_another_network_all_begins_anew(autojump_clock: MockClock) -> None:
    network = FakeNetwork(Weather())
    async with a_node(network) as home, a_node(network) as public:
        await connect(home, public)
        await trio.sleep(10)
        assert home.reacher.known.verdict(trio.current_time()) is Verdict.PRIVATE
        await home.place.disconnect(public.place.me)
        await trio.sleep(2 * LOOK)
        assert home.reacher.known.verdict(trio.current_time()) is Verdict.UNKNOWN
