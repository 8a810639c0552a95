"""The learner's process, spoken to in lines: what it answers, and what it survives."""

import io
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from node.learner import objective, worker
from node.learner.brain import Brain, trees
from node.learner.table import Table
from node.learner.worker import Refused, Worker
from tests.learner.synthetic import world

LightGBMError = pytest.importorskip("lightgbm.basic").LightGBMError

WITHIN = 120.0  # s


class Heard:
    """What the worker says, and a way to wait for an event."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self._some = threading.Condition()

    def __call__(self, message: worker.Message) -> None:
        with self._some:
            self.messages.append(json.loads(json.dumps(message, allow_nan=False)))
            self._some.notify_all()

    def event(self) -> dict[str, Any]:
        """Wait for an event and return it."""
        with self._some:
            assert self._some.wait_for(lambda: any("event" in each for each in self.messages), WITHIN)
            return next(each for each in self.messages if "event" in each)


def rows_of(table: Table) -> list[dict[str, Any]]:
    names = list(table.columns)
    columns = [table.columns[name].tolist() for name in names]
    return [
        {name: value for name, value in zip(names, values, strict=True) if value is not None and value == value}
        | {"context": int(context)}
        for values, context in zip(zip(*columns, strict=True), table.contexts, strict=True)
    ]


def export(path: Path, table: Table) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows_of(table)))
    return path


def made() -> tuple[Worker, Heard]:
    heard = Heard()
    return Worker(heard, iter(np.arange(1e6).tolist()).__next__), heard


def learning(heard: Heard, path: Path, one: Worker) -> dict[str, Any]:
    threading.Thread(target=one.learn_forever, daemon=True).start()
    assert one.answer({"do": "train", "path": str(path), "goals": ["latency"]})["begun"]
    return heard.event()


CONTEXT = [row for row in rows_of(world(2)) if row["context"] == 0]


def test_with_no_history_it_answers_by_physics() -> None:
    one, _ = made()
    found = one.answer({"do": "choose", "rows": CONTEXT, "goal": "latency", "default": 0})
    assert found["index"] is not None
    assert not found["learnt"]
    assert len(found["cost"]) == len(CONTEXT)
    cell = {name: value for name, value in CONTEXT[0].items() if not name.startswith(("workload", "outcome"))}
    (curve,) = one.answer({"do": "curves", "cells": [cell]})["curves"]
    assert len(curve["ttft_s"]) == len(curve["prompts"]) * len(curve["loads"])
    assert curve["source"] == "physics"
    state = one.answer({"do": "state"})
    assert state["rows"] == 0
    assert state["heads"][0] == "physics"
    assert state["peak_bytes"] > 0
    assert state["answer_s"] > 0


@pytest.mark.slow
def test_it_learns_beside_answering_and_says_what_it_learnt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "find_spec", lambda name: None if name == "torch" else name)
    one, heard = made()
    event = learning(heard, export(tmp_path / "records.jsonl", world(60)), one)
    assert event["event"] == "trained"
    assert event["heads"] == ["physics", "trees", "neighbours"]
    assert event["rows"] == 60 * 6
    assert event["learnt"]["latency"]["error_median"] < 0.1
    assert event["learnt"]["outcome.ttft_mean_s"]["rows"] == 0  # no such column: physics speaks
    assert one.answer({"do": "choose", "rows": CONTEXT})["learnt"]


def test_an_export_that_is_gone_empty_or_full_of_garbage_leaves_it_answering(tmp_path: Path) -> None:
    one, heard = made()
    assert learning(heard, tmp_path / "nothing.jsonl", one)["event"] == "failed"
    heard.messages.clear()
    garbage = tmp_path / "garbage.jsonl"
    garbage.write_bytes(b"\x00\xff\n{\n[]\n" + b"x" * 200_000 + b'\n{"outcome.latency_mean_s": "fast"}\n')
    assert one.answer({"do": "train", "path": str(garbage)})["begun"]
    assert heard.event()["event"] == "trained"
    assert not one.answer({"do": "choose", "rows": CONTEXT})["learnt"]


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"do": "dance"},
        {"do": "choose"},
        {"do": "choose", "rows": []},
        {"do": "choose", "rows": [1]},
        {"do": "choose", "rows": [{}] * 5000},
        {"do": "choose", "rows": [{}], "default": 1},
        {"do": "choose", "rows": [{}], "goal": "fame"},
        {"do": "choose", "rows": [{}], "promises": {"fame": 1}},
        {"do": "choose", "rows": [{}], "promises": [1]},
        {"do": "choose", "rows": [{}], "default": float("inf")},
        {"do": "curves", "cells": 3},
        {"do": "curves", "cells": [{}] * 300},
        {"do": "train"},
        {"do": "train", "path": "x", "goals": ["fame"]},
    ],
)
def test_what_makes_no_sense_is_refused_in_words(request_: dict[str, Any]) -> None:
    with pytest.raises(Refused):
        made()[0].answer(request_)


def test_lines_that_are_no_requests_are_answered_and_too_long_a_one_ends_the_process() -> None:
    heard = Heard()
    one, _ = made()
    worker.serve(one, io.BytesIO(b'nonsense\n[1]\n{"id": 7, "do": "state"}\n'), heard)
    assert [each.get("id") for each in heard.messages] == [None, None, 7]
    assert "error" in heard.messages[0]
    assert "ok" in heard.messages[2]
    with pytest.raises(Refused, match="4 MiB"):
        worker.serve(one, io.BytesIO(b"x" * (worker.LINE_BYTES + 2)), heard)


@pytest.mark.parametrize("error", [MemoryError(), IndexError(1), OverflowError("far"), RuntimeError("no memory")])
def test_a_question_over_which_foreign_code_stumbles_is_answered_and_so_is_the_next(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stumbles(*_: object) -> None:
        raise error

    one, heard = made()
    monkeypatch.setattr(worker.resource, "getrusage", stumbles)
    worker.serve(one, io.BytesIO(b'{"id": 1, "do": "state"}\n{"id": 2, "do": "dance"}\n'), heard)
    assert [(each["id"], "error" in each) for each in heard.messages] == [(1, True), (2, True)]
    assert type(error).__name__ in heard.messages[0]["error"]


def test_a_number_that_json_has_not_is_null_and_what_json_has_not_at_all_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written = io.BytesIO()
    say = worker.speaker(written)
    one = Worker(say, iter([0.0, float("nan"), 0.0, 1.0, 2.0, 3.0]).__next__)  # answers in NaN seconds, then
    ask = b'{"id": NaN, "do": "state"}\n{"id": 2, "do": "state"}\n'
    worker.serve(one, io.BytesIO(ask), say)
    monkeypatch.setattr(one, "heads", {1})
    worker.serve(one, io.BytesIO(b'{"id": 3, "do": "state"}\n'), say)
    first, second, third = map(json.loads, written.getvalue().splitlines())
    assert first["id"] is None
    assert second["ok"]["answer_s"] is None
    assert "set" in third["error"]


@pytest.mark.parametrize("error", [RuntimeError("not enough memory"), LightGBMError("bad alloc"), MemoryError()])
def test_a_lesson_over_which_foreign_code_stumbles_has_failed_by_its_number_and_the_next_is_begun(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stumbles(*_: object, **__: object) -> None:
        raise error

    one, heard = made()
    monkeypatch.setattr(Table, "of_rows", stumbles)
    threading.Thread(target=one.learn_forever, daemon=True).start()
    for number in (1, 2):
        heard.messages.clear()
        assert one.answer({"do": "train", "path": str(tmp_path / "records.jsonl"), "lesson": number})["begun"]
        event = heard.event()
        assert (event["event"], event["lesson"]) == ("failed", number)


def test_an_answer_that_is_too_long_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "LINE_BYTES", 100)
    written = io.BytesIO()
    worker.speaker(written)({"id": 3, "ok": {"words": "x" * 200}})
    assert json.loads(written.getvalue()) == {"id": 3, "error": "the answer is too long"}


def test_a_pause_holds_learning_up_until_it_is_over_or_nobody_says_it_again() -> None:
    now = [0.0]
    gate = worker.Gate(lambda: now[0])
    gate.wait()
    through = threading.Event()

    def learn() -> None:
        gate.wait()
        through.set()

    gate.close(60.0)
    held = threading.Thread(target=learn, daemon=True)
    held.start()
    assert not through.wait(0.1)
    now[0] = 30.0
    gate.open()
    assert through.wait(WITHIN)
    held.join(WITHIN)
    assert gate.waited_s == 30.0
    gate.close(60.0)
    now[0] = 91.0
    gate.wait()


def test_questions_are_answered_in_a_pause() -> None:
    one, _ = made()
    assert one.answer({"do": "pause", "seconds": 60})["paused"]
    assert one.answer({"do": "choose", "rows": CONTEXT, "default": 0})["index"] is not None
    assert not one.answer({"do": "resume"})["paused"]
    with pytest.raises(Refused):
        one.answer({"do": "pause", "seconds": "long"})


def test_a_brain_breathes_between_the_fits_of_a_lesson() -> None:
    breaths: list[bool] = []
    brain = Brain(make_heads=trees, breathe=lambda: breaths.append(True))
    brain.taught(world(24), {}, [objective.parse("latency")], np.random.default_rng(0), curves_too=False)
    assert len(breaths) > 6  # folds by heads
