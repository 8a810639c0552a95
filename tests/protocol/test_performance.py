"""Performance records on the wire: vectors hold, any body travels unharmed, no garbage gets in, the page is whole."""

from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.core.observation import from_row, to_row
from node.core.observation_columns import COLUMNS, KINDS, SECTIONS
from node.core.record_checks import Doubt, doubts
from protocol import limits, performance, records, schema, wire
from protocol.errors import RemoteProtocolError
from protocol.ids import PUBLIC_SWARM
from protocol.performance import PERFORMANCE, Performance
from protocol.records import verify_and_open
from tests.protocol import performance_samples, samples
from tests.protocol.pages import PAGES
from tests.protocol.performance_strategies import BODIES
from tests.protocol.strategies import FOREIGN, mutated
from tests.protocol.test_vectors import cases
from tests.vectors.forms import from_json

SEALED = performance_samples.performance().sealed
PAGE = (PAGES / "performance.md").read_text()


def opened(sealed: bytes) -> records.Signed[Performance]:
    return verify_and_open(sealed, PERFORMANCE, swarm=PUBLIC_SWARM, now_us=samples.NOW)


@pytest.mark.parametrize("case", cases("performance.json", "valid"))
def test_a_record_opens_to_what_it_says_and_shows_as_this_row(case: dict[str, Any]) -> None:
    signed = opened(bytes.fromhex(case["sealed"]))
    assert schema.write(signed.body) == from_json(case["body"])
    assert str(signed.digest) == case["digest"]
    assert to_row(signed.body) == case["row"]
    assert from_row(case["row"]) == signed.body


@pytest.mark.parametrize("case", cases("performance.json", "invalid"))
def test_a_record_is_refused_for_this_reason(case: dict[str, Any]) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        opened(bytes.fromhex(case["sealed"]))
    assert caught.value.reason == case["reason"]


@pytest.mark.parametrize("case", cases("performance.json", "doubts"))
def test_this_is_doubted_of_a_body(case: dict[str, Any]) -> None:
    body = schema.read(Performance, from_json(case["body"]))
    assert list(doubts(body, now_us=samples.NOW)) == case["doubts"]


@given(BODIES)
@settings(max_examples=60)
def test_any_body_that_keeps_the_rules_travels_unharmed(body: Performance) -> None:
    signed = records.sign(PERFORMANCE, body, samples.KEY)
    there = opened(signed.sealed)
    assert there == signed
    assert there.body == body


@given(mutated(SEALED) | FOREIGN | st.binary(max_size=200))
def test_a_changed_record_is_refused(raw: bytes) -> None:
    if raw != SEALED:
        with pytest.raises(RemoteProtocolError):
            opened(raw)


@given(st.sampled_from(sorted(schema.write(performance_samples.body()))), FOREIGN)
def test_a_section_of_any_value_is_read_or_refused(name: str, raw: bytes) -> None:
    body = dict(schema.write(performance_samples.body()))
    try:
        body[name] = wire.decode(raw, PERFORMANCE.bounds)
        read = schema.read(Performance, body)
    except RemoteProtocolError:
        return
    assert schema.write(read) == body


def test_a_word_of_the_future_is_no_fault() -> None:
    signed = performance_samples.performance(origin="audit")
    assert opened(signed.sealed).body.origin == "audit"


def test_the_largest_record_fits_where_records_go() -> None:
    [largest] = [case.values[0] for case in cases("performance.json", "valid") if "as long" in str(case.id)]
    assert len(bytes.fromhex(largest["sealed"])) < limits.PERFORMANCE_BYTES


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: ".".join(section[0]) or "body")
def test_the_page_names_every_field_with_its_column(section: tuple[tuple[str, ...], type[Any]]) -> None:
    path, cls = section
    if path == ("stamp",):
        return  # records.md
    columns = {column.field: column.name for column in COLUMNS if column.section == path}
    for item in fields(cls):
        if item.name in columns:
            mark = "" if item.default is not None else " †"
            row = f"| `{item.name}`{mark} | "
            assert any(line.startswith(row) and f"| `{columns[item.name]}` |" in line for line in PAGE.splitlines()), (
                row
            )


def test_the_page_explains_every_doubt_and_every_word_in_use() -> None:
    for doubt in Doubt:
        assert f"| `{doubt.value}` |" in PAGE
    for word in (
        performance.TRIAL, performance.TRAFFIC, performance.REAL, performance.DUMMY, performance.OUT_OF_MEMORY,
        performance.START_FAILED, performance.CRASHED, performance.TIMED_OUT,
    ):  # fmt: skip
        assert f"`{word}`" in PAGE
    for name in KINDS:
        assert f"`{name}`" in PAGE or name.startswith("record.")
