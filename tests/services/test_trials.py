"""Trials on a bench without engines, in virtual time: sized once, within budget, resumable, noise and failures kept."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from itertools import count
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from node.core.strategy import Speculation, Strategy
from node.core.trial_plan import Failure, Limits
from node.errors import EngineUnavailable
from node.services.trials import Report, Wish, run_trials
from tests.fakes.trial_bench import FakeBench
from tests.fakes.trial_book import FakeBook

WISH = Wish(kinds=("shared_prefix", "long_output"), repetitions=2, most=3, budget=10_000)


class Session:
    """What the tests drive: a book that stays, and whoever is told."""

    def __init__(self) -> None:
        self.book = FakeBook()
        self.events: list[tuple[str, Mapping[str, Any]]] = []
        self.names = (f"run-{number}" for number in count())

    async def run(self, bench: FakeBench, wish: Wish = WISH) -> Report:
        return await run_trials(
            bench,
            self.book,
            wish,
            clock=trio.current_time,
            mint=lambda: next(self.names),
            tell=lambda event, facts: self.events.append((event, facts)),
        )


@pytest.fixture
def session() -> Session:
    return Session()


async def test_every_cell_is_tried_and_the_loads_are_sized_to_the_machine(
    session: Session, autojump_clock: MockClock
) -> None:
    bench = FakeBench()
    report = await session.run(bench)
    assert (report.ended, report.tally.complete, report.tally.cells) == ("complete", 6, 6)
    assert len(bench.orders) == 1 + 6  # the probe, then each strategy in each round
    assert dict(session.events)["scale"] == {"prefill": 256, "decode": 16, "max_model_len": 2048, "resumed": False}
    assert report.loads[0].requests[0].prompt_tokens == 256 * 3 // 2 + 16
    assert all(cell.count == 2 and cell.figures["latency.mean"].mad == 0 for cell in report.cells)


async def test_a_run_that_is_cancelled_goes_on_later_and_repeats_nothing_that_was_written(
    session: Session, autojump_clock: MockClock
) -> None:
    with trio.move_on_after(60):
        await session.run(FakeBench())
    kept = await session.book.read()
    assert kept is not None
    assert 0 < len(kept.entries) < 12
    bench = FakeBench()
    report = await session.run(bench)
    assert report.tally.trials == 12
    assert report.plan.run == "run-0"
    assert sum(len(order.loads) for order in bench.orders) == 12 - len(kept.entries)


async def test_the_budget_is_kept_and_the_next_call_goes_on(session: Session, autojump_clock: MockClock) -> None:
    begun = trio.current_time()
    report = await session.run(FakeBench(), replace(WISH, budget=60))
    assert report.ended == "budget"
    assert trio.current_time() - begun <= 60
    assert 0 < report.tally.trials < 12
    assert (await session.run(FakeBench())).tally.trials == 12


async def test_a_new_run_is_begun_when_asked_for_or_when_the_engine_changed(
    session: Session, autojump_clock: MockClock
) -> None:
    await session.run(FakeBench())
    assert (await session.run(FakeBench(), replace(WISH, again=True))).plan.run == "run-1"
    newer = FakeBench()
    newer.facts = replace(newer.facts, vllm="0.33.0")
    assert (await session.run(newer)).plan.run == "run-2"
    assert (await session.run(newer, replace(WISH, context={"driver": "600"}))).plan.run == "run-3"


async def test_trials_under_foreign_load_are_repeated_and_counted(session: Session, autojump_clock: MockClock) -> None:
    def fate(_strategy: Strategy, load: str, number: int) -> dict[str, Any]:
        return {"busy_us": 1 << 40} if load == "long_output" and number == 2 else {}

    report = await session.run(FakeBench(fate=fate))
    assert (report.tally.discarded, report.tally.trials, report.tally.complete) == (1, 13, 6)
    assert Counter(name for name, _ in session.events)["discarded"] == 1
    patient = await session.run(FakeBench(fate=fate), replace(WISH, limits=Limits(foreign=1_000_000)))
    assert (patient.tally.discarded, patient.tally.trials) == (0, 13)  # what was measured is judged anew


async def test_a_strategy_that_fails_leaves_its_reason_and_the_others_their_trials(
    session: Session, autojump_clock: MockClock
) -> None:
    def fate(strategy: Strategy, load: str, _number: int) -> dict[str, Any] | Failure:
        if strategy.speculation == Speculation(method="ngram", tokens=4) and load == "build":
            return Failure(kind="out_of_memory", reason="CUDA out of memory")
        return {}

    report = await session.run(FakeBench(fate=fate))
    broken = [cell for cell in report.cells if cell.failure is not None]
    assert {(cell.strategy.name, cell.load, cell.failure.kind) for cell in broken if cell.failure} == {
        (broken[0].strategy.name, load, "out_of_memory") for load in ("shared_prefix", "long_output")
    }
    assert (report.tally.complete, report.ended) == (4, "complete")


async def test_an_engine_that_never_comes_up_is_an_error_with_its_reason(
    session: Session, autojump_clock: MockClock
) -> None:
    bench = FakeBench(fate=lambda *_: Failure(kind="start_failed", reason="no such model"))
    with pytest.raises(EngineUnavailable, match="no such model"):
        await session.run(bench)
    assert await session.book.read() is None


async def test_figures_that_no_trial_can_have_are_nobody_elses_record(
    session: Session, autojump_clock: MockClock
) -> None:
    def fate(_strategy: Strategy, load: str, _number: int) -> dict[str, Any]:
        return {} if load in ("prefill", "decode") else {"wall_us": -1.0}

    bench = FakeBench(fate=fate)
    with pytest.raises((EngineUnavailable, ValueError)):
        await session.run(bench)
