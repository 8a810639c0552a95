"""Keeping a learner fed with the history, and asking it.

Knows the learner as somebody who may be late, mad or dead at any time, and the history by its size; knows no process,
no file and nothing of what is learnt. The learner is started when there is enough to learn from, or when somebody asks
before: a node whose history is empty, or that has nothing installed to learn with, goes without and serves as ever.
What the learner knows dies with it; it is then taught again, at ever longer intervals.

    off | unavailable     nothing is ever started
    waiting               for records, or for a question
    starting              the learner is on its way, or between two lives
    learning              a lesson is under way; it answers from what it knew before
    ready                 it answers from what it has learnt; in `physics`, from what it knows without
    failing               the last lesson came to nothing; it answers as before
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import structlog
import trio

from node.core.learning import LEAST, MOST, Chosen, Figures, Late, Schedule, chosen, figures
from node.errors import Unavailable
from node.learner_ports import Authors, Learner, LearnerHands, Lesson, Lessons, Said
from node.record_ports import HistoryFacts

log = structlog.get_logger(__name__)

LOOK: Final = 60.0
WRITING: Final = 600.0  # s for writing a lesson: seconds, on a slow and busy disk more
# s for one lesson. Minutes of a core that nobody else wants; beside an engine that computes on all of them, hours.
LESSON: Final = 6 * 3600.0
ANSWER: Final = 15.0  # s that whoever asks waits, the learner's start included
SEED_END: Final = 2**31
WORDS: Final = 300  # characters of a reason
NONSENSE: Final = "the learner talks nonsense"
ENGINE: Final = "vllm"  # what other engines did under their strategies tells nothing of ours


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerPolicy:
    """Whether and what is learnt.

    Attributes:
        goals: objectives that choices will be made by, the most important first.
        least, most: records below which nothing is learnt, and of which no more is learnt from.
        look: seconds between looks at how the history grew; the first is one after the start, which has better to do.
    """

    enabled: bool = True
    goals: tuple[str, ...] = ("latency",)
    least: int = LEAST
    most: int = MOST
    look: float = LOOK


class Learning:
    """A node's learner. `run` is its one long-lived task; `choose` and `curves` ask."""

    def __init__(  # noqa: PLR0913 -- a list of capabilities
        self,
        hands: LearnerHands | None,
        *,
        policy: LearnerPolicy,
        history: Callable[[], HistoryFacts],
        written: Callable[[], int],
        authors: Callable[[], Authors],
        busy: Callable[[], bool],
        luck: Callable[[], float],
        wall: Callable[[], int],
    ) -> None:
        """Prepare.

        Args:
            hands: None where there are none: then nothing is learnt.
            written: this node's own records that were added to the history since it came up.
            authors: who is who now.
            busy: whether something is measured on this machine that learning would disturb.
            luck: uniform in [0, 1).
            wall: microseconds since 1970.
        """
        self._hands = hands if policy.enabled else None
        self._left = None if hands is None else hands.lessons  # what a run that was killed left
        self._policy = policy
        self._history = history
        self._written = written
        self._authors = authors
        self._busy = busy
        self._luck = luck
        self._wall = wall
        self._schedule = Schedule(least=policy.least, most=policy.most)
        self._learner: Learner | None = None  # once it was started for the first time
        self._asked = trio.Event()  # somebody wants it before there is enough to learn from
        self._ready = trio.Event()  # it can be asked; another one when it dies
        self._over: trio.Event | None = None  # the lesson under way is over
        self._end: Said = {}  # how
        self._figures = Figures()
        self._trained_at_us: int | None = None
        self._trouble = self._lesson = self._death = ""
        self._given = self._lessons = self._failures = self._starts = self._unanswered = 0
        self._before = Figures()  # of what died: predictions only grow
        self._lesson_s = 0.0

    async def run(self) -> None:
        """Teach whenever there is enough that is new; return at once where nothing is to be learnt, else never."""
        if self._left is not None:
            await self._left.remove()
        if self._hands is None or self._never():
            return
        await self._until_wanted()
        async with self._hands.open(self._hear) as learner:
            self._learner = learner
            try:
                while True:
                    await self._look(learner)
                    await trio.sleep(self._policy.look)
            finally:
                self._learner = None

    # -- asking

    async def choose(
        self,
        rows: Sequence[Mapping[str, object]],
        *,
        goal: str,
        default: int | None,
        promises: Mapping[str, float] | None = None,
        lossy: bool = False,
    ) -> Chosen:
        """Choose among candidates: rows of one context, in the names of the observation tables.

        Args:
            goal: an objective, or a weighted mix: `latency:0.5,cost:0.5`.
            default: which row is the engine's default.
            promises: `ttft_s`, `tpot_s`, `latency_s` to seconds.
            lossy: whether strategies that change answers may be chosen.

        Raises:
            Unavailable: no learner answers, or none that makes sense.
        """
        said = await self._ask(
            "choose", rows=list(rows), goal=goal, default=default, promises=dict(promises or {}), lossy=lossy
        )
        if (found := chosen(said, len(rows))) is None:
            raise Unavailable(NONSENSE)
        return found

    async def curves(self, cells: Sequence[Mapping[str, object]]) -> tuple[Mapping[str, Any], ...]:
        """Return the curve of each cell, at most 256: see `node.learner.curves`.

        Args:
            cells: rows of a model, a machine and a strategy.

        Raises:
            Unavailable: no learner answers, or none that makes sense.
        """
        found = (await self._ask("curves", cells=list(cells))).get("curves")
        if not isinstance(found, list) or len(found) != len(cells) or not all(isinstance(each, dict) for each in found):
            raise Unavailable(NONSENSE)
        return tuple(found)

    async def _ask(self, do: str, **what: object) -> Said:
        if never := self._never():
            raise Unavailable(never[1])
        self._asked.set()
        found: Said | None = None
        try:
            with trio.move_on_after(ANSWER):
                await self._ready.wait()
                found = await self._started().ask(do, **what)
        finally:
            self._unanswered += found is None
        if found is None:
            raise Unavailable(f"the learner did not answer within {ANSWER:.0f} s")
        return found

    def _started(self) -> Learner:
        if self._learner is None:  # it was ready, and the node stops
            raise Unavailable("the learner is not running")
        return self._learner

    # -- teaching

    async def _until_wanted(self) -> None:
        while not self._asked.is_set():
            with trio.move_on_after(self._policy.look):
                await self._asked.wait()
                return
            if self._due():
                return

    def _due(self) -> bool:
        """Tell whether there is something to learn now."""
        assert self._hands is not None  # noqa: S101 -- `run` has looked
        if self._hands.lacking_to_learn or self._busy():
            return False
        return self._schedule.due(held=self._history().records, written=self._written(), now=trio.current_time())

    async def _look(self, learner: Learner) -> None:
        with trio.move_on_after(self._policy.look):
            await self._ready.wait()
        if not self._ready.is_set():
            return  # whoever keeps it starts it again
        if self._due():
            await self._teach(learner)
        try:
            self._take(await learner.ask("state"))
        except Unavailable as error:
            log.debug("learner.silent", reason=str(error))

    async def _teach(self, learner: Learner) -> None:
        """Give one lesson and wait for its end."""
        assert self._hands is not None  # noqa: S101 -- `run` has looked
        authors, lessons = self._authors(), self._hands.lessons
        self._over, self._end = trio.Event(), {}
        try:
            await self._give(learner, await self._write(lessons, authors), authors)
        except Unavailable as error:
            self._failed(str(error))
        finally:
            self._over = None
            with trio.CancelScope(shield=True):
                await lessons.remove()

    async def _write(self, lessons: Lessons, authors: Authors) -> Lesson:
        """Write a lesson.

        Raises:
            Unavailable: it was not, or not in time.
        """
        held, written, began = self._history().records, self._written(), trio.current_time()
        lesson: Lesson | None = None
        with trio.move_on_after(WRITING):
            lesson = await lessons.write(authors, most=self._schedule.most)
        if lesson is None:
            raise Unavailable(f"the lesson was not written within {WRITING:.0f} s")
        self._schedule.began(held=held, own=lesson.own, written=written, now=began)
        self._lesson = f"{lesson.records} records"
        log.info("learner.lesson", records=lesson.records, own=lesson.own, authors=lesson.authors)
        return lesson

    async def _give(self, learner: Learner, lesson: Lesson, authors: Authors) -> None:
        """Have a lesson learnt.

        Raises:
            Unavailable: it was not.
        """
        assert self._over is not None  # noqa: S101 -- `_teach` made it
        self._given += 1
        with suppress(Late):  # it is busy, not gone: the lesson's end tells
            await learner.ask(
                "train",
                lesson=self._given,
                path=str(lesson.path),
                goals=list(self._policy.goals),
                ranks={str(author): "known" for author in sorted(authors.known)} | {str(authors.own): "own"},
                engine=ENGINE,
                seed=int(self._luck() * SEED_END),
            )
        with trio.move_on_after(LESSON):
            await self._over.wait()
        match self._end.get("event"):
            case "trained":
                self._learnt()
            case None:
                learner.renew("it does not come to an end with learning")
                raise Unavailable(f"it was not learnt within {LESSON / 3600:.0f} hours")
            case _:
                raise Unavailable(_words(self._end))

    def _learnt(self) -> None:
        self._take(self._end)
        now = trio.current_time()
        self._schedule.learnt(now)
        self._trained_at_us, self._trouble = self._wall(), ""
        self._lessons += 1
        self._lesson_s += self._figures.train_s or 0.0
        known = self._figures
        log.info("learner.learnt", rows=known.rows, error_median=known.error_median, train_s=known.train_s)

    def _failed(self, reason: str) -> None:
        self._trouble = reason
        self._failures += 1
        self._schedule.failed(trio.current_time())
        log.warning("learner.not_learnt", reason=reason)

    def _take(self, said: Said) -> None:
        self._figures = figures(said)

    # -- what it says unasked

    def _hear(self, said: Said) -> None:
        match said.get("event"):
            case "ready":
                self._starts += 1
                self._death = ""
                self._ready.set()
            case "ended":
                self._died(str(said.get("reason") or "")[:WORDS])
                self._finish(said)
            case "trained" | "failed" if said.get("lesson") in (None, self._given):  # not of one that was given up
                self._finish(said)
            case _:
                pass

    def _finish(self, said: Said) -> None:
        if self._over is not None and not self._over.is_set():
            self._end = said
            self._over.set()

    def _died(self, why: str) -> None:
        """Forget what died with it."""
        self._death = f"it died: {why}" if why else "it died"
        if self._ready.is_set():
            self._ready = trio.Event()
        gone, self._figures = self._figures, Figures()
        self._before = Figures(
            predictions=self._before.predictions + gone.predictions,
            predict_s=self._before.predict_s + gone.predict_s,
        )
        self._trained_at_us = None
        self._schedule.forgot(trio.current_time())

    # -- what is told of it

    def facts(self) -> dict[str, Any]:
        """Return how it stands, for `metainf status` and the metrics."""
        known, (state, reason) = self._figures, self._state()
        predictions = self._before.predictions + known.predictions
        seconds = self._before.predict_s + known.predict_s
        return {
            "state": state,
            "reason": reason,
            "trained_at": _rfc3339(self._trained_at_us),
            "records_used": known.rows,
            "authors": known.authors,
            "doubted": list(known.doubted),
            "heads": list(known.heads),
            "error_median": known.error_median,
            "coverage_90": known.coverage_90,
            "objectives": {name: dict(each) for name, each in (known.objectives or {}).items()},
            "trainings": self._lessons,
            "trainings_failed": self._failures,
            "train_s": known.train_s,
            "train_s_total": self._lesson_s,
            "predictions": predictions,
            "predict_us": round(seconds / predictions * 1e6, 1) if predictions else None,
            "predict_s_total": seconds,
            "unanswered": self._unanswered,
            "restarts": max(self._starts - 1, 0),
            "memory_bytes": known.memory_bytes,
        }

    def _state(self) -> tuple[str, str]:
        """Return the state, and why it is that."""
        if never := self._never():
            return never
        if self._over is not None:
            return "learning", self._lesson
        if self._trouble:
            return "failing", self._trouble
        if self._learner is None:
            return "waiting", self._untaught()
        if not self._ready.is_set():
            return "starting", self._death
        return ("physics", self._untaught()) if self._trained_at_us is None else ("ready", "")

    def _never(self) -> tuple[str, str] | None:
        """Return why no learner will ever be started; None where one may."""
        if not self._policy.enabled:
            return "off", "learner.enabled is false"
        if self._hands is None:
            return "off", "there is none on this node"
        return ("unavailable", self._hands.lacking_to_answer) if self._hands.lacking_to_answer else None

    def _untaught(self) -> str:
        """Say why nothing is learnt yet."""
        if self._hands is not None and self._hands.lacking_to_learn:
            return self._hands.lacking_to_learn
        held, least = self._history().records, self._schedule.least
        return f"{held} of the {least} records that it takes" if held < least else "soon"


def _words(said: Said) -> str:
    reason = str(said.get("reason") or "it said no reason")[:WORDS]
    return f"the learner died over it: {reason}" if said.get("event") == "ended" else reason


def _rfc3339(time_us: int | None) -> str | None:
    return None if time_us is None else datetime.fromtimestamp(time_us / 1e6, UTC).isoformat(timespec="seconds")
