"""Quotas of one requester: what is over, for how long, and that nobody pays for another."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.core.prompt import Requester, RequesterKind
from node.core.quota import FORGET_ABOVE, UNLIMITED, Exceeded, Exceeding, QuotaLimits, Quotas

ANNE = Requester(RequesterKind.KEY, "anne")
BERT = Requester(RequesterKind.KEY, "bert")


def test_a_minutes_worth_may_be_spent_at_once_and_refills_evenly() -> None:
    quotas, limits = Quotas(), QuotaLimits(requests_per_minute=6)
    for _ in range(6):
        assert quotas.take(ANNE, limits, 0.0) is None
    assert quotas.take(ANNE, limits, 0.0) == Exceeded(what=Exceeding.REQUESTS, limit=6, retry_after=10)
    assert quotas.take(ANNE, limits, 10.0) is None
    assert quotas.take(BERT, limits, 0.0) is None


def test_prompts_at_once_are_bounded_until_one_ends() -> None:
    quotas, limits = Quotas(), QuotaLimits(concurrent=1)
    assert quotas.take(ANNE, limits, 0.0) is None
    exceeded = quotas.take(ANNE, limits, 0.0)
    assert exceeded is not None
    assert exceeded.what is Exceeding.CONCURRENT
    quotas.give_back(ANNE)
    assert quotas.take(ANNE, limits, 0.0) is None


def test_tokens_are_paid_afterwards_and_a_debt_is_waited_out() -> None:
    quotas, limits = Quotas(), QuotaLimits(tokens_per_minute=60)
    assert quotas.take(ANNE, limits, 0.0) is None
    quotas.give_back(ANNE, tokens=90)
    exceeded = quotas.take(ANNE, limits, 0.0)
    assert exceeded == Exceeded(what=Exceeding.TOKENS, limit=60, retry_after=31)
    assert quotas.take(ANNE, limits, 31.0) is None


def test_a_refused_prompt_costs_nothing() -> None:
    quotas, limits = Quotas(), QuotaLimits(requests_per_minute=60, concurrent=1)
    assert quotas.take(ANNE, limits, 0.0) is None
    for _ in range(100):
        assert quotas.take(ANNE, limits, 0.0) is not None
    quotas.give_back(ANNE)
    assert quotas.take(ANNE, limits, 1.0) is None


def test_a_limit_of_zero_refuses_everything() -> None:
    exceeded = Quotas().take(ANNE, QuotaLimits(requests_per_minute=0), 0.0)
    assert exceeded is not None
    assert exceeded.retry_after > 0


def test_idle_requesters_are_forgotten_but_their_debts_are_not() -> None:
    quotas, limits = Quotas(), QuotaLimits(tokens_per_minute=1)
    assert quotas.take(ANNE, limits, 0.0) is None
    quotas.give_back(ANNE, tokens=1_000)
    for number in range(2 * FORGET_ABOVE):
        stranger = Requester(RequesterKind.PEER, str(number))
        assert quotas.take(stranger, UNLIMITED, float(number)) is None
        quotas.give_back(stranger)
    assert quotas.take(ANNE, limits, 2.0 * FORGET_ABOVE) is not None


@given(
    st.integers(1, 20),
    st.lists(st.floats(0, 10, allow_nan=False), min_size=1, max_size=200),
)
@pytest.mark.filterwarnings("error")
def test_no_more_than_the_limit_passes_in_any_stretch_of_time(limit: int, gaps: list[float]) -> None:
    quotas, limits = Quotas(), QuotaLimits(requests_per_minute=limit)
    now, passed = 0.0, 0
    for gap in gaps:
        now += gap
        if quotas.take(ANNE, limits, now) is None:
            passed += 1
            quotas.give_back(ANNE)
    assert passed <= limit + limit * now / 60 + 1e-6


def test_whoever_owes_nothing_is_forgotten_even_where_tokens_are_counted_without_a_limit() -> None:
    for limits in (UNLIMITED, QuotaLimits(tokens_per_minute=600)):
        quotas = Quotas()
        for number in range(3 * FORGET_ABOVE):
            requester, now = Requester(RequesterKind.PEER, str(number)), float(number)
            assert quotas.take(requester, limits, now) is None
            quotas.give_back(requester, tokens=500)
        assert len(quotas) <= FORGET_ABOVE + 1
