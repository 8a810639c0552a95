"""When to learn anew, how much at a time, and what a learner says of itself, read with care.

Knows no process, no file and no record: counts and times go in, decisions come out. Times in seconds of a clock that
only rises.
"""

from collections.abc import Iterator, Mapping
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """Log-cost saved against something: as thought, and the ends of the 90 % interval. 0.02 is two per cent."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """A candidate worth trying.

    Attributes:
        value: log-cost that the trial is expected to save, for each second that it takes. saves: the same in all.
    """

    index: int
    value: float
    saves: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """Whether to run something else than what runs now, and what to try. Tuples have one entry for each candidate.

    Attributes:
        index: of the best candidate that is unlikely to be worse than the default; None: nothing fits. `worth` says
            whether to go over to it.
        why: a word: `best`, `default_is_best`, `not_sure_enough`, `abstained`, `only_default_fits`, `nothing_fits`;
            `current_unfit`: what runs now is banned, failed or does not fit, so that to switch is right whatever it
            gains.
        learnt: whether records speak, or physics alone, beside own measurements.
        estimated: energy in it is device-seconds x watts: no meter speaks of what is compared.
        gain, gain_low, gain_high: of `index` over the default. over_current: of `index` over what runs now, as sure
            as that very difference is.
        harm_probability: that `index` is worse than the default by 2 %.
        gains: of each candidate over the default; None where unknown.
        cost: log-costs. half_width: half the 90 % interval of the difference to the default. level: of the log-cost
            itself.
        measured: how many own trials speak of each.
        failed: candidates that did not come up, or broke down, here and lately.
        worth: whether to switch. saved_s: seconds of work that the switch saves at least. cost_s: that it takes.
            pays_after_s: how long it must last; None: it never pays, or there is nothing to switch to.
        probes: what to try in idle time, the most telling first.
    """

    index: int | None
    why: str
    learnt: bool
    estimated: bool
    gain: float | None
    gain_low: float | None
    gain_high: float | None
    over_current: Gain | None
    harm_probability: float | None
    gains: tuple[Gain | None, ...]
    cost: tuple[float | None, ...]
    half_width: tuple[float | None, ...]
    level: tuple[float | None, ...]
    measured: tuple[int, ...]
    failed: tuple[int, ...]
    worth: bool
    saved_s: float | None
    cost_s: float | None
    pays_after_s: float | None
    probes: tuple[Probe, ...]


def advice(said: Mapping[str, Any], candidates: int) -> Advice | None:
    """Read advice on so many candidates; None where it is none."""
    index, gains = said.get("index"), _list(said.get("gains"))
    columns = {name: _list(said.get(name)) for name in ("cost", "half_width", "level", "measured")}
    fits = index is None or (isinstance(index, int) and 0 <= index < candidates)
    if not fits or {len(gains), *map(len, columns.values())} != {candidates}:
        return None
    over = tuple(map(_gain, gains))
    taken = None if index is None else over[index]
    return Advice(
        index=index,
        why=str(said.get("why"))[:WORD_CHARS],
        learnt=said.get("learnt") is True,
        estimated=said.get("estimated") is True,
        gain=taken and taken.mean,
        gain_low=taken and taken.low,
        gain_high=taken and taken.high,
        over_current=_gain(said.get("over_current")),
        harm_probability=number(said.get("harm_probability")),
        gains=over,
        cost=tuple(map(number, columns["cost"])),
        half_width=tuple(map(number, columns["half_width"])),
        level=tuple(map(number, columns["level"])),
        measured=tuple(map(_count, columns["measured"])),
        failed=tuple(sorted({at for at in map(_index, _list(said.get("failed"))) if 0 <= at < candidates})),
        worth=said.get("worth") is True and index is not None,
        saved_s=number(said.get("saved_s")),
        cost_s=number(said.get("cost_s")),
        pays_after_s=number(said.get("pays_after_s")),
        probes=tuple(_probes(said.get("probes"), candidates)),
    )


def _gain(value: object) -> Gain | None:
    figures = [number(each) for each in _list(value)]
    match figures:
        case [float() as mean, float() as low, float() as high] if low <= mean <= high:
            return Gain(mean=mean, low=low, high=high)
        case _:
            return None


def _probes(value: object, candidates: int) -> Iterator[Probe]:
    for each in map(_table, _list(value)[:candidates]):
        index, worth, saves = _index(each.get("index")), number(each.get("value")), number(each.get("saves"))
        if 0 <= index < candidates and worth is not None and saves is not None:
            yield Probe(index=index, value=worth, saves=saves)


def _index(value: object) -> int:
    """Return a whole number; -1 where it is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) else -1


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
