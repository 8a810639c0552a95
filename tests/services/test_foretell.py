"""Keeping curves of everybody, in virtual time: who is asked about when, what counts when the learner is away."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from trio.abc import Instrument

from node.core.curves import COMPOSITE, LEARNER, LOADS, PHYSICS, PROMPTS, UNKNOWN_ROW, Shelf
from node.core.own_records import Setting
from node.core.peer_cells import NAME_ONLY, Known
from node.core.strategy import Strategy, to_plain
from node.errors import EngineUnavailable
from node.learner.worker import Worker
from node.learner_ports import Authors, Said
from node.record_ports import HistoryFacts
from node.services.foretell import AGAIN, BATCH, FRESH, LOOK, RELEARN, SETTLE, SLICE, VALID, Foretell, Own
from node.services.learn import LearnerPolicy, Learning
from protocol.advert import SERVE, Accelerator, Hardware, ModelOffer
from protocol.ids import PeerId
from tests.fakes.crowd import Crowd
from tests.fakes.learner import FakeLearner, FakeLessons, hands_of
from tests.protocol import swarm_samples
from tests.protocol.performance_samples import BENCHMARK, ENGINE, HARDWARE, MODEL

KEYS = [Ed25519PrivateKey.from_private_bytes(bytes([9, index]) + bytes(30)) for index in range(BATCH * 2 + 4)]
PEERS = [PeerId.from_public_key(key.public_key().public_bytes_raw()) for key in KEYS]
ME = swarm_samples.OTHER
NAME = MODEL.name or ""
SETTING = Setting(model=MODEL, hardware=HARDWARE, benchmark=BENCHMARK, engine=ENGINE)
SOON = LOOK + 4 * SETTLE


def offer(name: str = NAME) -> ModelOffer:
    return ModelOffer(name=name, max_length=4096)


def said(scale: float, source: str = LEARNER) -> dict[str, Any]:
    points = len(PROMPTS) * len(LOADS)
    return {
        "prompts": list(PROMPTS),
        "loads": list(LOADS),
        "ttft_s": [scale] * points,
        "ttft_half_width": [0.5] * points,
        "tpot_s": [scale / 10] * len(LOADS),
        "tpot_half_width": [0.5] * len(LOADS),
        "queued_token_s": 0.0,
        "source": source,
    }


class Stage:
    """A crowd, a learner in memory behind the real `Learning`, and what keeps the shelf.

    The learner foretells a second for each sequence that the strategy decodes together.
    """

    def __init__(self, *, own: Own | None = None, most: int = 4000, enabled: bool = True, records: int = 0) -> None:
        self.crowd = Crowd()
        self.learner = FakeLearner()
        self.source = LEARNER
        self.learner.answers["curves"] = self.answer
        self.records = records
        self.learning = Learning(
            hands_of(self.learner, FakeLessons(lambda: self.records)),
            policy=LearnerPolicy(enabled=enabled),
            history=lambda: HistoryFacts(records=self.records, authors=3, bytes=0, quarantined=0, rejected={}),
            written=lambda: 0,
            authors=lambda: Authors(own=ME),
            busy=lambda: False,
            luck=lambda: 0.5,
            wall=lambda: 0,
        )
        self.shelf, self.known = Shelf(), Known()
        self.foretell = Foretell(
            self.shelf, self.learning, me=ME, book=self.crowd, known=self.known, own=own, most=most
        )

    def answer(self, what: dict[str, Any]) -> Said:
        return {"curves": [said(row.get("strategy.max_num_seqs", 1), self.source) for row in what["cells"]]}

    def say(self, number: int, seqs: int = 1, seq: int = 1, **fields: object) -> PeerId:
        strategy = to_plain(Strategy(max_num_seqs=seqs))
        fields = {"models": (offer(),), "strategy": strategy} | fields
        peer = self.crowd.say(swarm_samples.advert(KEYS[number], seq=seq, **fields))
        self.foretell.look_again()
        return peer

    @property
    def questions(self) -> list[int]:
        """How many cells each question had."""
        return [len(what["cells"]) for do, what in self.learner.asked if do == "curves"]

    def ttft(self, *peers: PeerId, model: str = NAME) -> list[float]:
        return [round(float(each), 6) for each in np.exp(self.shelf.ttft(self.shelf.rows(peers, model), 16, 1)[0])]

    def sources(self, *peers: PeerId, model: str = NAME) -> list[str]:
        return [self.shelf.source(int(row)) for row in self.shelf.rows(peers, model)]


@asynccontextmanager
async def running(stage: Stage) -> AsyncIterator[Stage]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stage.learning.run)
        nursery.start_soon(stage.foretell.run)
        yield stage
        nursery.cancel_scope.cancel()


async def test_everybody_who_serves_gets_a_curve_and_those_alike_share_a_question(autojump_clock: object) -> None:
    async with running(Stage()) as stage:
        one, two, alike = stage.say(0, 2), stage.say(1, 3), stage.say(2, 2)
        silent = stage.say(3, roles=())
        await trio.sleep(SOON)
        assert stage.ttft(one, two, alike) == [2.0, 3.0, 2.0]
        assert stage.sources(silent, one) == [COMPOSITE, LEARNER]
        assert stage.questions == [2]
        facts = stage.foretell.facts()
        assert (facts["wanted"], facts["cells"], facts["asked"], facts["answered"], facts["trouble"]) == (
            3,
            2,
            2,
            2,
            "",
        )
        assert facts["curves"] == {LEARNER: 3, PHYSICS: 0, COMPOSITE: 0}


async def test_what_only_a_name_tells_of_has_a_wider_interval_than_what_the_learner_says(
    autojump_clock: object,
) -> None:
    async with running(Stage()) as stage:
        peer = stage.say(0, hardware=Hardware(accelerators=(Accelerator(name="Wonder 9000", count=1),)))
        await trio.sleep(SOON)
        rows = stage.shelf.rows([peer], NAME)
        assert stage.shelf.tpot(rows, 1)[1][0] > np.hypot(0.5, NAME_ONLY)


async def test_a_changed_advert_is_asked_about_at_once_and_an_equal_one_is_not(autojump_clock: object) -> None:
    async with running(Stage()) as stage:
        peer = stage.say(0, 2)
        await trio.sleep(SOON)
        stage.say(0, 2, seq=2)
        await trio.sleep(SOON)
        assert stage.questions == [1]
        stage.say(0, 5, seq=3)
        await trio.sleep(2 * SETTLE)
        assert stage.ttft(peer) == [5.0]
        assert stage.questions == [1, 1]


async def test_who_leaves_is_dropped_and_who_comes_back_needs_no_question(autojump_clock: object) -> None:
    async with running(Stage()) as stage:
        peer = stage.say(0, 2)
        await trio.sleep(SOON)
        stage.crowd.leave(peer)
        await trio.sleep(SOON)
        assert stage.shelf.rows([peer], NAME).tolist() == [UNKNOWN_ROW]
        stage.say(0, 2, seq=2, models=(offer(), offer("another")))
        await trio.sleep(2 * SETTLE)
        assert stage.ttft(peer) == [2.0]
        assert stage.ttft(peer, model="another") == [2.0]
        assert stage.questions == [1, 1]
        stage.say(0, 2, seq=3, models=(offer("another"),))
        await trio.sleep(2 * SETTLE)
        assert stage.sources(peer) == [COMPOSITE]
        assert stage.sources(peer, model="another") == [LEARNER]


async def test_a_lesson_and_an_hour_make_everything_be_asked_about_again(autojump_clock: object) -> None:
    async with running(Stage()) as stage:
        peer = stage.say(0, 2)
        await trio.sleep(SOON)
        assert stage.questions == [1]
        stage.records = 1000  # enough for a lesson
        stage.learner.answers["curves"] = lambda what: {"curves": [said(7.0) for _ in what["cells"]]}
        await trio.sleep(300)
        assert stage.learning.lessons == 1
        assert stage.ttft(peer) == [7.0]
        assert stage.questions == [1, 1]
        await trio.sleep(FRESH)
        assert stage.questions == [1, 1, 1]


async def test_many_are_asked_about_in_parts_and_no_more_than_may_be_kept(autojump_clock: object) -> None:
    async with running(Stage(most=BATCH + 3)) as stage:
        stage.crowd.near |= {PEERS[number] for number in range(BATCH, BATCH + 6)}
        for number in range(BATCH * 2):
            stage.say(number, number + 1)
        await trio.sleep(SOON)
        assert stage.questions == [BATCH, 3]
        assert len(stage.shelf) == BATCH + 3
        assert COMPOSITE not in stage.sources(*[PEERS[number] for number in range(BATCH, BATCH + 6)])


async def test_without_a_learner_routing_goes_on_with_the_composite(autojump_clock: object) -> None:
    async with running(Stage(enabled=False)) as stage:
        peer = stage.say(0)
        await trio.sleep(SOON)
        assert stage.sources(peer) == [COMPOSITE]
        facts = stage.foretell.facts()
        assert "learner.enabled" in facts["trouble"]
        assert facts["unanswered"] == facts["asked"] > 0
        await trio.sleep(3600)
        assert stage.foretell.facts()["asked"] <= len(AGAIN) + 3600 / AGAIN[-1] + 2


async def test_without_a_learner_a_machine_that_was_measured_is_foretold_by_memory_and_arithmetic(
    autojump_clock: object,
) -> None:
    async with running(Stage(enabled=False)) as stage:
        stage.known.hear(PEERS[0], [SETTING])
        measured = stage.say(0, hardware=Hardware(accelerators=(Accelerator(name=HARDWARE.name, count=1),)))
        other = stage.say(1)
        await trio.sleep(SOON)
        assert stage.sources(measured, other) == [PHYSICS, COMPOSITE]
        rows = stage.shelf.rows([measured], NAME)
        assert 0.018 < np.exp(stage.shelf.tpot(rows, 1)[0][0]) < 0.03
        assert stage.foretell.facts()["curves"] == {LEARNER: 0, PHYSICS: 1, COMPOSITE: 0}


async def test_what_a_learner_said_that_is_away_counts_for_a_day_and_it_is_asked_more_seldom(
    autojump_clock: object,
) -> None:
    async with running(Stage()) as stage:
        peer = stage.say(0, 2)
        await trio.sleep(SOON)
        begin = trio.current_time()
        stage.learner.slow["curves"] = 1e6
        await trio.sleep(FRESH + VALID / 2)
        assert stage.ttft(peer) == [2.0]
        assert stage.foretell.facts()["oldest_s"] > VALID / 2
        asked = len(stage.questions)
        await trio.sleep(VALID / 2)
        assert len(stage.questions) - asked < VALID / 2 / AGAIN[-1] + 2
        assert trio.current_time() - begin > VALID
        assert stage.sources(peer) == [COMPOSITE]
        stage.learner.slow.clear()
        await trio.sleep(2 * AGAIN[-1])
        assert stage.ttft(peer) == [2.0]
        assert stage.foretell.facts()["trouble"] == ""


async def test_physics_does_not_replace_what_a_learner_that_died_had_learnt(autojump_clock: object) -> None:
    async with running(Stage()) as stage:
        peer = stage.say(0, 2)
        await trio.sleep(SOON)
        stage.source = PHYSICS
        await trio.sleep(FRESH + SOON)
        assert len(stage.questions) == 2
        assert stage.sources(peer) == [LEARNER]
        newcomer = stage.say(1, 3)
        await trio.sleep(SOON)
        assert stage.sources(newcomer) == [PHYSICS]
        await trio.sleep(VALID)
        assert stage.sources(peer) == [PHYSICS]
        stage.source = LEARNER
        await trio.sleep(FRESH + SOON)
        assert stage.sources(peer, newcomer) == [LEARNER, LEARNER]


async def test_nonsense_is_counted_and_asked_about_no_sooner_for_it(autojump_clock: object) -> None:
    async with running(Stage()) as stage:
        stage.learner.answers["curves"] = lambda what: {
            "curves": [said(2.0), {"ttft_s": "soon"}, {}][: len(what["cells"])]
        }
        peers = stage.say(0, 1), stage.say(1, 2), stage.say(2, 3)
        await trio.sleep(FRESH / 2)
        assert sorted(stage.sources(*peers)) == [COMPOSITE, COMPOSITE, LEARNER]
        assert stage.foretell.facts()["nonsense"] == 2
        assert "no curve" in stage.foretell.facts()["trouble"]
        assert stage.questions == [3]
        stage.learner.answers["curves"] = lambda what: {"curves": [{"ttft_s": "soon"}] * len(what["cells"])}
        await trio.sleep(FRESH)
        assert sorted(stage.sources(*peers)) == [COMPOSITE, COMPOSITE, LEARNER]  # what it said before counts on


async def test_this_node_s_own_engine_stands_beside_the_peers_under_what_it_runs_now(autojump_clock: object) -> None:
    strategy, tries = Strategy(max_num_seqs=4), 0

    async def setting() -> Setting | None:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise EngineUnavailable("not yet")
        return replace(SETTING, model=replace(MODEL, max_length=4096))

    stage = Stage(own=Own(now=lambda: (NAME, strategy), setting=setting))
    async with running(stage):
        for _ in range(5):
            stage.foretell.look_again()
            await trio.sleep(2 * SETTLE)
        assert tries == 1
        await trio.sleep(3 * LOOK)
        assert tries == 2
        assert stage.questions == []  # alone there is nothing to decide
        peer = stage.say(0, 4)
        await trio.sleep(SOON)
        assert stage.ttft(ME, peer) == [4.0, 4.0]
        strategy = Strategy(max_num_seqs=9)
        stage.foretell.look_again()
        await trio.sleep(2 * SETTLE)
        assert stage.ttft(ME, peer) == [9.0, 4.0]
        assert tries == 2
        (row,) = [what["cells"][0] for do, what in stage.learner.asked if do == "curves"][-1:]
        assert row["hardware.measured_gemv_bytes_per_s"] == 840e9


async def test_what_records_tell_of_a_machine_makes_another_cell_of_it(autojump_clock: object) -> None:
    async with running(Stage()) as stage:
        stage.say(0, hardware=Hardware(accelerators=(Accelerator(name=HARDWARE.name, count=1),)), roles=(SERVE,))
        await trio.sleep(SOON)
        stage.known.hear(PEERS[0], [SETTING])
        stage.foretell.look_again()
        await trio.sleep(RELEARN + SOON)
        first, second = [what["cells"][0] for do, what in stage.learner.asked if do == "curves"]
        assert "hardware.measured_gemv_bytes_per_s" not in first
        assert second["hardware.measured_gemv_bytes_per_s"] == 840e9
        assert second["model.layers"] == MODEL.layers


async def test_the_learner_s_own_physics_tells_a_fast_machine_from_a_slow_one(autojump_clock: object) -> None:
    stage = Stage()
    worker = Worker(lambda _: None, lambda: 0.0)
    stage.learner.answers["curves"] = lambda what: json.loads(json.dumps(worker.answer({"do": "curves", **what})))
    async with running(stage):
        for number, share in enumerate((1, 4)):
            slower = replace(
                BENCHMARK,
                gemv_bf16_bytes_per_s=840_000_000_000 // share,
                gemm_bf16_mflops=65_000_000 // share,
            )
            device = f"device {number}"
            setting = replace(SETTING, benchmark=slower, hardware=replace(HARDWARE, name=device))
            stage.known.hear(PEERS[number], [setting])
            stage.say(number, 64, hardware=Hardware(accelerators=(Accelerator(name=device, count=1),)))
        await trio.sleep(SOON)
        assert stage.sources(*PEERS[:2]) == [PHYSICS, PHYSICS]
        rows = stage.shelf.rows(PEERS[:2], NAME)
        fast, slow = np.exp(stage.shelf.tpot(rows, 1)[0])
        assert slow / fast == pytest.approx(4, rel=0.3)
        assert 0.018 < fast < 0.03  # 16 GB at 840 GB/s, and what comes on top
        fast, slow = np.exp(stage.shelf.ttft(rows, 4096, 1)[0])
        assert slow / fast == pytest.approx(4, rel=0.3)


class Steps(Instrument):
    """Counts how many curves come to the shelf while the loop can do nothing else."""

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf
        self.most = self._before = 0

    def before_task_step(self, task: object) -> None:
        self._before = len(self.shelf)

    def after_task_step(self, task: object) -> None:
        self.most = max(self.most, len(self.shelf) - self._before)


async def test_the_loop_never_stands_still_for_a_large_swarm(autojump_clock: object) -> None:
    async with running(Stage()) as stage:
        steps = Steps(stage.shelf)
        trio.lowlevel.add_instrument(steps)
        for number in range(len(KEYS)):
            stage.say(number, number + 1)
        await trio.sleep(SOON)
        trio.lowlevel.remove_instrument(steps)
        assert len(stage.shelf) == len(KEYS)
        assert 0 < steps.most <= SLICE
