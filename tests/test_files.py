import stat
import threading
from pathlib import Path

import pytest

from node import files


def test_a_new_file_is_private_and_whole(tmp_path: Path) -> None:
    files.write_new(tmp_path / "f", b"content")
    assert (tmp_path / "f").read_bytes() == b"content"
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["f"]


def test_a_new_file_never_replaces_another(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"precious")
    with pytest.raises(FileExistsError):
        files.write_new(tmp_path / "f", b"content")
    assert (tmp_path / "f").read_bytes() == b"precious"
    assert [entry.name for entry in tmp_path.iterdir()] == ["f"]


def test_replacing_puts_the_new_content_in_place(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"old")
    files.replace(tmp_path / "f", b"new")
    assert (tmp_path / "f").read_bytes() == b"new"


def test_two_commands_take_turns(tmp_path: Path) -> None:
    entered = threading.Event()
    with files.exclusive(tmp_path / "f"):

        def other() -> None:
            with files.exclusive(tmp_path / "f"):
                entered.set()

        thread = threading.Thread(target=other)
        thread.start()
        assert not entered.wait(0.1)
    thread.join(5)
    assert entered.is_set()
