"""Running this package's scripts under the engine's interpreter and reading what they say.

Knows the interpreter's path, one JSON object a line, and deadlines; knows nothing of what the scripts do.
"""

import json
import os
import subprocess
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from node.core.strategy import Build
from node.errors import EngineUnavailable

SCRIPTS = Path(__file__).with_name("scripts")
DESCRIBE_DEADLINE = 30.0  # s; it takes 50 ms, on a cold disk some seconds
END_DEADLINE = 5.0  # s for a killed script to be reaped; more means that it sleeps in a driver
LINE_LIMIT = 65536  # bytes of one line; ours are some hundred
COMPLAINT_LINES = 6  # of what is no JSON, kept for the message when a script fails
COMPLAINT_COLUMNS = 300
INSTALL_REMEDY = "Run deploy/run again to install the engine, or set engine.python to an interpreter that has vLLM."


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineInstall:
    """What an interpreter has of an engine."""

    build: Build
    vllm: str
    openmp: Path | None  # Intel's OpenMP library, to be preloaded on CPU
    embedded: bool  # whether the package of the embedded model is there


def check_python(python: Path) -> None:
    """Raise EngineUnavailable unless the interpreter is a file that can be run."""
    if not python.exists():
        message = f"engine.python is {python}, which does not exist"
        raise EngineUnavailable(message, remedy=INSTALL_REMEDY, permanent=True)
    if not python.is_file() or not os.access(python, os.X_OK):
        message = f"engine.python is {python}, which is no program that this user may run"
        raise EngineUnavailable(message, remedy=INSTALL_REMEDY, permanent=True)


async def describe(python: Path) -> EngineInstall:
    """Return what engine the interpreter has.

    Raises:
        EngineUnavailable: no such interpreter, or no vLLM in it.
    """
    check_python(python)
    said: dict[str, Any] = {}
    with trio.move_on_after(DESCRIBE_DEADLINE):
        await run_script(python, "describe_engine.py", hear=said.update)
    if not said:
        raise EngineUnavailable(f"{python} did not say within {DESCRIBE_DEADLINE:.0f} s what engine it has")
    if said["vllm"] is None or not said["module"]:
        raise EngineUnavailable(f"vLLM is not installed for {python}", remedy=INSTALL_REMEDY, permanent=True)
    return EngineInstall(
        build="cpu" if said["cpu"] else "cuda",
        vllm=said["vllm"],
        openmp=Path(said["openmp"]) if said["openmp"] else None,
        embedded=said["embedded"],
    )


async def run_script(python: Path, script: str, *arguments: str, hear: Callable[[Mapping[str, Any]], None]) -> None:
    """Run a script to its end; `hear` is given each JSON object as it is printed. Cancelled, it kills the script.

    Raises:
        EngineUnavailable: it cannot be run, or it failed; the message carries what it said.
    """
    try:
        process = await trio.lowlevel.open_process(
            [str(python), "-I", str(SCRIPTS / script), *arguments],
            stdin=subprocess.PIPE,  # held open: its end tells a long script that the daemon is gone
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**clean_environment(os.environ), "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"},
            cwd="/",
        )
    except OSError as error:
        raise EngineUnavailable(f"cannot run {python}: {error}", remedy=INSTALL_REMEDY, permanent=True) from error
    complaints: deque[str] = deque(maxlen=COMPLAINT_LINES)
    try:
        await _listen(process, hear, complaints)
        status = await process.wait()
    finally:
        await _end(process)
    if status != 0:
        raise EngineUnavailable(f"{script} failed under {python}: {' / '.join(complaints) or f'status {status}'}")


async def _listen(process: trio.Process, hear: Callable[[Mapping[str, Any]], None], complaints: deque[str]) -> None:
    """Until its output ends. What is no JSON comes from the libraries that the script uses."""
    buffer = b""
    while process.stdout is not None and (data := await process.stdout.receive_some(LINE_LIMIT)):
        *lines, buffer = (buffer + data).split(b"\n")
        for line in lines:
            if line.startswith(b"{"):
                hear(json.loads(line))
            elif line.strip():
                complaints.append(line.decode(errors="replace").strip()[:COMPLAINT_COLUMNS])
        buffer = buffer[:LINE_LIMIT]


async def _end(process: trio.Process) -> None:
    if process.returncode is None:
        process.kill()
    with trio.move_on_after(END_DEADLINE) as scope:
        scope.shield = True
        await process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                await stream.aclose()


def clean_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return it without what would bend an interpreter: its own search paths, options and start-up files."""
    return {name: value for name, value in environment.items() if not name.startswith("PYTHON")}
