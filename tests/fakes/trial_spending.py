"""What is kept of a day's budget, in memory: the port `node.services.trial_budget.Spending` without a disk."""

from collections.abc import Callable, Sequence

import trio

from node.errors import Unavailable


class FakeSpending:
    """Keeps spans as long as the object lives, by a clock that goes on while nodes come and go."""

    def __init__(self, clock: Callable[[], float] = trio.current_time) -> None:
        self._clock = clock
        self.spans: list[tuple[float, float]] = []
        self.full = False

    async def read(self) -> Sequence[tuple[float, float]]:
        await trio.lowlevel.checkpoint()
        now = self._clock()
        return [(now - began, max(now - ended, 0.0)) for began, ended in self.spans if began <= now]

    async def write(self, spans: Sequence[tuple[float, float]]) -> None:
        await trio.lowlevel.checkpoint()
        if self.full:
            raise Unavailable("the disk is full")
        now = self._clock()
        self.spans = [(now - began, now - ended) for began, ended in spans]
