"""Nothing of an engine is left, whatever dies first and however it misbehaves."""

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from node.adapters.engine import guardian
from node.adapters.engine.leftovers import Mark
from node.adapters.engine.vllm import VllmLauncher
from node.adapters.system import LocalMachine
from node.ports import EngineProcess
from tests.fakes.stub_launch import engines_of, stub_plan, stub_setup, until_gone, until_it_listens

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
DEADLINE = 15.0  # s for what should take less than one
ORPHAN_PROMISE = 5.0  # s after SIGKILL of the daemon, by which nothing is left


@asynccontextmanager
async def engine(folder: Path, **wrong: object) -> AsyncIterator[EngineProcess]:
    launcher = VllmLauncher(stub_setup(folder, wrong), LocalMachine())
    with trio.fail_after(DEADLINE):
        async with launcher.launch(stub_plan(folder)) as process:
            yield process


async def until_it_says(process: EngineProcess, words: str) -> None:
    while not any(words in line for line in process.log_tail()):  # noqa: ASYNC110  # a file grows in silence
        await trio.sleep(0.02)


async def until_there_are(folder: Path, count: int) -> list[int]:
    while len(found := engines_of(folder)) < count:  # noqa: ASYNC110  # processes start in silence
        await trio.sleep(0.02)
    return found


def guardian_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[1])


def is_there(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


@asynccontextmanager
async def daemon(folder: Path, wrong: str) -> AsyncIterator[tuple[trio.Process, int]]:
    """A daemon in miniature that has launched the stub; yields it and the engine's process id."""
    command = [sys.executable, "-m", "tests.fakes.launching_daemon", str(folder), wrong]
    process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE, cwd=ROOT)
    try:
        with trio.fail_after(DEADLINE):
            assert process.stdout is not None
            line = await process.stdout.receive_some()
            assert line.startswith(b"ready ")
            yield process, int(line.split()[1])
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        if process.stdout is not None:
            await process.stdout.aclose()


async def test_a_grandchild_in_its_own_session_goes_with_the_engine(tmp_path: Path) -> None:
    async with engine(tmp_path, grandchild=True) as process:
        await until_it_says(process, "listens")
        assert len(engines_of(tmp_path)) == 2
        ended = await process.stop(grace=5)
        assert ended.code == 0
        assert engines_of(tmp_path) == []  # `stop` returns when nothing is left, not when the leader is gone


async def test_a_grandchild_goes_when_the_engine_is_killed(tmp_path: Path) -> None:
    async with engine(tmp_path, grandchild=True) as process:
        await until_it_says(process, "listens")
        os.kill(process.pid, signal.SIGKILL)
        ended = await process.wait()
        assert (ended.code, ended.signal) == (None, signal.SIGKILL)
        assert engines_of(tmp_path) == []


async def test_an_engine_that_ignores_sigterm_is_killed_after_the_grace(tmp_path: Path) -> None:
    async with engine(tmp_path, ignore_sigterm=True) as process:
        await until_it_says(process, "listens")
        begin = trio.current_time()
        ended = await process.stop(grace=0.5)
        assert ended.signal == signal.SIGKILL
        assert 0.4 < trio.current_time() - begin < 3


async def test_a_second_stop_can_shorten_the_first_ones_patience(tmp_path: Path) -> None:
    async with engine(tmp_path, ignore_sigterm=True) as process, trio.open_nursery() as nursery:
        await until_it_says(process, "listens")
        begin = trio.current_time()
        nursery.start_soon(lambda: process.stop(grace=60))
        await trio.sleep(0.1)
        await process.stop(grace=0)
        assert trio.current_time() - begin < 3


@pytest.mark.parametrize("wrong", ["{}", '{"ignore_sigterm": true}', '{"grandchild": true, "ignore_sigterm": true}'])
async def test_nothing_is_left_five_seconds_after_the_daemon_was_killed(tmp_path: Path, wrong: str) -> None:
    async with daemon(tmp_path, wrong) as (process, pid):
        await until_there_are(tmp_path, 2 if "grandchild" in wrong else 1)
        guardian_pid = guardian_of(pid)
        process.kill()
        await until_gone(tmp_path, within=ORPHAN_PROMISE)
        with trio.fail_after(ORPHAN_PROMISE):
            while is_there(guardian_pid):  # noqa: ASYNC110  # it is no child of ours
                await trio.sleep(0.02)


async def test_an_interrupt_at_the_terminal_reaches_neither_guardian_nor_engine(tmp_path: Path) -> None:
    async with engine(tmp_path) as process:
        await until_it_says(process, "listens")
        assert os.getpgid(process.pid) != os.getpgid(0)
        assert os.getpgid(guardian_of(process.pid)) not in (os.getpgid(0), os.getpgid(process.pid))
        os.kill(guardian_of(process.pid), signal.SIGINT)
        with trio.move_on_after(0.5):
            pytest.fail(f"it ended: {await process.wait()}")


async def test_when_the_guardian_is_killed_the_engine_dies_and_its_children_are_swept_up(tmp_path: Path) -> None:
    async with engine(tmp_path, grandchild=True) as process:
        await until_it_says(process, "listens")
        os.kill(guardian_of(process.pid), signal.SIGKILL)
        ended = await process.wait()
        assert ended.signal == signal.SIGKILL
        assert "guardian was lost" in ended.log_tail[-1]
        assert engines_of(tmp_path) == []


async def test_a_later_run_sweeps_up_what_an_earlier_one_left(tmp_path: Path) -> None:
    async with daemon(tmp_path, '{"grandchild": true}') as (process, pid):
        await until_there_are(tmp_path, 2)
        # The one case that no guardian covers: both are killed, so only the leader dies with the guardian.
        os.kill(guardian_of(pid), signal.SIGSTOP)
        process.kill()
        await process.wait()
        os.kill(guardian_of(pid), signal.SIGKILL)
        told: list[str] = []
        launcher = VllmLauncher(stub_setup(tmp_path), LocalMachine())
        await launcher.prepare(stub_plan(tmp_path), tell=told.append)
        assert told[0].startswith("ended ")
        assert engines_of(tmp_path) == []


async def test_the_log_is_bounded_whatever_is_printed(tmp_path: Path) -> None:
    launcher = VllmLauncher(stub_setup(tmp_path, {"garbage_output": 3_000_000}, log_bytes=200_000), LocalMachine())
    with trio.fail_after(DEADLINE):
        async with launcher.launch(stub_plan(tmp_path)) as process:
            await until_it_listens(process)
            ended = await process.stop(grace=5)
    logs = sorted((tmp_path / "logs").iterdir())
    assert [file.name for file in logs] == ["engine.log", "engine.log.1", "engine.log.2", "engine.log.3"][: len(logs)]
    assert sum(file.stat().st_size for file in logs) <= 4 * (200_000 + guardian.CHUNK)
    assert all(line.isprintable() for line in ended.log_tail)
    assert ended.log_tail[-1] == "stub engine ends"


async def test_the_last_words_are_told_with_the_end(tmp_path: Path) -> None:
    async with engine(tmp_path, crash_before_listening="RuntimeError: no luck today") as process:
        ended = await process.wait()
    assert ended.code == 1
    assert ended.log_tail == ("RuntimeError: no luck today",)


async def test_a_full_or_forbidden_log_folder_does_not_stop_the_engine(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "engine.log").mkdir()  # nothing can be written there
    async with engine(tmp_path, crash_before_listening="still heard") as process:
        assert (await process.wait()).log_tail == ("still heard",)


def test_a_terminal_is_not_commanded_by_the_log() -> None:
    log = guardian.Log(os.devnull, 1000, 1)
    log.remember(b"\x1b[31mred\x07 \xff caf\xc3\xa9\n" + b"x" * 100_000 + b"\nend")
    first, endless, last = log.lines()
    assert first == "·[31mred· \ufffd café"
    assert endless == "x" * guardian.TAIL_COLUMNS
    assert last == "end"


def test_marks_find_one_launch_or_all_of_a_folder() -> None:
    all_of_it = Mark(tag="abc", folder=Path("/w"))
    one = Mark(tag="abc.1-2", folder=Path("/w/1-2"))
    assert all_of_it.fits("abc.1-2", None)
    assert all_of_it.fits(None, "/w/1-2/deeper (deleted)")
    assert one.fits("abc.1-2", "/elsewhere")
    assert not one.fits("abc.1-20", "/w/1-20")
    assert not all_of_it.fits("abcd.1-2", "/w2/1-2")
