"""The learner as a child process: started, asked under deadlines, ended, and started again when it dies.

Knows the worker's lines (see node/learner/worker.py), the process and its limits; knows no table and nothing of what
is learnt, and imports neither numpy nor the learner. While the child is down or dumb every question is `Unavailable`,
and whoever asked goes on without an answer: the node serves on.
"""

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import structlog
import trio

from node.core.learning import Late
from node.errors import Unavailable

# s to import numpy and scipy: half a second; at the lowest priority, beside an engine that takes every core, minutes.
READY_DEADLINE: Final = 300.0
ASK_DEADLINE: Final = 10.0  # s for an answer; a decision takes milliseconds, or tens while it learns on the same core
TRAIN_DEADLINE: Final = 60.0  # s until a lesson is acknowledged: nobody waits for it, and it is not lost
DUMB_DEADLINE: Final = 300.0  # s without a word while it owes one: it hangs, and is not only slow
END_DEADLINE: Final = 5.0  # s for a killed process to be reaped
BACKOFF: Final = (1.0, 5.0, 30.0, 300.0)  # s until it is started again, by how often it died in a row
HEALTHY: Final = 600.0  # s; who lived so long begins the row anew
LINE_LIMIT: Final = 4 << 20  # bytes of a message, as the worker has it
OUTSTANDING: Final = 16  # questions at once; the next is refused: an answer that is waited for so long is of no use
READ_SIZE: Final = 65536
MEMORY_BYTES: Final = 4 << 30  # data of the child; 200,000 rows with features take 1 GiB, torch half of one
COMPLAINT_LINES, COMPLAINT_COLUMNS = 6, 300
REMEDY: Final = "Install the extra `learner` (pip install 'metainf[learner]')."
PROJECT: Final = Path(__file__).parent.parent.parent  # what the child imports the worker from

log = structlog.get_logger()

Message = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSetup:
    """How the child is run.

    Attributes:
        command: that starts a worker.
        hear: is told each event of the worker (`ready`, `trained`, `failed`) as it comes, and `ended` when it died.
        ask_deadline: seconds that whoever asks waits; train_deadline: that whoever gives a lesson does.
        dumb_deadline: seconds that it may owe an answer before it is killed.
    """

    command: tuple[str, ...] = (sys.executable, "-m", "node.learner.worker")
    hear: Callable[[Message], None] = field(default=lambda _: None)
    ready_deadline: float = READY_DEADLINE
    ask_deadline: float = ASK_DEADLINE
    train_deadline: float = TRAIN_DEADLINE
    dumb_deadline: float = DUMB_DEADLINE
    backoff: tuple[float, ...] = BACKOFF
    memory_bytes: int = MEMORY_BYTES
    inherited: Mapping[str, str] = field(default_factory=lambda: dict(os.environ), repr=False)


@dataclass(slots=True)
class _Question:
    answered: trio.Event = field(default_factory=trio.Event)
    answer: Message | None = None  # None: the child died


class LearnerChild:
    """The learner, whichever process it is in now. Made by `open_learner`."""

    def __init__(self, setup: ChildSetup) -> None:
        self._setup = setup
        self._process: trio.Process | None = None  # set while it is ready
        self._questions: dict[int, _Question] = {}
        self._number = 0
        self._sending = trio.Lock()
        self._complaints: deque[str] = deque(maxlen=COMPLAINT_LINES)
        self._owes_since: float | None = None  # since when it owes an answer and said nothing
        self.starts = 0

    @property
    def ready(self) -> bool:
        """Whether it can be asked now."""
        return self._process is not None

    async def ask(self, do: str, **what: object) -> Message:
        """Ask one question and return its answer.

        One that does not answer in time may be slow; one that says nothing at all for long is killed, and started
        again, knowing nothing.

        Raises:
            Unavailable: it is down, busy, dumb, died over it, or refuses the question; or this is none that JSON has.
                `Late` where it did not answer in time.
        """
        process = self._process
        if process is None:
            raise Unavailable("the learner is not running")
        if len(self._questions) >= OUTSTANDING:
            raise Unavailable("the learner has too many questions to answer")
        line, question = _line({"id": self._number + 1, "do": do, **what}), _Question()
        self._number = number = self._number + 1
        self._questions[number] = question
        deadline = self._setup.train_deadline if do == "train" else self._setup.ask_deadline
        if self._owes_since is None:
            self._owes_since = trio.current_time()
        try:
            with trio.move_on_after(deadline) as limit:
                await self._send(process, line)
                await question.answered.wait()
        finally:
            del self._questions[number]
        if limit.cancelled_caught:
            if self._owes_since is not None and trio.current_time() - self._owes_since >= self._setup.dumb_deadline:
                self.renew("it says nothing")
            raise Late(f"the learner did not answer within {deadline:.0f} s")
        if question.answer is None:
            raise Unavailable("the learner died over the question")
        if "error" in question.answer:
            raise Unavailable(f"the learner refuses: {question.answer['error']}")
        return question.answer["ok"]

    def renew(self, reason: str) -> None:
        """Kill the child, whatever it is doing; another is started in its place."""
        log.warning("learner.renewed", reason=reason)
        self._complaints.append(reason)
        if self._process is not None:
            _kill(self._process)

    async def run(self) -> None:
        """Keep a child alive until cancelled; none of it outlives the call."""
        deaths = 0
        while True:
            begin = trio.current_time()
            await self._live()
            deaths = 1 if trio.current_time() - begin > HEALTHY else deaths + 1
            wait = self._setup.backoff[min(deaths, len(self._setup.backoff)) - 1]
            said = " / ".join(self._complaints)
            log.warning("learner.ended", again_in_s=wait, said=said)
            self._setup.hear({"event": "ended", "reason": said})
            await trio.sleep(wait)

    async def _live(self) -> None:
        """Run one child from its start to its end."""
        self.starts += 1
        self._complaints.clear()
        try:
            process = await self._start()
        except OSError as error:
            self._complaints.append(str(error))
            return
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._collect, process)
                with contextlib.suppress(_Nonsense):
                    self._limit(process)
                    await self._listen(process)
                nursery.cancel_scope.cancel()
        finally:
            self._process, self._owes_since = None, None
            for question in self._questions.values():
                question.answered.set()
            await _end(process)

    async def _start(self) -> trio.Process:
        return await trio.lowlevel.open_process(
            list(self._setup.command),
            stdin=subprocess.PIPE,  # its end tells the worker that the daemon is gone
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_environment(self._setup.inherited),
            cwd="/",
            start_new_session=True,
        )

    def _limit(self, process: trio.Process) -> None:
        """Limit its memory; one that cannot be limited is not kept."""
        try:
            resource.prlimit(process.pid, resource.RLIMIT_DATA, (self._setup.memory_bytes, self._setup.memory_bytes))
        except (ProcessLookupError, PermissionError):  # dead already, or a container that forbids it
            pass
        except (OSError, OverflowError, ValueError) as error:
            self._complaints.append(f"its memory cannot be limited: {error}"[:COMPLAINT_COLUMNS])
            raise _Nonsense from error

    async def _listen(self, process: trio.Process) -> None:
        """Take its messages until its output ends."""
        assert process.stdout is not None  # noqa: S101 -- opened with a pipe; so below
        received = b""
        with trio.CancelScope(deadline=trio.current_time() + self._setup.ready_deadline) as until_ready:
            while data := await process.stdout.receive_some(READ_SIZE):
                *lines, received = (received + data).split(b"\n")
                for line in lines:
                    if self._take(line, process):
                        until_ready.deadline = float("inf")
                if len(received) > LINE_LIMIT:
                    self._complaints.append(f"a message of more than {LINE_LIMIT >> 20} MiB")
                    raise _Nonsense
        if until_ready.cancelled_caught:
            self._complaints.append(f"not ready after {self._setup.ready_deadline:.0f} s")

    def _take(self, line: bytes, process: trio.Process) -> bool:
        """Take one message; tell whether it says that the child is ready."""
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            message = None
        if not isinstance(message, dict):
            self._complaints.append("said what is no message")
            raise _Nonsense
        self._owes_since = None
        if (event := message.get("event")) is not None:
            if event == "ready":
                self._process = process
            elif event == "failed":
                self._complaints.append(str(message.get("reason"))[:COMPLAINT_COLUMNS])
                log.warning("learner.failed", reason=str(message.get("reason"))[:COMPLAINT_COLUMNS])
            self._setup.hear(message)
            return event == "ready"
        question = self._questions.get(message["id"]) if isinstance(message.get("id"), int) else None
        if question is not None and ("error" in message or isinstance(message.get("ok"), dict)):
            question.answer = message
            question.answered.set()
        return False

    async def _collect(self, process: trio.Process) -> None:
        """Keep the last lines of what it complains of."""
        assert process.stderr is not None  # noqa: S101
        rest = b""
        while data := await process.stderr.receive_some(READ_SIZE):
            *lines, rest = (rest + data).split(b"\n")
            rest = rest[:READ_SIZE]
            for line in lines:
                if line.strip():
                    self._complaints.append(line.decode(errors="replace").strip()[:COMPLAINT_COLUMNS])

    async def _send(self, process: trio.Process, line: bytes) -> None:
        assert process.stdin is not None  # noqa: S101
        async with self._sending:
            try:
                await process.stdin.send_all(line)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise Unavailable("the learner died") from error
            except trio.Cancelled:
                _kill(process)  # half a line was sent, perhaps: nothing after it could be understood
                raise


class _Nonsense(Exception):
    """The child said what no worker says, or cannot be kept: it is ended."""


@asynccontextmanager
async def open_learner(setup: ChildSetup) -> AsyncIterator[LearnerChild]:
    """Keep a learner beside the block, and end it with the block."""
    child = LearnerChild(setup)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(child.run)
        yield child
        nursery.cancel_scope.cancel()


def _line(message: Message) -> bytes:
    """Return a question as a line.

    Raises:
        Unavailable: it is none that JSON has, or too long.
    """
    try:
        line = json.dumps(message, allow_nan=False, separators=(",", ":")).encode() + b"\n"
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise Unavailable(f"no question for the learner: {error}"[:COMPLAINT_COLUMNS]) from error
    if len(line) > LINE_LIMIT:
        raise Unavailable(f"a question of more than {LINE_LIMIT >> 20} MiB")
    return line


def _environment(inherited: Mapping[str, str]) -> dict[str, str]:
    """Return what the child sees: no key of the daemon, one thread for each library, no hub."""
    kept = {
        name: inherited[name] for name in ("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH") if name in inherited
    }
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    quiet = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    return kept | threads | quiet | {"PYTHONPATH": str(PROJECT)}


def _kill(process: trio.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


async def _end(process: trio.Process) -> None:
    """End what is left of its group. It holds nothing that could be lost: no grace."""
    with trio.CancelScope(shield=True):
        _kill(process)
        with trio.move_on_after(END_DEADLINE):
            await process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                await stream.aclose()
