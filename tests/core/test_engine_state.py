"""The engine's life: the table is complete and closed, and the next start comes when it should."""

from itertools import product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.core.engine_state import (
    FIRST_DELAY,
    LONGEST_DELAY,
    STABLE_AFTER,
    TRANSITIONS,
    UNREADY_DELAY,
    UNREADY_LIMIT,
    EngineEvent,
    EngineLife,
    EngineSnapshot,
    EngineState,
    ImpossibleEvent,
    delay,
    diagram,
)

S, E = EngineState, EngineEvent


def life(state: EngineState = S.STOPPED, *, since: float = 0.0) -> EngineLife:
    return EngineLife(snapshot=EngineSnapshot(state=state, since=since, model="m", strategy="default", reason="test"))


def after(before: EngineLife, *events: EngineEvent, now: float = 0.0, luck: float = 0.0) -> EngineLife:
    for event in events:
        before = before.after(event, now=now, luck=luck, reason=event.value)
    return before


@pytest.mark.parametrize(("state", "event"), list(product(EngineState, EngineEvent)))
def test_every_pair_is_either_in_the_table_or_refused(state: EngineState, event: EngineEvent) -> None:
    if (state, event) in TRANSITIONS:
        assert after(life(state), event).snapshot.state is TRANSITIONS[state, event]
    else:
        with pytest.raises(ImpossibleEvent, match=event.value):
            after(life(state), event)


def test_every_state_but_off_is_reached_from_stopped_and_leads_back_to_it() -> None:
    def reach(start: EngineState) -> set[EngineState]:
        seen, edge = {start}, {start}
        while edge:
            edge = {new for (old, _), new in TRANSITIONS.items() if old in edge} - seen
            seen |= edge
        return seen

    everything = set(EngineState) - {S.OFF}
    assert reach(S.STOPPED) == everything
    assert all(S.STOPPED in reach(state) for state in everything)


def test_a_stop_is_possible_in_every_state_in_which_something_is_going_on() -> None:
    busy = set(EngineState) - {S.OFF, S.STOPPED, S.STOPPING}
    assert {state for state, event in TRANSITIONS if event is E.STOP} == busy


def test_delays_double_from_one_second_to_a_minute() -> None:
    longest = [delay(troubles=n, unready=0, luck=1.0) for n in range(1, 9)]
    assert longest == [1, 2, 4, 8, 16, 32, 60, 60]


@given(troubles=st.integers(0, 10**9), unready=st.integers(0, 10**9), luck=st.floats(0, 1, exclude_max=True))
def test_a_delay_is_never_shorter_than_half_a_second_nor_longer_than_five_minutes(
    troubles: int, unready: int, luck: float
) -> None:
    wait = delay(troubles=troubles, unready=unready, luck=luck)
    longest = UNREADY_DELAY if unready >= UNREADY_LIMIT else LONGEST_DELAY
    assert FIRST_DELAY / 2 <= wait <= longest


def test_an_engine_that_never_becomes_ready_is_tried_every_few_minutes_and_never_given_up() -> None:
    now = life()
    waits: list[float] = []
    for _ in range(UNREADY_LIMIT + 2):
        now = after(now, E.BEGIN, E.SPAWNED, E.TROUBLE, luck=0.0)
        assert now.snapshot.retry_at is not None
        waits.append(now.snapshot.retry_at)
    assert max(waits[: UNREADY_LIMIT - 1]) <= LONGEST_DELAY
    assert waits[UNREADY_LIMIT - 1 :] == [UNREADY_DELAY / 2] * 3
    assert now.snapshot.state is S.BACKOFF


def test_having_been_ready_counts_as_a_start_that_worked() -> None:
    now = life()
    for _ in range(UNREADY_LIMIT * 2):
        now = after(now, E.BEGIN, E.SPAWNED, E.ANSWERED, E.TROUBLE)
    assert now.unready == 0
    assert now.snapshot.retry_at is not None
    assert now.snapshot.retry_at <= LONGEST_DELAY


def test_a_stable_period_forgets_the_past() -> None:
    shaky = life()
    for _ in range(5):
        shaky = after(shaky, E.BEGIN, E.SPAWNED, E.TROUBLE)
    ready = after(shaky, E.BEGIN, E.SPAWNED, E.ANSWERED)
    assert after(ready, E.TROUBLE, now=STABLE_AFTER - 1).troubles == 6
    assert after(ready, E.TROUBLE, now=STABLE_AFTER).troubles == 1


def test_restarts_count_unplanned_ends_only() -> None:
    served = after(life(), E.BEGIN, E.SPAWNED, E.ANSWERED)
    assert after(served, E.DRAIN, E.STOP, E.ENDED).snapshot.restarts == 0
    assert after(served, E.DRAIN, E.TROUBLE).snapshot.restarts == 0
    assert after(served, E.TROUBLE, E.BEGIN, E.HOPELESS).snapshot.restarts == 2


def test_the_log_of_a_death_is_kept_until_it_is_ready_again() -> None:
    served = after(life(), E.BEGIN, E.SPAWNED, E.ANSWERED)
    died = served.after(E.TROUBLE, now=1, luck=0, reason="died", log_tail=("last words",))
    again = after(died, E.BEGIN, E.SPAWNED)
    assert again.snapshot.log_tail == ("last words",)
    assert after(again, E.ANSWERED).snapshot.log_tail == ()


def test_a_drain_that_is_given_up_and_a_change_over_lead_back_to_ready_and_count_nothing() -> None:
    served = after(life(), E.BEGIN, E.SPAWNED, E.ANSWERED)
    assert after(served, E.DRAIN, E.RESUMED).snapshot.state is S.READY
    followed = served.after(E.SUCCEEDED, now=0, luck=0, reason="better", pid=8).snapshot
    assert (followed.state, followed.pid, followed.restarts) == (S.READY, 8, 0)


def test_one_that_takes_over_from_a_dead_one_ends_its_wait() -> None:
    died = after(life(), E.BEGIN, E.SPAWNED, E.TROUBLE)
    followed = after(died, E.SUCCEEDED)
    assert (followed.snapshot.state, followed.snapshot.retry_at, followed.unready) == (S.READY, None, 0)


def test_it_returns_only_from_where_it_was_taken_on_purpose_and_until_it_is_back_or_in_trouble() -> None:
    def told(before: EngineLife, *events: EngineEvent) -> list[bool]:
        said: list[bool] = []
        for event in events:
            before = before.after(event, now=0, luck=0, reason="", returning=True)
            said.append(before.snapshot.returning)
        return said

    assert told(life(), E.BEGIN, E.SPAWNED, E.ANSWERED) == [False, False, False]  # the first start
    served = after(life(), E.BEGIN, E.SPAWNED, E.ANSWERED)
    away = (E.DRAIN, E.STOP, E.ENDED, E.BEGIN, E.SPAWNED)
    assert told(served, *away, E.ANSWERED) == [True] * 5 + [False]
    assert told(served, *away, E.TROUBLE, E.BEGIN) == [True] * 5 + [False, False]
    assert told(served, E.TROUBLE, E.BEGIN, E.SPAWNED) == [False, False, False]  # after a crash
    assert told(served, E.DRAIN, E.RESUMED) == [True, False]
    for event in away:  # and never where it is not to come back
        served = after(served, event)
        assert not served.snapshot.returning


def test_the_process_id_is_told_only_while_there_may_be_a_process() -> None:
    spawned = after(life(), E.BEGIN).after(E.SPAWNED, now=0, luck=0, reason="", pid=7)
    assert spawned.snapshot.pid == 7
    assert after(spawned, E.ANSWERED, E.DRAIN, E.STOP).snapshot.pid == 7
    assert after(spawned, E.TROUBLE).snapshot.pid is None


def test_the_diagram_has_one_arrow_for_each_row() -> None:
    assert diagram().count("-->") == len(TRANSITIONS) + 1
    assert "    ready --> draining: drain" in diagram()


def test_the_diagram_in_the_docs_is_the_table_s_own() -> None:
    page = (Path(__file__).parents[2] / "docs" / "architecture.md").read_text()
    assert diagram().strip() in page
