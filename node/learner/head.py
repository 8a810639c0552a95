"""What every predictor of the learner is: fitted on a table for one target, it foretells log-seconds of other rows.

Knows the shape of a head and no head. A head is deterministic given its `rng`, and sees outcomes in `fit` alone.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from node.learner.table import Floats, Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What is foretold of each row.

    Attributes:
        mean: natural logarithm of the target (seconds, joules, ...), shape (rows,).
        spread: one standard deviation of that, where the head has an idea of it, shape (rows,).
    """

    mean: Floats
    spread: NDArray[np.float64] | None = None


class Fitted(Protocol):
    """A head that has learnt."""

    def predict(self, table: Table) -> Prediction:
        """Foretell rows; looks at no `outcome.*` column."""
        ...


class Head(Protocol):
    """A way to learn.

    Attributes:
        name: in the field's standard terms, the same on every node: `trees`, `advantage`, `metainf` ...
    """

    @property
    def name(self) -> str:
        """What it is called."""
        ...

    def fit(self, table: Table, target: Floats, weight: Floats, rng: np.random.Generator) -> Fitted:
        """Learn from rows.

        Args:
            table: rows of any contexts; those with NaN in `target` are left out by the caller.
            target: natural logarithm of what is to be foretold, shape (rows,), finite.
            weight: how much each row counts, shape (rows,), positive.
            rng: where luck comes from.
        """
        ...
