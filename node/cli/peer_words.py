"""The swarm in words: who is there, by which way, how it stands, and why nobody is. Knows the documents, no node."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Facts = Mapping[str, Any]


def company(status: Facts) -> str:
    """Return the line on the swarm for `metainf status`."""
    peers, named = status["peers"], status.get("bootstraps", ())
    if status.get("alone"):
        return "nobody answers yet; this node goes on alone and keeps trying"
    if not peers["known"]:
        if named:
            return "nobody else known yet"
        return "nobody else known; join with --join ADDRESS, an address that another node printed"
    return f"{peers['known']} known, {peers['connected']} of them connected"


def bootstraps(status: Facts) -> Iterator[str]:
    """Yield a line for each bootstrap of which nothing came: the last error is what explains an empty swarm."""
    for row in status.get("bootstraps", ()):
        if row["error"]:
            times = f" ({row['failures']} times, last {row['tried_s_ago']:.0f} s ago)"
            yield f"{place(row['address'])}: {row['error']}{times}"


def place(address: str) -> str:
    """Return an address without the peer's id, which says nothing to a person."""
    return address.partition("/p2p/")[0]


def counted(counts: Mapping[str, int]) -> str:
    """Return counts by reason in a line."""
    return ", ".join(f"{reason} {count}" for reason, count in sorted(counts.items()))


def aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield rows of cells as lines whose columns begin one below the other; nothing follows the last cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
