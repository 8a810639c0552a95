"""The gateway benchmark cannot rot: its table is right on known figures, and its short form runs."""

import asyncio
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from tests.benchmarks import bench_gateway
from tests.benchmarks.bench_gateway import Plan, benchmark
from tests.benchmarks.fronts import instant_engine
from tests.benchmarks.gateway_table import Row, table
from tests.benchmarks.instant_engine import MODEL
from tests.benchmarks.load import LoadFailed, Work, checked, load


def row(front: str, number: int, *, p50: float, cpu: float = 0.0) -> Row:
    return Row(
        front=front,
        concurrency=1,
        round=number,
        p50=p50,
        stream_p50=2 * p50,
        cpu=cpu,
        cpu_event=cpu / 10,
        rate=1 / p50,
    )


def test_a_gateway_is_set_against_the_same_round_of_the_others() -> None:
    # The machine is ten times as slow in the second round and normal in the third: ratios do not move.
    rows = [
        *(row("direct", n, p50=100e-6 * slow) for n, slow in enumerate((1, 10, 1))),
        *(row("nginx", n, p50=150e-6 * slow, cpu=20e-6 * slow) for n, slow in enumerate((1, 10, 1))),
        *(row("node", n, p50=300e-6 * slow, cpu=80e-6 * slow) for n, slow in enumerate((1, 10, 1))),
    ]
    cells = {line.split()[0]: line.split()[1:] for line in table(rows).splitlines()[2:] if line}
    assert cells["node"][:6] == ["200", "3.0", "400", "80", "4.0", "8"]
    assert cells["direct"][0] == "-"


def test_a_gateway_without_a_yardstick_shows_no_ratio() -> None:
    lines = table([row("direct", 0, p50=1e-4), row("node", 0, p50=2e-4, cpu=1e-4)]).splitlines()
    assert next(line for line in lines if line.startswith("node")).split()[5] == "?"


@pytest.mark.slow
def test_the_instant_engine_streams_every_event_in_order_to_many() -> None:
    with instant_engine(gap_ms=1.0) as (port, _):
        work = Work(url=f"http://127.0.0.1:{port}", model=MODEL, tokens=50, concurrency=16, seconds=0.2)
        samples = asyncio.run(load(work))
    assert samples.events == 50 * len(samples.whole)
    assert len(samples.whole) >= 16


EVENTS = [b'data: {"choices": [{"delta": {"content": "%d "}}]}\n\n' % number for number in range(4)]
DONE = b"data: [DONE]\n\n"


@pytest.mark.parametrize(
    "stream",
    [
        [*EVENTS[:2], EVENTS[3], DONE],
        [*EVENTS[:2], EVENTS[1], *EVENTS[2:], DONE],
        [EVENTS[0], EVENTS[2], EVENTS[1], EVENTS[3], DONE],
        EVENTS,
        [*EVENTS, DONE[:-6]],
        [],
    ],
    ids=["lost", "doubled", "disordered", "without its end", "torn", "empty"],
)
def test_the_load_generator_fails_on_a_stream_that_is_not_whole(stream: list[bytes]) -> None:
    assert checked(b"".join([*EVENTS, DONE]), 4) == 4
    with pytest.raises(LoadFailed):
        checked(b"".join(stream), 4)


@pytest.mark.slow
def test_the_load_generator_fails_on_an_answer_that_never_comes() -> None:
    with instant_engine(gap_ms=1.0) as (port, pid):
        os.kill(pid, signal.SIGKILL)
        work = Work(url=f"http://127.0.0.1:{port}", model=MODEL, tokens=None, concurrency=1, seconds=1.0)
        with pytest.raises(LoadFailed):
            asyncio.run(load(work))


def test_streams_at_a_pace_have_a_table_of_their_own() -> None:
    rows = [
        replace(row("direct", 0, p50=1e-3), pace=50, rate=1600.0),
        replace(row("node", 0, p50=2e-3, cpu=5e-4), pace=50, rate=1600.0),
        row("node", 0, p50=2e-4, cpu=1e-4),
    ]
    lines = table(rows).splitlines()
    assert lines[0].startswith("1 at once")
    assert "1 streams of 50 events a second, median of 1 rounds" in lines
    assert lines[-1].split() == ["node", "2000", "4000", "50", "?", "0.08", "1600"]


@pytest.mark.slow
def test_the_short_form_measures_the_node_and_goes_on_where_it_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "rows.jsonl"
    fronts = ("node", "peer", "bytes", "requests")
    plan = Plan(fronts=fronts, concurrencies=(1, 4), streams=(3,), rounds=1, seconds=0.2, tokens=4)
    rows = benchmark(plan, out=out, install=False, installs=tmp_path, seed=1)
    assert {(r.front, r.pace, r.concurrency) for r in rows} == {
        (front, pace, many) for front in ("direct", *fronts) for pace, many in ((0, 1), (0, 4), (50, 3))
    }
    assert all(r.p50 > 0 and (r.cpu > 0) == (r.front != "direct") for r in rows)
    more = replace(plan, rounds=2)
    again = benchmark(more, out=out, install=False, installs=tmp_path, seed=1)
    assert again[: len(rows)] == rows
    assert len(again) == 2 * len(rows)
    assert "left out" not in capsys.readouterr().out


def test_a_gateway_that_is_not_installed_is_left_out_with_its_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = Plan(fronts=("litellm",), concurrencies=(1,), rounds=1, seconds=0.1, tokens=2)
    rows = benchmark(plan, out=None, install=False, installs=tmp_path, seed=1)
    assert {r.front for r in rows} == {bench_gateway.DIRECT}
    assert "litellm is left out" in capsys.readouterr().out
