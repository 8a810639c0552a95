"""The figures and words of a switch."""

import pytest

from node.core.strategy import DEFAULT, EXTERNAL, Strategy
from node.core.switching import (
    CRASHED,
    DONE,
    FAILINGS,
    NOT_DRAINED,
    OVERRULED,
    RESULTS,
    WORSE,
    Outcome,
    back_on,
    same_answers,
    start_timeout,
    usual_start,
)

FP8 = Strategy(kv_cache_dtype="fp8")


def test_the_usual_start_is_the_median_so_that_one_slow_one_changes_nothing() -> None:
    assert usual_start(()) is None
    assert usual_start((17, 300, 16)) == 17


@pytest.mark.parametrize(("starts", "seconds"), [((), 600), ((17,), 120), ((50, 60), 220), ((500,), 600)])
def test_a_start_may_take_four_usual_ones_and_two_minutes_at_least(starts: tuple[float, ...], seconds: float) -> None:
    assert start_timeout(starts, 600) == seconds


def test_answers_must_agree_between_strategies_that_round_alike() -> None:
    assert same_answers(DEFAULT, Strategy(max_num_seqs=4))
    assert same_answers(FP8, Strategy(kv_cache_dtype="fp8", max_num_seqs=4))
    assert same_answers(Strategy(kv_cache_dtype="bfloat16"), DEFAULT)
    assert not same_answers(DEFAULT, FP8)
    assert not same_answers(Strategy(weight_quantization="fp8"), FP8)
    assert not same_answers(EXTERNAL, DEFAULT)


def test_every_result_is_done_or_somebody_s_wish_or_the_new_engine_s_fault() -> None:
    assert set(FAILINGS) | {DONE, WORSE, NOT_DRAINED, OVERRULED} == set(RESULTS)
    for result in RESULTS:
        outcome = Outcome(result=result, reason="")
        assert (outcome.done, outcome.failed) == (result == DONE, result in FAILINGS)


def test_a_way_back_says_from_what_and_why() -> None:
    words = back_on(DEFAULT, Strategy(max_num_seqs=4), Outcome(result=CRASHED, reason="SIGSEGV"))
    assert words == "back on default: 'seqs:4' crashed while it started: SIGSEGV"
