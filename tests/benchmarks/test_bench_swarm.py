"""The benchmark of the swarm cannot rot: its table is right on known figures, and its short form runs."""

import asyncio
from pathlib import Path

import pytest

from tests.benchmarks.bench_swarm import Plan, benchmark
from tests.benchmarks.fronts import instant_engine
from tests.benchmarks.instant_engine import MODEL
from tests.benchmarks.load import Work, load
from tests.benchmarks.swarm_table import DIRECT, NODE, PEER, PEERS, Row, table


def row(way: str, number: int, **figures: float) -> Row:
    told = {name.replace("_", " "): value for name, value in figures.items()}
    return Row(way=way, kind="stream", concurrency=16, round=number, figures=told)


def test_a_way_is_set_against_the_engine_alone_in_the_same_round() -> None:
    # The machine is ten times as slow in the second round: neither the ratio nor the usual difference moves.
    rows = [
        *(row(PEER, n, p50_ms=9 * slow, rate=20 / slow, CPU_us=50) for n, slow in enumerate((1, 10, 1))),
        *(row(DIRECT, n, p50_ms=2 * slow, rate=80 / slow) for n, slow in enumerate((1, 10, 1))),
    ]
    lines = table(rows).splitlines()
    assert lines[0] == "stream, 16 at once, median of 3 rounds"
    assert lines[2].split("engine")[1].split() == ["2", "80", "-"]
    assert lines[3].split("engine")[1].split() == ["9", "(+7)", "20", "(x0.25)", "50"]


@pytest.mark.slow
@pytest.mark.daemons
def test_the_instant_engine_keeps_the_pace_and_the_size_that_a_prompt_names() -> None:
    with instant_engine(gap_ms=500.0) as (port, _):
        common = {"url": f"http://127.0.0.1:{port}", "model": MODEL, "concurrency": 1, "seconds": 0.05}
        paced = asyncio.run(load(Work(tokens=10, fields=(("gap_ms", 10),), **common)))
        large = asyncio.run(
            load(Work(tokens=None, fields=(("answer_bytes", 300_000),), prompt_bytes=300_000, **common))
        )
    assert paced.pieces == 11  # ten events and the end, each by itself
    assert len(paced.gaps) == 10
    assert paced.whole[0] > 0.09
    assert large.body_bytes > 300_000 * len(large.whole)


@pytest.mark.slow
@pytest.mark.daemons
def test_the_short_form_measures_every_way_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    plan = Plan(kinds=("short answer", "stream unpaced", "bulk answer"), most=16, rounds=1, seconds=0.1)
    rows = benchmark(plan, out=out, seed=1)
    assert {r.way for r in rows} == {DIRECT, NODE, PEER, PEERS}
    assert {(r.kind, r.concurrency) for r in rows if r.way == PEERS} == {("stream unpaced", 16)}
    for each in rows:
        cpu = {name: value for name, value in each.figures.items() if name.startswith("CPU")}
        assert len(cpu) == {DIRECT: 0, NODE: 1, PEER: 2, PEERS: 2}[each.way]
    # The system counts in hundredths of a second: a single figure of so short a run may well be nothing.
    assert sum(value for each in rows for name, value in each.figures.items() if name.startswith("CPU")) > 0
    through_a_peer = next(r for r in rows if (r.way, r.kind) == (PEER, "stream unpaced"))
    assert through_a_peer.figures["pieces/event"] < 0.5  # peers join what follows closely
    assert benchmark(plan, out=out, seed=1) == rows
