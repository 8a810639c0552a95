"""`metainf profile --trials` beside a running node: asked over its socket, told as it goes, then a table or JSON."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from node.adapters.system import node_lock
from node.core.trial_request import from_plain
from tests.cli.conftest import CannedNode

Metainf = Callable[..., tuple[int, str, str]]

pytestmark = pytest.mark.slow

FIGURES = {"latency.mean": {"median": 4_328_000.0, "mad": 43_280.0}, "throughput": {"median": 84_200.0, "mad": 0.0}}
LENGTHS = {"mean": 16.0, "p50": 16, "p95": 16}
REPORT: dict[str, Any] = {
    "run": "r", "model": "m", "vllm": "0.32.0", "ended": "budget", "seconds": 9.0, "baseline": "default",
    "trials": {"trials": 4, "discarded": 1, "reasons": {"others used  %": 1}, "failed": {}, "cells": 2, "complete": 1,
               "discarded_share": 0.25},
    "records": {"signed": 1, "author": "12D3KooWx", "trouble": ""},
    "workloads": [{"kind": "bursty", "requests": 4, "prompt_tokens": LENGTHS, "output_tokens": LENGTHS}],
    "cells": [
        {"strategy": {"name": "slow"}, "workload": "bursty", "repetitions": 0, "discarded": 0, "figures": {},
         "failure": {"kind": "out_of_memory", "reason": "x", "load": None}, "latency_by_baseline": None},
        {"strategy": {"name": "default"}, "workload": "bursty", "repetitions": 3, "discarded": 1, "figures": FIGURES,
         "failure": None, "latency_by_baseline": 1.0},
    ],
}  # fmt: skip
LINES = [
    {"event": "doing", "text": "importing vLLM"},
    {"event": "scale", "prefill": 256, "decode": 16, "resumed": False},
    {"event": "session", "strategy": "default", "round": 0, "left": 60.0, "tally": {"complete": 0, "cells": 2}},
    {"event": "answered", "strategy": "default", "load": "bursty", "answered": 1, "of": 4},
    {"event": "trial", "strategy": "default", "load": "bursty", "reason": "",
     "outcome": {"latency": {"mean": 4_328_000, "p50": 1, "p95": 1}}},
    {"event": "failed", "strategy": "slow", "load": None, "kind": "out_of_memory", "reason": "no room"},
    {"event": "of a later version"},
]  # fmt: skip


def jsonl(*lines: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def test_a_running_node_is_asked_and_what_it_tells_is_shown(canned_node: CannedNode, metainf: Metainf) -> None:
    canned_node.answer("GET", "/status", {"engine": {"state": "ready"}})
    canned_node.answer("POST", "/trials", jsonl(*LINES, {"event": "report", "report": REPORT}))
    code, out, err = metainf("profile", "--trials", "--budget", "2", "--workload", "bursty")
    assert code == 0, err
    asked = from_plain(canned_node.bodies[-1])
    assert (asked.budget, asked.workloads, asked.repetitions) == (2.0, ("bursty",), 3)
    for words in ("importing vLLM", "a new run", "[0/2 cells", "mean 4328 ms", "slow  out_of_memory: no room"):
        assert words in err
    assert out.index("default ") < out.index("slow ")  # the quickest first
    for words in ("4328", "1%", "out_of_memory", "1 discarded (25%)", "1 records signed as 12D3KooWx", "time is up"):
        assert words in out
    assert json.loads(metainf("profile", "--trials", "--json")[1]) == REPORT


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (jsonl({"event": "error", "message": "trials run already", "remedy": "wait"}), "trials run already"),
        (jsonl(LINES[0]), "the node ended"),
        (b"<html>", "not JSON"),
    ],
)
def test_what_the_node_has_against_it_is_said(
    answer: bytes, words: str, canned_node: CannedNode, metainf: Metainf
) -> None:
    canned_node.answer("GET", "/status", {"engine": {"state": "ready"}})
    canned_node.answer("POST", "/trials", answer)
    code, out, err = metainf("profile", "--trials")
    assert (code, out) == (69, "")
    assert words in err


def test_trials_and_a_node_do_not_start_beside_each_other(
    metainf: Metainf, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METAINF_ENGINE_PYTHON", "/nowhere/python")
    with node_lock(data_dir / "node.lock", holder="a run of trials"):
        for verb in (("profile", "--trials"), ("up", "--yes")):
            code, _, err = metainf(*verb)
            assert code == 69
            assert "a run of trials already runs" in err
    with node_lock(data_dir / "node.lock"):
        assert "a node already runs" in metainf("profile", "--trials")[2]


def test_without_an_engine_of_its_own_there_is_nothing_to_try(
    metainf: Metainf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METAINF_ENGINE_URL", "http://127.0.0.1:1")
    code, _, err = metainf("profile", "--trials")
    assert code == 78
    assert "engine of this node's own" in err
