"""Measure strategies on the real vLLM: imports it once, then forks one child for each engine that is ordered.

Run as `python -I trial.py` under `engine.python`, with the standard library, torch and vllm; knows nothing of the
project, of what a strategy is called or of why it is tried. Input and output are JSON, one object a line.

Input: {"run": ID, "flags": [vLLM's arguments], "deadline": s, "warmup": [REQUEST...], "loads": [{"name", "requests",
"deadline": s}]}; REQUEST is {"at": µs after the start, "parts": [[text, tokens]...], "max_tokens": n}. Each part is
tokenised and cut (or repeated) to exactly so many tokens. {"cancel": true} ends the run, the end of the input all.

Output: {"ready": {...}}; then for each run {"built": ...}, for each load {"progress": ...}, {"trial": raw figures} or
{"failed": ...}, and {"done": ...}. Figures are raw: per request, in µs; what they mean is the reader's to compute.

Theory of operation. Importing vLLM takes ten seconds and more, forking a process that has imported it a few
milliseconds. The parent never touches torch's threads or CUDA, so that the children may. A child that crashes, hangs
or runs out of memory costs one failure line. The engine runs inside the child, stepped by the same loop that lets
requests in on time: no HTTP, no second process, nothing else to measure.
"""

import contextlib
import ctypes
import importlib.util
import json
import os
import selectors
import signal
import time
from collections import deque
from pathlib import Path
from typing import Any, NoReturn

PR_SET_PDEATHSIG = 1
ORDER_LIMIT = 64 << 20  # bytes of one order: some hundred prompts as text
CHUNK = 65536
TAIL_BYTES = 4096  # kept of what a child prints, for the reason of a crash
REASON_LETTERS = 400
TICK = 0.25  # s between looks at deadlines
OOM_WORDS = ("out of memory", "cannot allocate memory", "no available memory", "kv cache memory", "memoryerror")
OOM_SCORE = "1000"  # where the machine runs out of memory the trial is killed first, not its owner's work


def child(order: dict[str, Any], cores: list[int], pipe: int) -> NoReturn:
    """Build the engine and run every load; ends the process."""

    def say(message: dict[str, Any]) -> None:
        data = (json.dumps(message) + "\n").encode()
        while data:
            data = data[os.write(pipe, data) :]

    code = 1
    bench = None
    try:
        begun, worked = time.perf_counter(), time.process_time()
        bench = sibling("trial_engine").Bench(order["flags"], cores, say)
        bench.load("warmup", order["warmup"])
        seconds, cpu = time.perf_counter() - begun, time.process_time() - worked
        say({"built": {"seconds": round(seconds, 3), "cpu_seconds": round(cpu, 3), **bench.facts()}})
        for load in order["loads"]:
            say({"begun": {"load": load["name"], "deadline": load["deadline"]}})
            say({"trial": {"load": load["name"], **bench.load(load["name"], load["requests"])}})
        code = 0
    except BaseException as error:  # noqa: BLE001 -- whatever a strategy breaks in vLLM is that strategy's record
        words = f"{type(error).__name__}: {error}"
        oom = isinstance(error, MemoryError) or any(each in words.lower() for each in OOM_WORDS)
        say(
            {
                "failed": {
                    "kind": "out_of_memory" if oom else "start_failed" if bench is None else "crashed",
                    "reason": words[:REASON_LETTERS],
                }
            }
        )
    finally:
        os._exit(code)  # no destructors: some of vLLM's hang


def sibling(name: str) -> Any:  # noqa: ANN401 -- a module
    """Return the module that lies beside this one: isolated interpreters do not look there."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    if spec is None or spec.loader is None:
        raise ImportError(name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Zygote:
    """Takes orders, runs one child at a time and passes on what it says."""

    def __init__(self, output: int) -> None:
        self.output = output
        self.cores = sorted(os.sched_getaffinity(0))  # before vLLM binds us to fewer
        self.selector = selectors.DefaultSelector()
        self.selector.register(0, selectors.EVENT_READ)
        self.orders: deque[dict[str, Any]] = deque()
        self.received = b""
        self.pid = 0
        self.cancelled = False

    def say(self, message: dict[str, Any]) -> None:
        """Write one line; nobody to hear it is the end."""
        data = (json.dumps(message) + "\n").encode()
        try:
            while data:
                data = data[os.write(self.output, data) :]
        except OSError:
            self.end(1)

    def end(self, code: int) -> NoReturn:
        """Leave nothing behind."""
        if self.pid:
            os.killpg(self.pid, signal.SIGKILL)
        os._exit(code)

    def serve(self) -> NoReturn:
        """Take orders until the input ends."""
        while True:
            while not self.orders:
                self.selector.select()
                self._read_orders()
            self._run(self.orders.popleft())

    def _read_orders(self) -> None:
        data = os.read(0, CHUNK)
        if not data or len(self.received) > ORDER_LIMIT:
            self.end(0)
        *lines, self.received = (self.received + data).split(b"\n")
        for line in lines:
            order = json.loads(line)
            if "cancel" in order:
                self.cancelled = True
                self.orders.clear()
            else:
                self.cancelled = False
                self.orders.append(order)

    def _run(self, order: dict[str, Any]) -> None:
        begun = time.monotonic()
        words, said = os.pipe()
        noise, printed = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            _become_child(said, printed)
            child(order, self.cores, said)
        os.setpgid(self.pid, self.pid)
        os.close(said)
        os.close(printed)
        heard = Heard(order["run"], order["deadline"])
        self._listen(words, noise, heard)
        _, status = os.waitpid(self.pid, 0)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)  # workers of a divided model
        self.pid = 0
        os.close(words)
        os.close(noise)
        if os.waitstatus_to_exitcode(status) != 0 and not heard.failure:
            self.say({"failed": {"run": order["run"], **heard.verdict(status, cancelled=self.cancelled)}})
        self.say({"done": {"run": order["run"], "seconds": round(time.monotonic() - begun, 3)}})

    def _listen(self, words: int, noise: int, heard: "Heard") -> None:
        """Until the child's output ends, its time is over or it is cancelled."""
        self.selector.register(words, selectors.EVENT_READ)
        self.selector.register(noise, selectors.EVENT_READ)
        while words in self.selector.get_map():
            for key, _ in self.selector.select(TICK):
                self._hear(key.fd, words, heard)
            if self.cancelled or time.monotonic() > heard.until:
                heard.late = not self.cancelled
                os.killpg(self.pid, signal.SIGKILL)
                if words in self.selector.get_map():
                    self.selector.unregister(words)
        if noise in self.selector.get_map():
            self.selector.unregister(noise)

    def _hear(self, source: int, words: int, heard: "Heard") -> None:
        if source == 0:
            self._read_orders()
            return
        data = os.read(source, CHUNK)
        if not data:
            self.selector.unregister(source)
        elif source != words:
            heard.tail = (heard.tail + data)[-TAIL_BYTES:]
        else:
            *lines, heard.partial = (heard.partial + data).split(b"\n")
            for line in lines:
                self.say(heard.take(json.loads(line)))


class Heard:
    """What one child has said so far, and until when it may be silent."""

    def __init__(self, run: str, deadline: float) -> None:
        self.run = run
        self.until = time.monotonic() + deadline
        self.load: str | None = None
        self.failure = False
        self.late = False
        self.tail = b""
        self.partial = b""

    def take(self, message: dict[str, Any]) -> dict[str, Any]:
        """Note one line and return it with the run's name."""
        (kind, body), *_ = message.items()
        if kind == "begun":
            self.load = body["load"]
            self.until = time.monotonic() + body["deadline"]
        if kind == "failed":
            self.failure = True
            body = {"load": self.load, **body}
        return {kind: {"run": self.run, **body}}

    def verdict(self, status: int, *, cancelled: bool) -> dict[str, Any]:
        """Return why a child ended without a word of its own."""
        code = os.waitstatus_to_exitcode(status)
        if cancelled:
            kind = "cancelled"
        elif self.late:
            kind = "timed_out"
        else:  # nobody of ours sent SIGKILL: the kernel did, out of memory
            kind = "out_of_memory" if code == -signal.SIGKILL else "crashed"
        lines = self.tail.decode(errors="replace").strip().splitlines()
        return {
            "load": self.load,
            "kind": kind,
            "reason": f"status {code}: {lines[-1] if lines else ''}"[:REASON_LETTERS],
        }


def _become_child(said: int, printed: int) -> None:
    """Own process group, dead with the parent, first to be killed for memory, its output in pipes."""
    os.setpgid(0, 0)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    Path("/proc/self/oom_score_adj").write_text(OOM_SCORE)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (printed, 1), (printed, 2)):
        os.dup2(source, target)
    os.set_inheritable(said, False)


def main() -> None:
    """Import vLLM, say so, and serve."""
    output = os.dup(1)
    os.dup2(2, 1)  # whatever the libraries print is no line of ours
    parent = os.getppid()
    zygote = Zygote(output)
    signal.signal(signal.SIGTERM, lambda *_: zygote.end(143))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for whoever started us
    begun = time.monotonic()
    zygote.say({"progress": {"doing": "importing vLLM"}})
    import torch
    import vllm
    import vllm.v1.engine.core
    import vllm.v1.engine.llm_engine
    import vllm.v1.executor.uniproc_executor

    if torch.version.cuda is None:
        import vllm.v1.attention.backends.cpu_attn
        import vllm.v1.worker.cpu_model_runner
        import vllm.v1.worker.cpu_worker  # each spares every child a second
    seconds = round(time.monotonic() - begun, 3)
    zygote.say({"ready": {"vllm": vllm.__version__, "torch": torch.__version__, "seconds": seconds}})
    if os.getppid() != parent:
        zygote.end(1)
    zygote.serve()


if __name__ == "__main__":
    main()
