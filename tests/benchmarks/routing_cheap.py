"""Who wants the cheapest answer: what a client without a learner would do, and the oracle of prices.

Knows what routing_policies knows. Both are tuned by what is spent, and not by how long answers take; a node without a
free seat is the last choice of both, for nobody wants an answer that never comes.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tests.benchmarks.routing_cells import Floats
from tests.benchmarks.routing_policies import Chosen, Make, Oracle, StaticSpeeds
from tests.benchmarks.routing_run import Ask, Run
from tests.benchmarks.routing_world import CLIENTS

FULL: Final = 1000.0  # times dearer is who has no seat


class Cheapest(StaticSpeeds):
    """The least price of the device-seconds that an answer would take alone, by the speed that each announces."""

    def __init__(self, run: Run, entry: int, seed: int, *, temperature: float = 0.0) -> None:
        super().__init__(run, entry, seed, temperature=temperature)
        world = run.world
        devices = np.array([cell.devices for cell in world.cells])
        self._second = world.price * devices[world.says]

    def pick(self, ask: Ask, there: NDArray[np.intp], now: float) -> int:
        length = self.length[int(ask.client >= CLIENTS)]
        alone = self._first[there] + self._token[there] * ask.prompt + self._tpot[there] * length
        score = self._second[there] * alone * np.where(self.work()[there] >= self.slots[there], FULL, 1.0)
        return self.least(score, there, self._temperature)


class OracleOfPrices(Oracle):
    """Knows every true speed, load, cache, length and price; takes whoever's share of device-seconds costs least."""

    def __init__(self, run: Run, entry: int, seed: int) -> None:
        super().__init__(run, entry, seed)
        devices = np.array([cell.devices for cell in run.world.cells])
        self._second = run.world.price * devices[run.world.is_a]

    def score(self, ask: Ask, there: NDArray[np.intp], now: float) -> Floats:
        """Return what the answer would cost at each."""
        seen = self.truth(ask, there, now)
        own = seen.turn + ask.output * seen.tpot * seen.speed / seen.seated
        return self._second[there] * own * np.where(seen.n > seen.seats, FULL * seen.n / seen.seats, 1.0)


GRIDS: Final[Mapping[str, Sequence[Chosen]]] = {
    "cheapest": [{"temperature": temperature} for temperature in (0.0, 0.1, 0.3, 1.0)],
    "oracle_of_prices": [{}],
}


def maker(name: str, chosen: Chosen, seed: int) -> Make:
    """Return what makes the policies of a run: one for each entry."""
    if name == "cheapest":
        return lambda run, entry: Cheapest(run, entry, seed, **chosen)
    return lambda run, entry: OracleOfPrices(run, entry, seed)
