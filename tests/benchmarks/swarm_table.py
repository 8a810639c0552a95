"""What the measurements of the swarm say: medians of paired rounds. Pure: rows in, text out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

DIRECT, NODE, PEER, PEERS = "direct", "node", "peer", "peers"
WAYS = {
    DIRECT: "client -> engine",
    NODE: "client -> B -> engine",
    PEER: "client -> A -> B -> engine",
    PEERS: "client -> A -> B or C -> engine",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One way, one kind of work, one concurrency, one round.

    Attributes:
        kind: of `bench_swarm.KINDS`, or "rest" for nodes that are asked nothing.
        figures: by name; a figure's name ends with its unit. CPU is of the asked node (`asked`) and of those that
            serve (`serving`), per request, or per event of a stream with the stream's own cost in it.
    """

    way: str
    kind: str
    concurrency: int
    round: int
    figures: Mapping[str, float]


def table(rows: Sequence[Row]) -> str:
    """Return one table for each kind of work and concurrency, one line for each way.

    A figure is the median of the rounds. In brackets stands what it is beside the engine alone, the median of the
    differences (for times) or ratios (for all else) of the same rounds, so that a slow minute weighs on all alike.
    """
    parts: list[str] = []
    for kind, concurrency in dict.fromkeys((row.kind, row.concurrency) for row in rows):
        here = [row for row in rows if (row.kind, row.concurrency) == (kind, concurrency)]
        names = list(dict.fromkeys(name for row in here for name in row.figures))
        parts.append(f"{kind}, {concurrency} at once, median of {len({row.round for row in here})} rounds")
        lines = [("", *names)]
        lines += [
            (WAYS.get(way, way), *(_cell(way, name, here) for name in names))
            for way in dict.fromkeys(row.way for row in sorted(here, key=lambda row: list(WAYS).index(row.way)))
        ]
        widths = [max(len(line[column]) for line in lines) for column in range(len(names) + 1)]
        parts += [
            "  ".join(cell.ljust(width) if not at else cell.rjust(width) for at, (cell, width) in enumerate(line))
            for line in (zip(line, widths, strict=True) for line in lines)
        ]
        parts.append("")
    return "\n".join(parts)


def beside(rows: Sequence[Row], way: str, other: str, name: str, how: Callable[[float, float], float]) -> float | None:
    """Return the median, over the rounds that have both, of `how(figure, figure of the other way)`."""
    mine, theirs = ({row.round: row.figures.get(name) for row in rows if row.way == each} for each in (way, other))
    both = [(mine[number], theirs.get(number)) for number in mine]
    told = [how(one, two) for one, two in both if one is not None and two]
    return median(told) if told else None


def _cell(way: str, name: str, rows: Sequence[Row]) -> str:
    own = [row.figures[name] for row in rows if row.way == way and name in row.figures]
    if not own:
        return "-"
    text = _number(median(own))
    if way == DIRECT:
        return text
    if name.endswith(" ms"):
        added = beside(rows, way, DIRECT, name, lambda one, two: one - two)
        return text if added is None else f"{text} ({_sign(added)}{_number(abs(added))})"
    ratio = beside(rows, way, DIRECT, name, lambda one, two: one / two)
    return text if ratio is None else f"{text} (x{_number(ratio)})"


def _sign(value: float) -> str:
    return "-" if value < 0 else "+"


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
