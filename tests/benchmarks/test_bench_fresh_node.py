"""The benchmark of a fresh node runs, in its short form."""

from pathlib import Path

import pytest

from tests.benchmarks.test_bench_store import figures_of

pytestmark = [pytest.mark.slow, pytest.mark.libp2p]


def test_a_small_history_comes_to_a_fresh_node_and_is_measured(tmp_path: Path) -> None:
    figures = figures_of("bench_fresh_node", "--records", "640", out=tmp_path / "out")
    # What they are is for the long form on a quiet machine to say.
    assert figures["records per second"] > 0
    assert figures["RSS max MiB"] > 0
    assert figures["looks at the loop"] > 0
    assert figures["first token p50 ms"] > 0
    assert not figures["prompts that failed"]
