"""The swarm in words: who is there, by which way, how it stands, and why nobody is. Knows the documents, no node."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Facts = Mapping[str, Any]

COLUMNS = 100  # of a terminal that people have
QUIET = ("fresh", "stale", "unread", "absent")  # states that say by themselves what they are
CLOCK_S = 60.0  # that a peer's clock may be apart without a word; statements are refused from 300 on


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


def clock(status: Facts) -> str:
    """Return the line on the clock: empty unless most peers' are too far from this machine's."""
    told = status.get("clock") or {}
    ahead = told.get("ahead_s") or 0.0
    if abs(ahead) <= told.get("tolerated_s", 0.0):
        return ""
    way = "behind" if ahead > 0 else "ahead of"
    return f"{abs(ahead):.0f} s {way} those of {told['peers']} peers (the median): `metainf doctor` says what to do"


def bootstraps(status: Facts) -> Iterator[str]:
    """Yield a line for each bootstrap of which nothing came: the last error is what explains an empty swarm."""
    for row in status.get("bootstraps", ()):
        if row["error"]:
            times = f" ({row['failures']} times, last {row['tried_s_ago']:.0f} s ago)"
            yield f"{place(row['address'])}: {row['error']}{times}"


def place(address: str) -> str:
    """Return an address without the peer's id, which says nothing to a person."""
    return address.partition("/p2p/")[0]


def table(peers: Sequence[Facts], *, ids: bool = False) -> Iterator[str]:
    """Yield the table of `metainf peers`, within `COLUMNS`; below a peer, indented, what is to be said of it.

    Args:
        ids: whole peer ids in place of names, roles and models.
    """
    if not peers:
        return
    if ids:
        head: tuple[str, ...] = ("PEER ID", "WAY", "RTT", "STATE")
        rows = [(str(peer["peer_id"]), _way(peer), _rtt(peer), _state(peer)) for peer in peers]
    else:
        head = ("NODE", "ID", "WAY", "RTT", "STATE", "ROLES")
        rows = [
            (
                _cut(peer["name"] or "-", 14),
                _short(peer["peer_id"]),
                _way(peer),
                _rtt(peer),
                _state(peer),
                _cut(",".join(peer.get("roles", ())) or "-", 15),
            )
            for peer in peers
        ]
        # The models have what the others leave.
        room = COLUMNS - sum(max(map(len, column)) + 2 for column in zip(head, *rows, strict=True))
        rows = [(*row, _models(peer, room)) for row, peer in zip(rows, peers, strict=True)]
        head = (*head, "MODEL")
    first, *lines = aligned([head, *rows])
    yield first
    for peer, line in zip(peers, lines, strict=True):
        yield line
        for note in _notes(peer):
            yield from textwrap.wrap(note, COLUMNS, initial_indent="    ", subsequent_indent="      ")


def _way(peer: Facts) -> str:
    via = peer.get("via")
    if not peer["connected"]:
        return "-"
    return "direct" if via in (None, "direct") else f"by {_short(via)}"


def _rtt(peer: Facts) -> str:
    milliseconds = peer["rtt_ms"]
    if milliseconds is None:
        return "-"
    return f"{milliseconds:.1f} ms" if milliseconds < 100 else f"{milliseconds:.0f} ms"


def _state(peer: Facts) -> str:
    return str(peer.get("state") or peer.get("closed") or ("open" if peer["connected"] else "absent"))


def _models(peer: Facts, room: int) -> str:
    first, *more = [model["name"] for model in peer["models"]] or ["-"]
    others = f" +{len(more)}" if more else ""
    return _cut(first, room - len(others)) + others


def _notes(peer: Facts) -> Iterator[str]:
    if peer.get("why") and _state(peer) not in QUIET:
        yield f"{_state(peer)}: {peer['why']}"
    for model in peer.get("loading", ()):
        yield f"is loading {_cut(model['name'], COLUMNS - 20)}"
    if peer.get("load") and peer["load"]["work"] >= 0.5:
        slots = f" of {peer['load']['slots']}" if peer["load"].get("slots") else ""
        yield f"{peer['load']['work']:g}{slots} prompts outstanding"
    ahead = peer.get("clock_ahead_s") or 0.0
    if abs(ahead) > CLOCK_S:
        yield f"its clock is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} ours"
    if peer["offences"]:
        yield f"standing {peer['standing']:g}: {counted(peer['offences'])}"


def _short(peer_id: str) -> str:
    """Return the end of a peer id: all of them begin alike."""
    return str(peer_id)[-8:]


def _cut(text: str, width: int) -> str:
    """Return text of strangers that fits a cell: nothing in it moves the cursor, and it is not too long."""
    plain = "".join(char if char.isprintable() else "?" for char in text)
    return plain if len(plain) <= width else plain[: width - 1] + "\N{HORIZONTAL ELLIPSIS}"


def counted(counts: Mapping[str, int]) -> str:
    """Return counts by reason in a line."""
    return ", ".join(f"{reason} {count}" for reason, count in sorted(counts.items()))


def aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield rows of cells as lines whose columns begin one below the other; nothing follows the last cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
