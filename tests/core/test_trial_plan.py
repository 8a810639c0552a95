"""The order of trials: interleaved, resumable anywhere, ending; noise repeated, failures kept, comparisons in pairs."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.core import trial_plan
from node.core.strategy import DEFAULT, Setting, Strategy, objections
from node.core.trial_outcome import Outcome, Spread
from node.core.trial_plan import Entry, Failure, Limits, Plan, Session, cells, discarded, next_session, tally
from node.core.trial_strategies import candidates

STRATEGIES = (DEFAULT, *(Strategy(max_num_seqs=count) for count in (1, 2, 4)))
LOADS = ("shared_prefix", "long_output", "bursty")
PLAN = Plan(run="r", strategies=STRATEGIES, loads=LOADS, repetitions=3, retries=2)


def good(latency: int = 1000, **more: Any) -> Outcome:
    spread = Spread(mean=latency, p50=latency, p95=latency)
    return Outcome(requests=1, failures=0, wall_us=latency, throughput=1, latency=spread, **more)


def entry(session: Session, load: str, fate: str) -> Entry:
    kind = fate.partition(":")[2]
    return Entry(
        strategy=session.strategy,
        load=None if fate.startswith("start") else load,
        attempt=session.attempt,
        outcome=good() if fate in ("good", "noisy") else None,
        failure=Failure(kind=kind, reason="", load=load) if kind else None,
        discarded="noise" if fate == "noisy" else "",
    )


def play(plan: Plan, done: list[Entry], fates: "list[str] | None" = None, *, most: int = 10_000) -> list[Session]:
    """Work the plan off; each trial's fate is the next of `fates`, then good."""
    sessions: list[Session] = []
    luck = iter(fates or [])
    while len(sessions) < most and (session := next_session(plan, done)) is not None:
        sessions.append(session)
        for load in session.loads:
            done.append(entry(session, load, next(luck, "good")))
            if done[-1].failure is not None:
                break
    return sessions


def test_a_quiet_machine_tries_every_cell_as_often_as_asked_and_no_more() -> None:
    done: list[Entry] = []
    sessions = play(PLAN, done)
    assert Counter((each.strategy, each.load) for each in done) == dict.fromkeys(
        ((strategy, load) for strategy in STRATEGIES for load in LOADS), 3
    )
    assert len(sessions) == 3 * len(STRATEGIES)  # one engine start for all loads of a round
    orders = {tuple(each.strategy for each in sessions[start : start + 4]) for start in (0, 4, 8)}
    assert len(orders) > 1  # not always the same neighbour
    assert {each.loads for each in sessions} == {LOADS, (*LOADS[1:], LOADS[0]), (LOADS[2], *LOADS[:2])}


fates = st.lists(st.sampled_from(["good", "good", "noisy", "late:timed_out", "load:crashed", "start:out_of_memory"]))


@given(fates)
def test_rounds_are_interleaved_whatever_befalls_the_trials(luck: list[str]) -> None:
    done: list[Entry] = []
    while (session := next_session(PLAN, done)) is not None:
        before = Counter((each.strategy, each.load) for each in done)
        assert all(before[session.strategy, load] == session.attempt for load in session.loads)
        for load in session.loads:
            done.append(entry(session, load, luck.pop() if luck else "good"))
            if done[-1].failure is not None:
                break
        assert len(done) <= len(STRATEGIES) * len(LOADS) * (PLAN.repetitions + PLAN.retries)
    attempts = [each.attempt for each in done]
    assert attempts == sorted(attempts)  # no cell is tried again before all others had their turn


@given(fates, st.integers(0, 30))
def test_a_run_that_is_broken_off_goes_on_as_if_it_had_not_been(luck: list[str], stop: int) -> None:
    whole: list[Entry] = []
    play(PLAN, whole, list(luck))
    parts: list[Entry] = []
    play(PLAN, parts, list(luck), most=stop)
    play(PLAN, parts, luck[len(parts) :])
    assert parts == whole


def test_noise_is_repeated_a_bounded_number_of_times_and_counted() -> None:
    done: list[Entry] = []
    plan = Plan(run="r", strategies=STRATEGIES[:1], loads=LOADS[:1], repetitions=2, retries=1)
    play(plan, done, ["noisy"] * 9)
    facts = tally(plan, done)
    assert (facts.trials, facts.discarded, facts.discarded_share, facts.complete) == (3, 3, 1.0, 0)
    (cell,) = cells(plan, done)
    assert (cell.count, cell.discarded, dict(cell.figures)) == (0, 3, {})


@pytest.mark.parametrize(
    ("fate", "tries"), [("start:out_of_memory", 1), ("start:start_failed", 1), ("load:crashed", 2)]
)
def test_a_failure_that_lasts_is_not_tried_again_and_others_once(fate: str, tries: int) -> None:
    done: list[Entry] = []
    plan = Plan(run="r", strategies=STRATEGIES[:1], loads=LOADS[:1])
    play(plan, done, [fate] * 9)
    assert len(done) == tries
    assert cells(plan, done)[0].failure == done[-1].failure


def test_a_crash_under_one_load_leaves_the_others_to_be_tried() -> None:
    done: list[Entry] = []
    plan = Plan(run="r", strategies=STRATEGIES[:1], loads=LOADS, repetitions=1)
    play(plan, done, ["load:out_of_memory"])
    assert [cell.count for cell in cells(plan, done)] == [0, 1, 1]


def test_trials_under_foreign_load_are_discarded_with_the_reason() -> None:
    limits = Limits(foreign=200_000, waited=100_000)
    assert discarded(limits, good(foreign_load=200_000, waited=100_000)) == ""
    assert discarded(limits, good(foreign_load=310_000)) == "others used 31 % of the machine"
    assert "waited for a core 25 %" in discarded(limits, good(waited=250_000))
    assert "foreign processes on the GPU" in discarded(limits, good(strangers=1))


def test_strategies_are_compared_within_the_rounds_that_they_shared() -> None:
    plan = Plan(run="r", strategies=STRATEGIES[:2], loads=LOADS[:1])
    slow = {0: 1, 1: 3, 2: 5}  # the machine slows down: medians of each alone would say nothing
    done = [
        Entry(strategy=strategy, load=LOADS[0], attempt=attempt, outcome=good(factor * base))
        for attempt, factor in slow.items()
        for strategy, base in ((STRATEGIES[0], 1000), (STRATEGIES[1], 500))
        if (strategy, attempt) != (STRATEGIES[1], 0)
    ]
    assert [cell.ratio for cell in cells(plan, done)] == [1.0, 0.5]
    assert trial_plan.pair(plan, LOADS[0]) != trial_plan.pair(plan, LOADS[1])


def test_the_next_session_is_expected_to_take_as_long_as_the_last_of_its_strategy() -> None:
    one, other = (Session(strategy=strategy, loads=LOADS, attempt=0) for strategy in STRATEGIES[:2])
    assert trial_plan.expected_seconds(one, [], guess=45) == 45
    assert trial_plan.expected_seconds(one, [(one, 12.0), (other, 30.0)], guess=45) == 15
    third = Session(strategy=STRATEGIES[2], loads=LOADS[:1], attempt=0)
    assert trial_plan.expected_seconds(third, [(one, 12.0), (other, 30.0)], guess=45) == 12.5


def test_two_runs_are_held_against_each_other_cell_by_cell() -> None:
    plan = Plan(run="r", strategies=STRATEGIES[:1], loads=LOADS[:1])
    one, other = (
        cells(plan, [Entry(strategy=DEFAULT, load=LOADS[0], attempt=0, outcome=good(latency))])
        for latency in (900, 1100)
    )
    assert trial_plan.disagreement(one, other, "latency.mean") == {("default", LOADS[0]): 0.2}


@pytest.mark.parametrize(("build", "gpus"), [("cpu", 0), ("cuda", 1), ("cuda", 8)])
def test_the_candidates_are_possible_begin_with_the_default_and_are_nine_at_least(build: str, gpus: int) -> None:
    place = Setting(build="cpu" if build == "cpu" else "cuda", max_model_len=2048, gpus=gpus)
    few, many = (candidates(place, max_model_len=2048, wide=wide) for wide in (False, True))
    assert few[0] == DEFAULT
    assert len(few) >= 9
    assert many[: len(few)] == few
    assert len({strategy.name for strategy in many}) == len(many)
    assert not any(objections(strategy, place) for strategy in many)
    assert any(strategy.tensor_parallel == 8 for strategy in many) == (gpus == 8)


def test_a_cell_is_settled_once_nothing_more_of_it_is_planned_and_named_by_what_is_known_of_it() -> None:
    done: list[Entry] = []
    fates = ["start:out_of_memory", "good", "noisy", "failed:crashed"]
    play(PLAN, done, fates)
    assert trial_plan.settled(PLAN, done) == cells(PLAN, done)
    for length in range(len(done)):
        for cell in trial_plan.settled(PLAN, done[:length]):
            again = next(each for each in cells(PLAN, done) if (each.strategy, each.load) == (cell.strategy, cell.load))
            assert trial_plan.mark(PLAN, again) == trial_plan.mark(PLAN, cell)  # nothing was added to it
    marks = {trial_plan.mark(PLAN, cell) for cell in cells(PLAN, done)}
    assert len(marks) == len(STRATEGIES) * len(LOADS)
    assert trial_plan.mark(Plan(run="other", strategies=STRATEGIES, loads=LOADS), cells(PLAN, done)[0]) not in marks
