"""Performance records that several tests share: an honest one, changed as each test needs it, and a failed one."""

from dataclasses import replace
from typing import Any, Final

from protocol import records
from protocol.ids import ContentDigest, Epoch, PeerId
from protocol.performance import (
    PERFORMANCE,
    REAL,
    TRIAL,
    Benchmark,
    Engine,
    Hardware,
    Model,
    Outcome,
    Performance,
    Speculation,
    Strategy,
    Workload,
)
from protocol.records import Signed, SigningKey
from tests.protocol import samples

EPOCH: Final = Epoch(samples.NOW - samples.HOUR)
LIFETIME: Final = 365 * 24 * samples.HOUR
STAMP_FIELDS: Final = {"version", "swarm", "author", "epoch", "seq", "time", "expiry"}

MODEL: Final = Model(
    weights=REAL,
    name="meta-llama/Llama-3.1-8B-Instruct",
    digest=ContentDigest(bytes(range(32))),
    family="llama",
    layers=32,
    hidden=4096,
    intermediate=14336,
    heads=32,
    kv_heads=8,
    head_dim=128,
    vocab=128_256,
    experts=0,
    experts_per_token=0,
    parameters=8_030_261_248,
    active_parameters=8_030_261_248,
    weight_bytes=16_060_522_496,
    weight_dtype="bfloat16",
    kv_bytes_per_token=131_072,
    max_length=131_072,
)
HARDWARE: Final = Hardware(
    name="NVIDIA GeForce RTX 3090",
    count=1,
    platform="cuda",
    family="Ampere",
    memory_bytes=25_769_803_776,
    capability="8.6",
    driver="580.95.05",
    clock_khz=2_100_000,
    memory_clock_khz=9_751_000,
    power_limit_mw=350_000,
    cpu_name="AMD Ryzen 9 5950X 16-Core Processor",
    cpu_cores=16,
    host_memory_bytes=68_719_476_736,
)
BENCHMARK: Final = Benchmark(
    gemv_bf16_bytes_per_s=840_000_000_000,
    gemv_bf16_mad_bytes_per_s=2_000_000_000,
    gemm_bf16_mflops=65_000_000,
    gemm_bf16_mad_mflops=300_000,
    copy_bytes_per_s=390_000_000_000,
    attention_bytes_per_s=700_000_000_000,
)
ENGINE: Final = Engine(name="vllm", version="0.32.0")
STRATEGY: Final = Strategy(
    prefix_caching=True,
    chunked_prefill=True,
    max_num_seqs=64,
    speculation=Speculation(method="ngram", tokens=4),
    engine_extra={"scheduling-policy": "fcfs"},
)
WORKLOAD: Final = Workload(
    kind="shared_prefix",
    requests=32,
    prompt_tokens_mean_milli=1_024_500,
    prompt_tokens_p50=1024,
    prompt_tokens_p95=1030,
    output_tokens_mean_milli=128_000,
    output_tokens_p50=128,
    output_tokens_p95=128,
    shared_prefix_ppm=800_000,
    prefix_groups=4,
    concurrency_milli=8_000,
    burstiness_ppm=0,
    streaming_ppm=1_000_000,
)
OUTCOME: Final = Outcome(
    requests=96,
    failures=0,
    repetitions=3,
    duration_us=13_000_000,
    ttft_mean_us=210_000,
    ttft_p50_us=190_000,
    ttft_p95_us=400_000,
    ttft_mad_us=3_000,
    tpot_mean_us=22_000,
    tpot_p50_us=22_000,
    tpot_p95_us=25_000,
    tpot_mad_us=150,
    latency_mean_us=3_004_000,
    latency_p50_us=2_990_000,
    latency_p95_us=3_400_000,
    latency_mad_us=21_000,
    stall_mean_us=60_000,
    stall_p50_us=55_000,
    stall_p95_us=110_000,
    stall_mad_us=1_500,
    output_tokens_per_s_milli=315_000,
    output_tokens_per_s_mad_milli=2_000,
    preemptions=0,
    prefix_hit_ppm=740_000,
    acceptance_ppm=310_000,
    peak_memory_bytes=23_000_000_000,
    energy_mj=4_000_000,
    cpu_us=14_000_000,
    foreign_load_ppm=4_000,
)


def body(**changes: Any) -> Performance:
    """Return an honest record's body, but for the changes: to its stamp (`samples.stamp`) or to its own fields."""
    stamp = {name: value for name, value in changes.items() if name in STAMP_FIELDS}
    time = stamp.get("time", samples.NOW)
    fields: dict[str, Any] = {
        "stamp": samples.stamp(**({"epoch": EPOCH, "seq": 1, "expiry": time + LIFETIME} | stamp)),
        "origin": TRIAL,
        "model": MODEL,
        "hardware": HARDWARE,
        "benchmark": BENCHMARK,
        "engine": ENGINE,
        "strategy": STRATEGY,
        "workload": WORKLOAD,
        "outcome": OUTCOME,
        "pair": bytes(range(16)),
        "context": 1,
    }
    return Performance(**(fields | {name: value for name, value in changes.items() if name not in STAMP_FIELDS}))


def outcome(**changes: Any) -> Outcome:
    """Return an honest outcome, but for the changes."""
    return replace(OUTCOME, **changes)


def performance(
    key: SigningKey = samples.KEY, *, seq: int = 1, epoch: Epoch = EPOCH, **changes: Any
) -> Signed[Performance]:
    """Return the same, signed by the owner of the key."""
    author = PeerId.from_public_key(key.public_key().public_bytes_raw())
    made = body(**({"author": author, "seq": seq, "epoch": epoch} | changes))
    return records.sign(PERFORMANCE, made, key)


def failed(key: SigningKey = samples.KEY, **changes: Any) -> Signed[Performance]:
    """Return a signed record of a strategy that did not fit into memory."""
    changes = {"outcome": Outcome(requests=0, failures=0, failure="out_of_memory")} | changes
    return performance(key, **changes)
