"""Waiting for one's turn, at the edges: alone, beside strangers, cancelled."""

import random

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from node.core.peerbook import Peerbook
from node.core.standings import Standings
from node.core.turns import QUIET
from node.services.take_turns import Turns
from protocol.advert import SWITCH, SWITCHING, ModelOffer
from protocol.hello import Settled
from protocol.ids import PeerId
from protocol.load import Load, Serving
from tests.protocol import samples, swarm_samples
from tests.services.test_ask import KEYS, ME, PEERS


class Stage:
    def __init__(self) -> None:
        self.book = Peerbook(ME)
        self.standings = Standings()
        self.wanted: set[PeerId] = set()
        self.said: list[str | None] = []
        self.running = 0
        self.turns = Turns(
            me=ME,
            book=self.book,
            standings=self.standings,
            watch=self,
            running=lambda: self.running,
            announce=lambda: self.said.append(self.turns.intends()),
            luck=random.Random(3).random,  # noqa: S311 -- a test
        )

    def want(self, peers: tuple[PeerId, ...]) -> None:
        self.wanted |= set(peers)

    def introduce(self, index: int, *, connected: bool = True, intends: str | None = None) -> None:
        advert = swarm_samples.advert(
            KEYS[index], models=(ModelOffer(name="tiny"),), expiry=samples.NOW + 10**10, intends=intends
        )
        now = trio.current_time()
        self.book.hear(advert, via=None, now=now, now_us=samples.NOW)
        if connected:
            settled = Settled(
                peer=PEERS[index],
                incarnation=advert.body.stamp.epoch,
                software="metainf/0.1.0",
                versions={"infer": 1},
                features=frozenset(),
                skew_us=0,
            )
            self.book.connected(settled, dialled=True, now=now)

    async def take(self, model: str = "tiny") -> float:
        began = trio.current_time()
        async with self.turns.taken(model):
            assert self.turns.intends() == SWITCHING
            return trio.current_time() - began


async def test_a_node_by_itself_goes_at_once(autojump_clock: MockClock) -> None:
    it = Stage()
    it.running = 3
    assert await it.take() == 0.0
    assert it.said == [SWITCHING, None]


async def test_who_never_told_its_load_is_not_taken_for_somebody_who_serves(autojump_clock: MockClock) -> None:
    it = Stage()
    it.introduce(0)
    it.running = 1
    assert await it.take() > QUIET  # as the only replica does
    assert it.said == [SWITCH, SWITCHING, None]
    assert it.wanted == {PEERS[0]}  # it was asked


async def test_beside_one_that_serves_it_takes_seconds_and_beside_one_that_does_not_a_quiet_moment(
    autojump_clock: MockClock,
) -> None:
    for serving, least, most in ((Serving.READY, 3.0, 7.0), (Serving.DRAINING, QUIET, QUIET + 8.0)):
        it = Stage()
        it.introduce(0)
        it.running = 1
        async with trio.open_nursery() as nursery:

            async def tell(load: Load, it: Stage = it) -> None:
                while True:
                    it.standings.read(PEERS[0], load, trio.current_time())
                    await trio.sleep(2.0)

            nursery.start_soon(tell, Load(running=0, waiting=0, slots=4, serving=serving))
            assert least < await it.take() < most
            nursery.cancel_scope.cancel()


async def test_a_wait_that_is_cancelled_withdraws_the_intent(autojump_clock: MockClock) -> None:
    it = Stage()
    it.introduce(0, intends=SWITCHING)
    with trio.move_on_after(10) as patience:
        await it.take()
    assert patience.cancelled_caught
    assert it.said == [SWITCH, None]
    assert it.turns.intends() is None


async def test_one_turn_at_a_time(autojump_clock: MockClock) -> None:
    it = Stage()
    inside = 0

    async def one() -> None:
        nonlocal inside
        async with it.turns.taken("tiny"):
            inside += 1
            assert inside == 1
            await trio.sleep(5)
            inside -= 1

    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one)
        await wait_all_tasks_blocked()
        nursery.start_soon(one)
    assert trio.current_time() - began == 10.0
    assert it.said == [SWITCHING, None] * 2


async def test_a_name_that_nobody_can_ask_for_has_nobody_else_who_serves_it(autojump_clock: MockClock) -> None:
    it = Stage()
    it.introduce(0)
    assert await it.take("two words") < 7.0
