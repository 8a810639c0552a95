"""Is the MetaInf replica trained to its plateau, and does it reach the figures of docs/learner.md?

    python -m tests.benchmarks.bench_replica --table strategies_simulated.parquet [--group hardware.family]
        [--steps 650,1300,2600] [--seeds 0,1] [--only NAME ...] [--out FILE.jsonl]

One line for each (group, steps, seed): accuracy within 1 %, regret, error, the learning curve's end, whether it stood
still, seconds. Lines that are in `--out` already are not computed again. If more steps gain nothing, it is trained.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from node.adapters.parquet import read_table
from node.learner import objective
from node.learner.groups import labels
from node.learner.metainf_head import MetaInfHead, Settings
from node.learner.table import Floats, Table
from node.learner.texts import Embedder, load

LATENCY = objective.parse("latency")
NEAR = 0.01


def judge(table: Table, foretold: Floats, target: Floats) -> tuple[float, float, int]:
    """Return accuracy within 1 %, mean regret, and the number of contexts with a choice."""
    groups = [rows for rows in table.context_groups() if len(rows) > 1]
    lost = np.array([np.expm1(target[rows][np.argmin(foretold[rows])] - target[rows].min()) for rows in groups])
    return float(np.mean(lost <= NEAR)), float(lost.mean()), len(groups)


def one(table: Table, left: np.ndarray, embedder: Embedder, settings: Settings, seed: int) -> dict[str, Any]:
    """Train without the rows that are left out, and judge there."""
    target = LATENCY.of(table)
    kept = ~left & np.isfinite(target)
    begin = time.monotonic()
    head = MetaInfHead(embedder=embedder, settings=settings)
    fitted = head.fit(table.take(kept), target[kept], np.ones(int(kept.sum())), np.random.default_rng(seed))
    took = time.monotonic() - begin
    judged = table.take(left)
    foretold = fitted.predict(judged).mean
    accuracy, regret, contexts = judge(judged, foretold, target[left])
    return {
        "contexts": contexts,
        "accuracy_1pct": round(accuracy, 4),
        "regret": round(regret, 4),
        "error_median": round(float(np.median(np.abs(foretold - target[left]))), 4),
        "held_out": [round(curve[-1].held_out, 3) for curve in fitted.curves],
        "plateau": fitted.plateau,
        "ran": [len(curve) for curve in fitted.curves],
        "train_s": round(took, 1),
    }


def run(options: argparse.Namespace, embedder: Embedder) -> Iterator[dict[str, Any]]:
    """Yield each line, those of an earlier run first."""
    done = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    yield from done
    have = {(line["group"], line["steps"], line["seed"]) for line in done}
    table = Table.of_rows(read_table(options.table))
    groups = labels(table, options.group)
    for seed in options.seeds:
        for steps in options.steps:
            for group in options.only or sorted(set(groups)):
                if (group, steps, seed) in have:
                    continue
                found = one(table, groups == group, embedder, Settings(steps=steps), seed)
                line = {"group": group, "steps": steps, "seed": seed, **found}
                with options.out.open("a") as file:
                    file.write(json.dumps(line) + "\n")
                yield line


def numbers(words: str) -> list[int]:
    return [int(word) for word in words.split(",")]


def main(arguments: list[str] | None = None, embedder: Embedder | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, required=True)
    parser.add_argument("--group", default="hardware.family")
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--steps", type=numbers, default=[1300])
    parser.add_argument("--seeds", type=numbers, default=[0])
    parser.add_argument("--out", type=Path, default=Path("replica.jsonl"))
    options = parser.parse_args(arguments)
    lines: list[dict[str, Any]] = []
    for line in run(options, embedder or load()):
        lines.append(line)
        print(json.dumps(line), flush=True)
    for steps in sorted({line["steps"] for line in lines}):
        those = [line for line in lines if line["steps"] == steps]
        weight = [line["contexts"] for line in those]
        accuracy = np.average([line["accuracy_1pct"] for line in those], weights=weight)
        regret = np.average([line["regret"] for line in those], weights=weight)
        print(f"{steps:4} steps: accuracy {accuracy:.3f}, regret {regret:.3f}, {len(those)} groups and seeds")


if __name__ == "__main__":
    main()
