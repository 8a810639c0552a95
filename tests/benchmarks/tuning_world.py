"""A swarm on paper: nodes of all hardware of an observation table, a week of changing traffic, and what it truly costs.

Knows tables and luck; knows no tuner, no loop and no clock: times are virtual seconds from the beginning. What a node's
strategy costs is what the table's row of its (hardware, model, workload) says, bent a little by the node's own machine.
Groups of (hardware, model) that no node has are those who measured before: the history that the swarm begins with.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import exp, log, pi, sin
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np

from node.cli.learning import read_rows
from node.core.strategy import Speculation, Strategy

Row: TypeAlias = Mapping[str, Any]

HOUR: Final = 3600.0
DAY: Final = 86_400.0
COST: Final = "outcome.latency_mean_s"
MACHINE_SD: Final = 0.03  # log-cost: how one machine of a type differs from another, strategy by strategy
CONTEXT_SD: Final = 0.05  # likewise, in all strategies of a workload alike
TRIAL_SD: Final = 0.03  # of a trial of three repetitions
TRAFFIC_SD: Final = 0.08  # of an hour's traffic
FEWEST: Final = 3  # workloads that a node's (hardware, model) must have, where there are such
NIGHT: Final = (22.0, 7.0)  # o'clock: one quiet workload
CALM, BUSY = 0.1, 0.85  # shares of the time with a prompt at the engine, at four in the morning and in the afternoon
DWELL_H: Final = 5.0  # hours that a workload lasts by day, in the median


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One context of the table for one node.

    Attributes:
        load: prompts at the engine at once, under the default.
        rows: one for each strategy, in the world's order.
        cost: true log-cost of each, on this node.
    """

    number: int
    load: float
    rows: tuple[Row, ...]
    cost: tuple[float, ...]

    @property
    def best(self) -> float:
        """The log-cost of the best."""
        return min(self.cost)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """From when on which of a node's workloads it is asked; until the next one begins."""

    begin: float
    workload: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One node: what it is asked, when. `phase`: hours by which its day is shifted; the swarm is everywhere."""

    number: int
    hardware: str
    workloads: tuple[Workload, ...]
    stretches: tuple[Stretch, ...]
    phase: float

    def at(self, now: float) -> Workload:
        """Return what it is asked now."""
        found = self.stretches[0]
        for stretch in self.stretches:
            if stretch.begin > now:
                break
            found = stretch
        return self.workloads[found.workload]

    def busy(self, now: float) -> float:
        """Return the share of the time in which a prompt is at the engine, about now."""
        hour = (now / HOUR + self.phase) % 24
        return CALM + (BUSY - CALM) * (0.5 + 0.5 * sin((hour - 10.0) / 24 * 2 * pi))


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """All of it. `strategies` in the order of every workload's rows; `default` among them; `before` is the history."""

    strategies: tuple[Strategy, ...]
    default: int
    nodes: tuple[Node, ...]
    before: tuple[Row, ...] = field(repr=False)
    days: float

    def index(self, strategy: Strategy) -> int:
        """Return the number of a strategy."""
        return self.strategies.index(strategy)


def world(table: Path, *, nodes: int, days: float, seed: int) -> World:
    """Draw a world: equal seeds, equal worlds."""
    rng = np.random.default_rng(seed)
    contexts: defaultdict[object, list[Row]] = defaultdict(list)
    for row in read_rows(table):
        contexts[row["context"]].append(_with_share(row))
    names = sorted({str(row["strategy.name"]) for row in next(iter(contexts.values()))})
    groups: defaultdict[tuple[str, int, str], list[list[Row]]] = defaultdict(list)
    for rows in contexts.values():
        ordered = sorted(rows, key=lambda row: names.index(str(row["strategy.name"])))
        if len(ordered) == len(names):
            head = ordered[0]
            groups[str(head["hardware.name"]), int(head["hardware.count"]), str(head["model.name"])].append(ordered)
    theirs = _taken(groups, rng)
    drawn = [names[at // len(theirs) % len(names)] for at in range(nodes) for names in [theirs[at % len(theirs)]]]
    first = next(iter(groups.values()))[0]
    taken = {name for names in theirs for name in names}
    left = [rows for name, several in sorted(groups.items()) if name not in taken for rows in several]
    return World(
        strategies=tuple(strategy_of(row) for row in first),
        default=next(at for at, row in enumerate(first) if row["strategy.is_default"]),
        nodes=tuple(_node(number, name, groups[name], days, rng) for number, name in enumerate(drawn)),
        before=tuple(
            _signed(row, f"before {row['hardware.name']} {row['model.name']}") for rows in left for row in rows
        ),
        days=days,
    )


def strategy_of(row: Row) -> Strategy:
    """Return a table's strategy as the daemon has it; `static` is what no vLLM does, and is kept apart by a mark."""
    tokens = int(row["strategy.speculative_tokens"] or 0)
    return Strategy(
        prefix_caching=bool(row["strategy.prefix_caching"]),
        chunked_prefill=bool(row["strategy.chunked_prefill"]),
        max_num_seqs=int(row["strategy.max_num_seqs"]),
        max_num_batched_tokens=int(row["strategy.max_num_batched_tokens"]),
        speculation=Speculation(method="draft_model", tokens=tokens) if tokens else None,
        engine_extra=(("scheduling-policy", "static"),) if row["strategy.batching"] == "static" else (),
    )


def measured(row: Row, cost: float, *, author: str, sd: float, rng: np.random.Generator) -> Row:
    """Return what a node would publish of a strategy whose true log-cost is this: all its times off by the same."""
    off = cost - log(float(row[COST])) + rng.normal(0.0, sd)
    times = {name: float(row[name]) * exp(off) for name in row if name.startswith("outcome.") and name.endswith("_s")
             and not name.endswith("per_s") and row[name] is not None}  # fmt: skip
    return _signed(
        {**row, **times, "outcome.output_tokens_per_s": float(row["outcome.output_tokens_per_s"]) / exp(off)}, author
    )


def _with_share(row: Row) -> Row:
    """Say the shared prefix as records do too."""
    shared, prompt = row.get("workload.shared_prefix_tokens"), row.get("workload.prompt_tokens")
    return (
        row if shared is None or not prompt else {**row, "workload.shared_prefix_share": float(shared) / float(prompt)}
    )


def _signed(row: Row, author: str) -> Row:
    return {**row, "record.author": author}


def _taken(
    groups: Mapping[tuple[str, int, str], Sequence[object]], rng: np.random.Generator
) -> list[list[tuple[str, int, str]]]:
    """Return, for each hardware, the (hardware, devices, model) that nodes may have: two of three, in luck's order.

    The others are nobody's, so that there is a history to begin with.
    """
    by_hardware: defaultdict[str, list[tuple[str, int, str]]] = defaultdict(list)
    for name in sorted(groups):
        if len(groups[name]) >= FEWEST:
            by_hardware[name[0]].append(name)
    return [
        [names[at] for at in rng.permutation(len(names))[: max(2 * len(names) // 3, 1)]]
        for _, names in sorted(by_hardware.items())
    ]


def _node(
    number: int, name: tuple[str, int, str], contexts: Sequence[Sequence[Row]], days: float, rng: np.random.Generator
) -> Node:
    machine = rng.normal(0.0, MACHINE_SD, len(contexts[0]))
    workloads = tuple(
        Workload(
            number=int(rows[0]["context"]),
            load=_load(next(row for row in rows if row["strategy.is_default"])),
            rows=tuple(rows),
            cost=tuple(
                float(cost)
                for cost in np.log([float(row[COST]) for row in rows]) + machine + rng.normal(0.0, CONTEXT_SD)
            ),
        )
        for rows in contexts
    )
    phase = float(rng.uniform(0.0, 24.0))
    return Node(
        number=number,
        hardware=name[0],
        workloads=workloads,
        stretches=_stretches(len(workloads), days, phase, rng),
        phase=phase,
    )


def _load(row: Row) -> float:
    """Return how many prompts are at the engine at once: told, or by Little's law."""
    told = row.get("workload.concurrency")
    return float(told) if told else max(float(row["workload.requests_per_s"]) * float(row[COST]), 1.0)


def _stretches(workloads: int, days: float, phase: float, rng: np.random.Generator) -> tuple[Stretch, ...]:
    """Draw a week: one workload by night, the same each night; by day others, each for some hours."""
    quiet, now, found = int(rng.integers(workloads)), 0.0, list[Stretch]()
    while now < days * DAY:
        hour = (now / HOUR + phase) % 24
        night = hour >= NIGHT[0] or hour < NIGHT[1]
        to_edge = ((NIGHT[1] if night else NIGHT[0]) - hour) % 24 or 24.0
        lasts = to_edge if night else min(to_edge, DWELL_H * exp(rng.normal(0.0, 0.5)))
        others = [each for each in range(workloads) if each != quiet and (not found or each != found[-1].workload)]
        found.append(Stretch(begin=now, workload=quiet if night or not others else int(rng.choice(others))))
        now += max(lasts, 0.25) * HOUR
    return tuple(found)
