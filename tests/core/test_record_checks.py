"""The first filter: what cannot be is turned away, and what is merely surprising, unsaid or unlucky is not."""

import statistics
from dataclasses import fields, replace
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.core.record_checks import Doubt, doubts, first_doubt
from protocol import limits
from protocol.performance import TRAFFIC, Benchmark, Hardware, Model, Outcome, Performance, Strategy, Workload
from tests.protocol import performance_samples as given_records
from tests.protocol import samples
from tests.protocol.performance_strategies import BODIES

HONEST = given_records.body()
# SmolLM2 on a desktop's CPU: its weights lie in the cache for a good part, and seem to be read faster than memory is.
SMALL = replace(
    HONEST,
    model=Model(
        weights="real",
        parameters=134_515_008,
        weight_bytes=269_030_016,
        weight_dtype="bfloat16",
        vocab=49_152,
        hidden=576,
    ),
    hardware=Hardware(name="AMD EPYC 9684X", count=1, platform="cpu", memory_bytes=64 * 2**30),
    benchmark=Benchmark(gemv_bf16_bytes_per_s=40_000_000_000, gemm_fp32_mflops=500_000, gemm_bf16_mflops=900_000),
    outcome=given_records.outcome(
        tpot_mean_us=1_500, tpot_p50_us=1_450, tpot_p95_us=2_000, latency_mean_us=401_000, latency_p50_us=390_000,
        latency_p95_us=600_000, energy_mj=None,
    ),
)  # fmt: skip


def judged(body: Performance, **changes: Any) -> tuple[Doubt, ...]:
    """Return what is doubted of a body with other fields in whichever sections have them."""
    for name in ("model", "hardware", "benchmark", "strategy", "workload", "outcome"):
        section = getattr(body, name)
        ours = {key: value for key, value in changes.items() if key in {item.name for item in fields(section)}}
        body = replace(body, **{name: replace(section, **ours)})
    return doubts(body, now_us=samples.NOW)


@pytest.mark.parametrize("body", [HONEST, SMALL, given_records.failed().body])
def test_an_honest_record_is_let_in(body: Performance) -> None:
    assert first_doubt(body, now_us=samples.NOW) is None


@pytest.mark.parametrize(
    ("changes", "doubt"),
    [
        ({"failures": 97}, Doubt.CONTRADICTION),
        ({"ttft_p50_us": 900_000}, Doubt.CONTRADICTION),
        ({"ttft_p50_us": 500_000, "ttft_p95_us": 501_000}, Doubt.CONTRADICTION),  # half are above twice the mean
        ({"stall_p95_us": 1_500_000}, Doubt.CONTRADICTION),
        ({"ttft_mean_us": 4_000_000}, Doubt.CONTRADICTION),
        ({"latency_mean_us": 300_000, "latency_p50_us": 300_000, "latency_p95_us": 400_000}, Doubt.CONTRADICTION),
        ({"tpot_mean_us": 100_000, "tpot_p50_us": 100_000, "tpot_p95_us": 100_000}, Doubt.CONTRADICTION),
        ({"failures": 96}, Doubt.CONTRADICTION),  # times of no answer
        ({"output_tokens_per_s_milli": 900_000}, Doubt.CONTRADICTION),
        ({"kv_heads": 64}, Doubt.CONTRADICTION),
        ({"active_parameters": 9_000_000_000}, Doubt.CONTRADICTION),
        ({"prompt_tokens_p50": 2_000}, Doubt.CONTRADICTION),
        ({"max_length": 1_000}, Doubt.CONTRADICTION),
        ({"tensor_parallel": 2}, Doubt.CONTRADICTION),
        ({"prefix_caching": False}, Doubt.CONTRADICTION),
        ({"speculation": None}, Doubt.CONTRADICTION),
        ({"peak_memory_bytes": 30_000_000_000}, Doubt.MEMORY),
        ({"weight_bytes": 32_000_000_000}, Doubt.MEMORY),
        ({"tpot_mean_us": 500, "tpot_p50_us": 500, "tpot_p95_us": 600}, Doubt.SPEED_OF_LIGHT),
        ({"ttft_mean_us": 5_000, "ttft_p50_us": 5_000, "ttft_p95_us": 6_000}, Doubt.SPEED_OF_LIGHT),
        ({"output_tokens_per_s_milli": 20_000_000}, Doubt.SPEED_OF_LIGHT),
        ({"tpot_mean_us": None, "tpot_p50_us": None, "latency_mean_us": 150_000}, Doubt.SPEED_OF_LIGHT),
        ({"output_tokens_per_s_milli": 8_000_000, "prefix_hit_ppm": 0, "duration_us": None}, Doubt.SPEED_OF_LIGHT),
        ({"prefix_hit_ppm": 0, "ttft_mean_us": 15_000, "ttft_p50_us": 15_000}, Doubt.SPEED_OF_LIGHT),
        ({"energy_mj": 13_000_000}, Doubt.POWER),
    ],
)
def test_what_cannot_be_is_turned_away(changes: dict[str, Any], doubt: Doubt) -> None:
    assert doubt in judged(HONEST, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": None, "weight_quantization": "awq", "weight_bytes": 60_000_000_000},  # 4 bits a weight fit
        {"weight_dtype": "fp8", "prefix_hit_ppm": 0, "ttft_mean_us": 80_000, "ttft_p50_us": 80_000},
        {"engine_extra": {"external": "yes"}, "speculation": None, "tpot_mean_us": 500, "tpot_p50_us": 500},
        {"gemm_bf16_mflops": None, "gemm_fp32_mflops": 100_000},  # says nothing of 16 bits
        {"ttft_mean_us": 20, "ttft_p50_us": 20, "ttft_p95_us": 30, "gemv_bf16_bytes_per_s": None,
         "copy_bytes_per_s": None, "attention_bytes_per_s": None, "gemm_bf16_mflops": None},  # nothing to hold it to
    ],
)  # fmt: skip
def test_what_another_way_of_running_explains_is_let_in(changes: dict[str, Any]) -> None:
    assert Doubt.SPEED_OF_LIGHT not in judged(HONEST, **changes)
    assert Doubt.MEMORY not in judged(HONEST, **changes)


def test_a_clock_far_off_either_way_is_doubted() -> None:
    skew, old = limits.CLOCK_SKEW_US, limits.LIFETIME_MAX_US
    assert doubts(HONEST, now_us=samples.NOW - skew) == ()
    assert doubts(HONEST, now_us=samples.NOW - skew - 1) == (Doubt.CLOCK,)
    assert doubts(HONEST, now_us=samples.NOW + old) == (Doubt.CLOCK,)


def test_times_to_the_first_token_of_the_few_that_stream_are_not_held_against_the_rest() -> None:
    few = {"streaming_ppm": 10_000, "ttft_mean_us": 4_000_000, "ttft_p50_us": 4_000_000, "ttft_p95_us": 4_000_000}
    assert judged(replace(HONEST, origin=TRAFFIC), **few) == ()


def test_nothing_that_is_left_unsaid_is_held_against_a_record() -> None:
    for body in (HONEST, SMALL):
        for name in ("model", "hardware", "benchmark", "workload", "outcome"):
            for item in fields(getattr(body, name)):
                if item.default is None:
                    without: dict[str, Any] = {name: replace(getattr(body, name), **{item.name: None})}
                    assert doubts(replace(body, **without), now_us=samples.NOW) == (), item.name


@given(BODIES)
@settings(max_examples=80)
def test_any_body_is_judged(body: Performance) -> None:
    assert set(doubts(body, now_us=samples.NOW)) <= set(Doubt)


def _run(luck: Random, requests: int) -> dict[str, int]:
    """Return the figures of one run on the sample's machine: lengths, queues and stalls as luck has them."""
    lengths = [luck.choice([2, 16, 128, 128, 1_000]) for _ in range(requests)]
    ttfts = [25_000 + luck.expovariate(1 / 100_000) + luck.choice([0, 0, 0, 2_000_000]) for _ in lengths]
    tpots = [18_500 + luck.expovariate(1 / luck.choice([500, 20_000])) for _ in lengths]
    stalls = [tpot * luck.uniform(1, min(length, 20)) for tpot, length in zip(tpots, lengths, strict=True)]
    latencies = [ttft + tpot * (length - 1) for ttft, tpot, length in zip(ttfts, tpots, lengths, strict=True)]
    made = {"tokens": int(statistics.fmean(lengths) * 1000)}
    for name, values in (("ttft", ttfts), ("tpot", tpots), ("stall", stalls), ("latency", latencies)):
        ordered = sorted(values)
        made |= {
            f"{name}_mean_us": int(statistics.fmean(values)),
            f"{name}_p50_us": int(ordered[requests // 2]),
            f"{name}_p95_us": int(ordered[int(requests * 0.95)]),
        }
    return made


@given(st.integers(4, 60), st.integers(1, 5), st.integers(0, 10**6))
@settings(max_examples=100)
def test_the_median_of_any_honest_runs_is_let_in(requests: int, repetitions: int, seed: int) -> None:
    luck = Random(seed)  # noqa: S311 -- seeded
    runs = [_run(luck, requests) for _ in range(repetitions)]
    figures: dict[str, Any] = {name: int(statistics.median(run[name] for run in runs)) for name in runs[0]}
    tokens = figures.pop("tokens")
    outcome = Outcome(requests=requests * repetitions, failures=0, repetitions=repetitions, **figures)
    workload = Workload(requests=requests, output_tokens_mean_milli=tokens, streaming_ppm=limits.PPM)
    body = replace(HONEST, workload=workload, outcome=outcome, strategy=Strategy(prefix_caching=True))
    assert doubts(body, now_us=samples.NOW) == ()
