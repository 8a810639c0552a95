"""Canonical, bounded msgpack: one value, one encoding. Specification: docs/protocol/wire.md.

Knows no message and no field. Two passes guard the C decoder: the headers are walked and counted before anything
is built, so that a hostile kilobyte cannot ask for gigabytes; what was built is encoded again and must give the
same bytes, so that a signature covers a meaning and not merely one of its spellings.

There are no floats: NaN, -0.0 and 1.0 against 1 each broke a canonical form in some library. Text is not
normalised: it is compared as the bytes that were signed.
"""

from collections.abc import Callable
from typing import Final, TypeAlias, cast

import msgpack  # pyright: ignore[reportMissingTypeStubs] - it ships none

from protocol.errors import Flaw, Reason, blame_peer, blame_us
from protocol.limits import Bounds

Value: TypeAlias = "bool | int | str | bytes | list[Value] | dict[str, Value] | None"

INT_MIN: Final = -(2**63)
INT_MAX: Final = 2**64 - 1

_MISSING: Final = -1  # a header byte that stands for no value of ours
_MEASURED: Final = 0  # a header byte that says its length or count in the bytes that follow it


def _span(head: int) -> int:
    """Bytes of the value that begins with this byte, where that byte alone tells."""
    if head <= 0x7F or head >= 0xE0:
        return 1  # small integers
    if 0xA0 <= head <= 0xBF:
        return 1 + (head & 0x1F)  # short texts
    whole = {0xC0: 1, 0xC2: 1, 0xC3: 1, 0xCC: 2, 0xCD: 3, 0xCE: 5, 0xCF: 9, 0xD0: 2, 0xD1: 3, 0xD2: 5, 0xD3: 9}
    measured = 0x80 <= head <= 0x9F or 0xC4 <= head <= 0xC6 or 0xD9 <= head <= 0xDF
    return whole.get(head, _MEASURED if measured else _MISSING)


_SPANS: Final = tuple(_span(head) for head in range(256))
_BLOBS: Final = {0xC4: 1, 0xC5: 2, 0xC6: 4}  # header byte -> bytes of the length after it
_TEXTS: Final = {0xD9: 1, 0xDA: 2, 0xDB: 4}
_ARRAYS: Final = {0xDC: 2, 0xDD: 4}
_MAPS: Final = {0xDE: 2, 0xDF: 4}


def encode(value: Value, bounds: Bounds) -> bytes:
    """Return the only encoding of `value`: maps sorted by the UTF-8 bytes of their keys, everything minimal.

    Raises:
        LocalProtocolError: the value holds what the wire cannot carry, or exceeds a bound: `decode` would refuse.
    """
    try:
        raw = _pack(_sorted(value, bounds.depth))
        _walk(raw, bounds)
    except Flaw as flaw:
        raise blame_us(flaw) from None
    return raw


def decode(raw: bytes, bounds: Bounds) -> Value:
    """Return the value of which `raw` is the encoding.

    Time and memory are linear in the bounds, whatever `raw` claims of itself.

    Raises:
        RemoteProtocolError: `raw` is no canonical encoding, or exceeds a bound.
    """
    try:
        _walk(raw, bounds)
        return _build(raw)
    except Flaw as flaw:
        raise blame_peer(flaw) from None


def _walk(raw: bytes, bounds: Bounds) -> None:
    """Visit every header of `raw` and hold it to the bounds, building nothing."""
    if len(raw) > bounds.size:
        raise Flaw(Reason.TOO_LARGE, f"{len(raw)} bytes where {bounds.size} are allowed")
    at, due, declared = 0, 1, 1  # offset; values that the innermost open container still owes; values in all
    outer: list[int] = []  # the same of the containers around it
    while due or outer:
        if not due:
            due = outer.pop()
            continue
        if at >= len(raw):
            raise Flaw(Reason.TRUNCATED, "the encoding ends inside a value")
        due -= 1
        span = _SPANS[raw[at]]
        if span > 0:
            at += span
            continue
        at, count = _measure(raw, at, bounds)
        if count is not None:
            outer.append(due)
            due = count
            declared += count
            _hold_container(len(outer), declared, bounds)
    if at != len(raw):
        short = at > len(raw)
        reason = Reason.TRUNCATED if short else Reason.TRAILING
        raise Flaw(reason, "the encoding ends inside a value" if short else f"{len(raw) - at} bytes after the value")


def _hold_container(depth: int, declared: int, bounds: Bounds) -> None:
    if depth > bounds.depth:
        raise Flaw(Reason.TOO_DEEP, f"more than {bounds.depth} containers in each other")
    if declared > bounds.values:
        raise Flaw(Reason.TOO_MANY, f"more than {bounds.values} values")


def _measure(raw: bytes, at: int, bounds: Bounds) -> tuple[int, int | None]:
    """Return the offset after this header (or whole byte string), and how many values a container holds."""
    head = raw[at]
    if _SPANS[head] == _MISSING:
        raise Flaw(Reason.FORBIDDEN_TYPE, f"byte 0x{head:02x}: no floats, extensions or reserved bytes")
    if head in _BLOBS:
        return _skip(raw, at, _BLOBS[head], bounds.blob), None
    if head in _TEXTS:
        return _skip(raw, at, _TEXTS[head], bounds.text), None
    if head <= 0x9F:
        at, count, is_map = at + 1, head & 0x0F, head <= 0x8F
    else:
        is_map = head in _MAPS
        width = _MAPS[head] if is_map else _ARRAYS[head]
        at, count = at + 1 + width, _length(raw, at, width)
    if count > bounds.items:
        raise Flaw(Reason.TOO_MANY, f"{count} entries where {bounds.items} are allowed")
    return at, 2 * count if is_map else count


def _skip(raw: bytes, at: int, width: int, most: int) -> int:
    length = _length(raw, at, width)
    if length > most:
        raise Flaw(Reason.TOO_LARGE, f"a string of {length} bytes where {most} are allowed")
    return at + 1 + width + length


def _length(raw: bytes, at: int, width: int) -> int:
    field = raw[at + 1 : at + 1 + width]
    if len(field) < width:
        raise Flaw(Reason.TRUNCATED, "the encoding ends inside a length")
    return int.from_bytes(field, "big")


def _build(raw: bytes) -> Value:
    """Decode what `_walk` has passed, and hold it to the canonical form."""
    try:
        # The one bounded and strict place that the ban on it points to. `_map` sees keys of every type.
        unpack = cast("Callable[..., Value]", msgpack.unpackb)  # noqa: TID251 # pyright: ignore[reportUnknownMemberType]
        value = unpack(raw, raw=False, strict_map_key=False, object_pairs_hook=_map)
    except UnicodeDecodeError as error:
        raise Flaw(Reason.BAD_TEXT, "a text is not UTF-8") from error
    if _pack(value) != raw:
        raise Flaw(Reason.NOT_MINIMAL, "a number or a length is not in its shortest form")
    return value


def _map(pairs: list[tuple[object, Value]]) -> dict[str, Value]:
    last = None
    for key, _ in pairs:
        if type(key) is not str:
            raise Flaw(Reason.FORBIDDEN_TYPE, "a map's key is no text")
        # Python orders texts by code point, and UTF-8 keeps that order in its bytes.
        if last is not None and key <= last:
            raise Flaw(Reason.MAP_ORDER, "a map's keys are not strictly ascending")
        last = key
    return cast("dict[str, Value]", dict(pairs))


def _sorted(value: Value, depth: int) -> Value:
    """Return `value` with every map in order. Exact types only: a subclass may not survive the journey as itself."""
    kind = type(value)
    if value is None or kind is bool or kind is bytes:
        return value
    if kind is int:
        if not INT_MIN <= cast("int", value) <= INT_MAX:
            raise Flaw(Reason.OUT_OF_BOUNDS, "an integer needs more than 64 bits")
        return value
    if kind is str:
        return value
    if depth == 0:
        raise Flaw(Reason.TOO_DEEP, "too many containers in each other")
    if kind is list:
        return [_sorted(item, depth - 1) for item in cast("list[Value]", value)]
    if kind is dict:
        return _sorted_map(cast("dict[object, Value]", value), depth)
    raise Flaw(Reason.FORBIDDEN_TYPE, f"the wire carries no {kind.__name__}")


def _sorted_map(value: dict[object, Value], depth: int) -> Value:
    keys = [key for key in value if type(key) is str]
    if len(keys) != len(value):
        raise Flaw(Reason.FORBIDDEN_TYPE, "a map's key is no text")
    return {key: _sorted(value[key], depth - 1) for key in sorted(keys)}


def _pack(value: Value) -> bytes:
    try:
        pack = cast("Callable[[Value], bytes]", msgpack.packb)  # pyright: ignore[reportUnknownMemberType]
        return pack(value)
    except UnicodeEncodeError as error:
        raise Flaw(Reason.BAD_TEXT, "a text holds half a surrogate pair") from error
