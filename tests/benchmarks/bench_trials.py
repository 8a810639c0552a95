"""Does `metainf profile --trials` say the same twice? Two whole runs, cell by cell.

    python -m tests.benchmarks.bench_trials --out FOLDER        # half an hour on two idle cores; broken off, it goes on
    python -m tests.benchmarks.bench_trials --compare ONE.json OTHER.json

Nine strategies, three workloads, five repetitions of the real vLLM with the embedded model, within fifteen minutes
each: on a machine that others share, two of three repetitions may fall into one slow minute. Arguments after `--` go to
the command, which knows what to leave out on a busy machine.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

METRICS = ("latency.mean", "ttft.mean", "tpot.mean", "throughput", "stall.p95")
NEAR = 0.10  # two medians agree when they differ by no more, relative to their mean
STRATEGIES = 9
REPETITIONS = 5


def compare(one: dict[str, Any], other: dict[str, Any]) -> dict[str, tuple[int, int, float]]:
    """Return, by metric, how many cells agree, how many both runs have, and the median difference."""
    found: dict[str, tuple[int, int, float]] = {}
    for metric in METRICS:
        first, second = (_medians(report, metric) for report in (one, other))
        apart = sorted(_apart(first[key], second[key]) for key in first.keys() & second.keys())
        found[metric] = (sum(each <= NEAR for each in apart), len(apart), apart[len(apart) // 2] if apart else 0.0)
    return found


def _medians(report: dict[str, Any], metric: str) -> dict[tuple[str, str], float]:
    return {
        (cell["strategy"]["name"], cell["workload"]): cell["figures"][metric]["median"]
        for cell in report["cells"]
        if metric in cell["figures"]
    }


def _apart(one: float, other: float) -> float:
    return abs(one - other) / ((one + other) / 2) if one + other else 0.0


def show(one: dict[str, Any], other: dict[str, Any]) -> None:
    for number, report in enumerate((one, other), 1):
        trials = report["trials"]
        share = trials["discarded_share"]
        print(
            f"run {number}: {trials['complete']}/{trials['cells']} cells complete in {report['seconds']:.0f} s, "
            f"{trials['trials']} trials, discarded {share or 0:.0%}"
        )
    for metric, (near, cells, middle) in compare(one, other).items():
        share = f"{near / cells:.0%}" if cells else "none"
        print(f"{metric:14} {share:>5} of {cells} cells within {NEAR:.0%}; median difference {middle:.1%}")


def run(out: Path, number: int, extra: list[str]) -> dict[str, Any]:
    """Run once, or read what an earlier call has kept."""
    kept = out / f"run{number}.json"
    if not kept.exists():
        started = out / f"run{number}.started"
        # The book knows one run at a time: a second call goes on with it, the second run begins anew.
        anew = [] if started.exists() else ["--new-trials"]
        started.touch()
        command = [sys.executable, "-m", "node", "profile", "--trials", "--json", "--data-dir", str(out / "node")]
        done = subprocess.run(
            [*command, "--strategies", str(STRATEGIES), "--repetitions", str(REPETITIONS), *anew, *extra],
            stdout=subprocess.PIPE,
            check=True,
        )
        kept.write_bytes(done.stdout)
    return json.loads(kept.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--compare", type=Path, nargs=2)
    parser.add_argument("extra", nargs="*")
    chosen = parser.parse_args()
    if chosen.compare:
        one, other = (json.loads(file.read_text()) for file in chosen.compare)
    elif chosen.out:
        chosen.out.mkdir(parents=True, exist_ok=True)
        one, other = (run(chosen.out, number, chosen.extra) for number in (1, 2))
    else:
        parser.error("--out or --compare")
    show(one, other)


if __name__ == "__main__":
    main()
