"""The seconds-long form: two reports are compared, cells that one of them lacks left out."""

from typing import Any

import pytest

from tests.benchmarks.bench_trials import compare, show


def report(**medians: float) -> dict[str, Any]:
    cells = [
        {"strategy": {"name": name}, "workload": "bursty", "figures": {"latency.mean": {"median": value, "mad": 0}}}
        for name, value in medians.items()
    ]
    trials = {"complete": 2, "cells": 3, "trials": 6, "discarded_share": 0.5}
    return {"cells": cells, "trials": trials, "seconds": 9.0}


def test_two_runs_agree_in_the_cells_whose_medians_are_near(capsys: pytest.CaptureFixture[str]) -> None:
    one, other = report(default=100, fast=50, lost=1), report(default=109, fast=80)
    near, cells, middle = compare(one, other)["latency.mean"]
    assert (near, cells) == (1, 2)
    assert middle == pytest.approx(30 / 65)
    show(one, other)
    assert "50% of 2 cells within 10%" in capsys.readouterr().out
