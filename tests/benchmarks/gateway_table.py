"""What the measurements of gateways say: medians of paired rounds, as ratios. Pure: rows in, text out."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

DIRECT = "direct"
YARDSTICK = "nginx"  # a gateway in C, about as cheap as one gets


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One gateway, one concurrency, one round: whole answers and streams. Seconds, per request or per event.

    Attributes:
        p50: of a whole answer, from the request's first byte to the answer's last.
        stream_p50: of a stream, to the first byte of its body.
        cpu: the gateway's CPU for one whole answer.
        cpu_event: its CPU for one streamed event, the share of a whole answer's taken off.
        rate: whole answers per second; events where streams have a pace.
        pace: events a second of each stream, where it is given; then all CPU is the events', and `p50` a stream's.
    """

    front: str
    concurrency: int
    round: int
    p50: float
    stream_p50: float
    cpu: float
    cpu_event: float
    rate: float
    pace: int = 0


HEADINGS = (
    "gateway",
    "added p50 µs",  # of a whole answer, over `direct`
    "p50 / direct",
    "added first µs",  # of a stream, to its first event
    "CPU/request µs",
    "/ nginx",
    "CPU/event µs",
    "/ nginx",
    "requests/s",
)


PACED_HEADINGS = (
    "gateway",
    "added first µs",
    "first µs",
    "CPU/event µs",
    "/ nginx",
    "cores used",
    "events/s",
)


def table(rows: Sequence[Row]) -> str:
    """Return one table for each concurrency, and one for each number of streams at a pace.

    Each round of a gateway is set against the same round of `direct` (for latency) and of the yardstick (for CPU);
    what is shown is the median of those, so that a slow minute of the machine weighs on all alike.
    """
    parts: list[str] = []
    for pace, concurrency in sorted({(row.pace, row.concurrency) for row in rows}):
        here = [row for row in rows if (row.pace, row.concurrency) == (pace, concurrency)]
        rounds = len({row.round for row in here})
        what = f"{concurrency} streams of {pace} events a second" if pace else f"{concurrency} at once"
        parts.append(f"{what}, median of {rounds} rounds")
        write = _paced_line if pace else _line
        headings = PACED_HEADINGS if pace else HEADINGS
        lines = [headings, *(write(front, here) for front in dict.fromkeys(row.front for row in here))]
        widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
        parts += ["  ".join(_padded(line, widths)) for line in lines]
        parts.append("")
    return "\n".join(parts)


def _padded(line: Sequence[str], widths: Sequence[int]) -> list[str]:
    first, *others = zip(line, widths, strict=True)
    return [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]


def _line(front: str, rows: Sequence[Row]) -> tuple[str, ...]:
    own = [row for row in rows if row.front == front]
    rate = f"{median(row.rate for row in own):.0f}"
    if front == DIRECT:
        return (front, *("-" for _ in HEADINGS[2:]), rate)
    direct = {row.round: row for row in rows if row.front == DIRECT}
    stick = {row.round: row for row in rows if row.front == YARDSTICK}
    beside_direct = [(row, direct[row.round]) for row in own if row.round in direct]
    beside_stick = [(row, stick[row.round]) for row in own if row.round in stick]
    return (
        front,
        _micro([row.p50 - base.p50 for row, base in beside_direct]),
        _ratio([(row.p50, base.p50) for row, base in beside_direct]),
        _micro([row.stream_p50 - base.stream_p50 for row, base in beside_direct]),
        _micro([row.cpu for row in own]),
        _ratio([(row.cpu, base.cpu) for row, base in beside_stick]),
        _micro([row.cpu_event for row in own]),
        _ratio([(row.cpu_event, base.cpu_event) for row, base in beside_stick]),
        rate,
    )


def _paced_line(front: str, rows: Sequence[Row]) -> tuple[str, ...]:
    own = [row for row in rows if row.front == front]
    direct = {row.round: row for row in rows if row.front == DIRECT}
    stick = {row.round: row for row in rows if row.front == YARDSTICK}
    return (
        front,
        _micro([row.stream_p50 - direct[row.round].stream_p50 for row in own if row.round in direct]),
        _micro([row.stream_p50 for row in own]),
        _micro([row.cpu_event for row in own]),
        _ratio([(row.cpu_event, stick[row.round].cpu_event) for row in own if row.round in stick]),
        f"{median(row.cpu_event * row.rate for row in own):.2f}",
        f"{median(row.rate for row in own):.0f}",
    )


def _micro(seconds: Sequence[float]) -> str:
    return f"{median(seconds) * 1e6:.0f}" if seconds else "?"


def _ratio(pairs: Sequence[tuple[float, float]]) -> str:
    ratios = [value / base for value, base in pairs if base > 0]
    return f"{median(ratios):.1f}" if ratios else "?"
