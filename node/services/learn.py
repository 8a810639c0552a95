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
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import structlog
import trio

from node.core.learning import LEAST, MOST, Advice, Chosen, Figures, Schedule, advice, chosen, figures
from node.core.observation import Row
from node.core.question import evidence as told_of
from node.errors import Unavailable
from node.learner_ports import Authors, Learner, LearnerHands, Said
from node.record_ports import OWN_ROWS, HistoryFacts
from node.services.teach import WORDS, Teacher

log = structlog.get_logger(__name__)

LOOK: Final = 60.0
ANSWER: Final = 15.0  # s that whoever asks waits, the learner's start included
MICRO: Final = 1e6  # of a second
NONSENSE: Final = "the learner talks nonsense"


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerPolicy:
    """Whether and what is learnt.

    Attributes:
        goals: objectives that choices will be made by, the most important first.
        least, most: records below which nothing is learnt, and of which no more is learnt from.
        look: seconds between looks at how the history grew; the first is at once, so that the first choice comes early.
    """

    enabled: bool = True
    goals: tuple[str, ...] = ("latency",)
    least: int = LEAST
    most: int = MOST
    look: float = LOOK


class Learning:
    """A node's learner. `run` is its one long-lived task; `choose`, `advise` and `curves` ask."""

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
            busy: whether something is measured on this machine that learning would disturb; it waits meanwhile.
            luck: uniform in [0, 1).
            wall: microseconds since 1970.
        """
        self._hands = hands if policy.enabled else None
        self._left = None if hands is None else hands.lessons  # what a run that was killed left
        self._policy = policy
        self._history = history
        self._written = written
        self._busy = busy
        self._wall = wall
        self._teacher = Teacher(
            goals=policy.goals, history=history, written=written, authors=authors, busy=busy, luck=luck
        )
        self._schedule = Schedule(least=policy.least, most=policy.most)
        self._learner: Learner | None = None  # once it was started for the first time
        self._asked = trio.Event()  # somebody wants it before there is enough to learn from
        self._ready = trio.Event()  # it can be asked; another one when it dies
        self._learnt_more = trio.Event()  # another one with each lesson
        self._figures = Figures()
        self._trained_at_us: int | None = None
        self._trouble = self._death = ""
        self._lessons = self._failures = self._starts = self._unanswered = 0
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

    async def advise(  # noqa: PLR0913 -- one question, whole
        self,
        rows: Sequence[Row],
        *,
        goal: str,
        default: int,
        current: int,
        lossy: bool,
        horizon_s: float,
        busy_share: float,
        restart_s: float,
        lost_share: float,
        evidence: Sequence[Row] = (),
        banned: Sequence[int] = (),
        memory_bytes: int | None = None,
        promises: Mapping[str, float] | None = None,
    ) -> Advice:
        """Advise whether to run something else than what runs now, and what to try: see `Advice`.

        Args:
            rows: of `node.core.question`: candidates of one context.
            default, current: which row is the engine's default, and which is what runs now.
            horizon_s: for how long the workload is expected to last; of it, `busy_share` with work at the engine.
            restart_s: until the engine serves again after a switch; of its work, `lost_share` is lost meanwhile.
            evidence: own records' rows, newest first; more than OWN_ROWS are left out.
            banned: rows that are out of question.
            memory_bytes: that the engine may take; None: what the machine has.
            goal, lossy, promises: as `choose` has them.

        Raises:
            Unavailable: no learner answers, or none that makes sense.
        """
        said = await self._ask(
            "choose",
            rows=list(rows),
            goal=goal,
            default=default,
            current=current,
            lossy=lossy,
            horizon_s=horizon_s,
            busy_share=busy_share,
            restart_s=restart_s,
            lost_share=lost_share,
            evidence=told_of(evidence[:OWN_ROWS]),
            now_s=self._wall() / MICRO,
            banned=sorted(set(banned)),
            memory_bytes=memory_bytes,
            promises=dict(promises or {}),
        )
        if (found := advice(said, len(rows))) is None:
            raise Unavailable(NONSENSE)
        return found

    @property
    def lessons(self) -> int:
        """How many lessons went well since the node came up."""
        return self._lessons

    async def learnt(self, than: int) -> int:
        """Wait until more lessons than that went well; return how many did."""
        while self._lessons <= than:
            await self._learnt_more.wait()
        return self._lessons

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
        while not self._asked.is_set() and not self._due():
            with trio.move_on_after(self._policy.look):
                await self._asked.wait()

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
        try:
            self._take(await self._teacher.teach(learner, self._hands.lessons, self._schedule))
        except Unavailable as error:
            self._failed(str(error))
        else:
            self._learnt()

    def _learnt(self) -> None:
        now = trio.current_time()
        self._schedule.learnt(now)
        self._trained_at_us, self._trouble = self._wall(), ""
        self._lessons += 1
        self._lesson_s += self._figures.train_s or 0.0
        known = self._figures
        log.info("learner.learnt", rows=known.rows, error_median=known.error_median, train_s=known.train_s)
        self._learnt_more.set()
        self._learnt_more = trio.Event()

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
                self._teacher.hear(said)
            case "trained" | "failed":
                self._teacher.hear(said)
            case _:
                pass

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
            "records_shipped": self._teacher.lesson.shipped if self._teacher.lesson and self._trained_at_us else 0,
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
        if self._teacher.under_way:
            return "learning", self._teacher.words
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


def _rfc3339(time_us: int | None) -> str | None:
    return None if time_us is None else datetime.fromtimestamp(time_us / MICRO, UTC).isoformat(timespec="seconds")
