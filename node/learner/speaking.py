"""How much a row of own measurements says of the question that is asked, and of which candidate.

Knows columns of machines, workloads and outcomes; knows no forecast. A row speaks the less the farther its workload is
from the one asked for, the older it is, the more the machine was used by others, and where it is traffic and not a
trial. What another model, another machine, another engine or another version of it did says nothing here: it is in the
forecast already, if it is worth anything.
"""

from typing import Final

import numpy as np

from node.learner.objective import Objective
from node.learner.select import Mask
from node.learner.table import NOT_CHOSEN, STRATEGY, Floats, Ints, Table

LEAST_NOISE: Final = 0.015  # log-cost: nothing repeats better, whatever its repetitions say
# Standard deviation of one repetition where nothing is told of it, and what it counts for beside what is: in pieces of
# as many repetitions. Four runs of our own trials on a CPU differ as 4 % a repetition make them.
USUAL_NOISE: Final = 0.04
USUAL_COUNT: Final = 4.0
OF_A_MEDIAN: Final = 1.2533  # standard error of a median, of that of a mean
OF_A_MAD: Final = 1.4826  # a standard deviation, of a median absolute deviation
# A 95th percentile or a worst gap of a dozen requests against their mean: .067 against .042 between runs of ours.
TAIL_NOISE: Final = 1.6
TRAFFIC_NOISE: Final = 0.10  # log-cost: who asks what is never the same twice
FOREIGN_NOISE: Final = 0.3  # log-cost where others used the whole machine
AGE_HALVES_S: Final = 30 * 86_400.0  # drivers, engines and neighbours change
MICRO: Final = 1e-6
# Gains change with the workload: by so much (standard deviation, log-cost) for each unit of distance. The same
# strategies with answers twice as long (a distance of .7) part by .064 in the median on our trials, .1 by this.
DRIFT: Final = 0.15
REACH: Final = 1.0  # distance at which a row has lost most of its say
FARTHEST: Final = 2.0  # and beyond which it has none: another kind of workload
# A failure is not tried again for so long: what a driver's update mends is found by the forecast of its version.
FAILURE_LASTS_S: Final = 60 * 86_400.0
FAILURES: Final = frozenset({"start_failed", "out_of_memory", "crashed", "timed_out"})
FAILURE: Final = "outcome.failure"
# Column, how it is compared, and the weight of one unit (of log, or of share) in the distance.
_LENGTHS: Final = (
    ("workload.prompt_tokens", 1.0),
    ("workload.output_tokens", 1.0),
    ("workload.prompt_tokens_p95", 0.5),
    ("workload.output_tokens_p95", 0.5),
)
_SHARES: Final = (("workload.shared_prefix_share", 2.0), ("workload.copy_share", 2.0), ("workload.burstiness", 0.5))
_RATE: Final = "workload.requests_per_s"
_CONCURRENCY: Final = "workload.concurrency"
STRANGE: Final = 0.5  # distance by what only one of both tells
STRANGE_SHARE: Final = 0.25  # and by a share: what does not tell it has mostly none worth telling
# What must agree for a row to be of this machine, model and engine.
_SAME: Final = (
    "model.digest", "model.name", "model.weights", "hardware.name", "hardware.platform", "hardware.partition",
    "strategy.engine", "strategy.engine_version",
)  # fmt: skip
TIME: Final = "record.time_us"


def distance(asked: Table, told: Table) -> Floats:
    """Return how far workloads are from each other, row by row: about 0.7 for twice the length of prompts."""
    square = np.zeros(told.rows)
    for name, weight in _LENGTHS:
        square += (weight * _apart(_log(asked.numbers(name)), _log(told.numbers(name)))) ** 2
    for name, weight in _SHARES:
        square += (weight * _apart(asked.numbers(name), told.numbers(name), STRANGE_SHARE / weight)) ** 2
    rate = _apart(_log(asked.numbers(_RATE)), _log(told.numbers(_RATE)), np.nan)
    load = _apart(_log(asked.numbers(_CONCURRENCY)), _log(told.numbers(_CONCURRENCY)), np.nan)
    known = np.where(np.isnan(rate), load, rate)  # a load is told by one of both, and not by unlike ones
    neither = ~np.isfinite(asked.numbers(_RATE)) & ~np.isfinite(told.numbers(_RATE)) & np.isnan(load)
    return np.sqrt(square + np.where(np.isnan(known), np.where(neither, 0.0, STRANGE), known) ** 2)


def _log(values: Floats) -> Floats:
    return np.log(np.where(values > 0, values, np.nan))


def _apart(one: Floats, other: Floats, strange: float = STRANGE) -> Floats:
    """Return how far values are apart; `strange` where one of both is unknown, and nothing where both are."""
    both = np.isnan(one) & np.isnan(other) & (not np.isnan(strange))
    return np.where(both, 0.0, np.where(np.isnan(one) | np.isnan(other), strange, np.abs(one - other)))


# --- which rows speak of what


def same(candidates: Table, evidence: Table) -> Mask:
    """Tell which rows are of the candidates' machine, model and engine."""
    same = np.ones(evidence.rows, dtype=np.bool_)
    for name in _SAME:
        same &= evidence.words(name) == candidates.words(name)[0]
    return same


def which_of(candidates: Table, rows: Table) -> Ints:
    """Return for each row which candidate it is of; -1 where it is of none."""
    names = sorted({*candidates.columns, *rows.columns})
    chosen = [name for name in names if name.startswith(STRATEGY) and name not in NOT_CHOSEN]
    keys = {key: at for at, key in reversed(list(enumerate(_keys(candidates, chosen))))}
    return np.array([keys.get(key, -1) for key in _keys(rows, chosen)], dtype=np.int64)


def _keys(table: Table, names: list[str]) -> list[tuple[object, ...]]:
    words = [table.words(name) for name in names]
    return [tuple(column[at] for column in words) for at in range(table.rows)]


def broken(rows: Table) -> Mask:
    """Tell which rows are of a strategy that did not come up, or broke down."""
    return np.array([word in FAILURES for word in rows.words(FAILURE)], dtype=np.bool_)


def failed_of(rows: Table, which: Ints, age: Floats, count: int) -> Mask:
    """Return which candidates failed here and did not do well since, at least twice as often."""
    fell = broken(rows) & ~(age > FAILURE_LASTS_S) & (which >= 0)
    failed = np.zeros(count, dtype=np.bool_)
    for at in np.unique(which[fell]):
        mine = which == at
        last = np.nanmax(np.where(mine & fell, age, -np.inf))
        since = mine & ~broken(rows) & (age < last)
        failed[at] = since.sum() < 2 * (mine & fell).sum()
    return failed


def groups(rows: Table, trial: Mask) -> Ints:
    """Return for each row which were measured with it: a pair of trials; a context of them; all traffic."""
    pair, author = rows.words("record.pair"), rows.words("record.author")
    keys = [
        ("traffic",) if not tried else ("pair", name) if name is not None else ("context", who, int(context))
        for tried, name, who, context in zip(trial, pair, author, rows.contexts, strict=True)
    ]
    numbers = {key: at for at, key in enumerate(dict.fromkeys(keys))}
    return np.array([numbers[key] for key in keys], dtype=np.int64)


def noise(rows: Table, goal: Objective) -> Floats:
    """Return the standard deviation of each row's log-cost, by what its repetitions say and what is usual."""
    count = np.nan_to_num(rows.numbers("outcome.repetitions"), nan=1.0)
    count = np.maximum(count, 1.0)
    each = np.sum([weight * _repetition(rows, word, count) for word, weight in goal.weights.items()], axis=0)
    foreign = FOREIGN_NOISE * np.nan_to_num(rows.numbers("outcome.foreign_load_share"), nan=0.0)
    return np.sqrt((OF_A_MEDIAN * each) ** 2 / count + LEAST_NOISE**2 + foreign**2)


def _repetition(rows: Table, word: str, count: Floats) -> Floats:
    """Return the standard deviation of one repetition; few of them say little of it."""
    factor = TAIL_NOISE if word == "tail" else 1.0
    column, spread = {
        "throughput": ("outcome.output_tokens_per_s", "outcome.output_tokens_per_s_mad"),
        "cost": ("outcome.output_tokens_per_s", "outcome.output_tokens_per_s_mad"),
    }.get(word, ("outcome.latency_mean_s", "outcome.latency_mad_s"))
    with np.errstate(divide="ignore", invalid="ignore"):
        said = (OF_A_MAD * rows.numbers(spread) / rows.numbers(column)) ** 2
    counted = np.where(np.isfinite(said), count, 0.0)
    said = np.where(np.isfinite(said), said, 0.0)
    return factor * np.sqrt((USUAL_COUNT * USUAL_NOISE**2 + counted * said) / (USUAL_COUNT + counted))
