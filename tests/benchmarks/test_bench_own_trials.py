"""The bench of own trials, in seconds, so that it cannot rot."""

import numpy as np
import pytest

from tests.benchmarks import bench_own_trials
from tests.learner.synthetic import world

pytest.importorskip("lightgbm")


def test_the_bench_leaves_kinds_of_workload_out_and_says_what_the_records_lack() -> None:
    table = world(24)
    kinds = np.array([("chat", "code", "rag")[number % 3] for number in table.contexts], dtype=object)
    own = table.with_columns({bench_own_trials.KIND: kinds})

    shown = bench_own_trials.run(own, None, ["latency", "energy"], [0], listed=True)

    assert shown[0] == "144 strategies in 24 contexts of 3 kinds: chat, code, rag"
    assert shown[-1] == "energy: the records lack it"
    ours, physics = (next(line for line in shown if line.startswith(f"  {way} ")) for way in ("own", "physics"))
    cost, oracle = float(ours.split()[1]), float(ours.split()[-1])
    assert oracle <= cost <= 1.0
    assert float(physics.split()[-1]) == oracle
    assert sum(line.startswith("      ") for line in shown) == 1 + 2 * 24


def test_each_machine_of_a_swarm_s_table_is_an_author() -> None:
    swarm = bench_own_trials.of_machines(world(24), 6)
    assert len(np.unique(swarm.contexts)) == 6
    assert (swarm.words("record.author") == swarm.words("hardware.name")).all()
