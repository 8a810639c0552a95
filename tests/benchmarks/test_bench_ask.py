"""The bench of asking, in a second, so that it cannot rot."""

import json

import pytest

from tests.benchmarks.bench_ask import CASES, main


def test_each_case_is_measured_and_peers_cost_more_than_none(capsys: pytest.CaptureFixture[str]) -> None:
    lines = main(["--rounds", "1", "--json"])
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == lines
    assert [line["case"] for line in lines] == [case.name for case in CASES]
    alone, among, _ = (line["prompt_us"] for line in lines)
    assert 1.0 < alone < among
