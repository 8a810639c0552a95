"""The benchmark of forecasts on live traffic: accounts read as they are meant, and what fails by them."""

import math
from typing import Any

import pytest

from tests.benchmarks.bench_calibration import FIRST, TPOT, TTFT, Row, holds, parts, rows_of, show, summary


def account(*, ttft: float | None = 0.3, tpot: float | None = 0.02, answered_by: str = "b") -> dict[str, Any]:
    """Return an account of a prompt of which a TTFT of 0.2 s (0.05 s away) and a TPOT of 0.02 s were foretold."""
    candidate = {
        "replica": "b", "net_s": 0.05, "turn_s": 0.1, "ttft_s": 0.1, "ttft_factor_90": 1.3, "tpot_s": 0.02,
        "tpot_factor_90": 1.2, "source": "curve",
    }  # fmt: skip
    other = {**candidate, "replica": "a", "ttft_s": 9.0}
    attempts = [
        {"replica": "a", "ttft_s": None, "tpot_s": None},
        {"replica": answered_by, "ttft_s": ttft, "tpot_s": tpot},
    ]
    return {"candidates": [other, candidate], "attempts": attempts}


def test_an_answer_is_held_against_what_was_foretold_of_who_gave_it() -> None:
    ttft, tpot = rows_of(7, account())
    assert (ttft.quantity, ttft.number, ttft.within, ttft.source) == (TTFT, 7, True, "curve")
    assert ttft.off == pytest.approx(math.log(0.25 / 0.2))
    assert (tpot.quantity, tpot.off, tpot.within) == (TPOT, 0.0, True)


def test_beyond_the_factor_either_way_is_beyond_the_interval() -> None:
    assert [row.within for row in rows_of(0, account(ttft=0.32, tpot=0.025))] == [False, False]
    assert [row.within for row in rows_of(0, account(ttft=0.19, tpot=0.016))] == [False, False]


@pytest.mark.parametrize("told", [account(answered_by="c"), {"candidates": [], "attempts": []}])
def test_of_whom_nothing_was_foretold_nothing_is_held_against_it(told: dict[str, Any]) -> None:
    assert rows_of(0, told) == []


def test_what_was_not_seen_makes_no_row() -> None:
    assert [row.quantity for row in rows_of(0, account(tpot=None))] == [TTFT]


def many(off: float, *, within: bool, quantity: str) -> list[Row]:
    return [
        Row(number=number, quantity=quantity, off=off, within=within, source="curve") for number in range(FIRST, 50)
    ]


def test_only_the_later_answers_are_claimed_and_both_quantities() -> None:
    early = [Row(number=0, quantity=TTFT, off=3.0, within=False, source="rough")]
    good = [*early, *many(0.1, within=True, quantity=TTFT), *many(-0.1, within=True, quantity=TPOT)]
    assert holds(good)
    assert not holds([*early, *many(0.1, within=True, quantity=TTFT)])
    assert not holds([*many(0.1, within=False, quantity=TTFT), *many(0.1, within=True, quantity=TPOT)])
    assert not holds([*many(0.9, within=True, quantity=TTFT), *many(0.1, within=True, quantity=TPOT)])
    told = {(quantity, part): each for quantity, part, each in parts(good)}
    assert told[TTFT, "later"].error == pytest.approx(0.1)
    assert told[TPOT, "later"].bias == pytest.approx(-0.1)
    assert told[TTFT, f"first {FIRST}"].answers == 1
    assert "foretold by: curve, rough" in show(good)


def test_of_nothing_nothing_is_said() -> None:
    assert math.isnan(summary([]).error)
    assert not holds([])
