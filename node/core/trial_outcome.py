"""What one trial came to: raw figures of the bench in, the outcome of a record out; and many of them as one cell.

Knows the arithmetic of latencies and shares; knows no engine, no plan and no file. Times are whole microseconds.
What could not be measured is None, never zero.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import cast


class NotATrial(ValueError):
    """Raw figures that no trial can have: our bench is broken, or something else spoke in its place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """A time over the requests of a trial, in µs."""

    mean: int
    p50: int
    p95: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one trial came to.

    Attributes:
        requests, failures: sent; of those, not answered to their last token.
        ttft: from a request's due arrival to its first token.
        tpot: time per output token after the first, of each request that has more than one.
        latency: from arrival to the last token. `stall`: the longest wait between two tokens of one request.
        throughput: output tokens per second of the trial, in thousandths.
        prefix_hit_share: prompt tokens found in the cache, of all prompt tokens, in millionths (ppm).
        acceptance: drafted tokens that the model accepted, in ppm; None where nothing was drafted.
        energy_mj: of the GPUs, else of the processor packages; None where neither can be read.
        cpu_us: of the engine. `foreign_load`: what others used of all cores meanwhile, in ppm.
        waited: share of the time in which the engine was ready to go on and had no core, in ppm.
        strangers: others' compute processes on the GPUs.
    """

    requests: int
    failures: int
    wall_us: int
    throughput: int
    ttft: Spread | None = None
    tpot: Spread | None = None
    latency: Spread | None = None
    stall: Spread | None = None
    prefix_hit_share: int | None = None
    acceptance: int | None = None
    preemptions: int | None = None
    peak_memory_bytes: int | None = None
    energy_mj: int | None = None
    cpu_us: int | None = None
    foreign_load: int | None = None
    waited: int | None = None
    strangers: int | None = None


MILLION = 1_000_000


def outcome(raw: Mapping[str, object]) -> Outcome:
    """Return what the bench's raw figures of one load come to.

    Raises:
        NotATrial: a figure is missing, negative or of the wrong type.
    """
    rows = [_row(each) for each in _rows(raw)]
    good = [row for row in rows if not row.get("failed") and "end" in row]
    wall = _count(raw, "wall_us") or 1
    prompt = sum(row.get("prompt", 0) for row in good)
    drafted = _count(raw, "drafted") or 0
    return Outcome(
        requests=len(rows),
        failures=len(rows) - len(good),
        wall_us=wall,
        throughput=round(sum(row.get("tokens", 0) for row in good) * 1000 * MILLION / wall),
        ttft=spread(row["first"] - row["at"] for row in good if "first" in row),
        tpot=spread((row["end"] - row["first"]) // (row["tokens"] - 1) for row in good if row.get("tokens", 0) > 1),
        latency=spread(row["end"] - row["at"] for row in good),
        stall=spread(row["stall"] for row in good if "stall" in row),
        prefix_hit_share=_share(sum(row.get("cached", 0) for row in good), prompt) if prompt else None,
        acceptance=_share(_count(raw, "accepted") or 0, drafted) if drafted else None,
        preemptions=_count(raw, "preempted"),
        peak_memory_bytes=_count(raw, "peak_bytes"),
        energy_mj=_count(raw, "energy_mj"),
        cpu_us=_count(raw, "cpu_us"),
        foreign_load=_foreign(raw, wall),
        waited=_share(_count(raw, "waited_us"), wall),
        strangers=_count(raw, "strangers"),
    )


def spread(values: Iterable[int]) -> Spread | None:
    """Return mean, median and 95th percentile (nearest rank); None of nothing."""
    ordered = sorted(values)
    if not ordered:
        return None
    if ordered[0] < 0:
        raise NotATrial("something was answered before it was asked")
    rank = math.ceil(0.95 * len(ordered)) - 1
    return Spread(mean=round(statistics.fmean(ordered)), p50=round(statistics.median(ordered)), p95=ordered[rank])


def _rows(raw: Mapping[str, object]) -> Sequence[object]:
    rows = raw.get("requests")
    if not isinstance(rows, list) or not rows:
        raise NotATrial("a trial without requests")
    return cast("list[object]", rows)


def _row(row: object) -> dict[str, int]:
    if not isinstance(row, dict):
        raise NotATrial("a request that is no object")
    found = cast("dict[object, object]", row)
    if not all(isinstance(key, str) and type(value) is int and value >= 0 for key, value in found.items()):
        raise NotATrial("a request whose figures are no counts")
    counts = cast("dict[str, int]", row)
    if "at" not in counts or ("end" in counts and not {"first", "tokens"} <= counts.keys()):
        raise NotATrial("a request that ends without a first token")
    return counts


def _count(raw: Mapping[str, object], name: str) -> int | None:
    value = raw.get(name)
    if value is None:
        return None
    if type(value) is not int or value < 0:
        raise NotATrial(f"{name} is no count")
    return value


def _foreign(raw: Mapping[str, object], wall: int) -> int | None:
    """Return what others used: all that was used, less the engine's own. Ticks are coarse: never below zero."""
    busy, own, cores = _count(raw, "busy_us"), _count(raw, "cpu_us"), _count(raw, "cores")
    if busy is None or own is None or not cores:
        return None
    return _share(max(busy - own, 0), wall * cores)


def _share(part: int | None, whole: int) -> int | None:
    return None if part is None else min(part * MILLION // whole, MILLION)


# --- many trials of one strategy under one workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One metric over the repetitions: the median, and the median absolute deviation from it."""

    median: float
    mad: float


def flatten(one: Outcome) -> dict[str, int]:
    """Return an outcome's figures by name (`latency.mean`, `throughput`), without what is absent."""
    flat: dict[str, int] = {}
    for field in fields(one):
        value = getattr(one, field.name)
        if isinstance(value, Spread):
            flat |= {f"{field.name}.{name}": getattr(value, name) for name in ("mean", "p50", "p95")}
        elif value is not None:
            flat[field.name] = value
    return flat


def repeated(outcomes: Sequence[Outcome]) -> dict[str, Figure]:
    """Return median and spread of every metric that all repetitions have."""
    flats = [flatten(one) for one in outcomes]
    if not flats:
        return {}
    common = set(flats[0]).intersection(*flats)
    return {name: _figure([flat[name] for flat in flats]) for name in flats[0] if name in common}


def _figure(values: Sequence[int]) -> Figure:
    middle = statistics.median(values)
    return Figure(median=middle, mad=statistics.median(abs(value - middle) for value in values))


def to_plain(one: Outcome) -> dict[str, object]:
    """Return an outcome as plain values; `from_plain` undoes it exactly."""
    plain: dict[str, object] = {}
    for field in fields(one):
        value = getattr(one, field.name)
        if isinstance(value, Spread):
            plain[field.name] = [value.mean, value.p50, value.p95]
        elif value is not None:
            plain[field.name] = value
    return plain


def from_plain(plain: Mapping[str, object]) -> Outcome:
    """Read what `to_plain` wrote.

    Raises:
        NotATrial: it is something else.
    """
    values: dict[str, Spread | int] = {}
    known = {field.name for field in fields(Outcome)}
    for name, value in plain.items():
        if name not in known:
            continue  # of a later version
        if type(value) is int:
            values[name] = value
        elif isinstance(value, list):
            mean, p50, p95 = (part for part in cast("list[object]", value) if isinstance(part, int))
            values[name] = Spread(mean=mean, p50=p50, p95=p95)
    try:
        return Outcome(**values)  # pyright: ignore[reportArgumentType]  # every field is a count or a latency
    except TypeError as error:
        raise NotATrial(f"an outcome that lacks figures: {error}") from error
