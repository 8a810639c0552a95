"""Curves without a learner: near what its physics says, rising, and nothing where nothing is known."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.core.curves import PHYSICS, PROMPTS, Shelf
from node.core.own_records import Setting
from node.core.peer_cells import own_cell
from node.core.rough_curves import rough_curve
from node.core.strategy import DEFAULT, Strategy
from node.learner import brain
from protocol import limits
from protocol.performance import Benchmark
from tests.protocol.performance_samples import BENCHMARK, ENGINE, HARDWARE, MODEL
from tests.protocol.samples import AUTHOR

SETTING = Setting(model=MODEL, hardware=HARDWARE, benchmark=BENCHMARK, engine=ENGINE)
FAST = replace(
    BENCHMARK, gemv_bf16_bytes_per_s=2_800 * 10**9, gemm_bf16_mflops=600 * 10**6, attention_bytes_per_s=2_000 * 10**9
)
SMALL = replace(
    MODEL, parameters=135 * 10**6, active_parameters=135 * 10**6, weight_bytes=270 * 10**6, layers=30, hidden=576,
    heads=9, head_dim=64, kv_heads=3, kv_bytes_per_token=23_040,
)  # fmt: skip
SPARSE = replace(
    MODEL, parameters=30 * 10**9, active_parameters=3 * 10**9, weight_bytes=60 * 10**9, layers=48, hidden=2048
)
CASES: dict[str, tuple[Setting, Strategy]] = {
    "a desktop": (SETTING, DEFAULT),
    "a server": (replace(SETTING, benchmark=FAST), DEFAULT),
    "a small model": (replace(SETTING, model=SMALL), DEFAULT),
    "experts": (
        replace(SETTING, model=SPARSE, benchmark=FAST, hardware=replace(HARDWARE, memory_bytes=141 * 10**9)),
        DEFAULT,
    ),
    "two devices": (replace(SETTING, hardware=replace(HARDWARE, count=2)), Strategy(tensor_parallel=2)),
    "rounded weights": (SETTING, Strategy(weight_quantization="fp8")),
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_near_what_the_learner_s_physics_says_of_few_requests(case: str) -> None:
    row = own_cell(*CASES[case]).row
    rough = rough_curve(row)
    assert rough is not None
    assert rough.source == PHYSICS
    (exact,) = brain.Brain(make_heads=brain.trees).curves([row])
    few = 4  # of the loads; of more, what fits into the memory counts
    usual = slice(PROMPTS.index(1024), PROMPTS.index(65536)), slice(0, few)
    assert np.abs(rough.log_ttft[usual] - np.log(exact.ttft_s[usual])).max() < math.log(3)
    assert np.abs(rough.log_tpot[:few] - np.log(exact.tpot_s[:few])).max() < math.log(1.5)
    assert abs(math.log(rough.queued_token_s / exact.queued_token_s)) < math.log(2)


def test_a_data_centre_is_told_from_a_desktop() -> None:
    slow, fast = (rough_curve(own_cell(*CASES[case]).row) for case in ("a desktop", "a server"))
    assert slow is not None
    assert fast is not None
    assert (slow.log_tpot - fast.log_tpot)[0] == pytest.approx(math.log(2800 / 840), abs=0.2)
    assert (slow.log_ttft - fast.log_ttft > 0.3).all()


def test_what_is_remembered_of_each_token_is_read_with_each_token() -> None:
    light, heavy = (
        rough_curve(own_cell(replace(SETTING, model=replace(MODEL, kv_bytes_per_token=size)), DEFAULT).row)
        for size in (1, 500_000)
    )
    assert light is not None
    assert heavy is not None
    more = np.exp(heavy.log_tpot) - np.exp(light.log_tpot)
    assert more[3] == pytest.approx(8 * 1088 * 500_000 / 840e9, rel=0.01)
    assert (heavy.log_ttft == light.log_ttft).all()


@pytest.mark.parametrize(
    "setting",
    [
        replace(SETTING, benchmark=Benchmark()),
        replace(SETTING, model=replace(MODEL, parameters=None)),
        replace(SETTING, benchmark=Benchmark(gemv_bf16_bytes_per_s=0), model=replace(MODEL, parameters=0)),
    ],
)
def test_where_too_little_is_known_nothing_is_said(setting: Setting) -> None:
    assert rough_curve(own_cell(setting, DEFAULT).row) is None


COUNT = st.none() | st.integers(0, limits.COUNT_MAX)
SIZE = st.none() | st.integers(0, limits.CONTEXT_MAX)


@given(st.tuples(COUNT, COUNT, COUNT, SIZE, SIZE, COUNT, st.integers(1, limits.COUNT_MAX)))
def test_whatever_a_record_says_makes_a_curve_that_rises_or_none(said: tuple[Any, ...]) -> None:
    parameters, active, kv, layers, hidden, flops, gemv = said
    model = replace(
        MODEL, parameters=parameters, active_parameters=active, kv_bytes_per_token=kv, layers=layers, hidden=hidden
    )
    figures = Benchmark(
        gemv_bf16_bytes_per_s=gemv, gemm_bf16_mflops=None if flops is None else flops % limits.SCALED_MAX
    )
    found = rough_curve(own_cell(replace(SETTING, model=model, benchmark=figures), DEFAULT).row)
    if found is None:
        assert not parameters
        return
    assert (np.diff(found.log_ttft, axis=0) >= 0).all()
    assert (np.diff(found.log_ttft, axis=1) >= 0).all()
    assert (np.diff(found.log_tpot) >= 0).all()
    shelf = Shelf()
    shelf.put(AUTHOR, "m", found)
    rows = shelf.rows([AUTHOR], "m")
    assert np.isfinite(shelf.ttft(rows, 1e4, 9, 1e4)).all()
    assert np.isfinite(shelf.tpot(rows, 9)).all()
