from pathlib import Path

import numpy as np
import pytest

from node.learner.head import Fitted
from node.learner.objective import parse
from node.learner.prior import PhysicsHead, Prior
from node.learner.table import Floats, Table
from tests.benchmarks import bench_learner
from tests.learner.synthetic import world


def test_the_bench_prints_a_line_for_every_method_with_its_spread_over_seeds(tmp_path: Path) -> None:
    makers = bench_learner.wanted("physics,single_best,random,oracle", "")

    lines = bench_learner.run(world(24), "hardware.family", "latency", makers, [0, 1], tmp_path)

    assert "24 contexts" in lines[0]
    assert [line.split()[0] for line in lines[2:]] == ["physics", "single_best", "random", "oracle"]
    assert "±" in lines[2]
    assert len(list(tmp_path.iterdir())) == 2 * 2 * 3


@pytest.mark.slow
def test_a_head_can_be_left_out_of_our_stack(tmp_path: Path) -> None:
    makers = bench_learner.wanted("", "coarse", "alors")

    lines = bench_learner.run(world(12), "hardware.family", "latency", makers, [0], tmp_path)

    assert lines[2].startswith("ours, all heads")
    assert lines[3].startswith("ours, no coarse")
    assert lines[4].startswith("ours, and alors")
    assert lines[2].split()[3:] != lines[3].split()[3:]
    with pytest.raises(SystemExit, match="no head plain"):
        bench_learner.run(
            world(12), "hardware.family", "latency", bench_learner.wanted("", "plain"), [0], tmp_path / "x"
        )


def test_a_head_is_fitted_once_for_the_same_rows() -> None:
    class Counted:
        name, fits = "counted", 0

        def fit(self, table: Table, target: Floats, weight: Floats, rng: np.random.Generator) -> Fitted:
            self.fits += 1
            return PhysicsHead(prior=Prior.of(parse("latency"), table)).fit(table, target, weight, rng)

    table, head = world(4), Counted()
    target, ones = parse("latency").of(table), np.ones(24)
    fits: dict[tuple[str, bytes], Fitted] = {}
    for rows in (slice(0, 12), slice(0, 12), slice(12, 24)):
        which = np.arange(24)[rows]
        again = bench_learner.Remembered(head, fits)
        again.fit(table.take(which), target[which], ones[which], np.random.default_rng(0))

    assert head.fits == 2
