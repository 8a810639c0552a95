"""`metainf records snapshot`: what metainf ships with, shown and made anew; and where else it is told of."""

import json
import runpy
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import node.warm_start
from node.core.snapshot import digest_of, open_snapshot
from tests.cli.test_records import fill, record, traffic

Metainf = Callable[..., tuple[int, str, str]]
FOLDER = Path(node.warm_start.__file__).parent


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the folder that is shipped, to be written to."""
    copy = tmp_path / "warm_start"
    copy.mkdir()
    for name in ("__init__.py", "snapshot.jsonl"):
        shutil.copy(FOLDER / name, copy / name)
    return copy


def test_it_shows_who_signed_what_on_which_engine_and_needs_neither_node_nor_history(metainf: Metainf) -> None:
    code, out, _ = metainf("records", "snapshot", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["digest"] == node.warm_start.DIGEST == digest_of((FOLDER / "snapshot.jsonl").read_bytes())
    assert sum(each["records"] for each in found["signers"]) == found["records"]
    code, out, _ = metainf("records", "snapshot")
    assert code == 0
    assert f"records      {found['records']}, all verified" in out
    for word in (*found["engines"], *found["hardware"], *(each["author"] for each in found["signers"])):
        assert word in out


def test_counting_tells_that_there_is_more_than_the_history(metainf: Metainf, data_dir: Path) -> None:
    fill(data_dir, record(1))
    shipped = json.loads(metainf("records", "snapshot", "--json")[1])["records"]
    assert json.loads(metainf("records", "stats", "--json")[1])["shipped"] == shipped
    assert f"{shipped} more beside the history" in metainf("records", "stats")[1]


def test_a_new_one_is_made_of_exported_trials_and_its_digest_goes_into_the_code(
    metainf: Metainf, data_dir: Path, tmp_path: Path, folder: Path
) -> None:
    fill(data_dir, record(1), record(2), record(5), traffic(3))
    trials, everything = tmp_path / "trials.jsonl", tmp_path / "all.parquet"
    assert metainf("records", "export", str(trials), "--origin", "trial")[0] == 0
    assert metainf("records", "export", str(everything))[0] == 0

    code, out, _ = metainf("records", "snapshot", "--make", str(folder), str(trials), str(trials))
    assert code == 0
    assert "3 records" in out
    digest = runpy.run_path(str(folder / "__init__.py"))["DIGEST"]
    assert digest in out
    made = open_snapshot((folder / "snapshot.jsonl").read_bytes(), digest=digest)
    assert sorted(each.name.seq for each in made.records) == [1, 2, 5]
    before = (FOLDER / "__init__.py").read_text().replace(node.warm_start.DIGEST, digest)
    assert (folder / "__init__.py").read_text() == before

    code, _, err = metainf("records", "snapshot", "--make", str(folder), str(everything))
    assert code != 0
    assert "traffic" in err
    (tmp_path / "observed.jsonl").write_text('{"outcome.latency_mean_s": 1.0}\n')
    code, _, err = metainf("records", "snapshot", "--make", str(folder), str(tmp_path / "observed.jsonl"))
    assert code != 0
    assert "unsigned" in err
    assert digest_of((folder / "snapshot.jsonl").read_bytes()) == digest
    assert runpy.run_path(str(folder / "__init__.py"))["DIGEST"] == digest


def test_a_file_that_it_is_given_to_show_is_refused_with_what_takes_files(metainf: Metainf, tmp_path: Path) -> None:
    file = tmp_path / "some.jsonl"
    file.write_text("")
    code, _, err = metainf("records", "snapshot", str(file))
    assert code != 0
    assert "records import" in err
