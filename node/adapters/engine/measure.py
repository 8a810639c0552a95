"""Runs measuring scripts under the engine's interpreter, in the environment that the engine itself would get.

Knows the interpreter, the scripts' JSON Lines, deadlines and process groups; knows nothing of what is done with the
figures. Nothing of a script outlives the call, cancelled or not.
"""

import contextlib
import os
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import trio

from node.adapters.engine.command import Launch, environment
from node.adapters.engine.install import (
    COMPLAINT_COLUMNS,
    COMPLAINT_LINES,
    DESCRIBE_DEADLINE,
    INSTALL_REMEDY,
    LINE_LIMIT,
    SCRIPTS,
    EngineInstall,
    check_python,
    run_script,
)
from node.adapters.engine.vllm import CORES_KEPT
from node.core.profile import Absent, Figure
from node.core.strategy import DEFAULT
from node.errors import EngineUnavailable
from node.ports import Endpoint, LaunchPlan

OUTPUT_LIMIT: Final = 4 << 20  # bytes of all that a script says; ours say some KB
GRACE: Final = 3.0  # s that a script has after SIGTERM
END_DEADLINE: Final = 5.0  # s for a killed one to be reaped; more means that it sleeps in a driver
SECONDS: Final = 4.0  # that are measured unless somebody says otherwise
SETUP_SECONDS: Final = 90.0  # beside them: importing torch takes 2 s, on a cold and busy disk a minute; CUDA some more
FIGURES: Final = 64  # of one machine; six to twelve on each kind of device


@dataclass(frozen=True, slots=True, kw_only=True)
class Interpreter:
    """The engine's interpreter and what is in it. `torch` is the version's name."""

    python: Path
    install: EngineInstall
    torch: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A script to run: one of this package's, its arguments, how many threads of OpenMP it gets, for how long."""

    script: str
    arguments: tuple[str, ...]
    threads: int
    deadline: float  # s; then it is ended and the call fails
    inherited: Mapping[str, str] = field(default_factory=lambda: dict(os.environ), repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What the micro-benchmark said. `foreign_cpu`: share of the machine's CPU that others had; None if unknown."""

    figures: tuple[Figure, ...]
    absent: tuple[Absent, ...]
    seconds: float
    foreign_cpu: float | None


class _Progress(msgspec.Struct):
    doing: Annotated[str, msgspec.Meta(max_length=200)]
    share: float


class _Done(msgspec.Struct):
    seconds: float = 0.0
    foreign_cpu: float | None = None
    gpus: int = 0


class _Line(msgspec.Struct):
    """What a line may hold; one of them."""

    progress: _Progress | None = None
    figure: Figure | None = None
    absent: Absent | None = None
    done: _Done | None = None


def engine_threads(cores: int) -> int:
    """Return how many threads of OpenMP an engine on so many cores is given."""
    return max(cores - CORES_KEPT, 1)


async def inspect(python: Path) -> Interpreter:
    """Return what the interpreter has; takes some 50 ms.

    Raises:
        EngineUnavailable: there is no such interpreter, or no torch in it.
    """
    check_python(python)
    said: dict[str, Any] = {}
    with trio.move_on_after(DESCRIBE_DEADLINE):
        await run_script(python, "describe_engine.py", hear=said.update)
    if not said:
        raise EngineUnavailable(f"{python} did not say within {DESCRIBE_DEADLINE:.0f} s what engine it has")
    if said["torch"] is None:
        raise EngineUnavailable(f"torch is not installed for {python}", remedy=INSTALL_REMEDY, permanent=True)
    install = EngineInstall(
        build="cpu" if said["cpu"] else "cuda",
        vllm=said["vllm"] or "",
        openmp=Path(said["openmp"]) if said["openmp"] else None,
        embedded=said["embedded"],
    )
    return Interpreter(python=python, install=install, torch=said["torch"])


async def measure(
    engine: Interpreter,
    *,
    threads: int,
    tell: Callable[[str, float], None],
    seconds: float = SECONDS,
    buffer_mib: int | None = None,
) -> Measured:
    """Run the micro-benchmark, and the all-reduce where there are several GPUs; some seconds more than `seconds`.

    Args:
        tell: is told what is done and how far it is, from 0 to 1.
        buffer_mib: memory for each dtype's weights; None for the benchmark's own choice, 2 GiB in all at most on a CPU.

    Raises:
        EngineUnavailable: it cannot be run, failed, said nonsense or took too long; the message carries what it said.
    """
    figures: list[Figure] = []
    absent: list[Absent] = []
    ends: list[_Done] = []

    def hear(raw: bytes) -> None:
        line = msgspec.json.decode(raw, type=_Line)
        if line.progress is not None:
            tell(line.progress.doing, line.progress.share)
        if line.figure is not None and len(figures) < FIGURES:
            figures.append(line.figure)
        if line.absent is not None and len(absent) < FIGURES:
            absent.append(line.absent)
        if line.done is not None:
            ends.append(line.done)

    device = engine.install.build
    size = () if buffer_mib is None else ("--buffer-mib", str(buffer_mib))
    arguments = ("--device", device, "--seconds", f"{seconds:g}", *size)
    deadline = seconds + SETUP_SECONDS
    await run(engine, Order(script="microbench.py", arguments=arguments, threads=threads, deadline=deadline), hear)
    if not ends or not figures:
        raise EngineUnavailable("the micro-benchmark ended without a figure", remedy=INSTALL_REMEDY)
    if ends[0].gpus > 1:
        together = Order(
            script="allreduce.py", arguments=(device, str(ends[0].gpus)), threads=threads, deadline=SETUP_SECONDS
        )
        await run(engine, together, hear)
    tell("done", 1.0)
    return Measured(
        figures=tuple(figures), absent=tuple(absent), seconds=ends[0].seconds, foreign_cpu=ends[0].foreign_cpu
    )


async def run(engine: Interpreter, order: Order, hear: Callable[[bytes], None]) -> None:
    """Run one script to its end; `hear` is given each line that is a JSON object, as it is printed.

    It runs in a process group of its own, which gets SIGTERM and then SIGKILL when the call is cancelled, when the
    deadline passes or when the script says too much. `hear` may raise msgspec.DecodeError for what it cannot read.

    Raises:
        EngineUnavailable: it cannot be run, or it failed; the message carries what it said.
    """
    complaints: deque[str] = deque(maxlen=COMPLAINT_LINES)
    process = await _start(engine, order)
    try:
        with trio.move_on_after(order.deadline) as limit:
            await _listen(process, hear, complaints)
            await process.wait()
    except msgspec.DecodeError as error:
        raise EngineUnavailable(f"{order.script} said what nobody understands: {error}") from error
    finally:
        await _end(process)
    if limit.cancelled_caught:
        raise EngineUnavailable(
            f"{order.script} was not done after {order.deadline:.0f} s",
            remedy="Try again when the machine has less to do.",
        )
    if process.returncode != 0:
        said = " / ".join(complaints) or f"status {process.returncode}"
        raise EngineUnavailable(f"{order.script} failed under {engine.python}: {said}")


async def _start(engine: Interpreter, order: Order) -> trio.Process:
    try:
        return await trio.lowlevel.open_process(
            [str(engine.python), "-I", str(SCRIPTS / order.script), *order.arguments],
            stdin=subprocess.PIPE,  # held open: its end tells the script that the daemon is gone
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=engine_environment(engine.install, threads=order.threads, inherited=order.inherited),
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        message = f"cannot run {engine.python}: {error}"
        raise EngineUnavailable(message, remedy=INSTALL_REMEDY, permanent=True) from error


def engine_environment(install: EngineInstall, *, threads: int, inherited: Mapping[str, str]) -> dict[str, str]:
    """Return the environment that an engine on this installation gets: what is measured is what it will have."""
    plan = LaunchPlan(model="", served_name="", strategy=DEFAULT)
    nowhere = Endpoint(host="", port=0, api_key=None)
    launch = Launch(
        command=(), install=install, endpoint=nowhere, model="", offline=True, kv_cache_bytes=None, threads=threads
    )
    return environment(plan, launch, inherited)


async def _listen(process: trio.Process, hear: Callable[[bytes], None], complaints: deque[str]) -> None:
    """Until its output ends. What is no JSON comes from the libraries that the script uses."""
    assert process.stdout is not None  # noqa: S101 -- asked for above; narrows the type
    buffer, heard = b"", 0
    while data := await process.stdout.receive_some(LINE_LIMIT):
        heard += len(data)
        if heard > OUTPUT_LIMIT:
            raise EngineUnavailable(f"the script said more than {OUTPUT_LIMIT >> 20} MiB")
        *lines, buffer = (buffer + data).split(b"\n")
        for line in lines:
            if line.startswith(b"{"):
                hear(line)
            elif line.strip():
                complaints.append(line.decode(errors="replace").strip()[:COMPLAINT_COLUMNS])
        buffer = buffer[:LINE_LIMIT]


async def _end(process: trio.Process) -> None:
    """End what is left of its group. Every process of the group is the script's own."""
    with trio.CancelScope(shield=True):
        if process.returncode is None:
            _signal_group(process, signal.SIGTERM)
            with trio.move_on_after(GRACE):
                await process.wait()
        _signal_group(process, signal.SIGKILL)
        with trio.move_on_after(END_DEADLINE):
            await process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                await stream.aclose()


def _signal_group(process: trio.Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # nobody is left
        os.killpg(process.pid, number)
