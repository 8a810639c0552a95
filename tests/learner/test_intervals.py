"""Distances to what was seen, and intervals that hold for groups that nobody has seen."""

import numpy as np
import pytest

from node.learner import intervals
from node.learner.intervals import LeftOut, calibrate, coverage
from node.learner.novelty import Seen
from node.learner.table import Table

ROWS = 200


def row(bandwidth: float, prompt: float, family: str = "old") -> dict[str, object]:
    return {
        "hardware.spec_bytes_per_s": bandwidth,
        "hardware.family": family,
        "workload.prompt_tokens": prompt,
        "strategy.x": 1,
    }


SEEN = [row(bandwidth, prompt) for bandwidth in (1e12, 2e12, 4e12) for prompt in (100, 200, 400, 800)]


def test_what_was_seen_is_at_no_distance_and_what_lies_far_says_by_which_part() -> None:
    seen = Seen.of(Table.of_rows(SEEN))
    asked = Table.of_rows([SEEN[0], row(3e12, 100), row(6.4e13, 100, "new"), row(1e12, 51200)])
    by_part = seen.distances(asked)

    assert by_part["hardware"][0] == by_part["workload"][0] == 0
    assert 0 < by_part["hardware"][1] < 1
    assert by_part["hardware"][2] == pytest.approx(4.0, rel=0.01)  # four doublings beyond the last
    assert by_part["workload"][3] == pytest.approx(4.0, rel=0.05)  # six doublings; two that were seen are 1.5 apart
    assert by_part["model"].tolist() == [0, 0, 0, 0]  # nothing is known of models
    assert np.allclose(seen.distance(asked) ** 2, by_part["hardware"] ** 2 + by_part["workload"] ** 2)
    assert seen.unheard(asked, "hardware.family").tolist() == [False, False, True, False]


def test_the_unknown_is_neither_far_nor_unheard_of() -> None:
    seen = Seen.of(Table.of_rows(SEEN))
    asked = Table.of_rows([{"strategy.x": 1, "hardware.spec_bytes_per_s": 2e12}])
    assert seen.distance(asked).tolist() == [0.0]
    assert seen.unheard(asked, "hardware.family").tolist() == [False]


def world(rng: np.random.Generator, groups: int) -> LeftOut:
    """Groups whose errors are shared in part, of unlike size, and grow with distance."""
    sizes = rng.integers(20, 400, size=groups)
    group = np.repeat(np.arange(groups), sizes)
    distance = rng.uniform(0, 4, size=len(group))
    hard = np.exp(0.4 * rng.standard_normal(groups))[group]
    bias = 0.1 * rng.standard_normal(groups)[group]
    error = bias + 0.1 * hard * (1 + distance) ** 0.7 * rng.standard_normal(len(group))
    return LeftOut(error=error, group=group.astype(object), distance=distance)


@pytest.mark.parametrize("groups", [3, 4, 11])
def test_nine_of_ten_rows_of_groups_that_nobody_saw_are_covered_on_average(groups: int) -> None:
    rng = np.random.default_rng(7)
    covered = []
    for _ in range(60):
        learnt = calibrate(world(rng, groups))
        new = world(rng, 1)
        covered.append(coverage(new.error, learnt.half_width(new.distance)))
    assert 0.86 < np.mean(covered) < 0.96


def test_plain_conformal_over_rows_covers_less_of_a_new_group_than_groups_as_voices() -> None:
    rng = np.random.default_rng(8)
    ours, plain = [], []
    for _ in range(60):
        seen, new = world(rng, 3), world(rng, 1)
        ours.append(coverage(new.error, calibrate(seen).half_width(new.distance)))
        plain.append(np.mean(np.abs(new.error) <= np.quantile(np.abs(seen.error), 0.9)))
    assert np.mean(ours) > np.mean(plain)


def test_intervals_widen_with_distance_and_with_disagreement() -> None:
    rng = np.random.default_rng(9)
    spread = rng.uniform(0.01, 0.5, size=5 * ROWS)
    distance = rng.uniform(0, 4, size=5 * ROWS)
    error = spread * (1 + distance) * rng.standard_normal(5 * ROWS)
    group = np.repeat(np.arange(5), ROWS).astype(object)
    learnt = calibrate(LeftOut(error=error, group=group, distance=distance, spread=spread))
    narrow, far, unsure = learnt.half_width(np.array([0.0, 4.0, 0.0]), np.array([0.05, 0.05, 0.4]))
    assert far > 2 * narrow
    assert unsure > 3 * narrow


def test_nothing_is_said_of_what_lies_beyond_all_groups_or_is_most_uncertain() -> None:
    found = world(np.random.default_rng(10), 6)
    learnt = calibrate(found)
    assert found.distance.max() < learnt.farthest < 100
    assert np.mean(learnt.half_width(found.distance) > learnt.widest) < 0.25
    assert learnt.half_width(np.zeros(1)) < learnt.widest


def test_one_group_alone_gives_a_wide_interval_and_no_error_at_all_is_refused() -> None:
    error = np.full(ROWS, 0.1)
    one = calibrate(LeftOut(error=error, group=np.full(ROWS, "a", dtype=object), distance=np.zeros(ROWS)))
    many = calibrate(LeftOut(error=error, group=np.arange(ROWS).astype(object), distance=np.zeros(ROWS)))
    width = np.zeros(1)
    assert one.half_width(width) > many.half_width(width) > 0.1
    assert one.half_width(width) < one.widest
    with pytest.raises(ValueError, match="no left-out row"):
        calibrate(LeftOut(error=np.full(2, np.nan), group=np.array(["a", "b"], dtype=object), distance=np.zeros(2)))
    assert np.isnan(intervals.coverage(np.full(2, np.nan), np.zeros(2)))
