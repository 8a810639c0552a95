"""Second choices for late first bytes: when, whom, how often."""

from dataclasses import replace
from math import exp, log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.core.forecast import Guess
from node.core.hedging import (
    BURST,
    CLEARLY,
    FLOOR,
    HEDGE,
    PATIENCE_S,
    Budget,
    due_after,
    is_hasty,
    left,
    may_be_hedged,
    second,
)
from node.core.prompt import OWNER, Prompt
from node.core.wanted import Aims, Wanted
from protocol.load import Load, Serving
from tests.core.routing import MODEL, PEERS, Stage, curve

PROMPT = Prompt(
    request_id="r",
    method="POST",
    target="/v1/chat/completions?x=1",
    headers=(),
    body=b"{}",
    model=MODEL,
    stream=True,
    requester=OWNER,
)
LONG = 1000.0  # s to wait for the first: anybody is worth it


def guess(first: float = 0.2, *, net: float = 0.0, turn: float = 0.0, variance: float = 0.01) -> Guess:
    return Guess(
        replica=PEERS[0],
        model=MODEL,
        run=1,
        wanted=Wanted(),
        net=net,
        turn=turn,
        ttft=log(first),
        tpot=log(0.02),
        ttft_added=0.0,
        tpot_added=0.0,
        ttft_width=0.3,
        tpot_width=0.3,
        ttft_variance=variance,
        tpot_variance=variance,
        total=first + 4.0,
        uncached=100.0,
        guesses=False,
    )


@pytest.mark.parametrize(
    ("change", "may"),
    [
        ({}, True),
        ({"target": "/v1/completions"}, True),
        ({"target": "/v1/messages"}, True),
        ({"target": "/v1/responses"}, False),  # its answer is stored: twice asked, twice stored
        ({"target": "/v1/embeddings"}, False),
        ({"stream": False}, False),
        ({"via": "somebody"}, False),
        ({"method": "GET"}, False),
    ],
)
def test_only_streams_that_leave_nothing_behind_are_asked_for_twice(change: dict[str, str], may: bool) -> None:
    assert may_be_hedged(replace(PROMPT, **change)) is may


def test_a_first_byte_is_late_past_its_95th_percentile_the_way_and_the_turn_included() -> None:
    sure, unsure = due_after(guess(2.0)), due_after(guess(2.0, variance=0.5))
    assert 2.0 * 1.7 < sure < 2.0 * 1.9  # one answer's own noise is a factor of 1.4
    assert unsure > 1.5 * sure
    assert due_after(guess(2.0, net=3.0)) == pytest.approx(sure + 3.0)
    assert due_after(guess(2.0, turn=2.0)) == pytest.approx(2.0 * sure)


def test_nobody_is_late_within_a_quarter_of_a_second() -> None:
    assert due_after(guess(0.01)) == FLOOR


@given(
    first=st.floats(0.01, 60.0),
    variance=st.floats(0.0, 2.0),
    net=st.floats(0.0, 2.0),
    late=st.floats(1.0, 50.0),
    longer=st.floats(1.0, 10.0),
)
def test_the_longer_it_is_overdue_the_longer_it_is_expected_to_be(
    first: float, variance: float, net: float, late: float, longer: float
) -> None:
    it = guess(first, net=net, variance=variance)
    waited = late * due_after(it)
    assert 0.0 < left(it, waited) <= left(it, waited * longer) * 1.0001


def test_what_is_hopelessly_late_is_expected_to_take_as_long_again() -> None:
    assert left(guess(0.1), 60.0) == pytest.approx(60.0, rel=0.01)
    assert left(guess(0.1, variance=1.0), 1e4) == pytest.approx(1e4, rel=0.01)


def test_a_long_prefill_that_is_a_little_late_is_nearly_there_and_a_short_one_is_likely_lost() -> None:
    """A second prefill of ten seconds is not worth it at the 95th percentile; one of a tenth is."""
    long, short = guess(10.0), guess(0.1)
    assert left(long, due_after(long)) * CLEARLY < 10.0
    assert left(short, due_after(short)) * CLEARLY > 0.1


def test_somebody_who_is_clearly_sooner_is_asked_as_well_and_nobody_twice() -> None:
    stage = Stage([curve(0.2), curve(0.3), curve(5.0)])
    stage.idle(0.0)
    route = stage.route()
    asked = {PEERS[0]}
    choice = second(route, asked, 2.0)
    assert choice is not None
    assert (choice.replica, choice.reason) == (PEERS[1], HEDGE)
    assert second(route, asked, 0.3) is None  # as soon as the first may come, too
    assert second(route, {PEERS[0], PEERS[1]}, 2.0) is None
    slow = second(route, {PEERS[0], PEERS[1]}, LONG)
    assert slow is not None
    assert slow.replica == PEERS[2]


def test_who_is_full_or_closed_or_but_an_advert_is_not_asked_as_well() -> None:
    stage = Stage([curve(), curve()])
    stage.idle(0.0)
    asked = {PEERS[0]}
    assert second(stage.route(), asked, LONG) is not None
    stage.standings.read(PEERS[1], Load(running=8, waiting=0, slots=8), 0.0)
    assert second(stage.route(), asked, LONG) is None
    stage.standings.read(PEERS[1], Load(running=0, waiting=0, serving=Serving.LOADING), 0.0)
    assert second(stage.route(), asked, LONG) is None
    unheard = Stage([curve(), curve()])
    unheard.idle(0.0, but=[PEERS[1]])
    assert second(unheard.route(), asked, LONG) is not None
    unheard.offerings[PEERS[1]] = replace(unheard.offerings[PEERS[1]], connected=False)
    assert second(unheard.route(), asked, LONG) is None


def test_who_wants_it_cheap_does_not_pay_twice() -> None:
    stage = Stage([curve(), curve()])
    stage.idle(0.0)
    asked = {PEERS[0]}

    def chosen(*weights: tuple[str, float], ttft: float | None = None) -> bool:
        wanted = Wanted(model=MODEL, aims=Aims(weights=weights, ttft_s=ttft))
        return second(stage.route(wanted), asked, LONG) is not None

    assert chosen(("latency", 1.0))
    assert chosen(("cost", 0.5), ("tail", 0.5))
    assert not chosen(("cost", 1.0))
    assert not chosen(("energy", 0.5), ("throughput", 0.5))
    assert chosen(("cost", 1.0), ttft=1.0)
    assert is_hasty(Aims())


def test_without_a_forecast_nobody_is_asked_as_well() -> None:
    route = replace(Stage([curve(), curve()]).route(), forecast=None)
    assert second(route, {PEERS[0]}, LONG) is None


@given(percent=st.floats(0.1, 50.0), prompts=st.integers(0, 2000))
def test_hedges_are_a_share_of_the_prompts_and_a_few(percent: float, prompts: int) -> None:
    budget, hedges = Budget(percent=percent), 0
    for _ in range(prompts):
        budget.earn()
        if budget.suffices:
            budget.spend()
            hedges += 1
    assert hedges <= BURST + prompts * percent / 100.0 + 1e-6
    assert hedges >= min(prompts * percent / 100.0 - 1.0, prompts)


def test_what_is_not_used_is_saved_up_to_a_few_only() -> None:
    budget, hedges = Budget(), 0
    for _ in range(10_000):
        budget.earn()
    while budget.suffices:
        budget.spend()
        hedges += 1
    assert hedges == BURST


def test_who_waits_alone_for_long_enough_may_be_hedged_once_and_nothing_more_is_saved_by_waiting() -> None:
    budget = Budget()
    while budget.suffices:
        budget.spend()
    budget.pass_time(0.99 * PATIENCE_S)
    assert not budget.suffices
    budget.pass_time(100 * PATIENCE_S)
    assert budget.suffices
    budget.spend()
    assert not budget.suffices


def test_a_budget_of_nothing_allows_nothing() -> None:
    budget = Budget(percent=0.0)
    for _ in range(1000):
        budget.earn()
        budget.pass_time(1.0)
    assert not budget.suffices


def test_hedging_at_the_95th_percentile_costs_little_where_all_are_honest() -> None:
    """Of honest log-normal first bytes hardly any is hedged although an equal peer is idle."""
    it = guess(2.0)
    sigma = (it.ttft_variance + 0.35**2) ** 0.5
    due = due_after(it)
    hedged = [z for z in (1.65, 1.8, 2.0, 2.2, 2.4) if CLEARLY * left(it, 2.0 * exp(z * sigma)) >= 2.0]
    assert 2.0 * exp(1.65 * sigma) == pytest.approx(due, rel=0.01)
    assert hedged == []
