"""The benchmark of what a node adds to a real engine: its ratios, their intervals, and what fails by them."""

import math
from dataclasses import replace

import pytest

from tests.benchmarks.bench_overhead import DIRECT, NODE, Plan, Row, holds, ratio, ratios, show, student


def rounds(*worse: float) -> list[Row]:
    """Return rounds in which the node is so many times worse, on a machine that is slower in every other one."""
    rows: list[Row] = []
    for number, factor in enumerate(worse):
        slow = 1.0 + number % 2
        direct = Row(way=DIRECT, round=number, throughput=100.0 / slow, ttft=0.1 * slow, ttft_p50=0.1 * slow)
        rows += [
            direct,
            replace(
                direct,
                way=NODE,
                throughput=direct.throughput / factor,
                ttft=direct.ttft * factor,
                ttft_p50=direct.ttft_p50 * factor,
            ),
        ]
    return rows


@pytest.mark.parametrize(
    ("freedom", "point"), [(3, 3.182), (5, 2.571), (11, 2.201), (23, 2.069), (60, 2.000), (1000, 1.962)]
)
def test_student_s_points_are_those_of_the_tables(freedom: int, point: float) -> None:
    assert student(freedom) == pytest.approx(point, rel=0.01)


def test_an_interval_is_as_wide_as_the_rounds_differ() -> None:
    found = ratio([(1.0, 1.0), (1.1, 1.0), (1.2, 1.0), (1.1, 1.0)])
    logs = [0.0, math.log(1.1), math.log(1.2), math.log(1.1)]
    spread = (sum((each - sum(logs) / 4) ** 2 for each in logs) / 3) ** 0.5
    assert found.middle == pytest.approx(math.exp(sum(logs) / 4))
    assert math.log(found.high / found.middle) == pytest.approx(3.182 * spread / 2, rel=0.01)
    assert found.low < found.middle < found.high


def test_a_slow_minute_of_the_machine_weighs_on_both_ways_alike() -> None:
    found = ratios(rounds(1.02, 1.02, 1.02, 1.02))
    assert all(each.middle == pytest.approx(1.02) and each.high == pytest.approx(1.02) for each in found.values())


@pytest.mark.parametrize(
    ("worse", "good"),
    [((1.02, 1.01, 1.03, 1.02, 1.0, 1.02), True), ((1.1,) * 6, False), ((0.8, 1.2, 0.9, 1.1), False), ((1.0,), False)],
)
def test_only_an_interval_below_what_is_claimed_passes(worse: tuple[float, ...], good: bool) -> None:
    assert holds(rounds(*worse)) is good
    assert not holds([])


def test_the_table_tells_the_ratio_and_its_interval() -> None:
    assert "TTFT, mean" in show(rounds(1.02, 1.02, 1.02), Plan())
    assert "1.020, 95 % interval 1.020 to 1.020" in show(rounds(1.02, 1.02, 1.02), Plan())
