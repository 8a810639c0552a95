"""Performance records as rows of an observation table, exactly and both ways, and rows as JSON Lines.

Knows the record's fields and the table's names; knows no file, no signature and no learner. A row is flat and in SI
units: seconds, bytes, watts, tokens, shares of one. What is absent is unknown. Every number of the wire comes back
from its column as it was, so a row loses nothing of a record; fields from the future ride along in one column.

A row with `record.sealed` is a signed record: what counts is what the sealed bytes open to, not its other columns.
A row without is an *observation*: nobody answers for it, so it stays on this machine.
"""

import json
import math
import re
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping
from hashlib import sha256
from typing import Final, TypeAlias, cast

from node.core import strategy as strategies
from node.core.observation_columns import COLUMNS, SEALED, SECTIONS, UNKNOWN, Column, InvalidRow, Scalar
from protocol import performance, schema, wire
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.performance import PERFORMANCE, Performance
from protocol.wire import Value

Row: TypeAlias = Mapping[str, Scalar]

LINE_BYTES: Final = 64 * 1024  # one row as JSON: a full record with its sealed bytes takes 12 KiB
ROW_COLUMNS: Final = 512  # three times those of a full record: other people's tables have their own
NAME_CHARS: Final = 128


# --- records and rows


def to_row(body: Performance, sealed: bytes | None = None) -> Row:
    """Return the row that shows a record; with its sealed bytes, where they are given, so that it can be verified.

    Raises:
        LocalProtocolError: the body breaks a rule of its kind.
    """
    whole = schema.write(body)
    row: dict[str, Scalar] = {}
    for column in COLUMNS:
        value = (_within(whole, column.section) or {}).get(column.field)
        if value is not None:
            row[column.name] = column.show(value)
    row |= _derived(body)
    if unknown := {".".join(path): dict(extra) for path, extra in _unknown(body) if extra}:
        row[UNKNOWN] = b64encode(wire.encode(cast("Value", unknown), PERFORMANCE.bounds)).decode()
    if sealed is not None:
        row[SEALED] = b64encode(sealed).decode()
    return row


def from_row(row: Row) -> Performance:
    """Return the record's body that a row shows; columns that no record has are left out.

    Raises:
        InvalidRow: a column that every record has is missing, or a value does not fit; the message names it.
    """
    whole: dict[str, Value] = {path[0]: {} for path, _ in SECTIONS if len(path) == 1}
    for column in COLUMNS:
        if (value := row.get(column.name)) is not None:
            _place(whole, column.section)[column.field] = _read(column, value)
    for path, extra in _read_unknown(row).items():
        place = _place(whole, tuple(path.split(".")) if path else ())
        if not isinstance(extra, dict) or set(extra) & set(place):
            raise InvalidRow(f"{UNKNOWN}: it names what the record has")
        place.update(extra)
    try:
        return schema.read(Performance, whole)
    except RemoteProtocolError as error:
        raise InvalidRow(f"{_column_of(error.path)}: {error.detail}") from None


def sealed_of(row: Row) -> bytes | None:
    """Return the sealed record that a row carries; None for an observation. Nothing is verified.

    Raises:
        InvalidRow: what it carries is no base64.
    """
    return None if SEALED not in row else _from_base64(SEALED, row[SEALED])


def context_of(
    model: performance.Model,
    hardware: performance.Hardware,
    benchmark: performance.Benchmark,
    workload: performance.Workload,
) -> int:
    """Return the number of the context that these make: 53 bits of a digest, the same wherever it is computed."""
    parts = [cast("Value", schema.write(part)) for part in (model, hardware, benchmark, workload)]
    digest = sha256(wire.encode(parts, PERFORMANCE.bounds)).digest()
    return int.from_bytes(digest[:7], "big") >> 3


def to_wire_strategy(strategy: strategies.Strategy) -> performance.Strategy:
    """Return the strategy as records carry it.

    Raises:
        LocalProtocolError: a value is for this machine alone: a draft model's path.
    """
    try:
        return schema.read(performance.Strategy, cast("Value", strategies.to_plain(strategy)))
    except RemoteProtocolError as error:
        raise LocalProtocolError(f"strategy.{error.path}: {error.detail}") from None


def from_wire_strategy(strategy: performance.Strategy) -> strategies.Strategy:
    """Return the strategy that a record tells of.

    Raises:
        node.core.strategy.InvalidStrategy: it is none that this version knows.
    """
    return strategies.from_plain(schema.write(strategy))


def _within(whole: Mapping[str, Value], section: tuple[str, ...]) -> Mapping[str, Value] | None:
    inner: Mapping[str, Value] | None = whole
    for name in section:
        inner = None if inner is None else cast("Mapping[str, Value] | None", inner.get(name))
    return inner


def _place(whole: dict[str, Value], section: tuple[str, ...]) -> dict[str, Value]:
    place = whole
    for name in section:
        place = cast("dict[str, Value]", place.setdefault(name, {}))
    return place


def _read(column: Column, value: Scalar) -> Value:
    try:
        return column.read(value)
    except InvalidRow as error:
        raise InvalidRow(f"{column.name}: {error}") from None


def _derived(body: Performance) -> Iterator[tuple[str, Scalar]]:
    if body.model.experts is not None:
        yield "model.mixture_of_experts", body.model.experts > 0
    try:
        name = from_wire_strategy(body.strategy).name
    except strategies.InvalidStrategy:
        return
    yield "strategy.name", name
    yield "strategy.is_default", name == strategies.DEFAULT.name


def _unknown(body: Performance) -> Iterator[tuple[tuple[str, ...], schema.Unknown]]:
    for path, _ in SECTIONS:
        held: object = body
        for name in path:
            held = None if held is None else getattr(held, name)
        if held is not None:
            yield path, cast("schema.Record", held).unknown


def _read_unknown(row: Row) -> Mapping[str, Value]:
    if UNKNOWN not in row:
        return {}
    try:
        found = wire.decode(_from_base64(UNKNOWN, row[UNKNOWN]), PERFORMANCE.bounds)
    except RemoteProtocolError as error:
        raise InvalidRow(f"{UNKNOWN}: {error.detail}") from None
    known = {".".join(path) for path, _ in SECTIONS}
    if not isinstance(found, dict) or not set(found) <= known:
        raise InvalidRow(f"{UNKNOWN}: not of the sections of a record")
    return found


def _from_base64(name: str, value: Scalar) -> bytes:
    try:
        return b64decode(str(value), validate=True)
    except ValueError:
        raise InvalidRow(f"{name}: not base64") from None


def _column_of(path: str) -> str:
    by_path = {".".join((*column.section, column.field)): column.name for column in COLUMNS}
    return by_path.get(path, path)


# --- JSON Lines

_HALF_A_PAIR: Final = re.compile("[\\ud800-\\udfff]")  # of surrogates: JSON can spell it, and it is no text
_INT_END: Final = 2**63  # of what tables carry
_NAME: Final = re.compile(rf"[A-Za-z][A-Za-z0-9_.]{{0,{NAME_CHARS - 1}}}")


def to_line(row: Row) -> bytes:
    """Return one line, its end included."""
    return json.dumps(dict(row), allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def from_line(line: bytes) -> Row:
    """Read one line; null is absent.

    Raises:
        InvalidRow: not one JSON object of scalars, twice the same name, or too large.
    """
    if len(line) > LINE_BYTES:
        raise InvalidRow(f"{len(line)} bytes where {LINE_BYTES} are allowed")
    try:
        found: object = json.loads(line.decode(), object_pairs_hook=_pairs, parse_constant=_no_constant)
    except InvalidRow:
        raise
    except (ValueError, RecursionError):
        raise InvalidRow("not a line of JSON") from None
    if not isinstance(found, dict):
        raise InvalidRow("not a JSON object")
    return {name: value for name, value in cast("dict[str, Scalar | None]", found).items() if value is not None}


def _pairs(pairs: list[tuple[str, object]]) -> dict[str, object]:
    row = dict(pairs)
    if len(row) != len(pairs) or len(row) > ROW_COLUMNS:
        raise InvalidRow(f"a column twice, or more than {ROW_COLUMNS} of them")
    for name, value in pairs:
        if not _NAME.fullmatch(name):
            raise InvalidRow(f"{name[:NAME_CHARS]!r} is no name of a column")
        if not _is_scalar(value):
            raise InvalidRow(f"{name}: a number, a text, true or false belongs there")
    return row


def _is_scalar(value: object) -> bool:
    if isinstance(value, str):
        return value.isascii() or not _HALF_A_PAIR.search(value)
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or (isinstance(value, int) and abs(value) < _INT_END)


def _no_constant(name: str) -> float:
    raise InvalidRow(f"{name} is no number of JSON")
