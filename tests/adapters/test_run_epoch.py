"""The epoch of a run is later than every earlier one's, whatever happens to the clock and to the file."""

import json
import stat
from pathlib import Path

import pytest

from node.adapters.run_epoch import begin_run

NOW_US = 1_700_000_000_000_000


def test_a_run_begins_when_the_clock_says(tmp_path: Path) -> None:
    file = tmp_path / "state" / "epoch.json"
    assert begin_run(file, NOW_US) == NOW_US
    assert begin_run(file, NOW_US + 7) == NOW_US + 7
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_runs_rise_even_where_the_clock_stands_or_is_set_back(tmp_path: Path) -> None:
    file = tmp_path / "epoch.json"
    epochs = [begin_run(file, now) for now in (NOW_US, NOW_US, NOW_US - 3_600_000_000, NOW_US + 1)]
    assert epochs == [NOW_US, NOW_US + 1, NOW_US + 2, NOW_US + 3]


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{", b"[]", b"\xff", b"[" * 4_000, b" " * 10_000),
        *(b'{"epoch_us": %s}' % each for each in (b'"9"', b"true", b"-1", b"9e99", b"99999999999999999999")),
    ],
)
def test_a_damaged_file_leaves_the_clock_and_is_mended(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "epoch.json"
    file.write_bytes(content)
    assert begin_run(file, NOW_US) == NOW_US
    assert json.loads(file.read_bytes())["epoch_us"] == NOW_US


def test_a_folder_that_cannot_be_written_is_borne(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert begin_run(tmp_path / "file" / "epoch.json", NOW_US) == NOW_US
