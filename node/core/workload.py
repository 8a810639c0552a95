"""What this node is asked, as numbers: a sliding description of its traffic, and whether that traffic has changed.

Knows arrivals, ends and counters as `node.core.traffic` tells them; knows no clock, no record and nothing of what is
said: lengths, times and shares of at most 512 answers of two hours. Nothing of it leaves the process but what a record
tells in two digits. An arrival or an answer costs a handful of additions; the rest is computed when asked for.

A description is robust where one prompt must not decide: a break is no gap between arrivals, and the mean of the
lengths counts what is beyond three times the p95 as that. It does not depend on the strategy that the engine happens to
run: where answers do not tell their tokens, the count of their events is scaled by what the engine's counters say.
"""

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, takewhile
from statistics import fmean, median, pstdev
from typing import Any, Final

import msgspec

from node.core import engine_counters as counters
from node.core.answer_meter import Measured
from node.core.copying import PPM
from node.core.engine_counters import Counters
from node.core.workload_change import Samples, changes, sample, turned
from node.core.workloads import Lengths

MOST_ANSWERS: Final = 512  # in a description: enough for a p95 of 25, little enough to sort in a millisecond
LONGEST: Final = 7200.0  # s: longer is another mood of the day
LEAST_ANSWERS: Final = 16  # that a description is over: of fewer, a median is anybody's
RECENT: Final = 64  # answers that are compared with a description: a change is seen within 50
RECENT_SPAN: Final = 3600.0  # s; what came before is not recent, however few came since
LEAST_RECENT: Final = 30
SECOND_LOOK: Final = 60.0  # s between the two looks that have to agree
BREAK: Final = 120.0  # s, or 20 times the usual gap where that is longer: nobody was there, which is no gap
BREAK_GAPS: Final = 20.0
CLIPPED: Final = 3.0  # times the p95
BYTES_A_TOKEN: Final = 4.0  # of a request's body, where nobody tells: English text in JSON
TELLING: Final = 8  # answers that tell their tokens, from which the others' are judged
LEAST_COPIED: Final = 4  # sampled answers
READINGS: Final = 128  # of the engine's counters, one a minute
RECENT_READINGS: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """The shape of the traffic.

    Attributes:
        requests: answers that it is over.
        shared_prefix_share: of the prompts' tokens, those that the engine found in its cache; None where it tells none.
        prefix_groups: never known of traffic.
        concurrency: prompts at the engine, on average over the time in which there was one.
        requests_per_s: inverse of the mean gap between arrivals, breaks left out; `burstiness` their deviation by mean.
        copy_share: of an answer's words, those that repeat its prompt or itself (`node.core.copying`).
        busy_share: of the span, the part in which at least one prompt was at the engine.
        latency_s: mean, of whole answers.
        samples: what `WorkloadWatch.changed` compares with.
    """

    requests: int
    prompt_tokens: Lengths | None
    output_tokens: Lengths | None
    shared_prefix_share: float | None
    prefix_groups: int | None
    concurrency: float | None
    requests_per_s: float | None
    burstiness: float | None
    streaming_share: float
    copy_share: float | None
    busy_share: float
    span_s: float
    latency_s: float | None = None
    samples: Samples = field(default_factory=Samples, repr=False)


def to_plain(description: Description) -> dict[str, Any]:
    """Return the description as JSON has it, for a file of this node's own. `from_plain` undoes it."""
    return msgspec.to_builtins(description)


def from_plain(plain: object) -> Description:
    """Read what `to_plain` wrote.

    Raises:
        ValueError: it is no description.
    """
    try:
        return msgspec.convert(plain, Description, strict=False)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from error


def shown(description: Description) -> dict[str, Any]:
    """Return the description for people: without the samples, in three digits."""
    plain = to_plain(description)
    del plain["samples"]
    return {name: _brief(value) for name, value in plain.items()}


def _brief(value: Any) -> Any:  # noqa: ANN401 -- of a description
    if isinstance(value, dict):
        return {name: _brief(each) for name, each in value.items()}  # pyright: ignore[reportUnknownVariableType]
    return float(f"{value:.3g}") if isinstance(value, float) else value


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """A whole answer. `began` and `at` are the loop's time: the engine was asked, and the last byte came.

    Attributes:
        strategy: name of the strategy that the engine ran when it was asked.
        asked_bytes: of the request's body.
    """

    began: float
    at: float
    strategy: str | None
    measured: Measured
    asked_bytes: int = 0


_Dated = tuple[float, float]  # when, and a value


@dataclass(frozen=True, slots=True)
class _Arrival:
    at: float
    running: int  # it included
    busy: float  # s in which anybody was answered, ever until then
    load: float  # s of all who were, likewise


@dataclass(frozen=True, slots=True)
class _Reading:
    at: float
    grown: Counters


class WorkloadWatch:
    """Fed by `node.core.traffic.Traffic` with all that has tokens generated. Times are seconds of one clock."""

    def __init__(self) -> None:
        self._answers: deque[Timed] = deque(maxlen=MOST_ANSWERS)
        self._failures: deque[tuple[float, str | None]] = deque(maxlen=MOST_ANSWERS)
        self._arrivals: deque[_Arrival] = deque(maxlen=MOST_ANSWERS)
        self._readings: deque[_Reading] = deque(maxlen=READINGS)
        self._running = 0
        self._busy = self._load = self._counted_to = 0.0
        self._from = -math.inf  # what came before was another workload
        self._suspected: tuple[Description, frozenset[str], float] | None = None

    # --- fed

    def arrived(self, now: float) -> None:
        """Note that the engine is asked."""
        self._count(now)
        self._running += 1
        self._arrivals.append(_Arrival(now, self._running, self._busy, self._load))

    def gone(self, now: float) -> None:
        """Note that one who arrived is no longer at the engine, however that came."""
        self._count(now)
        self._running -= 1

    def answered(self, answer: Timed) -> None:
        """Take a whole answer."""
        self._answers.append(answer)

    def failed(self, now: float, strategy: str | None = None) -> None:
        """Take one that the engine broke off, and what that ran when it was asked."""
        self._failures.append((now, strategy))

    def counted(self, grown: Counters, now: float) -> None:
        """Take what the engine's counters grew by since they were told last; a minute's worth, about."""
        self._readings.append(_Reading(now, grown))

    # --- asked

    def answers(self, since: float) -> tuple[Timed, ...]:
        """Return the whole answers that ended at `since` or later, the last 512 at most, in the order of their ends."""
        late = takewhile(lambda each: each.at >= since, reversed(self._answers))
        return tuple(late)[::-1]

    def failures(self, since: float, strategy: str | None = None) -> int:
        """Count the answers that the engine broke off at `since` or later; 512 at most.

        `strategy`: only of those that were asked while it ran this: an old engine that is leaving may fail, too.
        """
        return sum(at >= since and strategy in (None, ran) for at, ran in self._failures)

    def description(self, now: float) -> Description | None:
        """Return the shape of the traffic of late; None while there are too few answers to tell."""
        self._count(now)
        begin = max(now - LONGEST, self._from)
        answers = [each for each in self._answers if each.began >= begin]
        arrivals = [each for each in self._arrivals if each.at >= begin]
        if len(answers) < LEAST_ANSWERS or not arrivals:
            return None
        readings = [each for each in self._readings if each.at >= begin]
        values = _values(answers, arrivals, readings, answers)
        first = arrivals[0]
        span, busy = now - first.at, self._busy - first.busy
        gaps, copied = [gap for _, gap in values["gaps"]], [share for _, share in values["copied"]]
        return Description(
            requests=len(answers),
            prompt_tokens=_lengths([tokens for _, tokens in values["prompt"]]),
            output_tokens=_lengths([tokens for _, tokens in values["output"]]),
            shared_prefix_share=_prefix(readings),
            prefix_groups=None,
            concurrency=(self._load - first.load) / busy if busy > 0 else None,
            requests_per_s=1 / fmean(gaps) if gaps and fmean(gaps) > 0 else None,
            burstiness=pstdev(gaps) / fmean(gaps) if len(gaps) > 1 and fmean(gaps) > 0 else None,
            streaming_share=fmean(each.measured.streamed for each in answers),
            copy_share=fmean(copied) if len(copied) >= LEAST_COPIED else None,
            busy_share=min(busy / span, 1.0) if span > 0 else 1.0,
            span_s=span,
            latency_s=fmean(each.measured.latency for each in answers) / 1e6,
            samples=_samples(values),
        )

    def changed(self, since: Description, now: float) -> str:
        """Return in words why the traffic of late is another than that description; empty where it is not.

        To be asked each minute or so: a change counts once it was seen on looks a minute apart, and on all between.
        When it is told, what came before it is forgotten, so that the next description is of the new traffic alone.
        """
        recent = self._recent(now)
        found = changes(since.samples, _samples(recent)) if recent is not None else ()
        features = frozenset(each.feature for each in found)
        suspected, self._suspected = self._suspected, None
        if recent is None or not features:
            return ""
        if suspected is not None and suspected[0] == since:
            features &= suspected[1]
            first = suspected[2] if features else now
        else:
            first = now
        if not features or now - first < SECOND_LOOK:
            self._suspected = (since, features or frozenset(each.feature for each in found), first)
            return ""
        self._forget(since.samples, recent, features)
        return "; ".join(each.words for each in found if each.feature in features)

    def _forget(self, before: Samples, recent: Mapping[str, Sequence[_Dated]], features: Iterable[str]) -> None:
        """Forget what came before the traffic turned, but for as many answers as a description needs."""
        turns = [
            recent[feature][turned(getattr(before, feature), [value for _, value in recent[feature]])][0]
            for feature in features
        ]
        enough = sorted(each.began for each in self._answers)[-LEAST_ANSWERS]
        self._from = max(self._from, min(max(turns), enough))

    def _recent(self, now: float) -> Mapping[str, Sequence[_Dated]] | None:
        """Return the values of each feature of late with their times; None of too few answers."""
        begin = max(now - RECENT_SPAN, self._from)
        answers = [each for each in list(self._answers)[-RECENT:] if each.began >= begin]
        if len(answers) < LEAST_RECENT:
            return None
        arrivals = [each for each in list(self._arrivals)[-RECENT:] if each.at >= begin]
        readings = [each for each in list(self._readings)[-RECENT_READINGS:] if each.at >= begin]
        # One answer in eight at most is sampled: those among so few would be too few to rank.
        sampled = [each for each in self._answers if each.began >= begin and each.measured.copied is not None]
        return _values(answers, arrivals, readings, sampled[-RECENT // 4 :])

    def _count(self, now: float) -> None:
        if self._running:
            apart = now - self._counted_to
            self._busy += apart
            self._load += apart * self._running
        self._counted_to = now


def _values(
    answers: Sequence[Timed], arrivals: Sequence[_Arrival], readings: Sequence[_Reading], sampled: Sequence[Timed]
) -> Mapping[str, Sequence[_Dated]]:
    """Return each feature's values with their times, under the names of `Samples`."""
    prompts, telling = _prompts(answers, readings), _telling(answers)
    outputs = _outputs(telling, readings)
    shares = [(each.at, _prefix([each])) for each in readings]
    return {
        "prompt": [(each.began, value) for each, value in zip(answers, prompts, strict=True)],
        "output": [(each.began, value) for each, value in zip(telling, outputs, strict=True)],
        "gaps": _gaps(arrivals),
        "running": [(each.at, float(each.running)) for each in arrivals],
        "copied": [(each.began, each.measured.copied / PPM) for each in sampled if each.measured.copied is not None],
        "prefix": [(at, share) for at, share in shares if share is not None],
    }


def _samples(values: Mapping[str, Sequence[_Dated]]) -> Samples:
    plain = {name: [value for _, value in dated] for name, dated in values.items()}
    clipped = {name: _clipped_mean(plain[name]) for name in ("prompt", "output")}
    return Samples(**{name: sample(found, mean=clipped.get(name)) for name, found in plain.items()})


def _prompts(answers: Sequence[Timed], readings: Sequence[_Reading]) -> list[float]:
    """Return the prompts' tokens: told, or judged by the request's size."""
    told = [each for each in answers if each.measured.prompt_tokens is not None]
    untold = len(answers) - len(told)
    if not untold:
        return [float(each.measured.prompt_tokens or 0) for each in told]
    told_bytes = sum(each.asked_bytes for each in told)
    mean = _mean(readings, counters.PROMPT_TOKENS, counters.PROMPTS)
    all_bytes = sum(each.asked_bytes for each in answers)
    if len(told) >= TELLING and told_bytes:
        ratio = sum(each.measured.prompt_tokens or 0 for each in told) / told_bytes
    elif mean is not None and all_bytes:
        ratio = mean * len(answers) / all_bytes
    else:
        ratio = 1 / BYTES_A_TOKEN
    return [
        max(each.asked_bytes * ratio, 1.0)
        if each.measured.prompt_tokens is None
        else float(each.measured.prompt_tokens)
        for each in answers
    ]


def _telling(answers: Sequence[Timed]) -> list[Timed]:
    return [each for each in answers if each.measured.output_tokens is not None]


def _outputs(answers: Sequence[Timed], readings: Sequence[_Reading]) -> list[float]:
    """Return the answers' tokens: told, or their events, of which speculation puts several tokens into one."""
    tokens = [float(each.measured.output_tokens or 0) for each in answers]
    if all(each.measured.told for each in answers):
        return tokens
    mean, events = _mean(readings, counters.OUTPUT_TOKENS, counters.OUTPUTS), fmean(tokens)
    # Engines never put a token into two events: less than one for an event is the counters' others.
    factor = max(mean / events, 1.0) if mean is not None and events else 1.0
    return [count if each.measured.told else count * factor for each, count in zip(answers, tokens, strict=True)]


def _gaps(arrivals: Sequence[_Arrival]) -> list[_Dated]:
    """Return the gaps between arrivals at their ends, without breaks."""
    gaps = [(after.at, after.at - before.at) for before, after in pairwise(arrivals)]
    longest = max(BREAK, BREAK_GAPS * median(gap for _, gap in gaps)) if gaps else BREAK
    return [(at, gap) for at, gap in gaps if gap <= longest]


def _prefix(readings: Iterable[_Reading]) -> float | None:
    hits = queries = 0.0
    for each in readings:
        if counters.PREFIX_HITS in each.grown and counters.PREFIX_QUERIES in each.grown:
            hits += each.grown[counters.PREFIX_HITS]
            queries += each.grown[counters.PREFIX_QUERIES]
    return min(hits / queries, 1.0) if queries > 0 else None


def _mean(readings: Sequence[_Reading], total: str, count: str) -> float | None:
    summed: Mapping[str, float] = {
        name: sum(each.grown.get(name, 0.0) for each in readings if total in each.grown and count in each.grown)
        for name in (total, count)
    }
    return counters.mean(total, count, summed)


def _clipped_mean(values: Sequence[float]) -> float:
    if not values:
        return 0.0
    most = CLIPPED * _quantile(sorted(values), 0.95)
    return fmean(min(each, most) for each in values)


def _lengths(values: Sequence[float]) -> Lengths | None:
    if not values:
        return None
    ordered = sorted(values)
    return Lengths(mean=_clipped_mean(values), p50=round(_quantile(ordered, 0.5)), p95=round(_quantile(ordered, 0.95)))


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[max(math.ceil(share * len(ordered)) - 1, 0)]
