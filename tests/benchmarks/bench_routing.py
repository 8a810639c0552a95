"""Routing policies against each other and against an oracle, on simulated swarms of truly measured machines.

    python -m tests.benchmarks.bench_routing --data FOLDER --kept FOLDER [--mixes volunteers,datacentre]
        [--nodes 8,50,500] [--loads 0.3,0.6,0.9] [--seeds 0,1,2] [--policies ours,...] [--workers 2]
        [--seconds 150] [--most 40000]

FOLDER of `--data` has the measured tables and the Azure traces. A mix is the sort of swarm: `volunteers` (five families
of GPUs under models of seven and eight billion parameters), `clouds` (Hopper and Blackwell of every size, large models)
or `datacentre` (equal machines of four H100 or H200, in one building); each seed takes the next of its models.
The world is described in routing_world, the engines in routing_run, the policies in
routing_policies; `ours` is the daemon's router on what its learner foretells of cells that it never saw.

Every policy's parameters are chosen first, for each mix, size (50 nodes at most) and load, by the mean latency on
other seeds; those who look for the cheapest answer, by what is spent. Prints what
was chosen, then a table for each case: medians over seeds of mean, p50, p95 and p99 latency in seconds, of the cost in
device-seconds, of what a thousand answers cost at their nodes' prices (an hour of an A100 costs 1), and of the ratios
of the mean and of that to the oracle's. Every run is kept, so that an interrupted bake-off goes on.
"""

import argparse
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from statistics import median
from typing import Any, Final

from tests.benchmarks import routing_cheap, routing_ours
from tests.benchmarks.routing_cells import MIXES, Cell, cells
from tests.benchmarks.routing_curves import curves
from tests.benchmarks.routing_figures import figures
from tests.benchmarks.routing_policies import GRIDS, Chosen, Make, maker
from tests.benchmarks.routing_run import Run
from tests.benchmarks.routing_world import WEATHERS, Trace, read_trace, world

ORACLE: Final = "oracle"
ALL: Final[Mapping[str, Sequence[Chosen]]] = {**GRIDS, **routing_ours.GRIDS, **routing_cheap.GRIDS}
DEFAULT: Final = [name for name in GRIDS if name != ORACLE] + ["ours", ORACLE]
TUNING_SEED: Final = 999  # and the next ones: the same models in turn, in worlds that nothing is judged by
TUNED_NODES: Final = 50  # larger swarms are tuned as this one: what is best there differs little, and time is short
TUNED_S, TUNED_MOST = 60.0, 8000  # virtual seconds and requests of a world that is tuned on
SHOWN: Final = ("mean", "p50", "p95", "p99", "cost", "spent")
BY_PRICE: Final = frozenset({"ours_cost", *routing_cheap.GRIDS})  # tuned by what is spent, everybody else by the mean


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One swarm size and load, and how long it is looked at."""

    mix: str
    nodes: int
    load: float
    seconds: float
    most: int

    def __str__(self) -> str:
        return f"{self.mix}, {self.nodes} nodes, {self.load:.0%} loaded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One run."""

    data: Path
    kept: Path
    case: Case
    seed: int
    policy: str
    chosen: Chosen
    needed: tuple[str, ...] = SHOWN  # figures; what was kept without them is run again

    def file(self) -> Path:
        """Return where its figures are kept."""
        said = json.dumps([str(self.case), self.case.seconds, self.case.most, self.seed, self.policy,
                           sorted(self.chosen.items())])  # fmt: skip
        return self.kept / f"{self.policy}-{sha256(said.encode()).hexdigest()[:16]}.json"


_worlds: dict[str, tuple[Trace, list[Cell]]] = {}  # of this process: read once


def run(job: Job) -> dict[str, float]:
    """Return the figures of a job, from its file where it has been done."""
    file = job.file()
    if file.exists():
        before: dict[str, float] = json.loads(file.read_text(encoding="utf-8"))
        if before.keys() >= set(job.needed):
            return before
    case = job.case
    model = f"{case.mix} {MIXES[case.mix].model(job.seed)}"
    if model not in _worlds:
        _worlds[model] = read_trace(job.data), cells(job.data, case.mix, job.seed)
    trace, sorts = _worlds[model]
    made = world(
        sorts,
        trace,
        nodes=case.nodes,
        load=case.load,
        seconds=case.seconds,
        most=case.most,
        seed=job.seed,
        weather=WEATHERS.get(case.mix),
    )
    make: Make
    if job.policy in routing_ours.GRIDS:
        learnt = routing_ours.foretold(job.policy)
        said = curves(job.data, case.mix, job.seed, sorts, job.kept) if learnt else ()
        make = routing_ours.maker(job.policy, job.chosen, job.seed, said)
    else:
        made_by = routing_cheap.maker if job.policy in routing_cheap.GRIDS else maker
        make = made_by(job.policy, job.chosen, job.seed)
    ran, began = Run(made, make), time.perf_counter()
    ran.run()
    found = {**figures(ran), "requests": float(len(made.requests)), "took": time.perf_counter() - began}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(found), encoding="utf-8")
    return found


def tuned(job: Job, seeds: int, several: ProcessPoolExecutor | None) -> Chosen:
    """Return the parameters that have the least mean latency on worlds that nothing is judged by."""
    grid = ALL[job.policy]
    if len(grid) == 1:
        return grid[0]
    here = job.case
    case = replace(
        here,
        nodes=min(here.nodes, TUNED_NODES),
        seconds=min(here.seconds, TUNED_S),
        most=min(here.most, TUNED_MOST),
    )
    by = "spent" if job.policy in BY_PRICE else "mean"
    one = replace(job, case=case, needed=(by,))
    jobs = [replace(one, seed=TUNING_SEED + seed, chosen=chosen) for chosen in grid for seed in range(seeds)]
    found = [each[by] for each in _all(jobs, several)]
    of_each = [sum(found[at * seeds : (at + 1) * seeds]) for at in range(len(grid))]
    return grid[of_each.index(min(of_each))]


def _all(jobs: Sequence[Job], several: ProcessPoolExecutor | None) -> list[dict[str, float]]:
    return list(several.map(run, jobs) if several is not None else map(run, jobs))


def bake(job: Job, policies: Sequence[str], seeds: Sequence[int], several: ProcessPoolExecutor | None) -> list[str]:
    """Return the lines of one case."""
    chosen = {
        name: tuned(replace(job, policy=name), len(seeds), several) for name in dict.fromkeys([*policies, ORACLE])
    }
    lines = [f"{job.case}; chosen: " + "; ".join(f"{name} {_words(it)}" for name, it in chosen.items() if it)]
    jobs = [replace(job, policy=name, chosen=chosen[name], seed=seed) for name in chosen for seed in seeds]
    found = _all(jobs, several)
    by_name = {name: found[at * len(seeds) : (at + 1) * len(seeds)] for at, name in enumerate(chosen)}
    lines.append(f"{'':20}" + "".join(f"{name:>9}" for name in (*SHOWN, "/oracle", "spent/", "retried")))
    for name, several_runs in by_name.items():
        values = [median(each[what] for each in several_runs) for what in SHOWN]
        for what in ("mean", "spent"):
            ratios = [mine[what] / its[what] for mine, its in zip(several_runs, by_name[ORACLE], strict=True)]
            values.append(median(ratios))
        values.append(median(each["retried"] for each in several_runs))
        lines.append(f"{name:20}" + "".join(f"{value:9.3f}" for value in values))
    return lines


def _words(chosen: Chosen) -> str:
    return ",".join(f"{name}={value}" for name, value in chosen.items())


def _split(words: str) -> Iterable[str]:
    return [word for word in words.split(",") if word]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--kept", type=Path, required=True)
    parser.add_argument("--mixes", default=",".join(MIXES))
    parser.add_argument("--nodes", default="8,50,500")
    parser.add_argument("--loads", default="0.3,0.6,0.9")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--policies", default=",".join(DEFAULT))
    parser.add_argument("--seconds", type=float, default=150.0)
    parser.add_argument("--most", type=int, default=40_000)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args(arguments)
    seeds, policies = [int(seed) for seed in _split(options.seeds)], list(_split(options.policies))
    if unknown := {*policies} - {*ALL}:
        parser.error(f"no policy is named {', '.join(sorted(unknown))}; there are {', '.join(ALL)}")
    some: dict[str, Any] = {"data": options.data, "kept": options.kept}
    for mix in _split(options.mixes):
        for seed in seeds if any(map(routing_ours.foretold, policies)) else ():
            curves(options.data, mix, seed, cells(options.data, mix, seed), options.kept)  # once, not in each worker
    with ProcessPoolExecutor(max_workers=options.workers) as pool:
        for mix in _split(options.mixes):
            for nodes in map(int, _split(options.nodes)):
                for load in map(float, _split(options.loads)):
                    case = Case(mix=mix, nodes=nodes, load=load, seconds=options.seconds, most=options.most)
                    job = Job(**some, case=case, seed=0, policy=ORACLE, chosen={})
                    for line in bake(job, policies, seeds, pool if options.workers > 1 else None):
                        print(line, flush=True)
                    print(flush=True)


if __name__ == "__main__":
    main()
