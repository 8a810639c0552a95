"""Performance records in words: a table of many, a page of one, a line of JSON. Knows no file.

What a record says is somebody else's text; the wire lets only printable ASCII through, so it cannot move a cursor.
"""

from base64 import b64encode
from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from hashlib import sha256
from typing import Final

from node.cli.record_reading import ENDING_CHARS, ENDING_DIGITS, Judged
from node.core.observation import from_wire_strategy, to_row
from node.core.observation_columns import SEALED, Scalar
from node.core.strategy import InvalidStrategy
from protocol.ids import RecordName
from protocol.performance import Hardware, Performance, Strategy

MS: Final = 1000  # µs
PRECISE_MS: Final = 100  # below it a decimal is worth its place
UNNAMED: Final = "unnamed"
AGES: Final = ((2 * 86_400, 86_400, "d"), (2 * 3600, 3600, "h"), (120, 60, "min"))  # from, of so many seconds, unit
SUBJECT: Final = ("model", "hardware", "strategy", "workload")
FIGURES: Final = ("TTFT ms", "TPOT ms", "mean ms", "tok/s")
COLUMNS: Final = ("record", "age", *SUBJECT, *FIGURES, "by", "verified")
GAP: Final = "  "


def short(name: RecordName) -> str:
    """Return the form of a name that `show` takes and that fits into a table."""
    return f"{str(name.author)[-ENDING_CHARS:]}/{str(name.epoch)[-ENDING_DIGITS:]}/{name.seq}"


def age(then_us: int, now_us: int) -> str:
    """Return how long ago that was."""
    seconds = (now_us - then_us) // 1_000_000
    if seconds < 0:
        return "ahead"
    for least, divisor, unit in AGES:
        if seconds >= least:
            return f"{seconds // divisor} {unit}"
    return f"{seconds} s"


def moment(time_us: int) -> str:
    """Return a time as this machine's clock shows it."""
    return f"{datetime.fromtimestamp(time_us // 1_000_000, UTC).astimezone():%Y-%m-%d %H:%M:%S}"


def verdict(judged: Judged) -> str:
    """Return whether a record is to be believed, in a few words."""
    if judged.failure:
        return f"NO: {judged.failure}"
    words = [f"signed, but {', '.join(judged.doubts)}" if judged.doubts else "yes"]
    words += ["expired"] if judged.expired else []
    words += ["author forked"] if judged.quarantined else []
    return ", ".join(words)


def hardware_words(hardware: Hardware) -> str:
    """Return what it ran on."""
    return hardware.name if hardware.count == 1 else f"{hardware.count} x {hardware.name}"


def strategy_words(strategy: Strategy) -> str:
    """Return the name of a strategy."""
    try:
        return from_wire_strategy(strategy).name
    except InvalidStrategy:
        return "of a newer version"


def listing(found: Iterable[Judged], *, now_us: int, width: int | None) -> Iterator[str]:
    """Yield the lines of a table, a row for each record in the order in which they come, nothing cut off.

    Args:
        width: columns of the terminal: where a row is wider, what was measured stands below it. None for one line each.
    """
    rows = [COLUMNS, *(_cells(judged, now_us) for judged in found)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    apart = width is not None and sum(widths) + len(GAP) * (len(COLUMNS) - 1) > width
    shown = [place for place, column in enumerate(COLUMNS) if not (apart and column in SUBJECT)]
    for number, row in enumerate(rows):
        cells = [_padded(row[place], COLUMNS[place], widths[place]) for place in shown]
        yield GAP.join(cells).rstrip()
        if apart and number:
            words = [row[place] for place, column in enumerate(COLUMNS) if column in SUBJECT]
            yield f"{GAP}{', '.join(filter(None, words))}"


def _padded(text: str, column: str, width: int) -> str:
    return text.rjust(width) if column in FIGURES else text.ljust(width)


def _cells(judged: Judged, now_us: int) -> tuple[str, ...]:
    what = _what(judged.body, now_us) if judged.body is not None else ("",) * (1 + len(SUBJECT) + len(FIGURES))
    return (short(judged.name), *what, "me" if judged.mine else "", verdict(judged))


def _what(body: Performance, now_us: int) -> tuple[str, ...]:
    outcome = body.outcome
    return (
        age(body.stamp.time, now_us),
        body.model.name or UNNAMED,
        hardware_words(body.hardware),
        strategy_words(body.strategy),
        body.workload.kind or body.origin,
        _ms(outcome.ttft_mean_us),
        _ms(outcome.tpot_mean_us),
        _ms(outcome.latency_mean_us) or (outcome.failure or ""),
        "" if outcome.output_tokens_per_s_milli is None else f"{outcome.output_tokens_per_s_milli / 1000:.1f}",
    )


def _ms(time_us: int | None) -> str:
    if time_us is None:
        return ""
    return f"{time_us / MS:.1f}" if time_us < PRECISE_MS * MS else f"{time_us / MS:.0f}"


def page(judged: Judged, *, now_us: int) -> Iterator[str]:
    """Yield the lines of everything in one record, figures in SI units under the names of the tables."""
    yield f"record     {judged.name}"
    yield f"author     {judged.name.author}" + (" (this node)" if judged.mine else "")
    yield f"verified   {verdict(judged)}"
    yield f"size       {len(judged.sealed)} bytes, SHA-256 {sha256(judged.sealed).hexdigest()}"
    if judged.body is None:
        yield "           the rest cannot be read"
        return
    stamp = judged.body.stamp
    yield f"measured   {moment(stamp.time)}, {age(stamp.time, now_us)} ago"
    yield f"counts     until {moment(stamp.expiry)}"
    yield f"strategy   {strategy_words(judged.body.strategy)}"
    sections: defaultdict[str, list[tuple[str, Scalar]]] = defaultdict(list)
    for column, value in to_row(judged.body).items():
        section, dot, name = column.partition(".")
        sections[section if dot else "record"].append((name or column, value))
    for section, lines in sections.items():
        width = max(len(name) for name, _ in lines)
        yield ""
        yield section
        yield from (f"  {name:<{width}}  {_value(value)}" for name, value in lines)


def _value(value: Scalar) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def as_row(judged: Judged) -> dict[str, Scalar | None]:
    """Return a record as one flat row: that of the tables, its sealed bytes, and what is to be said of it."""
    said: dict[str, Scalar | None] = {
        "name": str(judged.name),
        "mine": judged.mine,
        "verified": not judged.failure,
        "trouble": judged.trouble or None,
        "expired": judged.expired,
        "quarantined": judged.quarantined,
    }
    if judged.body is None:
        return said | {SEALED: b64encode(judged.sealed).decode()}
    return said | dict(to_row(judged.body, judged.sealed))
