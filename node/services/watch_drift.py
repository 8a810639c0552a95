"""An alarm where answers no longer come as foretold: said in the log once for each episode, and again when it is over.

Knows no forecast and decides nothing: what drift is, when it begins and ends, and what to do about it are
`node.core.calibration`'s. An episode that is over between two looks is not told of: it was none to act on.
"""

from collections.abc import Mapping
from typing import Final, Protocol

import structlog
import trio

from node.core.calibration import Drift

log = structlog.get_logger(__name__)

LOOK: Final = 10.0  # s: drift is a matter of fifty answers and of minutes, and a look costs a microsecond


class Calibrated(Protocol):
    """One quantity that is foretold (`node.core.calibration.Calibration`)."""

    def drift(self) -> Drift | None:
        """Return the episode that lasts; None while forecasts are sound."""
        ...


class DriftWatch:
    """Tells of drift. `run` is its one long-lived task."""

    def __init__(self, quantities: Mapping[str, Calibrated]) -> None:
        """`quantities`: by the names that they have in the log: `ttft`, `tpot`."""
        self._quantities = quantities
        self._told: dict[str, float] = {}  # since when, of those that drift

    async def run(self) -> None:
        """Look from time to time; return never."""
        while True:
            self._look(trio.current_time())
            await trio.sleep(LOOK)

    def _look(self, now: float) -> None:
        for name, quantity in self._quantities.items():
            drift = quantity.drift()
            if drift is None:
                if (since := self._told.pop(name, None)) is not None:
                    log.info("routing.drift_over", quantity=name, lasted_s=round(now - since, 1))
            elif name not in self._told:
                self._told[name] = drift.since
                log.warning(
                    "routing.drift",
                    quantity=name,
                    factor=round(drift.factor, 3),
                    coverage_90=round(drift.coverage, 3),
                    since_s=round(now - drift.since, 1),
                    remedy=drift.remedy,
                )
