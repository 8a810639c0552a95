"""The micro-benchmark under this very interpreter, and interpreters that misbehave."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psutil
import pytest
import trio

from node.adapters.engine import measure
from node.adapters.engine.install import EngineInstall
from node.adapters.engine.measure import Interpreter, Order
from node.core.profile import Figure
from node.errors import EngineUnavailable

pytestmark = pytest.mark.slow

SMALL_MIB = 32  # of each dtype: what is measured then is partly the cache, which no test minds
WITHIN = 90.0  # s; importing torch takes two on an idle core
CPU_INSTALL = EngineInstall(build="cpu", vllm="", openmp=None, embedded=False)


def silent(_doing: str, _share: float) -> None:
    return


def misbehaving(folder: Path, script: str) -> Interpreter:
    """Return what passes for an interpreter and does this instead, whatever it is told to run."""
    python = folder / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    return Interpreter(python=python, install=CPU_INSTALL, torch="2")


def children() -> Iterator[psutil.Process]:
    return (each for each in psutil.Process().children(recursive=True) if each.status() != psutil.STATUS_ZOMBIE)


@pytest.mark.engine
async def test_a_second_of_measuring_gives_every_figure_with_its_spread() -> None:
    told: list[tuple[str, float]] = []
    with trio.fail_after(WITHIN):
        engine = await measure.inspect(Path(sys.executable))
        found = await measure.measure(
            engine, threads=1, seconds=0.5, buffer_mib=SMALL_MIB, tell=lambda *said: told.append(said)
        )
    assert {(each.kind, each.dtype, each.unit) for each in found.figures} == {
        ("gemv", "bfloat16", "B/s"),
        ("gemv", "float32", "B/s"),
        ("gemm", "bfloat16", "FLOP/s"),
        ("gemm", "float32", "FLOP/s"),
        ("attention", "bfloat16", "B/s"),
        ("attention", "float32", "B/s"),
        ("copy", "bfloat16", "B/s"),
    }
    assert found.absent == ()
    for each in found.figures:
        assert 1e7 < each.median < 1e14  # 10 MB/s to 100 TFLOP/s: a wrong factor of a thousand would show
        assert 0 <= each.mad < each.median
        assert each.samples >= 5
    assert found.foreign_cpu is None or 0 <= found.foreign_cpu <= 1
    shares = [share for _, share in told]
    assert shares == sorted(shares)
    assert told[-1] == ("done", 1.0)


@pytest.mark.engine
async def test_two_ranks_add_up_small_and_large_buffers_together() -> None:
    lines: list[bytes] = []
    engine = Interpreter(python=Path(sys.executable), install=CPU_INSTALL, torch="")
    with trio.fail_after(WITHIN):
        await measure.run(
            engine, Order(script="allreduce.py", arguments=("cpu", "2"), threads=1, deadline=WITHIN), lines.append
        )
    said = [msgspec.json.decode(line) for line in lines]
    figures = [msgspec.convert(each["figure"], Figure) for each in said if "figure" in each]
    assert [each.shape for each in figures] == ["64 KiB x 2", "32 MiB x 2"], said
    assert all(each.unit == "s" and 1e-7 < each.median < 10 for each in figures)
    assert figures[0].median < figures[1].median


@pytest.mark.engine
async def test_cancelled_in_the_middle_it_leaves_no_process() -> None:
    engine = await measure.inspect(Path(sys.executable))
    with trio.move_on_after(WITHIN) as scope:

        def stop(doing: str, _share: float) -> None:
            if "measuring" in doing:
                scope.cancel()

        await measure.measure(engine, threads=1, seconds=60.0, buffer_mib=SMALL_MIB, tell=stop)
    assert scope.cancelled_caught
    assert list(children()) == []


async def test_the_script_gets_the_threads_and_the_library_that_the_engine_gets(tmp_path: Path) -> None:
    engine = misbehaving(tmp_path, 'echo "$OMP_NUM_THREADS $KMP_BLOCKTIME $LD_PRELOAD ${SECRET-none}" >&2; exit 3')
    install = EngineInstall(build="cpu", vllm="", openmp=Path("/nowhere/libiomp5.so"), embedded=False)
    engine = Interpreter(python=engine.python, install=install, torch="")
    inherited = {"PATH": os.environ["PATH"], "SECRET": "hunter2", "OMP_NUM_THREADS": "64"}
    order = Order(script="microbench.py", arguments=(), threads=5, deadline=WITHIN, inherited=inherited)
    with pytest.raises(EngineUnavailable, match=r"5 5 /nowhere/libiomp5.so none"):
        await measure.run(engine, order, lambda _line: None)
    assert measure.engine_threads(1) == 1
    assert measure.engine_threads(16) == 15


@pytest.mark.parametrize(
    ("script", "word"),
    [
        ("echo Traceback; echo 'ModuleNotFoundError: torch' >&2; exit 1", "Traceback / ModuleNotFoundError: torch"),
        ("exit 0", "without a figure"),
        ("kill -9 $$", "status -9"),
        ('echo \'{"figure": {"kind": "speed of light"}}\'', "nobody understands"),
        ("echo '{\"progress\": '", "nobody understands"),
        ("exec yes warning", "more than 4 MiB"),
    ],
)
async def test_what_goes_wrong_in_the_script_is_said_in_its_own_words(script: str, word: str, tmp_path: Path) -> None:
    with trio.fail_after(WITHIN), pytest.raises(EngineUnavailable, match=word):
        await measure.measure(misbehaving(tmp_path, script), threads=1, seconds=0.1, tell=silent)
    assert list(children()) == []


async def test_a_script_that_hangs_and_ignores_the_signal_is_killed_with_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "GRACE", 0.3)
    nap = f"600.{os.getpid()}"  # by which this test's sleepers are known
    engine = misbehaving(tmp_path, f"trap '' TERM\nsleep {nap} &\nwhile :; do sleep {nap}; done")
    order = Order(script="microbench.py", arguments=(), threads=1, deadline=0.3)
    begin = trio.current_time()
    with trio.fail_after(WITHIN), pytest.raises(EngineUnavailable, match="not done after") as raised:
        await measure.run(engine, order, lambda _line: None)
    assert raised.value.remedy
    assert trio.current_time() - begin < measure.GRACE + measure.END_DEADLINE
    # Grandchildren are nobody's children now; they may still be on their way out.
    with trio.fail_after(measure.END_DEADLINE):
        while any(  # noqa: ASYNC110 -- nobody is told of a grandchild's end
            nap in (each.info["cmdline"] or ()) for each in psutil.process_iter(["cmdline"])
        ):
            await trio.sleep(0.05)


async def test_an_interpreter_that_is_not_there_or_has_no_torch_is_said_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailable, match="does not exist") as raised:
        await measure.inspect(tmp_path / "nothing")
    assert raised.value.remedy
    answer = '{"vllm": null, "cpu": false, "module": false, "torch": null, "openmp": null, "embedded": false}'
    with pytest.raises(EngineUnavailable, match="torch is not installed"):
        await measure.inspect(misbehaving(tmp_path, f"echo '{answer}'").python)
