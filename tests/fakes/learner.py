"""A learner in memory that does what a test says, and lessons that are no files: `node.learner_ports` without a child.

`Teaching` is what a lesson comes to; whatever goes wrong is data.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from node.errors import Unavailable
from node.learner_ports import Authors, LearnerHands, Lesson, Said

FIGURES: Said = {
    "heads": ["physics", "trees"],
    "rows": 100,
    "authors": 3,
    "doubted": ["liar"],
    "learnt": {"latency": {"rows": 100, "error_median": 0.1, "coverage_90": 0.9}},
    "train_s": 30.0,
    "predictions": 4,
    "predict_s": 0.01,
    "peak_bytes": 1 << 28,
}
TICK = 5.0  # s between looks at whether it is paused
ASK_S = 10.0  # that its keeper waits for an answer


@dataclass
class Teaching:
    """How one lesson goes: after so many seconds it ends as `end` says, or never, or the learner dies of it."""

    seconds: float = 30.0
    end: Said | None = field(default_factory=lambda: {"event": "trained", **FIGURES})
    dies: bool = False


class FakeLearner:
    """Starts, learns, answers and dies as it is told. `answers` by question, or what makes them; `slow`: delays, s."""

    def __init__(self) -> None:
        self.teachings: list[Teaching] = []  # of the next lessons; as they should go when there is none
        self.answers: dict[str, Said | Callable[[dict[str, Any]], Said]] = {
            "train": {"begun": True},
            "state": FIGURES,
            "pause": {"paused": True},
            "resume": {"paused": False},
        }
        self.paused_until = 0.0
        self.slow: dict[str, float] = {}
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.taught_at: list[float] = []
        self.renewed: list[str] = []
        self.opened = self.starts = 0
        self.start_s, self.again_s = 1.0, 5.0
        self._alive = trio.Event()
        self._death: trio.Event | None = None
        self._why = ""
        self._lives: trio.Nursery | None = None

    @asynccontextmanager
    async def open(self, hear: Callable[[Said], None]) -> AsyncIterator["FakeLearner"]:
        self.opened += 1
        self._hear = hear
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._live)
            yield self
            nursery.cancel_scope.cancel()

    async def _live(self) -> None:
        while True:
            await trio.sleep(self.start_s)
            self.starts += 1
            self._death = trio.Event()
            async with trio.open_nursery() as lives:
                self._lives = lives
                self._hear({"event": "ready", "heads": ["physics"]})
                await self._death.wait()
                lives.cancel_scope.cancel()
            self._lives = self._death = None
            self._hear({"event": "ended", "reason": self._why})
            await trio.sleep(self.again_s)

    def die(self, why: str = "killed") -> None:
        """End it as the kernel would."""
        self._why = why
        if self._death is not None:
            self._death.set()

    def renew(self, reason: str) -> None:
        self.renewed.append(reason)
        self.die(reason)

    async def ask(self, do: str, **what: object) -> Said:
        await trio.lowlevel.checkpoint()
        self.asked.append((do, what))
        death = self._death
        if death is None or self._lives is None:
            raise Unavailable("the learner is not running")
        if do == "train":
            self.taught_at.append(trio.current_time())
            self._lives.start_soon(self._learn, self.teachings.pop(0) if self.teachings else Teaching())
        answered = False
        with trio.move_on_after(ASK_S):
            await trio.sleep(self.slow.get(do, 0.001))
            answered = True
        if not answered or death.is_set():
            raise Unavailable("the learner did not answer")
        if do not in self.answers:
            raise Unavailable("the learner refuses")
        if do in ("pause", "resume"):
            self.paused_until = trio.current_time() + float(str(what.get("seconds", 0.0)))
        answer = self.answers[do]
        return answer(what) if callable(answer) else answer

    async def _learn(self, teaching: Teaching) -> None:
        left = teaching.seconds
        while left > 0:
            await trio.sleep(min(left, TICK))
            left -= TICK * (trio.current_time() >= self.paused_until)
        if teaching.dies:
            self.die("out of memory")
        elif teaching.end is not None:
            self._hear(teaching.end)


class FakeLessons:
    """Keeps what was asked for. `refusing` makes the disk refuse; `there` says whether a lesson lies there."""

    def __init__(self, records: Callable[[], int]) -> None:
        self.asked: list[tuple[Authors, int]] = []
        self.refusing = False
        self.own = 0
        self.there = False
        self._records = records

    async def write(self, authors: Authors, *, most: int) -> Lesson:
        await trio.sleep(0.5)
        if self.refusing:
            raise Unavailable("the disk is full")
        self.asked.append((authors, most))
        self.there = True
        return Lesson(path=Path("/lesson"), records=min(self._records(), most), own=self.own, authors=3)

    async def remove(self) -> None:
        await trio.lowlevel.checkpoint()
        self.there = False


def hands_of(
    learner: FakeLearner, lessons: FakeLessons, *, lacking_to_answer: str = "", lacking_to_learn: str = ""
) -> LearnerHands:
    """Return what a node would get of them."""
    return LearnerHands(
        open=learner.open, lessons=lessons, lacking_to_answer=lacking_to_answer, lacking_to_learn=lacking_to_learn
    )
