"""Revocations from neighbour to neighbour, in virtual time: whoever hears not, is hostile, or of another version."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio
from trio.testing import MockClock

from node.core.membership import Members, Membership
from node.errors import Broken, Unreachable
from node.ports import PeerStream
from node.services.spread_revocations import AGAIN, PAUSE, Revoking
from protocol.dialogue import Dialogue, Role
from protocol.ids import PeerId
from protocol.membership import PROTOCOL_ID, SCRIPT, Taken, Told
from tests.contracts.test_streams import a_peer
from tests.fakes.network import FakeNetwork, FakeNode, Weather
from tests.protocol.membership_samples import Founder, key_of, peer_of
from tests.protocol.samples import NOW

TEAM = Founder()
ALICE = peer_of(key_of("alice"))
FIRST, SECOND = TEAM.revocations(seq=1), TEAM.revocations(ALICE, seq=2)


@dataclass
class Town:
    """One node whose service is tested, and a neighbour that does what a test says."""

    me: FakeNode
    neighbour: FakeNode
    service: Revoking
    members: Members
    met: set[PeerId] = field(default_factory=set)
    expelled: list[PeerId] = field(default_factory=list)
    kept: list[bytes] = field(default_factory=list)
    known: set[PeerId] = field(default_factory=set)

    async def say(self, *payloads: bytes) -> list[bytes | None]:
        """Have the neighbour say something on one stream; return what is answered to each."""
        async with self.neighbour.open(self.me.me, PROTOCOL_ID, patience=5.0) as stream:
            answers = []
            for payload in payloads:
                await stream.send(payload)
                answers.append(await stream.receive())
            return answers


@asynccontextmanager
async def a_town() -> AsyncIterator[Town]:
    network = FakeNetwork(Weather(latency=0.05))
    me_id = a_peer()
    membership = Membership(
        swarm=TEAM.swarm, administrator=TEAM.me, key=TEAM.key, certificate=TEAM.certificate(me_id).sealed
    )
    async with network.node(me_id) as me, network.node(a_peer()) as neighbour, trio.open_nursery() as nursery:
        members = Members(membership)

        async def met(peer: PeerId) -> bool:
            await trio.lowlevel.checkpoint()
            return peer in town.met

        async def keep(sealed: bytes) -> None:
            await trio.lowlevel.checkpoint()
            town.kept.append(sealed)

        service = Revoking(
            me,
            me,
            members=members,
            peers=lambda: town.known,
            connections=lambda: town.met & me.connected(),
            met=met,
            expel=lambda peer, _: (town.expelled.append(peer), town.known.discard(peer))[0],
            keep=keep,
            wall=lambda: NOW,
        )
        town = Town(me, neighbour, service, members)
        nursery.start_soon(service.run)
        neighbour.learn(me.me, me.addresses())
        await neighbour.connect(me.me)
        yield town
        nursery.cancel_scope.cancel()


def told(sealed: bytes) -> bytes:
    return SCRIPT.vocabulary.encode(Told(revocations=sealed))


async def test_a_later_list_is_taken_kept_and_enforced(autojump_clock: MockClock) -> None:
    async with a_town() as town:
        town.met.add(town.neighbour.me)
        assert town.members.refusal(ALICE, TEAM.certificate(ALICE).sealed, NOW) is None
        assert town.members.refusal(town.neighbour.me, TEAM.certificate(town.neighbour.me).sealed, NOW) is None
        town.known |= {ALICE, town.neighbour.me}
        answers = await town.say(told(FIRST.sealed), told(SECOND.sealed), told(FIRST.sealed))
        assert None not in answers
        assert town.members.revocations == SECOND
        await trio.sleep(1)
        assert town.kept[-1] == SECOND.sealed
        assert town.expelled == [ALICE]


async def test_who_has_not_greeted_is_not_listened_to(autojump_clock: MockClock) -> None:
    async with a_town() as town:
        with pytest.raises(Broken):
            await town.say(told(SECOND.sealed))
        assert town.members.revocations is None


@pytest.mark.parametrize(
    "garbage",
    [
        b"\xc1",
        told(b"garbage"),
        told(Founder(admin=key_of("another administrator")).revocations(ALICE).sealed),
        told(TEAM.certificate(ALICE).sealed),
        told(SECOND.sealed[:-1] + bytes([SECOND.sealed[-1] ^ 1])),
    ],
    ids=["no-map", "no-list", "another-swarm", "another-kind", "changed"],
)
async def test_garbage_ends_its_stream_and_changes_nothing(autojump_clock: MockClock, garbage: bytes) -> None:
    async with a_town() as town:
        town.met.add(town.neighbour.me)
        with pytest.raises(Broken):
            await town.say(garbage)
        assert town.members.revocations is None
        assert None not in await town.say(told(SECOND.sealed))  # and the next who is in order is heard
        assert not town.me.failures


async def test_lists_without_end_are_taken_at_a_pace(autojump_clock: MockClock) -> None:
    async with a_town() as town:
        town.met.add(town.neighbour.me)
        began = trio.current_time()
        lists = [told(TEAM.revocations(ALICE, seq=seq).sealed) for seq in range(10)]
        await town.say(*lists)
        assert trio.current_time() - began > 9 * PAUSE


async def test_who_does_not_answer_is_told_again_and_who_did_is_not(autojump_clock: MockClock) -> None:
    heard: list[bytes] = []

    async def listen(stream: PeerStream) -> None:
        dialogue = Dialogue(SCRIPT, Role.ANSWERER)
        while (payload := await stream.receive()) is not None:
            message = dialogue.hear(payload)
            assert isinstance(message, Told)
            heard.append(message.revocations)
            if len(heard) == 1:
                raise Broken("fell asleep")
            await stream.send(dialogue.say(Taken()))

    async with a_town() as town:
        town.neighbour.serve(PROTOCOL_ID, listen)
        town.met.add(town.neighbour.me)
        assert town.service.take(FIRST.sealed)
        await trio.sleep(3 * AGAIN)
        assert heard == [FIRST.sealed] * 2
        await trio.sleep(60 * AGAIN)
        assert heard == [FIRST.sealed] * 2
        assert town.service.take(SECOND.sealed)
        await trio.sleep(1)
        assert heard[2:] == [SECOND.sealed]
        town.service.met(town.neighbour.me)  # a new run of it may have forgotten
        await trio.sleep(1)
        assert heard[3:] == [SECOND.sealed]


async def test_a_version_that_does_not_speak_it_is_left_in_peace(autojump_clock: MockClock) -> None:
    async with a_town() as town:
        town.met.add(town.neighbour.me)
        town.service.take(SECOND.sealed)
        await trio.sleep(10 * AGAIN)
        with pytest.raises(Unreachable):
            async with town.me.open(town.neighbour.me, PROTOCOL_ID, patience=5.0):
                pass
