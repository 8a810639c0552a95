"""What goes on at the engine: who is being answered, a watch over all of it, and one window, which becomes a record.

Knows no clock, no record and nothing of what is said: of an answer it keeps ten numbers, for two hours at most. A
window belongs to one model under one strategy in one engine's life; when that ends, the window does. The watch goes on.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from math import inf
from typing import Final

from node.core.answer_meter import AnswerMeter, Measured, one_sequence
from node.core.copying import telling
from node.core.endpoints import find
from node.core.engine_state import EngineSnapshot
from node.core.prompt import Prompt
from node.core.workload import Timed, WorkloadWatch

LEAST_ANSWERS: Final = 30  # a p95 has one or two of them beyond it; and one answer cannot be told from the rest
MOST_ANSWERS: Final = 256  # figures get no better for more, and memory is bounded
SPAN: Final = 600.0  # s from a window's first arrival: long against bursts, short against a day's moods
FEWEST: Final = 10  # of a window that is ended on purpose: no figure is over fewer
SAMPLED: Final = 8  # of so many answers, one is looked at for what it repeats: up to 2 ms, which others wait
# Where they come faster than that, one of as many more: 512 answers, which is all that is remembered, then hold eight.
SAMPLED_GAP: Final = 0.25  # s
SPARSELY: Final = 8 * SAMPLED
SAMPLED_AT_ONCE: Final = 16  # of those that run: each keeps the first 64 KiB of its answer until its end
LONGEST: Final = 3600.0  # s after which too few are given up: they would mix a morning's with an evening's
TELLING: Final = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """One engine's life with one model under one strategy; `pid` is None where it runs elsewhere."""

    model: str | None
    strategy: str | None
    pid: int | None
    restarts: int


def life_of(snapshot: EngineSnapshot) -> Life:
    """Return whose life a snapshot shows."""
    return Life(model=snapshot.model, strategy=snapshot.strategy, pid=snapshot.pid, restarts=snapshot.restarts)


class Ending(Enum):
    """How an answer ended."""

    WHOLE = "whole"
    BROKEN = "broken"  # the engine broke off
    LEFT = "left"  # whoever asked did, or nothing was begun: it was load, and tells nothing else


class Verdict(Enum):
    """What is to become of a window now."""

    GO_ON = "go on"
    KEEP = "keep"
    DROP = "drop"


@dataclass(slots=True)
class Arrivals:
    """The gaps between arrivals, in seconds: their number, mean and spread, without the gaps (Welford's method)."""

    count: int = 0
    mean_gap: float = 0.0
    squares: float = 0.0
    last: float = 0.0

    def note(self, now: float) -> None:
        """Take an arrival."""
        self.count += 1
        if self.count > 1:
            gap = now - self.last
            apart = gap - self.mean_gap
            self.mean_gap += apart / (self.count - 1)
            self.squares += apart * (gap - self.mean_gap)
        self.last = now

    @property
    def variation(self) -> float | None:
        """The gaps' standard deviation, of their mean; None of fewer than two gaps, or none that lasted."""
        gaps = self.count - 1
        return (self.squares / gaps) ** 0.5 / self.mean_gap if gaps > 1 and self.mean_gap > 0 else None


@dataclass(slots=True, kw_only=True)
class Window:
    """Answers that ended within one stretch of one engine's life.

    Attributes:
        answers: whole ones.
        failures: those that the engine broke off.
        began: the loop's time of the first arrival; None before it.
        busy: seconds in which at least one prompt was at the engine.
        over: the life that it belongs to has ended.
        hurried: it is to end now, with few answers too.
    """

    life: Life
    answers: list[Measured] = field(default_factory=list[Measured])
    failures: int = 0
    arrivals: Arrivals = field(default_factory=Arrivals)
    began: float | None = None
    busy: float = 0.0
    over: bool = False
    hurried: bool = False

    def verdict(self, now: float) -> Verdict:
        """Decide whether it has enough, may get it yet, or never will."""
        enough = len(self.answers) >= (FEWEST if self.hurried else LEAST_ANSWERS)
        if self.over or self.hurried:
            return Verdict.KEEP if enough else Verdict.DROP
        if len(self.answers) >= MOST_ANSWERS:
            return Verdict.KEEP
        if self.began is None or now < self.began + SPAN:
            return Verdict.GO_ON
        if enough:
            return Verdict.KEEP
        return Verdict.DROP if now >= self.began + LONGEST else Verdict.GO_ON


@dataclass(frozen=True, slots=True)
class _Asked:
    life: Life
    body_bytes: int
    sampled: bool


class Traffic:
    """Counts who is at the engine, tells the watch, and fills the window that is open, if one is.

    `on_full` is called when a window has all it can get, within `begin`, `end` or `hurry`: it returns at once.
    """

    def __init__(self, watch: WorkloadWatch | None = None) -> None:
        self.watch = watch if watch is not None else WorkloadWatch()
        self.window: Window | None = None
        self.on_full: Callable[[], None] = _nobody
        self._running = 0
        self._counted_to = 0.0
        self._asked: dict[AnswerMeter, _Asked] = {}  # of those that are measured; as many as run
        self._measured = 0  # how many ever were
        self._sampled = 0  # of those that run
        self._sampled_at = -inf
        self._seen: tuple[EngineSnapshot, Life] | None = None  # the latest snapshot, and whose life it shows

    @property
    def running(self) -> int:
        """Prompts that are being answered with tokens now."""
        return self._running

    def open(self, life: Life, now: float) -> Window:
        """Begin a window; what runs already counts when it ends."""
        self._count_busy(now)
        self.window = Window(life=life)
        return self.window

    def close(self, now: float) -> Window | None:
        """End the window that is open, and return it."""
        self._count_busy(now)
        window, self.window = self.window, None
        return window

    def hurry(self) -> bool:
        """End the open window with what it has; return whether there is one."""
        if self.window is None:
            return False
        self.window.hurried = True
        self.on_full()
        return True

    def look(self, snapshot: EngineSnapshot) -> None:
        """Notice whether the life that the open window belongs to is over."""
        window = self.window
        if window is not None and not window.over and window.life != self._life(snapshot):
            window.over = True
            self.on_full()

    def begin(
        self, prompt: Prompt, snapshot: EngineSnapshot, now: float, *, since: float | None = None
    ) -> AnswerMeter | None:
        """Note that the engine is asked now; return what is to be told of the answer, None where nothing is.

        Who gets a meter tells `end`, whatever happens. `since`: when the answer's time begins, where that is before.
        """
        route = find(prompt.path)
        if route is None or route.name not in TELLING:
            return None
        self._count_busy(now)
        self._running += 1
        self.watch.arrived(now)
        measured = one_sequence(prompt.body)
        sampled = measured and self._to_be_sampled(prompt.body, now)
        meter = AnswerMeter(
            began=now if since is None else since, dialect=route.dialect, body=prompt.body if sampled else None
        )
        if measured:
            self._asked[meter] = _Asked(self._life(snapshot), len(prompt.body), sampled)
        self.look(snapshot)
        window = self.window
        if window is not None and not window.over:
            window.arrivals.note(now)
            if window.began is None:
                window.began = now
        return meter

    def end(self, meter: AnswerMeter, ending: Ending, now: float) -> None:
        """Note how an answer ended."""
        self._count_busy(now)
        self._running -= 1
        self.watch.gone(now)
        asked, window = self._asked.pop(meter, None), self.window
        if asked is None:
            return
        self._sampled -= asked.sampled
        if ending is Ending.LEFT:
            return
        own = window if window is not None and asked.life == window.life else None
        if ending is Ending.BROKEN or meter.failed:
            self.watch.failed(now, asked.life.strategy)
            if own is not None:
                own.failures += 1
        elif (measured := meter.measured()) is not None:
            strategy, size = asked.life.strategy, asked.body_bytes
            self.watch.answered(
                Timed(began=meter.began, at=now, strategy=strategy, measured=measured, asked_bytes=size)
            )
            if own is not None:
                self._take(own, measured)

    def _take(self, window: Window, measured: Measured) -> None:
        if len(window.answers) < MOST_ANSWERS:
            window.answers.append(measured)
            if len(window.answers) == MOST_ANSWERS:
                self.on_full()

    def _life(self, snapshot: EngineSnapshot) -> Life:
        if self._seen is None or self._seen[0] is not snapshot:
            self._seen = (snapshot, life_of(snapshot))
        return self._seen[1]

    def _to_be_sampled(self, body: bytes, now: float) -> bool:
        self._measured += 1
        if self._measured % SAMPLED != 1 or (now < self._sampled_at + SAMPLED_GAP and self._measured % SPARSELY != 1):
            return False
        if self._sampled >= SAMPLED_AT_ONCE or not telling(body):
            return False
        self._sampled += 1
        self._sampled_at = now
        return True

    def _count_busy(self, now: float) -> None:
        if self._running and self.window is not None:
            self.window.busy += now - self._counted_to
        self._counted_to = now


def _nobody() -> None:
    """Tell nobody."""
