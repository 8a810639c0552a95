"""A peer whose word about its load is half a minute old does no lasting harm: what is known of it besides is enough."""

from dataclasses import replace

import numpy as np
import pytest

from tests.benchmarks.routing_run import Run
from tests.benchmarks.routing_world import STALE_S, World, world
from tests.benchmarks.test_bench_routing import CALM, cell, ran, trace

SECONDS = 90.0  # of virtual time: three of its adverts
HARM = 1.15  # times the mean latency of the same prompts in a swarm where all tell their load every two seconds
APART = 1.5  # times the others' mean latency that its own prompts may take


def swarm(seed: int, *, nodes: int = 8, load: float = 0.6) -> World:
    sorts = [cell("card"), cell("slow card", slower=3.0)]
    weather = replace(CALM, entries=4)
    return world(sorts, trace(), nodes=nodes, load=load, seconds=SECONDS, most=4000, seed=seed, weather=weather)


def stale(made: World, node: int) -> World:
    """Return the same swarm, with one whose adverts come every half a minute."""
    advert = made.advert.copy()
    advert[node] = STALE_S
    return replace(made, advert=advert)


def busiest(run: Run) -> int:
    """Return the node that most prompts went to: the one whose silence matters most."""
    return int(np.bincount(run.served_by, minlength=run.world.nodes).argmax())


@pytest.mark.slow
def test_prompts_go_as_well_as_if_its_word_were_fresh() -> None:
    ratios: list[float] = []
    apart: list[float] = []
    for seed in range(3):
        fresh = swarm(seed)
        before = ran(fresh, "ours", seed)
        silent = busiest(before)
        after = ran(stale(fresh, silent), "ours", seed)
        ratios.append(float(after.latency.mean() / before.latency.mean()))
        there = after.served_by == silent
        assert there.any()  # it is not shunned either: nothing else speaks against it
        apart.append(float(after.latency[there].mean() / before.latency[before.served_by == silent].mean()))
    print(f"mean latency, stale / fresh: {ratios}; of the prompts at the stale one: {apart}")
    assert np.median(ratios) <= HARM
    assert np.median(apart) <= APART
