"""What comes in as news of others, and what becomes of it here."""

import random

import trio
from trio.testing import MockClock

from node.core.peerbook import Change, What
from protocol import limits
from protocol.ids import Epoch, SwarmId
from protocol.load import Load, Serving
from tests.protocol import swarm_samples
from tests.services.members import START_US, World, a_key, member, peer_of, until, wall

LOAD = Load(running=1, waiting=0, queued_tokens=0, slots=4, accepting=True, serving=Serving.READY)


def an_advert(key: object, *, seq: int = 1, epoch: int = START_US - 1, **fields: object) -> bytes:
    time = wall()
    stamp = {"epoch": Epoch(epoch), "seq": seq, "time": time, "expiry": time + 180 * limits.SECOND_US}
    return swarm_samples.advert(key, **(stamp | fields)).sealed  # type: ignore[arg-type]


async def test_a_thousand_forged_and_mutated_adverts_leave_the_book_as_it_was(autojump_clock: MockClock) -> None:
    luck, world = random.Random(3), World()  # noqa: S311 -- luck, not secrets
    async with member(world) as one, member(world, one.node.address) as two:
        await until(lambda: two.me in one.known(), 10)
        before = one.book.advert_of(two.me, trio.current_time())
        assert before is not None
        key = a_key()
        honest = an_advert(key)
        in_its_name = honest.replace(peer_of(key).to_bytes(), two.me.to_bytes())
        assert in_its_name != honest
        passed = 0
        for _ in range(1000):
            bad = bytearray(luck.choice([honest, before.sealed]))
            for _ in range(luck.randint(1, 4)):
                bad[luck.randrange(len(bad))] ^= 1 << luck.randrange(8)
            if luck.random() < 0.2:
                del bad[luck.randrange(len(bad)) :]
            passed += one.hears(bytes(bad))
        assert passed == 0
        assert sum(one.discovery.refused.values()) == 1000
        assert not one.hears(in_its_name)
        assert one.discovery.refused["bad_signature"] > 1
        assert not one.hears(an_advert(a_key(), swarm=SwarmId("other")))
        assert not one.hears(an_advert(a_key(), time=wall() + 10**9, expiry=wall() + 2 * 10**9))
        assert not one.hears(before.sealed)
        assert one.book.members(trio.current_time()) == (two.me,)
        assert one.book.advert_of(two.me, trio.current_time()) == before
        assert one.hears(honest)


async def test_a_peer_that_was_met_and_whom_gossip_does_not_bring_is_found_in_the_directory(
    autojump_clock: MockClock,
) -> None:
    world = World(loss=1.0)
    async with member(world) as one, member(world, one.node.address) as two:
        await until(lambda: two.me in one.known() and one.me in two.known(), 20)
        assert one.told("peer_joined", two.me)


async def test_what_an_outcast_brings_is_neither_taken_in_nor_passed_on(autojump_clock: MockClock) -> None:
    world, author = World(), a_key()
    async with member(world) as one, member(world, one.node.address) as two:
        one.outcasts.add(two.me)
        assert not one.hears(an_advert(author), two.me)
        assert peer_of(author) not in one.known()
        one.outcasts.clear()
        assert one.hears(an_advert(author), two.me)


async def test_what_is_known_of_a_replica_outlives_a_lost_connection_but_not_a_new_run_nor_a_leave(
    autojump_clock: MockClock,
) -> None:
    world = World()
    async with member(world) as one, member(world, one.node.address) as two:
        await until(lambda: two.me in one.known(), 10)
        now = trio.current_time()
        one.standings.failed(two.me, now)
        one.discovery.apply([Change(two.me, What.LOST)])
        assert one.standings.standing(two.me, now).closed == "failed"
        one.discovery.apply([Change(two.me, What.RESTARTED)])
        assert one.standings.standing(two.me, now).closed == ""
        one.standings.read(two.me, LOAD, now)
        for what in (What.LEFT, What.EXPIRED, What.DISPLACED):
            one.standings.read(two.me, LOAD, now)
            one.discovery.apply([Change(two.me, what)])
            assert not one.standings.standing(two.me, now).known


async def test_scripts_are_told_of_each_peer_once_when_it_comes_and_once_when_it_goes(
    autojump_clock: MockClock,
) -> None:
    key = a_key()
    async with member(World()) as one:
        for seq in range(1, 5):
            one.hears(an_advert(key, seq=seq, name="attic"))
            await trio.sleep(6)
        one.hears(an_advert(key, seq=1, epoch=START_US))
        one.hears(an_advert(key, seq=2, epoch=START_US, leaving=True, models=(), addresses=()))
        one.hears(an_advert(key, seq=3, epoch=START_US))
        await trio.sleep(181)
        story = [(event, facts.get("reason")) for event, facts in one.events]
        joined = ("peer_joined", None)
        assert story == [
            *(joined, ("peer_left", "restarted")),
            *(joined, ("peer_left", "left")),
            *(joined, ("peer_left", "expired")),
        ]
        assert one.events[0][1]["addresses"] == ["/ip4/192.0.2.7/tcp/47470"]


async def test_more_connections_are_wanted_up_to_the_target_and_the_choice_stands_for_a_while(
    autojump_clock: MockClock,
) -> None:
    async with member(World(), target=4) as one:
        for _ in range(40):
            one.hears(an_advert(a_key()))
        choices = {tuple(one.discovery.wanted()) for _ in range(20)}
        assert {len(choice) for choice in choices} == {4}
        assert len(choices) == 1
        await trio.sleep(11)
        assert tuple(one.discovery.wanted()) not in choices


async def test_the_addresses_of_an_advert_are_learnt_and_dialled(autojump_clock: MockClock) -> None:
    world, key = World(), a_key()
    async with member(world) as one:
        one.hears(an_advert(key, addresses=("/ip4/192.0.2.7/tcp/1", "/ip4/192.0.2.9/tcp/2/p2p/" + str(one.me))))
        (peer,) = one.book.members(trio.current_time())
        assert [str(each) for each in one.addresses.addresses(peer)] == [f"/ip4/192.0.2.7/tcp/1/p2p/{peer}"]
        one.hears(an_advert(key, seq=2, addresses=("/ip4/192.0.2.8/tcp/1",)))
        assert "192.0.2.8" in {each.host for each in one.addresses.addresses(peer)}
