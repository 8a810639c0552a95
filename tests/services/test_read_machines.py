"""Reading what peers' records say of their machines, in virtual time: whose, when, and whose never."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import trio

from node.core.own_records import Setting
from node.core.peer_cells import BELIEVED, OTHERS, Known
from node.errors import Unavailable
from node.learner_ports import Authors
from node.services.read_machines import GAP, LOOK, PATIENCE, REREAD, MachineReader
from protocol.ids import PeerId
from tests.fakes.crowd import Crowd
from tests.protocol import swarm_samples
from tests.protocol.performance_samples import BENCHMARK, ENGINE, HARDWARE, MODEL

PEERS = [PeerId((8 * number + 9).to_bytes(32, "little")) for number in range(12)]
ME = swarm_samples.OTHER
SETTING = Setting(model=MODEL, hardware=HARDWARE, benchmark=BENCHMARK, engine=ENGINE)


@dataclass
class Heard(Known):
    """Notes who was heard, and how much it counts."""

    ranks: dict[PeerId, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()

    def hear(self, author: PeerId, settings: Sequence[Setting], rank: int = OTHERS) -> None:
        self.ranks[author] = rank
        super().hear(author, settings, rank)


class Stage:
    """A crowd, and what the history has of each of them."""

    def __init__(self) -> None:
        self.crowd = Crowd()
        self.records: dict[PeerId, tuple[Setting, ...]] = dict.fromkeys(PEERS, (SETTING,))
        self.read: list[PeerId] = []
        self.slow, self.broken = 0.0, False
        self.shunned: frozenset[PeerId] = frozenset()
        self.news = 0
        self.known = Heard()
        self.reader = MachineReader(
            self,
            self.known,
            book=self.crowd,
            authors=lambda: Authors(own=ME, known=frozenset(PEERS[:1]), shunned=self.shunned),
            changed=self.changed,
        )

    async def settings_of(self, author: PeerId) -> Sequence[Setting]:
        self.read.append(author)
        await trio.sleep(self.slow)
        if self.broken:
            raise Unavailable("the disk is gone")
        return self.records[author]

    def changed(self) -> None:
        self.news += 1


@asynccontextmanager
async def running(stage: Stage) -> AsyncIterator[Stage]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stage.reader.run)
        yield stage
        nursery.cancel_scope.cancel()


async def test_everybody_there_is_read_once_the_connected_ones_first_and_again_after_a_while(
    autojump_clock: object,
) -> None:
    stage = Stage()
    stage.crowd.near = set(PEERS[:6])
    async with running(stage):
        await trio.sleep(LOOK / 2)
        assert sorted(stage.read) == sorted(PEERS[:6])
        assert stage.known.ranks[PEERS[0]] == BELIEVED
        assert stage.known.ranks[PEERS[1]] == OTHERS
        assert stage.news == 1
        for peer in PEERS[6:]:
            stage.crowd.said[peer] = swarm_samples.advert()
        stage.crowd.near |= {PEERS[9]}
        await trio.sleep(LOOK)
        assert stage.read[6] == PEERS[9]
        assert sorted(stage.read) == sorted(PEERS)
        await trio.sleep(REREAD / 2)
        assert len(stage.read) == len(PEERS)
        stage.records[PEERS[3]] = (replace(SETTING, model=replace(MODEL, layers=1)),)
        await trio.sleep(REREAD)
        assert len(stage.read) == 2 * len(PEERS)
        assert stage.news == 3  # nobody else said anything new


async def test_nothing_is_believed_of_whom_this_node_parted_from(autojump_clock: object) -> None:
    stage = Stage()
    stage.crowd.near = set(PEERS[:2])
    async with running(stage):
        await trio.sleep(LOOK)
        assert len(stage.known) == 2
        stage.shunned = frozenset(PEERS[1:2])
        await trio.sleep(REREAD + LOOK)
        assert len(stage.known) == 1
        assert stage.read.count(PEERS[1]) == 1


async def test_a_disk_that_is_slow_or_gone_holds_up_nothing_but_the_reading(autojump_clock: object) -> None:
    stage = Stage()
    stage.crowd.near = set(PEERS[:2])
    stage.slow = 10 * PATIENCE
    async with running(stage):
        await trio.sleep(2 * (PATIENCE + GAP) + 1)
        assert len(stage.read) == 2
        assert len(stage.known) == stage.news == 0
        stage.slow, stage.broken = 0.0, True
        await trio.sleep(REREAD + LOOK)
        assert len(stage.read) == 4
        stage.broken = False
        await trio.sleep(REREAD + LOOK)
        assert len(stage.known) == 2
