"""What physics says of an outcome or an objective, as a logarithm: what heads correct, and all there is at first.

Knows which figure of physics stands for which outcome; knows no head.
"""

from dataclasses import dataclass, field
from typing import Final

import numpy as np

from node.learner import objective as objectives
from node.learner.features import PHYSICS, prepare
from node.learner.head import Prediction
from node.learner.objective import Objective
from node.learner.table import OUTCOME, Floats, Table

# Outcome to the field of queueing.Times that foretells it.
FORETOLD: Final = {
    objectives.LATENCY: "latency",
    objectives.LATENCY_P95: "latency_p95",
    objectives.STALL: "stall",
    objectives.TTFT: "ttft",
    "outcome.ttft_p95_s": "ttft_p95",
    objectives.TPOT: "tpot",
    objectives.THROUGHPUT: "tokens_per_s",
    objectives.ENERGY: "energy",
    objectives.DEVICE_SECONDS: "device_seconds",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Prior:
    """The log-cost of an objective by physics.

    Attributes:
        objective: what is to be made small.
        outcomes: those that the table of the records has: an objective may be put together in several ways.
    """

    objective: Objective
    outcomes: frozenset[str]

    @staticmethod
    def of(objective: Objective, table: Table) -> "Prior":
        """Return the prior that goes with the outcomes of a table of records."""
        return Prior(objective=objective, outcomes=frozenset(n for n in table.columns if n.startswith(OUTCOME)))

    def log_cost(self, table: Table) -> Floats:
        """Return what physics foretells of each row, finite, shape (rows,)."""
        ready = prepare(table)

        def numbers(name: str) -> Floats:
            if not name.startswith(OUTCOME):
                return ready.numbers(name)
            if name not in self.outcomes or name not in FORETOLD:
                return np.full(ready.rows, np.nan)
            return ready.numbers(PHYSICS + FORETOLD[name])

        cost = self.objective.log_cost(numbers)
        return np.where(np.isnan(cost), np.log(ready.numbers(f"{PHYSICS}latency")), cost)


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedPhysics:
    """Physics with its mean error taken off: of records, or of none."""

    prior: Prior
    bias: float = 0.0

    def predict(self, table: Table) -> Prediction:
        """Foretell rows."""
        return Prediction(mean=self.prior.log_cost(table) + self.bias)


@dataclass(frozen=True, slots=True, kw_only=True)
class PhysicsHead:
    """Physics alone: records only shift it."""

    prior: Prior
    name: str = field(default="physics")

    def fit(self, table: Table, target: Floats, weight: Floats, rng: np.random.Generator) -> FittedPhysics:
        """Learn the median error."""
        error = target - self.prior.log_cost(table)
        return FittedPhysics(prior=self.prior, bias=float(np.median(error)) if len(error) else 0.0)
