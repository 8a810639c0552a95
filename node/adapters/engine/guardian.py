"""The guardian: a small process between the daemon and one engine, so that no engine outlives its daemon.

Knows processes, pipes and one folder for the log; knows nothing of engines, of HTTP or of this project: it runs as
`python -I -S guardian.py`, on the standard library alone, because it must start at once, weigh little and be simple
enough never to fail. Why it exists, and what it cannot do: docs/decisions/engine-guardian.md.

Theory of operation. It makes itself a child subreaper, so every process that the engine ever starts stays its
descendant, however often it forks or calls setsid. The engine dies with it (PR_SET_PDEATHSIG). Its standard input is
a pipe held by the daemon; the end of that pipe, or the end of the daemon's process, begins the end of the engine.

Input, one JSON object a line: first the order {argv, environment, folder, log, log_bytes, log_files, parent},
then {"stop": seconds}. Output, one JSON object a line: {"started": pid} and, once nothing is left,
{"exit": {"code", "signal", "tail", "stuck"}}.
"""
# Importing pathlib would be a third of this program's start:
# ruff: noqa: PTH105, PTH110, PTH123, PTH202, PTH208

import ctypes
import json
import os
import selectors
import signal
import sys
import time
from collections import deque
from typing import Any, NoReturn

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36

ORPHAN_GRACE = 2.0  # s after the daemon's death: nobody waits for an answer any more; all must be gone within 5 s
LEFTOVER_GRACE = 0.5  # s for what the engine's leader left behind: enough to unlink its shared memory
STUCK_AFTER = 10.0  # s of SIGKILL without effect (sleep in a driver): say so and go, there is nothing else to do
ALIVE_TICK = 0.25  # s between looks at the children, where no signal wakes us
KILL_TICK = 0.02  # s between rounds of SIGKILL
CHUNK = 65536  # bytes read at once
TAIL_LINES = 40
TAIL_COLUMNS = 400  # characters kept of a line
ORDER_LIMIT = 1 << 20  # bytes of one input line


class Log:
    """Copies what the engine prints into a file of bounded size, and remembers its last lines.

    Bytes are written as they came: binary and endless lines are its right. A full disk costs the lines, never
    the engine: it must not block on a pipe that nobody reads.
    """

    def __init__(self, path: str, size: int, files: int) -> None:
        self.path, self.size, self.files = path, size, files
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self.partial = b""
        self.file = -1
        self.room = 0

    def write(self, data: bytes) -> None:
        """Append to the file, which is rotated when full."""
        self.remember(data)
        try:
            if self.file < 0 or self.room < len(data):
                self._rotate()
            view = memoryview(data)
            while view:
                view = view[os.write(self.file, view) :]
            self.room -= len(data)
        except OSError:
            self._close()

    def note(self, text: str) -> None:
        """Add a line of the guardian's own."""
        self.write(f"{text}\n".encode())

    def lines(self) -> list[str]:
        """Return the last lines, oldest first, fit to be shown on a terminal."""
        return [*self.tail, self._clean(self.partial)] if self.partial else list(self.tail)

    def _rotate(self) -> None:
        """Open the file to append; once it is full, shift it and its elders by one."""
        fresh = self.file < 0
        self._close()
        if not fresh or (os.path.exists(self.path) and os.path.getsize(self.path) >= self.size):
            for number in range(self.files - 1, 0, -1):
                elder = self.path if number == 1 else f"{self.path}.{number - 1}"
                if os.path.exists(elder):
                    os.replace(elder, f"{self.path}.{number}")
        self.file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self.room = max(self.size - os.fstat(self.file).st_size, CHUNK)

    def _close(self) -> None:
        if self.file >= 0:
            os.close(self.file)
        self.file = -1

    def remember(self, data: bytes) -> None:
        """Keep the last lines only."""
        *whole, rest = data.split(b"\n")
        for line in whole:
            self.tail.append(self._clean(self.partial + line))
            self.partial = b""
        # Of an endless line the first TAIL_COLUMNS are kept; four bytes are the most that one character needs.
        self.partial = (self.partial + rest)[: 4 * TAIL_COLUMNS]

    @staticmethod
    def _clean(line: bytes) -> str:
        # What is shown on a terminal must not command it: control characters become a dot.
        text = line[: 4 * TAIL_COLUMNS].decode("utf-8", "replace").rstrip()[:TAIL_COLUMNS]
        return "".join(character if character.isprintable() else "·" for character in text.replace("\t", " "))


class Guardian:
    """One engine, from its start to the last of its descendants."""

    def __init__(self, order: dict[str, Any]) -> None:
        self.order = order
        self.log = Log(order["log"], order["log_bytes"], order["log_files"])
        self.selector = selectors.DefaultSelector()
        self.buffer = b""
        self.leader = 0
        self.status: int | None = None  # the leader's wait status, once it has ended
        self.kill_at: float | None = None  # when patience with what still runs is over
        self.told = False  # whether the leader has been asked to stop
        self.stuck: list[int] = []

    # --- start

    def start(self) -> None:
        """Fork the engine and begin to listen to it, to the daemon and for the daemon's end."""
        output, engine_output = os.pipe()
        os.set_blocking(output, False)
        guardian = os.getpid()
        self.leader = os.fork()
        if self.leader == 0:
            self._become_engine(engine_output, guardian)
        os.close(engine_output)
        self.selector.register(output, selectors.EVENT_READ, self._copy_output)
        os.set_blocking(0, False)
        self.selector.register(0, selectors.EVENT_READ, self._read_orders)
        self._watch_parent()
        self._watch_children()

    def _become_engine(self, output: int, guardian: int) -> NoReturn:
        """In the child: its own session, dead with the guardian, plain signals, no descriptor but its output."""
        try:
            os.setsid()
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != guardian:
                os._exit(1)  # it died before the line above could bind us to it
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.chdir(self.order["folder"])
            os.execve(self.order["argv"][0], self.order["argv"], self.order["environment"])  # noqa: S606  # no shell is the point
        except OSError as error:
            os.write(2, f"cannot run {self.order['argv'][0]}: {error}\n".encode())
        finally:
            os._exit(127)

    def _watch_parent(self) -> None:
        """Wake at the daemon's end even where a child of its own has inherited the pipe and holds it open."""
        try:
            handle = os.pidfd_open(self.order["parent"])
        except OSError:
            handle = -1  # gone already, or a kernel without pidfds: then getppid, once a tick, must do
        if handle >= 0:
            self.selector.register(handle, selectors.EVENT_READ, self._orphaned)

    def _watch_children(self) -> None:
        wake, waker = os.pipe()
        os.set_blocking(wake, False)
        os.set_blocking(waker, False)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, self._signalled)
        self.selector.register(wake, selectors.EVENT_READ, self._drain)

    # --- what wakes it

    def _signalled(self, number: int, _frame: object) -> None:
        if number == signal.SIGTERM:  # a service manager that stops the whole group
            self._orphaned(0)

    @staticmethod
    def _drain(handle: int) -> None:
        os.read(handle, CHUNK)

    def _copy_output(self, handle: int) -> None:
        data = os.read(handle, CHUNK)
        if data:
            self.log.write(data)
        else:
            self.selector.unregister(handle)
            os.close(handle)

    def _read_orders(self, handle: int) -> None:
        data = os.read(handle, CHUNK)
        if not data:
            self.selector.unregister(handle)
            self._orphaned(handle)
        *lines, self.buffer = (self.buffer + data).split(b"\n")
        for line in lines:
            self.stop(float(json.loads(line)["stop"]))

    def _orphaned(self, handle: int) -> None:
        if handle > 0 and handle in self.selector.get_map():
            self.selector.unregister(handle)
        self.stop(ORPHAN_GRACE)

    # --- the end

    def stop(self, grace: float) -> None:
        """Ask the leader once; the shortest patience asked for counts."""
        deadline = time.monotonic() + grace
        self.kill_at = deadline if self.kill_at is None else min(self.kill_at, deadline)
        if self.status is None and not self.told and grace > 0:
            # The leader alone: vLLM's workers end at a SIGTERM of their own, and the running answers with them.
            os.kill(self.leader, signal.SIGTERM)
        self.told = True

    def run(self) -> dict[str, Any]:
        """Return how the leader ended once no descendant is left."""
        while not self._all_gone():
            now = time.monotonic()
            late = self.kill_at is not None and now >= self.kill_at
            if late:
                self._kill(signal.SIGKILL)
            if self.kill_at is not None and now >= self.kill_at + STUCK_AFTER:
                self.stuck = descendants()
                self.log.note(f"[guardian] processes that even SIGKILL does not end: {self.stuck}")
                break
            for key, _ in self.selector.select(KILL_TICK if late else ALIVE_TICK):
                key.data(key.fd)
            if os.getppid() != self.order["parent"]:
                self._orphaned(0)
        self._copy_rest()
        return self._report()

    def _all_gone(self) -> bool:
        """Reap what has ended; once the leader has, give the rest a moment, as `run` does the killing."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return True
            if pid == 0:
                return False
            if pid == self.leader:
                self.status = status
                self._kill(signal.SIGTERM)
                deadline = time.monotonic() + LEFTOVER_GRACE
                self.kill_at = deadline if self.kill_at is None else min(self.kill_at, deadline)

    def _kill(self, number: int) -> None:
        for pid in descendants():
            try:
                os.kill(pid, number)
            except ProcessLookupError:  # gone between the look and the kill
                continue

    def _copy_rest(self) -> None:
        """Whatever the engine had printed before it died is the most telling part."""
        for key in list(self.selector.get_map().values()):
            if key.data == self._copy_output:
                try:
                    while data := os.read(key.fd, CHUNK):
                        self.log.write(data)
                except BlockingIOError:
                    pass

    def _report(self) -> dict[str, Any]:
        status = self.status
        ended = status is not None
        return {
            "code": os.WEXITSTATUS(status) if ended and os.WIFEXITED(status) else None,
            "signal": os.WTERMSIG(status) if ended and os.WIFSIGNALED(status) else (None if ended else 9),
            "tail": self.log.lines(),
            "stuck": self.stuck,
        }


def prctl(option: int, value: int) -> None:
    """Set one of this process's attributes, which Python's library has no words for."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def descendants() -> list[int]:
    """Return every living process below this one, found by following parents in /proc."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    state, parent = file.read().rpartition(b") ")[2].split(b" ", 2)[:2]
            except (OSError, ValueError):
                continue
            if state != b"Z":
                children.setdefault(int(parent), []).append(int(name))
    found: list[int] = []
    layer = [os.getpid()]
    while layer:
        layer = [child for parent in layer for child in children.get(parent, [])]
        found += layer
    return found


def read_order() -> dict[str, Any]:
    """Read the first line of the input; the program ends where there is none."""
    line = b""
    while not line.endswith(b"\n"):
        # Byte by byte: what follows belongs to the loop. One line of some kilobytes, once.
        byte = os.read(0, 1)
        if not byte or len(line) > ORDER_LIMIT:
            sys.exit(2)
        line += byte
    return json.loads(line)


def tell(message: dict[str, Any]) -> None:
    """Write one line of the output, whether or not anybody still listens."""
    try:
        data = memoryview((json.dumps(message) + "\n").encode())
        while data:
            data = data[os.write(1, data) :]
    except OSError:
        return  # the daemon is gone; what had to be done is done all the same


def main() -> None:
    """Guard one engine."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)  # Ctrl-C in a terminal is for the daemon, which drains first
    order = read_order()
    os.chdir("/")
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    guardian = Guardian(order)
    guardian.start()
    tell({"started": guardian.leader})
    tell({"exit": guardian.run()})


if __name__ == "__main__":
    main()
