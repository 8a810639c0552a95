"""Observation tables as Parquet files: rows in, rows out. pyarrow's only door.

Knows no record and no signature. pyarrow comes with the extra `learner`; without it there are JSON Lines.
A table is written beside its place and moved there whole, so that one that was cut short is never taken for one.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Final, cast

from node.core.observation import ROW_COLUMNS, Row
from node.core.observation_columns import InvalidRow, Scalar
from node.errors import Unavailable

GROUP_ROWS: Final = 4096  # held in memory at once: 50 MB of full rows with their sealed bytes
TEXT_CHARS: Final = 64 * 1024  # of one value, as a line of JSON has at most


def write_table(path: Path, rows: Iterable[Row], kinds: Mapping[str, type[Scalar]]) -> int:
    """Write rows under the columns that `kinds` names and types; return how many. Blocks; what is absent is null.

    Raises:
        Unavailable: pyarrow is not installed, or the disk refused. What was at `path` before is there still.
        InvalidRow: a row has another column, or a value of another type.
    """
    arrow, parquet = _pyarrow()
    types = {bool: arrow.bool_(), int: arrow.int64(), float: arrow.float64(), str: arrow.string()}
    schema = arrow.schema([(name, types[kind]) for name, kind in kinds.items()])
    beside = path.with_name(f".{path.name}.part")
    source, written = iter(rows), 0
    try:
        with parquet.ParquetWriter(beside, schema, compression="zstd") as writer:
            while group := list(islice(source, GROUP_ROWS)):
                writer.write_table(_arrow_table(arrow, schema, group))
                written += len(group)
        beside.replace(path)
    except OSError as error:
        raise Unavailable(f"{path} cannot be written: {error}", remedy="Choose another place for it.") from error
    finally:
        beside.unlink(missing_ok=True)
    return written


def read_table(path: Path) -> Iterator[Row]:
    """Yield a table's rows, nulls and NaN left out. Blocks; `GROUP_ROWS` of them are in memory at a time.

    Raises:
        Unavailable: pyarrow is not installed, or the file cannot be read or is no Parquet.
        InvalidRow: a column holds neither numbers nor texts nor truths, or a text is too long.
    """
    arrow, parquet = _pyarrow()
    try:
        with parquet.ParquetFile(path) as file:
            _hold_columns(arrow, file.schema_arrow)
            for group in file.iter_batches(batch_size=GROUP_ROWS):
                yield from map(_without_gaps, group.to_pylist())
    except (OSError, arrow.ArrowException) as error:
        raise Unavailable(f"{path} cannot be read: {error}", remedy="Is it a Parquet file?") from error


def _pyarrow() -> tuple[ModuleType, ModuleType]:
    try:
        import pyarrow  # noqa: PLC0415 -- may not be there, and takes half a second
        from pyarrow import parquet  # noqa: PLC0415
    except ImportError as error:
        raise Unavailable(
            "Parquet needs pyarrow, which is not installed.",
            remedy="Install the extra `learner` (pip install 'metainf[learner]'), or use JSON Lines.",
        ) from error
    return pyarrow, parquet


def _arrow_table(arrow: ModuleType, schema: object, group: list[Row]) -> object:
    known = set(schema.names)  # pyright: ignore[reportAttributeAccessIssue]
    for row in group:
        if strange := sorted(set(row) - known):
            raise InvalidRow(f"{strange[0]}: the table has no such column")
    try:
        return arrow.Table.from_pylist([dict(row) for row in group], schema=schema)
    except (arrow.ArrowException, OverflowError, UnicodeError) as error:
        raise InvalidRow(f"the rows do not fit the table: {error}") from error


def _hold_columns(arrow: ModuleType, schema: Iterable[object]) -> None:
    is_a = arrow.types
    fits = (is_a.is_boolean, is_a.is_integer, is_a.is_floating, is_a.is_string, is_a.is_large_string, is_a.is_null)
    columns = {column.name: column.type for column in schema}  # pyright: ignore[reportAttributeAccessIssue]
    if len(columns) > ROW_COLUMNS:
        raise InvalidRow(f"{len(columns)} columns where {ROW_COLUMNS} are allowed")
    for name, kind in columns.items():
        inner = kind.value_type if is_a.is_dictionary(kind) else kind
        if not any(fit(inner) for fit in fits):
            raise InvalidRow(f"{name}: neither numbers nor texts nor truths, but {kind}")


def _without_gaps(row: Mapping[str, object]) -> Row:
    kept: dict[str, Scalar] = {}
    for name, value in row.items():
        if value is None or (isinstance(value, float) and math.isnan(value)):
            continue
        if isinstance(value, str) and len(value) > TEXT_CHARS:
            raise InvalidRow(f"{name}: a text above {TEXT_CHARS} characters")
        kept[name] = cast("Scalar", value)
    return kept
