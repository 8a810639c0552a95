"""Records as rows: nothing of one is lost on the way to a table and back; nothing that is no record becomes one."""

import json
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.core import observation, observation_columns
from node.core.observation import from_line, from_row, from_wire_strategy, to_line, to_row, to_wire_strategy
from node.core.observation_columns import COLUMNS, KINDS, InvalidRow
from node.core.strategy import DEFAULT, EXTERNAL, InvalidStrategy, Speculation, Strategy
from protocol import limits, performance, schema, wire
from protocol.errors import LocalProtocolError
from protocol.ids import PUBLIC_SWARM
from protocol.performance import PERFORMANCE
from protocol.records import verify_and_open
from tests.protocol import performance_samples as given_records
from tests.protocol import samples
from tests.protocol.performance_strategies import BODIES

NEWER = replace(
    given_records.body(model=replace(given_records.MODEL, unknown={"soul": {"weight": [21, True, b"g"]}})),
    unknown={"weather": "calm"},
)


@given(BODIES)
@settings(max_examples=80)
def test_a_record_survives_the_way_to_a_line_of_json_and_back(body: performance.Performance) -> None:
    there = from_row(from_line(to_line(to_row(body))))
    assert wire.encode(schema.write(there), PERFORMANCE.bounds) == wire.encode(schema.write(body), PERFORMANCE.bounds)
    assert there == body


@given(BODIES)
@settings(max_examples=50)
def test_a_row_survives_the_way_to_the_wire_and_back(body: performance.Performance) -> None:
    row = to_row(body)
    assert to_row(from_row(row)) == row
    assert all(type(value) is KINDS[name] for name, value in row.items())


def test_every_scaled_column_is_exact_up_to_its_largest_value() -> None:
    for column in COLUMNS:
        for value in (0, 1, 3, 10**6 - 1, limits.SCALED_MAX - 1, limits.SCALED_MAX):
            assert column.kind is not float or column.read(column.show(value)) == value, column.name


def test_fields_from_the_future_ride_along() -> None:
    row = to_row(NEWER)
    assert from_row(from_line(to_line(row))) == NEWER
    assert schema.write(from_row(row)) == schema.write(NEWER)


def test_a_row_with_its_sealed_bytes_opens_to_the_record_and_one_without_is_an_observation() -> None:
    signed = given_records.performance()
    row = from_line(to_line(to_row(signed.body, signed.sealed)))
    sealed = observation.sealed_of(row)
    assert sealed is not None
    assert verify_and_open(sealed, PERFORMANCE, swarm=PUBLIC_SWARM, now_us=samples.NOW).body == from_row(row)
    assert observation.sealed_of(to_row(signed.body)) is None


def test_columns_have_the_names_of_the_tables_and_si_units() -> None:
    row = to_row(given_records.body())
    assert row["outcome.ttft_mean_s"] == 0.21
    assert row["hardware.measured_gemv_bytes_per_s"] == 840e9
    assert row["hardware.measured_gemm_flops"] == 65e12
    assert row["workload.prompt_tokens"] == 1024.5
    assert row["strategy.speculative_tokens"] == 4
    assert row["hardware.power_limit_watts"] == 350.0
    assert row["outcome.energy_j"] == 4000.0
    assert row["strategy.name"] == "prefix:on+chunked:on+seqs:64+ngram:4+scheduling-policy=fcfs"
    assert row["context"] == 1
    assert len({column.name for column in COLUMNS}) == len(COLUMNS)


def test_every_field_of_a_record_has_its_column() -> None:
    named = {(column.section, column.field) for column in COLUMNS}
    for section, cls in observation_columns.SECTIONS:
        inner = {path[-1] for path, _ in observation_columns.SECTIONS if path and path[:-1] == section}
        assert {item.name for item in fields(cls)} - inner - {"unknown"} == {
            field for path, field in named if path == section
        }


def test_what_is_unknown_has_no_column() -> None:
    assert not [name for name in to_row(given_records.failed().body) if name.startswith("outcome.ttft")]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"outcome.requests": 1.5}, "outcome.requests"),
        ({"outcome.requests": True}, "outcome.requests"),
        ({"outcome.requests": None}, "outcome.requests"),
        ({"outcome.ttft_mean_s": "fast"}, "outcome.ttft_mean_s"),
        ({"outcome.ttft_mean_s": float("nan")}, "outcome.ttft_mean_s"),
        ({"outcome.ttft_mean_s": -1.0}, "outcome.ttft_mean_s"),
        ({"outcome.ttft_mean_s": 1e300}, "outcome.ttft_mean_s"),
        ({"outcome.requests": 10**400}, "outcome.requests"),
        ({"outcome.prefix_hit_share": 1.1}, "outcome.prefix_hit_share"),
        ({"strategy.prefix_caching": 1}, "strategy.prefix_caching"),
        ({"strategy.engine_extra": "a=b,c"}, "strategy.engine_extra"),
        ({"strategy.engine_extra": "A=b"}, "strategy.engine_extra"),
        ({"model.digest": "zz"}, "model.digest"),
        ({"record.author": "nobody"}, "record.author"),
        ({"record.unknown": "!"}, "record.unknown"),
        ({"record.unknown": "gA=="}, None),
        ({"record.unknown": "gaNzdW4B"}, "record.unknown"),
    ],
)
def test_a_value_that_does_not_fit_is_named(changes: dict[str, Any], named: str | None) -> None:
    row = {name: value for name, value in (dict(to_row(given_records.body())) | changes).items() if value is not None}
    if named is None:
        assert from_row(row) == given_records.body()
        return
    with pytest.raises(InvalidRow) as caught:
        from_row(row)
    assert named in str(caught.value)


def test_whole_numbers_may_come_as_doubles_and_other_columns_are_left_out() -> None:
    row = dict(to_row(given_records.body())) | {"outcome.requests": 96.0, "hardware.spec_flops_bf16": 71e12}
    assert from_row(row) == given_records.body()


@pytest.mark.parametrize(
    "line",
    [
        b"", b"[]", b"1", b"{", b'{"a":[]}', b'{"a":{}}', b'{"a":1,"a":1}', b'{"a":NaN}', b'{"a":Infinity}',
        b'{"a":1e999}', b'{"":1}', b'{"a b":1}', b'{"a":"\\ud800"}', b'{"a":"\xff"}', b'{"a":9223372036854775808}',
        b'{"a":' + b"9" * 5000 + b"}", b"[" * 60_000, b'{"a":"' + b"x" * 70_000 + b'"}',
        b"{" + b",".join(b'"a%d":1' % index for index in range(600)) + b"}",
    ],
    ids=lambda line: repr(line[:20]),
)  # fmt: skip
def test_what_is_no_line_is_refused(line: bytes) -> None:
    with pytest.raises(InvalidRow):
        from_line(line)


@given(
    st.binary(max_size=200)
    | st.recursive(st.none() | st.floats() | st.text(), st.lists).map(json.dumps).map(str.encode)
)
def test_no_garbage_breaks_the_reader_of_lines(line: bytes) -> None:
    try:
        row = from_line(line)
    except InvalidRow:
        return
    with pytest.raises(InvalidRow):
        from_row(row)


@pytest.mark.parametrize(
    "strategy",
    [
        DEFAULT,
        EXTERNAL,
        Strategy(prefix_caching=False, compile=True, max_num_seqs=8, kv_cache_dtype="fp8", tensor_parallel=2),
        Strategy(speculation=Speculation(method="ngram", tokens=4), engine_extra=(("scheduling-policy", "priority"),)),
    ],
    ids=lambda strategy: strategy.name,
)
def test_a_strategy_is_the_same_on_both_sides_of_the_wire(strategy: Strategy) -> None:
    assert from_wire_strategy(to_wire_strategy(strategy)) == strategy


def test_a_draft_models_path_stays_on_its_machine() -> None:
    with pytest.raises(LocalProtocolError):
        to_wire_strategy(Strategy(engine_extra=(("draft-model", "/home/ann/draft"),)))


def test_a_strategy_from_the_future_has_no_name() -> None:
    strategy = performance.Strategy(unknown={"telepathy": True})
    with pytest.raises(InvalidStrategy):
        from_wire_strategy(strategy)
    assert "strategy.name" not in to_row(given_records.body(strategy=strategy))


def test_a_context_is_the_same_number_wherever_it_is_computed() -> None:
    parts = (given_records.MODEL, given_records.HARDWARE, given_records.BENCHMARK)
    one = observation.context_of(*parts, given_records.WORKLOAD)
    assert one == observation.context_of(*parts, replace(given_records.WORKLOAD)) <= limits.COUNT_MAX
    assert one != observation.context_of(*parts, replace(given_records.WORKLOAD, requests=33))
