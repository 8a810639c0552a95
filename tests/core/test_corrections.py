"""What observed answers do to forecasts: learnt fast, bounded, forgotten."""

from math import log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.core.corrections import (
    BOUND,
    FAR,
    LEAST_PRIOR,
    LINES,
    RETURN_S,
    UNKNOWN_ROW,
    Column,
    Corrections,
    Seen,
    at,
    prior,
)
from protocol.ids import PeerId
from tests.core.routing import PEERS

ANNE, BERT = PEERS[:2]
WIDTH = 0.5


def seen(ttft: float | None = None, tpot: float | None = None, *, rough: bool = False) -> Seen:
    return Seen(ttft=ttft, tpot=tpot, ttft_width=WIDTH, tpot_width=WIDTH, rough=rough)


def now_of(corrections: Corrections, now: float, *, run: float = 1.0) -> tuple[float, float, float, float]:
    columns = corrections.columns(corrections.rows([ANNE], "m"))
    added, variance = at(columns, np.array([run]), np.full((2, 1), WIDTH), now)
    return float(added[0, 0]), float(variance[0, 0]), float(added[1, 0]), float(variance[1, 0])


def test_nothing_observed_means_the_curve_and_its_own_interval() -> None:
    mean, variance, tpot, tpot_variance = now_of(Corrections(), 5.0)
    assert (mean, tpot) == (0.0, 0.0)
    assert variance == tpot_variance == pytest.approx(prior(WIDTH))


def test_ttft_and_tpot_are_learnt_apart() -> None:
    corrections = Corrections()
    for _ in range(10):
        corrections.observe(ANNE, "m", seen(tpot=log(2)), run=1, now=0.0)
    mean, _, tpot, variance = now_of(corrections, 0.0)
    assert mean == 0.0
    assert tpot == pytest.approx(log(2), rel=0.1)
    assert variance < prior(WIDTH) / 4


def test_one_odd_answer_is_an_accident_and_three_are_not() -> None:
    corrections = Corrections()
    for _ in range(10):
        corrections.observe(ANNE, "m", seen(0.0), run=1, now=0.0)
    corrections.observe(ANNE, "m", seen(log(10)), run=1, now=0.0)
    assert now_of(corrections, 0.0)[0] < log(1.6)
    for _ in range(4):
        corrections.observe(ANNE, "m", seen(log(10)), run=1, now=0.0)
    assert now_of(corrections, 0.0)[0] > log(6)
    first = Corrections()
    first.observe(ANNE, "m", seen(log(100)), run=1, now=0.0)
    assert now_of(first, 0.0)[0] < log(2)


def test_ten_times_slower_is_known_after_four_answers_and_forgotten_in_half_an_hour() -> None:
    corrections = Corrections()
    for number in range(4):
        corrections.observe(ANNE, "m", seen(log(10)), run=1, now=float(number))
    assert now_of(corrections, 4.0)[0] > log(7)
    mean, variance, _, _ = now_of(corrections, 4.0 + RETURN_S)
    assert mean == pytest.approx(now_of(corrections, 3.0)[0] / np.e, rel=0.02)
    mean, variance, _, _ = now_of(corrections, 10 * RETURN_S)
    assert mean < 0.01
    assert variance == pytest.approx(prior(WIDTH), rel=0.01)


def test_another_run_of_the_node_starts_anew() -> None:
    corrections = Corrections()
    for _ in range(5):
        corrections.observe(ANNE, "m", seen(log(10)), run=1, now=0.0)
    assert now_of(corrections, 0.0, run=2)[0] == 0.0
    corrections.observe(ANNE, "m", seen(0.0), run=2, now=0.0)
    assert now_of(corrections, 0.0, run=2)[0] == 0.0


def foretold(corrections: Corrections, replica: PeerId, model: str = "m", *, width: float = WIDTH) -> float:
    columns = corrections.columns(corrections.rows([replica], model))
    added, _ = at(columns, np.array([1.0]), np.full((2, 1), width), 0.0, corrections.common(model))
    assert added[1, 0] == 0.0  # nothing was said of the time per token
    return float(added[0, 0])


def test_who_has_not_answered_is_taken_to_be_off_by_half_of_what_the_only_one_is() -> None:
    corrections = Corrections()
    for _ in range(30):
        corrections.observe(ANNE, "m", seen(-0.5), run=1, now=0.0)
    theirs = foretold(corrections, ANNE)
    assert theirs == pytest.approx(-0.5, abs=0.05)
    assert foretold(corrections, BERT) == pytest.approx(theirs / 2, rel=0.1)
    sure = foretold(corrections, BERT, width=0.01)
    assert sure == pytest.approx(foretold(corrections, BERT) * (LEAST_PRIOR / prior(WIDTH)) ** 0.5)
    assert foretold(corrections, BERT, "another model") == 0.0


def test_what_many_say_is_nearly_believed_and_what_one_says_of_itself_no_further_than_is_likely() -> None:
    corrections = Corrections()
    for peer in PEERS[1:7]:
        for _ in range(30):
            corrections.observe(peer, "m", seen(-0.5), run=1, now=0.0)
    assert foretold(corrections, ANNE) == pytest.approx(-0.5 * 6 / 7, rel=0.1)
    alone = Corrections()
    for _ in range(30):
        alone.observe(BERT, "m", seen(log(50)), run=1, now=0.0)
    assert foretold(alone, BERT) == pytest.approx(log(50), rel=0.05)
    assert 0.0 < foretold(alone, ANNE) <= FAR / 2 * prior(WIDTH) ** 0.5


def test_whoever_is_forgotten_speaks_for_nobody() -> None:
    corrections = Corrections()
    corrections.observe(BERT, "m", seen(-0.5), run=1, now=0.0)
    assert foretold(corrections, ANNE) < 0.0
    corrections.drop(BERT, "m")
    assert foretold(corrections, ANNE) == 0.0


def test_a_rough_figure_moves_less() -> None:
    one, other = Corrections(), Corrections()
    one.observe(ANNE, "m", seen(0.3), run=1, now=0.0)
    other.observe(ANNE, "m", seen(0.3, rough=True), run=1, now=0.0)
    assert 0 < now_of(other, 0.0)[0] < now_of(one, 0.0)[0]


@given(st.lists(st.tuples(st.floats(-50, 50), st.floats(0, 2000)), min_size=1, max_size=60))
def test_whatever_comes_the_correction_is_bounded_and_its_variance_positive(events: list[tuple[float, float]]) -> None:
    corrections, now = Corrections(), 0.0
    for value, later in events:
        now += later
        corrections.observe(ANNE, "m", seen(value, value), run=1, now=now)
        mean, variance, tpot, tpot_variance = now_of(corrections, now)
        assert abs(mean) <= BOUND
        assert abs(tpot) <= BOUND
        assert variance > 0
        assert tpot_variance > 0


def test_the_lines_are_bounded_and_those_longest_unseen_go() -> None:
    corrections = Corrections()
    corrections.observe(ANNE, "m", seen(1.0), run=1, now=0.0)
    for number in range(LINES):
        corrections.observe(BERT, str(number), seen(1.0), run=1, now=0.0)
    assert len(corrections) == LINES
    assert corrections.rows([ANNE], "m").tolist() == [UNKNOWN_ROW]
    assert corrections.columns(corrections.rows([ANNE], "m"))[Column.TTFT].tolist() == [0.0]
    assert corrections.rows([BERT], "0")[0] != UNKNOWN_ROW


def test_rows_stay_while_the_version_does() -> None:
    corrections = Corrections()
    corrections.observe(ANNE, "m", seen(1.0), run=1, now=0.0)
    version, row = corrections.version, corrections.rows([ANNE], "m")
    corrections.observe(ANNE, "m", seen(1.0), run=1, now=0.0)
    assert corrections.version == version
    assert corrections.rows([ANNE], "m") == row
    corrections.drop(ANNE, "m")
    assert corrections.version != version
    assert corrections.columns(row)[Column.TTFT].tolist() == [0.0]
