"""Every node ends with the same history, whatever gossip loses, whoever was away, and whoever lies."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from random import Random
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from node.core.ledger import Ledger
from node.core.retention import Quota
from node.errors import Broken
from node.ports import PeerStream
from node.services.replicate_pull import EXCHANGE
from node.services.replicate_serve import SEND
from protocol import gossip, limits
from protocol.dialogue import Dialogue, Role
from protocol.gossip import Subject, Topic
from protocol.history import (
    PROTOCOL_ID,
    SCRIPT,
    Answer,
    Buckets,
    Busy,
    Compare,
    Fetch,
    Held,
    Holdings,
    List,
    Message,
    Page,
    State,
    Want,
)
from protocol.ids import PUBLIC_SWARM, PeerId, SwarmId
from tests.fakes.garbage import damaged
from tests.fakes.network import Weather
from tests.protocol import history_samples, samples
from tests.services.members import START_US, peer_of
from tests.services.replicas import EPOCH, Replica, Swarm, a_record, key_of, replica, until

TOPIC = str(Topic(PUBLIC_SWARM, Subject.RECORDS))


@asynccontextmanager
async def several(swarm: Swarm, count: int) -> AsyncIterator[list[Replica]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(replica(swarm, seed)) for seed in range(1, count + 1)]


def all_hold(nodes: list[Replica], count: int) -> Callable[[], bool]:
    return lambda: all(len(node.history.records) == count for node in nodes)


async def test_ten_nodes_of_two_hundred_records_hold_all_of_them_within_a_minute(autojump_clock: MockClock) -> None:
    swarm = Swarm(loss=0.3)
    async with several(swarm, 10) as nodes:
        await trio.sleep(5)
        for node in nodes:
            await node.say(200)
        await until(all_hold(nodes, 2000), 60)
        assert sum(node.replication.counts().pulled for node in nodes) > 0  # gossip alone would not have done it
        assert not any(node.blamed for node in nodes)
        roots = {tuple(sorted(node.history.records)) for node in nodes}
        assert len(roots) == 1
        before = sum(node.replication.counts().bytes_in for node in nodes)
        await trio.sleep(120)
        after = sum(node.replication.counts().bytes_in for node in nodes)
        assert after - before < 10 * 12 * 200  # who agree say no more than that


async def test_a_node_that_was_away_catches_up_within_half_a_minute_of_joining(autojump_clock: MockClock) -> None:
    swarm = Swarm()
    async with several(swarm, 4) as nodes:
        await trio.sleep(5)
        for node in nodes:
            await node.say(200)
        await until(all_hold(nodes, 800), 60)
        async with replica(swarm, 99) as late:
            await until(all_hold([late], 800), 30)


async def test_two_halves_that_were_cut_apart_converge_after_healing(autojump_clock: MockClock) -> None:
    swarm = Swarm()
    async with several(swarm, 6) as nodes:
        await trio.sleep(5)
        pairs = [(one.me, two.me) for one in nodes[:3] for two in nodes[3:]]
        for pair in pairs:
            swarm.network.cut(*pair)
        for node in nodes:
            await node.say(50)
        await until(lambda: all(len(node.history.records) == 150 for node in nodes), 120)
        for pair in pairs:
            swarm.network.heal(*pair)
        await until(all_hold(nodes, 300), 120)


async def test_an_author_who_is_away_is_read_in_the_directory(autojump_clock: MockClock) -> None:
    swarm = Swarm()
    async with swarm.network.node(peer_of(key_of(50))) as keeper:  # it holds values, and no history
        swarm.table.at(keeper)
        swarm.nodes[keeper.me] = keeper
        async with replica(swarm, 2) as author:
            await author.say(30)
            await until(lambda: author.replication.counts().said == 30, 10)
            await trio.sleep(90)
            gone = author.me
        async with replica(swarm, 1) as reader:
            await until(lambda: keeper.me in reader.node.connected(), 5)
            swarm.nodes[gone] = keeper  # a member, as far as anybody has heard
            await until(all_hold([reader], 30), 200)
            assert reader.replication.counts().found == 30
            assert await reader.replication.look_up(gone) == 0
            assert not reader.blamed
            del swarm.nodes[gone]


# -- neighbours who are no good


Reply = Callable[[Message], Awaitable[Message | bytes | None]]


@asynccontextmanager
async def neighbour(swarm: Swarm, seed: int, reply: Reply) -> AsyncIterator[PeerId]:
    """A node that answers questions of history as it likes; None ends the stream."""

    async def handle(stream: PeerStream) -> None:
        dialogue: Dialogue[State, Message] = Dialogue(SCRIPT, Role.ANSWERER)
        while (payload := await stream.receive()) is not None:
            answer = await reply(dialogue.hear(payload))
            if answer is None:
                return
            await stream.send(answer if isinstance(answer, bytes) else dialogue.say(answer))

    async with swarm.network.node(peer_of(key_of(seed))) as node:
        node.serve(PROTOCOL_ID, handle)
        swarm.nodes[node.me] = node
        try:
            yield node.me
        finally:
            swarm.nodes.pop(node.me)


def holder_of(sealed: list[bytes], *, author: PeerId, promised: int | None = None) -> Reply:
    """Answer as a node that holds these records of one author, whatever they are."""
    last = (promised or len(sealed)) - 1
    held = Held(author=author, epoch=EPOCH, ranges=((0, last),), digest=bytes(32))
    ledger = Ledger()
    ledger.put(author, [held])

    async def reply(question: Message) -> Answer:
        await trio.lowlevel.checkpoint()
        if isinstance(question, Compare):
            return Buckets(digests=ledger.digests())
        if isinstance(question, List):
            return Holdings(held=(held,), more=False)
        assert isinstance(question, Fetch)
        wanted = sum(last - first + 1 for want in question.wants for first, last in want.ranges)
        return Page(records=tuple(sealed[: min(wanted, 256)]))

    return reply


STRANGER = key_of(77)
FAULTS = {
    "bad_signature": a_record(STRANGER, 0)[:-40] + bytes(1) + a_record(STRANGER, 0)[-39:],
    "wrong_swarm": a_record(STRANGER, 0, swarm=SwarmId("elsewhere")),
    "faster_than_light": a_record(STRANGER, 0, "warp"),
    "truncated": a_record(STRANGER, 0)[:-1],
}


@pytest.mark.parametrize("reason", FAULTS)
async def test_whoever_brings_what_no_honest_node_holds_is_blamed_and_nothing_is_kept(
    autojump_clock: MockClock, reason: str
) -> None:
    swarm = Swarm()
    async with replica(swarm, 1) as node:
        bad = holder_of([FAULTS[reason]], author=peer_of(STRANGER))
        async with neighbour(swarm, 2, bad) as liar, replica(swarm, 3) as honest:
            await honest.keep([a_record(honest.key, seq) for seq in range(20)])
            await trio.sleep(120)
            assert set(node.blamed) == {(liar, reason)}
            assert len(node.blamed) == 1  # it is left alone for a while
            assert {name.author for name in node.history.records} == {honest.me}
            assert len(node.history.records) == 20
            assert node.replication.counts().rejected[reason] == 1


@pytest.mark.parametrize("change", [{"time": START_US + samples.HOUR}, {"expiry": START_US + 1}])
async def test_a_clock_that_is_wrong_is_nobodys_fault(autojump_clock: MockClock, change: dict[str, Any]) -> None:
    swarm = Swarm()
    async with replica(swarm, 1) as node:
        record = a_record(STRANGER, 0, **change)
        async with neighbour(swarm, 2, holder_of([record], author=peer_of(STRANGER))):
            await trio.sleep(60)
            assert node.blamed == []
            assert node.history.records == {}


async def test_what_brought_nothing_is_not_asked_for_again_and_again(autojump_clock: MockClock) -> None:
    swarm, fetched = Swarm(), 0
    record = a_record(STRANGER, 0, time=START_US + samples.HOUR)
    inner = holder_of([record], author=peer_of(STRANGER))

    async def counting(question: Message) -> Message | bytes | None:
        nonlocal fetched
        fetched += isinstance(question, Fetch)
        return await inner(question)

    async with replica(swarm, 1), neighbour(swarm, 2, counting):
        await trio.sleep(500)
        assert fetched == 1
        await trio.sleep(300)
        assert fetched == 2


async def test_a_fork_is_known_to_all_and_held_against_nobody_as_a_peer(autojump_clock: MockClock) -> None:
    swarm = Swarm()
    async with several(swarm, 5) as nodes:
        await nodes[0].keep([a_record(STRANGER, 0, "one")])
        await nodes[1].keep([a_record(STRANGER, 0, "other")])
        await until(lambda: all(node.history.facts().quarantined == 1 for node in nodes), 60)
        await trio.sleep(200)
        assert not any(node.blamed for node in nodes)
        assert max(node.replication.counts().forks for node in nodes) == 1  # it does not go round for ever


async def test_a_liar_about_holdings_wastes_a_few_turns_and_is_blamed_the_second_time(
    autojump_clock: MockClock,
) -> None:
    swarm, turns, key = Swarm(), 0, 0

    async def lie(question: Message) -> Answer:
        nonlocal turns, key
        turns += 1
        await trio.lowlevel.checkpoint()
        if isinstance(question, Compare):
            return Buckets(digests=Random(turns).randbytes(8192))  # noqa: S311 -- no secrets
        if isinstance(question, Fetch):
            return Page(records=())
        held = []
        for _ in range(limits.HISTORY_HOLDINGS):
            key += 1
            author = PeerId(b"\x07" + key.to_bytes(30, "big") + b"\x01")
            held.append(Held(author=author, epoch=EPOCH, ranges=((0, limits.SEQ_MAX),), digest=bytes(32)))
        return Holdings(held=tuple(held), more=True)

    async with replica(swarm, 1) as node, neighbour(swarm, 2, lie) as liar, replica(swarm, 3) as honest:
        await honest.keep([a_record(honest.key, seq) for seq in range(20)])
        await until(all_hold([node], 20), 60)
        await trio.sleep(200)
        assert set(node.blamed) == {(liar, "empty_promises")}
        assert node.replication.counts().exchanges["in_vain"] <= 4
        assert turns < 200


async def test_garbage_of_any_kind_is_the_neighbours_fault_and_stops_nobody(autojump_clock: MockClock) -> None:
    swarm, luck = Swarm(), Random(5)  # noqa: S311 -- no secrets
    right = tuple(SCRIPT.vocabulary.encode(message) for message in history_samples.MESSAGES.values())

    async def babble(_: Message) -> bytes:
        await trio.lowlevel.checkpoint()
        return damaged(right, luck)

    async with AsyncExitStack() as stack:
        node = await stack.enter_async_context(replica(swarm, 1))
        honest = await stack.enter_async_context(replica(swarm, 2))
        for seed in range(40):
            await stack.enter_async_context(neighbour(swarm, 100 + seed, babble))
        await trio.sleep(5)
        await honest.say(50)
        await until(all_hold([node], 50), 30)
        await trio.sleep(200)
        assert len(node.history.records) == 50
        assert len({peer for peer, _ in node.blamed}) > 20
        assert honest.me not in {peer for peer, _ in node.blamed}


@pytest.mark.parametrize("how", ["silent", "trickling", "busy", "gone"])
async def test_a_neighbour_that_does_not_answer_keeps_nobody_from_the_others(
    autojump_clock: MockClock, how: str
) -> None:
    swarm = Swarm()
    slow = holder_of([a_record(STRANGER, 0)], author=peer_of(STRANGER), promised=1000)

    async def reply(question: Message) -> Message | None:
        if how == "busy":
            return Busy(wait_ms=limits.HISTORY_WAIT_MAX_MS)
        if how == "gone":
            return None
        if how == "silent":
            await trio.sleep_forever()
        await trio.sleep(14)
        answer = await slow(question)
        assert not isinstance(answer, bytes)
        return answer

    async with replica(swarm, 1) as node, neighbour(swarm, 2, reply), replica(swarm, 3) as honest:
        await trio.sleep(1)
        await honest.keep([a_record(honest.key, seq) for seq in range(20)])
        names = {name.seq for name in node.history.records if name.author == honest.me}
        await until(lambda: sum(name.author == honest.me for name in node.history.records) == 20, EXCHANGE + 60)
        assert names == set()
        assert node.blamed == []


async def drain(stream: PeerStream) -> None:
    while await stream.receive() is not None:
        pass


async def test_a_slow_reader_is_let_go_and_others_are_answered_meanwhile(autojump_clock: MockClock) -> None:
    swarm = Swarm()
    async with replica(swarm, 1) as node, replica(swarm, 2) as honest:
        big = [a_record(STRANGER, seq, "x" * 1000) for seq in range(600)]
        await node.keep(big)
        async with swarm.network.node(peer_of(key_of(9))) as reader:
            reader.learn(node.me, node.node.addresses())
            want = Want(author=peer_of(STRANGER), epoch=EPOCH, ranges=((0, 599),))
            async with reader.open(node.me, PROTOCOL_ID, patience=5) as stream:
                for _ in range(8):  # unread answers fill what is on its way
                    await stream.send(SCRIPT.vocabulary.encode(Fetch(wants=(want,))))
                await until(all_hold([honest], 600), 30)
                await trio.sleep(SEND)
                with pytest.raises(Broken), trio.fail_after(5):
                    await drain(stream)
        assert node.blamed == []


async def test_one_peer_has_one_answer_at_a_time_and_a_bounded_rate(autojump_clock: MockClock) -> None:
    swarm = Swarm(weather=Weather(latency=0.001))
    async with replica(swarm, 1) as node:
        await node.keep([a_record(STRANGER, seq, "x" * 1000) for seq in range(300)])
        async with swarm.network.node(peer_of(key_of(9))) as greedy:
            greedy.learn(node.me, node.node.addresses())
            want = Want(author=peer_of(STRANGER), epoch=EPOCH, ranges=((0, 299),))
            question = SCRIPT.vocabulary.encode(Fetch(wants=(want,)))
            said: list[Message] = []

            async def ask() -> None:
                async with greedy.open(node.me, PROTOCOL_ID, patience=5) as stream:
                    while True:
                        await stream.send(question)
                        payload = await stream.receive()
                        assert payload is not None
                        said.append(SCRIPT.vocabulary.decode(payload))

            with trio.move_on_after(1.5):
                async with trio.open_nursery() as nursery:
                    for _ in range(4):
                        nursery.start_soon(ask)
            assert any(isinstance(answer, Busy) for answer in said)
            sent = sum(len(raw) for answer in said if isinstance(answer, Page) for raw in answer.records)
            assert 30 * limits.MIB < sent < (32 + 1.5 * 16 + 1) * limits.MIB


async def test_who_has_not_greeted_is_not_answered(autojump_clock: MockClock) -> None:
    swarm = Swarm()
    async with replica(swarm, 1) as node, swarm.network.node(peer_of(key_of(9))) as stranger:
        stranger.learn(node.me, node.node.addresses())
        async with stranger.open(node.me, PROTOCOL_ID, patience=5) as stream:
            node.node.links.discard(stranger.me)
            await stream.send(SCRIPT.vocabulary.encode(Compare(digest=bytes(32))))
            assert await stream.receive() is None


# -- gossip


def hears(node: Replica, swarm: Swarm, data: bytes) -> bool:
    judge, _ = swarm.air.ears[node.me, TOPIC]
    return judge(data, None)


async def test_gossip_is_passed_on_once_and_only_if_all_of_it_may_be_true(autojump_clock: MockClock) -> None:
    swarm = Swarm()
    async with replica(swarm, 1) as node:
        good = [a_record(STRANGER, seq) for seq in range(3)]
        (message,) = gossip.pack_records(good)
        assert hears(node, swarm, message)
        assert not hears(node, swarm, message)
        assert hears(node, swarm, gossip.pack_records([good[0], a_record(STRANGER, 9)])[0])
        for reason, bad in FAULTS.items():
            fresh = a_record(STRANGER, 100 + len(reason))
            assert not hears(node, swarm, gossip.pack_records([fresh, bad])[0])
            assert hears(node, swarm, gossip.pack_records([fresh])[0])
        assert not hears(node, swarm, b"\xc1")
        future = a_record(STRANGER, 50, time=START_US + samples.HOUR)
        assert not hears(node, swarm, gossip.pack_records([future])[0])
        assert node.history.records == {}  # judging keeps nothing


async def test_an_author_who_says_records_without_pause_is_not_passed_on_for_ever(autojump_clock: MockClock) -> None:
    swarm = Swarm()
    async with replica(swarm, 1) as node:
        passed = sum(hears(node, swarm, gossip.pack_records([a_record(STRANGER, seq)])[0]) for seq in range(300))
        assert passed == 256
        assert hears(node, swarm, gossip.pack_records([a_record(key_of(78), 0)])[0])


# -- what is retained


async def test_nodes_of_small_rooms_agree_on_what_they_retain_and_fall_silent(autojump_clock: MockClock) -> None:
    swarm, quota = Swarm(), Quota(author=10, total=30)
    async with AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(replica(swarm, seed, quota=quota)) for seed in range(1, 7)]
        await trio.sleep(3)
        for number, node in enumerate(nodes):
            sealed = [a_record(node.key, seq, time=START_US + seq) for seq in range(4 * number)]
            await node.keep(sealed)
            node.replication.publish([raw for raw in sealed if number % 2])
        same = lambda: len({frozenset(node.history.records) for node in nodes}) == 1  # noqa: E731 -- read once, below
        await until(lambda: same() and len(nodes[0].history.records) == 30, 90)
        await trio.sleep(60)
        before = sum(node.replication.counts().sent for node in nodes)
        await trio.sleep(300)
        assert same()
        assert sum(node.replication.counts().sent for node in nodes) == before
        assert not any(node.blamed for node in nodes)


async def test_a_disk_that_refuses_is_nobodys_fault_and_is_made_up_for_later(autojump_clock: MockClock) -> None:
    swarm = Swarm()
    async with replica(swarm, 1) as node, replica(swarm, 2) as other:
        node.history.refusing = True
        await other.say(30)
        await trio.sleep(100)
        assert node.history.records == {}
        node.history.refusing = False
        await until(all_hold([node], 30), 100)
        assert node.blamed == []
