"""Tables as Parquet: records come back as they went, others' tables are read, and what is none says so."""

import sys
from pathlib import Path
from typing import Any

import pytest

from node.adapters.parquet import GROUP_ROWS, read_table, write_table
from node.core.observation import from_row, sealed_of, to_row
from node.core.observation_columns import KINDS, InvalidRow
from node.errors import Unavailable
from tests.protocol import performance_samples as given

ROWS = [
    to_row(given.body()),
    to_row(given.failed().body),
    to_row(given.performance().body, given.performance().sealed),
]


def test_records_come_back_from_a_table_as_they_went(tmp_path: Path) -> None:
    table = tmp_path / "records.parquet"
    rows = ROWS * (GROUP_ROWS // 2)  # more than one group
    assert write_table(table, rows, KINDS) == len(rows)
    back = list(read_table(table))
    assert back == rows
    assert from_row(back[0]) == given.body()
    assert sealed_of(back[2]) == given.performance().sealed
    assert [item.name for item in tmp_path.iterdir()] == ["records.parquet"]


def test_another_peoples_table_is_read_with_its_gaps(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet  # noqa: PLC0415 -- optional

    table = tmp_path / "theirs.parquet"
    gpus = pyarrow.array(["A", "A", "B"]).dictionary_encode()
    columns = {"hardware.name": gpus, "workload.concurrency": [1.0, None, float("nan")], "context": [1, 2, None]}
    parquet.write_table(pyarrow.table(columns), table)
    assert list(read_table(table)) == [
        {"hardware.name": "A", "workload.concurrency": 1.0, "context": 1},
        {"hardware.name": "A", "context": 2},
        {"hardware.name": "B"},
    ]


@pytest.mark.parametrize("row", [{"outcome.requests": "many"}, {"weather": 1}, {"outcome.requests": 2**70}])
def test_a_row_that_does_not_fit_leaves_the_old_table_alone(row: dict[str, Any], tmp_path: Path) -> None:
    table = tmp_path / "records.parquet"
    write_table(table, ROWS[:1], KINDS)
    with pytest.raises(InvalidRow):
        write_table(table, [*ROWS, row], KINDS)
    assert list(read_table(table)) == ROWS[:1]
    assert [item.name for item in tmp_path.iterdir()] == ["records.parquet"]


def test_what_is_no_table_says_so(tmp_path: Path) -> None:
    torn = tmp_path / "torn.parquet"
    write_table(torn, ROWS, KINDS)
    torn.write_bytes(torn.read_bytes()[:-100])
    for path in (tmp_path / "missing", torn, tmp_path):
        with pytest.raises(Unavailable, match="cannot be read"):
            list(read_table(path))
    with pytest.raises(Unavailable, match="cannot be written"):
        write_table(tmp_path / "missing" / "x", ROWS, KINDS)


def test_a_table_of_tables_is_refused(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet  # noqa: PLC0415 -- optional

    parquet.write_table(pyarrow.table({"a": [[1]]}), tmp_path / "nested")
    with pytest.raises(InvalidRow, match="a: neither"):
        list(read_table(tmp_path / "nested"))


def test_without_pyarrow_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(Unavailable) as caught:
        write_table(tmp_path / "x", ROWS, KINDS)
    assert "learner" in caught.value.remedy
