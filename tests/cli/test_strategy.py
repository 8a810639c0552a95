"""`metainf strategy`, `pause`, `resume` and the line of `status`, against a node that answers from a can."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from node.cli import strategy as strategy_verbs
from node.cli import strategy_words as words
from tests.cli.conftest import CannedNode
from tests.cli.test_talk import STATUS
from tests.fakes.tuner_view import EXPLAINED, FACTS, HISTORY

Metainf = Callable[..., tuple[int, str, str]]
FIXED = FACTS | {"mode": "fixed", "phase": "fixed", "strategy": "seqs:16", "reason": "its owner's wish"}
PAUSED = {"state": "paused", "reason": "paused by its owner", "until": "2026-11-22T12:00:00+00:00", "blind": []}


@pytest.fixture(autouse=True)
def _in_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strategy_verbs, "LOOK", 0.01)


def test_show_tells_what_runs_why_and_what_came_of_it(canned_node: CannedNode, metainf: Metainf) -> None:
    canned_node.answer("GET", "/strategy", FACTS)
    code, out, _ = metainf("strategy", "show")
    assert code == 0
    for told in (
        "strategy  prefix:on, since 2026-11-22",
        "auto, verifying (38 answers, 0.12 saved so far)",
        "foretold  +20 % (+10 % to +30 %) saved",
        "observed  +17 % (+5 % to +26 %) saved, over 38 answers",
        "2 switches, 1 taken back, 1 never came up",
        "banned    seqs:4 until 2026-11-23",
        "a new lesson",
        "worth it: saves 1800 s, costs 45 s, pays after 320 s",
        "records",
        "physics",
    ):
        assert told in out, told
    assert "estimated" not in out
    row = next(line for line in out.splitlines() if "ngram:4" in line)
    assert "-65 %" in row
    assert not row.startswith(">")
    assert next(line for line in out.splitlines() if line.startswith(">")).split()[1] == "prefix:on"


def test_energy_that_was_reckoned_is_marked_wherever_it_is_shown(canned_node: CannedNode, metainf: Metainf) -> None:
    reckoned = FACTS | {"objective": "energy", "estimated": True}
    canned_node.answer("GET", "/strategy", reckoned)
    out = metainf("strategy", "show")[1]
    assert "energy (estimated)" in out
    assert "saves (estimated)" in out
    assert "saved (estimated)" in out
    canned_node.answer("GET", "/status", STATUS | {"tuner": reckoned})
    assert "for energy (estimated), foretold +20 % (estimated)" in metainf("status")[1]
    canned_node.answer("GET", "/strategy/explain", EXPLAINED | {"estimated": True})
    assert "saves (estimated)" in metainf("strategy", "explain")[1]


def test_every_verb_gives_the_node_s_own_document_as_json(canned_node: CannedNode, metainf: Metainf) -> None:
    canned_node.answer("GET", "/strategy", FACTS)
    canned_node.answer("GET", "/strategy/history", {"history": HISTORY})
    canned_node.answer("GET", "/strategy/explain", FACTS)
    canned_node.answer("DELETE", "/strategy", FACTS)
    canned_node.answer("POST", "/resume", PAUSED)
    for verb, document in (
        (["strategy", "show"], FACTS),
        (["strategy", "history"], {"history": HISTORY}),
        (["strategy", "explain"], FACTS),
        (["strategy", "auto"], FACTS),
        (["resume"], PAUSED),
    ):
        assert json.loads(metainf(*verb, "--json")[1]) == document


def test_history_lists_steps_with_their_reasons_the_newest_last(canned_node: CannedNode, metainf: Metainf) -> None:
    canned_node.answer("GET", "/strategy/history", {"history": HISTORY})
    lines = metainf("strategy", "history")[1].splitlines()
    assert "steady -> deciding" in lines[0]
    assert lines[-1].endswith("20 % saved")
    assert len(metainf("strategy", "history", "--limit", "1")[1].splitlines()) == 1


def test_explain_says_when_nothing_was_decided(canned_node: CannedNode, metainf: Metainf) -> None:
    canned_node.answer("GET", "/strategy/explain", {"decision": None, "reason": "the learner is not up yet"})
    assert metainf("strategy", "explain")[1] == "nothing was decided yet: the learner is not up yet\n"


def test_explain_lists_every_candidate_what_failed_and_what_is_to_be_tried(
    canned_node: CannedNode, metainf: Metainf
) -> None:
    canned_node.answer("GET", "/strategy/explain", EXPLAINED)
    out = metainf("strategy", "explain")[1]
    assert "to try    ngram:4, seqs:8, in idle time" in out
    assert "not worth it: saves 0 s, costs 45 s\n" in out
    assert "failed here" in next(line for line in out.splitlines() if "seqs:4" in line)


def test_set_waits_until_the_strategy_runs(canned_node: CannedNode, metainf: Metainf) -> None:
    canned_node.answer("GET", "/strategy", FIXED)
    canned_node.answer("POST", "/strategy", FIXED | {"wanted": "seqs:16"}, status=202)
    code, out, _ = metainf("strategy", "set", "seqs:16")
    assert (code, out) == (0, "seqs:16 runs\n")
    assert canned_node.bodies == [{"strategy": {"max_num_seqs": 16}}]


def test_set_tells_what_goes_on_and_that_it_was_given_up(
    canned_node: CannedNode, metainf: Metainf, monkeypatch: pytest.MonkeyPatch
) -> None:
    course = [
        FACTS | {"phase": "waiting", "reason": "others go first"},
        FACTS | {"phase": "switching", "reason": "the engine starts"},
        FACTS | {"phase": "away", "reason": "on its way back"},
        FACTS | {"phase": "steady", "strategy": "default", "reason": "default serves", "failed_starts": 2},
    ]
    step = {"from": "switching", "to": "away", "event": "failed", "reason": "out of memory"}
    canned_node.answer("GET", "/strategy/history", {"history": [step | {"reason": "long ago"}, step, *HISTORY]})
    canned_node.answer("GET", "/strategy", FACTS)
    canned_node.answer("POST", "/strategy", FACTS, status=202)
    monkeypatch.setattr(strategy_verbs.time, "sleep", lambda _: canned_node.answer("GET", "/strategy", course.pop(0)))
    code, out, err = metainf("strategy", "set", "seqs:16")
    assert code == 1
    assert out == "default runs still: out of memory\n"
    assert err.index("others go first") < err.index("the engine starts") < err.index("on its way back")


@pytest.mark.parametrize(
    ("engine", "code"), [("stopped", 75), ("backoff", 75), ("failed", 75), ("starting", 0)]
)  # fmt: skip
def test_set_waits_for_no_engine_that_does_not_come_by_itself_and_says_that_the_wish_is_noted(
    canned_node: CannedNode, metainf: Metainf, monkeypatch: pytest.MonkeyPatch, engine: str, code: int
) -> None:
    monkeypatch.setattr(strategy_verbs, "BEGINS", 0.0)
    looks = iter(range(3))
    away = FACTS | {"phase": "away", "reason": "the engine does not serve yet"}
    canned_node.answer("GET", "/strategy", away)
    canned_node.answer("POST", "/strategy", away, status=202)
    canned_node.answer("GET", "/status", STATUS | {"engine": {"state": engine, "reason": "paused"}})

    def look(_: float) -> None:
        if next(looks, None) is None:  # by then who does not wait has ended
            canned_node.answer("GET", "/strategy", FIXED)

    monkeypatch.setattr(strategy_verbs.time, "sleep", look)
    found, out, _ = metainf("strategy", "set", "seqs:16")
    assert found == code
    assert ("seqs:16 is noted" in out) == (code == 75)
    assert ("serves again: paused" in out) == (code == 75)


def test_set_that_waits_for_nothing_says_where_to_look(canned_node: CannedNode, metainf: Metainf) -> None:
    canned_node.answer("GET", "/strategy", FACTS)
    canned_node.answer("POST", "/strategy", FACTS, status=202)
    code, out, _ = metainf("strategy", "set", "seqs:16", "--no-wait")
    assert code == 0
    assert out == "seqs:16 is asked for; `metainf strategy show` says what came of it\n"


def test_ctrl_c_leaves_the_switch_to_the_node(
    canned_node: CannedNode, metainf: Metainf, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    canned_node.answer("GET", "/strategy", FACTS | {"phase": "switching"})
    canned_node.answer("POST", "/strategy", FACTS, status=202)
    monkeypatch.setattr(strategy_verbs.time, "sleep", interrupted)
    code, _, err = metainf("strategy", "set", "seqs:16")
    assert code == 130
    assert "the node goes on with it" in err


@pytest.mark.parametrize(
    ("name", "text", "fields"),
    [
        ("s.json", '{"prefix_caching": true}', {"prefix_caching": True}),
        ("s.toml", "max_num_seqs = 4", {"max_num_seqs": 4}),
        (
            "s.toml",
            'speculation_method = "ngram"\nspeculation_tokens = 4',
            {"speculation": {"method": "ngram", "tokens": 4}},
        ),
        ("s.toml", "version = 1\n[engine.strategy]\ncompile = false", {"compile": False}),
    ],
)
def test_a_strategy_may_stand_in_a_file(
    canned_node: CannedNode, metainf: Metainf, tmp_path: Path, name: str, text: str, fields: dict[str, object]
) -> None:
    (tmp_path / name).write_text(text)
    canned_node.answer("GET", "/strategy", FIXED)
    canned_node.answer("POST", "/strategy", FIXED, status=202)
    assert metainf("strategy", "set", str(tmp_path / name), "--no-wait")[0] == 0
    assert canned_node.bodies == [{"strategy": fields}]


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ("prefx:on", 78),
        ("nowhere.json", 69),
        ("broken.json", 78),
        ("list.json", 78),
        ("broken.toml", 78),
        ("odd.toml", 78),
    ],
)
def test_what_is_no_strategy_never_reaches_the_node(
    canned_node: CannedNode, metainf: Metainf, tmp_path: Path, given: str, code: int
) -> None:
    for name, text in (("broken.json", "{"), ("list.json", "[]"), ("broken.toml", "="), ("odd.toml", "wings = 2")):
        (tmp_path / name).write_text(text)
    got, out, err = metainf("strategy", "set", str(tmp_path / given) if "." in given else given)
    assert (got, out, canned_node.bodies) == (code, "", [])
    assert "do: " in err


def test_the_node_s_no_comes_with_its_remedy(canned_node: CannedNode, metainf: Metainf) -> None:
    error = {"error": {"message": "it needs 8 GPUs", "remedy": "choose another"}}
    canned_node.answer("GET", "/strategy", FACTS)
    canned_node.answer("POST", "/strategy", error, status=409)
    code, _, err = metainf("strategy", "set", "tp:8")
    assert code == 69
    assert "it needs 8 GPUs" in err
    assert "do: choose another" in err


def test_a_pause_says_when_the_device_is_free_and_until_when(canned_node: CannedNode, metainf: Metainf) -> None:
    canned_node.answer("POST", "/pause", PAUSED)
    canned_node.answer("GET", "/status", STATUS | {"engine": {**STATUS["engine"], "state": "stopped"}})
    code, out, _ = metainf("pause", "--for", "2h", "--now")
    assert code == 0
    assert canned_node.bodies == [{"now": True, "for_s": 7200.0}]
    assert "the device is free, after" in out
    assert "the node goes on at 2026-11-22" in out
    assert json.loads(metainf("pause", "--json")[1])["free"] is True


def test_an_engine_that_does_not_end_is_told_of(
    canned_node: CannedNode, metainf: Metainf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.cli.pausing.WATCHED", 0.0)
    canned_node.answer("POST", "/pause", PAUSED)
    canned_node.answer("GET", "/status", STATUS | {"engine": {"state": "draining"}})
    code, _, err = metainf("pause")
    assert code == 75
    assert "--now cuts off" in err


@pytest.mark.parametrize("text", ["", "2", "h", "0h", "-1h", "2 weeks", "1e3s"])
def test_what_is_no_length_of_time_pauses_nothing(canned_node: CannedNode, metainf: Metainf, text: str) -> None:
    code, _, err = metainf("pause", "--for", text)
    assert (code, canned_node.bodies) == (2, [])
    assert "90s, 20m, 2h or 1d" in err


def test_resume_says_what_holds_the_engine_back_still(canned_node: CannedNode, metainf: Metainf) -> None:
    canned_node.answer("POST", "/resume", {"state": "running", "reason": "", "until": None, "blind": []})
    assert "nothing holds the engine back" in metainf("resume")[1]
    canned_node.answer("POST", "/resume", {**PAUSED, "state": "yielded", "reason": "outside the hours", "until": None})
    assert "yielded: outside the hours" in metainf("resume")[1]


def test_status_has_a_line_of_the_tuner_and_one_of_the_owner_s_limits(
    canned_node: CannedNode, metainf: Metainf
) -> None:
    canned_node.answer("GET", "/status", STATUS | {"tuner": FACTS, "owner": PAUSED | {"blind": ["watts"]}})
    out = metainf("status")[1]
    assert "tuner     verifying, auto: prefix:on (38 answers, 0.12 saved so far), for latency, foretold +20 %" in out
    assert "observed +17 %, 2 switches, 1 taken back" in out
    assert "owner     paused until 2026-11-22" in out
    assert "limits.watts" in out
    canned_node.answer("GET", "/status", STATUS)
    out = metainf("status")[1]
    assert "tuner     off" in out
    assert "owner" not in out


def test_gains_are_per_cent_of_what_it_costs() -> None:
    assert [words.percent(gain) for gain in (0.0, 0.6931, -0.6931, None, float("inf"))] == [
        "+0 %", "+50 %", "-100 %", "?", "?",
    ]  # fmt: skip
