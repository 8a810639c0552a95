"""Bytes that no honest peer says, from a seed: random ones, and the golden vectors damaged in all ways that come up."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from protocol import limits

VECTORS = Path(__file__).parent.parent / "vectors"
MOST = limits.FRAME_BYTES  # what a frame carries: longer ones are the framing's business

# Small words that claim much, as msgpack has them: lengths of gigabytes, and depth without end.
CLAIMS = (
    b"\xdd\xff\xff\xff\xff",  # an array of four thousand million
    b"\xdf\xff\xff\xff\xff",  # a map of as many
    b"\xdb\xff\xff\xff\xff",  # a text
    b"\xc6\xff\xff\xff\xff",  # a byte string
    b"\xc9\xff\xff\xff\xff\x01",  # an extension
    b"\x81\xa4kind\xc6\x7f\xff\xff\xff",
    b"\x82\xa4kind\xa4body\xa4data\xc6\x3f\xff\xff\xff\0",
)


def vectors(*names: str) -> tuple[bytes, ...]:
    """Return every message of these files, those that are valid and those that are not."""
    found: list[bytes] = []
    for name in names:
        document = json.loads((VECTORS / f"{name}.json").read_text())
        for each in (*document["valid"], *document["invalid"]):
            text = each.get("hex") or each.get("sealed") or each.get("stream")
            if isinstance(text, str):
                found.append(bytes.fromhex(text))
    return tuple(each for each in found if each)


def _random(_: bytes, luck: random.Random) -> bytes:
    return luck.randbytes(luck.choice((1, 2, 10, 100, 1000)))


def _flip(data: bytes, luck: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(luck.randint(1, 4)):
        changed[luck.randrange(len(changed))] = luck.randrange(256)
    return bytes(changed)


def _cut(data: bytes, luck: random.Random) -> bytes:
    return data[: luck.randrange(len(data))]


def _double(data: bytes, _: random.Random) -> bytes:
    return data + data


def _insert(data: bytes, luck: random.Random) -> bytes:
    at = luck.randrange(len(data) + 1)
    return data[:at] + luck.randbytes(luck.randint(1, 9)) + data[at:]


def _claim(data: bytes, luck: random.Random) -> bytes:
    at = luck.choice((0, luck.randrange(len(data) + 1)))
    return data[:at] + luck.choice(CLAIMS) + data[at:]


def _nest(_: bytes, luck: random.Random) -> bytes:
    return luck.choice((b"\x91", b"\x81\xa1x", b"\xdd\0\0\0\1")) * luck.choice((17, 1000, 50_000)) + b"\xc0"


def _stretch(data: bytes, luck: random.Random) -> bytes:
    return (data + bytes(luck.choice((limits.HELLO_BYTES, limits.ADVERT_BYTES, MOST))))[:MOST]


def _untouched(data: bytes, _: random.Random) -> bytes:
    return data


Damage = Callable[[bytes, random.Random], bytes]
DAMAGES: tuple[Damage, ...] = (_random, _flip, _cut, _double, _insert, _claim, _nest, _untouched)


def damaged(right: tuple[bytes, ...], luck: random.Random) -> bytes:
    """Return one byte string, 1 to `MOST` bytes; now and then one that is right, but not where it belongs."""
    damage: Any = _stretch if luck.random() < 0.02 else luck.choice(DAMAGES)
    return (damage(luck.choice(right), luck) or b"\0")[:MOST]
