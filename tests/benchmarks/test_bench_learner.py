from pathlib import Path

import pytest

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
    makers = bench_learner.wanted("", "coarse")

    lines = bench_learner.run(world(12), "hardware.family", "latency", makers, [0], tmp_path)

    assert lines[2].startswith("ours, no coarse")
