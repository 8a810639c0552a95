"""A node's trials on fakes, in virtual time: in idle time alone, gone at once for a prompt, told of in records once."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import count
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from node.core.engine_state import EngineSnapshot, EngineState
from node.core.own_records import Compose, Setting
from node.core.probes import Probes
from node.core.strategy import DEFAULT, Strategy
from node.core.trial_plan import Failure
from node.core.workload import Description
from node.core.workloads import KINDS, MIRROR, Lengths
from node.errors import EngineUnavailable, NodeError, Unavailable
from node.ports import LaunchPlan
from node.services.sign_trials import LATE
from node.services.tend import EngineKeeper, TendLimits
from node.services.trial_runs import TrialPolicy, TrialRuns
from node.services.trials import KEEP_SECONDS
from node.services.write_records import Scribe
from node.trial_ports import Bench, TrialHands, Workshop
from protocol.performance import PERFORMANCE, Performance
from protocol.records import Signed
from tests.fakes.engine import FakeEngine, FakeLauncher, FakeUpstream
from tests.fakes.history import FakeHistory
from tests.fakes.trial_bench import FakeBench
from tests.fakes.trial_book import FakeBook
from tests.fakes.trial_spending import FakeSpending
from tests.protocol import samples
from tests.protocol.performance_samples import BENCHMARK, ENGINE, HARDWARE, MODEL

POLICY = TrialPolicy(idle_after=900, daily=10_000, grace=30)
ASKED = {"workloads": ["long_output"], "strategies": 2, "repetitions": 2}
BEGINNING = 1_800_000_000_000_000  # µs since 1970 at the loop's time zero
PROBES = ("build", "prefill", "decode")  # what the fake bench asks of before the trials themselves
LOAD = 16.0  # s that the engine in memory takes to come up
TRAFFIC = Description(
    requests=100,
    prompt_tokens=Lengths(mean=120, p50=100, p95=300),
    output_tokens=Lengths(mean=30, p50=25, p95=60),
    shared_prefix_share=0.2,
    prefix_groups=None,
    concurrency=1.5,
    requests_per_s=1.0,
    burstiness=1.0,
    streaming_share=1.0,
    copy_share=0.5,
    busy_share=0.4,
    span_s=3600.0,
    latency_s=1.0,
)
ONE, OTHER = Strategy(max_num_seqs=4), Strategy(prefix_caching=False)


class World:
    """A node's engine, its trials, and what they told."""

    def __init__(self, policy: TrialPolicy, spending: FakeSpending | None = None) -> None:
        self.prompts = self.owed = 0
        self.probes: Probes | None = None
        self.traffic: Description | None = None
        self.tried_at: list[tuple[float, int]] = []  # and how many records there were
        self.events: list[tuple[str, Mapping[str, Any]]] = []
        self.states: list[tuple[float, EngineState]] = []
        self.news = trio.Event()
        self.engine = FakeEngine(load_time=LOAD)
        self.keeper = EngineKeeper(
            launcher=FakeLauncher(self.engine),
            upstream=FakeUpstream(self.engine),
            plan=LaunchPlan(model="/m", served_name="m", strategy=DEFAULT),
            limits=TendLimits(),
            in_flight=lambda _: self.owed,
            last_activity=lambda _: None,
            luck=lambda: 0.5,
            on_change=self.changed,
        )
        self.bench = FakeBench()
        self.book = FakeBook()
        self.context: dict[str, object] = {"driver": "1"}
        self.refusal: NodeError | None = None
        self.hurdle: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint  # what happens while trials are prepared
        self.open = 0
        self.history = FakeHistory(PERFORMANCE, now_us=self.wall, key=samples.KEY)
        self.published: list[bytes] = []
        scribe = Scribe(self.history, publish=self.published.extend, wall=self.wall)
        names = (f"run-{number}" for number in count())
        self.records: list[Performance] = []

        async def write(composed: Iterable[Compose]) -> Sequence[Signed[Performance]]:
            signed = await scribe.write(composed)
            self.records += [each.body for each in signed]
            return signed

        self.runs = TrialRuns(
            engine=self.keeper,
            hands=TrialHands(prepare=self.prepare, mint=lambda: next(names)),
            write=write,
            author="me",
            policy=policy,
            owed=lambda: self.owed,
            prompts_seen=lambda: self.prompts,
            tell=self.tell,
            probes=lambda: self.probes,
            tried=lambda: self.tried_at.append((trio.current_time(), len(self.records))),
            description=lambda: self.traffic,
            spending=spending,
        )

    @staticmethod
    def wall() -> int:
        return BEGINNING + round(trio.current_time() * 1e6)

    def changed(self, snapshot: EngineSnapshot) -> None:
        self.states.append((trio.current_time(), snapshot.state))

    async def prepare(self, tell: object) -> Workshop:
        del tell
        await self.hurdle()
        if self.refusal is not None:
            raise self.refusal
        return Workshop(
            open=self.opened, book=self.book, context=self.context, model="tiny", gpus=0, setting=self.setting
        )

    async def setting(self) -> Setting:
        assert self.keeper.snapshot().state is EngineState.STOPPED, "it would measure the engine"
        return Setting(model=MODEL, hardware=replace(HARDWARE, platform="cpu"), benchmark=BENCHMARK, engine=ENGINE)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Bench]:
        assert self.keeper.snapshot().state is EngineState.STOPPED, "a GPU has room for one"
        self.open += 1
        try:
            yield self.bench
        finally:
            self.open -= 1

    def tell(self, event: str, facts: Mapping[str, Any]) -> None:
        self.events.append((event, facts))
        self.news.set()
        self.news = trio.Event()

    def told(self, event: str) -> list[Mapping[str, Any]]:
        return [facts for name, facts in self.events if name == event]

    async def until(self, event: str, times: int = 1) -> Mapping[str, Any]:
        while len(self.told(event)) < times:
            await self.news.wait()
        return self.told(event)[-1]

    async def ready(self) -> None:
        snapshot = self.keeper.snapshot()
        while snapshot.state is not EngineState.READY:
            snapshot = await self.keeper.changed(snapshot)


@asynccontextmanager
async def world(policy: TrialPolicy = POLICY, spending: FakeSpending | None = None) -> AsyncIterator[World]:
    it = World(policy, spending)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(it.keeper.run)
        nursery.start_soon(it.runs.run)
        yield it
        nursery.cancel_scope.cancel()
    assert it.open == 0


def ignore(_: Mapping[str, Any]) -> None:
    """Watch nothing."""


async def test_a_node_that_nobody_asks_tries_its_strategies_signs_what_came_of_it_and_serves_again(
    autojump_clock: MockClock,
) -> None:
    async with world() as it:
        ended = await it.until("trials_ended")
        began = next(when for when, state in it.states if state is EngineState.STOPPED)
        assert POLICY.idle_after <= began - LOAD <= POLICY.idle_after + 10
        await it.ready()
        facts = it.runs.facts()
        assert (ended["reason"], facts["state"], facts["discarded_share"]) == ("complete", "complete", 0)
        assert facts["cells"] == facts["of"] == ended["records"] == len(it.records) == len(it.published)
        assert len({(str(each.strategy), each.workload.kind) for each in it.records}) == facts["of"]
        await trio.sleep(20_000)  # nothing more, until something else is to be measured
        assert len(it.told("trials_began")) == 1
        it.context = {"driver": "2"}
        await it.until("trials_ended", times=2)
        assert len(it.records) == 2 * facts["of"]
        assert it.book.reads <= 2 * 2 + 20_000 // 3600 + 1  # to decide, and under the lock; not once for each question


async def test_a_prompt_ends_idle_trials_at_once_and_they_go_on_where_they_were_once_it_is_quiet_again(
    autojump_clock: MockClock,
) -> None:
    async with world() as it:
        await it.until("trials_began")
        await trio.sleep(60)
        it.prompts += 1
        asked_at = trio.current_time()
        await it.ready()
        assert trio.current_time() - asked_at <= LOAD + 1
        assert it.told("trials_ended")[-1]["reason"] == "a prompt came" == it.runs.facts()["last_reason"]
        kept = await it.book.read()
        assert kept is not None
        assert kept.entries
        back_at = trio.current_time()
        await it.until("trials_began", times=2)
        assert trio.current_time() - back_at >= POLICY.idle_after
        await it.until("trials_ended", times=2)
        tried = sum(len(order.loads) for order in it.bench.orders)
        assert tried <= 2 + it.runs.facts()["of"] * 3 + 3  # the probe, every trial, and those of the session cut off


async def test_while_an_answer_is_owed_nothing_is_tried(autojump_clock: MockClock) -> None:
    async with world() as it:
        it.owed = 1
        await trio.sleep(20_000)
        assert it.told("trials_began") == []
        it.owed = 0
        quiet_at = trio.current_time()
        await it.until("trials_began")
        assert trio.current_time() - quiet_at >= POLICY.idle_after


async def test_an_engine_that_was_never_ready_is_not_taken_away(autojump_clock: MockClock) -> None:
    it = World(POLICY)
    it.engine.refusal = EngineUnavailable("no vLLM here", permanent=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(it.keeper.run)
        nursery.start_soon(it.runs.run)
        await trio.sleep(20_000)
        nursery.cancel_scope.cancel()
    assert it.events == []


def absences(it: World) -> list[tuple[float, float]]:
    """When the engine was stopped, and when it was up again: in between nobody is answered here."""
    spans: list[tuple[float, float]] = []
    stopped: float | None = None
    for when, state in it.states:
        if state is EngineState.STOPPED and stopped is None:
            stopped = when
        elif state is EngineState.READY and stopped is not None:
            spans.append((stopped, when))
            stopped = None
    return spans


@pytest.mark.parametrize("cut", [False, True])  # sessions that fit into the budget, and some that it always cuts off
async def test_the_day_s_budget_is_kept_the_engine_s_start_included_and_the_next_day_goes_on(
    cut: bool, autojump_clock: MockClock
) -> None:
    async with world(replace(POLICY, daily=300)) as it:
        it.bench.fate = lambda _, load, __: {"wall_us": 1_000_000_000} if cut and load in PROBES else {}
        while (await it.until("trials_ended", times=len(it.told("trials_ended")) + 1))["reason"] == "budget":
            if len(it.told("trials_ended")) == 5:
                break
        await it.ready()
        spans = absences(it)
        for number, (_, end) in enumerate(spans):
            away = sum(min(b, end) - max(a, end - 86_400) for a, b in spans if a < end and b > end - 86_400)
            assert away <= 300.5 + (LOAD if number == 0 else 0)  # before the first, nobody knows how long that takes
        assert len(spans) > 2


async def test_what_cannot_be_tried_is_said_and_not_tried_again_and_again(autojump_clock: MockClock) -> None:
    async with world() as it:
        it.bench.fate = lambda *_: Failure(kind="start_failed", reason="no such model")
        assert "no such model" in (await it.until("trials_ended"))["reason"]
        await it.ready()
        begun = len(it.told("trials_began"))
        await trio.sleep(20_000)
        assert len(it.told("trials_began")) - begun <= 20_000 / 3600
        it.refusal = EngineUnavailable("the environment is gone")
        await trio.sleep(10_000)
        assert it.runs.facts()["last_reason"] == "the environment is gone"


async def test_what_the_owner_asks_for_goes_first_and_a_second_wish_is_refused(autojump_clock: MockClock) -> None:
    async with world() as it:
        await it.until("trials_began")
        await trio.sleep(60)
        it.bench.fate = lambda _strategy, load, number: {"busy_us": 1 << 40} if load != "prefill" and number % 2 else {}
        lines: list[Mapping[str, Any]] = []
        reports: list[Mapping[str, Any]] = []

        async def ask() -> None:
            reports.append(await it.runs.answer(ASKED, lines.append))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await it.until("trials_began", times=2)
            with pytest.raises(Unavailable, match="run already"):
                await it.runs.answer(ASKED, ignore)
            it.prompts += 1  # the owner knows what he asked for
        assert [facts["reason"] for facts in it.told("trials_ended")] == ["trials were asked for", "complete"]
        assert reports[0]["trials"]["complete"] == 2
        assert reports[0]["records"] == {"signed": 2, "author": "me", "trouble": ""}
        assert {line["event"] for line in lines} >= {"doing", "scale", "session", "trial"}
        assert lines[0] == {"event": "doing", "text": "ending the idle trials"}
        assert reports[0]["trials"]["reasons"] == {"others used  % of the machine": reports[0]["trials"]["discarded"]}
        json.dumps([lines, reports])  # it goes out as JSON
        await it.ready()


async def test_cells_are_told_of_once_and_again_only_when_more_is_known(autojump_clock: MockClock) -> None:
    async with world(replace(POLICY, idle=False)) as it:
        await it.ready()

        def fate(strategy: Strategy, load: str, _number: int) -> dict[str, Any] | Failure:
            out = strategy != DEFAULT and load == "build"
            return Failure(kind="out_of_memory", reason="no room") if out else {}

        it.bench.fate = fate
        first = await it.runs.answer(ASKED, ignore)
        assert first["records"]["signed"] == 2
        assert sorted(str(each.outcome.failure) for each in it.records) == ["None", "out_of_memory"]
        begun, launches = len(it.told("trials_began")), len(it.engine.launches)
        again = await it.runs.answer(ASKED, ignore)
        assert (again["records"]["signed"], again["cells"]) == (0, first["cells"])
        assert (begun, launches) == (len(it.told("trials_began")), len(it.engine.launches))  # it was not taken away
        assert (await it.runs.answer({**ASKED, "repetitions": 3}, ignore))["records"]["signed"] == 1
        assert it.records[-1].outcome.repetitions == 3
        assert (await it.runs.answer({**ASKED, "fresh": True}, ignore))["records"]["signed"] == 2


async def test_what_no_strategy_comes_through_is_no_strategy_s_failure(autojump_clock: MockClock) -> None:
    async with world(replace(POLICY, idle=False)) as it:
        await it.ready()
        broken = True

        def fate(strategy: Strategy, load: str, _number: int) -> dict[str, Any] | Failure:
            out = load not in PROBES and (broken or strategy != DEFAULT)
            return Failure(kind="crashed", reason="a load that nobody can say") if out else {}

        it.bench.fate = fate
        report = await it.runs.answer(ASKED, ignore)
        assert {cell["failure"]["kind"] for cell in report["cells"]} == {"crashed"}
        assert it.records == []
        broken = False
        await it.runs.answer({**ASKED, "fresh": True}, ignore)
        assert sorted(str(each.outcome.failure) for each in it.records) == ["None", "crashed"]


async def test_a_run_that_its_owner_breaks_off_signs_what_is_settled_and_a_full_disk_only_delays_that(
    autojump_clock: MockClock,
) -> None:
    async with world(replace(POLICY, idle=False)) as it:
        await it.ready()

        def hear(line: Mapping[str, Any]) -> None:
            if line["event"] == "session" and line["tally"]["complete"] == 1:
                scope.cancel()

        with trio.CancelScope() as scope:
            await it.runs.answer(ASKED, hear)
        assert scope.cancelled_caught
        assert (len(it.records), it.told("trials_ended")[-1]) == (1, {"reason": "broken off", "records": 1})
        it.history.refusing = True
        stuck = await it.runs.answer(ASKED, ignore)
        assert stuck["records"] == {"signed": 0, "author": "me", "trouble": "the disk is full"}
        it.history.refusing = False
        assert (await it.runs.answer(ASKED, ignore))["records"]["signed"] == 1
        await it.ready()


@pytest.mark.parametrize("asked", [[], "x", {"budget": -1}, {"workloads": ["poetry"]}, {"repetition": 3}, {"wide": 2}])
async def test_what_is_no_request_is_refused_before_the_engine_is_touched(
    asked: object, autojump_clock: MockClock
) -> None:
    async with world(replace(POLICY, idle=False)) as it:
        await it.ready()
        with pytest.raises(NodeError, match="no request for trials"):
            await it.runs.answer(asked, ignore)
        assert it.keeper.snapshot().state is EngineState.READY


async def test_a_prompt_that_comes_while_trials_are_prepared_finds_the_engine_where_it_was(
    autojump_clock: MockClock,
) -> None:
    async with world() as it:

        async def a_prompt_comes() -> None:
            await trio.sleep(1)
            it.prompts += 1
            it.owed = 1

        it.hurdle = a_prompt_comes
        await it.ready()
        await trio.sleep(2000)
        assert it.prompts == 1
        assert it.told("trials_began") == []
        assert it.keeper.snapshot().state is EngineState.READY


async def test_where_prompts_end_every_session_more_and_more_quiet_is_asked_for_until_one_is_finished(
    autojump_clock: MockClock,
) -> None:
    async with world(replace(POLICY, daily=86_400)) as it:
        await it.ready()
        it.bench.fate = lambda _, load, __: {"wall_us": 600_000_000} if load in PROBES else {}
        for _ in range(90):  # of a day: each just after the node was idle for long enough
            await trio.sleep(POLICY.idle_after + 60)
            it.prompts += 1
        assert len(it.told("trials_began")) == 1
        await it.until("trials_began", times=2)  # twice as quiet
        it.prompts += 1
        quiet_at = trio.current_time()
        await it.until("trials_began", times=3)
        assert trio.current_time() - quiet_at >= 4 * POLICY.idle_after
        it.bench.fate = lambda *_: {}
        await it.until("trials_ended", times=3)
        quiet_at = trio.current_time()
        it.context = {"driver": "2"}
        it.prompts += 1
        await it.until("trials_began", times=4)
        assert trio.current_time() - quiet_at <= 3600 + POLICY.idle_after


async def test_what_the_wire_cannot_carry_costs_its_own_cell_and_the_engine_is_not_taken_away_for_it_again(
    autojump_clock: MockClock,
) -> None:
    async with world(replace(POLICY, idle=False)) as it:
        await it.ready()

        def fate(strategy: Strategy, load: str, _number: int) -> dict[str, Any]:
            return {"preempted": 1 << 40} if strategy != DEFAULT and load not in PROBES else {}

        it.bench.fate = fate
        report = await it.runs.answer(ASKED, ignore)
        assert (report["ended"], report["records"]["signed"]) == ("complete", 1)
        assert "out_of_bounds at outcome.preemptions" in report["records"]["trouble"]
        began = len(it.told("trials_began"))
        assert (await it.runs.answer(ASKED, ignore))["records"]["signed"] == 0
        assert len(it.told("trials_began")) == began
        await it.ready()


async def test_a_cell_that_no_peer_would_believe_is_said_and_not_noted_as_told(autojump_clock: MockClock) -> None:
    async with world(replace(POLICY, idle=False)) as it:
        await it.ready()

        def fate(strategy: Strategy, load: str, _number: int) -> dict[str, Any]:
            return {"peak_bytes": 1 << 50} if strategy != DEFAULT and load not in PROBES else {}

        it.bench.fate = fate
        report = await it.runs.answer(ASKED, ignore)
        assert report["records"]["signed"] == 1
        assert "no peer would believe" in report["records"]["trouble"]
        assert it.book.page is not None
        assert len(it.book.page.written) == 1
        began = len(it.told("trials_began"))
        await it.runs.answer(ASKED, ignore)
        assert len(it.told("trials_began")) == began  # it would not be believed now either


async def test_records_that_a_slow_disk_keeps_in_time_are_counted_and_the_others_follow(
    autojump_clock: MockClock,
) -> None:
    async with world(replace(POLICY, idle=False)) as it:
        await it.ready()
        append = it.history.append

        async def slow(compose: Any, *, lifetime_us: int) -> Any:
            await trio.sleep(KEEP_SECONDS * 0.6)
            return await append(compose, lifetime_us=lifetime_us)

        it.history.append = slow
        first = await it.runs.answer(ASKED, ignore)
        assert (first["records"]["signed"], len(it.records), first["records"]["trouble"]) == (1, 1, LATE)
        assert it.told("trials_ended")[-1]["records"] == 1
        rest = await it.runs.answer(ASKED, ignore)
        assert (rest["records"]["signed"], len(it.records), rest["records"]["trouble"]) == (1, 2, "")


# --- what somebody wants tried


def tried(it: World) -> list[tuple[str, str | None]]:
    """What the bench was given, without the probe of the machine's speed: strategy and loads' kinds."""
    return [
        (order.strategy.name, load.partition("-")[0])
        for order in it.bench.orders
        for load, _ in order.loads
        if load not in PROBES
    ]


async def test_what_is_wanted_is_tried_first_beside_the_default_under_the_node_s_own_traffic(
    autojump_clock: MockClock,
) -> None:
    async with world() as it:
        it.probes = Probes(strategies=(ONE, OTHER), description=TRAFFIC)
        ended = await it.until("trials_ended")
        assert (ended["reason"], ended["records"]) == ("complete", 3)
        mine = tried(it)
        assert set(mine) == {(each.name, MIRROR) for each in (DEFAULT, ONE, OTHER)}
        for start in (0, 3, 6):  # three rounds, each of all: a machine that slows down slows all of them down
            assert len(set(mine[start : start + 3])) == 3
        assert len(mine) == 9
        assert [each.workload.kind for each in it.records] == [MIRROR] * 3
        assert len({each.pair for each in it.records}) == 1
        assert {each.workload.copy_ppm for each in it.records} != {None}
        assert it.tried_at == [(trio.current_time(), 3)]  # when the records are there
        await it.until("trials_ended", times=2)  # then what all nodes try, when it is quiet once more
        assert {kind for _, kind in tried(it)[9:]} == set(KINDS[:3])
        await trio.sleep(20_000)
        assert len(it.told("trials_began")) == 2
        assert it.runs.facts()["state"] == "complete"


async def test_a_new_wish_is_looked_at_though_all_was_tried_and_the_same_one_is_not_tried_again(
    autojump_clock: MockClock,
) -> None:
    async with world(replace(POLICY, daily=86_400)) as it:
        it.probes = Probes(strategies=(ONE,), description=TRAFFIC)
        await it.until("trials_ended", times=2)
        await it.ready()
        before, asked_at = len(it.bench.orders), trio.current_time()
        it.probes = Probes(strategies=(ONE, OTHER), description=replace(TRAFFIC, requests=120))  # the same load
        with trio.fail_after(10_000):
            await it.until("trials_ended", times=3)
        assert trio.current_time() - asked_at < 2 * POLICY.idle_after + 100  # not after the hour of a complete plan
        again = it.bench.orders[before:]
        assert {order.strategy for order in again} == {OTHER}
        it.probes = Probes(strategies=(ONE, OTHER), description=replace(TRAFFIC, requests_per_s=8.0))  # another load
        with trio.fail_after(10_000):
            await it.until("trials_ended", times=4)
        assert {order.strategy for order in it.bench.orders[before + len(again) :]} == {DEFAULT, ONE, OTHER}
        assert len({each.pair for each in it.records if each.workload.kind == MIRROR}) == 2


async def test_without_a_description_what_is_wanted_is_tried_under_the_standard_workloads(
    autojump_clock: MockClock,
) -> None:
    async with world() as it:
        it.probes = Probes(strategies=(OTHER,))
        await it.until("trials_ended")
        assert set(tried(it)) == {(each.name, kind) for each in (DEFAULT, OTHER) for kind in KINDS[:3]}


async def test_a_run_that_made_no_trial_tells_nobody_that_something_was_tried(autojump_clock: MockClock) -> None:
    async with world() as it:
        it.bench.fate = lambda *_: Failure(kind="start_failed", reason="no such model")
        await it.until("trials_ended")
        assert it.tried_at == []


async def test_the_owner_may_ask_for_the_node_s_own_traffic_where_it_is_known(autojump_clock: MockClock) -> None:
    async with world(replace(POLICY, idle=False)) as it:
        await it.ready()
        asked = {**ASKED, "workloads": [MIRROR]}
        with pytest.raises(Unavailable, match="too few prompts"):
            await it.runs.answer(asked, ignore)
        assert it.told("trials_began") == []
        it.traffic = TRAFFIC
        report = await it.runs.answer(asked, ignore)
        assert {cell["workload"] for cell in report["cells"]} == {MIRROR}
        assert report["records"]["signed"] == len(it.tried_at) * 2 == 2
        await it.ready()


async def test_a_node_that_is_started_again_has_no_new_day(autojump_clock: MockClock) -> None:
    kept = FakeSpending()
    policy = replace(POLICY, daily=300, idle_after=200)
    async with world(policy, kept) as it:
        await it.until("trials_ended")
        await it.ready()
        await trio.sleep(10)
    spent = sum(ended - began for began, ended in kept.spans)
    assert 200 <= spent <= 300 + LOAD + 1
    async with world(policy, kept) as it:
        await trio.sleep(40_000)
        assert it.told("trials_began") == []
        await trio.sleep(86_400)
        assert it.told("trials_began") != []


async def test_a_node_that_ends_among_trials_has_spent_what_it_took_and_no_more(autojump_clock: MockClock) -> None:
    kept = FakeSpending()
    async with world(POLICY, kept) as it:
        await it.until("trials_began")
        await trio.sleep(100)
        assert kept.spans[0][1] - kept.spans[0][0] == POLICY.daily  # noted before: a crash cannot note it after
    ((began, ended),) = kept.spans
    assert 99 <= ended - began <= 102


async def test_a_disk_that_is_full_keeps_no_budget_and_trials_go_on(autojump_clock: MockClock) -> None:
    kept = FakeSpending()
    kept.full = True
    async with world(POLICY, kept) as it:
        assert (await it.until("trials_ended"))["reason"] == "complete"
        await it.ready()
