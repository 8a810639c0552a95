"""What does the learner pick on the real engine: own trials, one kind of workload left out after the other?

    metainf records export --mine records.jsonl        # after some runs of `metainf profile --trials`
    python -m tests.benchmarks.bench_own_trials --records records.jsonl [MORE.jsonl ...]
        [--swarm strategies_simulated.parquet] [--contexts 150] [--goals latency tail ...] [--seeds 0,1,2] [--whole]

For each objective and each way to learn, the kinds of workload are left out by turns: a brain learns from the node's
trials of the other kinds, and chooses in each context of the kind that was left out. Printed: what its pick costs
against the engine's default (1.00 is the default, less is better) and against the best that was measured (regret), how
often it is worse than the default by 2 %, and what the choice would have been without the guard of the default. Ways:
`physics` has learnt nothing; `own` from the node's trials; `own+swarm` from contexts of the swarm's table besides, each
machine of it an author. Objectives that the records lack (energy without a meter) say so. Repeats of a strategy in a
context are merged by their median. There are few contexts: each line says of how many it is, and every pick is listed
with `--picks`.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from node.cli import learning
from node.learner import brain
from node.learner.brain import Brain, MakeHeads
from node.learner.hearing import AUTHOR
from node.learner.objective import Objective, parse
from node.learner.table import Table, stack
from node.learner.worker import available_heads

GOALS: Final = ("latency", "tail", "throughput", "cost", "energy", "latency:0.5,tail:0.5", "latency:0.5,throughput:0.5")
KIND: Final = "workload.kind"
ME: Final = "me"
HARM: Final = 1.02
WAYS: Final = ("physics", "own", "own+swarm")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pick:
    """One choice: costs by the engine's default, of the pick, of the unguarded one and of the best."""

    kind: str
    name: str
    cost: float
    unguarded: float
    best: float


def one(
    own: Table, swarm: Table | None, goal: Objective, way: str, seed: int, heads: MakeHeads = brain.trees
) -> list[Pick]:
    """Return the picks of one way to learn, in every context that has a default and a choice."""
    picks = []
    for kind in sorted(set(own.words(KIND))):
        left = own.words(KIND) == kind
        learnt = Brain(make_heads=heads)
        if way != "physics":
            told = own.take(~left).with_columns({AUTHOR: np.full(int((~left).sum()), ME, dtype=object)})
            if swarm is not None:
                told = stack(swarm, told)
            learnt = learnt.taught(told, {ME: "own"}, [goal], np.random.default_rng(seed), curves_too=False)
        judged = own.take(left)
        for rows in judged.context_groups():
            context = judged.take(rows)
            cost, default = goal.of(context), np.flatnonzero(context.is_default)
            if not len(default) or np.isfinite(cost).sum() < 2 or not np.isfinite(cost[default[0]]):
                continue
            advice = learnt.advise(context.without("outcome."), goal, int(default[0]))
            at = default[0] if advice.choice.index is None else advice.choice.index
            relative = np.exp(cost - cost[default[0]])
            picks.append(
                Pick(
                    kind=str(kind),
                    name=str(context.words("strategy.name")[at]),
                    cost=float(relative[at]),
                    unguarded=float(relative[np.nanargmin(advice.forecast.cost)]),
                    best=float(np.nanmin(relative)),
                )
            )
    return picks


def line(way: str, picks: Sequence[Pick]) -> str:
    """Return a line of the table: geometric means of costs by the default."""
    cost, unguarded, best = (np.array([getattr(p, name) for p in picks]) for name in ("cost", "unguarded", "best"))
    figures = (
        f"{np.exp(np.log(cost).mean()):9.3f}",
        f"{np.mean(cost / best - 1):9.3f}",
        f"{np.mean(cost > HARM):9.2f}",
        f"{np.exp(np.log(unguarded).mean()):11.3f}",
        f"{np.mean(unguarded / best - 1):9.3f}",
        f"{np.exp(np.log(best).mean()):9.3f}",
    )
    return f"  {way:12}" + "".join(figures)


def run(
    own: Table,
    swarm: Table | None,
    goals: Sequence[str],
    seeds: Sequence[int],
    *,
    heads: MakeHeads = brain.trees,
    listed: bool = False,
) -> list[str]:
    """Return the lines of all objectives; choices are merged over seeds."""
    kinds, contexts = sorted(set(own.words(KIND))), len(np.unique(own.contexts))
    lines = [f"{own.rows} strategies in {contexts} contexts of {len(kinds)} kinds: {', '.join(kinds)}"]
    head = ("by default", "regret", "harm 2 %", "unguarded", "regret", "oracle")
    lines.append(
        f"{'':14}" + "".join(f"{name:>{width}}" for name, width in zip(head, (10, 9, 9, 10, 9, 9), strict=True))
    )
    for words in goals:
        goal = parse(words)
        if not np.isfinite(goal.of(own)).any():
            lines.append(f"{words}: the records lack it")
            continue
        lines.append(words)
        for way in WAYS[: 2 if swarm is None else 3]:
            told = swarm if way == "own+swarm" else None
            picks = [
                pick
                for seed in (seeds if way != "physics" else seeds[:1])
                for pick in one(own, told, goal, way, seed, heads)
            ]
            lines.append(line(way, picks))
            if listed:
                lines += [f"      {p.kind:14} {p.name:52} {p.cost:.3f} best {p.best:.3f}" for p in picks]
    return lines


def of_machines(table: Table, contexts: int) -> Table:
    """Return some contexts of a table, with the name of its machine as the author of each row."""
    numbers = np.unique(table.contexts)
    some = np.random.default_rng(0).choice(numbers, size=min(contexts, len(numbers)), replace=False)
    taken = table.take(np.isin(table.contexts, some))
    return taken.with_columns({AUTHOR: taken.words("hardware.name")})


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=Path, nargs="+", required=True)
    parser.add_argument("--swarm", type=Path)
    parser.add_argument("--contexts", type=int, default=150)
    parser.add_argument("--goals", nargs="+", default=GOALS)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--picks", action="store_true")
    parser.add_argument("--whole", action="store_true", help="all heads of a node rather than the quickest: slow")
    options = parser.parse_args(arguments)
    own = learning.read(options.records[0])
    for more in options.records[1:]:
        own = stack(own, learning.read(more))
    swarm = None if options.swarm is None else of_machines(learning.read(options.swarm), options.contexts)
    seeds = [int(seed) for seed in options.seeds.split(",")]
    heads = available_heads()[0] if options.whole else brain.trees
    for shown in run(own.merge_repeats(), swarm, options.goals, seeds, heads=heads, listed=options.picks):
        print(shown, flush=True)


if __name__ == "__main__":
    main()
