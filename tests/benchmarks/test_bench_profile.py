import sys
from pathlib import Path

import pytest
import trio

from node.adapters.engine.measure import inspect
from tests.benchmarks.bench_profile import repeat

pytestmark = [pytest.mark.slow, pytest.mark.engine]


async def test_two_short_runs_are_compared_figure_by_figure() -> None:
    with trio.fail_after(90):
        engine = await inspect(Path(sys.executable))
        apart = await repeat(engine, runs=2, seconds=0.3, buffer_mib=32)
    assert len(apart) == 7
    assert all(each >= 0 for each in apart.values()), apart
