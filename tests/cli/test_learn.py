import json
from pathlib import Path

import pytest

from node.cli.main import run
from node.core.observation import to_line
from tests.learner.synthetic import world


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    table = world(12)
    file = tmp_path / "table.jsonl"
    rows = [
        {name: column[row] if column.dtype == object else float(column[row]) for name, column in table.columns.items()}
        | {"context": int(table.contexts[row])}
        for row in range(table.rows)
    ]
    file.write_bytes(b"".join(map(to_line, rows)))
    return file


def evaluate(file: Path, *more: str) -> int:
    return run(["learn", "evaluate", "--table", str(file), "--group", "hardware.family", *more])


def test_it_prints_the_documented_json_and_a_table_for_people(
    lines: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ("--data-dir", str(tmp_path), "--methods", "physics,single_best,default,oracle")
    assert evaluate(lines, *where, "--json") == 0
    found = json.loads(capsys.readouterr().out)

    assert {"table", "train", "group", "objective", "contexts", "methods", "groups"} <= set(found)
    assert found["contexts"] == 12
    assert set(found["methods"]) == {"physics", "single_best", "default", "oracle"}
    assert found["methods"]["oracle"]["regret_mean"] == 0
    assert evaluate(lines, *where) == 0
    assert "single_best" in capsys.readouterr().out
    assert list((tmp_path / "cache" / "folds").iterdir())


def test_an_objective_that_the_table_has_no_columns_for_is_null_everywhere(
    lines: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(lines, "--fresh", "--objective", "energy", "--methods", "single_best", "--json") == 0
    assert set(json.loads(capsys.readouterr().out)["methods"]["single_best"].values()) == {None}


def test_wrong_words_are_told_with_the_right_ones(lines: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate(lines, "--methods", "oars") != 0
    assert "there are ours" in capsys.readouterr().err
    assert evaluate(lines, "--objective", "speed") != 0
    assert "is no objective" in capsys.readouterr().err
