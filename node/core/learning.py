"""When to learn anew, how much at a time, and what a learner says of itself, read with care.

Knows no process, no file and no record: counts and times go in, decisions come out. Times in seconds of a clock that
only rises.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, isfinite
from typing import Any, Final, cast

from node.errors import Unavailable

LEAST: Final = 60  # records below which nothing is learnt: the learner's own limit, and its start costs 100 MB
# Records learnt from at once: 210 s of a core and .7 GB (docs/learner.md). What is beyond them counts least (see
# `node.learner_ports.Lessons`), and the error falls slowly there: with five times the rows by a third.
MOST: Final = 25_000
GROWTH: Final = 1.1  # of the records held, or of this node's own, that is worth learning anew
EVERY: Final = 86_400.0  # s after which it is done anyway: records are replaced, and authors prove themselves
REST: Final = 10.0  # times as long as it took is rested after learning: at most a tenth of one core
LEAST_REST: Final = 300.0  # s
AGAIN: Final = (300.0, 1800.0, 7200.0, 43_200.0)  # s after learning that failed, by how often in a row
OBJECTIVES: Final = 8  # shown; as many as the learner takes
WORD_CHARS: Final = 64


class Late(Unavailable):
    """No answer came in time; what was asked for may be done all the same."""


class Schedule:
    """When to learn. What was learnt is lost with the learner, and so is what is said here with `forgot`."""

    def __init__(self, *, least: int = LEAST, most: int = MOST) -> None:
        self.least = least
        self._most = most
        self._held = self._own = self._written = 0  # at the last lesson; none yet
        self._began: float | None = None  # the lesson under way
        self._learnt_at: float | None = None
        self._not_before = -inf
        self._failures = 0  # in a row
        self._failed_at = -inf
        self._halvings = 0  # of the most to learn from; they outlive a lesson that ended well

    @property
    def most(self) -> int:
        """How many records to learn from now: fewer after failures, of which the memory is the likeliest cause."""
        return max(self._most >> self._halvings, self.least)

    def due(self, *, held: int, written: int, now: float) -> bool:
        """Tell whether it is time.

        Args:
            held: records in the history.
            written: records of this node's own that were added to it since the node came up.
        """
        if held < self.least or now < self._not_before:
            return False
        if self._learnt_at is None or now - self._learnt_at >= EVERY:
            return True
        own = self._own + written - self._written
        return held >= self._held * GROWTH or own > max(self._own * GROWTH, self._own)

    def began(self, *, held: int, own: int, written: int, now: float) -> None:
        """Note that learning began, with so many own records among those that are learnt from."""
        self._held, self._own, self._written, self._began = held, own, written, now

    def learnt(self, now: float) -> None:
        """Note that it ended well.

        What failed may need more memory than there is, and fail again: twice as much is tried a day later at the
        earliest, one step with each lesson.
        """
        self._learnt_at, self._failures = now, 0
        if now - self._failed_at >= EVERY:
            self._halvings = max(self._halvings - 1, 0)
        self._not_before = now + max(self._rest(now), LEAST_REST)

    def failed(self, now: float) -> None:
        """Note that it did not, or that it did not even begin."""
        self._failed_at = now
        self._not_before = now + max(AGAIN[min(self._failures, len(AGAIN) - 1)], self._rest(now))
        self._failures = min(self._failures + 1, len(AGAIN))
        self._halvings = min(self._halvings + 1, len(AGAIN))

    def _rest(self, now: float) -> float:
        """Return the seconds of rest that the lesson under way, now over, has cost."""
        began, self._began = self._began, None
        return 0.0 if began is None else REST * (now - began)

    def forgot(self, now: float) -> None:
        """Note that what was learnt is lost, by no fault of a lesson as far as anybody knows; learn again, not at once.

        A learner that dies beside its lessons, again and again, must not learn again and again.
        """
        if self._learnt_at is not None:
            self._learnt_at = None
            self._not_before = max(self._not_before, now + LEAST_REST)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What a learner says of itself; None where it does not, or talks nonsense.

    Attributes:
        heads: what it foretells with.
        rows: records learnt from. authors: of these. doubted: authors who contradict what others measured.
        error_median: of |log error| of the first objective, on contexts left out. coverage_90: share in the interval.
        objectives: the same of each, with the rows that it had.
        train_s: the last training.
        predictions, predict_s: questions answered since it started, and seconds that they took in all.
        memory_bytes: at its peak.
    """

    heads: tuple[str, ...] = ()
    rows: int = 0
    authors: int = 0
    doubted: tuple[str, ...] = ()
    error_median: float | None = None
    coverage_90: float | None = None
    objectives: Mapping[str, Mapping[str, float | None]] | None = None
    train_s: float | None = None
    predictions: int = 0
    predict_s: float = 0.0
    memory_bytes: int | None = None


def figures(said: Mapping[str, Any]) -> Figures:
    """Read what a learner says of itself; whatever is not as it should be is left out."""
    objectives: dict[str, Mapping[str, float | None]] = {
        name: {key: number(each.get(key)) for key in ("rows", "error_median", "coverage_90")}
        for name, one in list(_table(said.get("learnt")).items())[:OBJECTIVES]
        if (each := _table(one))
    }
    first: Mapping[str, float | None] = objectives[next(iter(objectives))] if objectives else {}
    return Figures(
        heads=_words(said.get("heads")),
        rows=_count(said.get("rows")),
        authors=_count(said.get("authors")),
        doubted=_words(said.get("doubted")),
        error_median=first.get("error_median"),
        coverage_90=first.get("coverage_90"),
        objectives=objectives,
        train_s=number(said.get("train_s")),
        predictions=_count(said.get("predictions")),
        predict_s=number(said.get("predict_s")) or 0.0,
        memory_bytes=_count(said.get("peak_bytes")) or None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """Which of some candidates to take.

    Attributes:
        index: of the candidate; None to take the engine's default.
        why: a word.
        gain, gain_low: over the default, log-cost: foretold, and the lower end of its 90 % interval. None: no default.
        harm_probability: that it is worse than the default; likewise.
        learnt: whether records speak, or physics alone.
        cost, half_width: log-cost of each candidate, and half its 90 % interval; None where unknown.
    """

    index: int | None
    why: str
    gain: float | None
    gain_low: float | None
    harm_probability: float | None
    learnt: bool
    cost: tuple[float | None, ...]
    half_width: tuple[float | None, ...]


def chosen(said: Mapping[str, Any], candidates: int) -> Chosen | None:
    """Read a choice among so many candidates; None where it is none."""
    index, cost, width = said.get("index"), _list(said.get("cost")), _list(said.get("half_width"))
    fits = index is None or (isinstance(index, int) and 0 <= index < candidates)
    if not fits or {len(cost), len(width)} != {candidates}:
        return None
    return Chosen(
        index=index,
        why=str(said.get("why"))[:WORD_CHARS],
        gain=number(said.get("gain")),
        gain_low=number(said.get("gain_low")),
        harm_probability=number(said.get("harm_probability")),
        learnt=said.get("learnt") is True,
        cost=tuple(map(number, cost)),
        half_width=tuple(map(number, width)),
    )


def number(value: object) -> float | None:
    """Return a number as such; None for anything else, infinity and integers beyond every float included."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if isfinite(found) else None


def _count(value: object) -> int:
    return max(int(number(value) or 0), 0)


def _words(value: object) -> tuple[str, ...]:
    return tuple(str(each)[:WORD_CHARS] for each in _list(value)[:OBJECTIVES])


def _list(value: object) -> list[object]:
    return cast("list[object]", value) if isinstance(value, list) else []


def _table(value: object) -> Mapping[str, object]:
    return cast("dict[str, object]", value) if isinstance(value, dict) else {}
