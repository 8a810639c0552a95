"""A swarm made of an observation table: its rows are given authors, some of whom collude.

Knows tables and what liars may say; knows no learner. Everybody owns one type of machine and a few models, as people
do, measures contexts of their own, and is off by a little: a host has its own level, each row its own noise.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from node.learner.floor import log_floor
from node.learner.hearing import AUTHOR
from node.learner.objective import LATENCY
from node.learner.table import Floats, Ints, Table, stack
from node.learner.weights import Choices

AUTHORS: Final = 40
EACH: Final = 10  # contexts that an author has measured
MODELS: Final = 3  # that an author runs
ME: Final = "me"
MINE: Final = 6  # contexts of one's own, all strategies: about a hundred records
HOST_LEVEL: Final = 0.1  # log-seconds by which one host of a type differs from another
NOISE: Final = 0.02  # log-seconds of each row
FASTER: Final = 2.5  # what liars make of the strategy that they praise,
SLOWER: Final = 1.5  # and of all others
ABOVE_FLOOR: Final = 1.2  # they know the gate: nothing they say is below so many times the speed of light
FRESH: Final = 1000
FRESH_ROWS: Final = 3
APART: Final = 1 << 40  # numbers of contexts that fresh identities invent


@dataclass(frozen=True, slots=True, kw_only=True)
class Swarm:
    """What a node has heard, and where it is judged.

    Attributes:
        told: records with their authors; those of `me` are own.
        liars: names. places: rows to be judged on, as they were truly measured.
    """

    told: Table
    liars: frozenset[str]
    places: dict[str, Table]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What swarm is wanted.

    Attributes:
        left_out: the family of hardware that nobody has.
        liars: share of authors who collude. sly: they lie by half as much, and every other time.
        rare: one author alone has a type of machine: "honest", "lying", or nobody (empty).
        fresh: identities that came today, each with a few records of the lie.
    """

    left_out: str
    liars: float = 0.0
    sly: bool = False
    rare: str = ""
    fresh: int = 0


def swarm(table: Table, wish: Wish, rng: np.random.Generator) -> Swarm:
    """Return a swarm; the same `rng` gives the same people whatever the wish."""
    names = table.words("hardware.name").astype(str)
    unseen = table.words("hardware.family") == wish.left_out
    types = rng.permutation(np.unique(names[~unseen]))
    mine, rare = str(types[0]), str(types[1])
    judged = _some_contexts(table, rng, 0.3)
    free = {int(number) for number in np.unique(table.contexts[~unseen & ~judged])}
    author = np.full(table.rows, None, dtype=object)
    _give(table, author, ME, (names == mine), free, rng, MINE)
    for number in range(AUTHORS):
        owned = str(rng.choice(types))
        if wish.rare and owned == rare:
            owned = mine
        models = rng.permutation(np.unique(table.words("model.name").astype(str)))[:MODELS]
        where = (names == owned) & np.isin(table.words("model.name").astype(str), models)
        _give(table, author, f"author {number}", where, free, rng, EACH)
    liars = {f"author {number}" for number in range(round(wish.liars * AUTHORS))}
    if wish.rare:
        _give(table, author, "rare", names == rare, free, rng, 3 * EACH)
        liars |= {"rare"} if wish.rare == "lying" else set()
    there = np.array([name is not None for name in author])
    told = _measured_again(table.take(there).with_columns({AUTHOR: author[there]}), rng)
    if wish.fresh:
        told, fresh = _with_fresh(told, wish.fresh, rng)
        liars |= fresh
    lying = np.isin(told.words(AUTHOR).astype(str), sorted(liars))
    places = {"own machine": judged & (names == mine), "unseen family": unseen}
    if wish.rare:
        places["rare machine"] = judged & (names == rare)
    return Swarm(
        told=bent(told, lying & ((told.contexts % 2 == 0) | (not wish.sly)), pushed(table), 0.5 if wish.sly else 1.0),
        liars=frozenset(liars),
        places={name: table.take(where) for name, where in places.items()},
    )


def pushed(table: Table) -> str:
    """Return the strategy whose praise does most harm: the mean regret of whoever believes it, over all contexts."""
    cost = np.log(table.numbers(LATENCY))
    names = table.words("strategy.name").astype(str)
    where = table.context_index
    harm: dict[str, float] = {}
    for name in np.unique(names):
        said = cost + np.where(names == name, -np.log(FASTER), np.log(SLOWER))
        cut = Choices.of(where)
        harm[str(name)] = float(np.mean(np.expm1(cut.regret(said[cut.order], cost[cut.order]))))
    return max(harm, key=lambda name: harm[name])


def bent(told: Table, lying: NDArray[np.bool_], strategy: str, power: float = 1.0) -> Table:
    """Return the records with some of them made to praise one strategy, never beyond what physics allows."""
    latency = told.numbers(LATENCY)
    praised = told.words("strategy.name") == strategy
    possible = np.maximum(latency / FASTER**power, np.minimum(ABOVE_FLOOR * np.exp(log_floor(told)), latency))
    said = np.where(praised, possible, latency * SLOWER**power)
    return told.with_columns({LATENCY: np.where(lying, said, latency)})


def _some_contexts(table: Table, rng: np.random.Generator, share: float) -> NDArray[np.bool_]:
    numbers = np.unique(table.contexts)
    return np.isin(table.contexts, rng.choice(numbers, size=int(share * len(numbers)), replace=False))


def _give(
    table: Table, author: NDArray[np.object_], name: str, where: NDArray[np.bool_], free: set[int],
    rng: np.random.Generator, most: int,
) -> None:  # fmt: skip
    """Give an author some contexts that nobody has."""
    numbers = np.array([n for n in np.unique(table.contexts[where]).tolist() if n in free], dtype=np.int64)
    taken = rng.permutation(numbers)[:most]
    free.difference_update(taken.tolist())
    author[np.isin(table.contexts, taken)] = name


def _measured_again(told: Table, rng: np.random.Generator) -> Table:
    _, host = np.unique(told.words(AUTHOR).astype(str), return_inverse=True)
    off = HOST_LEVEL * rng.standard_normal(int(host.max()) + 1)[host] + NOISE * rng.standard_normal(told.rows)
    return told.with_columns({LATENCY: told.numbers(LATENCY) * np.exp(off)})


def _with_fresh(told: Table, count: int, rng: np.random.Generator) -> tuple[Table, set[str]]:
    """Add identities that nobody knows: each says something of a context of its own, like one that is known."""
    praised = pushed(told)
    groups = told.context_groups()
    picked: list[Ints] = []
    for number in rng.integers(len(groups), size=count):
        rows = groups[number]
        best = rows[told.words("strategy.name")[rows] == praised]
        picked.append(np.concatenate([best, rng.permutation(np.setdiff1d(rows, best))])[:FRESH_ROWS])
    sizes: Sequence[int] = [len(rows) for rows in picked]
    who = np.repeat(np.arange(count), sizes)
    said = told.take(np.concatenate(picked))
    near: Floats = np.exp(0.05 * rng.standard_normal(count))[who]
    names = np.array([f"fresh {number}" for number in who], dtype=object)
    columns = {AUTHOR: names, "workload.prompt_tokens": said.numbers("workload.prompt_tokens") * near}
    invented = Table(columns={**said.columns, **columns}, contexts=APART + who.astype(np.int64))
    return stack(told, invented), set(names.tolist())
