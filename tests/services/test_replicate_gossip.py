"""Gossip of records under attack: what is passed on is good for everybody, and nobody is blamed for another's doing."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from node.services.replicate_intake import Intake
from protocol import gossip, limits, records
from protocol.gossip import Subject, Topic
from protocol.ids import PUBLIC_SWARM
from tests.fakes.history import FakeHistory
from tests.fakes.network import FakeNode, Weather
from tests.fakes.network_talk import FakeGossip
from tests.protocol import samples
from tests.protocol.samples import NOTE
from tests.services.members import START_US, peer_of, wall
from tests.services.replicas import EPOCH, Replica, Swarm, a_record, key_of, replica, until
from tests.services.test_replicate import holder_of, neighbour

TOPIC = str(Topic(PUBLIC_SWARM, Subject.RECORDS))
STRANGER, VICTIM = key_of(77), key_of(78)


@asynccontextmanager
async def attacker(swarm: Swarm, *, of: Replica) -> AsyncIterator[FakeNode]:
    """A peer of one node that says what it likes."""
    async with swarm.network.node(peer_of(key_of(9))) as node:
        node.learn(of.me, of.node.addresses())
        await node.connect(of.me)
        yield node


async def say(swarm: Swarm, node: FakeNode, *sealed: bytes) -> None:
    (message,) = gossip.pack_records(sealed)
    await swarm.air.at(node).publish(TOPIC, message)


def passes_on(swarm: Swarm, node: Replica, *sealed: bytes) -> bool:
    judge, _ = swarm.air.ears[node.me, TOPIC]
    return judge(gossip.pack_records(sealed)[0], None)


def newer_version() -> bytes:
    stamp = {"author": peer_of(STRANGER), "epoch": EPOCH, "seq": 1, "version": 2, "time": START_US}
    body = samples.note("new", **stamp, expiry=START_US + samples.HOUR)
    return records.sign(replace(NOTE, version=2), body, STRANGER).sealed


def forged(**changes: Any) -> bytes:
    """Return a record in the victim's name that somebody else made."""
    sealed = a_record(VICTIM, 500, **changes)
    at = sealed.index(b"\xc4\x40") + 2  # the signature: a byte string of 64
    return sealed[:at] + bytes(64) + sealed[at + 64 :]


UNCERTAIN = {
    "of a newer version": newer_version(),
    "from the future": forged(time=START_US + samples.HOUR, expiry=START_US + 2 * samples.HOUR),
    "expired": forged(expiry=START_US - 1, time=START_US - 2),
    "at odds with the clock": a_record(STRANGER, 2, "yesterday"),
}


@pytest.mark.parametrize("what", UNCERTAIN)
async def test_what_others_may_judge_otherwise_keeps_a_batch_from_being_passed_on_and_blames_nobody(
    autojump_clock: MockClock, what: str
) -> None:
    swarm, good = Swarm(), a_record(STRANGER, 0)
    async with replica(swarm, 1) as node, replica(swarm, 2) as next_one, attacker(swarm, of=node) as bad:
        await say(swarm, bad, UNCERTAIN[what], good)
        await say(swarm, bad, good, UNCERTAIN[what])
        await trio.sleep(60)
        assert node.history.records == next_one.history.records == {}
        assert node.blamed == next_one.blamed == []
        assert passes_on(swarm, node, good)  # alone it is as good as any
        assert not passes_on(swarm, node, good, UNCERTAIN[what])


async def test_a_forged_record_at_the_edge_of_time_does_not_get_an_honest_relay_blamed(
    autojump_clock: MockClock,
) -> None:
    """For the relay it is from the future yet; a moment later, for the next, it is not, and so its signature counts."""
    swarm = Swarm(weather=Weather(latency=0.05, jitter=0.0))
    async with replica(swarm, 1) as relay, replica(swarm, 2) as next_one, attacker(swarm, of=relay) as bad:
        await until(lambda: next_one.me in relay.node.connected(), 5)
        time = wall() + limits.CLOCK_SKEW_US + 70_000
        await say(swarm, bad, forged(time=time, expiry=time + samples.HOUR), a_record(STRANGER, 0))
        await trio.sleep(5)
        assert relay.replication.counts().heard == 1
        assert relay.blamed == next_one.blamed == []


async def test_an_author_is_not_blamed_for_what_others_say_in_its_name(autojump_clock: MockClock) -> None:
    swarm = Swarm()
    strict = FakeHistory(NOTE, now_us=wall, check=lambda _: "memory")
    async with replica(swarm, 1, history=strict) as node, attacker(swarm, of=node) as bad:
        await say(swarm, bad, a_record(VICTIM, 0))
        await until(lambda: node.replication.counts().rejected.get("memory") == 1, 5)
        assert node.blamed == []


async def test_a_clock_that_doubts_a_record_blames_no_neighbour_that_holds_it(autojump_clock: MockClock) -> None:
    swarm, holder = Swarm(), holder_of([a_record(STRANGER, 0, "yesterday")], author=peer_of(STRANGER))
    async with replica(swarm, 1) as node, neighbour(swarm, 2, holder):
        await until(lambda: node.replication.counts().rejected.get("clock") == 1, 60)
        assert node.blamed == []


async def test_a_replayed_fork_is_told_once_and_blames_nobody(autojump_clock: MockClock) -> None:
    history = FakeHistory(NOTE, now_us=wall)
    blamed: list[object] = []
    told: list[object] = []
    intake = Intake(history, blame=lambda *who: blamed.append(who), forked=lambda *what: told.append(what))
    one, other = (a_record(VICTIM, 0, text) for text in ("one", "other"))
    await intake.take([one, other, other], via=peer_of(STRANGER))
    for _ in range(3):
        await intake.take([other], via=peer_of(STRANGER))
    assert (len(told), intake.forks, blamed) == (1, 1, [])


async def test_a_node_whose_own_key_has_forked_knows_it(autojump_clock: MockClock) -> None:
    swarm = Swarm()
    async with replica(swarm, 1) as node, attacker(swarm, of=node) as other:
        await node.keep([a_record(node.key, 0, "one")])
        assert not node.replication.key_forked
        await say(swarm, other, a_record(node.key, 0, "other"))
        await until(lambda: node.replication.key_forked, 5)
        assert node.blamed == []


async def test_whoever_has_not_greeted_or_is_an_outcast_is_not_listened_to_and_not_blamed(
    autojump_clock: MockClock,
) -> None:
    swarm = Swarm()
    async with replica(swarm, 1) as node, attacker(swarm, of=node) as bad:
        judge, _ = swarm.air.ears[node.me, TOPIC]
        (good,) = gossip.pack_records([a_record(STRANGER, 0)])
        node.outcasts.add(bad.me)
        for nobody in (bad.me, peer_of(STRANGER)):
            assert not judge(good, nobody)
            assert not judge(b"\xc1", nobody)
        assert node.blamed == []
        node.outcasts.clear()
        assert judge(good, bad.me)
        assert not judge(b"\xc1", bad.me)
        assert node.blamed == [(bad.me, "bad_gossip")]


# -- our own disk, and our own neighbours' queues


async def test_a_full_disk_ends_neither_saying_nor_looking_up(autojump_clock: MockClock) -> None:
    swarm = Swarm()
    async with replica(swarm, 1) as node, replica(swarm, 2) as other:
        await other.say(3)
        await trio.sleep(30)  # its head is in the directory
        sealed = await node.say(3)
        node.history.refusing = True
        await trio.sleep(5)
        assert {sealed[0]} <= {signed.sealed for signed in other.history.records.values()}
        assert node.replication.counts().said == 3
        assert await node.replication.look_up(other.me) == 0
        node.history.refusing = False
        await other.say(1, first=3)
        await until(lambda: len(node.history.records) == 7, 60)


async def test_a_fork_that_the_disk_kept_from_being_told_is_told_later(autojump_clock: MockClock) -> None:
    swarm, heard = Swarm(), list[bytes]()
    one, other = (a_record(STRANGER, 0, text) for text in ("one", "other"))
    async with replica(swarm, 1) as node, attacker(swarm, of=node) as peer:
        await node.keep([one])
        async with swarm.air.at(peer).subscribe(TOPIC, lambda data, _: bool(heard.append(data))):
            await say(swarm, peer, other)
            await until(lambda: node.replication.counts().forks == 1, 5)
            node.history.refusing = True
            await trio.sleep(5)
            assert heard == []
            node.history.refusing = False
            await until(lambda: heard == list(gossip.pack_records(sorted((one, other)))), 120)


async def test_a_message_that_the_network_refuses_ends_nothing(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object) -> None:
        await trio.lowlevel.checkpoint()
        raise ValueError("too long")

    swarm = Swarm()
    async with replica(swarm, 1) as node, replica(swarm, 2) as other:
        with monkeypatch.context() as patched:
            patched.setattr(FakeGossip, "publish", refuse)
            await node.say(1)
            await trio.sleep(2)
        await until(lambda: len(other.history.records) == 1, 60)  # by comparing
        await node.say(1, first=1)
        await until(lambda: len(other.history.records) == 2, 3)
