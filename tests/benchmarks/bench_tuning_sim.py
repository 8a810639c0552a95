"""What tuning is worth over a week, in virtual time: the real tuner on observation tables, against simpler ways.

    python -m tests.benchmarks.bench_tuning_sim --table strategies_simulated.parquet --kept FOLDER
        [--nodes 200] [--days 7] [--seed 0] [--without metainf_once,tuner] [--workers 2]

Nodes of all hardware of the table; each has the workloads that the table has for its (hardware, model), asked for in
turn: one by night, others by day, changing every few hours. What a strategy costs is what the table says, with the
noise of machines and measurements. A third of the (hardware, model) pairs belongs to nobody: their rows are the history
that the swarm begins with. Ways to choose:

    default        what the engine does by itself
    random_once    any strategy, for good
    metainf_once   the MetaInf replica, taught with the first history: its choice for the first workload, for good
    ours_once      our trees, likewise
    tuner          the real tuner of each node, with a learner taught every day on what all nodes have shared until then
    oracle         the best at every moment, at no cost

Prints a line for each as it is done, and all of it as one line of JSON at the end. What is done is kept, so that an
interrupted run goes on; the tuners' week is kept day by day.
"""

import argparse
import json
import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import structlog

from node.cli import learning
from node.learner.brain import Brain
from node.learner.methods import REPLICA, maker, our_heads
from node.learner.objective import parse
from node.learner.prior import Prior
from node.learner.table import Table
from tests.benchmarks.tuning_account import Ran, account, mean
from tests.benchmarks.tuning_nodes import tuner as tuned
from tests.benchmarks.tuning_world import Row, World, world

GOAL: Final = "latency"
WAYS: Final = ("default", "random_once", "metainf_once", "ours_once", "tuner", "oracle")

Way = Callable[[World, int, Path | None], list[list[Ran]]]


def taught(rows: Sequence[Row], seed: int) -> Brain:
    """Return what our learner knows from these rows, by trees alone: networks cost minutes more and change little."""
    brain = Brain(make_heads=lambda prior, _: our_heads(prior, networks=False))
    table = Table.of_rows(rows, merged=False)
    authors = {str(row["record.author"]) for row in rows}
    ranks: Any = dict.fromkeys(authors, "known")
    return brain.taught(table, ranks, [parse(GOAL)], np.random.default_rng(seed), curves_too=False)


def question(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return what a learner may know of candidates: the rows of a context without what came of them."""
    return [{name: value for name, value in row.items() if not name.startswith("outcome.")} for row in rows]


def always(strategy: int) -> list[Ran]:
    return [Ran(begin=0.0, strategy=strategy)]


def default(made: World, _seed: int, _kept: Path | None) -> list[list[Ran]]:
    return [always(made.default) for _ in made.nodes]


def random_once(made: World, seed: int, _kept: Path | None) -> list[list[Ran]]:
    luck = np.random.default_rng(seed + 1)
    return [always(int(luck.integers(len(made.strategies)))) for _ in made.nodes]


def ours_once(made: World, seed: int, _kept: Path | None) -> list[list[Ran]]:
    brain = taught(made.before, seed)
    ran: list[list[Ran]] = []
    for node in made.nodes:
        table = Table.of_rows(question(node.at(0.0).rows), merged=False)
        choice = brain.advise(table, parse(GOAL), made.default).choice
        ran.append(always(made.default if choice.index is None else choice.index))
    return ran


def metainf_once(made: World, seed: int, _kept: Path | None) -> list[list[Ran]]:
    make = maker(REPLICA, learning.replica)
    table = Table.of_rows(made.before, merged=False)
    prior = Prior.of(parse(GOAL), table)
    target = np.log(table.numbers("outcome.latency_mean_s"))
    if make is None:
        raise SystemExit("no replica here: the extra `learner` is not installed")
    fitted = make(prior).fit(table, target, np.ones(table.rows), np.random.default_rng(seed))
    firsts = [question(node.at(0.0).rows) for node in made.nodes]
    return [always(int(np.argmin(fitted.predict(Table.of_rows(rows, merged=False)).mean))) for rows in firsts]


def tuner(made: World, seed: int, kept: Path | None, workers: int = 1) -> list[list[Ran]]:
    return tuned(made, seed, kept, taught, workers)


def oracle(made: World, _seed: int, _kept: Path | None) -> list[list[Ran]]:
    return [
        [Ran(begin=each.begin, strategy=int(np.argmin(node.workloads[each.workload].cost))) for each in node.stretches]
        for node in made.nodes
    ]


def run(made: World, ways: Mapping[str, Way], *, seed: int, kept: Path | None, say: Callable[[str], None]) -> Any:
    """Return the figures of each way."""
    say(f"{len(made.nodes)} nodes, {made.days:g} days, {len(made.before)} rows before")
    say(f"{'':14}{'regret':>9}{'p95':>9}{'switches/d':>12}{'down s/d':>10}{'trial s/d':>11}{'lost':>8}{'worse':>8}")
    found: dict[str, Any] = {}
    for name, way in ways.items():
        file = None if kept is None else kept / f"{name}.json"
        if file is not None and file.exists():
            figures = json.loads(file.read_text())
        else:
            begun = time.monotonic()
            weeks = way(made, seed, kept)
            accounts = [account(made, node, ran) for node, ran in zip(made.nodes, weeks, strict=True)]
            figures = mean(accounts, made) | {"took_s": round(time.monotonic() - begun, 1)}
            if file is not None:
                file.write_text(json.dumps(figures))
        found[name] = figures
        say(
            f"{name:14}{figures['regret']:9.3f}{figures['regret_p95']:9.3f}{figures['switches_per_day']:12.2f}"
            f"{figures['down_s_per_day']:10.1f}{figures['trial_s_per_day']:11.1f}{figures['lost_share']:8.4f}"
            f"{figures['worse_than_default_2pct']:8.3f}"
        )
    return found


def ways_but(without: Sequence[str], workers: int = 1) -> dict[str, Way]:
    """Return all ways but some."""
    many = partial(tuner, workers=workers)
    every: dict[str, Way] = dict(zip(WAYS, (default, random_once, metainf_once, ours_once, many, oracle), strict=True))
    return {name: way for name, way in every.items() if name not in without}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, required=True)
    parser.add_argument("--nodes", type=int, default=200)
    parser.add_argument("--days", type=float, default=7.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--without", default="")
    parser.add_argument("--workers", type=int, default=1, help="processes that nodes live in")
    parser.add_argument("--kept", type=Path)
    options = parser.parse_args(arguments)
    kept = None
    if options.kept is not None:
        kept = options.kept / f"{options.nodes}-{options.days:g}-{options.seed}"
        kept.mkdir(parents=True, exist_ok=True)
    made = world(options.table, nodes=options.nodes, days=options.days, seed=options.seed)

    def say(line: str) -> None:
        sys.stderr.write(line + "\n")

    found = run(made, ways_but(options.without.split(","), options.workers), seed=options.seed, kept=kept, say=say)
    print(json.dumps({"nodes": options.nodes, "days": options.days, "seed": options.seed, "ways": found}))


if __name__ == "__main__":
    # Each step of each tuner is a line of log.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    main()
