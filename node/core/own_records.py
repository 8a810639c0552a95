"""What a node's own performance records share, whatever they measure, and how long they are to be kept.

Knows the record's parts and nothing of where they come from.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from protocol import limits
from protocol import performance as wire
from protocol.records import Stamp

# A year is what the wire allows and retention is written for; a day less, so that a clock that is behind bears it too.
LIFETIME_US: Final = limits.LIFETIME_MAX_US - limits.DAY_US

Compose = Callable[[Stamp], wire.Performance]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What was measured on: the parts that all records of one engine on one machine share."""

    model: wire.Model
    hardware: wire.Hardware
    benchmark: wire.Benchmark
    engine: wire.Engine

    def composing(
        self,
        *,
        origin: str,
        strategy: wire.Strategy,
        workload: wire.Workload,
        outcome: wire.Outcome,
        pair: bytes | None = None,
        context: int | None = None,
    ) -> Compose:
        """Return what makes a record of these parts, once it is given a stamp; see `protocol.performance`."""
        return lambda stamp: wire.Performance(
            stamp=stamp,
            origin=origin,
            model=self.model,
            hardware=self.hardware,
            benchmark=self.benchmark,
            engine=self.engine,
            strategy=strategy,
            workload=workload,
            outcome=outcome,
            pair=pair,
            context=context,
        )
