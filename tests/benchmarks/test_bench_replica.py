"""The bench of the replica, in seconds, so that it cannot rot."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from node.adapters import parquet
from node.learner.texts import Embedder
from tests.benchmarks import bench_replica
from tests.learner.synthetic import world

pytest.importorskip("torch")
pytest.importorskip("pyarrow")


def test_the_bench_prints_a_line_for_each_group_and_takes_up_where_it_ended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = world(20)
    columns = {name: column.tolist() for name, column in table.columns.items()} | {"context": table.contexts.tolist()}
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    kinds = {name: type(values[0]) for name, values in columns.items()}
    parquet.write_table(tmp_path / "small.parquet", rows, kinds)

    def encode(batch: list[str]) -> NDArray[np.float32]:
        return np.array([[len(text), sum(text.encode()) % 97] for text in batch], dtype=np.float32)

    wish = ["--table", str(tmp_path / "small.parquet"), "--epochs", "1,2", "--out", str(tmp_path / "out.jsonl")]
    for _ in range(2):
        bench_replica.main(wish, Embedder(encode, "letters", 2))
        said = capsys.readouterr().out
        assert said.count('"group": "old"') == said.count('"group": "new"') == 2
        assert "split hardware.family, epochs 2," in said
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 4
