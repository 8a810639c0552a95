"""When a node speaks of itself, and that nothing which goes wrong with it silences the node."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise

import pytest
import trio
from trio.testing import MockClock

from node.core.peerbook import Peerbook
from node.core.self_advert import Description, OwnAdverts
from node.services.announce import LEAVE, Announcer
from protocol.advert import ADVERT, SERVE, Advert, ModelOffer
from protocol.hello import Settled
from protocol.ids import PUBLIC_SWARM, Epoch, PeerId
from protocol.records import open_unverified
from tests.services.members import START_US, World, a_key, member, peer_of, until, wall


@dataclass
class Air:
    """Takes what is published; may hang."""

    said: list[tuple[float, Advert]] = field(default_factory=list)
    hangs: bool = False

    async def publish(self, topic: str, data: bytes) -> None:
        self.said.append((trio.current_time(), open_unverified(data, ADVERT)))
        if self.hangs:
            await trio.sleep_forever()

    @asynccontextmanager
    async def subscribe(self, topic: str, judge: object) -> AsyncIterator[trio.MemoryReceiveChannel[bytes]]:
        raise AssertionError("an announcer does not listen")
        yield


@dataclass
class Table:
    """Takes what is put; may hang, refuse, or have nobody to give it to."""

    held: list[tuple[float, int]] = field(default_factory=list)
    hangs: bool = False
    refuses: bool = False
    nodes: int = 3

    async def put(self, key: str, value: bytes) -> int:
        self.held.append((trio.current_time(), open_unverified(value, ADVERT).stamp.seq))
        if self.hangs:
            await trio.sleep_forever()
        if self.refuses:
            raise ValueError("expired")
        return self.nodes

    async def get(self, key: str) -> bytes | None:
        raise AssertionError

    async def provide(self, key: str) -> None:
        raise AssertionError

    async def providers(self, key: str) -> tuple[()]:
        raise AssertionError


class Speaker:
    """An announcer between fakes that only count."""

    def __init__(self, *, book: Peerbook | None = None, luck: random.Random | None = None) -> None:
        key = a_key()
        self.me = peer_of(key)
        self.book = Peerbook(self.me) if book is None else book
        self.air, self.table = Air(), Table()
        self.description = Description(models=(ModelOffer(name="tiny"),), roles=(SERVE,))
        self.announcer = Announcer(
            self.air,
            self.table,
            book=self.book,
            own=OwnAdverts(me=self.me, swarm=PUBLIC_SWARM, epoch=Epoch(START_US), version="0.1.0"),
            key=key,
            describe=lambda: self.description,
            wall=wall,
            luck=(luck or random.Random(5)).random,  # noqa: S311 -- luck, not secrets
        )

    def meet(self, peer: PeerId | None = None) -> None:
        settled = Settled(
            peer=peer or peer_of(a_key()),
            incarnation=Epoch(START_US),
            software="metainf/0.1.0",
            versions={"infer": 1},
            features=frozenset(),
            skew_us=0,
        )
        self.book.connected(settled, dialled=True, now=trio.current_time())
        self.announcer.met(settled.peer)

    def times(self) -> list[float]:
        return [when for when, _ in self.air.said]


@asynccontextmanager
async def speaking(speaker: Speaker) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(speaker.announcer.run)
        yield
        nursery.cancel_scope.cancel()


async def test_a_node_that_is_alone_says_nothing_and_the_first_it_meets_hears_it_twice(
    autojump_clock: MockClock,
) -> None:
    speaker = Speaker()
    async with speaking(speaker):
        await trio.sleep(600)
        assert speaker.times() == []
        speaker.meet()
        await trio.sleep(3)
        first, second = speaker.times()
        assert first - 600 <= 1.0
        assert 1.0 < second - 600 <= 2.1
        await trio.sleep(600)
        assert 10 <= len(speaker.times()) - 2 <= 12
        assert [advert.stamp.seq for _, advert in speaker.air.said] == list(range(1, len(speaker.times()) + 1))


async def test_a_change_is_said_within_three_seconds_and_a_flurry_of_them_not_each(autojump_clock: MockClock) -> None:
    speaker = Speaker()
    async with speaking(speaker):
        speaker.meet()
        await trio.sleep(30)
        before = len(speaker.times())
        speaker.description = replace(speaker.description, models=())
        await trio.sleep(3)
        assert len(speaker.times()) == before + 1
        assert speaker.air.said[-1][1].models == ()
        assert speaker.table.held[-1][1] == before + 1
        await trio.sleep(30)
        before = len(speaker.times())
        for index in range(100):
            speaker.description = replace(speaker.description, name=f"n{index}")
            speaker.announcer.look_again()
            await trio.sleep(0.1)
        await trio.sleep(7)
        assert len(speaker.times()) - before <= 3 + 17 / 5
        assert speaker.air.said[-1][1].name == "n99"


async def test_of_a_large_swarm_about_sixteen_answer_a_newcomer_spread_over_two_seconds(
    autojump_clock: MockClock,
) -> None:
    luck = random.Random(11)  # noqa: S311 -- luck, not secrets
    book = Peerbook(peer_of(a_key()))
    speakers = [Speaker(book=book, luck=luck) for _ in range(200)]
    speakers[0].meet()
    for _ in range(198):
        settled = Settled(
            peer=peer_of(a_key()),
            incarnation=Epoch(START_US),
            software="metainf/0.1.0",
            versions={},
            features=frozenset(),
            skew_us=0,
        )
        book.connected(settled, dialled=False, now=0.0)
    async with trio.open_nursery() as nursery:
        for speaker in speakers[1:]:
            nursery.start_soon(speaker.announcer.run)
        await trio.sleep(1)
        began = trio.current_time()
        for speaker in speakers[1:]:
            speaker.announcer.newcomer(peer_of(a_key()))
        await trio.sleep(5)
        answers = [when - began for speaker in speakers[1:] for when in speaker.times()]
        assert 6 <= len(answers) <= 30
        assert min(answers) >= 0.2
        assert max(answers) <= 2.1
        nursery.cancel_scope.cancel()


async def test_a_storm_of_newcomers_makes_a_node_speak_once_in_five_seconds_at_most(autojump_clock: MockClock) -> None:
    speaker = Speaker()
    async with speaking(speaker):
        for _ in range(500):
            speaker.meet()
            speaker.announcer.newcomer(peer_of(a_key()))
            await trio.sleep(0.2)
        assert len(speaker.times()) <= 3 + 100 / 5


async def test_the_advert_in_the_directory_is_replaced_before_its_life_ends(autojump_clock: MockClock) -> None:
    speaker = Speaker()
    async with speaking(speaker):
        speaker.meet()
        await trio.sleep(1800)
        puts = [when for when, _ in speaker.table.held]
        assert max(later - earlier for earlier, later in pairwise(puts)) < 180
        assert len(puts) <= 1 + 1800 / 90


@pytest.mark.parametrize("trouble", [{"hangs": True}, {"refuses": True}, {"nodes": 0}])
async def test_a_directory_that_hangs_refuses_or_knows_nobody_silences_nothing_and_is_tried_again(
    autojump_clock: MockClock, trouble: dict[str, object]
) -> None:
    speaker = Speaker()
    for name, value in trouble.items():
        setattr(speaker.table, name, value)
    async with speaking(speaker):
        speaker.meet()
        await trio.sleep(300)
        assert len(speaker.times()) >= 6
        assert len(speaker.table.held) >= 3


async def test_a_leave_takes_two_seconds_at_most_and_is_the_last_word(autojump_clock: MockClock) -> None:
    speaker = Speaker()
    async with speaking(speaker):
        speaker.meet()
        await trio.sleep(10)
        speaker.air.hangs = speaker.table.hangs = True
        before = trio.current_time()
        await speaker.announcer.leave()
        assert trio.current_time() - before <= LEAVE
        last = speaker.air.said[-1][1]
        assert last.leaving
        assert last.stamp.expiry >= max(advert.stamp.expiry for _, advert in speaker.air.said)
        speaker.air.hangs = False
        speaker.meet()
        speaker.description = Description(name="other")
        await trio.sleep(600)
        await speaker.announcer.leave()
        assert speaker.air.said[-1][1] is last


async def test_a_node_that_never_spoke_has_nothing_to_take_back(autojump_clock: MockClock) -> None:
    speaker = Speaker()
    with trio.fail_after(0.1):
        await speaker.announcer.leave()
    assert speaker.times() == []


async def test_a_model_that_becomes_ready_is_known_to_all_in_three_seconds(autojump_clock: MockClock) -> None:
    world = World()
    async with member(world) as one, member(world, one.node.address) as two:
        two.description[0] = replace(two.description[0], models=())
        await trio.sleep(30)
        assert one.known() == set()
        two.description[0] = replace(two.description[0], models=(ModelOffer(name="tiny"),))
        await until(lambda: one.known() == {two.me}, 3)
