"""The benchmark of the shared history cannot rot: its short form runs, and every part of it says what it found."""

import json
from pathlib import Path

import pytest

from tests.benchmarks.bench_history_swarm import main


@pytest.mark.slow
@pytest.mark.daemons
def test_the_short_form_runs_and_tells_of_every_part(tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    assert main(["--quick", "--json", str(out)]) == 0
    told = json.loads(out.read_text())
    assert [title.split(",")[0].split(":")[0].split(" cut")[0] for title in told] == [
        "3 nodes",
        "one that was down meanwhile",
        "one that was never up",
        "two halves",
        "one third killed in the middle of 16 records each",
    ]
    assert told["3 nodes, 16 records each"]["new records"] == "32 / 32 / 32"
