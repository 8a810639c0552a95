"""The canonical encoding: one value, one encoding, and nothing a hostile peer can gain from another."""

import time
import tracemalloc
from random import Random
from typing import Any, cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from protocol import limits, wire
from protocol.errors import LocalProtocolError, Reason, RemoteProtocolError
from tests.protocol.strategies import FOREIGN, VALUES, mutated

B = limits.MESSAGE


def refusal(raw: bytes, bounds: limits.Bounds = B) -> Reason:
    with pytest.raises(RemoteProtocolError) as caught:
        wire.decode(raw, bounds)
    return caught.value.reason


def same(one: object, other: object) -> bool:
    """Equality that tells True from 1."""
    if type(one) is not type(other):
        return False
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return one == other


@given(VALUES)
def test_what_is_encoded_decodes_to_the_same_value(value: wire.Value) -> None:
    assert same(wire.decode(wire.encode(value, B), B), value)


@given(st.dictionaries(st.text(), st.integers(0, 9), max_size=8), st.randoms())
def test_the_order_in_which_a_map_was_filled_does_not_show(value: dict[str, Any], luck: Random) -> None:
    shuffled = list(value.items())
    luck.shuffle(shuffled)
    assert wire.encode(dict(shuffled), B) == wire.encode(value, B)


@given(st.dictionaries(st.text(), st.none(), min_size=2, max_size=8))
def test_keys_lie_in_the_order_of_their_utf_8_bytes(value: dict[str, Any]) -> None:
    decoded = wire.decode(wire.encode(value, B), B)
    assert isinstance(decoded, dict)
    keys = [key.encode() for key in decoded]
    assert keys == sorted(keys)


@given(st.binary(max_size=200) | FOREIGN | VALUES.flatmap(lambda value: mutated(wire.encode(value, B))))
@example(b"\x82\xa1a\x01\xa1a\x01")
@example(b"\xca\x00\x00\x00\x00")
def test_whatever_decodes_is_the_only_encoding_of_its_value(raw: bytes) -> None:
    try:
        value = wire.decode(raw, B)
    except RemoteProtocolError:
        return
    assert wire.encode(value, B) == raw


@given(VALUES.flatmap(lambda value: mutated(wire.encode(value, B))), VALUES)
def test_two_encodings_never_mean_the_same(raw: bytes, value: wire.Value) -> None:
    try:
        decoded = wire.decode(raw, B)
    except RemoteProtocolError:
        return
    assert same(decoded, value) == (raw == wire.encode(value, B))


@given(VALUES, st.data())
def test_no_beginning_of_an_encoding_is_one(value: wire.Value, data: st.DataObject) -> None:
    raw = wire.encode(value, B)
    cut = data.draw(st.integers(0, len(raw) - 1))
    assert refusal(raw[:cut]) is Reason.TRUNCATED


@given(VALUES, st.binary(min_size=1, max_size=5))
def test_nothing_may_follow_the_value(value: wire.Value, tail: bytes) -> None:
    assert refusal(wire.encode(value, B) + tail) is Reason.TRAILING


@pytest.mark.parametrize("head", [b"\x91", b"\x81\xa1a", b"\xdd\x00\x00\x04\x00", b"\xdc\x04\x00"])
def test_a_depth_bomb_is_refused_before_anything_is_built(head: bytes) -> None:
    raw = (head * (limits.FRAME_BYTES // len(head)))[: limits.FRAME_BYTES]
    assert refusal(raw) in {Reason.TOO_DEEP, Reason.TOO_MANY}


@pytest.mark.parametrize(
    "raw",
    [
        b"\xdd\x00\x0f\xff\xff" * (limits.FRAME_BYTES // 5),  # arrays in arrays, each claiming a million entries
        b"\xdc\x04\x00" * (limits.FRAME_BYTES // 3),
        b"\xdc\x04\x00" + b"\x90" * (limits.FRAME_BYTES - 3),  # small objects: 1 byte there, 56 here
        b"\x9f" + (b"\xdc\x03\xe8" + b"\x80" * 1000) * 15,
        b"\x91" * limits.FRAME_BYTES,
        b"\xc6\xff\xff\xff\xff" + bytes(1000),
        b"\xdf\xff\xff\xff\xff" + bytes(1000),
        b"\xc0" * limits.FRAME_BYTES,
        b"\x9f" * 14 + b"\xdd\x00\x00\x04\x00" + b"\xa0" * 5000,
    ],
)
def test_hostile_claims_cost_neither_memory_nor_time(raw: bytes) -> None:
    tracemalloc.start()
    began = time.process_time()
    try:
        with pytest.raises(RemoteProtocolError):
            wire.decode(raw, B)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2 * limits.MIB
    assert time.process_time() - began < 1.0  # walks of at most 4,096 values take milliseconds, traced or not


def test_the_most_that_the_bounds_allow_costs_what_limits_say() -> None:
    raw = b"\x93" + (b"\xdc\x04\x00" + b"\x80" * 1024) * 3
    tracemalloc.start()
    try:
        wire.decode(raw, B)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 200 * limits.VALUES


@pytest.mark.parametrize("depth", range(20))
def test_nesting_is_allowed_up_to_the_bound_and_not_beyond(depth: int) -> None:
    bounds = limits.Bounds(size=100, depth=10)
    value: wire.Value = None
    for _ in range(depth):
        value = [value]
    if depth <= 10:
        assert same(wire.decode(wire.encode(value, bounds), bounds), value)
        return
    with pytest.raises(LocalProtocolError):
        wire.encode(value, bounds)
    assert refusal(wire.encode(value, limits.Bounds(size=100, depth=30)), bounds) is Reason.TOO_DEEP


@pytest.mark.parametrize(
    ("bounds", "value", "reason"),
    [
        (limits.Bounds(size=10), "x" * 10, Reason.TOO_LARGE),
        (limits.Bounds(size=999, text=40), "x" * 41, Reason.TOO_LARGE),
        (limits.Bounds(size=999, blob=40), b"x" * 41, Reason.TOO_LARGE),
        (limits.Bounds(size=999, items=3), [1, 2, 3, 4], Reason.TOO_MANY),
        (limits.Bounds(size=999, items=1), {"a": 1, "b": 2}, Reason.TOO_MANY),
        (limits.Bounds(size=999, values=6), {"a": 1, "b": [2, 3]}, Reason.TOO_MANY),
    ],
)
def test_each_bound_holds_in_both_directions(bounds: limits.Bounds, value: wire.Value, reason: Reason) -> None:
    assert refusal(wire.encode(value, B), bounds) is reason
    with pytest.raises(LocalProtocolError):
        wire.encode(value, bounds)


def test_a_bound_is_the_last_allowed_and_not_the_first_refused() -> None:
    for bounds, value in [
        (limits.Bounds(size=11), "x" * 10),
        (limits.Bounds(size=999, items=3), [1, 2, 3]),
        (limits.Bounds(size=999, values=7), {"a": 1, "b": [2, 3]}),
    ]:
        wire.decode(wire.encode(value, bounds), bounds)


@pytest.mark.parametrize(
    "value",
    [
        1.0,
        float("nan"),
        2**64,
        -(2**63) - 1,
        "\ud800",
        {"\udfff": 1},
        {1: 2},
        {b"a": 1},
        (1, 2),
        {"a": {2, 3}},
        bytearray(b"x"),
        object(),
        Reason.EXPIRED,
    ],
)
def test_what_the_wire_cannot_carry_is_our_own_fault(value: object) -> None:
    with pytest.raises(LocalProtocolError):
        wire.encode(cast("wire.Value", value), B)


def test_a_value_that_holds_itself_is_our_own_fault() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(LocalProtocolError):
        wire.encode(value, B)


def test_text_is_not_normalised() -> None:
    composed, decomposed = "\u00e9", "e\u0301"
    assert wire.encode(composed, B) != wire.encode(decomposed, B)
    assert wire.decode(wire.encode(decomposed, B), B) == decomposed
    both: dict[str, wire.Value] = {composed: 1, decomposed: 2}
    assert wire.decode(wire.encode(both, B), B) == both
