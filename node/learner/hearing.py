"""Which records are learnt from, and how much each counts: the gates and weights between a history and the heads.

Knows tables, physics, quick trees and trust's rules, and puts them in order for one target; knows no stack and no
choice. In order: what is faster than light is nobody's measurement; authors are judged (trust.py), and who misleads is
left out whole, since a head's weight in a stack and its intervals are learnt from rows that all count alike; last, if
what is left foretells this node's own records worse than those alone do, the node listens to itself only.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from node.learner import local, trust
from node.learner.features import context_mean, prepare
from node.learner.floor import believable
from node.learner.groups import labels
from node.learner.prior import Prior
from node.learner.table import Floats, Ints, Table
from node.learner.trees import Growth, TreesHead
from node.learner.trust import Standing, Voices

AUTHOR: Final = "record.author"
QUICK: Final = Growth(rounds=60, rate=0.1, leaves=15, huber=0.3, near=0.0, bags=1)  # to find liars by: many fits
HALVES: Final = 2

Ranks: TypeAlias = Mapping[str, Standing]  # author to standing; who is not in it is unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """What is learnt from.

    Attributes:
        rows: numbers of rows in the table. weight: of those, positive.
        credibility: of each author, 0 to 1; empty where nobody signed.
    """

    rows: Ints
    weight: Floats
    credibility: Mapping[str, float]

    def without(self, left: NDArray[np.bool_]) -> "Heard":
        """Return the same less some rows of the table, of which `left` is a mask."""
        kept = ~left[self.rows]
        return Heard(rows=self.rows[kept], weight=self.weight[kept], credibility=self.credibility)


def possible(table: Table, ranks: Ranks) -> NDArray[np.bool_]:
    """Tell which rows can be true. A node's own are: where they seem not, its data sheet is wrong, not its clock."""
    own = np.array([ranks.get(str(name)) == "own" for name in table.words(AUTHOR)], dtype=np.bool_)
    return believable(table) | own


def hear(table: Table, target: Floats, prior: Prior, ranks: Ranks, rng: np.random.Generator) -> Heard:
    """Return what to learn from, and how much each row counts. Observations, which nobody signed, count alike.

    Args:
        target: what the rows say, log-cost, finite, shape (rows,). prior: what physics says of it.
    """
    everything = np.arange(table.rows)
    if not table.has(AUTHOR):
        return Heard(rows=everything, weight=np.ones(table.rows), credibility={})
    ready, voices = prepare(table), voices_of(table, ranks)
    foretell = quickly(ready, target, prior, rng)
    found = trust.weigh(voices, target, foretell, rng, prior.log_cost(ready))
    own = voices.standing == "own"
    weight = found.weight
    if own.sum() >= local.ENOUGH and not _swarm_serves(target, weight, own, ready.context_index, foretell, rng):
        weight = np.where(own, weight, 0.0)
    rows = np.flatnonzero(weight > 0)
    return Heard(rows=rows, weight=weight[rows], credibility=found.credibility)


def quickly(table: Table, target: Floats, prior: Prior, rng: np.random.Generator) -> trust.Foretell:
    """Return what learns from some rows and foretells others, in half a second for ten thousand."""
    quick = TreesHead(name="quick", prior=prior, centred=False, growth=QUICK)

    def foretell(learn: Ints, weight: Floats, ask: Ints) -> Floats:
        heard: NDArray[np.bool_] = weight > 0
        fitted = quick.fit(table.take(learn[heard]), target[learn[heard]], weight[heard], rng)
        return fitted.predict(table.take(ask)).mean

    return foretell


def voices_of(table: Table, ranks: Ranks) -> Voices:
    """Return who says each row."""
    author = np.array([str(name or "") for name in table.words(AUTHOR)], dtype=object)
    return Voices(
        author=author,
        gpu=labels(table, "hardware.name"),
        standing=np.array([ranks.get(name, "unknown") for name in author], dtype=object),
        context=table.context_index,
    )


def _swarm_serves(
    target: Floats, weight: Floats, own: NDArray[np.bool_], where: Ints, foretell: trust.Foretell,
    rng: np.random.Generator,
) -> bool:  # fmt: skip
    """Tell whether own records are foretold better with the swarm than without: half of their contexts by the other."""
    contexts = rng.permutation(np.unique(where[own]))
    if len(contexts) < HALVES:
        return True
    shared, alone = (np.full(len(target), np.nan) for _ in range(2))
    for half in np.array_split(contexts, HALVES):
        ask = np.flatnonzero(own & np.isin(where, half))
        for result, learn in ((shared, ~np.isin(where, half)), (alone, own & ~np.isin(where, half))):
            rows = np.flatnonzero(learn)
            result[ask] = foretell(rows, weight[rows], ask)
    mine = np.flatnonzero(own)
    first = np.unique(where[mine], return_index=True)[1]  # a context's rows err together: each context is one voice
    errors = (context_mean(np.abs(each - target)[mine], where[mine])[first] for each in (shared, alone))
    return trust.shared_is_better(*errors)
