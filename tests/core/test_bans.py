"""Who is refused for a while: longer each time, never for good, and never because of knocking."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.core.bans import Bans, Terms

TERMS = Terms(failures=4, half_life=60.0, first=5.0, longest=40.0, forgotten=600.0)


def refusal(bans: Bans, who: str, now: float) -> float:
    """Fail until refused; return for how long."""
    for _ in range(100):
        if bans.failed(who, now):
            return next(each.seconds for each in bans.listed(now) if each.who == who)
    raise AssertionError("never refused")


def test_the_fourth_failure_at_once_brings_a_refusal_and_its_end_comes_by_itself() -> None:
    bans = Bans(TERMS)
    assert [bans.failed("a", 0.0) for _ in range(4)] == [False, False, False, True]
    assert bans.refused("a", 4.9)
    assert not bans.refused("a", 5.0)
    assert not bans.refused("b", 0.0)


def test_failures_far_apart_bring_none() -> None:
    bans = Bans(TERMS)
    assert not any(bans.failed("a", 60.0 * number) for number in range(1000))


def test_each_refusal_is_twice_as_long_up_to_a_bound_and_quiet_halves_it_again() -> None:
    bans, now = Bans(TERMS), 0.0
    lengths = []
    for _ in range(5):
        lengths.append(refusal(bans, "a", now))
        now += lengths[-1]
    assert lengths == [5.0, 10.0, 20.0, 40.0, 40.0]
    assert refusal(bans, "a", now + 3 * 600.0) == 20.0
    assert refusal(bans, "a", now + 100 * 600.0) == 5.0


def test_knocking_neither_lengthens_a_refusal_nor_counts() -> None:
    bans = Bans(TERMS)
    refusal(bans, "a", 0.0)
    assert not any(bans.failed("a", 1.0) for _ in range(100))
    assert not bans.refused("a", 5.0)
    assert not bans.failed("a", 5.0)


def test_a_light_failure_counts_for_less() -> None:
    bans = Bans(TERMS)
    assert [bans.failed("a", 0.0, 0.5) for _ in range(8)] == [False] * 7 + [True]


def test_who_failed_lately_is_suspect_and_then_no_longer() -> None:
    bans = Bans(TERMS)
    assert not bans.suspect("a", 0.0)
    bans.failed("a", 0.0)
    assert bans.suspect("a", 59.0)
    assert not bans.suspect("a", 61.0)
    refusal(bans, "a", 61.0)
    assert bans.suspect("a", 300.0)
    assert not bans.suspect("a", 61.0 + 5.0 + 600.0)


@given(st.lists(st.tuples(st.integers(0, 20), st.floats(0.0, 100.0)), max_size=300))
def test_what_is_remembered_is_bounded_and_no_refusal_is_longer_than_the_longest(
    steps: list[tuple[int, float]],
) -> None:
    bans, now = Bans(TERMS, names=8), 0.0
    for who, passed in steps:
        now += passed
        bans.failed(who, now)
        assert len(bans._records) <= 8
        assert all(0.0 < each.seconds <= TERMS.longest for each in bans.listed(now))


@pytest.mark.parametrize("names", [1, 100])
def test_of_too_many_the_longest_without_a_failure_is_forgotten(names: int) -> None:
    bans = Bans(TERMS, names=names)
    for number in range(names + 1):
        refusal(bans, str(number), 0.0)
    assert not bans.refused("0", 0.0)
    assert bans.refused(str(names), 0.0)
