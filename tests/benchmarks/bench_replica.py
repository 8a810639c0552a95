"""Is the MetaInf replica trained to its plateau, and does it reach the figures of docs/learner.md?

    python -m tests.benchmarks.bench_replica --table strategies_simulated.parquet
        [--group hardware.family,model.name,workload.kind] [--epochs 15,30,60] [--seeds 0,1] [--only NAME ...]
        [--members N] [--within WEIGHT] [--held-out SHARE] [--inner] [--out FILE.jsonl]

One line for each (split, group, epochs, seed): accuracy within 1 %, regret, error, the learning curve, seconds. Lines
that are in `--out` already are not computed again. If more epochs gain nothing, it is trained. `--inner` leaves out
pairs of groups instead and judges on each apart: settings are chosen by that, never by the first table.
"""

import argparse
import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from node.adapters.parquet import read_table
from node.learner import objective
from node.learner.groups import labels
from node.learner.metainf_head import FittedMetaInf, MetaInfHead, Settings
from node.learner.table import Column, Floats, Table
from node.learner.texts import Embedder, load

LATENCY = objective.parse("latency")
NEAR = 0.01
KEY = ("split", "left_out", "epochs", "members", "within", "held_out", "seed")  # of a line


def judge(table: Table, foretold: Floats, target: Floats) -> tuple[float, float, int]:
    """Return accuracy within 1 %, mean regret, and the number of contexts with a choice."""
    groups = [rows for rows in table.context_groups() if len(rows) > 1]
    lost = np.array([np.expm1(target[rows][np.argmin(foretold[rows])] - target[rows].min()) for rows in groups])
    return float(np.mean(lost <= NEAR)), float(lost.mean()), len(groups)


def fit(table: Table, left: Column, embedder: Embedder, settings: Settings, seed: int) -> tuple[FittedMetaInf, float]:
    """Train without the rows that are left out; return what has learnt, and in how many seconds."""
    target = LATENCY.of(table)
    kept = ~left & np.isfinite(target)
    begin = time.monotonic()
    head = MetaInfHead(embedder=embedder, settings=settings)
    fitted = head.fit(table.take(kept), target[kept], np.ones(int(kept.sum())), np.random.default_rng(seed))
    return fitted, time.monotonic() - begin


def figures(table: Table, fitted: FittedMetaInf) -> dict[str, Any]:
    """Judge on a table that nothing was learnt from."""
    target, foretold = LATENCY.of(table), fitted.predict(table).mean
    accuracy, regret, contexts = judge(table, foretold, target)
    return {
        "contexts": contexts,
        "accuracy_1pct": round(accuracy, 4),
        "regret": round(regret, 4),
        "error_median": round(float(np.median(np.abs(foretold - target))), 4),
    }


def curve(fitted: FittedMetaInf) -> dict[str, Any]:
    """Return the errors within contexts of the first member, ten of its epochs, and whether all stood still."""
    steps = fitted.curves[0]
    shown = [steps[len(steps) * part // 10 - 1] for part in range(1, 11)] if len(steps) >= 10 else list(steps)
    held = [round(step.held_out_within, 4) for step in shown]
    return {
        "trained_within": [round(step.trained_within, 4) for step in shown],
        "held_out_within": held if np.isfinite(held).all() else None,
        "plateau": fitted.plateau,
    }


def tasks(groups: Column, options: argparse.Namespace) -> Iterator[tuple[str, ...]]:
    """Yield what to leave out together."""
    names = [str(name) for name in options.only or sorted(set(groups))]
    yield from itertools.combinations(names, 2) if options.inner else [(name,) for name in names]


def run(options: argparse.Namespace, embedder: Embedder) -> Iterator[dict[str, Any]]:
    """Yield each line, those of an earlier run first."""
    done = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    yield from done
    have = {json.dumps({name: line[name] for name in KEY}) for line in done}
    table = Table.of_rows(read_table(options.table))
    for seed, epochs, split in itertools.product(options.seeds, options.epochs, options.group):
        groups = labels(table, split)
        chosen = {"epochs": epochs, "members": options.members, "within": options.within, "held_out": options.held_out}
        for names in tasks(groups, options):
            asked = {"split": split, "left_out": names, **chosen, "seed": seed}
            if json.dumps(asked) in have:
                continue
            fitted, took = fit(table, np.isin(groups.astype(str), names), embedder, Settings(**chosen), seed)
            for name in names:
                line = asked | {"group": name}
                line |= figures(table.take(groups == name), fitted) | curve(fitted) | {"train_s": round(took, 1)}
                with options.out.open("a") as file:
                    file.write(json.dumps(line) + "\n")
                yield line


def pooled(lines: list[dict[str, Any]]) -> str:
    """Say the means over all contexts of some lines."""
    weight = [line["contexts"] for line in lines]
    accuracy = np.average([line["accuracy_1pct"] for line in lines], weights=weight)
    regret = np.average([line["regret"] for line in lines], weights=weight)
    return f"accuracy {accuracy:.3f}, regret {regret:.3f}, {len(lines)} groups"


def numbers(words: str) -> list[int]:
    return [int(word) for word in words.split(",")]


def main(arguments: list[str] | None = None, embedder: Embedder | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, required=True)
    parser.add_argument("--group", type=lambda words: words.split(","), default=["hardware.family"])
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--epochs", type=numbers, default=[Settings().epochs])
    parser.add_argument("--seeds", type=numbers, default=[0])
    parser.add_argument("--members", type=int, default=Settings().members)
    parser.add_argument("--within", type=float, default=Settings().within)
    parser.add_argument("--held-out", type=float, default=Settings().held_out)
    parser.add_argument("--inner", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("replica.jsonl"))
    options = parser.parse_args(arguments)
    lines: list[dict[str, Any]] = []
    for line in run(options, embedder or load()):
        lines.append(line)
        print(json.dumps(line), flush=True)

    def run_of(line: dict[str, Any]) -> str:
        return ", ".join(f"{name} {line[name]}" for name in KEY if name != "left_out")

    for name, those in itertools.groupby(sorted(lines, key=run_of), key=run_of):
        print(f"{name}: {pooled(list(those))}")


if __name__ == "__main__":
    main()
