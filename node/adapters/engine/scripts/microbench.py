"""Measure in seconds what this machine's memory and arithmetic can do, with torch's own kernels.

Run as `python microbench.py --device cpu|cuda [--seconds S] [--buffer-mib M]` under `engine.python`, with
the standard library and torch; as many threads as OMP_NUM_THREADS says. It knows nothing of models and engines.

Standard output is JSON Lines, one object of one key each:
    {"progress": {"doing": text, "share": 0..1}}
    {"figure": {kind, dtype, device, shape, unit, median, mad, samples, disturbed, way}}
    {"absent": {kind, dtype, device, reason}}
    {"done": {"seconds": measured for, "foreign_cpu": share of the machine's CPU that others had, or null,
              "gpus": how many torch sees}}

All cases are set up first and then sampled in turn, round after round: what the machine does meanwhile (a clock that
sinks, somebody else's program) meets all alike. A sample is some milliseconds long. On a CPU those during which the
kernel took the core away are set aside where enough are left: at a load of seven on two cores, the figures were those
of rest within a tenth. Each case is done in the ways that torch has, and the one that was fastest in the warm-up is
measured: the figures are of the hardware, as far as torch lets them.
"""

import argparse
import json
import os
import resource
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

SAMPLE_SECONDS = {
    "cpu": 0.002,
    "cuda": 0.004,
}  # on a CPU below a slice of the kernel's scheduler, so that some are whole
WARM_RUNS = 4  # of each way; the first pays for the compiler, the caches and the clock, and counts for nothing
LEAST_ROUNDS = 5  # however little time there is: no spread without samples
LEAST_KEPT = 5  # samples that a median needs; those with more interruptions than the calmest so many are set aside
RUNS_PER_SAMPLE = 2000
BUFFER_MIB = {"cpu": 128, "cuda": 1024}  # of one dtype: beyond the caches of four cores, or of the GPU
BUFFER_CORES, BUFFER_MIB_MOST = 4, 1024  # on more threads it grows with them, for larger caches, up to here
FREE_SHARE = 6  # of the free memory, so large a part is taken at most for each dtype
LEAST_BUFFER = 32 << 20
MOST_ON_CPU = 1 << 30  # where the kernel does not say what is free
COPY_BYTES = {"cpu": 32 << 20, "cuda": 512 << 20}
SQUARE = {"cpu": 1024, "cuda": 4096}  # GEMM's k and n
GEMM_ROWS = {"cpu": 64, "cuda": 4096}  # on a CPU for each thread
MOST_ROWS = 4096
GEMV_SIDE = {"cpu": 2048, "cuda": 8192}
SEQUENCES, KV_HEADS, GROUP, HEAD = 8, 8, 4, 128  # decode attention as in most models: 4 query heads to a KV head
SEQUENCES_CUDA = 32  # enough blocks for every multiprocessor
CONTEXT = {"cpu": 256, "cuda": 8192}  # tokens, at most; 8 MiB of bfloat16 on a CPU, so that a sample is short


@dataclass(kw_only=True)
class Case:
    """A quantity to measure: `work` is what one run does, in `unit` without its "/s"; the `ways` all do the same."""

    kind: str
    dtype: str
    shape: str
    unit: str
    work: float
    ways: Mapping[str, Callable[[], object]]
    way: str = ""
    runs: int = 1
    rates: list[float] = field(default_factory=list)
    interruptions: list[int] = field(default_factory=list)


def say(**message: object) -> None:
    """Write one line."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def progress(doing: str, share: float) -> None:
    """Say how far it is."""
    say(progress={"doing": doing, "share": round(share, 3)})


def seconds_of(device: str, run: Callable[[], object], runs: int) -> float:
    """Return the seconds that so many runs take: on the GPU's own clock, or on the wall's."""
    import torch

    if device == "cpu":
        begin = time.perf_counter()
        for _ in range(runs):
            run()
        return time.perf_counter() - begin
    first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    first.record()
    for _ in range(runs):
        run()
    last.record()
    last.synchronize()
    return first.elapsed_time(last) / 1000.0


def dtypes_of(device: str) -> Iterator[str]:
    """Yield the dtypes that weights have on such a device."""
    import torch

    if device == "cpu":
        yield from ("bfloat16", "float32")
        return
    capability = torch.cuda.get_device_capability()
    yield "float16"
    if capability >= (8, 0):
        yield "bfloat16"
    if capability >= (8, 9):
        yield "float8_e4m3fn"


def buffer_bytes(device: str, wanted_mib: int | None) -> int:
    """Return how large each dtype's buffer is."""
    import torch

    if device == "cuda":
        free, _ = torch.cuda.mem_get_info()
        grown = BUFFER_MIB[device]
    else:
        meminfo = Path("/proc/meminfo").read_text().partition("MemAvailable:")[2].split()
        free = int(meminfo[0]) << 10 if meminfo else MOST_ON_CPU
        grown = min(BUFFER_MIB[device] * max(torch.get_num_threads() // BUFFER_CORES, 1), BUFFER_MIB_MOST)
    size = min((wanted_mib or grown) << 20, free // FREE_SHARE)
    if size < LEAST_BUFFER:
        sys.exit(f"only {free >> 20} MiB of memory are free: stop what fills it (the node's engine?) and try again")
    return size


def cases_of(device: str, dtype_name: str, size: int) -> Iterator[Case]:
    """Set up the cases of one dtype, all on one buffer."""
    import torch

    dtype = getattr(torch, dtype_name)
    seed = torch.randn(1 << 20, dtype=torch.float32, device=device).mul_(0.05).to(dtype)
    buffer = seed.repeat(max(size // dtype.itemsize // seed.numel(), 1))
    if dtype_name == "float8_e4m3fn":
        yield from fp8_cases(device, buffer)
        return
    yield gemv(device, dtype_name, buffer)
    yield gemm(device, dtype_name, buffer)
    yield attention(device, dtype_name, buffer)
    if dtype_name in {"bfloat16", "float16"} and next(dtypes_of(device)) == dtype_name:
        half = min(buffer.numel() // 2, COPY_BYTES[device] // buffer.itemsize)
        source, target = buffer[:half], buffer[half : 2 * half]
        work = 2.0 * half * buffer.itemsize  # read and written
        ways = {"copy": lambda: target.copy_(source)}
        shape = f"{half * buffer.itemsize >> 20} MiB"
        yield Case(kind="copy", dtype=dtype_name, shape=shape, unit="B/s", work=work, ways=ways)


def gemv(device: str, dtype_name: str, buffer: "Tensor") -> Case:
    """Return the product of a weight matrix and one token: another matrix each time, so that none is in a cache."""
    import torch

    side = GEMV_SIDE[device]
    count = max(buffer.numel() // side**2, 1)
    weights = cycle(buffer[: count * side**2].view(count, side, side).unbind())
    token = torch.randn(1, side, device=device).to(buffer.dtype)
    ways = {
        "linear": lambda: torch.nn.functional.linear(token, next(weights)),
        "mv": lambda: torch.mv(next(weights), token[0]),
    }
    work = float(side**2 * buffer.itemsize)
    return Case(kind="gemv", dtype=dtype_name, shape=f"1x{side}x{side}", unit="B/s", work=work, ways=ways)


def gemm(device: str, dtype_name: str, buffer: "Tensor") -> Case:
    """Return the product of large matrices: arithmetic."""
    import torch

    rows, side = GEMM_ROWS[device], SQUARE[device]
    if device == "cpu":  # so that each thread's part stays worth its while
        rows *= min(torch.get_num_threads(), MOST_ROWS // rows)
    tokens = buffer[: rows * side].view(rows, side)
    weights = buffer[rows * side : rows * side + side**2].view(side, side)
    ways = {"linear": lambda: torch.nn.functional.linear(tokens, weights)}
    work = 2.0 * rows * side * side
    return Case(kind="gemm", dtype=dtype_name, shape=f"{rows}x{side}x{side}", unit="FLOP/s", work=work, ways=ways)


def attention(device: str, dtype_name: str, buffer: "Tensor") -> Case:
    """Return one new token of each sequence looking at a long KV cache: another part of the buffer each time."""
    import torch

    sequences = SEQUENCES if device == "cpu" else SEQUENCES_CUDA
    token = 2 * sequences * KV_HEADS * HEAD
    context = min(CONTEXT[device], buffer.numel() // token)
    count = buffer.numel() // (token * context)
    shape = (count, 2, sequences, KV_HEADS, context, HEAD)
    caches = cycle(buffer[: count * token * context].view(shape).unbind())
    query = torch.randn(sequences, KV_HEADS, GROUP, HEAD, device=device).to(buffer.dtype)
    flat = query.view(-1, GROUP, HEAD)

    def fused() -> object:
        keys, values = next(caches)
        return torch.nn.functional.scaled_dot_product_attention(query, keys, values)

    def plain() -> object:
        keys, values = (part.view(-1, context, HEAD) for part in next(caches))
        weights = torch.softmax(torch.bmm(flat, keys.transpose(1, 2)) * HEAD**-0.5, -1)
        return torch.bmm(weights, values)

    return Case(
        kind="attention",
        dtype=dtype_name,
        shape=f"{sequences}x{KV_HEADS * GROUP}/{KV_HEADS}x{context}x{HEAD}",
        unit="B/s",
        work=float(token * context * buffer.itemsize),
        ways={"fused": fused, "plain": plain},
    )


def fp8_cases(device: str, buffer: "Tensor") -> Iterator[Case]:
    """Yield those of FP8: it goes through torch's scaled product alone, which wants sixteen rows at the least."""
    import torch

    one = torch.ones((), device=device)
    for kind, rows, side in (("gemv", 16, GEMV_SIDE[device]), ("gemm", GEMM_ROWS[device], SQUARE[device])):
        count = max((buffer.numel() - rows * side) // side**2, 1)
        tokens = buffer[: rows * side].view(rows, side)
        weights = cycle(buffer[rows * side :][: count * side**2].view(count, side, side).unbind())

        def scaled(tokens: "Tensor" = tokens, weights: Iterator["Tensor"] = weights) -> object:
            # torch had no public name for it for long; vLLM calls it too
            return torch._scaled_mm(  # pyright: ignore[reportPrivateImportUsage]
                tokens, next(weights).t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16
            )

        gemv = kind == "gemv"
        yield Case(
            kind=kind,
            dtype="float8_e4m3fn",
            shape=f"{rows}x{side}x{side}",
            unit="B/s" if gemv else "FLOP/s",
            work=float(side**2) if gemv else 2.0 * rows * side * side,
            ways={"scaled": scaled},
        )


def warm_up(device: str, case: Case) -> str:
    """Choose the fastest way and how many runs make a sample; return why not, where no way works."""
    best, reason = float("inf"), ""
    for way, run in case.ways.items():
        try:
            seconds_of(device, run, 1)
            took = min(seconds_of(device, run, 1) for _ in range(WARM_RUNS - 1))
        except (RuntimeError, NotImplementedError, ValueError) as error:  # no such kernel, or no memory for it
            reason = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
            continue
        if took < best:
            best, case.way = took, way
    case.runs = max(1, min(round(SAMPLE_SECONDS[device] / best), RUNS_PER_SAMPLE)) if case.way else 1
    return "" if case.way else reason


def sample(device: str, case: Case) -> None:
    """Take one sample."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
    took = seconds_of(device, case.ways[case.way], case.runs)
    interruptions = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw - before
    case.interruptions.append(interruptions if device == "cpu" else 0)  # a GPU's kernels run on meanwhile
    case.rates.append(case.work * case.runs / took)


def figure(name: str, case: Case) -> dict[str, object]:
    """Sum the samples up."""
    bearable = sorted(case.interruptions)[:LEAST_KEPT][-1]
    rates = [rate for rate, count in zip(case.rates, case.interruptions, strict=True) if count <= bearable]
    median = statistics.median(rates)
    return {
        "kind": case.kind,
        "dtype": case.dtype,
        "device": name,
        "shape": case.shape,
        "unit": case.unit,
        "median": median,
        "mad": statistics.median(abs(rate - median) for rate in rates),
        "samples": len(rates),
        "disturbed": len(case.rates) - len(rates),
        "way": case.way,
    }


def bench(device: str, name: str, seconds: float, buffer_mib: int | None, begin_share: float) -> None:
    """Measure one device; `name` is what the figures call it."""
    size = buffer_bytes(device, buffer_mib)
    progress(f"{name}: warming up", begin_share)
    cases: list[Case] = []
    for dtype in dtypes_of(device):
        for case in cases_of(device, dtype, size):
            reason = warm_up(device, case)
            if reason:
                say(absent={"kind": case.kind, "dtype": dtype, "device": name, "reason": reason})
            else:
                cases.append(case)
    begin = time.perf_counter()
    rounds = told = 0
    while rounds < LEAST_ROUNDS or time.perf_counter() - begin < seconds:
        for case in cases:
            sample(device, case)
        rounds += 1
        if (passed := time.perf_counter() - begin) > told:
            told += 1
            progress(f"{name}: measuring", begin_share + (1 - begin_share) * min(passed / seconds, 1.0))
    for case in cases:
        say(figure=figure(name, case))


def cpu_seconds() -> tuple[float, float] | None:
    """Return the CPU seconds that all programs of the machine had since it started, and those of this one."""
    try:
        words = Path("/proc/stat").read_text().split("\n", 1)[0].split()
        user, nice, system, _idle, _wait, irq, softirq, steal = (int(word) for word in words[1:9])
    except (OSError, ValueError):
        return None
    own = os.times()
    busy = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    return busy, own.user + own.system + own.children_user + own.children_system


def foreign_cpu(before: tuple[float, float] | None, seconds: float) -> float | None:
    """Return the share of the machine's CPU that others had in those seconds; a hypervisor's theft is among it."""
    after = cpu_seconds()
    if before is None or after is None:
        return None
    others = (after[0] - before[0]) - (after[1] - before[1])
    return round(min(max(others / (seconds * (os.cpu_count() or 1)), 0.0), 1.0), 4)


def end_with_the_node() -> None:
    """Give up when standard input ends: whoever wanted this is gone."""
    while os.read(0, 1):
        continue
    os._exit(1)


def devices(device: str) -> dict[str, int]:
    """Return the first device of each kind, by name."""
    import torch

    if device == "cpu":
        return {"cpu": 0}
    if not torch.cuda.is_available():
        sys.exit("torch finds no GPU that it can use: is the NVIDIA driver older than torch's CUDA?")
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {name: names.index(name) for name in names}


def main() -> None:
    """Measure what the command line says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", choices=("cpu", "cuda"), required=True)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--buffer-mib", type=int)
    asked = parser.parse_args()
    threading.Thread(target=end_with_the_node, daemon=True).start()
    progress("loading torch", 0.0)
    import torch

    torch.set_grad_enabled(False)
    torch.manual_seed(0)
    found = devices(asked.device)
    before, begin = cpu_seconds(), time.perf_counter()
    for place, (name, index) in enumerate(found.items()):
        if asked.device == "cuda":
            torch.cuda.set_device(index)
        bench(asked.device, name, asked.seconds / len(found), asked.buffer_mib, place / len(found))
        if asked.device == "cuda":
            torch.cuda.empty_cache()
    seconds = time.perf_counter() - begin
    gpus = torch.cuda.device_count() if asked.device == "cuda" else 0
    say(done={"seconds": round(seconds, 3), "foreign_cpu": foreign_cpu(before, seconds), "gpus": gpus})


if __name__ == "__main__":
    main()
