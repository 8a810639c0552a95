"""The measuring tool itself: it forgives what differs from call to call, and nothing else."""

import pytest

from tests.e2e.compatibility_page import PAGE, TITLES, page
from tests.e2e.differences import DIFFERENCES, Difference, Mismatch, mismatches
from tests.e2e.normalise import folded, steady
from tests.e2e.recorder import Event, events
from tests.e2e.scenarios.catalogue import CATALOGUE


def chunk(text: str, *, index: int = 0, finish: str | None = None, usage: int | None = None) -> Event:
    choice = {"index": index, "delta": {"content": text}, "finish_reason": finish}
    data: dict[str, object] = {"id": "chatcmpl-b147fe750da92402", "created": 5, "choices": [choice]}
    return Event(name=None, data=data | ({"usage": {"completion_tokens": usage}} if usage else {}))


DONE = Event(name=None, data="[DONE]")


def test_generated_ids_and_times_are_replaced_by_their_kind() -> None:
    first = {"id": "chatcmpl-b147fe750da92402", "created": 1795177010, "in": [{"id": "modelperm-9f2a6dfd9bc308a1"}]}
    second = {"id": "chatcmpl-63a4d0f3b4de421c9d1f0b5ac0ffee00", "created": 7, "in": [{"id": "modelperm-0123456789ab"}]}
    assert steady(first) == steady(second)


@pytest.mark.parametrize("value", ["chatcmpl-", "hello-world", "cmpl-xyz", "gpt-4-0613", "2024-01-01", "deadbeef"])
def test_what_is_no_generated_id_is_left_alone(value: str) -> None:
    assert steady(value) == value


def test_an_id_of_another_kind_is_a_difference() -> None:
    assert steady({"id": "cmpl-b147fe750da92402"}) != steady({"id": "chatcmpl-b147fe750da92402"})


def test_a_time_that_is_null_is_a_difference() -> None:
    assert steady({"created": None}) != steady({"created": 3})


def test_a_stream_is_what_it_says_however_it_is_cut() -> None:
    fine = [chunk("a"), chunk("b"), chunk("c", finish="stop"), DONE]
    coarse = [chunk("ab"), chunk("c", finish="stop"), DONE]
    assert folded(fine) == folded(coarse)


@pytest.mark.parametrize(
    "other",
    [
        [chunk("b"), chunk("a"), chunk("c", finish="stop"), DONE],
        [chunk("a"), chunk("b"), chunk("c", finish="length"), DONE],
        [chunk("a"), chunk("b"), chunk("c", finish="stop")],
        [chunk("a"), chunk("b", index=1), chunk("c", finish="stop"), DONE],
        [chunk("a"), chunk("c", finish="stop"), DONE],
        [chunk("a"), chunk("b"), chunk("c", finish="stop", usage=3), DONE],
    ],
    ids=["disordered", "other end", "without its end", "other choice", "lossy", "usage"],
)
def test_a_stream_that_says_something_else_is_a_difference(other: list[Event]) -> None:
    assert folded([chunk("a"), chunk("b"), chunk("c", finish="stop"), DONE]) != folded(other)


def test_typed_events_are_joined_and_their_numbers_checked() -> None:
    def delta(number: int, text: str) -> Event:
        return Event(name="response.output_text.delta", data={"sequence_number": number, "delta": text})

    end = {"sequence_number": 2, "type": "response.completed"}
    cut = [delta(0, "a"), delta(1, "b"), Event(name="response.completed", data=end)]
    whole = [delta(0, "ab"), Event(name="response.completed", data=end | {"sequence_number": 1})]
    misnumbered = [delta(0, "ab"), Event(name="response.completed", data=end)]
    assert folded(cut) == folded(whole)
    assert folded(cut) != folded(misnumbered)


def test_a_torn_stream_is_not_parsed() -> None:
    with pytest.raises(AssertionError, match="inside an event"):
        events(b'data: {"a": 1}\n\ndata: {"b"')


def test_every_leaf_that_differs_is_found_with_its_place() -> None:
    engine = {"status": 200, "body": {"a": [1, 2], "b": None, "c": 1}}
    node = {"status": 200, "body": {"a": [1, 3, 4], "b": None, "c": 1.0}}
    assert {m.where for m in mismatches("s", engine, node)} == {"body/a/1", "body/a/2", "body/c"}


def test_a_difference_explains_only_its_place_in_its_scenario() -> None:
    row = Difference(scenarios=("a/*",), where=("headers/x-*",), engine="", node="", reason="")
    assert row.explains(Mismatch(scenario="a/b", where="headers/x-y", engine=1, node=2))
    assert not row.explains(Mismatch(scenario="b/b", where="headers/x-y", engine=1, node=2))
    assert not row.explains(Mismatch(scenario="a/b", where="status", engine=1, node=2))


def test_a_difference_that_shows_nowhere_is_idle_pattern_by_pattern() -> None:
    row = Difference(scenarios=("a/b", "a/c"), where=("status", "body/*"), engine="", node="", reason="")
    assert row.idle([Mismatch(scenario="a/b", where="status", engine=1, node=2)]) == ("a/c", "body/*")


def test_differences_name_scenarios_that_exist_and_never_hide_a_whole_outcome() -> None:
    names = {scenario.name for scenario in CATALOGUE}
    for row in DIFFERENCES:
        assert row.reason
        assert row.scenarios == ("*",) or set(row.scenarios) <= names
        assert not {"*", "exchanges/*", "exchanges/*/*"} & set(row.where)


def test_scenarios_have_names_of_their_own_and_say_what_they_show() -> None:
    assert len({scenario.name for scenario in CATALOGUE}) == len(CATALOGUE)
    assert all(scenario.what for scenario in CATALOGUE)
    assert {scenario.name.partition("/")[0] for scenario in CATALOGUE} == set(TITLES)


def test_the_page_says_what_the_suite_runs() -> None:
    assert PAGE.read_text() == page(), "run: python -m tests.e2e.compatibility_page"
