"""Teaching and asking a learner, in virtual time: one in memory that is late, mad, dumb or dead as a test says."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio

from node.core.learning import AGAIN, EVERY, LEAST, LEAST_REST, MOST, REST, Gain, Late, Probe, Schedule, number
from node.errors import Unavailable
from node.learner_ports import Authors, Said
from node.record_ports import OWN_ROWS, HistoryFacts
from node.services.learn import ANSWER, LOOK, LearnerPolicy, Learning
from node.services.teach import LESSON, PAUSE, PULSE
from protocol.ids import PeerId
from tests.fakes.learner import FakeLearner, FakeLessons, Teaching, hands_of
from tests.protocol.samples import AUTHOR

FRIEND = PeerId(bytes(range(32)))
ROWS = [{"strategy.max_num_seqs": seqs} for seqs in (1, 64)]
CHOICE = {"index": 1, "why": "best", "gain": 0.2, "gain_low": 0.1, "cost": [0.0, -0.2], "half_width": [0.1, None]}
SOON = 2 * LOOK + 60.0  # s: a look, a start, a lesson


@dataclass
class Stage:
    """A node's history by its size, and who learns from it."""

    records: int = LEAST
    written: int = 0
    busy: bool = False
    policy: LearnerPolicy = field(default_factory=LearnerPolicy)
    lacking: dict[str, str] = field(default_factory=dict)
    learner: FakeLearner = field(default_factory=FakeLearner)

    def __post_init__(self) -> None:
        self.lessons = FakeLessons(lambda: self.records)
        self.learning = Learning(
            hands_of(self.learner, self.lessons, **self.lacking),
            policy=self.policy,
            history=lambda: HistoryFacts(records=self.records, authors=3, bytes=0, quarantined=0, rejected={}),
            written=lambda: self.written,
            authors=lambda: Authors(own=AUTHOR, known=frozenset({FRIEND, AUTHOR})),
            busy=lambda: self.busy,
            luck=lambda: 0.5,
            wall=lambda: 1_800_000_000_000_000,
        )

    @property
    def state(self) -> str:
        return self.learning.facts()["state"]

    def grow(self, share: float) -> None:
        self.records = round(self.records * share)

    async def lessons_after(self, seconds: float) -> int:
        await trio.sleep(seconds)
        return len(self.learner.taught_at)


@asynccontextmanager
async def running(stage: Stage) -> AsyncIterator[Stage]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stage.learning.run)
        yield stage
        nursery.cancel_scope.cancel()


async def until(happens: Callable[[], bool]) -> None:
    while not happens():  # noqa: ASYNC110 -- nobody is told of it, and virtual time costs nothing
        await trio.sleep(1.0)


async def test_nothing_is_started_before_there_is_enough_to_learn_from(autojump_clock: object) -> None:
    async with running(Stage(records=LEAST - 1)) as stage:
        await trio.sleep(EVERY)
        assert stage.learner.opened == 0
        assert stage.state == "waiting"
        assert f"{LEAST - 1} of the {LEAST}" in stage.learning.facts()["reason"]
        stage.records = LEAST
        await trio.sleep(SOON)
        assert stage.state == "ready"
        facts = stage.learning.facts()
        assert facts["trained_at"] == "2027-01-15T08:00:00+00:00"
        assert (facts["records_used"], facts["error_median"], facts["coverage_90"]) == (100, 0.1, 0.9)
        assert (facts["trainings"], facts["train_s"], facts["predict_us"]) == (1, 30.0, 2500.0)
        assert not stage.lessons.there
        ((authors, most),) = stage.lessons.asked
        assert (authors.own, most) == (AUTHOR, MOST)
        asked = dict(stage.learner.asked)["train"]
        assert asked["ranks"] == {str(AUTHOR): "own", str(FRIEND): "known"}


async def test_it_learns_anew_when_records_grew_when_own_ones_did_and_once_a_day(autojump_clock: object) -> None:
    async with running(Stage(records=1000)) as stage:
        stage.lessons.own = 20
        assert await stage.lessons_after(SOON) == 1
        stage.grow(1.05)
        assert await stage.lessons_after(10_000.0) == 1
        stage.grow(1.1)
        assert await stage.lessons_after(SOON) == 2
        stage.written += 2  # of now 22
        assert await stage.lessons_after(10_000.0) == 2
        stage.written += 1
        assert await stage.lessons_after(SOON) == 3
        assert await stage.lessons_after(EVERY + SOON) == 4
        assert stage.learning.facts()["train_s_total"] == 4 * 30.0


async def test_however_fast_records_come_it_rests_ten_times_as_long_as_it_learnt(autojump_clock: object) -> None:
    async with running(Stage()) as stage:
        stage.learner.teachings = [Teaching(seconds=600.0), Teaching(seconds=600.0)]
        while len(stage.learner.taught_at) < 2:
            stage.grow(1.2)
            await trio.sleep(LOOK)
    first, second = stage.learner.taught_at
    assert 6600.0 <= second - first <= 6600.0 + 2 * LOOK


async def test_the_first_look_is_at_once_where_there_is_enough_to_learn_from(autojump_clock: object) -> None:
    async with running(Stage()) as stage:
        await trio.sleep(5.0)  # the start of the learner, and writing
        assert stage.state == "learning"
        assert stage.learner.taught_at[0] < LOOK / 2


async def test_a_lesson_under_way_waits_while_the_machine_is_measured(autojump_clock: object) -> None:
    async with running(Stage()) as stage:
        await trio.sleep(5.0)
        stage.busy = True
        await trio.sleep(4 * PAUSE)
        assert stage.state == "learning"
        assert "waits" in stage.learning.facts()["reason"]
        stage.busy = False
        await trio.sleep(30.0 + 2 * PULSE)
        assert stage.state == "ready"
        assert [do for do, _ in stage.learner.asked].count("resume") == 1
        assert all(what == {"seconds": PAUSE} for do, what in stage.learner.asked if do == "pause")


async def test_the_time_of_a_pause_is_not_the_lesson_s(autojump_clock: object) -> None:
    async with running(Stage()) as stage:
        await trio.sleep(5.0)
        stage.busy = True
        await trio.sleep(LESSON + 60.0)
        assert stage.state == "learning"
        stage.busy = False
        await trio.sleep(SOON)
        assert stage.state == "ready"
        assert not stage.learner.renewed


async def test_whoever_waits_for_a_lesson_is_told_of_each_that_went_well(autojump_clock: object) -> None:
    seen: list[int] = []

    async def follow(stage: Stage) -> None:
        while True:
            seen.append(await stage.learning.learnt(seen[-1] if seen else 0))

    async with trio.open_nursery() as nursery, running(Stage(records=1000)) as stage:
        nursery.start_soon(follow, stage)
        stage.learner.teachings = [Teaching(), Teaching(end={"event": "failed"}), Teaching()]
        await trio.sleep(SOON)
        assert seen == [1]
        stage.grow(1.2)
        await until(lambda: stage.learning.facts()["trainings_failed"] == 1)
        assert seen == [1]
        await until(lambda: stage.learning.lessons == 2)
        await trio.sleep(1.0)
        assert seen == [1, 2]
        nursery.cancel_scope.cancel()


ADVICE: dict[str, Any] = {
    "index": 1,
    "why": "best",
    "learnt": True,
    "gains": [[0.0, -0.01, 0.01], [0.3, 0.2, 0.4]],
    "over_current": [0.1, 0.05, 0.15],
    "cost": [0.0, -0.3],
    "half_width": [0.1, 0.1],
    "level": [0.2, None],
    "measured": [3, 2],
    "failed": [0, 9, "x"],
    "worth": True,
    "saved_s": 100.0,
    "cost_s": 30.0,
    "pays_after_s": 600.0,
    "probes": [{"index": 0, "value": 0.001, "saves": 0.05}, {"index": 7, "value": 1.0, "saves": 1.0}, 3],
}
SITUATION: dict[str, Any] = {
    "goal": "latency", "default": 0, "current": 0, "lossy": False, "horizon_s": 3600.0, "busy_share": 0.5,
    "restart_s": 60.0, "lost_share": 1.0,
}  # fmt: skip


async def test_advice_is_read_whole_and_asked_for_with_no_more_of_own_records_than_it_takes(
    autojump_clock: object,
) -> None:
    mine = {"record.time_us": 1, "record.sealed": "long", "model.layers": 30, "outcome.latency_mean_s": 1.0}
    async with running(Stage(records=0)) as stage:
        stage.learner.answers |= {"choose": ADVICE}
        found = await stage.learning.advise(ROWS, **SITUATION, evidence=[mine] * 600, banned=[1, 1])
        assert (found.index, found.gain, found.gain_low, found.gain_high) == (1, 0.3, 0.2, 0.4)
        assert found.over_current == Gain(mean=0.1, low=0.05, high=0.15)
        assert (found.measured, found.failed, found.level) == ((3, 2), (0,), (0.2, None))
        assert (found.worth, found.pays_after_s, found.estimated) == (True, 600.0, False)
        assert found.probes == (Probe(index=0, value=0.001, saves=0.05),)
        asked = dict(stage.learner.asked)["choose"]
        assert len(asked["evidence"]) == OWN_ROWS
        assert asked["evidence"][0] == {"record.time_us": 1, "outcome.latency_mean_s": 1.0}
        assert (asked["banned"], asked["now_s"]) == ([1], 1_800_000_000.0)


@pytest.mark.parametrize(
    "nonsense", [{"index": 2}, {"gains": None}, {"measured": [1]}, {"level": [1.0]}, {"index": True, "gains": []}]
)
async def test_advice_that_is_none_is_not_passed_on(nonsense: dict[str, Any], autojump_clock: object) -> None:
    async with running(Stage(records=0)) as stage:
        stage.learner.answers |= {"choose": ADVICE | nonsense}
        with pytest.raises(Unavailable, match="nonsense"):
            await stage.learning.advise(ROWS, **SITUATION)


async def test_it_does_not_begin_to_learn_while_the_machine_is_measured(autojump_clock: object) -> None:
    async with running(Stage(busy=True)) as stage:
        assert await stage.lessons_after(3600.0) == 0
        stage.busy = False
        assert await stage.lessons_after(SOON) == 1


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (Teaching(end={"event": "failed", "reason": "out of memory while learning"}), "out of memory"),
        (Teaching(end={"event": "failed"}), "no reason"),
        (Teaching(dies=True), "died over it: out of memory"),
        (Teaching(end=None), "hours"),
    ],
)
async def test_a_lesson_that_fails_kills_or_never_ends_is_given_again_later_and_smaller(
    wrong: Teaching, words: str, autojump_clock: object
) -> None:
    async with running(Stage(records=100_000)) as stage:
        stage.learner.teachings = [wrong, wrong]
        await until(lambda: stage.learning.facts()["trainings_failed"] == 1)
        failed = trio.current_time()
        assert stage.state in ("failing", "starting")
        assert words in stage.learning.facts()["reason"]
        assert not stage.lessons.there
        await until(lambda: len(stage.learner.taught_at) == 3)
        assert stage.learner.taught_at[1] >= failed + AGAIN[0] - LOOK
        assert await stage.lessons_after(SOON) == 3
        assert stage.state == "ready"
        assert stage.learning.facts()["reason"] == ""
    assert [most for _, most in stage.lessons.asked] == [MOST, MOST // 2, MOST // 4]
    assert bool(stage.learner.renewed) == (wrong.end is None)


def test_what_was_too_much_is_tried_again_a_day_after_it_failed_and_one_step_at_a_time() -> None:
    schedule, sizes = Schedule(), list[int]()
    for begin, well in ((0.0, False), (1e4, False), (2e4, True), (3e4, True), (1.2e5, True), (1.3e5, True)):
        schedule.began(held=MOST, own=0, written=0, now=begin)
        (schedule.learnt if well else schedule.failed)(begin + 1.0)
        sizes.append(schedule.most)
    assert sizes == [MOST // 2, MOST // 4, MOST // 4, MOST // 4, MOST // 2, MOST]


def test_a_lesson_that_failed_late_is_rested_from_as_one_that_went_well_and_one_that_never_began_is_not() -> None:
    schedule = Schedule()
    schedule.began(held=MOST, own=0, written=0, now=0.0)
    schedule.failed(1e4)
    rested = 1e4 + REST * 1e4
    assert not schedule.due(held=MOST, written=0, now=rested - 1.0)
    assert schedule.due(held=MOST, written=0, now=rested)
    schedule.failed(rested)  # the disk refused it
    assert schedule.due(held=MOST, written=0, now=rested + AGAIN[1])


def test_a_number_beyond_every_float_is_none() -> None:
    assert [number(each) for each in (10**400, -(10**400), float("nan"), True, "1", 7)] == [None] * 5 + [7.0]


async def test_the_end_of_a_lesson_that_was_given_up_is_not_taken_for_that_of_the_next(autojump_clock: object) -> None:
    async with running(Stage()) as stage:
        stage.learner.teachings = [Teaching(end={"event": "failed", "lesson": 7}), Teaching(end={"event": "trained"})]
        assert await stage.lessons_after(SOON) == 1
        assert stage.state == "learning"
    async with running(Stage()) as stage:
        stage.learner.teachings = [Teaching(end={"event": "trained", "lesson": 1})]
        await trio.sleep(SOON)
        assert stage.state == "ready"
        assert dict(stage.learner.asked)["train"]["lesson"] == 1


class Tardy(FakeLearner):
    """Acknowledges no lesson in time, and learns it."""

    async def ask(self, do: str, **what: object) -> Said:
        said = await super().ask(do, **what)
        if do == "train":
            raise Late("the learner did not answer within 60 s")
        return said


async def test_a_lesson_that_is_acknowledged_too_late_is_waited_for_all_the_same(autojump_clock: object) -> None:
    async with running(Stage(learner=Tardy())) as stage:
        await trio.sleep(SOON)
        facts = stage.learning.facts()
        assert (facts["state"], facts["trainings"], facts["trainings_failed"]) == ("ready", 1, 0)


async def test_what_died_with_the_learner_is_taught_to_the_next_and_not_at_once(autojump_clock: object) -> None:
    async with running(Stage()) as stage:
        await trio.sleep(SOON + 2 * LEAST_REST)
        stage.learner.die()
        await trio.sleep(1.0)
        facts = stage.learning.facts()
        assert (facts["state"], facts["trained_at"], facts["records_used"]) == ("starting", None, 0)
        assert facts["reason"] == "it died: killed"
        await trio.sleep(stage.learner.again_s + 2.0)
        assert stage.state == "physics"
        assert await stage.lessons_after(LEAST_REST - LOOK) == 1
        assert await stage.lessons_after(LEAST_REST + SOON) == 2
        facts = stage.learning.facts()
        assert (facts["state"], facts["restarts"], facts["predictions"]) == ("ready", 1, 8)


async def test_a_disk_that_refuses_the_lesson_is_said_and_tried_again(autojump_clock: object) -> None:
    async with running(Stage()) as stage:
        stage.lessons.refusing = True
        await trio.sleep(SOON)
        assert (stage.state, stage.learning.facts()["reason"]) == ("failing", "the disk is full")
        stage.lessons.refusing = False
        await trio.sleep(AGAIN[0] + SOON)
        assert stage.state == "ready"


async def test_a_question_starts_the_learner_which_answers_by_physics(autojump_clock: object) -> None:
    async with running(Stage(records=0)) as stage:
        stage.learner.answers |= {"choose": CHOICE, "curves": {"curves": [{"tpot_s": [0.1]}]}}
        chosen = await stage.learning.choose(ROWS, goal="latency", default=0)
        assert (chosen.index, chosen.gain, chosen.learnt, chosen.half_width) == (1, 0.2, False, (0.1, None))
        assert await stage.learning.curves([{}]) == ({"tpot_s": [0.1]},)
        assert stage.learner.opened == 1
        assert stage.state == "physics"
        assert await stage.lessons_after(3600.0) == 0


async def test_who_asks_a_learner_that_is_slow_dumb_or_never_starts_does_not_wait_for_long(
    autojump_clock: object,
) -> None:
    async with running(Stage(records=0)) as stage:
        stage.learner.start_s = 600.0
        for slow in (0.0, 60.0):
            stage.learner.slow["choose"] = slow
            before = trio.current_time()
            with pytest.raises(Unavailable):
                await stage.learning.choose(ROWS, goal="latency", default=0)
            assert trio.current_time() - before <= ANSWER
            await trio.sleep(601.0)
        assert stage.learning.facts()["unanswered"] == 2


@pytest.mark.parametrize(
    "nonsense",
    [
        {},
        CHOICE | {"index": 2},
        CHOICE | {"index": "the first"},
        CHOICE | {"cost": [1.0]},
        CHOICE | {"half_width": None},
    ],
)
async def test_a_choice_that_is_none_is_not_passed_on(nonsense: dict[str, Any], autojump_clock: object) -> None:
    async with running(Stage()) as stage:
        stage.learner.answers |= {"choose": nonsense, "curves": {"curves": [1]}}
        with pytest.raises(Unavailable, match="nonsense"):
            await stage.learning.choose(ROWS, goal="latency", default=0)
        with pytest.raises(Unavailable, match="nonsense"):
            await stage.learning.curves([{}])


async def test_figures_that_are_none_are_left_out_of_what_is_told(autojump_clock: object) -> None:
    mad = {"learnt": {"latency": 7, "cost": {"error_median": "small"}}, "rows": -1, "train_s": [], "peak_bytes": True}
    async with running(Stage()) as stage:
        stage.learner.teachings = [Teaching(end={"event": "trained", **mad})]
        stage.learner.answers["state"] = mad
        await trio.sleep(SOON)
        facts = stage.learning.facts()
        assert facts["state"] == "ready"
        assert (facts["records_used"], facts["error_median"], facts["train_s"]) == (0, None, None)
        assert facts["memory_bytes"] is None


@pytest.mark.parametrize(
    ("policy", "lacking", "state"),
    [
        (LearnerPolicy(enabled=False), {}, "off"),
        (LearnerPolicy(), {"lacking_to_answer": "not installed: scipy"}, "unavailable"),
    ],
)
async def test_a_node_that_may_not_or_cannot_learn_starts_nothing_and_says_why(
    policy: LearnerPolicy, lacking: dict[str, str], state: str, autojump_clock: object
) -> None:
    left = Stage(records=100_000, policy=policy, lacking=lacking)
    left.lessons.there = True  # of a run that was killed, when there was a learner yet
    async with running(left) as stage:
        await trio.sleep(EVERY)
        assert not stage.lessons.there
        with pytest.raises(Unavailable):
            await stage.learning.choose(ROWS, goal="latency", default=0)
        assert stage.learner.opened == 0
        assert stage.state == state
        assert stage.learning.facts()["reason"]


async def test_without_what_it_takes_to_learn_physics_answers_and_nothing_is_taught(autojump_clock: object) -> None:
    async with running(Stage(records=100_000, lacking={"lacking_to_learn": "not installed: lightgbm"})) as stage:
        stage.learner.answers["choose"] = CHOICE
        assert (await stage.learning.choose(ROWS, goal="latency", default=None)).index == 1
        assert await stage.lessons_after(EVERY) == 0
        assert (stage.state, stage.learning.facts()["reason"]) == ("physics", "not installed: lightgbm")


async def test_a_node_that_stops_while_it_learns_leaves_no_lesson_behind(autojump_clock: object) -> None:
    async with running(Stage()) as stage:
        stage.learner.teachings = [Teaching(seconds=LESSON)]
        await until(lambda: stage.lessons.there)
        assert stage.state == "learning"
    assert not stage.lessons.there
