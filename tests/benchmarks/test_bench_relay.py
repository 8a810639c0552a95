"""The benchmark runs, in its short form."""

import pytest

from tests.benchmarks.bench_p2p import QUICK
from tests.benchmarks.bench_relay import run

pytestmark = [pytest.mark.slow, pytest.mark.libp2p]


def test_every_figure_is_taken() -> None:
    row = run(QUICK)
    assert len(row) == 6
    assert all(value > 0 for value in row.values()), row
