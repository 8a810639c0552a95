from pathlib import Path

import pytest

from node.adapters import pause_file
from node.core.operator_limits import Pause


@pytest.mark.parametrize("pause", [Pause(since=1.5), Pause(since=1.0, until=61.0, now=True)])
def test_a_pause_survives_its_file(tmp_path: Path, pause: Pause) -> None:
    file = tmp_path / "new folder" / pause_file.NAME
    pause_file.save(file, pause)
    assert pause_file.load(file) == pause
    assert file.stat().st_mode & 0o777 == 0o600
    pause_file.save(file, None)
    assert not file.exists()
    pause_file.save(file, None)


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[]", b'{"since": "x"}', b'{"since": 1, "until": []}', b" " * 5000, b"[" * 4000]
)
def test_a_damaged_file_is_as_good_as_none(tmp_path: Path, raw: bytes) -> None:
    file = tmp_path / pause_file.NAME
    file.write_bytes(raw)
    assert pause_file.load(file) is None


def test_without_a_file_there_is_no_pause(tmp_path: Path) -> None:
    assert pause_file.load(tmp_path / "none") is None
    (tmp_path / "folder").mkdir()
    assert pause_file.load(tmp_path / "folder") is None
    pause_file.save(tmp_path / "folder", Pause(since=1.0))  # and saving in vain ends nothing
