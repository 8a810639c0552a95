"""The benchmark of switches cannot rot: its short form runs over the stand-in, and it sees what goes wrong."""

from collections import Counter
from dataclasses import replace

import pytest

from tests.benchmarks.bench_switches import QUICK, Plan, Seen, _report, run, show


def test_what_is_lost_and_what_is_done_twice_is_counted() -> None:
    seen = Seen(asked=4, lost=["bench-0-1: ValueError: 503"], first=[0.1, 0.3, 0.2], gap=[0.1], by=Counter({"n": 3}))
    worked = Counter({"bench-0-0": 1, "bench-0-2": 2})
    report = _report(Plan(streams=1), [seen], worked, [5.0], [])
    assert (report.asked, report.lost, report.twice, report.unnamed) == (4, 1, 1, 1)
    assert report.longest_wait_s == pytest.approx(0.3)
    assert "1 lost, 1 done twice" in show(Plan(), report)


@pytest.mark.slow
@pytest.mark.daemons
def test_nothing_is_lost_or_done_twice_while_a_lone_node_restarts_its_engine() -> None:
    plan = replace(QUICK, first=False)
    report = run(plan)
    print(show(plan, report))
    assert report.asked > plan.streams
    assert (report.lost, report.twice, report.unnamed, report.switches_failed) == (0, 0, 0, 0), report.reasons


@pytest.mark.slow
@pytest.mark.daemons
def test_nothing_is_lost_or_done_twice_in_a_swarm_of_three() -> None:
    plan = replace(QUICK, nodes=3, first=False)
    report = run(plan)
    print(show(plan, report))
    assert (report.lost, report.twice, report.unnamed, report.switches_failed) == (0, 0, 0, 0), report.reasons
    assert report.nodes_answering > 1
