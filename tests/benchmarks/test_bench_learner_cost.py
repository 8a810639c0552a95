"""The bench of what learning costs, in seconds, so that it cannot rot."""

import argparse

import pytest

from tests.benchmarks import bench_learner_cost
from tests.learner.synthetic import world

pytest.importorskip("lightgbm")


def test_so_many_rows_come_of_a_table_by_so_many_authors_in_contexts_of_their_own() -> None:
    import numpy as np  # noqa: PLC0415 -- beside the others where the extra is installed

    rows = list(bench_learner_cost.records(world(8), 100, 5, np.random.default_rng(0)))
    assert len(rows) == 100
    assert len({row["record.author"] for row in rows}) <= 5
    assert len({row["context"] for row in rows}) == 17
    assert len(bench_learner_cost.candidates(world(8), 256)) == 256


@pytest.mark.slow
def test_the_bench_measures_the_real_worker() -> None:
    options = argparse.Namespace(rows=90, authors=3, asks=2, goals="latency", seed=0)
    found = bench_learner_cost.run(world(20), options)
    assert found["records"] == 90
    assert all(value > 0 for name, value in found.items() if "CPU" not in name)
    assert found["MiB at most"] >= found["start, MiB"]
