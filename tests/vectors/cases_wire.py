"""Vectors of the canonical encoding and of the frames around it."""

from collections.abc import Callable
from typing import Final

from protocol import framing, limits, wire
from tests.vectors.forms import Json, jsonable, refused

_WIRE_VALUES: Final[dict[str, wire.Value]] = {
    "nil": None,
    "false": False,
    "true": True,
    "zero": 0,
    "largest fixint": 127,
    "uint8": 128,
    "uint8 end": 255,
    "uint16": 256,
    "uint16 end": 65535,
    "uint32": 65536,
    "uint32 end": 2**32 - 1,
    "uint64": 2**32,
    "uint64 end": 2**64 - 1,
    "negative fixint": -1,
    "negative fixint end": -32,
    "int8": -33,
    "int8 end": -128,
    "int16": -129,
    "int32": -32769,
    "int64": -(2**31) - 1,
    "int64 end": -(2**63),
    "empty text": "",
    "fixstr end": "x" * 31,
    "str8": "x" * 32,
    "str16": "x" * 256,
    "text beyond the basic plane": "é\u0301😀",
    "empty bytes": b"",
    "bin8": b"\xff" * 3,
    "bin16": b"\0" * 256,
    "empty list": [],
    "list": [1, "a", b"a", None, [True]],
    "array16": [0 for _ in range(16)],
    "empty map": {},
    "map": {"a": 1, "aa": 2, "b": {"z": []}},
    "map16": {f"k{index:02}": index for index in range(16)},
    "map order is that of UTF-8 bytes": {"Z": 1, "a": 2, "é": 3, "\uffff": 4, "😀": 5},
    "the example of the specification": {
        "load": {"running": 2},
        "name": "é",
        "raw": b"\x00\xff",
        "t_us": 1763640000000000,
    },
}

_WIRE_INVALID: Final[list[tuple[str, str, str]]] = [
    ("nothing", "", "truncated"),
    ("float32", "ca3f800000", "forbidden_type"),
    ("float64 NaN", "cb7ff8000000000000", "forbidden_type"),
    ("float inside a list", "91cb3ff0000000000000", "forbidden_type"),
    ("fixext1", "d40101", "forbidden_type"),
    ("timestamp extension", "d6ff00000000", "forbidden_type"),
    ("ext8", "c70101ff", "forbidden_type"),
    ("reserved byte", "c1", "forbidden_type"),
    ("integer key", "810102", "forbidden_type"),
    ("byte string key", "81c4016101", "forbidden_type"),
    ("list as a key", "819001", "forbidden_type"),
    ("one byte after the value", "c000", "trailing"),
    ("uint8 for a fixint", "cc7f", "not_minimal"),
    ("uint64 for zero", "cf0000000000000000", "not_minimal"),
    ("int8 for a negative fixint", "d0ff", "not_minimal"),
    ("int64 for a positive number", "d30000000000000001", "not_minimal"),
    ("str8 for a fixstr", "d90161", "not_minimal"),
    ("str16 for a fixstr", "da000161", "not_minimal"),
    ("bin16 for a bin8", "c5000161", "not_minimal"),
    ("array16 for a fixarray", "dc000101", "not_minimal"),
    ("map16 for a fixmap", "de0001a16101", "not_minimal"),
    ("duplicate key", "82a16101a16102", "map_order"),
    ("descending keys", "82a16201a16102", "map_order"),
    ("keys ordered by length, then bytes", "82a16201a2616101", "map_order"),
    ("lone continuation byte", "a180", "bad_text"),
    ("overlong slash", "a2c0af", "bad_text"),
    ("encoded surrogate", "a3eda080", "bad_text"),
    ("beyond U+10FFFF", "a4f4908080", "bad_text"),
    ("text cut short", "a261", "truncated"),
    ("length cut short", "da00", "truncated"),
    ("integer cut short", "cf00", "truncated"),
    ("list cut short", "9201", "truncated"),
    ("map without its last value", "81a161", "truncated"),
    ("list that claims 2^32-1 entries", "ddffffffff", "too_many"),
    ("map that claims 2^32-1 entries", "dfffffffff", "too_many"),
    ("text that claims 2^32-1 bytes", "dbffffffff", "too_large"),
    ("byte string that claims 2^32-1 bytes", "c6ffffffff", "too_large"),
    ("17 lists in each other", "91" * 17 + "c0", "too_deep"),
    ("1,025 entries in one list", "dc0401" + "c0" * 1025, "too_many"),
    ("five lists of 1,000 entries", "95" + ("dc03e8" + "c0" * 1000) * 5, "too_many"),
    ("a text above 16 KiB", "da4001" + "61" * 16385, "too_large"),
]


def wire_vectors() -> Json:
    """Values and their only encoding; encodings to be refused, under the bounds of a message."""
    return {
        "valid": [
            {"name": name, "hex": wire.encode(value, limits.MESSAGE).hex(), "value": jsonable(value)}
            for name, value in _WIRE_VALUES.items()
        ],
        "invalid": [
            {"name": name, "hex": text, "reason": refused(_decoder(bytes.fromhex(text)), reason)}
            for name, text, reason in _WIRE_INVALID
        ],
    }


def _decoder(raw: bytes) -> Callable[[], object]:
    return lambda: wire.decode(raw, limits.MESSAGE)


def framing_vectors() -> Json:
    """Streams and the frames in them; for invalid ones, the frames that come out before the reason."""
    whole = framing.frame(b"a") + framing.frame(b"bc")
    return {
        "valid": [
            {"name": "two frames", "stream": whole.hex(), "frames": ["61", "6263"]},
            {"name": "nothing yet", "stream": "", "frames": []},
        ],
        "invalid": [
            {"name": "an empty frame", "stream": "000000016100000000", "frames": ["61"], "reason": "empty_frame"},
            {"name": "one byte above the limit", "stream": "00100001", "frames": [], "reason": "too_large"},
            {"name": "the largest length there is", "stream": "ffffffff", "frames": [], "reason": "too_large"},
            {"name": "ends inside the prefix", "stream": "000000016100", "frames": ["61"], "reason": "truncated"},
            {"name": "ends inside the payload", "stream": "0000000261", "frames": [], "reason": "truncated"},
        ],
    }
