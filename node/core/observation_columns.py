"""The columns of an observation table that show a performance record: made from the record's declarations.

Knows the record's fields and the names that the tables have; knows no record, row or file. Units are SI: seconds,
hertz, watts, bytes, tokens, shares of one.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Final, TypeAlias, cast, get_args

from protocol import performance, schema
from protocol.ids import InvalidId, PeerId
from protocol.performance import Performance
from protocol.records import Stamp
from protocol.wire import Value

Scalar: TypeAlias = bool | int | float | str

SEALED: Final = "record.sealed"
UNKNOWN: Final = "record.unknown"
_NUMBER_MAX: Final = 1e24  # beyond every unit's largest value; keeps what follows from overflowing


class InvalidRow(ValueError):
    """A row that is no row, or stands for no record. The message names the column."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column and the field that it shows.

    Attributes:
        section: path of the map that the field lies in; empty for the body itself.
        kind: what its values are.
        show: from the wire's value.
        read: back to it. Raises InvalidRow.
    """

    name: str
    section: tuple[str, ...]
    field: str
    kind: type[Scalar]
    show: Callable[[Value], Scalar]
    read: Callable[[Scalar], Value]


# How the end of a field's name says its unit, what the column's name ends in instead, and the power of ten between.
_UNITS: Final = (
    ("_us", "_s", -6),
    ("_ns", "_s", -9),
    ("_mw", "_watts", -3),
    ("_mj", "_j", -3),
    ("_milli", "", -3),
    ("_ppm", "_share", -6),
    ("_khz", "_hz", 3),
    ("_mflops", "_flops", 6),
)
# Names that the tables of others had first, and figures that are no shares.
_NAMES: Final = {
    "workload.prompt_tokens_mean": "workload.prompt_tokens",
    "workload.output_tokens_mean": "workload.output_tokens",
    "workload.burstiness_share": "workload.burstiness",
    "strategy.speculation.method": "strategy.speculation",
    "strategy.speculation.tokens": "strategy.speculative_tokens",
    "engine.name": "strategy.engine",
    "engine.version": "strategy.engine_version",
    "context": "context",
}
_BENCHMARK: Final = "hardware.measured_"  # and where no number format is named, bfloat16 is meant
_STAMP_TIMES: Final = ("epoch", "time", "expiry")  # microseconds: they name things, and must not be rounded

# The maps of a body, outermost first: a section comes after what it lies in.
SECTIONS: Final[tuple[tuple[tuple[str, ...], type[schema.Record]], ...]] = (
    (("stamp",), Stamp),
    ((), Performance),
    (("model",), performance.Model),
    (("hardware",), performance.Hardware),
    (("benchmark",), performance.Benchmark),
    (("engine",), performance.Engine),
    (("strategy",), performance.Strategy),
    (("strategy", "speculation"), performance.Speculation),
    (("workload",), performance.Workload),
    (("outcome",), performance.Outcome),
)


def _number(value: Scalar) -> int | float:
    if isinstance(value, bool | str) or not abs(value) <= _NUMBER_MAX:  # not a number compares false
        raise InvalidRow("a number belongs there")
    return value


def _as_it_is(value: Value) -> Scalar:
    return cast("Scalar", value)


def _whole(value: Scalar) -> int:
    # Tables with gaps carry whole numbers as doubles.
    number = _number(value)
    if number != int(number):
        raise InvalidRow(f"{number} is not a whole number")
    return int(number)


def _scaled(power: int) -> tuple[Callable[[Value], Scalar], Callable[[Scalar], Value]]:
    """Return the way to a double and back. One correctly rounded operation each: exact below `SCALED_MAX`."""
    factor = 10 ** abs(power)
    if power < 0:
        return lambda value: cast("int", value) / factor, lambda number: round(_number(number) * factor)
    return lambda value: float(cast("int", value) * factor), lambda number: round(_number(number) / factor)


def _text(value: Scalar) -> str:
    if not isinstance(value, str):
        raise InvalidRow("a text belongs there")
    return value


def _truth(value: Scalar) -> bool:
    if not isinstance(value, bool):
        raise InvalidRow("true or false belongs there")
    return value


def _from_hex(value: Scalar) -> bytes:
    try:
        return bytes.fromhex(_text(value))
    except ValueError:
        raise InvalidRow("hexadecimal digits belong there") from None


def _author(value: Scalar) -> bytes:
    try:
        return PeerId.from_string(_text(value)).to_bytes()
    except InvalidId as error:
        raise InvalidRow(str(error)) from None


def _show_extra(value: Value) -> str:
    return ",".join(f"{key}={text}" for key, text in sorted(cast("dict[str, str]", value).items()))


def _read_extra(value: Scalar) -> Value:
    pairs = [pair.partition("=") for pair in _text(value).split(",")] if value else []
    return {key: text for key, _, text in pairs}


def _show_author(value: Value) -> str:
    return str(PeerId.from_bytes(cast("bytes", value)))


def _show_hex(value: Value) -> str:
    return cast("bytes", value).hex()


_Way: TypeAlias = tuple[type[Scalar], Callable[[Value], Scalar], Callable[[Scalar], Value]]
_WAYS: Final[Mapping[str, _Way]] = {  # of fields that lie on the wire in another form than in a row
    "engine_extra": (str, _show_extra, _read_extra),
    "author": (str, _show_author, _author),
    "digest": (str, _show_hex, _from_hex),
    "pair": (str, _show_hex, _from_hex),
    "epoch": (int, _as_it_is, _whole),
}


def _way(name: str, held: str) -> _Way:
    if name in _WAYS:
        return _WAYS[name]
    if "bool" in held:
        return bool, _as_it_is, _truth
    return (int, _as_it_is, _whole) if "int" in held else (str, _as_it_is, _text)


def _column(section: tuple[str, ...], name: str, held: str) -> Column:
    """Return the column of one field, by the field's name and the type that it holds."""
    kind, show, read = _way(name, held)
    called = name
    for ending, other, power in _UNITS:
        if kind is int and name.endswith(ending):
            kind, (show, read), called = float, _scaled(power), name.removesuffix(ending) + other
    return Column(name=_called(section, called), section=section, field=name, kind=kind, show=show, read=read)


def _called(section: tuple[str, ...], name: str) -> str:
    if section == ("benchmark",):
        return _BENCHMARK + name.replace("_bf16", "")
    if section == ("stamp",):
        return f"record.{name}_us" if name in _STAMP_TIMES else f"record.{name}"
    full = ".".join((*section, name))
    return _NAMES.get(full, full if section else f"record.{name}")


def _columns() -> Iterator[Column]:
    held = {path[-1] for path, _ in SECTIONS if path}
    for section, cls in SECTIONS:
        for item in fields(cls):
            if item.name not in held | {schema.UNKNOWN}:
                yield _column(section, item.name, str(get_args(item.type)[0]))


COLUMNS: Final = tuple(_columns())
DERIVED: Final[Mapping[str, type[Scalar]]] = {  # computed on the way out, ignored on the way in
    "model.mixture_of_experts": bool,
    "strategy.name": str,
    "strategy.is_default": bool,
}
KINDS: Final[Mapping[str, type[Scalar]]] = (
    {column.name: column.kind for column in COLUMNS} | DERIVED | {UNKNOWN: str, SEALED: str}
)
