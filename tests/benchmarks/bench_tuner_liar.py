"""An hour beside a learner that loves a strategy that reality hates: what people lose by it, in virtual time.

`python -m tests.benchmarks.bench_tuner_liar [--seeds 40]` prints, for each rate of prompts and each way of switching,
how much longer answers took over the hour than under the default (mean of logs, waiting included), and how often the
liar was applied.
"""

import argparse
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from statistics import fmean

import structlog
import trio
from trio.testing import MockClock

from tests.fakes.tuner_world import LIAR, World

HOUR = 3600.0
RATES = (0.0, 1 / 600, 1 / 60, 1 / 10, 1.0)  # prompts a second
SLOWNESS = (1.2, 2.0, 5.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One kind of hour. `measured`: the learner says that own trials speak for the liar, too, so that it is applied."""

    rate: float
    slow: float
    start_first: bool
    rehearsing: bool = True
    measured: bool = False
    start_s: float = 30.0
    usual_s: float = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Hour:
    """What became of it. `lost`: sum of log-cost over `prompts`."""

    lost: float
    prompts: int
    applied: int
    back: bool
    published: bool


def hour(case: Case, seed: int) -> Hour:
    """Play one hour."""

    async def play() -> World:
        world = World(seed=seed, rehearsing=case.rehearsing)
        world.adviser.gains = {LIAR: 0.5}
        world.adviser.measured = {LIAR: 3} if case.measured else {}
        world.slow = {LIAR: case.slow}
        world.rate, world.start_s, world.usual_s = case.rate, case.start_s, case.usual_s
        world.adviser.cost_s = case.usual_s
        world.start_first = case.start_first
        await world.run(HOUR)
        return world

    end = trio.run(play, clock=MockClock(autojump_threshold=0))
    return Hour(
        lost=sum(end.costs),
        prompts=len(end.costs),
        applied=end.switches.count(LIAR),
        back=LIAR not in end.switches or end.tuner.facts()["strategy"] == "default",
        published=end.flushed == end.switches.count(LIAR),
    )


def table(seeds: int, *, measured: bool, slowness: tuple[float, ...] = SLOWNESS) -> Iterator[tuple[Case, list[Hour]]]:
    """Play all kinds of hours, each so many times; where few ask, more often."""
    for rate, slow, first in product(RATES, slowness, (True, False)):
        case = Case(rate=rate, slow=slow, start_first=first, measured=measured)
        times = seeds if rate < 0.5 else max(seeds // 8, 2)
        yield case, [hour(case, seed) for seed in range(times)]


def loss(hours: list[Hour]) -> float:
    """Return the mean log-cost of all prompts of these hours."""
    prompts = sum(each.prompts for each in hours)
    return sum(each.lost for each in hours) / prompts if prompts else 0.0


def main() -> None:
    """Print the table."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=40)
    seeds = parser.parse_args().seeds
    for measured in (False, True):
        print("the liar is", "said to have been measured here" if measured else "known from others only")
        print(f"{'prompts/h':>10} {'slower':>7} {'way':>12} {'lost':>8} {'applied':>8} {'most':>5} back")
        for case, hours in table(seeds, measured=measured):
            way = "start first" if case.start_first else "restart"
            applied = [each.applied for each in hours]
            print(
                f"{case.rate * HOUR:10.0f} {case.slow:7.1f} {way:>12} {100 * loss(hours):7.2f}% {fmean(applied):8.2f}"
                f" {max(applied):5d} {all(each.back for each in hours)}",
                flush=True,
            )


if __name__ == "__main__":
    main()
