import os
import subprocess
import sys
from pathlib import Path

import pytest

from node.adapters.own_processes import GENERATIONS, foreign

ME = 100


def process(proc: Path, pid: int, parent: int, name: str = "game") -> None:
    (proc / str(pid)).mkdir()
    (proc / str(pid) / "stat").write_text(f"{pid} ({name}) S {parent} 1 1 0 -1 4194560 1 2 3\n")


def test_children_of_children_are_ours_and_a_game_is_not(tmp_path: Path) -> None:
    for pid, parent in ((ME, 1), (101, ME), (102, 101), (103, 102), (200, 1), (201, 200)):
        process(tmp_path, pid, parent)
    assert [foreign(pid, proc=tmp_path, me=ME) for pid in (ME, 101, 103, 200, 201)] == [False, False, False, True, True]


def test_the_first_process_of_a_container_knows_its_own(tmp_path: Path) -> None:
    for pid, parent in ((1, 0), (5, 1), (6, 5)):
        process(tmp_path, pid, parent)
    assert [foreign(pid, proc=tmp_path, me=1) for pid in (1, 5, 6)] == [False, False, False]


@pytest.mark.parametrize("name", ["a) b", "(((", ") S 100 1"])
def test_a_program_s_name_does_not_mislead(tmp_path: Path, name: str) -> None:
    process(tmp_path, 300, 1, name)
    assert foreign(300, proc=tmp_path, me=ME)


def test_what_cannot_be_seen_is_nobody(tmp_path: Path) -> None:
    assert not foreign(999, proc=tmp_path, me=ME)
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "stat").write_text("nonsense")
    assert not foreign(7, proc=tmp_path, me=ME)


def test_a_line_without_an_end_ends(tmp_path: Path) -> None:
    process(tmp_path, 400, 401)
    process(tmp_path, 401, 400)
    assert GENERATIONS > 2
    assert foreign(400, proc=tmp_path, me=ME)


@pytest.mark.slow
def test_of_this_machine_a_child_is_ours_and_our_parent_is_not() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert not foreign(child.pid)
        child.communicate(b"\n")
    assert foreign(os.getpid(), me=child.pid)
