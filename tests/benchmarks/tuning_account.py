"""What a week came to, for a node under whatever ran when: regret against the oracle, switches, time lost.

Knows a world and a list of what ran from when on; knows nobody who chose it. All figures are weighted by the time in
which there was a prompt at the engine: what runs while nobody asks costs nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np

from tests.benchmarks.tuning_world import DAY, Node, World

STEP: Final = 60.0  # s: finer than anything in a world changes


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """From when on a strategy ran (its number in the world); the engine was away for `down_s` before it came up.

    `judged`: until it was replaced or confirmed it ran on trial, so what it cost more than the one before is a price of
    tuning.
    """

    begin: float
    strategy: int
    down_s: float = 0.0
    judged_until: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """One node's week.

    Attributes:
        busy_s: seconds with a prompt at the engine. switches: how often it changed.
        regret: mean of cost / best cost - 1. default: the same of the default.
        down_s: seconds of that in which nobody was served, for a switch.
        trial_s: seconds of work that strategies on trial cost more than the one before them.
        worse: share of the busy time in which what ran was over 2 % worse than the default.
    """

    busy_s: float
    regret: float
    default: float
    switches: int
    down_s: float
    trial_s: float
    worse: float


def account(world: World, node: Node, ran: Sequence[Ran]) -> Account:
    """Return what it came to. `ran` by time; the first begins at 0."""
    times = np.arange(0.0, world.days * DAY, STEP)
    begins = np.array([each.begin for each in ran])
    at = np.searchsorted(begins, times, side="right") - 1
    running = np.array([each.strategy for each in ran])[at]
    stretch = np.searchsorted([each.begin for each in node.stretches], times, side="right") - 1
    asked = np.array([each.workload for each in node.stretches])[stretch]
    cost = np.array([each.cost for each in node.workloads])  # (workloads, strategies)
    busy = np.array([node.busy(float(now)) for now in times]) * STEP
    mine, best, default = cost[asked, running], cost.min(axis=1)[asked], cost[asked, world.default]
    trial = 0.0
    for old, new in pairwise(ran):
        within = (times >= new.begin) & (times < new.judged_until)
        apart = np.exp(cost[asked[within], new.strategy] - cost[asked[within], old.strategy]) - 1
        trial += float((np.maximum(apart, 0.0) * busy[within]).sum())
    return Account(
        busy_s=float(busy.sum()),
        regret=float(((np.exp(mine - best) - 1) * busy).sum() / busy.sum()),
        default=float(((np.exp(default - best) - 1) * busy).sum() / busy.sum()),
        switches=len(ran) - 1,
        down_s=sum(each.down_s * node.busy(each.begin) for each in ran),
        trial_s=trial,
        worse=float(busy[mine > default + 0.02].sum() / busy.sum()),
    )


def mean(accounts: Sequence[Account], world: World) -> dict[str, float]:
    """Return the figures of a policy over all nodes, each node counting alike."""
    week = np.array([
        (each.regret, each.switches / world.days, each.down_s / world.days, each.trial_s / world.days, each.worse,
         (each.down_s + each.trial_s) / each.busy_s)
        for each in accounts
    ])  # fmt: skip
    names = (
        "regret", "switches_per_day", "down_s_per_day", "trial_s_per_day", "worse_than_default_2pct", "lost_share",
    )  # fmt: skip
    found = dict(zip(names, map(float, week.mean(axis=0)), strict=True))
    return found | {"regret_p95": float(np.quantile(week[:, 0], 0.95))}
