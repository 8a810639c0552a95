"""Why one strategy rather than another: a gain taken apart into physics, what was learnt, and the features behind it.

Knows a brain's heads and their weights; knows no words for features and no screen. Within a context only the weights of
advantages part two rows (weights.py), so a gain is exactly the sum over heads of weight x that head's own gain; that of
a head of trees is that of the physics that it corrects plus its features' contributions (TreeSHAP, Lundberg et al.,
2020: what each adds to the row, summing to the prediction).
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from node.learner.brain import Brain, Learnt
from node.learner.features import prepare, see
from node.learner.objective import Objective
from node.learner.prior import FittedPhysics
from node.learner.propose import Proposal
from node.learner.stack import FittedStack
from node.learner.table import Floats, Table
from node.learner.trees import FittedTrees
from node.learner.weights import Weights

SHOWN: Final = 8  # features: what moves less is noise to a reader
NAMED: Final = ("model.name", "hardware.name", "hardware.family", "workload.kind")


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """One feature's part. Values as the features have them (features.py); `gain`: log-cost that it speaks for."""

    feature: str
    chosen: float
    other: float
    gain: float


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadPart:
    """One head: how much it counts for levels and for differences, and the gain that it foretells itself."""

    name: str
    level: float
    advantage: float
    gain: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Why.

    Attributes:
        chosen, other: rows of the proposal that are compared: the choice, and the default or else the next best.
        gain: log-cost that the choice saves against the other, as the heads have it; `half_width` of it, 90 %.
        physics, learnt: its parts, which sum to it. unexplained: of the learnt part what no feature in which both
            differ stands for: heads that are no trees, and how what both share works beside what they do not.
        moved: features in which both differ, by how much they moved it. heads: empty where physics alone speaks.
        distance: to what was seen, by part of the context, in units of what was seen; empty as above.
        unheard: names that were never seen, as column and word. known_hardware: whether this very device was seen.
        figures: what is known of the errors of this forecast.
    """

    chosen: int
    other: int
    gain: float
    half_width: float
    physics: float
    learnt: float
    unexplained: float
    moved: tuple[Moved, ...]
    heads: tuple[HeadPart, ...]
    distance: Mapping[str, float]
    unheard: tuple[tuple[str, str], ...]
    known_hardware: bool
    figures: Learnt | None


def explain(brain: Brain, proposal: Proposal, goal: Objective) -> Explanation | None:
    """Compare the choice with the default, or with the next best where it is that or there is none.

    None where there are not two rows that something is foretold of.
    """
    pair = _pair(proposal)
    if pair is None:
        return None
    chosen, other = pair
    rows = list(range(proposal.given)) + [row for row in pair if row >= proposal.given]
    table = prepare(proposal.table.take(np.array(rows)))  # the others that were found were not there when it was judged
    at = rows.index(chosen), rows.index(other)
    known = brain.learnt.get(goal.name)
    stack = None if known is None else known.stack
    half = float(max(proposal.forecast.half_width[chosen], proposal.forecast.half_width[other]))
    if known is None or stack is None:
        gain = float(proposal.forecast.cost[other] - proposal.forecast.cost[chosen])
        return Explanation(
            chosen=chosen, other=other, gain=gain, half_width=half, physics=gain, learnt=0.0, unexplained=0.0,
            moved=(), heads=(), distance={}, unheard=(), known_hardware=False, figures=known,
        )  # fmt: skip
    strange = bool(stack.is_strange(table)[0])
    heads = _heads(stack, stack.on_strange if strange else stack.on_known, table, at)
    gain = float(sum(head.advantage * head.gain for head in heads))
    values = _values(stack, table, at)
    physics, parts = _parts(stack, heads, table, at)
    parts = {name: gain for name, gain in parts.items() if not np.array_equal(*values[name], equal_nan=True)}
    learnt = gain - physics
    return Explanation(
        chosen=chosen, other=other, gain=gain, half_width=half, physics=physics, learnt=learnt,
        unexplained=learnt - sum(parts.values()), moved=_moved(parts, values), heads=heads,
        distance={part: float(far[0]) for part, far in stack.seen.distances(table).items()},
        unheard=tuple(
            (name, str(table.words(name)[0])) for name in NAMED if bool(stack.seen.unheard(table, name)[0])
        ),
        known_hardware=not strange, figures=known,
    )  # fmt: skip


def _pair(proposal: Proposal) -> tuple[int, int] | None:
    foretold = [row for row in proposal.order if np.isfinite(proposal.forecast.cost[row])]
    chosen = proposal.choice.index if proposal.choice.index is not None else next(iter(foretold), None)
    others = [row for row in foretold if row != chosen]
    if chosen is None or not others:
        return None
    if proposal.default is not None and proposal.default != chosen:
        return chosen, proposal.default
    considered = proposal.choice.considered
    return chosen, others[0] if considered is None else considered


def _heads(stack: FittedStack, counted: Weights, table: Table, at: tuple[int, int]) -> tuple[HeadPart, ...]:
    found = []
    for head, name, level, advantage in zip(stack.heads, stack.names, counted.level, counted.advantage, strict=True):
        mean = head.predict(table).mean
        gain = float(mean[at[1]] - mean[at[0]])
        found.append(HeadPart(name=name, level=float(level), advantage=float(advantage), gain=gain))
    return tuple(found)


def _parts(
    stack: FittedStack, heads: Sequence[HeadPart], table: Table, at: tuple[int, int]
) -> tuple[float, Mapping[str, float]]:
    """Return what of the gain is physics', and each feature's part of the rest."""
    physics, parts = 0.0, defaultdict[str, float](float)
    for fitted, head in zip(stack.heads, heads, strict=True):
        if head.advantage == 0:
            continue
        if isinstance(fitted, FittedPhysics | FittedTrees) and fitted.prior is not None:
            physics += head.advantage * _apart(fitted.prior.log_cost(table), at)
        if isinstance(fitted, FittedTrees):
            names, added = fitted.contributions(table)
            for name, gain in zip(names, added[at[1]] - added[at[0]], strict=True):
                parts[name] += head.advantage * float(gain)
    return physics, parts


def _apart(values: Floats, at: tuple[int, int]) -> float:
    return float(values[at[1]] - values[at[0]])


def _values(stack: FittedStack, table: Table, at: tuple[int, int]) -> Mapping[str, tuple[float, float]]:
    """Return each feature's values in both rows."""
    values: dict[str, tuple[float, float]] = {}
    for fitted in stack.heads:
        if isinstance(fitted, FittedTrees):
            seen = see(table, fitted.vocabulary)
            found = seen.matrix[list(at)].T.tolist()
            values |= {name: (here, there) for name, (here, there) in zip(seen.names, found, strict=True)}
            values |= {name: values.get(name, (np.nan, np.nan)) for name in fitted.names}
    return values


def _moved(parts: Mapping[str, float], values: Mapping[str, tuple[float, float]]) -> tuple[Moved, ...]:
    ranked = sorted(parts.items(), key=lambda pair: -abs(pair[1]))[:SHOWN]
    return tuple(
        Moved(feature=name, chosen=values[name][0], other=values[name][1], gain=gain)
        for name, gain in ranked
        if gain != 0
    )
