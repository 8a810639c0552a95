"""Bodies as dataclasses: bounds per field, one blame per direction, and fields of the future kept."""

from dataclasses import dataclass, field
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import limits, schema, wire
from protocol.errors import LocalProtocolError, Reason, RemoteProtocolError
from protocol.schema import Blob, Flag, Int, Items, Named, Nested, Opaque, Text, Unknown, no_unknown
from tests.protocol.strategies import VALUES


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner:
    size: Annotated[int, Int(0, 10)]
    unknown: Unknown = field(default_factory=no_unknown, hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outer:
    name: Annotated[str, Text(8, r"[a-zé]*")]
    inners: Annotated[tuple[Inner, ...], Items(Nested(Inner), 2)]
    on: Annotated[bool | None, Flag()] = None
    raw: Annotated[bytes | None, Blob(1, 3)] = None
    counts: Annotated[dict[str, int] | None, Named(Int(0, 9), 2)] = None
    later: Annotated[dict[str, wire.Value] | None, Opaque()] = None
    unknown: Unknown = field(default_factory=no_unknown, hash=False)


GOOD: dict[str, wire.Value] = {"name": "a", "inners": [{"size": 1}]}


@given(st.dictionaries(st.text(), VALUES, max_size=3), st.dictionaries(st.text(), VALUES, max_size=3))
def test_fields_of_the_future_are_kept_at_every_depth(outer: Unknown, inner: Unknown) -> None:
    value: dict[str, wire.Value] = {**outer, "name": "a", "inners": [{**inner, "size": 1}]}
    for known in ("on", "raw", "counts", "later"):
        value.pop(known, None)
    body = schema.read(Outer, value)
    assert schema.write(body) == value
    assert body.name == "a"


def test_what_is_absent_is_none_and_stays_absent() -> None:
    body = schema.read(Outer, dict(GOOD))
    assert (body.on, body.raw, body.counts) == (None, None, None)
    assert schema.write(body) == GOOD


@pytest.mark.parametrize(
    ("change", "path", "reason"),
    [
        ({"name": 1}, "name", Reason.WRONG_TYPE),
        ({"name": b"a"}, "name", Reason.WRONG_TYPE),
        ({"name": None}, "name", Reason.WRONG_TYPE),
        ({"name": "aaaaaaaaa"}, "name", Reason.OUT_OF_BOUNDS),
        ({"name": "ééééé"}, "name", Reason.OUT_OF_BOUNDS),
        ({"name": "A"}, "name", Reason.MALFORMED),
        ({"name": "a\n"}, "name", Reason.MALFORMED),
        ({"on": 1}, "on", Reason.WRONG_TYPE),
        ({"on": None}, "on", Reason.WRONG_TYPE),
        ({"raw": b""}, "raw", Reason.OUT_OF_BOUNDS),
        ({"raw": b"1234"}, "raw", Reason.OUT_OF_BOUNDS),
        ({"inners": {}}, "inners", Reason.WRONG_TYPE),
        ({"inners": [{"size": 1}] * 3}, "inners", Reason.OUT_OF_BOUNDS),
        ({"inners": [{"size": 1}, {}]}, "inners.1.size", Reason.MISSING_FIELD),
        ({"inners": [{"size": 11}]}, "inners.0.size", Reason.OUT_OF_BOUNDS),
        ({"inners": [{"size": True}]}, "inners.0.size", Reason.WRONG_TYPE),
        ({"inners": [7]}, "inners.0", Reason.WRONG_TYPE),
        ({"counts": {"a": 1, "b": 2, "c": 3}}, "counts", Reason.OUT_OF_BOUNDS),
        ({"counts": {"A": 1}}, "counts", Reason.MALFORMED),
        ({"counts": {"a": 10}}, "counts.a", Reason.OUT_OF_BOUNDS),
        ({"later": []}, "later", Reason.WRONG_TYPE),
    ],
)
def test_a_mismatch_names_its_field(change: dict[str, wire.Value], path: str, reason: Reason) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        schema.read(Outer, GOOD | change)
    assert (caught.value.path, caught.value.reason) == (path, reason)


@pytest.mark.parametrize("value", [None, 1, "x", [], [["name", "a"]]])
def test_a_body_that_is_no_map_is_refused(value: wire.Value) -> None:
    with pytest.raises(RemoteProtocolError):
        schema.read(Outer, value)


@pytest.mark.parametrize(
    "body",
    [
        Outer(name="A", inners=()),
        Outer(name="a", inners=(Inner(size=1),) * 3),
        Outer(name="a", inners=(Inner(size=11),)),
        Outer(name="a", inners=(), raw=b""),
        Outer(name="a", inners=(), counts={"B": 1}),
        Outer(name="a", inners=(), unknown={"on": True}),
    ],
)
def test_what_breaks_its_own_rule_is_our_own_fault(body: Outer) -> None:
    with pytest.raises(LocalProtocolError):
        schema.write(body)


@given(VALUES | st.fixed_dictionaries({"name": VALUES, "inners": VALUES | st.lists(VALUES, max_size=2)}))
def test_any_value_reads_or_is_the_peers_fault(value: wire.Value) -> None:
    try:
        body = schema.read(Outer, value)
    except RemoteProtocolError:
        return
    assert schema.write(body) == value
    wire.encode(schema.write(body), limits.MESSAGE)


def test_a_declaration_without_a_rule_is_noticed_at_its_first_use() -> None:
    @dataclass(frozen=True, slots=True, kw_only=True)
    class Bare:
        size: int
        unknown: Unknown = field(default_factory=no_unknown, hash=False)

    @dataclass(frozen=True, slots=True, kw_only=True)
    class TwoSpellings:
        size: Annotated[int, Int(0, 1)] = 0
        unknown: Unknown = field(default_factory=no_unknown, hash=False)

    for declaration in (Bare, TwoSpellings):
        with pytest.raises(TypeError, match="size"):
            schema.read(declaration, {"size": 1})
