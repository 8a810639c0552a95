"""How likely a strategy is to fail: not to come up, to run out of memory, to crash; by physics, then by records.

Knows tables, physics' account of memory and boosted trees; knows no engine and no choice. Three sources, each a
correction of the one before:

    memory   share = (weights + cache of one request + activations) / memory that engines use; the probability is
             logistic in log(share), a half where the share is one: engines check at their start whether it fits
    trees    on enough failures: boosted trees for the log-odds, with the first as their offset (what memory explains
             is not learnt again) and never falling with the share, so that they hold beyond what was seen
    counts   Beta posteriors: of the very (model, hardware, strategy), and of each thing that a strategy sets on that
             family of hardware under that version of the engine. A failure that was foreseen is not held against the
             latter; and a setting is only ever blamed by these, as its successes elsewhere say nothing of memory

A failure costs its author nothing to invent. So evidence is counted in units of the weightiest voice: where a node has
failures and successes of its own, those of strangers weigh a fiftieth of one.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from node.learner import physics, queueing
from node.learner.features import Vocabulary, prepare, see
from node.learner.groups import labels
from node.learner.physics import known
from node.learner.table import NOT_CHOSEN, STRATEGY, Floats, Table
from node.learner.trees import SEED_END, align, grow_odds

FAILURE: Final = "outcome.failure"
TRAFFIC: Final = "traffic"
# Of a strategy of which nothing is known but that it fits: one start in a hundred fails for reasons of its own.
FLOOR: Final = 0.01
# How exactly the share is known: weights to the byte, but drivers, graphs and an engine's own buffers take 5 to 10 % of
# a device. The logistic's scale: at 85 % of the memory 6 % fail, at 115 % nine in ten.
SHARE_SCALE: Final = 0.06
ACTIVATION_WIDTHS: Final = 16.0  # of the hidden size, that a token of a step takes at the peak: MLP, logits, copies
LEAST_FAILURES: Final = 20.0  # in the weightiest voice's units; trees on fewer learn single rows by heart
STRENGTH: Final = 4.0  # of a prior, in observations: one failure of one's own makes 1 % into 20 %
WORTH_COUNTING: Final = 2 * FLOOR  # a foretold probability below it needs no successes to lower it
ALIKE: Final = 0.99  # of the most suspicious setting's probability: as suspicious
_EDGE: Final = 1e-4
_WHOLE: Final = "whole"

Key: TypeAlias = tuple[str, ...]
_UNSET: Final[Key] = ()  # what a strategy leaves to the engine is not to blame
Counts: TypeAlias = Mapping[Key, tuple[float, float]]  # failures and observations, in the weightiest voice's units


@dataclass(frozen=True, slots=True, kw_only=True)
class Odds:
    """Trees for log-odds (from a matrix to what they add for each row), and what they were grown on."""

    vocabulary: Vocabulary
    names: tuple[str, ...]
    trees: Callable[[Floats], Floats]

    def correction(self, table: Table) -> Floats:
        """Return what they add to the log-odds of each row, shape (rows,)."""
        names, matrix = _seen(table, self.vocabulary)
        return self.trees(align(names, matrix, self.names))


@dataclass(frozen=True, slots=True, kw_only=True)
class Failures:
    """What is known of failures; made without arguments, by physics alone.

    Attributes:
        cells: of (model, hardware, strategy). settings: of (setting, hardware family, engine version).
        failed, observed: rows that were learnt from.
    """

    odds: Odds | None = None
    cells: Counts = field(default_factory=dict)
    settings: Counts = field(default_factory=dict)
    failed: int = 0
    observed: int = 0

    def probability(self, table: Table) -> Floats:
        """Return the probability that each row fails, shape (rows,), between 0 and 1."""
        found = _with_trees(table, self.odds)
        if self.cells:
            found = _posterior(found, [self.cells.get(key, (0.0, 0.0)) for key in _cells(table)])
        if self.settings:
            for keys in _settings(table):
                found = np.maximum(found, _feared(self.settings, keys))
        return found


def learn(table: Table, weight: Floats, rng: np.random.Generator) -> Failures:
    """Learn from records of failures and of successes; from none, physics.

    Args:
        table: rows of any contexts, repeats apart; those that say nothing of success are left out here.
        weight: how much each row counts, shape (rows,), any unit.
    """
    label = outcomes(table)
    there = np.isfinite(label) & (weight > 0)
    if not there.any():
        return Failures()
    rows, label, counted = table.take(there), label[there], weight[there] / weight[there].max()
    failed = int((label >= 0.5).sum())
    odds = None
    if float(counted @ label) >= LEAST_FAILURES and float(counted @ (1 - label)) >= LEAST_FAILURES:
        odds = _odds(rows, label, counted, rng)
    foretold = _with_trees(rows, odds)
    surprise = counted * label * (1 - foretold)
    return Failures(
        odds=odds,
        cells=_count(_cells(rows), counted * label, counted, (foretold > WORTH_COUNTING) | (label > 0)),
        settings=_blame(rows, surprise, counted) if surprise.any() else {},
        failed=failed,
        observed=rows.rows,
    )


def outcomes(table: Table) -> Floats:
    """Return the share of each row that failed: 1 where the engine did, NaN where nothing is said, shape (rows,).

    In traffic, an answer that was not taken to its end is the client's doing as often as the engine's.
    """
    numbers = table.numbers
    requests, failures = numbers("outcome.requests"), numbers("outcome.failures")
    traffic = table.words("record.origin") == TRAFFIC
    measured = [np.isfinite(numbers(name)) for name in ("outcome.latency_mean_s", "outcome.output_tokens_per_s")]
    ran = np.logical_or.reduce([*measured, requests > 0])
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where((requests > 0) & ~traffic, np.clip(known(failures, 0.0) / requests, 0.0, 1.0), 0.0)
    stated = np.array([word is not None for word in table.words(FAILURE)], dtype=np.bool_)
    return np.where(stated, 1.0, np.where(ran, share, np.nan))


def memory_share(table: Table) -> Floats:
    """Return the share of the engine's memory that a row needs at least, shape (rows,); NaN where that is unknown.

    Of the cache one request is counted: engines start with room for one, and only serve the fewer the less there is.
    """
    hands = physics.machine(table)
    asked = queueing.plan(table, hands.copies)
    parameters = table.numbers("model.parameters")
    weights = known(np.minimum(hands.weight_bytes, parameters * physics.weight_size(table)), hands.weight_bytes)
    holders = np.maximum(hands.holders, known(table.numbers("strategy.expert_parallel"), 1.0))
    activations = asked.budget * hands.hidden * ACTIVATION_WIDTHS * physics.BYTES_OF_ACTIVATIONS  # of each device
    room = hands.memory_bytes * physics.MEMORY_SHARE
    share = ((weights + (asked.prompt + asked.output) * hands.kv_bytes) / holders + activations) / room
    told = np.isfinite(known(table.numbers("model.weight_bytes"), parameters))
    return np.where(told & np.isfinite(table.numbers("hardware.memory_bytes")), share, np.nan)


def by_memory(share: Floats) -> Floats:
    """Return the probability of a failure by the share of memory alone; the unknown is held against nobody."""
    logit = np.log(np.maximum(known(share, _EDGE), _EDGE)) / SHARE_SCALE
    return FLOOR + (1 - FLOOR) * _logistic(logit)


def _with_trees(table: Table, odds: Odds | None) -> Floats:
    found = by_memory(memory_share(table))
    return found if odds is None else _logistic(_logit(found) + odds.correction(table))


def _odds(table: Table, label: Floats, weight: Floats, rng: np.random.Generator) -> Odds | None:
    vocabulary = Vocabulary(table)
    names, matrix = _seen(table, vocabulary)
    rising = [1] + [0] * (len(names) - 1)
    offset = _logit(by_memory(memory_share(table)))
    try:
        trees = grow_odds(matrix, label, weight, offset, rising=rising, seed=int(rng.integers(SEED_END)))
    except ImportError:  # without LightGBM the counts must do
        return None
    return Odds(vocabulary=vocabulary, names=names, trees=trees)


def _seen(table: Table, vocabulary: Vocabulary) -> tuple[tuple[str, ...], Floats]:
    """Return names and columns that the trees see: the share of memory first, then every feature."""
    ready = prepare(table)
    seen = see(ready, vocabulary)
    share = np.log(np.maximum(memory_share(ready), _EDGE))  # NaN stays
    return ("share of memory", *seen.names), np.column_stack([share, seen.matrix])


def _posterior(prior: Floats, counts: list[tuple[float, float]]) -> Floats:
    failures, observations = np.array(counts, dtype=np.float64).reshape(-1, 2).T
    return (STRENGTH * prior + failures) / (STRENGTH + observations)


def _count(keys: list[Key], failures: Floats, weight: Floats, worth: NDArray[np.bool_]) -> Counts:
    """Add up what is said of each key that is worth it for one of its rows."""
    wanted = {key for key, counts in zip(keys, worth, strict=True) if counts and key != _UNSET}
    found: defaultdict[Key, tuple[float, float]] = defaultdict(lambda: (0.0, 0.0))
    for key, failed, voice in zip(keys, failures.tolist(), weight.tolist(), strict=True):
        if key in wanted:
            before = found[key]
            found[key] = (before[0] + failed, before[1] + voice)
    return dict(found)


def _blame(table: Table, surprise: Floats, weight: Floats) -> Counts:
    """Count what is held against each setting; those against which nothing is, are left out.

    A failure is held against the most suspicious of its row's settings alone, against all of them where they are
    equally so: what failed strategies share with those that ran is innocent.
    """
    keys = _settings(table)
    first = [_count(column, surprise, weight, surprise > 0) for column in keys]
    suspicion = np.stack([_feared(found, column) for found, column in zip(first, keys, strict=True)])
    guilty = suspicion >= suspicion.max(axis=0) * ALIKE
    found: dict[Key, tuple[float, float]] = {}
    for column, held in zip(keys, guilty, strict=True):
        found |= _count(column, surprise * held, weight, (surprise > 0) & held)
    return found


def _feared(counts: Counts, keys: list[Key]) -> Floats:
    return _posterior(np.full(len(keys), FLOOR), [counts.get(key, (0.0, 0.0)) for key in keys])


def _cells(table: Table) -> list[Key]:
    what = ("model.name", "hardware.name", "hardware.count", "strategy.engine_version")
    names = [table.words(name) for name in what]
    places = zip(*([str(word or "") for word in column] for column in names), _exact(table), strict=True)
    return [tuple(place) for place in places]


def _exact(table: Table) -> list[str]:
    """Return each row's strategy in words: equal where all that is chosen is."""
    return _joined(table, lambda value: f"{value:g}")


def _settings(table: Table) -> list[list[Key]]:
    """Return the keys of each thing that strategies set: (setting, family of hardware, version of the engine)."""
    family = labels(table, "hardware.family")
    version = table.words("strategy.engine_version")
    where = [(str(one), str(other or "")) for one, other in zip(family, version, strict=True)]
    found: list[list[Key]] = []
    for name in _chosen(table):
        words = _words(table, name, _rounded)
        found.append([(f"{name}={word}", *place) if word else _UNSET for word, place in zip(words, where, strict=True)])
    whole = _joined(table, _rounded)
    return [
        *found,
        [(f"{_WHOLE}:{word}", *place) if word else _UNSET for word, place in zip(whole, where, strict=True)],
    ]


def _joined(table: Table, write: Callable[[float], str]) -> list[str]:
    parts = [[f"{name}={word}" if word else "" for word in _words(table, name, write)] for name in _chosen(table)]
    return [";".join(filter(None, row)) for row in zip(*parts, strict=True)] if parts else [""] * table.rows


def _words(table: Table, name: str, write: Callable[[float], str]) -> list[str]:
    column = table.columns[name]
    if column.dtype == object:
        return [str(word or "") for word in column]
    return ["" if value != value else write(value) for value in column.tolist()]


def _rounded(value: float) -> str:
    """Write a number to the nearest power of four: budgets of 2,000 and 2,048 tokens fail alike."""
    return f"{value:g}" if value < 2 else f"about {4 ** round(np.log(value) / np.log(4)):g}"  # truths as they are


def _chosen(table: Table) -> list[str]:
    return [name for name in sorted(table.columns) if name.startswith(STRATEGY) and name not in NOT_CHOSEN]


def _logistic(values: Floats) -> Floats:
    return 1 / (1 + np.exp(-np.clip(values, -700, 700)))


def _logit(probability: Floats) -> Floats:
    inside = np.clip(probability, _EDGE, 1 - _EDGE)
    return np.log(inside / (1 - inside))
