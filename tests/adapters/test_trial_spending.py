"""What is kept of a day's budget: comes back over a restart, counts what was under way, and bears damage."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from node.adapters.trial_spending import SpendingFile
from node.errors import Unavailable

NOON = 1_800_000_000


def at(file: Path, seconds: float) -> SpendingFile:
    return SpendingFile(file, wall=lambda: round((NOON + seconds) * 1e6))


def rounded(spans: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(round(began, 3), round(ended, 3)) for began, ended in spans]


async def test_what_was_spent_is_as_long_ago_as_time_went_by(tmp_path: Path) -> None:
    file = tmp_path / "trials" / "spent.json"
    assert await at(file, 0).read() == []
    await at(file, 0).write([(500.0, 200.0), (100.0, 40.0)])
    assert rounded(await at(file, 1000).read()) == [(1500.0, 1200.0), (1100.0, 1040.0)]


async def test_a_span_that_was_under_way_counts_until_now_at_most(tmp_path: Path) -> None:
    file = tmp_path / "spent.json"
    await at(file, 0).write([(0.0, -900.0)])
    assert rounded(await at(file, 60).read()) == [(60.0, 0.0)]  # the node died, and comes up a minute later
    assert rounded(await at(file, 2000).read()) == [(2000.0, 1100.0)]


async def test_a_clock_that_was_set_back_and_a_damaged_file_count_as_nothing(tmp_path: Path) -> None:
    file = tmp_path / "spent.json"
    await at(file, 5000).write([(100.0, 50.0)])
    assert await at(file, 0).read() == []
    for content in (b"", b"{", b"[]", b'{"version": 9, "spans": []}', b'{"version": 1, "spans": [[1]]}', b"\xff" * 99):
        file.write_bytes(content)
        assert await at(file, 0).read() == []


async def test_a_disk_that_refuses_is_said(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises(Unavailable, match="cannot write"):
        await at(blocked / "spent.json", 0).write([(1.0, 0.0)])
