"""The methods of an evaluation by name, and the configuration of ours: which heads may count.

Knows every head and baseline; knows no table. Heads that were seen to help nowhere are not here; docs/learner.md says
what leaving each of the others out costs, as far as that was measured, and where one does harm.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from node.learner.baselines import (
    RANKS_ONLY,
    Alors,
    Default,
    GradientBoosting,
    Isac,
    Nearest,
    Random,
    RandomForest,
    SingleBest,
)
from node.learner.evaluate import Maker
from node.learner.floor import believable
from node.learner.head import Head
from node.learner.mlp import MlpHead
from node.learner.prior import PhysicsHead, Prior
from node.learner.stack import StackHead
from node.learner.trees import TreesHead, advantage_head, coarse_head, machine_heads, residual_head

OURS: Final = "ours"
PHYSICS: Final = "physics"
REPLICA: Final = "metainf_replica"
ORACLE: Final = "oracle"
NAMES: Final = (
    OURS, REPLICA, "gradient_boosting", "random_forest", "isac", "alors", "nearest", PHYSICS, "single_best",
    "default", "random", ORACLE,
)  # fmt: skip
_CLASSICS: Final[dict[str, Callable[[], Head]]] = {
    "gradient_boosting": GradientBoosting,
    "random_forest": RandomForest,
    "isac": Isac,
    "alors": Alors,
    "nearest": Nearest,
    "single_best": SingleBest,
    "default": Default,
    "random": Random,
}


def our_heads(prior: Prior, *, networks: bool = True) -> list[Head]:
    """Return the heads that may count in our stack.

    Args:
        networks: those that need torch too.
    """
    return [
        PhysicsHead(prior=prior),
        advantage_head(prior),
        residual_head(prior),
        coarse_head(prior),
        GradientBoosting(),
        Nearest(),
        *machine_heads(prior),
        *([MlpHead(prior=prior)] if networks else []),
    ]


def stack_of(heads: Sequence[Head]) -> StackHead:
    """Return our stack of some of them."""
    settled = frozenset(head.name for head in heads if isinstance(head, TreesHead) and head.machines)
    return StackHead(heads=heads, rankers=RANKS_ONLY, settled=settled, proven=frozenset({PHYSICS}), name=OURS)


def ours(prior: Prior, *left_out: str) -> StackHead:
    """Return the stack of them, without some: so it is seen what each is worth."""
    return replace(stack_of([head for head in our_heads(prior) if head.name not in left_out]), gate=believable)


def maker(name: str, replica: Callable[[], Head] | None = None) -> Maker | None:
    """Return what makes a method's head; None for the oracle, and for the replica where it cannot be had.

    Args:
        replica: makes the MetaInf head: it needs an embedder, which is not the learner's to open.

    Raises:
        KeyError: there is no such method.
    """
    if name == OURS:
        return ours
    if name == PHYSICS:
        return lambda prior: PhysicsHead(prior=prior)
    if name == REPLICA:
        return None if replica is None else lambda _: replica()
    if name == ORACLE:
        return None
    plain = _CLASSICS[name]
    return lambda _: plain()
