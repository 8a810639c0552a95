"""The engine's answer on its way: every piece passes untouched, and how it ended is noted.

Knows neither prompts nor turns. It is asked for every event of every stream, so it does next to nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass

from node.core.answer_meter import AnswerMeter
from node.core.traffic import Ending
from node.errors import Broken
from node.ports import Answer, Served
from node.services.passing import Passing


@dataclass(slots=True)
class Outcome:
    """How an answer ended, as far as it did."""

    whole: bool = False
    broken: bool = False
    interrupted: bool = False  # left by an exception that is not about the engine, cancellation above all

    @property
    def ending(self) -> Ending:
        """How the answer ended as far as the engine goes."""
        return Ending.WHOLE if self.whole else Ending.BROKEN if self.broken else Ending.LEFT


class Watched(Passing):
    """An answer that notes how it ended."""

    def __init__(self, answer: Answer, outcome: Outcome, served: Served) -> None:
        super().__init__(answer, served)
        self._outcome = outcome

    async def receive(self) -> bytes:
        """See `node.ports.Answer`."""
        try:
            data = await self._answer.receive()
        except Broken:
            self._outcome.broken = True
            raise
        if not data:
            self._outcome.whole = True
        return data


class Metered(Watched):
    """An answer whose pieces are timed on their way too, for a microsecond and a half each."""

    def __init__(
        self, answer: Answer, outcome: Outcome, served: Served, meter: AnswerMeter, clock: Callable[[], float]
    ) -> None:
        super().__init__(answer, outcome, served)
        self._meter = meter
        self._clock = clock

    async def receive(self) -> bytes:
        """See `node.ports.Answer`."""
        asked = self._clock()
        try:
            data = await self._answer.receive()
        except Broken:
            self._outcome.broken = True
            raise
        if data:
            self._meter.piece(data, asked, self._clock())
        else:
            self._outcome.whole = True
        return data
