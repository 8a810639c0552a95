import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from node.cli.learn import THREADS
from node.cli.learn_asking import CHARS
from node.cli.learning import json_text
from node.cli.main import run
from node.core.observation import to_line
from node.learner.table import Table
from tests.cli.test_records import fill, record, traffic
from tests.learner.synthetic import world

Metainf = Callable[..., tuple[int, str, str]]
PLACE = ("--model", "8e", "--hardware", "old card", "--set", "workload.prompt_tokens=1000")


def written(table: Table, file: Path) -> Path:
    rows = [
        {name: column[row] if column.dtype == object else float(column[row]) for name, column in table.columns.items()}
        | {"context": int(table.contexts[row])}
        for row in range(table.rows)
    ]
    file.write_bytes(b"".join(map(to_line, rows)))
    return file


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the commands would set for the rest of the process is set already, and put back after each test."""
    for name in THREADS:
        monkeypatch.setenv(name, "1")
    monkeypatch.delenv("METAINF_CACHE", raising=False)  # folds of other runs are not this test's


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    return written(world(12), tmp_path / "table.jsonl")


@pytest.fixture
def few(tmp_path: Path) -> Path:
    """Rows too few to learn from, and so at once: physics answers."""
    return written(world(8), tmp_path / "few.jsonl")


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


def test_it_draws_predictions_regret_and_how_it_learns(
    lines: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    asked = ("--methods", "physics,nearest,default", "--data-dir", str(tmp_path), "--plots", str(tmp_path / "plots"))
    assert evaluate(lines, *asked, "--curve") == 0
    files = sorted((tmp_path / "plots").iterdir())
    assert [file.name for file in files] == [
        "learning_curve.png", "predicted_against_observed.png", "regret_by_group.png"
    ]  # fmt: skip
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files)
    assert capsys.readouterr().err.count("drawn: ") == 3
    assert evaluate(lines, "--curve") == 2


# -- train, predict, explain


def test_training_says_what_was_learnt_from_what_and_that_few_rows_leave_it_to_physics(
    metainf: Metainf, few: Path
) -> None:
    code, out, _ = metainf("learn", "train", "--table", str(few), "--objective", "latency", "--objective", "cost")
    assert code == 0
    assert "48 rows of 8 contexts" in out
    assert out.count("physics: too few rows") == 4  # both, and the times to and between tokens
    found = json.loads(metainf("learn", "train", "--table", str(few), "--json")[1])
    assert {"rows", "contexts", "train_s", "heads", "learnt", "failures", "authors", "least_credible"} <= set(found)
    assert found["learnt"]["latency"]["error_median"] is None
    assert found["failures"] == {"failed": 0, "observed": 48, "trees": False}


def test_without_a_table_it_learns_from_the_nodes_own_history_and_says_where_there_is_none(
    metainf: Metainf, data_dir: Path, tmp_path: Path
) -> None:
    code, _, err = metainf("learn", "train")
    assert code == 69
    assert "metainf records import FILE" in err
    fill(data_dir, record(1), record(2), traffic(3))
    found = json.loads(metainf("learn", "train", "--json")[1])
    shipped = json.loads(metainf("records", "snapshot", "--json")[1])["records"]
    assert found["rows"] == 3 + shipped
    assert found["source"] == "the history of public and what metainf ships with"
    assert metainf("records", "export", str(tmp_path / "all.jsonl"))[0] == 0
    rows = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    rows[0]["record.sealed"] = rows[1]["record.sealed"][:-8] + "AAAAAAA="  # no longer what its author signed
    rows[1]["outcome.latency_mean_s"] = 1e-9  # beside the sealed record it says nothing
    (tmp_path / "bent.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, out, err = metainf("learn", "train", "--table", str(tmp_path / "bent.jsonl"), "--json")
    assert json.loads(out)["rows"] == 2
    assert "1 records of" in err
    code, out, _ = metainf("learn", "predict", "--model", "Qwen", "--hardware", "3090", "--workload", "shared_prefix")
    assert code == 0
    assert "prefix:on" in out


def test_a_prediction_ranks_the_strategies_of_a_context_against_the_default(metainf: Metainf, few: Path) -> None:
    found = json.loads(metainf("learn", "predict", "--table", str(few), "--like", "3", "--json")[1])
    costs = [row["cost"] for row in found["strategies"]]
    assert costs == sorted(costs)
    assert found["unit"] == "seconds"
    (default,) = [row for row in found["strategies"] if row["default"]]
    assert (default["name"], default["gain"]) == ("budget 1024+prefix", 0)
    assert sum(not row["between"] for row in found["strategies"]) == 6
    (chosen,) = [row for row in found["strategies"] if row["chosen"]]
    assert chosen["name"] == found["choice"]
    assert chosen["cost_low"] < chosen["cost"] < chosen["cost_high"]
    assert found["context"]["hardware.name"] == "new card"
    out = metainf("learn", "predict", "--table", str(few), "--like", "3", "--top", "2", "--no-between")[1]
    assert "budget 1024+prefix" in out
    assert ">" in out
    assert " ~" not in out
    mixed = ("--objective", "latency:0.5,cost:0.5", "--no-between", "--json")
    relative = json.loads(metainf("learn", "predict", "--table", str(few), "--like", "3", *mixed)[1])
    assert relative["unit"] is None


def test_a_question_is_put_together_from_names_settings_a_file_and_this_machine(
    metainf: Metainf, few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = metainf("learn", "predict", "--table", str(few), *PLACE, "--json")
    assert (code, err.count("error")) == (0, 0)
    found = json.loads(out)
    assert found["context"]["workload.prompt_tokens"] == 1000
    assert len([row for row in found["strategies"] if not row["between"]]) == 6

    row = {"model.parameters": 1e9, "hardware.name": "mine", "hardware.spec_bytes_per_s": 1e12}
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(row)))
    asked = ("--context", "-", "--set", "workload.output_tokens=50", "--json")
    code, out, err = metainf("learn", "predict", *asked)  # a newcomer has neither table nor history
    found = json.loads(out)
    assert "physics alone answers" in err
    assert found["context"]["hardware.name"] == "mine"
    assert found["strategies"][-1]["strategy"]["strategy.engine"] == "vllm"

    config = tmp_path / "tiny" / "config.json"
    config.parent.mkdir()
    shape = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 1000}
    config.write_text(json.dumps({**shape, "intermediate_size": 256, "torch_dtype": "bfloat16"}))
    asked = ("--model-config", str(config), "--hardware", "this", "--set", "workload.prompt_tokens=10", "--json")
    found = json.loads(metainf("learn", "predict", "--table", str(few), *asked)[1])
    assert found["context"]["model.name"] == "tiny"
    assert found["context"]["model.parameters"] == 2 * 1000 * 64 + 2 * (4 * 64 * 64 + 3 * 64 * 256)
    assert found["context"]["hardware.name"]


def test_the_context_that_is_asked_about_can_be_left_out_of_what_is_learnt(metainf: Metainf, few: Path) -> None:
    numbered = ("learn", "predict", "--table", str(few), "--json", "--like", "3")
    assert json.loads(metainf(*numbered, "--unseen", "context")[1])["rows"] == 42
    elsewhere = (*numbered, "--set", "workload.prompt_tokens=77")  # a context that the table does not have
    assert json.loads(metainf(*elsewhere, "--unseen", "context")[1])["rows"] == 48


def test_a_context_file_is_bounded_and_holds_finite_numbers_only(
    metainf: Metainf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(" " * (CHARS + 1)))
    code, _, err = metainf("learn", "predict", "--context", "-")
    assert code != 0
    assert "too large" in err
    file = tmp_path / "context.json"
    file.write_text(" " * (CHARS + 1))
    assert "too large" in metainf("learn", "predict", "--context", str(file))[2]
    for text, told in (
        ('{"model.parameters": NaN}', "finite number"), ('{"model.parameters": 1e999}', "finite number"),
        ("[" * 100_000, "neither JSON"),
    ):  # fmt: skip
        file.write_text(text)
        assert told in metainf("learn", "predict", "--context", str(file))[2]


def test_json_for_machines_says_null_where_a_number_is_not_finite() -> None:
    assert json_text({"a": float("nan"), "b": [float("inf"), 1.5], "c": {"d": "NaN"}}) == (
        '{"a": null, "b": [null, 1.5], "c": {"d": "NaN"}}'
    )


def test_numeric_libraries_get_one_thread_unless_somebody_set_another_number(
    metainf: Metainf, few: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, *others = THREADS
    monkeypatch.setenv(first, "2")
    for name in others:
        monkeypatch.delenv(name)
    metainf("learn", "predict", "--table", str(few), "--like", "99")
    assert [os.environ[name] for name in THREADS] == ["2", "1", "1"]


def test_an_explanation_says_what_physics_says_and_how_sure_it_is(metainf: Metainf, few: Path) -> None:
    asked = ("learn", "explain", "--table", str(few), "--like", "0")
    found = json.loads(metainf(*asked, "--json")[1])["explanation"]
    assert found["gain"] == found["physics"]
    assert found["features"] == []
    out = metainf(*asked)[1]
    assert "physics says so alone" in out
    assert "intervals are those of physics" in out


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (("--like", "99"), "there is no context 99"),
        (("--model", "model"), "several could be meant"),
        (("--model", "gpt"), "the table knows no model.name 'gpt'"),
        (("--model", "8e"), "nothing says which hardware is meant"),
        ((*PLACE, "--set", "speed=3"), "sets no column"),
        ((*PLACE, "--set", "workload.concurrency=Infinity"), "a finite number belongs there"),
        ((*PLACE, "--set", "workload.concurrency=1e999"), "a finite number belongs there"),
        (("--like", "1", "--objective", "speed"), "is no objective"),
        (("--like", "1", "--promise", "ttft_s=1"), "slo alone"),
        (("--like", "1", "--objective", "slo", "--promise", "ttft_s=soon"), "positive number of seconds"),
        (("--like", "1", "--unseen", "hardware.nothing"), "nothing would be left"),
    ],
)
def test_wrong_questions_are_told_what_is_wrong(metainf: Metainf, few: Path, asked: tuple[str, ...], told: str) -> None:
    code, _, err = metainf("learn", "predict", "--table", str(few), *asked)
    assert code != 0
    assert told in err
