"""Does what a node measured itself lead it to the right strategy? Own trials, one run left out after the other.

    metainf records export --mine records.jsonl        # after several runs of `metainf profile --trials`
    python -m tests.benchmarks.bench_own_evidence --records records.jsonl [MORE.jsonl ...] [--goals latency tail ...]

A run is what one start of a node measured. In each context of the run that is left out a brain that has learnt nothing
(physics alone) chooses, once without evidence and once with all other runs as evidence; printed is what the choices
cost by that run's own figures: regret against the best of them, the share that is worse than the default by 2 %, and
the same of always taking the default. The figures that judge are one run's and noisy themselves, so that the regret of
the best possible choice is not zero: `oracle of others` takes the best by the mean of the other runs of the very same
workload.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from node.core.observation import from_line
from node.learner import brain
from node.learner.brain import Brain
from node.learner.counsel import Situation, advise
from node.learner.objective import parse
from node.learner.select import HARM, Limits
from node.learner.table import Table

GOALS: Final = ("latency", "tail", "throughput", "cost", "energy", "latency:0.5,tail:0.5")
WAYS: Final = ("default", "physics", "evidence", "oracle of others")

Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pick:
    """One choice in one context of the run that was left out: log-cost above the best, and below the default's."""

    regret: float
    gain: float


def run(rows: Sequence[Row], words: str) -> dict[str, list[Pick]]:
    """Return the picks of each way, in all contexts of all runs; none where the rows lack the objective."""
    goal, found = parse(words), {way: list[Pick]() for way in WAYS}
    for left in dict.fromkeys(map(_run_of, rows)):
        own = [row for row in rows if _run_of(row) != left]
        contexts: dict[object, list[Row]] = {}
        for row in rows:
            if _run_of(row) == left:
                contexts.setdefault(row["context"], []).append(row)
        for held in contexts.values():
            judged = Table.of_rows(held, merged=False)
            cost, default = goal.of(judged), int(np.argmax(judged.is_default))
            if not np.isfinite(cost).all() or len(cost) < 2:
                continue
            for way in WAYS:
                at = default if way == "default" else _pick(way, held, own, words, default)
                found[way].append(Pick(regret=float(cost[at] - cost.min()), gain=float(cost[default] - cost[at])))
    return found


def _pick(way: str, held: Sequence[Row], own: Sequence[Row], words: str, default: int) -> int:
    goal = parse(words)
    if way.startswith("oracle"):
        alike = [row for row in own if _workload_of(row) == _workload_of(held[0])]
        names = [row["strategy.name"] for row in held]
        if not alike:
            return default
        cost = goal.of(Table.of_rows(alike, merged=False))
        told = [str(row["strategy.name"]) for row in alike]
        means = [np.mean([c for c, who in zip(cost, told, strict=True) if who == name] or [np.inf]) for name in names]
        return int(np.argmin(means))
    asked = Table.of_rows([{k: v for k, v in row.items() if not k.startswith("outcome.")} for row in held])
    situation = Situation(
        current=default,
        horizon_s=6 * 3600.0,
        evidence=Table.of_rows(own, merged=False) if way == "evidence" else None,
        now_s=max(row["record.time_us"] for row in held) / 1e6,
    )
    counsel = advise(Brain(make_heads=brain.trees), asked, goal, default, situation, Limits())
    return counsel.choice.index if counsel.worth and counsel.choice.index is not None else default


def _run_of(row: Row) -> tuple[object, object]:
    return row["record.author"], row["record.epoch_us"]


def _workload_of(row: Row) -> tuple[tuple[str, object], ...]:
    return tuple(sorted((name, value) for name, value in row.items() if name.startswith("workload.")))


def lines(rows: Sequence[Row], goals: Sequence[str]) -> list[str]:
    """Return the table."""
    said = [
        f"{len(rows)} rows in {len({row['context'] for row in rows})} contexts of {len(set(map(_run_of, rows)))} runs"
    ]
    said.append(f"{'':26}{'contexts':>9}{'regret':>9}{'harm 2 %':>10}{'gain':>8}")
    for words in goals:
        for way, picks in run(rows, words).items():
            if not picks:
                said.append(f"{words}: the records lack it")
                break
            regret, gain = (np.array([getattr(pick, name) for pick in picks]) for name in ("regret", "gain"))
            figures = f"{regret.mean():9.3f}{np.mean(gain < -HARM):10.2f}{gain.mean():8.3f}"
            said.append(f"{words[:8]:9}{way:17}{len(picks):9d}{figures}")
    return said


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", nargs="+", type=Path, required=True)
    parser.add_argument("--goals", nargs="+", default=list(GOALS))
    asked = parser.parse_args()
    rows = [dict(from_line(line)) for file in asked.records for line in file.read_bytes().splitlines()]
    print("\n".join(lines(rows, asked.goals)))


if __name__ == "__main__":
    main()
