"""One lesson: written, given, waited for, and held up while something is measured on this machine.

Knows the learner and the lessons as ports, and who is who; knows neither when to learn nor what is learnt. Of what the
learner says unasked it hears the lesson's end.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Final

import structlog
import trio

from node.core.learning import Late, Schedule
from node.errors import Unavailable
from node.learner_ports import Authors, Learner, Lesson, Lessons, Said
from node.record_ports import HistoryFacts

log = structlog.get_logger(__name__)

WRITING: Final = 600.0  # s for writing a lesson: seconds, on a slow and busy disk more
# s for one lesson, pauses left out. Minutes of a core that nobody else wants; beside an engine that computes on all of
# them, hours.
LESSON: Final = 6 * 3600.0
PULSE: Final = 5.0  # s between looks at whether something is measured: an engine takes longer to start for its trials
# s that a pause lasts unless it is said again: a learner that nobody pauses any more must not stand still.
PAUSE: Final = 60.0
SEED_END: Final = 2**31
WORDS: Final = 300  # characters of a reason
ENGINE: Final = "vllm"  # what other engines did under their strategies tells nothing of ours


class Teacher:
    """Gives lessons, one at a time."""

    def __init__(
        self,
        *,
        goals: tuple[str, ...],
        history: Callable[[], HistoryFacts],
        written: Callable[[], int],
        authors: Callable[[], Authors],
        busy: Callable[[], bool],
        luck: Callable[[], float],
    ) -> None:
        """Prepare; see `node.services.learn.Learning`."""
        self._goals = goals
        self._history = history
        self._written = written
        self._authors = authors
        self._busy = busy
        self._luck = luck
        self._over: trio.Event | None = None  # the lesson under way is over
        self._end: Said = {}  # how
        self._given = 0
        self.paused = False
        self.lesson: Lesson | None = None  # the last one

    @property
    def under_way(self) -> bool:
        """Whether a lesson is."""
        return self._over is not None

    @property
    def words(self) -> str:
        """What is being learnt, for a person."""
        held = "" if self.lesson is None else f"{self.lesson.records} records"
        return f"{held}; it waits while this machine is measured" if self.paused else held

    async def teach(self, learner: Learner, lessons: Lessons, schedule: Schedule) -> Said:
        """Give one lesson and wait for its end; return what the learner says of it. No lesson is left behind.

        Raises:
            Unavailable: it was not learnt.
        """
        authors = self._authors()
        self._over, self._end = trio.Event(), {}
        try:
            return await self._give(learner, await self._write(lessons, authors, schedule), authors)
        finally:
            self._over, self.paused = None, False
            with trio.CancelScope(shield=True):
                await lessons.remove()

    def hear(self, said: Said) -> None:
        """Take what the learner says unasked: an end that is not of a lesson that was given up ends this one."""
        ours = said.get("event") == "ended" or said.get("lesson") in (None, self._given)
        if ours and self._over is not None and not self._over.is_set():
            self._end = said
            self._over.set()

    async def _write(self, lessons: Lessons, authors: Authors, schedule: Schedule) -> Lesson:
        """Write a lesson.

        Raises:
            Unavailable: it was not, or not in time.
        """
        held, written, began = self._history().records, self._written(), trio.current_time()
        lesson: Lesson | None = None
        with trio.move_on_after(WRITING):
            lesson = await lessons.write(authors, most=schedule.most)
        if lesson is None:
            raise Unavailable(f"the lesson was not written within {WRITING:.0f} s")
        schedule.began(held=held, own=lesson.own, written=written, now=began)
        self.lesson = lesson
        log.info(
            "learner.lesson", records=lesson.records, own=lesson.own, shipped=lesson.shipped, authors=lesson.authors
        )
        return lesson

    async def _give(self, learner: Learner, lesson: Lesson, authors: Authors) -> Said:
        """Have a lesson learnt.

        Raises:
            Unavailable: it was not.
        """
        self._given += 1
        with suppress(Late):  # it is busy, not gone: the lesson's end tells
            await learner.ask(
                "train",
                lesson=self._given,
                path=str(lesson.path),
                goals=list(self._goals),
                ranks={str(author): "known" for author in sorted(authors.known)} | {str(authors.own): "own"},
                engine=ENGINE,
                seed=int(self._luck() * SEED_END),
            )
        await self._until_over(learner)
        match self._end.get("event"):
            case "trained":
                return self._end
            case None:
                learner.renew("it does not come to an end with learning")
                raise Unavailable(f"it was not learnt within {LESSON / 3600:.0f} hours")
            case _:
                raise Unavailable(_words(self._end))

    async def _until_over(self, learner: Learner) -> None:
        """Wait for the lesson's end, or until it had its time; have the learner pause while something is measured."""
        over = self._over
        assert over is not None  # noqa: S101 -- `teach` made it
        with trio.move_on_after(LESSON) as limit:
            while not over.is_set():
                if self._busy():
                    limit.deadline += PULSE
                    await self._hold_up(learner)
                elif self.paused:
                    await self._let_go(learner)
                with trio.move_on_after(PULSE):
                    await over.wait()

    async def _hold_up(self, learner: Learner) -> None:
        with suppress(Unavailable):  # said again in a moment
            await learner.ask("pause", seconds=PAUSE)
            if not self.paused:
                log.info("learner.paused", reason="this machine is measured")
            self.paused = True

    async def _let_go(self, learner: Learner) -> None:
        with suppress(Unavailable):  # the pause runs out by itself
            await learner.ask("resume")
        self.paused = False
        log.info("learner.resumed")


def _words(said: Said) -> str:
    reason = str(said.get("reason") or "it said no reason")[:WORDS]
    return f"the learner died over it: {reason}" if said.get("event") == "ended" else reason
