"""The benchmarks of the store run, in their short forms."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def figures_of(module: str, *arguments: str, out: Path) -> dict[str, float]:
    # Processes of their own: one forks, the other measures its memory.
    command = [sys.executable, "-m", f"tests.benchmarks.{module}", *arguments, "--json", str(out)]
    subprocess.run(command, check=True, timeout=120, stdout=subprocess.DEVNULL)
    return json.loads(out.read_text())


def test_nothing_acknowledged_is_lost_to_ten_kills(tmp_path: Path) -> None:
    figures = figures_of("bench_store_kill", "--kills", "10", out=tmp_path / "out")
    assert figures["kills"] == 10
    assert figures["inside a transaction"] == 5
    assert figures["acknowledged"] > 100
    assert not figures["acknowledged and lost"]
    assert not figures["batches by halves"]
    assert not figures["names given twice"]


def test_a_small_history_comes_in_and_is_measured(tmp_path: Path) -> None:
    figures = figures_of("bench_store", "--records", "640", out=tmp_path / "out")
    # What they are is for the long form on a quiet machine to say.
    assert figures["rate / signatures alone"] > 0
    assert figures["loop lag busy p50 ms"] > 0
    assert figures["memory grown MiB"] < 64
