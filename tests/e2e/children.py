"""A child process of a test: its output goes to a file, its end has a deadline, and nothing of it stays behind.

Knows nothing of engines or nodes. Every wait for the outside goes through `eventually`, which fails with the last
lines of the logs that matter, so that a hang in CI explains itself.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

POLL_S = 0.05  # how often the outside is looked at: well below the shortest deadline asserted, 1 s
TAIL_LINES = 40  # of each log in a failure's message: an engine's traceback fits
LAST_GRACE_S = 10.0  # between SIGTERM and SIGKILL when a test leaves a child behind


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """A started process, the leader of its own process group."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    stdout: Path

    @property
    def pid(self) -> int:
        """Process id."""
        return self.process.pid

    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self.process.poll() is None

    def wait(self, *, within: float) -> int:
        """Return the exit code; fail with the log's tail if it does not end in time."""
        try:
            return self.process.wait(timeout=within)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} did not end within {within} s\n{tails(self)}") from None

    def stop(self, *, grace: float = LAST_GRACE_S) -> None:
        """End it: SIGTERM, then SIGKILL for its whole group, after `grace` seconds at the latest.

        SIGTERM goes to the leader alone: a vLLM server whose worker is ended beside it waits for it in vain.
        """
        self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=grace)
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait(timeout=LAST_GRACE_S)


@contextmanager
def started(
    name: str, command: Sequence[str], *, folder: Path, environment: Mapping[str, str], cwd: Path
) -> Iterator[Child]:
    """Start `command`; leaving the context ends it and its group.

    Args:
        folder: where its standard output (`NAME.out`) and standard error (`NAME.log`) are written.
    """
    log, stdout = folder / f"{name}.log", folder / f"{name}.out"
    with log.open("wb") as errors, stdout.open("wb") as output:
        process = subprocess.Popen(
            list(command),
            cwd=cwd,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            start_new_session=True,
        )
    child = Child(name=name, process=process, log=log, stdout=stdout)
    try:
        yield child
    finally:
        child.stop()


def tails(*children: Child) -> str:
    """Return the last lines of what the children wrote, for a failure's message."""
    parts: list[str] = []
    for child in children:
        for path in (child.stdout, child.log):
            lines = path.read_text(errors="replace").splitlines()[-TAIL_LINES:]
            parts.append(f"--- last lines of {path.name} (exit code {child.process.poll()}):")
            parts += lines
    return "\n".join(parts)


def eventually(check: Callable[[], T | None], *, within: float, what: str, children: Sequence[Child] = ()) -> T:
    """Return `check()` as soon as it is truthy; fail after `within` seconds, or once a child has ended.

    Args:
        what: completes the sentence "did not see ... within N s".
        children: must keep running meanwhile; their logs go into the failure.
    """
    deadline = time.monotonic() + within
    while True:
        seen = check()
        if seen:
            return seen
        ended = [child.name for child in children if not child.running()]
        if ended:
            raise AssertionError(f"{', '.join(ended)} ended before {what}\n{tails(*children)}")
        if time.monotonic() > deadline:
            raise AssertionError(f"did not see {what} within {within} s\n{tails(*children)}")
        time.sleep(POLL_S)
