"""The bench: scripts/trial.py under the engine's interpreter, as the port `Bench`.

Knows the script's lines, the process that runs it and how it is ended; knows no plan. The engines get the flags and
the environment that the node's own engine gets, so that what is measured is what will serve.
"""

import json
import os
import signal
import subprocess
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from node.adapters.engine import embedded_model, model_folder
from node.adapters.engine.command import Launch, environment
from node.adapters.engine.install import SCRIPTS, EngineInstall, describe
from node.adapters.engine.model_content import load_format, local_folder
from node.adapters.engine.vllm import CORES_KEPT
from node.core.capabilities import UNKNOWN, Capabilities
from node.core.engine_flags import engine_flags
from node.core.strategy import Strategy
from node.core.trial_plan import Failure
from node.core.workloads import Request
from node.errors import EngineUnavailable
from node.ports import Endpoint, LaunchPlan, Machine
from node.trial_ports import Answered, BenchFacts, BenchWord, Built, Hear, Order, Raw

IMPORT_DEADLINE = 180.0  # s until vLLM is imported; 10 on an idle core, a minute on a cold disk
SLACK = 30.0  # s beyond what the script allows itself: it ends its own children first
END_DEADLINE = 5.0  # s for killed processes to be reaped
LINE_LIMIT = 16 << 20  # bytes; a load's figures are some kilobytes
READ_SIZE = 65536
COMPLAINT_LINES, COMPLAINT_COLUMNS = 6, 300
WORDS = {"out_of_memory", "start_failed", "crashed", "timed_out"}  # why a trial failed, in the words of records


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchSetup:
    """What is measured, and with what.

    Attributes:
        python: the interpreter of the environment that holds vLLM. `install`: what was found there.
        plan: the model and its limits, as the node's own engine is given them; its strategy is not used.
        model: the folder or hub id to load, `embedded` already replaced.
        scripts: the folder that trial.py lies in.
    """

    python: Path
    install: EngineInstall
    plan: LaunchPlan
    model: str
    offline: bool
    kv_cache_bytes: int | None
    threads: int
    trust_remote_code: bool = False
    load_format: str | None = None  # how weights are loaded, where the operator's own flags say it
    capabilities: Capabilities = UNKNOWN  # of that vLLM: how it spells flags
    scripts: Path = SCRIPTS
    inherited: Mapping[str, str] = field(default_factory=lambda: dict(os.environ), repr=False)


class VllmBench:
    """A process that holds vLLM imported. Made by `open_bench`, which also ends it."""

    def __init__(self, process: trio.Process, setup: BenchSetup) -> None:
        self._process = process
        self._setup = setup
        self._received = b""
        self._complaints: deque[str] = deque(maxlen=COMPLAINT_LINES)
        self._number = 0
        self._facts: BenchFacts | None = None

    @property
    def facts(self) -> BenchFacts:
        """What it measures with."""
        if self._facts is None:
            raise EngineUnavailable("the bench is not ready yet")
        return self._facts

    async def begin(self) -> None:
        """Wait until vLLM is imported.

        Raises:
            EngineUnavailable: it cannot be.
        """
        with trio.move_on_after(IMPORT_DEADLINE):
            while True:
                kind, body = await self._next()
                if kind == "ready":
                    self._facts = BenchFacts(
                        vllm=str(body["vllm"]),
                        torch=str(body["torch"]),
                        build=self._setup.install.build,
                        model=self._setup.plan.served_name,
                    )
                    return
        raise EngineUnavailable(f"vLLM was not imported within {IMPORT_DEADLINE:.0f} s")

    async def run(self, order: Order, hear: Hear) -> None:
        """Run one engine through its loads. See the port."""
        self._number += 1
        name = str(self._number)
        with trio.move_on_after(order.build_seconds + len(order.loads) * order.load_seconds + SLACK):
            await self._tell(_order_line(name, order, self._setup))
            while True:
                kind, body = await self._next()
                if body.get("run") != name:
                    continue
                if kind == "done":
                    return
                if (word := _word(kind, body)) is not None:
                    await hear(word)
        raise EngineUnavailable("the bench hangs: it did not end an engine in time")

    async def _tell(self, message: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None  # noqa: S101 -- opened with a pipe
        try:
            await self._process.stdin.send_all(json.dumps(message).encode() + b"\n")
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise self._broken() from error

    async def _next(self) -> tuple[str, Mapping[str, Any]]:
        """Return the next message. What is no JSON comes from the libraries that the script uses."""
        assert self._process.stdout is not None  # noqa: S101 -- opened with a pipe
        while True:
            line, found, rest = self._received.partition(b"\n")
            if found:
                self._received = rest
                message = _message(line)
                if message is not None:
                    return message
                self._complaints.append(line.decode(errors="replace").strip()[:COMPLAINT_COLUMNS])
                continue
            data = await self._process.stdout.receive_some(READ_SIZE)
            if not data or len(self._received) > LINE_LIMIT:
                with trio.move_on_after(END_DEADLINE):
                    await self._process.wait()  # so that the error can say by which signal it ended
                raise self._broken()
            self._received += data

    def _broken(self) -> EngineUnavailable:
        said = " / ".join(line for line in self._complaints if line) or "it ended without a word"
        status = self._process.returncode
        return EngineUnavailable(f"the bench for trials failed under {self._setup.python} (status {status}): {said}")


@asynccontextmanager
async def open_bench(setup: BenchSetup) -> AsyncIterator[VllmBench]:
    """Enter with vLLM imported, some ten seconds later; leaving kills whatever is left.

    Raises:
        EngineUnavailable: it cannot be started here.
    """
    launch = Launch(
        command=(),
        install=setup.install,
        endpoint=Endpoint(host="", port=0),
        model=setup.model,
        offline=setup.offline,
        kv_cache_bytes=setup.kv_cache_bytes,
        threads=setup.threads,
    )
    own = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "ERROR", "TQDM_DISABLE": "1"}
    try:
        process = await trio.lowlevel.open_process(
            [str(setup.python), "-I", str(setup.scripts / "trial.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C in the terminal reaches us, who end it in order
            cwd="/",
            env={**environment(setup.plan, launch, setup.inherited), **own},
        )
    except OSError as error:
        raise EngineUnavailable(f"cannot run {setup.python}: {error}", permanent=True) from error
    bench = VllmBench(process, setup)
    try:
        await bench.begin()
        yield bench
    finally:
        await _end(process)


async def _end(process: trio.Process) -> None:
    """Ask once, so that the script kills its child's whole group; then kill the script."""
    with trio.move_on_after(END_DEADLINE) as scope:
        scope.shield = True
        if process.stdin is not None:
            await process.stdin.aclose()
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        await process.wait()
    if process.returncode is None:
        process.kill()
        with trio.move_on_after(END_DEADLINE) as scope:
            scope.shield = True
            await process.wait()
    if process.stdout is not None:
        with trio.move_on_after(END_DEADLINE) as scope:
            scope.shield = True
            await process.stdout.aclose()


async def bench_setup(
    python: Path, plan: LaunchPlan, *, cache: Path, machine: Machine, tell: Callable[[str], None]
) -> BenchSetup:
    """Return what the plan means on this machine, as for the node's own engine; unpacks the embedded model.

    Raises:
        EngineUnavailable: no vLLM there, or no such model.
    """
    install = await describe(python)
    if plan.model == embedded_model.EMBEDDED:
        await embedded_model.unpack(python, cache, tell=tell)
    folder = local_folder(plan, cache)
    kv = plan.kv_cache_bytes
    if folder is not None:
        shape = model_folder.shape(model_folder.check(folder))
        if kv is None and install.build == "cpu":
            free = machine.memory_available()
            kv = model_folder.kv_cache_bytes(shape, max_model_len=plan.max_model_len, memory_available=free)
    return BenchSetup(
        python=python,
        install=install,
        plan=plan,
        model=str(folder) if folder is not None else plan.model,
        offline=folder is not None,
        kv_cache_bytes=kv,
        threads=max(machine.cpu_cores() - CORES_KEPT, 1),
        load_format=load_format(plan.extra_arguments),
    )


def flags(setup: BenchSetup, strategy: Strategy) -> list[str]:
    """Return vLLM's arguments for one engine, without what only its server knows."""
    line = ["--model", setup.model]
    for flag, value in (
        ("--max-model-len", setup.plan.max_model_len),
        ("--kv-cache-memory-bytes", setup.kv_cache_bytes),
        ("--dtype", setup.plan.dtype),
        ("--load-format", setup.load_format),
    ):
        if value is not None:
            line += [flag, str(value)]
    if setup.trust_remote_code:
        line.append("--trust-remote-code")
    if setup.install.build == "cpu":
        line += ["--distributed-executor-backend", "uni"]
    return [*line, *engine_flags(strategy, setup.install.build, setup.capabilities)]


def _order_line(name: str, order: Order, setup: BenchSetup) -> dict[str, Any]:
    return {
        "run": name,
        "flags": flags(setup, order.strategy),
        "deadline": order.build_seconds,
        "warmup": [_request(each) for each in order.warmup],
        "loads": [
            {"name": load, "deadline": order.load_seconds, "requests": [_request(each) for each in requests]}
            for load, requests in order.loads
        ],
    }


def _request(request: Request) -> dict[str, Any]:
    parts = [[part.text, part.tokens] for part in request.parts]
    return {"at": request.at_us, "parts": parts, "max_tokens": request.max_tokens}


def _message(line: bytes) -> tuple[str, Mapping[str, Any]] | None:
    try:
        message = json.loads(line)
    except ValueError:
        return None
    if not isinstance(message, dict) or len(message) != 1:
        return None
    ((kind, body),) = message.items()
    return (kind, body) if isinstance(body, dict) else None


def _word(kind: str, body: Mapping[str, Any]) -> BenchWord | None:
    """Return a line of the script in the port's terms; None for what needs no hearing."""
    if kind == "built":
        facts = {name: value for name, value in body.items() if name not in ("run", "seconds")}
        return Built(seconds=float(body["seconds"]), facts=facts)
    if kind == "progress":
        return Answered(load=body["load"], answered=int(body["answered"]), of=int(body["of"]))
    if kind == "trial":
        return Raw(load=body["load"], figures=body)
    if kind == "failed":
        why = body["kind"] if body["kind"] in WORDS else "crashed"
        return Failure(kind=why, reason=str(body["reason"]), load=body["load"])
    return None
