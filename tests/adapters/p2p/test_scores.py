"""What gossip thinks of its neighbours: the worst are not heard, and honest ones lose nothing."""

import os
from contextlib import AsyncExitStack

import pytest
import trio
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.peer.id import ID
from libp2p.pubsub.pb import rpc_pb2
from libp2p.utils import encode_varint_prefixed

from node.adapters.p2p.routing import P2pGossip, open_gossip
from node.adapters.p2p.scores import NEIGHBOURS_MOST, NO_GOSSIP, NO_MESH, NO_MESSAGES, Router, Scorer
from node.core.conduct import Conduct
from protocol.gossip import Subject, Topic, message_id
from protocol.ids import PUBLIC_SWARM, PeerId
from tests.adapters.p2p.hosts import a_host, eventually, introduce

TOPIC = str(Topic(PUBLIC_SWARM, Subject.ADVERT))
ONE, OTHER = (ID.from_pubkey(create_new_key_pair(bytes([number] * 32)).public_key) for number in (1, 2))


def peer(identity: ID) -> PeerId:
    return PeerId.from_bytes(identity.to_bytes())


def the_router(gossip: P2pGossip) -> Router:
    assert isinstance(gossip.pubsub.router, Router)
    return gossip.pubsub.router


def test_of_whom_nothing_bad_is_known_everything_is_taken_and_nothing_remembered() -> None:
    scorer = Scorer()
    assert scorer.score(ONE, [TOPIC]) == 0
    assert scorer.allow_publish(ONE, [TOPIC])
    assert scorer.allow_gossip(ONE, [TOPIC])
    assert not scorer.is_graylisted(ONE, [TOPIC])
    scorer.on_heartbeat()
    assert not scorer.behavior_penalty
    assert not scorer.first_message_deliveries


def test_what_is_late_or_said_too_often_is_no_offence() -> None:
    scorer = Scorer()
    for _ in range(1000):
        scorer.on_invalid_message(ONE, TOPIC)
    assert scorer.score(ONE, [TOPIC]) == 0


def test_offences_cost_gossip_then_messages_then_the_mesh_and_are_forgotten() -> None:
    scorer, conduct, now = Scorer(), Conduct(), 0.0
    scorer.standing = lambda who: conduct.standing(who, now)
    lost = []
    for _ in range(3):
        conduct.blame(peer(ONE), "bad_signature", now)
        score = scorer.score(ONE, [TOPIC])
        lost.append([score < bound for bound in (NO_GOSSIP, NO_MESSAGES, NO_MESH)])
    assert lost == [[False, False, False], [True, False, False], [True, True, True]]
    assert conduct.outcast(peer(ONE), now)
    assert not scorer.allow_publish(ONE, [TOPIC])
    assert scorer.allow_publish(OTHER, [TOPIC])
    now += 3600.0
    assert scorer.allow_publish(ONE, [TOPIC])


def test_a_flood_is_not_heard_until_half_a_minute_after_its_end_and_a_burst_is_borne() -> None:
    scorer = Scorer()
    for _ in range(10):
        scorer.penalize_behavior(ONE, 5.0)  # ten messages beyond 200 in one second
    assert scorer.allow_publish(ONE, [TOPIC])
    for _ in range(200):
        scorer.penalize_behavior(ONE, 5.0)
    assert not scorer.allow_publish(ONE, [TOPIC])
    assert scorer.is_graylisted(ONE, [TOPIC])
    for _ in range(30):
        scorer.on_heartbeat()
    assert scorer.allow_publish(ONE, [TOPIC])


def test_many_at_one_address_are_the_first_to_go_and_lose_nothing_else() -> None:
    scorer = Scorer()
    crowd = [ID.from_pubkey(create_new_key_pair(os.urandom(32)).public_key) for _ in range(40)]
    for each in crowd[:8]:
        scorer.add_peer_ip(each, "8.8.4.4")
    assert scorer.score(crowd[0], [TOPIC]) == 0
    for each in crowd:
        scorer.add_peer_ip(each, "8.8.4.4")
    assert scorer.score(crowd[0], [TOPIC]) == -NEIGHBOURS_MOST
    assert scorer.allow_publish(crowd[0], [TOPIC])
    assert not scorer.is_graylisted(crowd[0], [TOPIC])


@pytest.mark.slow
@pytest.mark.libp2p
async def test_an_outcast_is_not_heard_over_real_sockets_and_the_others_are() -> None:
    standing: dict[PeerId, float] = {}
    async with AsyncExitStack() as stack:
        hosts = [await stack.enter_async_context(a_host()) for _ in range(3)]
        opened = [open_gossip(host, topics={TOPIC}, message_id=message_id) for host in hosts]
        gossips: list[P2pGossip] = [await stack.enter_async_context(each) for each in opened]
        feeds = [await stack.enter_async_context(each.subscribe(TOPIC, lambda *_: True)) for each in gossips]
        middle, good, bad = hosts
        gossips[0].weigh(lambda who: standing.get(who, 1.0))
        heard: list[bytes] = []

        async def listen() -> None:
            async for data in feeds[0]:
                heard.append(data)  # noqa: PERF401 -- one by one, as they come

        nursery = await stack.enter_async_context(trio.open_nursery())
        nursery.start_soon(listen)
        for host in (good, bad):
            await introduce(host, middle)
        mesh = gossips[0].pubsub.router.mesh
        await eventually(lambda: len(mesh.get(TOPIC, ())) == 2)
        for number in range(50):
            await gossips[1].publish(TOPIC, b"good %d" % number)
            await gossips[2].publish(TOPIC, b"bad %d" % number)
        await eventually(lambda: len(heard) == 100)
        standing[bad.me] = 0.125  # three offences
        for number in range(50, 100):
            await gossips[2].publish(TOPIC, b"bad %d" % number)
            await gossips[1].publish(TOPIC, b"good %d" % number)
        await eventually(lambda: sum(data.startswith(b"good") for data in heard) == 100)
        assert sum(data.startswith(b"bad") for data in heard) == 50
        nursery.cancel_scope.cancel()


@pytest.mark.slow
@pytest.mark.libp2p
async def test_who_starts_anew_does_not_repeat_the_numbers_of_its_former_messages() -> None:
    seed, said = os.urandom(32), list[bytes]()
    for _ in range(2):
        async with a_host(seed=seed) as host, open_gossip(host, topics={TOPIC}, message_id=message_id) as gossip:
            for _ in range(100):
                said.append(gossip.pubsub._next_seqno())
    assert len(set(said)) == 200


@pytest.mark.slow
@pytest.mark.libp2p
async def test_a_message_that_is_wanted_a_thousand_times_is_given_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what was missed is given at all: by the name that all of gossip knows it by."""
    async with AsyncExitStack() as stack:
        server, client = [await stack.enter_async_context(a_host()) for _ in range(2)]
        gossips = [
            await stack.enter_async_context(open_gossip(host, topics={TOPIC}, message_id=message_id))
            for host in (server, client)
        ]
        for each in gossips:
            await stack.enter_async_context(each.subscribe(TOPIC, lambda *_: True))
        await introduce(client, server)
        await eventually(lambda: bool(gossips[0].pubsub.router.mesh.get(TOPIC)))
        data = os.urandom(20_000)
        await gossips[0].publish(TOPIC, data)
        given: list[rpc_pb2.RPC] = []
        router = the_router(gossips[0])
        monkeypatch.setattr(router, "send_rpc", lambda _peer, packet, priority=False: given.append(packet))
        packet = rpc_pb2.RPC()
        packet.control.iwant.append(rpc_pb2.ControlIWant(messageIDs=[message_id(TOPIC, data)] * 1000))
        stream = next(iter(gossips[1].pubsub.peers.values()))
        await stream.write(encode_varint_prefixed(packet.SerializeToString()))
        await eventually(lambda: any(each.publish for each in given))
        assert [message.data for each in given for message in each.publish] == [data]


@pytest.mark.slow
@pytest.mark.libp2p
async def test_what_a_neighbour_tells_of_is_found_among_what_was_seen_and_not_asked_for_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with AsyncExitStack() as stack:
        server, client = [await stack.enter_async_context(a_host()) for _ in range(2)]
        gossips = [
            await stack.enter_async_context(open_gossip(host, topics={TOPIC}, message_id=message_id))
            for host in (server, client)
        ]
        feeds = [await stack.enter_async_context(each.subscribe(TOPIC, lambda *_: True)) for each in gossips]
        await introduce(client, server)
        await eventually(lambda: all(bool(each.pubsub.router.mesh.get(TOPIC)) for each in gossips))
        await gossips[0].publish(TOPIC, b"news")
        with trio.fail_after(5):
            assert await feeds[1].receive() == b"news"
        asked: list[object] = []
        router = the_router(gossips[1])

        async def emit(names: object, _to: object) -> None:
            asked.append(names)

        monkeypatch.setattr(router, "emit_iwant", emit)
        told = rpc_pb2.ControlIHave(topicID=TOPIC, messageIDs=the_router(gossips[0]).mcache.window(TOPIC))
        assert len(told.messageIDs) == 1
        await router.handle_ihave(told, ID(server.me.to_bytes()))
        assert asked == []
        assert not router.equivocation_detection  # libp2p would keep the last 1,000 messages whole
