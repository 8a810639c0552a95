"""Numbers that transfer: each row as ratios without a unit, most out of physics, and as how it differs in context.

Knows the table and what physics foretells; sees no outcome. No raw figure of a GPU goes in: trees extrapolate those
badly to hardware that nobody measured, while "1.3 times past the ridge" means the same on all. What a feature is in its
context (`..., here`) is its distance from the mean of the context's rows: which strategy is better is said by these.
"""

from dataclasses import dataclass, fields
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from node.learner import physics, queueing
from node.learner.physics import Machine, known
from node.learner.queueing import Plan, Times
from node.learner.table import STRATEGY, Floats, Ints, Table

Matrix: TypeAlias = NDArray[np.float64]

PHYSICS: Final = "physics."
FEATURE: Final = "feature."
PREPARED: Final = "physics.latency"
MACHINE: Final = "hardware.name"
NO_FEATURE: Final = ("strategy.name", "strategy.is_default", "strategy.engine_version")
MOST_WORDS: Final = 64  # of a column: strangers invent them
WORDS_SEEN_AT_LEAST: Final = 20  # rows; a word seen seldom is learnt by heart, not learnt
NEAR_FLOOR: Final = 0.05  # weight of a row far from the best, of one that is the best
# Whose distance from the context's mean is a feature of its own.
CENTRED: Final = (
    "latency", "ttft", "tpot", "stall", "tokens_per_s", "batch", "wait", "decode_step", "mixed_step", "device_seconds",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A table as a learner sees it.

    Attributes:
        names: of the columns. matrix: shape (rows, names); NaN is unknown.
    """

    names: tuple[str, ...]
    matrix: Matrix


class Vocabulary:
    """The words of the strategies of the table that was learnt from: each becomes a column of 0 and 1.

    Args:
        machines: the names of its hardware as well: for a learner of what known machines do beside the laws of physics.
    """

    def __init__(self, table: Table, *, machines: bool = False) -> None:
        self._words: list[tuple[str, str]] = []
        strategies = [name for name in sorted(table.columns) if name.startswith(STRATEGY) and name not in NO_FEATURE]
        for name in [*strategies, *([MACHINE] if machines and table.has(MACHINE) else [])]:
            if table.columns[name].dtype == object:
                found, counts = np.unique([word or "" for word in table.words(name)], return_counts=True)
                often = sorted(
                    (-n, str(w)) for w, n in zip(found, counts, strict=True) if n >= WORDS_SEEN_AT_LEAST and w
                )
                self._words += [(name, word) for word in sorted(word for _, word in often[:MOST_WORDS])]

    def columns(self, table: Table) -> dict[str, Floats]:
        """Return a column for each word."""
        return {f"{name}={word}": (table.words(name) == word).astype(np.float64) for name, word in self._words}


def prepare(table: Table) -> Table:
    """Return the table with columns `physics.*` (see queueing.Times) and `feature.*`, computed once for all heads.

    What is taken from it later must be whole contexts: some features say how a row differs from its context's others.
    """
    if PREPARED in table.columns:
        return table
    hands = physics.machine(table)
    asked = queueing.plan(table, hands.copies)
    times = queueing.requests_times(hands, asked)
    columns = _of_load(asked, times) | _of_step(hands, asked, times) | _of_strategy(table) | _here(table, times)
    foretold = {f"{PHYSICS}{item.name}": getattr(times, item.name) for item in fields(times)}
    return table.with_columns(foretold | {f"{FEATURE}{name}": column for name, column in columns.items()})


def see(table: Table, vocabulary: Vocabulary | None = None) -> Seen:
    """Return a table's rows as features; those of a prepared table are there already."""
    ready = prepare(table)
    columns = {name: column for name, column in ready.columns.items() if name.startswith(FEATURE)}
    if vocabulary is not None:
        columns |= vocabulary.columns(ready)
    matrix = np.column_stack([np.asarray(column, dtype=np.float64) for column in columns.values()])
    return Seen(names=tuple(columns), matrix=matrix)


def centre(values: Floats, contexts: Ints, weight: Floats | None = None) -> Floats:
    """Return values less the (weighted) mean of their context. NaN counts for nothing and stays NaN."""
    return values - context_mean(values, contexts, weight)


def context_mean(values: Floats, contexts: Ints, weight: Floats | None = None) -> Floats:
    """Return for each row the (weighted) mean of its context; `contexts` as `Table.context_index` numbers them."""
    there = ~np.isnan(values)
    counted = np.where(there, 1.0 if weight is None else weight, 0.0)
    sums = np.bincount(contexts, weights=np.where(there, values, 0.0) * counted)
    return (sums / np.maximum(np.bincount(contexts, weights=counted), 1e-300))[contexts]


def context_median(values: Floats, contexts: Ints) -> Floats:
    """Return for each row the (lower) median of its context; no value may be NaN."""
    order = np.lexsort((values, contexts))
    counts = np.bincount(contexts)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    return values[order][starts + np.maximum(counts - 1, 0) // 2][contexts]


def nearness(target: Floats, where: Ints, sharpness: float) -> Floats:
    """Return a weight for each row: 1 for the best of its context, falling with the distance (log-seconds) from it."""
    if sharpness == 0:
        return np.ones_like(target)
    return NEAR_FLOOR + (1 - NEAR_FLOOR) * np.exp(-sharpness * above_best(target, where))


def above_best(values: Floats, contexts: Ints) -> Floats:
    """Return how far each row is above the least of its context, shape (rows,); no value may be NaN."""
    best = np.full(int(contexts.max(initial=-1)) + 1, np.inf)
    np.minimum.at(best, contexts, values)
    return values - best[contexts]


def _of_load(asked: Plan, times: Times) -> dict[str, Floats]:
    clients = known(asked.clients, times.batch)
    return {
        "prompt, log": np.log(asked.prompt),
        "output, log": np.log(asked.output),
        "output / prompt": np.log(asked.output / asked.prompt),
        "uncached / prompt": asked.uncached / asked.prompt,
        "open load": np.isnan(asked.clients).astype(np.float64),
        "clients, log": np.log(asked.clients),
        "waves": np.log(asked.requests / clients),
        "seats / clients": np.log(asked.seats / clients),
        "budget / prompt": np.log(asked.budget / asked.uncached),
        "budget / batch": np.log(asked.budget / (times.batch * (asked.proposed + 1))),
        "batch, log": np.log(times.batch),
        "kv filled": np.log(times.kv_share),
        "prefilling": times.prefilling,
        "wait / latency": times.wait / times.latency,
        "ttft / latency": times.ttft / times.latency,
        "tokens a step": asked.yielded,
        "prompts a decode": np.log(asked.uncached * asked.yielded / asked.output),
        "prefill / decode": np.log(times.prefill / (times.decode_step * asked.output)),
        "rate of prefill": np.log(times.prefill * times.requests_per_s),
    }


def _of_step(hands: Machine, asked: Plan, times: Times) -> dict[str, Floats]:
    tokens = times.batch * (asked.proposed + 1)
    reads = hands.read_bytes(tokens) / hands.bandwidth
    operations = 2 * hands.active * tokens / hands.devices / hands.flops
    step = times.decode_step
    links = 2 * hands.layers * hands.allreduce_s(tokens * hands.hidden * physics.BYTES_OF_ACTIVATIONS)
    cached = times.batch * (asked.prompt + asked.output / 2) * hands.kv_bytes / hands.devices
    return {
        "past the ridge": np.log(operations / reads),
        "past the ridge alone": np.log(operations / reads / tokens),
        "reads in a step": reads / step,
        "operations in a step": operations / step,
        "links in a step": links / step,
        "cache in a step": cached / hands.attention_bandwidth / step,
        "kernels in a step": hands.layers * physics.KERNEL_FLOOR_S / step,
        "host in a step": physics.HOST_STEP_S / step,
        "mixed / decode": np.log(np.maximum(times.mixed_step, 1e-6) / step),
        "attention / reads": np.log(hands.attention_bandwidth / hands.bandwidth),
        "experts touched": np.where(hands.experts > 0, hands.chosen / np.maximum(hands.experts, 1.0), 1.0),
        "devices together": np.log2(hands.devices),
        "copies": np.log2(hands.copies),
        "weights / memory": hands.weight_bytes / hands.holders / hands.memory_bytes,
        "prompt past the ridge": np.log(2 * asked.uncached * hands.bandwidth / hands.flops),
    }


def _of_strategy(table: Table) -> dict[str, Floats]:
    """Every number that a strategy has, whatever it is called: new ones are learnt without a new version."""
    kept = [n for n in sorted(table.columns) if n.startswith(STRATEGY) and n not in NO_FEATURE]
    columns = {name: table.numbers(name) for name in kept if table.columns[name].dtype != object}
    static = (table.words("strategy.batching") == "static").astype(np.float64)
    return columns | {"static batches": static, "bytes a weight": physics.weight_size(table)}


def _here(table: Table, times: Times) -> dict[str, Floats]:
    where = table.context_index
    columns = {f"{name}, here": centre(np.log(np.maximum(getattr(times, name), 1e-9)), where) for name in CENTRED}
    return columns | {"latency above the best": above_best(np.log(times.latency), where)}
