"""How good are the choices of the meta-learner, and of what it must beat, on groups that nobody had seen?

    python -m tests.benchmarks.bench_learner --table strategies_simulated.parquet --groups hardware.family,model.name
        [--objective latency] [--methods ours,alors,...] [--seeds 0,1,2] [--without coarse,mlp]
        [--beside metainf_replica,...] [--every 3] [--kept FOLDER]

One line for each group column and method: the mean over seeds, and the spread (standard deviation) of accuracy and
regret over seeds. `--without` adds our stack without each of these heads, `--beside` with each of these methods as one
more: what a head is worth; heads are fitted once for all of these stacks. `--every 3` takes every third context.
Finished folds stay in `--kept`, so that an interrupted run goes on.
"""

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np

from node.cli import learning
from node.learner import methods, report
from node.learner.evaluate import Maker, Task, evaluate
from node.learner.head import Fitted, Head
from node.learner.objective import parse
from node.learner.prior import Prior
from node.learner.table import Floats, Table

SHOWN = (
    "accuracy_1pct", "accuracy_strict", "regret_mean", "regret_se", "regret_p95", "speedup_over_default",
    "oracle_gain_share", "worse_than_default_2pct", "error_median", "coverage_90", "coverage_90_all",
    "interval_log_width", "abstained", "train_s", "predict_us",
)  # fmt: skip
SPREAD = ("accuracy_1pct", "regret_mean")


def run(
    table: Table, group: str, objective: str, makers: Mapping[str, Maker], seeds: Sequence[int], kept: Path | None
) -> list[str]:
    """Return the lines of one group column."""
    names = [*makers, methods.ORACLE]
    found = []
    for seed in seeds:
        task = Task(
            table=table, group=group, objective=parse(objective), methods=makers, seed=seed, recipe=learning.recipe()
        )
        found.append(report.report(evaluate(task, time.monotonic, learning.folds(kept)), names))
    head = f"{group}, {objective}, {found[0]['contexts']} contexts with a choice, seeds {','.join(map(str, seeds))}"
    lines = [head, f"{'':22}" + "".join(f"{name[:13]:>15}" for name in SHOWN)]
    for name in names:
        cells = [_cell([one["methods"][name][key] for one in found], key) for key in SHOWN]
        lines.append(f"{name:22}" + "".join(f"{cell:>15}" for cell in cells))
    return lines


def _cell(values: Sequence[float | None], key: str) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    spread = f"±{np.std(known):.3f}" if key in SPREAD and len(known) > 1 else ""
    return f"{np.mean(known):.3f}{spread}"


def wanted(names: str, without: str, beside: str = "") -> dict[str, Maker]:
    """Return makers of methods by name, and of our stack without each of some heads, or with others beside them."""
    chosen, fewer, more = ([name for name in words.split(",") if name] for words in (names, without, beside))
    makers = {name: maker for name in chosen if (maker := methods.maker(name, learning.replica)) is not None}
    if not fewer and not more:
        return makers
    fits: dict[tuple[str, bytes], Fitted] = {}

    def ours(left_out: str = "", added: str = "") -> Maker:
        other = methods.maker(added, learning.replica) if added else None

        def make(prior: Prior) -> Head:
            whole, stack = methods.ours(prior), methods.ours(prior, left_out)
            if left_out and len(whole.heads) == len(stack.heads):
                raise SystemExit(f"no head {left_out}; there are {', '.join(head.name for head in whole.heads)}")
            heads = [*stack.heads, *([other(prior)] if other is not None else [])]
            return replace(stack, heads=[Remembered(head, fits) for head in heads])

        return make

    variants = {"ours, all heads": ours()} | {f"ours, no {name}": ours(name) for name in fewer}
    return makers | variants | {f"ours, and {name[:17]}": ours(added=name) for name in more}


class Remembered:
    """A head that is fitted once for the same rows, whoever asks; its luck is its own."""

    def __init__(self, head: Head, fits: dict[tuple[str, bytes], Fitted]) -> None:
        self.name, self._head, self._fits = head.name, head, fits

    def fit(self, table: Table, target: Floats, weight: Floats, rng: np.random.Generator) -> Fitted:
        rows = sha256(table.contexts.tobytes() + target.tobytes() + weight.tobytes()).digest()
        if (self.name, rows) not in self._fits:
            luck = np.random.default_rng([*rows[:8], *self.name.encode()])
            self._fits[self.name, rows] = self._head.fit(table, target, weight, luck)
        return self._fits[self.name, rows]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, required=True)
    parser.add_argument("--groups", default="hardware.family,model.name,workload.kind")
    parser.add_argument("--objective", default="latency")
    parser.add_argument("--methods", default=",".join(methods.NAMES))
    parser.add_argument("--without", default="")
    parser.add_argument("--beside", default="")
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--kept", type=Path)
    options = parser.parse_args(arguments)
    table = learning.read(options.table)
    table = table.take(table.context_index % options.every == 0)
    makers = wanted(options.methods, options.without, options.beside)
    for group in options.groups.split(","):
        seeds = [int(seed) for seed in options.seeds.split(",")]
        for line in run(table, group, options.objective, makers, seeds, options.kept):
            print(line, flush=True)


if __name__ == "__main__":
    main()
