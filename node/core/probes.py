"""What is to be tried next in idle time, as whoever tunes the engine wishes it.

Knows strategies and a description of traffic; knows no plan, no engine and nobody who wishes.
"""

from dataclasses import dataclass

from node.core.strategy import Strategy
from node.core.workload import Description


@dataclass(frozen=True, slots=True, kw_only=True)
class Probes:
    """Strategies to be tried, the most valuable first.

    Attributes:
        description: of the traffic that they are to be tried under; None for the standard workloads.
    """

    strategies: tuple[Strategy, ...]
    description: Description | None = None
