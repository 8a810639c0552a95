"""One engine under trial: builds it, sends it a load of requests on time, and reads the machine's meters meanwhile.

Loaded by trial.py in a forked child, under the engine's interpreter: standard library, torch and vllm. Knows nothing of
orders, pipes or plans. Figures are raw, in µs; what cannot be read here is absent.
"""

import gc
import os
import resource
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROGRESS_EVERY = 1.0  # s
IDLE_SLEEP = 0.001  # s; the longest an arrival may be late while nothing runs
TICK_US = 1_000_000 // os.sysconf("SC_CLK_TCK")  # of /proc/stat


class Meters:
    """What the machine did meanwhile. Whatever cannot be read here is absent, never zero."""

    def __init__(self, cores: list[int]) -> None:
        self.cores = cores
        self.gpus = _nvml_handles()

    def read(self) -> dict[str, int]:
        """Return counters that only grow (until a wrap), in µs, mJ and bytes."""
        own = resource.getrusage(resource.RUSAGE_SELF)
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = own.ru_utime + own.ru_stime + ended.ru_utime + ended.ru_stime
        found = {
            "wall_us": time.perf_counter_ns() // 1000,
            "cpu_us": int(used * 1e6) + _descendants_us(),
            "busy_us": self._busy_us(),
            "waited_us": _waited_us(),
            "energy_mj": self._energy_mj(),
        }
        return {name: value for name, value in found.items() if value is not None}

    def _busy_us(self) -> int | None:
        """CPU time that anybody used on the cores that are ours to use, the hypervisor's other guests included."""
        wanted = {f"cpu{core}" for core in self.cores}
        try:
            rows = [line.split() for line in Path("/proc/stat").read_text().splitlines() if line.startswith("cpu")]
        except OSError:
            return None
        # user, nice, system, irq, softirq, steal; idle and iowait are the fourth and fifth.
        return sum(sum(int(row[i]) for i in (1, 2, 3, 6, 7, 8)) for row in rows if row[0] in wanted) * TICK_US

    def _energy_mj(self) -> int | None:
        if self.gpus:
            from vllm.third_party import pynvml

            try:
                return sum(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) for handle in self.gpus)
            except pynvml.NVMLError:
                return None
        zones = [zone / "energy_uj" for zone in Path("/sys/class/powercap").glob("intel-rapl:?")]
        try:
            return sum(int(zone.read_text()) for zone in zones) // 1000 if zones else None
        except (OSError, ValueError):
            return None  # since 2020 for root alone

    def peak_bytes(self) -> int | None:
        """Memory at its highest: of the GPUs where there are any, else of this process since `forget_peak`."""
        if self.gpus:
            return self._gpu_bytes()
        status = Path("/proc/self/status").read_text()
        return next((int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmHWM")), None)

    def _gpu_bytes(self) -> int | None:
        import torch
        from vllm.third_party import pynvml

        # vLLM takes its cache at the start, so there is no peak to begin anew.
        if own := sum(torch.cuda.max_memory_reserved(index) for index in range(torch.cuda.device_count())):
            return own
        try:  # a divided model lies in other processes: all that is in use on the devices, then
            return sum(int(pynvml.nvmlDeviceGetMemoryInfo(handle).used) for handle in self.gpus)
        except pynvml.NVMLError:
            return None

    def forget_peak(self) -> None:
        """Begin the peak anew."""
        if not self.gpus:
            Path("/proc/self/clear_refs").write_text("5")

    def strangers(self) -> int | None:
        """Compute processes of others on our GPUs now."""
        if not self.gpus:
            return None
        from vllm.third_party import pynvml

        try:
            pids = {p.pid for each in self.gpus for p in pynvml.nvmlDeviceGetComputeRunningProcesses(each)}
        except pynvml.NVMLError:
            return None
        return len(pids - {os.getpid(), *_descendants()})


def _nvml_handles() -> list[Any]:
    """Return the GPUs that this process may use; none where there is no driver."""
    import torch

    if torch.version.cuda is None:
        return []
    from vllm.third_party import pynvml

    try:
        pynvml.nvmlInit()
        shown = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(pynvml.nvmlDeviceGetCount()))))
        return [
            pynvml.nvmlDeviceGetHandleByIndex(int(name)) if name.isdigit() else pynvml.nvmlDeviceGetHandleByUUID(name)
            for name in shown.replace(" ", "").split(",")
            if name
        ]
    except pynvml.NVMLError:
        return []


def _descendants() -> list[int]:
    """Return the processes below this one: workers of a model that is divided over GPUs."""
    found, layer = [], [os.getpid()]
    while layer:
        layer = [
            int(pid)
            for parent in layer
            for task in Path(f"/proc/{parent}/task").glob("*/children")
            for pid in task.read_text().split()
        ]
        found += layer
    return found


def _descendants_us() -> int:
    total = 0
    for pid in _descendants():
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += (int(fields[11]) + int(fields[12])) * TICK_US
    return total


def _waited_us() -> int | None:
    """How long the thread that steps the engine was ready and had no core: foreign load where it hurts."""
    try:
        return int(Path("/proc/self/schedstat").read_text().split()[1]) // 1000
    except (OSError, IndexError, ValueError):
        return None


class Steps:
    """Counts drafted and accepted tokens and preemptions; vLLM calls it after each step."""

    drafted = 0
    accepted = 0
    preempted = 0

    def record(self, scheduler_stats: Any, iteration_stats: Any = None, *_: Any, **__: Any) -> None:  # noqa: ANN401 -- vLLM's own, unstable types
        """Take one step's figures."""
        self.preempted += getattr(iteration_stats, "num_preempted_reqs", 0)
        stats = getattr(scheduler_stats, "spec_decoding_stats", None)
        if stats is not None:
            self.drafted += stats.num_draft_tokens
            self.accepted += stats.num_accepted_tokens


class Bench:
    """One engine in this process, and the loop that drives it."""

    def __init__(self, flags: list[str], cores: list[int], say: Callable[[dict[str, Any]], None]) -> None:
        # Of all cores, though vLLM binds itself to some: others' work on the rest slows memory down all the same.
        self.meters = Meters(cores)
        from vllm import EngineArgs, SamplingParams
        from vllm.sampling_params import RequestOutputKind
        from vllm.usage.usage_lib import UsageContext
        from vllm.utils.argparse_utils import FlexibleArgumentParser
        from vllm.v1.engine.llm_engine import LLMEngine
        from vllm.v1.metrics.loggers import StatLoggerBase

        # The server's own parser and context: the same flags make the same engine as they do for the node.
        parser = EngineArgs.add_cli_args(FlexibleArgumentParser())
        parsed = parser.parse_args(flags)
        if parsed is None:
            raise ValueError("vLLM's parser returned nothing")
        arguments = EngineArgs.from_cli_args(parsed)
        self.steps = steps = Steps()
        logger = type("Counter", (StatLoggerBase,), {
            "__init__": lambda *_, **__: None, "log_engine_initialized": lambda _: None,
            "record": lambda _, *a, **k: steps.record(*a, **k),
        })  # fmt: skip
        self.engine = LLMEngine.from_engine_args(arguments, UsageContext.OPENAI_API_SERVER, stat_loggers=[logger])
        self.tokenizer = self.engine.get_tokenizer()
        self.say, self.kind, self.params = say, RequestOutputKind, SamplingParams

    def facts(self) -> dict[str, Any]:
        """Return what the engine made of its flags."""
        config = self.engine.vllm_config
        return {
            "max_model_len": config.model_config.max_model_len,
            "max_num_seqs": config.scheduler_config.max_num_seqs,
            "max_num_batched_tokens": config.scheduler_config.max_num_batched_tokens,
            "prefix_caching": bool(config.cache_config.enable_prefix_caching),
            "chunked_prefill": bool(config.scheduler_config.enable_chunked_prefill),
            "cache_tokens": (config.cache_config.num_gpu_blocks or 0) * config.cache_config.block_size,
            "dtype": str(config.model_config.dtype).removeprefix("torch."),
        }

    def ids(self, parts: list[list[Any]]) -> list[int]:
        """Return the token ids of a prompt: each part exactly as long as asked."""
        whole: list[int] = []
        for text, tokens in parts:
            found = list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
            whole += (found * (tokens // max(len(found), 1) + 1))[:tokens]
        return whole

    def load(self, name: str, requests: list[dict[str, Any]]) -> dict[str, Any]:
        """Send the requests at their times; return when the last is answered."""
        prompts = [self.ids(each["parts"]) for each in requests]
        if self.engine.vllm_config.cache_config.enable_prefix_caching:
            self.engine.reset_prefix_cache()
        gc.collect()
        gc.freeze()  # as vLLM's own server does: what lives for ever is not looked at again
        self.meters.forget_peak()
        drafted, accepted, preempted = self.steps.drafted, self.steps.accepted, self.steps.preempted
        strangers = self.meters.strangers()
        before = self.meters.read()
        rows = self._drive(name, requests, prompts)
        after = self.meters.read()
        machine = {key: after[key] - before[key] for key in before if key in after}
        if machine.get("energy_mj", 0) < 0:
            del machine["energy_mj"]  # the counter wrapped
        return {
            "requests": rows,
            "cores": len(self.meters.cores),
            "drafted": self.steps.drafted - drafted,
            "accepted": self.steps.accepted - accepted,
            "preempted": self.steps.preempted - preempted,
            "peak_bytes": self.meters.peak_bytes(),
            "strangers": max((x for x in (strangers, self.meters.strangers()) if x is not None), default=None),
            **machine,
        }

    def _drive(self, name: str, requests: list[dict[str, Any]], prompts: list[list[int]]) -> list[dict[str, int]]:
        order = sorted(range(len(requests)), key=lambda index: requests[index]["at"])
        rows = [{"at": each["at"], "prompt": len(ids)} for each, ids in zip(requests, prompts, strict=True)]
        waiting = deque(order)
        last: dict[int, int] = {}
        start = told = time.perf_counter_ns()
        while waiting or self.engine.has_unfinished_requests():
            now = time.perf_counter_ns()
            while waiting and requests[waiting[0]]["at"] * 1000 <= now - start:
                index = waiting.popleft()
                self._add(f"{index}-{name}", prompts[index], requests[index]["max_tokens"], rows[index])
            if now - told > PROGRESS_EVERY * 1e9:
                told = now
                self.say({"progress": {"load": name, "answered": sum("end" in row for row in rows), "of": len(rows)}})
            if not self.engine.has_unfinished_requests():
                time.sleep(IDLE_SLEEP)
                continue
            outputs = self.engine.step()
            at = (time.perf_counter_ns() - start) // 1000
            for output in outputs:
                index = int(output.request_id.partition("-")[0])
                self._note(rows[index], output, at, last, index)
        return rows

    def _add(self, request: str, ids: list[int], max_tokens: int, row: dict[str, int]) -> None:
        params = self.params(
            temperature=0.0, max_tokens=max_tokens, ignore_eos=True, output_kind=self.kind.CUMULATIVE, detokenize=True
        )
        try:
            self.engine.add_request(request, {"prompt_token_ids": ids}, params)
        except ValueError:  # longer than the engine takes: this request's failure, not the load's
            row["failed"] = 1

    @staticmethod
    def _note(row: dict[str, int], output: Any, at: int, last: dict[int, int], index: int) -> None:  # noqa: ANN401
        tokens = len(output.outputs[0].token_ids)
        if tokens > row.get("tokens", 0):
            if "first" not in row:
                row["first"] = at
            else:
                row["stall"] = max(row.get("stall", 0), at - last[index])
            row["tokens"], last[index] = tokens, at
        if output.finished:
            row["end"] = at
            row["cached"] = output.num_cached_tokens or 0
            if output.outputs[0].finish_reason != "length":
                row["failed"] = 1  # told to go on to its last token: anything else ended it
