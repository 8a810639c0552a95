"""The daemon's side of the guardian: start one, hear what became of its process, end both whatever happens.

Knows the guardian's two pipes and its log file; knows nothing of engines or HTTP.
"""

import json
import os
import subprocess
import sys
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from node.adapters.engine import guardian, leftovers
from node.adapters.engine.leftovers import TAG_VARIABLE, Mark
from node.errors import EngineUnavailable
from node.ports import EngineExit

REPORT_LIMIT = 1 << 20  # bytes of one line from the guardian; a tail is 40 lines of 400 characters
READ_SIZE = 65536
START_DEADLINE = 60.0  # s until the guardian has forked; it takes 25 ms, 2 s at a load of nine, more while swapping
END_DEADLINE = guardian.STUCK_AFTER + 5.0  # s until the guardian must have ended after "kill"
LIVE_TAIL_BYTES = 16 * 1024  # read from the end of the log for the live tail


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to run and where. `arguments[0]` is a path; `environment` is the whole of it but for the mark."""

    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    folder: Path
    log: Path
    log_bytes: int
    log_files: int
    tag: str


class GuardedProcess:
    """A process under a guardian. Made by `guarded`, which also ends it."""

    def __init__(self, process: trio.Process, order: Order) -> None:
        self._process = process
        self._order = order
        self._reading = trio.Lock()
        self._telling = trio.Lock()
        self._received = b""
        self._complaints: deque[str] = deque(maxlen=guardian.TAIL_LINES)
        self._exit: EngineExit | None = None
        self._log_start = order.log.stat().st_size if order.log.exists() else 0
        self.pid = 0

    async def begin(self) -> None:
        """Give the guardian its order and wait until the guardian has forked.

        Raises:
            EngineUnavailable: it could not even start.
        """
        order = self._order
        late = True
        with trio.move_on_after(START_DEADLINE):
            await self._tell(
                {
                    "argv": order.arguments,
                    "environment": {TAG_VARIABLE: order.tag, **order.environment},
                    "folder": str(order.folder),
                    "log": str(order.log),
                    "log_bytes": order.log_bytes,
                    "log_files": order.log_files,
                    "parent": os.getpid(),
                }
            )
            report = await self._report()
            if report is not None and "started" in report:
                self.pid = int(report["started"])
                return
            late = False
        said = f"it said nothing for {START_DEADLINE:.0f} s" if late else "it ended without a word"
        raise EngineUnavailable(
            f"the guardian process did not start: {' / '.join(self._complaints) or said}",
            remedy="Is the machine out of memory or of processes (ulimit -u)?",
        )

    async def wait(self) -> EngineExit:
        """Return how it ended, once nothing of it is left. Any number may wait; each may be cancelled."""
        while self._exit is None:
            # Whoever comes first reads for all; if it is cancelled, the next goes on where it stopped.
            async with self._reading:
                if self._exit is None:
                    await self._read_exit()
        return self._exit

    async def stop(self, *, grace: float) -> EngineExit:
        """Ask it to end, and kill it after `grace` seconds. A later call can only shorten the patience."""
        await self._tell({"stop": max(grace, 0.0)})
        return await self.wait()

    def log_tail(self) -> tuple[str, ...]:
        """Return the last lines that it has printed so far."""
        if self._exit is not None:
            return self._exit.log_tail
        try:
            with self._order.log.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                begin = self._log_start if size >= self._log_start else 0  # smaller: it was rotated
                file.seek(max(begin, size - LIVE_TAIL_BYTES))
                data = file.read(LIVE_TAIL_BYTES)
        except OSError:
            return ()
        log = guardian.Log(os.devnull, LIVE_TAIL_BYTES, 1)
        log.remember(data)
        return tuple(log.lines())

    async def _tell(self, message: Mapping[str, object]) -> None:
        if self._process.stdin is None:
            return
        try:
            async with self._telling:
                # An order to stop is far below PIPE_BUF: written whole or not at all, however a call is cancelled.
                await self._process.stdin.send_all(json.dumps(message).encode() + b"\n")
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return  # it is gone, which `wait` will tell

    async def _read_exit(self) -> None:
        report = await self._report()
        if report is None:
            self._exit = await self._after_lost_guardian()
        elif "exit" in report:
            ended = report["exit"]
            self._exit = EngineExit(code=ended["code"], signal=ended["signal"], log_tail=tuple(ended["tail"]))

    async def _after_lost_guardian(self) -> EngineExit:
        """Clean up after a guardian that was killed: the engine died with it, its children may not have."""
        tail = self.log_tail()
        mark = Mark(tag=self._order.tag, folder=self._order.folder)
        count = await leftovers.end(mark)
        note = f"[node] the engine's guardian was lost; the engine died with it, {count} more were ended"
        return EngineExit(code=None, signal=9, log_tail=(*tail, *self._complaints, note))

    async def _report(self) -> dict[str, Any] | None:
        """Return the guardian's next message, None at its end. What is no message is a complaint of its own."""
        while True:
            line, found, rest = self._received.partition(b"\n")
            if found:
                self._received = rest
                try:
                    return json.loads(line)
                except ValueError:
                    self._complaints.append(line[: guardian.TAIL_COLUMNS].decode(errors="replace"))
                continue
            if len(self._received) > REPORT_LIMIT or self._process.stdout is None:
                return None
            data = await self._process.stdout.receive_some(READ_SIZE)
            if not data:
                return None
            self._received += data


@asynccontextmanager
async def guarded(order: Order) -> AsyncIterator[GuardedProcess]:
    """Run a process under a guardian: entered once it is forked; nothing of it is left on leaving.

    Leaving kills at once (use `stop` first for a gentle end) and cannot be cancelled; it takes some 100 ms, and at
    most `END_DEADLINE` seconds where a driver holds a process that ignores SIGKILL.

    Raises:
        EngineUnavailable: the guardian itself could not be started.
    """
    program = [sys.executable, "-I", "-S", guardian.__file__]
    try:
        # Its own session: a Ctrl-C in the terminal reaches the daemon only, which drains before it stops.
        process = await trio.lowlevel.open_process(
            program,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd="/",
            env={},
        )
    except OSError as error:
        raise EngineUnavailable(f"the guardian process did not start: {error}") from error
    guarding = GuardedProcess(process, order)
    try:
        await guarding.begin()
        yield guarding
    finally:
        await _end(process, guarding, order)


async def _end(process: trio.Process, guarding: GuardedProcess, order: Order) -> None:
    with trio.move_on_after(END_DEADLINE) as scope:
        scope.shield = True
        await guarding.stop(grace=0)
        await process.wait()
    with trio.move_on_after(END_DEADLINE) as scope:
        scope.shield = True
        if process.returncode is None:
            process.kill()
            await leftovers.end(Mark(tag=order.tag, folder=order.folder))
            await process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                await stream.aclose()
