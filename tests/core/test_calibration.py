"""How often forecasts were right, and drift: an episode with a beginning, an end, and something to do about it."""

from math import exp, log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.core.calibration import DRIFTED, ENOUGH, FASTER, SETTLED, SLOWER, UNSURE, Calibration

VARIANCE = 0.04  # of which a third either way is the 90 % interval


def fed(*offs: float, into: Calibration | None = None, at: float = 0.0) -> Calibration:
    """Return a calibration that took these in, a second apart."""
    found = into or Calibration()
    for number, off in enumerate(offs):
        found.add(off, VARIANCE, at + number)
    return found


def test_calibration_tells_error_bias_and_coverage() -> None:
    good, bad = fed(*[0.1, -0.1] * ENOUGH), fed(*[log(3)] * ENOUGH)
    assert good.facts()["coverage_90"] > 0.9
    assert abs(float(good.facts()["bias"])) < 0.02
    assert float(bad.facts()["bias"]) == pytest.approx(log(3), rel=0.01)
    assert (good.facts()["drifted"], bad.facts()["drifted"]) == (False, True)


def test_a_few_bad_forecasts_are_no_drift_yet() -> None:
    assert not fed(*[log(3)] * (ENOUGH - 1)).drifted
    assert fed(*[log(3)] * ENOUGH).drifted


def test_drift_says_how_much_and_since_when_forecasts_were_last_sound() -> None:
    it = fed(*[0.0] * 100)
    assert it.drift() is None
    fed(*[log(2)] * 150, into=it, at=1000.0)
    drift = it.drift()
    assert drift is not None
    assert 1000.0 <= drift.since < 1060.0  # not when it was noticed, and not when the node came up
    assert 1.2 < drift.factor < 2.0
    assert drift.coverage < DRIFTED


def test_drift_that_was_there_from_the_first_answer_on_is_since_then() -> None:
    drift = fed(*[log(2)] * 100, at=500.0).drift()
    assert drift is not None
    assert drift.since == 500.0


def test_an_episode_lasts_until_forecasts_are_sound_and_not_until_they_are_hardly_drifted() -> None:
    it = fed(*[log(3)] * 100)
    changes, before, coverage_at_end = 0, True, 0.0
    for _ in range(2000):
        it.add(0.0, VARIANCE, 0.0)
        if it.drifted != before:
            changes, before, coverage_at_end = changes + 1, it.drifted, it.covered
    assert (changes, it.drifted) == (1, False)
    assert coverage_at_end >= SETTLED


def test_coverage_between_the_two_bounds_neither_begins_nor_ends_an_episode() -> None:
    middling = [0.0, 0.0, 0.0, log(3)]  # three of four: above the one bound and below the other
    assert not fed(*middling * 200).drifted
    assert fed(*middling * 200, into=fed(*[log(3)] * 200)).drifted


@pytest.mark.parametrize(
    ("offs", "remedy"), [([log(2)], SLOWER), ([-log(2)], FASTER), ([log(2), -log(2)], UNSURE)], ids=str
)
def test_what_to_do_depends_on_which_way_answers_are_off(offs: list[float], remedy: str) -> None:
    drift = fed(*offs * 100).drift()
    assert drift is not None
    assert drift.remedy == remedy


@given(st.lists(st.tuples(st.floats(-3, 3), st.floats(1e-4, 2)), max_size=400))
def test_whatever_comes_drift_begins_below_one_bound_and_ends_above_the_other(seen: list[tuple[float, float]]) -> None:
    it, drifted = Calibration(), False
    for number, (off, variance) in enumerate(seen):
        it.add(off, variance, float(number))
        if it.drifted and not drifted:
            assert it.covered < DRIFTED
            assert it.count >= ENOUGH
        elif drifted and not it.drifted:
            assert it.covered >= SETTLED
        drifted = it.drifted
        drift = it.drift()
        assert (drift is not None) == drifted
        assert drift is None or (drift.since <= number and drift.factor == pytest.approx(exp(it.bias)))
