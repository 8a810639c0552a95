"""What do a node's first own records and probes teach it on hardware of a family that nobody in its swarm has?

    python -m tests.benchmarks.bench_few_shot --table strategies_simulated.parquet [--seeds 0,1,2] [--draws 20]
        [--contexts 400] [--least 20] [--heads 2] [--kept FOLDER]

Each family of hardware is left out in turn, the swarm learns from contexts of all others, and each machine of the
family then has 0 to 16 records of its own: `single` is one strategy in each of so many contexts, `paired` two
strategies in each of half as many. Judged on the machine's other contexts: the median |log error| of latency, and the
regret of taking what is foretold to be cheapest. Own records correct the level (node/learner/local.py), as a brain
does it, which changes no choice; `heads` rather learns from them, 25 times as loud as from others, and judges as many
draws as `--heads` says (each costs a whole stack): what was tried instead.

Probing: the best of the first m strategies as foretold, as truly measured. Mean over machines and seeds, and the
standard error over machines.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Final

import numpy as np

from node.cli import learning
from node.learner import brain, local
from node.learner.features import prepare
from node.learner.floor import believable
from node.learner.groups import labels
from node.learner.objective import parse
from node.learner.prior import Prior
from node.learner.stack import FittedStack, StackHead
from node.learner.table import Floats, Ints, Table, stack
from tests.benchmarks.bench_liars import regret

LATENCY: Final = parse("latency")
RECORDS: Final = (0, 1, 2, 4, 8, 16)
PROBES: Final = (1, 2, 3, 4)
LOUD: Final = 25.0  # docs/learner.md's weight of own records
VARIANTS: Final = ("single", "paired")

Figures = dict[str, float]


class Machine:
    """One machine whose family nobody has, and the swarm's forecasts of it."""

    def __init__(self, swarm: Table, judged: Table, fitted: FittedStack, scales: local.Scales) -> None:
        self.swarm, self.judged = swarm, judged
        self.truth = LATENCY.of(judged)
        self.foretold = fitted.predict(judged.without("outcome.")).mean
        self.scales = scales
        self.groups = [rows for rows in judged.context_groups() if len(rows) > 1]

    def draw(self, variant: str, records: int, rng: np.random.Generator) -> Ints:
        """Return rows that were measured."""
        each = 1 if variant == "single" else 2
        chosen = rng.permutation(len(self.groups))[: max(records // each, 1)]
        rows = [rng.permutation(self.groups[number])[:each] for number in chosen]
        return np.concatenate(rows)[:records] if records else np.zeros(0, dtype=np.int64)

    def corrected(self, own: Ints) -> Figures:
        """Return error and regret on other contexts, the level corrected by own records."""
        left = self._others(own)
        table = self.judged.take(left)
        shift = local.shift(self.judged.take(own), self.truth[own] - self.foretold[own], lambda: self.scales)
        foretold = self.foretold[left] + (0.0 if shift is None else shift.of(table))
        return _figures(table, self.truth[left], foretold)

    def by_heads(self, own: Ints, head: StackHead, rng: np.random.Generator) -> Figures:
        """Return the same where heads learnt from own records."""
        left, target = self._others(own), LATENCY.of(self.swarm)
        both = stack(self.swarm, self.judged.take(own))
        weight = np.concatenate([np.ones(self.swarm.rows), np.full(len(own), LOUD)])
        fitted = head.fit(prepare(both), np.concatenate([target, self.truth[own]]), weight, rng)
        table = self.judged.take(left)
        return _figures(table, self.truth[left], fitted.predict(table.without("outcome.")).mean)

    def probed(self) -> dict[int, float]:
        """Return the regret of the best of the first m."""
        lost: dict[int, list[float]] = {probes: [] for probes in PROBES}
        for rows in self.groups:
            order = rows[np.argsort(self.foretold[rows], kind="stable")]
            for probes, found in lost.items():
                found.append(float(np.expm1(self.truth[order[:probes]].min() - self.truth[rows].min())))
        return {probes: float(np.mean(found)) for probes, found in lost.items()}

    def _others(self, own: Ints) -> Ints:
        return np.flatnonzero(~np.isin(self.judged.contexts, self.judged.contexts[own]))


def _figures(table: Table, truth: Floats, foretold: Floats) -> Figures:
    return {"error": float(np.median(np.abs(truth - foretold))), "regret": regret(table, foretold)}


def one(table: Table, family: str, seed: int, options: argparse.Namespace) -> dict[str, dict[str, Figures]]:
    """Return figures by machine of a family, and by what was measured there."""
    rng = np.random.default_rng([seed, len(family)])
    of = labels(table, "hardware.family")
    numbers = np.unique(table.contexts[of != family])
    known = rng.choice(numbers, size=min(options.contexts, len(numbers)), replace=False)
    swarm = table.take(np.isin(table.contexts, known) & (of != family))
    target, prior = LATENCY.of(swarm), Prior.of(LATENCY, swarm)
    head = StackHead(heads=brain.trees(prior, swarm.rows), gate=believable)
    ready = prepare(swarm)
    fitted = head.fit(ready, target, np.ones(swarm.rows), rng)
    scales = local.learn_scales(ready, fitted.missed)
    names = table.words("hardware.name").astype(str)
    found: dict[str, dict[str, Figures]] = {}
    for name in np.unique(names[of == family]):
        machine = Machine(swarm, table.take((names == name) & (of == family)), fitted, scales)
        if len(machine.groups) < options.least:
            continue
        results = {f"probe {probes}": {"regret": lost} for probes, lost in machine.probed().items()}
        for variant in VARIANTS:
            for records in RECORDS:
                own = [machine.draw(variant, records, np.random.default_rng([seed, n])) for n in range(options.draws)]
                results[f"{variant} {records}"] = _mean([machine.corrected(rows) for rows in own])
                if options.heads and records:
                    tried = [machine.by_heads(rows, head, rng) for rows in own[: options.heads]]
                    results[f"{variant} {records}, heads"] = _mean(tried)
        found[str(name)] = results
        print(f"{family}, {name}, seed {seed}: {results['single 0']}", file=sys.stderr)
    return found


def run(table: Table, options: argparse.Namespace) -> dict[str, dict[str, list[Figures]]]:
    """Return figures by machine and by what was measured, one for each seed; finished ones are read from `--kept`."""
    found: dict[str, dict[str, list[Figures]]] = {}
    written = learning.recipe() + Path(__file__).read_text()
    asked = f"{written}|{table.rows}|{options.draws}|{options.contexts}|{options.least}|{options.heads}"
    digest = sha256(asked.encode()).hexdigest()[:16]
    for seed in (int(seed) for seed in options.seeds.split(",")):
        for family in sorted(set(labels(table, "hardware.family"))):
            place = None if options.kept is None else options.kept / f"{digest}-{family}-{seed}.json"
            if place is not None and place.exists():
                results = json.loads(place.read_text())
            else:
                results = one(table, family, seed, options)
                if place is not None:
                    place.parent.mkdir(parents=True, exist_ok=True)
                    place.write_text(json.dumps(results))
            for machine, figures in results.items():
                for what, values in figures.items():
                    found.setdefault(machine, {}).setdefault(what, []).append(values)
    return found


def lines(found: Mapping[str, Mapping[str, Sequence[Figures]]]) -> list[str]:
    """Return the table."""
    whats = dict.fromkeys(what for figures in found.values() for what in figures)
    shown = [f"{len(found)} machines: {', '.join(found)}", f"{'':20}{'error':>18}{'regret':>18}"]
    for what in whats:
        cells = []
        for key in ("error", "regret"):
            each = [
                np.mean([one[key] for one in figures[what]]) for figures in found.values() if key in figures[what][0]
            ]
            spread = np.std(each, ddof=1) / np.sqrt(len(each)) if len(each) > 1 else 0.0
            cells.append(f"{np.mean(each):.4f} ±{spread:.4f}" if each else "-")
        shown.append(f"{what:20}" + "".join(f"{cell:>18}" for cell in cells))
    return shown


def _mean(figures: Sequence[Figures]) -> Figures:
    return {key: float(np.mean([one[key] for one in figures])) for key in figures[0]}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, required=True)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--contexts", type=int, default=400)
    parser.add_argument("--least", type=int, default=20, help="contexts that a machine has")
    parser.add_argument("--heads", type=int, default=0)
    parser.add_argument("--kept", type=Path)
    options = parser.parse_args(arguments)
    for line in lines(run(learning.read(options.table), options)):
        print(line, flush=True)


if __name__ == "__main__":
    main()
