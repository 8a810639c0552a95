"""What do liars cost: regret of a node whose swarm colludes, with the learner's defences and without?

    python -m tests.benchmarks.bench_liars --table strategies_simulated.parquet [--seeds 0,1,2] [--families Ada,Hopper]
        [--cases clean,liars10,...] [--ways defended,huber,squared] [--whole] [--kept FOLDER]

Forty authors with a machine and some models each, and this node with a hundred records of its own. Liars praise the
one strategy whose praise does most harm: 2.5 times faster than it was (no faster than physics allows), all others 1.5
times slower; sly ones lie by half as much and every other time. Each family of hardware is left out in turn. Regret is
that of taking what is foretold to be cheapest, unguarded: on contexts of the own machine that nobody measured, on the
family that nobody has, and on the machine that one author alone has. Ways: `defended` hears records as a node does
(node/learner/hearing.py), `huber` hears all alike, `squared` too and learns with squared error. Mean over families and
seeds, and its standard error over them.

Heads (physics, residual, advantage) count alike, so that a fit takes seconds; `--whole` teaches whole brains instead,
whose stacks learn their weights: ten times as long.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np

from node.cli import learning
from node.learner import brain, trees
from node.learner.brain import Brain, MakeHeads
from node.learner.features import prepare
from node.learner.head import Head
from node.learner.hearing import AUTHOR, Ranks, hear, possible
from node.learner.objective import parse
from node.learner.prior import Prior
from node.learner.stack import StackHead
from node.learner.table import Floats, Table
from node.learner.trees import TreesHead
from node.learner.weights import Choices
from tests.benchmarks.liars_swarm import ME, Swarm, Wish, swarm

LATENCY: Final = parse("latency")
RANKS: Final[Ranks] = {ME: "own"}  # all others are unknown: the hardest case
NO_HUBER: Final = 1e3  # log-seconds: beyond all errors
CASES: Final[Mapping[str, Mapping[str, Any]]] = {
    "clean": {},
    "liars10": {"liars": 0.1},
    "liars20": {"liars": 0.2},
    "liars30": {"liars": 0.3},
    "sly30": {"liars": 0.3, "sly": True},
    "rare_honest": {"rare": "honest"},
    "rare_lying": {"rare": "lying"},
    "fresh1000": {"fresh": 1000},
}
WAYS: Final = ("defended", "huber", "squared")
Learner: TypeAlias = tuple[Callable[[Table], Floats], Mapping[str, float]]  # what foretells, and what authors are worth


def squared(prior: Prior, _rows: int) -> Sequence[Head]:
    """Return the brain's heads with squared error."""
    return [
        TreesHead(name=name, prior=prior, centred=centred, growth=replace(growth, huber=NO_HUBER))
        for name, centred, growth in (("residual", False, trees.RESIDUAL), ("advantage", True, trees.ADVANTAGE))
    ]


def regret(table: Table, foretold: Floats) -> float:
    """Return the mean relative cost of taking each context's foretold best."""
    cut, truth = Choices.of(table.context_index), LATENCY.of(table)
    return float(np.mean(np.expm1(cut.regret(foretold[cut.order], truth[cut.order]))))


def one(made: Swarm, way: str, seed: int, *, whole: bool) -> dict[str, float]:
    """Learn from a swarm in one way; return regret by place, and the median credibility of both sides."""
    told = made.told if way == "defended" else made.told.without(AUTHOR)
    heads = squared if way == "squared" else brain.trees
    ask, credibility = (_taught if whole else _light)(told, heads, np.random.default_rng(seed))
    found = {name: regret(place, ask(place.without("outcome."))) for name, place in made.places.items()}
    honest = [worth for name, worth in credibility.items() if name not in made.liars]
    lying = [worth for name, worth in credibility.items() if name in made.liars]
    if honest:
        found["worth, honest"] = float(np.median(honest))
    if lying:
        found["worth, liars"] = float(np.median(lying))
    return found


def _taught(told: Table, heads: MakeHeads, rng: np.random.Generator) -> Learner:
    taught = Brain(make_heads=heads).taught(told, RANKS, [LATENCY], rng, curves_too=False)
    learnt = taught.learnt["latency"]
    return lambda table: learnt.ask(table)[0], taught.credibility


def _light(told: Table, heads: MakeHeads, rng: np.random.Generator) -> Learner:
    rows = prepare(told.take(possible(told, RANKS)))
    target, prior = LATENCY.of(rows), Prior.of(LATENCY, rows)
    heard = hear(rows, target, prior, RANKS, rng)
    head = StackHead(heads=heads(prior, rows.rows), folds=lambda _table, _rng: ())
    fitted = head.fit(rows.take(heard.rows), target[heard.rows], heard.weight, rng)
    return lambda table: fitted.predict(table).mean, heard.credibility


def run(
    table: Table, cases: Sequence[str], ways: Sequence[str], families: Sequence[str], seeds: Sequence[int],
    kept: Path | None = None, *, whole: bool = False,
) -> dict[tuple[str, str], list[dict[str, float]]]:  # fmt: skip
    """Return for each case and way what came of each family and seed; finished ones are read from `kept`."""
    digest = _digest(table, whole=whole)
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    for seed in seeds:
        for family in families:
            for case in cases:
                made: Swarm | None = None
                for way in ways:
                    place = None if kept is None else kept / f"{digest}-{case}-{way}-{family}-{seed}.json"
                    if place is not None and place.exists():
                        figures = json.loads(place.read_text())
                    else:
                        wish = Wish(left_out=family, **CASES[case])
                        made = made or swarm(table, wish, np.random.default_rng([seed, len(family)]))
                        begin = time.monotonic()
                        figures = one(made, way, seed, whole=whole)
                        print(f"{case} {way} {family} {seed}: {time.monotonic() - begin:.0f} s", file=sys.stderr)
                        if place is not None:
                            place.parent.mkdir(parents=True, exist_ok=True)
                            place.write_text(json.dumps(figures))
                    found.setdefault((case, way), []).append(figures)
    return found


def lines(found: Mapping[tuple[str, str], Sequence[Mapping[str, float]]]) -> list[str]:
    """Return the table."""
    columns = dict.fromkeys(name for results in found.values() for figures in results for name in figures)
    shown = [f"{'':12}{'':10}" + "".join(f"{name:>19}" for name in columns)]
    for (case, way), results in found.items():
        cells = []
        for name in columns:
            values = [figures[name] for figures in results if name in figures]
            error = np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0.0
            cells.append(f"{np.mean(values):.4f} ±{error:.4f}" if values else "-")
        shown.append(f"{case:12}{way:10}" + "".join(f"{cell:>19}" for cell in cells))
    return shown


def _digest(table: Table, *, whole: bool) -> str:
    """Name the learner as it is written, the lies and the table: results of others are not theirs."""
    sources = [Path(__file__), Path(__file__).with_name("liars_swarm.py")]
    written = learning.recipe() + "".join(source.read_text() for source in sources)
    return sha256(f"{written}|{table.rows}|{whole}".encode()).hexdigest()[:16]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, required=True)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--families", default="")
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--kept", type=Path)
    options = parser.parse_args(arguments)
    table = learning.read(options.table)
    families = [name for name in options.families.split(",") if name] or sorted(set(table.words("hardware.family")))
    seeds = [int(seed) for seed in options.seeds.split(",")]
    cases, ways = options.cases.split(","), options.ways.split(",")
    found = run(table, cases, ways, families, seeds, options.kept, whole=options.whole)
    for line in lines(found):
        print(line, flush=True)


if __name__ == "__main__":
    main()
