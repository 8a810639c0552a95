"""How vectors are written down and checked, whatever they are vectors of.

In the JSON, `{"$bytes": HEX}` is a byte string and `{"$int": TEXT}` an integer that JSON would round.
"""

from collections.abc import Callable
from typing import Any

import msgpack

from protocol import limits
from protocol.errors import RemoteProtocolError

Json = dict[str, Any]


def jsonable(value: Any) -> Any:
    """Return a value of the wire as JSON carries it."""
    if isinstance(value, bytes):
        return {"$bytes": value.hex()}
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > limits.EXACT_INT_MAX:
        return {"$int": str(value)}
    if isinstance(value, list):
        return [jsonable(item) for item in value]
    if isinstance(value, dict):
        return {key: jsonable(item) for key, item in value.items()}
    return value


def from_json(value: Any) -> Any:
    """Undo `jsonable`."""
    if isinstance(value, list):
        return [from_json(item) for item in value]
    if isinstance(value, dict):
        if "$bytes" in value:
            return bytes.fromhex(value["$bytes"])
        if "$int" in value:
            return int(value["$int"])
        return {key: from_json(item) for key, item in value.items()}
    return value


def refused(do: Callable[[], object], reason: str) -> str:
    """Return `reason` if that is what `do` is refused for."""
    try:
        do()
    except RemoteProtocolError as error:
        if error.reason.value != reason:
            raise AssertionError(f"refused for {error.reason.value}, not {reason}") from error
        return reason
    raise AssertionError(f"not refused, where {reason} is due")


def packed(value: object) -> bytes:
    """Return msgpack in the order given, canonical or not."""
    raw = msgpack.packb(value)
    assert isinstance(raw, bytes)
    return raw


def ordered(value: Any) -> Any:
    """Return a value with every map in the order of its keys, at every depth."""
    if isinstance(value, dict):
        return {key: ordered(value[key]) for key in sorted(value)}
    return [ordered(item) for item in value] if isinstance(value, list) else value
