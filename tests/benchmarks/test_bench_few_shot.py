"""The bench of own records and probes, in seconds, so that it cannot rot."""

from pathlib import Path

import numpy as np
import pytest

from tests.benchmarks import bench_few_shot
from tests.learner.synthetic import world

pytest.importorskip("lightgbm")


@pytest.mark.slow
def test_the_bench_prints_curves_and_own_records_help_where_machines_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = world(96, families=("a", "b", "c", "d"))
    level = np.unique(table.words("hardware.name").astype(str), return_inverse=True)[1]
    slower = table.numbers("outcome.latency_mean_s") * np.exp(np.array([0.0, 0.9, 0.3, 1.5])[level])
    monkeypatch.setattr(
        bench_few_shot.learning, "read", lambda _: table.with_columns({"outcome.latency_mean_s": slower})
    )
    shown: list[str] = []
    monkeypatch.setattr("builtins.print", lambda line, **_: shown.append(line))
    asked = ["--table", "x", "--seeds", "0", "--draws", "3", "--kept", str(tmp_path)]
    for _ in range(2):
        shown.clear()
        bench_few_shot.main(asked)
    assert shown[0].startswith("4 machines")
    error = {line[:20].strip(): float(line[20:].split("±")[0]) for line in shown[2:] if line.startswith("single")}
    assert error["single 16"] < error["single 4"] < error["single 0"]
    assert [line.split()[1] for line in shown if line.startswith("probe")] == ["1", "2", "3", "4"]
