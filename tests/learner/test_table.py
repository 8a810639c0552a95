import numpy as np
import pytest

from node.learner.table import Table, stack

ROWS = [
    {"model.name": "a", "hardware.count": 1, "strategy.x": 1, "outcome.latency_mean_s": 2.0},
    {"model.name": "a", "hardware.count": 1, "strategy.x": 2, "outcome.latency_mean_s": 3.0},
    {"model.name": "b", "hardware.count": 1, "strategy.x": 1, "outcome.latency_mean_s": 4.0},
    {"model.name": "a", "hardware.count": 1, "strategy.x": 1, "outcome.latency_mean_s": 8.0, "strange": "kept"},
    {"model.name": "a", "hardware.count": 1, "strategy.x": 1},
]


def test_rows_that_agree_on_model_hardware_and_workload_are_one_context_and_repeats_are_merged_by_median() -> None:
    table = Table.of_rows(ROWS)

    assert table.rows == 3
    assert list(table.numbers("outcome.latency_mean_s")) == [5.0, 3.0, 4.0]  # the unknown one has no voice
    assert table.contexts[0] == table.contexts[1] != table.contexts[2]
    assert "strange" in table.columns
    assert table.numbers("outcome.ttft_mean_s").shape == (3,)
    assert not table.has("outcome.ttft_mean_s")


def test_a_version_of_the_engine_is_no_choice_but_another_parameter_is() -> None:
    rows = [
        {"context": 1, "strategy.x": 1, "strategy.engine_version": "1", "outcome.latency_mean_s": 1},
        {"context": 1, "strategy.x": 1, "strategy.engine_version": "2", "outcome.latency_mean_s": 3},
        {"context": 1, "strategy.x": 2, "strategy.engine_version": "2", "outcome.latency_mean_s": 9},
    ]
    assert list(Table.of_rows(rows).numbers("outcome.latency_mean_s")) == [2, 9]
    assert Table.of_rows(rows, merged=False).rows == 3


def test_numbers_truths_and_words_are_told_apart_and_gaps_are_unknown() -> None:
    table = Table.of({"context": [3, 3], "strategy.on": [True, None], "model.name": [None, "m"], "n": [1, ""]})

    assert table.numbers("strategy.on")[0] == 1
    assert np.isnan(table.numbers("strategy.on")[1])
    assert list(table.words("model.name")) == [None, "m"]
    assert np.isnan(table.numbers("n")[1])
    assert {name: list(rows) for name, rows in table.groups("model.name").items()} == {"": [0], "m": [1]}


def test_a_row_whose_context_is_missing_gets_one_that_no_other_row_has() -> None:
    table = Table.of({"context": [0, None], "model.name": ["a", "a"], "strategy.x": [1, 1]})
    assert table.rows == 2
    assert table.contexts[0] != table.contexts[1]


def test_tables_with_unlike_columns_stack_and_what_one_lacks_is_unknown_there() -> None:
    upper, lower = Table.of({"context": [1], "a": [1.0]}), Table.of({"context": [2], "b": ["x"]})
    both = stack(upper, lower)
    assert both.rows == 2
    assert np.isnan(both.numbers("a")[1])
    assert both.words("b")[0] is None


def test_columns_of_unlike_length_are_refused() -> None:
    with pytest.raises(ValueError, match="rows in one table"):
        Table.of({"a": [1], "b": [1, 2]})
