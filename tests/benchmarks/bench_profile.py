"""How repeatable the micro-benchmark is: several runs, each quantity's medians, and how far they lie apart.

    python -m tests.benchmarks.bench_profile [--runs 5] [--seconds 4]

Run it on an idle machine and on a busy one: what other programs take is printed beside.
"""

import argparse
import statistics
import sys
from collections import defaultdict
from pathlib import Path

import trio

from node.adapters.engine.measure import Interpreter, engine_threads, inspect, measure
from node.adapters.system import LocalMachine


async def repeat(engine: Interpreter, *, runs: int, seconds: float, buffer_mib: int | None = None) -> dict[str, float]:
    """Run it so often; print a table, and return each quantity's largest difference from the median of its medians."""
    threads = engine_threads(LocalMachine().cpu_cores())
    medians: dict[str, list[float]] = defaultdict(list)
    spreads: dict[str, list[float]] = defaultdict(list)
    for run in range(runs):
        found = await measure(engine, threads=threads, seconds=seconds, buffer_mib=buffer_mib, tell=lambda *_: None)
        print(f"run {run + 1}: {found.seconds:.1f} s, others had {found.foreign_cpu or 0:.0%} of the CPU")
        for figure in found.figures:
            medians[f"{figure.kind} {figure.dtype}"].append(figure.median)
            spreads[f"{figure.kind} {figure.dtype}"].append(figure.spread)
    print(f"\n{'quantity':<20}{'median':>12}{'largest difference':>20}{'median spread':>15}")
    apart: dict[str, float] = {}
    for name, values in medians.items():
        middle = statistics.median(values)
        apart[name] = max(abs(value / middle - 1) for value in values)
        print(f"{name:<20}{middle:>12.4g}{apart[name]:>20.1%}{statistics.median(spreads[name]):>15.1%}")
    return apart


async def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    asked = parser.parse_args()
    await repeat(await inspect(Path(sys.executable)), runs=asked.runs, seconds=asked.seconds)


if __name__ == "__main__":
    trio.run(_main)
