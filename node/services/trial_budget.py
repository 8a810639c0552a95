"""How long trials may keep the engine from its prompts in a day, and how much of that is left.

Knows spans of time and whoever keeps them over a restart; knows no engine and no trial. A span is noted when it begins,
as long as it may become, and once more as long as it was: a node that dies among trials, again and again, does not
get a new day's budget with each start.
"""

from collections import deque
from collections.abc import Callable, Sequence

import structlog
import trio

from node.errors import NodeError
from node.trial_ports import Span, Spending

log = structlog.get_logger(__name__)

DAY = 86_400.0  # s
LEAST = 120.0  # s of the day's budget below which nothing is begun: vLLM's import, a probe and one session
NOTE_SECONDS = 5.0  # for the note, which is not broken off with the node: some bytes on a slow disk


class DayBudget:
    """The budget of one node. A span counts from the engine's being taken until it is up again."""

    def __init__(self, daily: float, *, spending: Spending | None, clock: Callable[[], float]) -> None:
        """Prepare.

        Args:
            daily: seconds in any 24 hours.
            spending: None keeps nothing over a restart.
        """
        self._daily = daily
        self._spending = spending
        self._clock = clock
        self._spent: deque[Span] = deque()  # at most as many as fit into a day's budget, `LEAST` seconds each
        self.reload = 0.0  # s that the engine took to be up again the last time

    async def recall(self) -> None:
        """Learn what was spent before this process."""
        if self._spending is None:
            return
        now = self._clock()
        kept = await self._spending.read()
        self._spent.extend(sorted((now - began, now - ended) for began, ended in kept if began >= ended >= 0.0))

    def left(self, now: float) -> float:
        """Return how many of the day's seconds are left."""
        while self._spent and self._spent[0][1] <= now - DAY:
            self._spent.popleft()
        return self._daily - sum(end - max(begin, now - DAY) for begin, end in self._spent)

    def for_trials(self, now: float) -> float:
        """Return how many of those that are left trials may take: some are the engine's, to be up again."""
        return self.left(now) - self._reserve

    def enough(self, now: float) -> bool:
        """Whether it is worth beginning."""
        return self.for_trials(now) >= min(LEAST, self._daily - self._reserve)

    @property
    def _reserve(self) -> float:
        return min(self.reload, self._daily / 2)  # not all, should it once have hung

    async def begin(self, at: float) -> None:
        """Note that the engine is away since then, for as long as it may be."""
        await self._keep([*self._spent, (at, at + max(self.left(at), 0.0))])

    async def end(self, began: float) -> None:
        """Note that it is back; finishes though it be cancelled."""
        self._spent.append((began, self._clock()))
        with trio.move_on_after(NOTE_SECONDS) as scope:
            scope.shield = True
            await self._keep(self._spent)

    async def _keep(self, spans: Sequence[Span] | deque[Span]) -> None:
        if self._spending is None:
            return
        now = self._clock()
        try:
            # What is still to come ends at a time that is negative seconds ago; kept as "now" it would be too short.
            await self._spending.write([(now - begin, now - end) for begin, end in spans])
        except NodeError as error:
            log.warning("trials.budget_not_kept", reason=error.message)
