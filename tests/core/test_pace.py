"""Token buckets: a burst at once, then the rate, for each apart; and a bounded memory of whom."""

from hypothesis import given
from hypothesis import strategies as st

from node.core.pace import Allowance, Pace


@given(st.lists(st.tuples(st.floats(0, 3), st.floats(0.1, 4)), max_size=40))
def test_nobody_has_more_in_any_time_than_the_burst_and_the_rate(takes: list[tuple[float, float]]) -> None:
    pace, now, had = Pace(Allowance(rate=2.0, burst=5.0)), 0.0, 0.0
    for pause, cost in takes:
        now += pause
        if pace.take("a", cost, now):
            had += cost
        assert had <= 5.0 + 2.0 * now + 1e-6
        assert pace.has("b", 5.0, now)


def test_what_was_overdrawn_is_waited_for() -> None:
    pace = Pace(Allowance(rate=2.0, burst=5.0))
    pace.charge("a", 9.0, 0.0)
    assert pace.wait("a", 0.0) == 2.0
    assert not pace.take("a", 0.1, 1.9)
    assert pace.wait("a", 2.0) == 0.0
    assert pace.take("a", 5.0, 100.0)


def test_a_million_names_are_not_remembered() -> None:
    pace = Pace(Allowance(rate=1.0, burst=1.0), accounts=2)
    assert pace.take("a", 1.0, 0.0)
    assert not pace.take("a", 1.0, 0.0)
    assert pace.take("b", 1.0, 0.0)
    assert pace.take("c", 1.0, 0.0)
    assert pace.take("a", 1.0, 0.0)  # forgotten, which gives it its burst anew
