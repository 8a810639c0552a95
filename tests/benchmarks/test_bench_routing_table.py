"""The bake-off from files to its table, on a data folder of a few rows; and what our learner must not have seen."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from node.adapters.parquet import write_table
from tests.benchmarks import bench_routing, routing_cells, routing_ours
from tests.benchmarks.routing_curves import TABLES, curves, held_out
from tests.benchmarks.test_bench_routing import said_of

MODEL = "meta-llama/Llama-3.1-70B"
CONCURRENCIES = (4, 16, 64)


def row(card: int, prompt: int, concurrency: int, **changed: object) -> dict[str, object]:
    slow = 1.0 + 2.0 * card
    return {
        "context": 100 * card + prompt + concurrency,
        "model.name": MODEL,
        "model.parameters": 1.17e11,
        "model.active_parameters": 5.1e9,
        "model.layers": 36.0,
        "model.hidden": 2880.0,
        "model.kv_bytes_per_token": 7e4,
        "hardware.name": ("h100_sxm", "h200_sxm")[card],
        "hardware.family": f"family {card}",
        "hardware.memory_bytes": 8e10,
        "hardware.spec_bytes_per_s": 3e12 / slow,
        "hardware.spec_flops_bf16": 1e15 / slow,
        "workload.prompt_tokens": float(prompt),
        "workload.output_tokens": 1024.0,
        "workload.concurrency": float(concurrency),
        "strategy.name": "vllm|bf16|agg|n4",
        "strategy.engine": "vllm",
        "strategy.precision": "bf16",
        "strategy.disaggregated": False,
        "strategy.devices": 4.0,
        "strategy.tensor_parallel": 4.0,
        "outcome.ttft_mean_s": slow * (0.02 + 5e-5 * prompt) * (1 + concurrency / 64),
        "outcome.tpot_mean_s": slow * 0.01 * (1 + concurrency / 32),
        "outcome.latency_mean_s": slow * 10.0,
        **changed,
    }


def kinds(rows: list[dict[str, object]]) -> Mapping[str, type]:
    return {name: type(value) for name, value in rows[0].items()}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder with two sorts of hardware under one model, and a few minutes of both traces."""
    rows = [row(card, prompt, each) for card in (0, 1) for prompt in (1024, 8192) for each in CONCURRENCIES]
    for name in TABLES:
        write_table(tmp_path / name, rows, kinds(rows))  # pyright: ignore[reportArgumentType]
    for number, name in enumerate(("conversation", "code")):
        lines = [
            f"2023-11-16 18:{each // 60:02}:{each % 60:02}.{number}600000,{100 + 7 * each},{10 + each % 50}"
            for each in range(600)
        ]
        file = tmp_path / f"azure_llm_trace_2023_{name}.csv"
        file.write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *lines]), encoding="utf-8")
    return tmp_path


def test_the_bench_prints_what_was_chosen_and_a_line_for_every_policy_and_goes_on_where_it_was(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    sorts = routing_cells.cells(data, "datacentre", 0)
    (kept / "curves-datacentre-0.json").write_text(json.dumps([said_of(each) for each in sorts]), encoding="utf-8")
    asked = ["--data", str(data), "--kept", str(kept), "--mixes", "datacentre", "--nodes", "4", "--loads", "0.5",
             "--seeds", "0", "--seconds", "12", "--most", "400", "--policies", "random,ours"]  # fmt: skip

    bench_routing.main(asked)
    first = capsys.readouterr().out
    files = {file: file.stat().st_mtime_ns for file in kept.iterdir()}
    bench_routing.main(asked)

    lines = first.splitlines()
    assert lines[0].startswith("datacentre, 4 nodes, 50% loaded; chosen: ")
    assert "ours explore=" in lines[0]
    assert [line.split()[0] for line in lines[2:5]] == ["random", "ours", "oracle"]
    assert lines[4].split()[7:9] == ["1.000", "1.000"]
    assert capsys.readouterr().out == first
    assert {file: file.stat().st_mtime_ns for file in kept.iterdir()} == files


def test_what_was_kept_without_a_figure_that_is_needed_is_run_again(tmp_path: Path, data: Path) -> None:
    case = bench_routing.Case(mix="datacentre", nodes=2, load=0.5, seconds=3.0, most=40)
    job = bench_routing.Job(data=data, kept=tmp_path, case=case, seed=0, policy="random", chosen={})
    found = bench_routing.run(job)
    job.file().write_text(json.dumps({"mean": -1.0}), encoding="utf-8")
    assert bench_routing.run(replace(job, needed=("mean",))) == {"mean": -1.0}
    assert bench_routing.run(job)["mean"] == found["mean"] > 0


def test_a_mix_leaves_out_what_is_not_of_it() -> None:
    mix = routing_cells.MIXES["datacentre"]
    assert mix.has(row(0, 1024, 4))
    for changed in (
        {"hardware.name": "b200_sxm"},
        {"strategy.engine": "trtllm"},
        {"strategy.devices": 8.0},
        {"strategy.disaggregated": True},
    ):
        assert not mix.has(row(0, 1024, 4, **changed))
    assert routing_cells.MIXES["clouds"].has(row(0, 1024, 4, **{"hardware.name": "b200_sxm", "strategy.devices": 8.0}))


def test_neither_the_family_nor_the_model_under_another_name_is_learnt_from() -> None:
    model = row(0, 1024, 4)
    other = {"model.name": "another", "model.parameters": 8e9, "model.layers": 32.0}
    assert held_out(row(1, 1024, 4, **{"model.name": "same by another name"}), "family 0", model)
    assert held_out(row(0, 1024, 4, **other), "family 0", model)
    assert not held_out(row(1, 1024, 4, **other), "family 0", model)


def test_there_is_a_curve_for_every_cell_that_the_router_can_read(data: Path, tmp_path: Path) -> None:
    sorts = routing_cells.cells(data, "datacentre", 0)
    said = curves(data, "datacentre", 0, sorts, tmp_path / "kept")  # nothing is left to learn from: physics
    assert len(said) == len(sorts) == 2
    slow, fast = (routing_ours.read_curve(each) for each in (said[1], said[0]))
    assert slow.log_tpot[0] > fast.log_tpot[0]
    assert curves(data, "datacentre", 0, sorts, tmp_path / "kept") == said


def test_a_policy_that_there_is_not_is_named_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench_routing.main(["--data", str(tmp_path), "--kept", str(tmp_path), "--policies", "ours,fastest"])
    assert "no policy is named fastest; there are round_robin" in capsys.readouterr().err
