"""The benchmark of churn cannot rot: slopes are right where they can be known, and its short forms run."""

import random
from dataclasses import replace
from pathlib import Path

import pytest

from tests.benchmarks.bench_churn import QUICK, real, together, told_of_daemons
from tests.benchmarks.churn_day import live
from tests.benchmarks.slopes import slope, without

HOUR = 3600.0


def walk(per_hour: float, *, noise: float, seed: int, height: float = 0.0) -> list[tuple[float, float]]:
    luck = random.Random(seed)  # noqa: S311 -- figures
    times = [HOUR * number / 360 for number in range(361)]
    return [(at, height + per_hour * at / HOUR + luck.gauss(0, noise)) for at in times]


def test_a_slope_in_common_is_found_however_unlike_the_heights() -> None:
    found = slope({"a": walk(5.0, noise=1.0, seed=1), "b": walk(5.0, noise=1.0, seed=2, height=1000.0)})
    assert found.low < 5.0 < found.high
    assert found.high - found.low < 2.0
    assert found.against(2.0) == "beyond"
    assert found.against(8.0) == "within"
    assert found.against(5.0) == "undecided"


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    held = 0
    for seed in range(200):
        found = slope({"a": walk(0.0, noise=1.0, seed=seed)})
        held += found.low <= 0.0 <= found.high
    assert held >= 180  # 190 are expected; fewer than 180 once in 500 times


def test_what_follows_a_known_cause_is_no_growth() -> None:
    luck = random.Random(1)  # noqa: S311 -- figures
    cause = [(HOUR * number / 360, float(luck.randrange(8, 12))) for number in range(361)]
    leak = [(at, 100.0 + 7.0 * peers + 3.0 * at / HOUR + luck.gauss(0, 0.5)) for at, peers in cause]
    raw, found = slope({"a": leak}), slope(without({"a": leak}, {"a": cause}))
    assert found.low < 3.0 < found.high
    assert found.high - found.low < (raw.high - raw.low) / 3


def test_nodes_of_one_run_are_one_series() -> None:
    seen = together({"0/a": [(0.0, 1.0), (1.0, 3.0)], "0/b": [(0.0, 3.0), (1.0, 5.0)], "1/a": [(0.0, 7.0)]})
    assert seen == {"0": [(0.0, 2.0), (1.0, 4.0)], "1": [(0.0, 7.0)]}


def test_of_too_little_nothing_is_said() -> None:
    assert slope({"a": [(0.0, 1.0)]}).against(1.0) == "undecided"


@pytest.mark.slow
@pytest.mark.daemons
def test_half_an_hour_of_churn_in_virtual_time_leaves_no_ghost_and_no_tasks() -> None:
    day = live(nodes=4, hours=0.6, every=40.0)
    assert day.looks > 100
    assert {"join", "leave", "kill", "vanish", "move"} == set(day.events)
    assert day.ghost < 180.0
    assert day.apart == 0
    tasks = [each for _, each in day.tasks]
    assert max(tasks) - min(tasks) < 10  # per node; each life began some thirty


@pytest.mark.slow
@pytest.mark.daemons
@pytest.mark.libp2p
def test_the_short_form_runs_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    out = tmp_path / "samples.jsonl"
    seen = real(replace(QUICK, minutes=0.1), out=out, seed=1)
    again = real(replace(QUICK, minutes=0.2), out=out, seed=1)
    assert (seen.runs, again.runs) == (1, 2)
    assert again.seconds >= 12.0
    assert sum(again.events.values()) >= 2
    assert again.ghost < 180.0
    lines, _ = told_of_daemons(again, QUICK)
    assert len(lines) == 5
    assert out.read_text().count("\n") > seen.runs
