"""Measure how long all GPUs together take to add up a buffer, one process for each, as engines do it.

Run as `python allreduce.py cpu|cuda RANKS` under `engine.python`, with the standard library and torch; it starts
itself once for each rank. Knows nothing of models and engines. Standard output is JSON Lines, as microbench.py's.
"""

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

SIZES = (("64 KiB", 64 << 10), ("32 MiB", 32 << 20))  # a token's activations; a prompt's
RUNS = 12  # that count, of each size
WARM_RUNS = 4  # the first make the connections
DEADLINE = 60.0  # s for all of it; NCCL starts in some ten


def say(**message: object) -> None:
    """Write one line."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def measure(device: str, ranks: int) -> None:
    """Start the ranks and pass on what the first of them says."""
    say(progress={"doing": f"all-reduce over {ranks}", "share": 0.95})
    # On loopback alone: neither library needs a network between the GPUs of one machine.
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
    children: list[subprocess.Popen[str]] = []
    late = threading.Timer(DEADLINE, lambda: [child.kill() for child in children])
    with tempfile.TemporaryDirectory(prefix="metainf-") as folder:
        command = [sys.executable, "-I", __file__, device, str(ranks), str(Path(folder, "meet"))]
        try:
            for rank in range(ranks):
                child = subprocess.Popen(  # noqa: S603 -- this very script
                    [*command, str(rank)],
                    stdin=subprocess.PIPE,  # its end tells the child that this process is gone
                    stdout=subprocess.PIPE if rank == 0 else subprocess.DEVNULL,
                    stderr=subprocess.STDOUT if rank == 0 else subprocess.DEVNULL,
                    text=True,
                    env=environment,
                )
                children.append(child)
            late.start()
            output = children[0].stdout.read() if children[0].stdout else ""
        finally:
            late.cancel()
            for child in children:
                child.kill()
                child.wait()
    lines = output.splitlines()
    figures = [line for line in lines if line.startswith('{"figure"')]
    for line in figures:
        say(**json.loads(line))
    if not figures:
        reason = lines[-1][:200] if lines else f"its processes died or were not done after {DEADLINE:.0f} s"
        say(absent={"kind": "allreduce", "dtype": "bfloat16", "device": device, "reason": reason})


def seconds_of(device: str, buffer: "Tensor") -> float:
    """Return the seconds that one all-reduce takes here."""
    import torch
    from torch import distributed

    distributed.barrier()
    if device == "cpu":
        begin = time.perf_counter()
        distributed.all_reduce(buffer)
        return time.perf_counter() - begin
    torch.cuda.synchronize()
    first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    first.record()
    distributed.all_reduce(buffer)
    last.record()
    last.synchronize()
    return first.elapsed_time(last) / 1000.0


def be_rank(device: str, rank: int, ranks: int, meet: str) -> None:
    """Be one of the ranks; the first says the figures."""
    import torch
    from torch import distributed

    torch.set_num_threads(1)
    name, backend = "cpu", "gloo"
    if device == "cuda":
        torch.cuda.set_device(rank)
        name, backend = torch.cuda.get_device_name(rank), "nccl"
    distributed.init_process_group(backend, init_method=f"file://{meet}", rank=rank, world_size=ranks)
    for label, size in SIZES:
        buffer = torch.zeros(size // torch.bfloat16.itemsize, dtype=torch.bfloat16, device=device)
        times = [seconds_of(device, buffer) for _ in range(WARM_RUNS + RUNS)][WARM_RUNS:]
        median = statistics.median(times)
        figure = {"kind": "allreduce", "dtype": "bfloat16", "device": name, "shape": f"{label} x {ranks}", "unit": "s"}
        figure |= {"median": median, "mad": statistics.median(abs(took - median) for took in times)}
        if rank == 0:
            say(figure={**figure, "samples": len(times), "disturbed": 0, "way": backend})
    distributed.destroy_process_group()


def end_with_the_parent() -> None:
    """Give up when standard input ends: whoever wanted this is gone. The ranks see their own end then."""
    while os.read(0, 1):
        continue
    os._exit(1)


def stopped(_signal: int, _frame: object) -> None:
    """End, but not without the ranks and the folder."""
    sys.exit(143)


def main() -> None:
    """Measure, or be the rank that the command line says."""
    threading.Thread(target=end_with_the_parent, daemon=True).start()
    device, ranks, *rank = sys.argv[1:]
    if rank:
        be_rank(device, int(rank[1]), int(ranks), rank[0])
        return
    signal.signal(signal.SIGTERM, stopped)
    measure(device, int(ranks))
    say(done={})


if __name__ == "__main__":
    main()
