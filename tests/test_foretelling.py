"""The tables that routing reads: there from the first moment, filled once somebody can be asked."""

from collections.abc import Mapping, Sequence
from typing import Any

import trio

from node.core.curves import COMPOSITE, LEARNER, LOADS, PROMPTS
from node.core.own_records import Setting
from node.core.peerbook import Peerbook
from node.core.strategy import Strategy
from node.foretelling import Foretelling
from node.learner_ports import Authors
from node.services.foretell import Own
from protocol import limits
from protocol.ids import PeerId
from tests.fakes.network import FakeNetwork
from tests.protocol import samples, swarm_samples
from tests.protocol.performance_samples import BENCHMARK, ENGINE, HARDWARE, MODEL

ME, PEER = swarm_samples.OTHER, samples.AUTHOR
SETTING = Setting(model=MODEL, hardware=HARDWARE, benchmark=BENCHMARK, engine=ENGINE)


class Known:
    """A learner that always answers, and a history that knows everybody."""

    lessons = 0

    def __init__(self) -> None:
        self.asked: list[Mapping[str, object]] = []
        self.read: list[PeerId] = []

    async def learnt(self, than: int) -> int:
        await trio.sleep_forever()
        return than

    async def curves(self, cells: Sequence[Mapping[str, object]]) -> Sequence[Mapping[str, Any]]:
        await trio.lowlevel.checkpoint()
        self.asked += cells
        points = len(PROMPTS) * len(LOADS)
        one = {
            "prompts": list(PROMPTS), "loads": list(LOADS), "ttft_s": [1.0] * points, "ttft_half_width": [0.5] * points,
            "tpot_s": [0.1] * len(LOADS), "tpot_half_width": [0.5] * len(LOADS), "queued_token_s": 0.0,
        }  # fmt: skip
        return [one] * len(cells)

    async def settings_of(self, author: PeerId) -> Sequence[Setting]:
        await trio.lowlevel.checkpoint()
        self.read.append(author)
        return (SETTING,)


async def test_tables_are_there_at_once_and_come_to_tell_of_peers_and_of_this_node(autojump_clock: object) -> None:
    known, book = Known(), Peerbook(ME)
    async with FakeNetwork().node(ME) as swarm, trio.open_nursery() as nursery:
        telling = Foretelling(ME, swarm=swarm, book=book)
        name = swarm_samples.MODEL.name
        assert [telling.shelf.source(int(row)) for row in telling.shelf.rows([PEER, ME], name)] == [COMPOSITE] * 2

        async def setting() -> Setting:
            await trio.lowlevel.checkpoint()
            return SETTING

        telling.look_again()
        telling.connect(
            known,
            authors=lambda: Authors(own=ME),
            told=known,
            own=Own(now=lambda: (name, Strategy()), setting=setting),
            shipped=[(PEER, SETTING)],
        )
        nursery.start_soon(telling.run)
        await trio.sleep(10)
        assert known.asked == []
        expiry = samples.NOW + limits.ADVERT_LIFETIME_US
        book.hear(swarm_samples.advert(expiry=expiry), via=None, now=trio.current_time(), now_us=samples.NOW)
        telling.look_again()
        await trio.sleep(20)
        assert [telling.shelf.source(int(row)) for row in telling.shelf.rows([PEER, ME], name)] == [LEARNER] * 2
        assert known.read == [PEER]
        assert telling.facts()["wanted"] == 2
        assert telling.facts()["authors"] == 2
        nursery.cancel_scope.cancel()


async def test_without_a_learner_distances_are_kept_all_the_same(autojump_clock: object) -> None:
    network = FakeNetwork()
    async with network.node(ME) as swarm, network.node(PEER) as other, trio.open_nursery() as nursery:
        telling = Foretelling(ME, swarm=swarm, book=Peerbook(ME))
        nursery.start_soon(telling.run)
        swarm.learn(PEER, other.addresses())
        await swarm.connect(PEER)
        await trio.sleep(10)
        assert telling.trips.rtt(PEER)[0] == 2 * network.weather.latency
        assert telling.facts() == {"distances": 1}
        nursery.cancel_scope.cancel()
