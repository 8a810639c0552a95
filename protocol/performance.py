"""A performance record: what one strategy did for one model, on one machine, under one workload.

Specification: docs/protocol/performance.md. Knows no engine, no clock and no learner, and judges nothing: what of it
can be true is for `node.core.record_checks`. Its numbers are integers in the unit that their names end in (`_us`,
`_ns`, `_bytes`, `_mw`, `_mj`, `_ppm`, `_khz`; `_milli` is thousandths, `_mflops` a million operations a second).
Absent is unknown, never zero.

The sections are flat and always there, so that a section of which nothing is known has one spelling, the empty map.
There is nothing of a user in it: no prompt, no digest of one, no name of a machine or of a path.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Final

from protocol import limits
from protocol.ids import ContentDigest, ModelName
from protocol.records import STAMP, Kind, Stamp
from protocol.schema import Blob, Flag, Id, Int, Named, Nested, Text, Unknown, no_unknown

_WORD: Final = Text(limits.WORD_CHARS, r"[A-Za-z0-9][A-Za-z0-9._+:/-]*")
_LABEL: Final = Text(limits.WORD_CHARS, r"[!-~](?:[ -~]*[!-~])?")  # what drivers call a device: ASCII, inner spaces
_COUNT: Final = Int(0, limits.COUNT_MAX)  # of things, of bytes
_SIZE: Final = Int(0, limits.CONTEXT_MAX)  # of a model's dimension, of tokens
_SCALED: Final = Int(0, limits.SCALED_MAX)
_TIME: Final = Int(0, limits.DURATION_MAX_US)
_SHARE: Final = Int(0, limits.PPM)
_DEVICES: Final = Int(1, limits.DEVICES)
_PARALLEL: Final = Int(1, limits.PARALLEL_MAX)

TRIAL: Final = "trial"  # measured on purpose, with nothing else on the machine
TRAFFIC: Final = "traffic"  # seen while the node answered prompts
REAL: Final = "real"
DUMMY: Final = "dummy"  # random weights: what depends on the text (speculation, lengths) means nothing

OUT_OF_MEMORY: Final = "out_of_memory"
START_FAILED: Final = "start_failed"  # the engine refused the strategy, or did not come up
CRASHED: Final = "crashed"  # the engine ended while it was measured
TIMED_OUT: Final = "timed_out"


def _unpinned(text: str) -> str:
    return ModelName(text).name


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """Facts of the model's architecture, from its own configuration, and which weights were loaded.

    Attributes:
        weights: `real` or `dummy`; a word that is neither is a reader's to leave alone.
        name: as others know it; never a path of this machine.
        digest: of config and weights index, as in adverts.
        family: of the architecture, as its configuration calls it: `llama`, `qwen3_moe`.
        experts, experts_per_token: of each layer that has them; 0 where the model has none.
        weight_bytes: of all weights as the engine would hold them without quantising anything.
        kv_bytes_per_token: of the cache, all layers, in the model's own format.
    """

    weights: Annotated[str, _WORD]
    name: Annotated[str | None, Id(str, _unpinned, str)] = None
    digest: Annotated[ContentDigest | None, Id(bytes, ContentDigest, lambda digest: digest.digest)] = None
    family: Annotated[str | None, _WORD] = None
    layers: Annotated[int | None, _SIZE] = None
    hidden: Annotated[int | None, _SIZE] = None
    intermediate: Annotated[int | None, _SIZE] = None
    heads: Annotated[int | None, _SIZE] = None
    kv_heads: Annotated[int | None, _SIZE] = None
    head_dim: Annotated[int | None, _SIZE] = None
    vocab: Annotated[int | None, _SIZE] = None
    experts: Annotated[int | None, _SIZE] = None
    experts_per_token: Annotated[int | None, _SIZE] = None
    parameters: Annotated[int | None, _COUNT] = None
    active_parameters: Annotated[int | None, _COUNT] = None
    weight_bytes: Annotated[int | None, _COUNT] = None
    weight_dtype: Annotated[str | None, _WORD] = None
    kv_bytes_per_token: Annotated[int | None, _COUNT] = None
    max_length: Annotated[int | None, Int(1, limits.CONTEXT_MAX)] = None
    unknown: Unknown = field(default_factory=no_unknown, hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """What the engine ran on: the devices that it used, not all that the machine has.

    Attributes:
        name: of the device, as its driver says; of the CPU where that is the device.
        count: of equal devices.
        platform: `cuda`, `cpu`, ...
        family: of the device's architecture, as the author's table has it: `Hopper`.
        memory_bytes: of one device; of the whole machine where the device is the CPU.
        capability: the compute capability, `8.6`.
        clock_khz, memory_clock_khz: the highest that the settings of the moment allowed.
        power_limit_mw: of one device.
        interconnect: what joins the devices: `NVLink`, `PCIe 4.0 x16`.
        partition: the profile of a part of a device (MIG), `1g.10gb`.
    """

    name: Annotated[str, _LABEL]
    count: Annotated[int, _DEVICES]
    platform: Annotated[str | None, _WORD] = None
    family: Annotated[str | None, _LABEL] = None
    memory_bytes: Annotated[int | None, _COUNT] = None
    capability: Annotated[str | None, _WORD] = None
    driver: Annotated[str | None, _WORD] = None
    clock_khz: Annotated[int | None, _SCALED] = None
    memory_clock_khz: Annotated[int | None, _SCALED] = None
    power_limit_mw: Annotated[int | None, _SCALED] = None
    interconnect: Annotated[str | None, _LABEL] = None
    partition: Annotated[str | None, _WORD] = None
    cpu_name: Annotated[str | None, _LABEL] = None
    cpu_cores: Annotated[int | None, Int(1, limits.COUNT_MAX)] = None
    host_memory_bytes: Annotated[int | None, _COUNT] = None
    unknown: Unknown = field(default_factory=no_unknown, hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """What the machine's micro-benchmark read of one device: medians, and their median absolute deviations (`_mad`).

    Attributes:
        gemv: a matrix times a vector, bytes of the matrix read in a second, by number format.
        gemm: a matrix times a matrix, operations in a second; a multiplication and an addition are two.
        copy: bytes read and written in a second: each that is copied counts twice.
        attention: bytes of KV cache read in a second by decode attention over long contexts.
        allreduce: one over all devices, of 64 KiB and of 32 MiB; in nanoseconds, because fast links take a few µs.
    """

    gemv_bf16_bytes_per_s: Annotated[int | None, _COUNT] = None
    gemv_bf16_mad_bytes_per_s: Annotated[int | None, _COUNT] = None
    gemv_fp16_bytes_per_s: Annotated[int | None, _COUNT] = None
    gemv_fp16_mad_bytes_per_s: Annotated[int | None, _COUNT] = None
    gemv_fp32_bytes_per_s: Annotated[int | None, _COUNT] = None
    gemv_fp32_mad_bytes_per_s: Annotated[int | None, _COUNT] = None
    gemv_fp8_bytes_per_s: Annotated[int | None, _COUNT] = None
    gemv_fp8_mad_bytes_per_s: Annotated[int | None, _COUNT] = None
    gemv_int8_bytes_per_s: Annotated[int | None, _COUNT] = None
    gemv_int8_mad_bytes_per_s: Annotated[int | None, _COUNT] = None
    gemm_bf16_mflops: Annotated[int | None, _SCALED] = None
    gemm_bf16_mad_mflops: Annotated[int | None, _SCALED] = None
    gemm_fp16_mflops: Annotated[int | None, _SCALED] = None
    gemm_fp16_mad_mflops: Annotated[int | None, _SCALED] = None
    gemm_fp32_mflops: Annotated[int | None, _SCALED] = None
    gemm_fp32_mad_mflops: Annotated[int | None, _SCALED] = None
    gemm_fp8_mflops: Annotated[int | None, _SCALED] = None
    gemm_fp8_mad_mflops: Annotated[int | None, _SCALED] = None
    gemm_int8_mflops: Annotated[int | None, _SCALED] = None
    gemm_int8_mad_mflops: Annotated[int | None, _SCALED] = None
    copy_bytes_per_s: Annotated[int | None, _COUNT] = None
    copy_mad_bytes_per_s: Annotated[int | None, _COUNT] = None
    attention_bytes_per_s: Annotated[int | None, _COUNT] = None
    attention_mad_bytes_per_s: Annotated[int | None, _COUNT] = None
    allreduce_64k_ns: Annotated[int | None, _SCALED] = None
    allreduce_64k_mad_ns: Annotated[int | None, _SCALED] = None
    allreduce_32m_ns: Annotated[int | None, _SCALED] = None
    allreduce_32m_mad_ns: Annotated[int | None, _SCALED] = None
    unknown: Unknown = field(default_factory=no_unknown, hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """What answered."""

    name: Annotated[str, _WORD]
    version: Annotated[str | None, _WORD] = None
    unknown: Unknown = field(default_factory=no_unknown, hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Speculation:
    """Tokens proposed cheaply and verified together; `tokens` at most in one step."""

    method: Annotated[str, _WORD]
    tokens: Annotated[int, _SIZE]
    unknown: Unknown = field(default_factory=no_unknown, hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Strategy:
    """The acceleration strategy, as configured: absent is left to the engine. Its meaning is `node.core.strategy`'s.

    Attributes:
        engine_extra: what has no field of its own; a strategy without such has no such map.
    """

    prefix_caching: Annotated[bool | None, Flag()] = None
    chunked_prefill: Annotated[bool | None, Flag()] = None
    max_num_seqs: Annotated[int | None, _SIZE] = None
    max_num_batched_tokens: Annotated[int | None, _SIZE] = None
    long_prefill_token_threshold: Annotated[int | None, _SIZE] = None
    speculation: Annotated[Speculation | None, Nested(Speculation)] = None
    kv_cache_dtype: Annotated[str | None, _WORD] = None
    weight_quantization: Annotated[str | None, _WORD] = None
    compile: Annotated[bool | None, Flag()] = None
    tensor_parallel: Annotated[int | None, _PARALLEL] = None
    pipeline_parallel: Annotated[int | None, _PARALLEL] = None
    engine_extra: Annotated[
        Mapping[str, str] | None, Named(_WORD, limits.EXTRAS, re.compile(r"[a-z][a-z0-9-]{0,63}"))
    ] = None
    unknown: Unknown = field(default_factory=no_unknown, hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """The prompts' shape, and nothing of what they said.

    Attributes:
        kind: which of the trials' workloads it is; absent in traffic.
        requests: how many make up one run of the workload.
        prompt_tokens, output_tokens: of each request.
        shared_prefix_ppm: tokens of prompt that a request has in common with others of its group, of all of prompts.
        concurrency_milli: requests in flight, on average; absent where `requests_per_s_milli` drives the load.
        burstiness_ppm: standard deviation of the gaps between arrivals, of their mean: 10^6 for a Poisson process.
        streaming_ppm: of the requests.
        copy_ppm: words of the answers that stood once before behind the same two words, in their own prompt or answer.
    """

    kind: Annotated[str | None, _WORD] = None
    requests: Annotated[int | None, _SIZE] = None
    prompt_tokens_mean_milli: Annotated[int | None, _SCALED] = None
    prompt_tokens_p50: Annotated[int | None, _SIZE] = None
    prompt_tokens_p95: Annotated[int | None, _SIZE] = None
    output_tokens_mean_milli: Annotated[int | None, _SCALED] = None
    output_tokens_p50: Annotated[int | None, _SIZE] = None
    output_tokens_p95: Annotated[int | None, _SIZE] = None
    shared_prefix_ppm: Annotated[int | None, _SHARE] = None
    prefix_groups: Annotated[int | None, _SIZE] = None
    concurrency_milli: Annotated[int | None, _SCALED] = None
    requests_per_s_milli: Annotated[int | None, _SCALED] = None
    burstiness_ppm: Annotated[int | None, _SCALED] = None
    streaming_ppm: Annotated[int | None, _SHARE] = None
    copy_ppm: Annotated[int | None, _SHARE] = None
    unknown: Unknown = field(default_factory=no_unknown, hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of it. Over the requests that were answered, unless it says otherwise.

    Where a run was repeated, each figure is the median of the repetitions', and `_mad` the median absolute deviation
    of the repetitions' means from it.

    Attributes:
        requests, failures: of all repetitions, answered or not; those of them that were not answered whole.
        repetitions: of the whole workload; 1 in traffic.
        failure: why there is nothing to tell, or why it ended early: a word, see above for those in use.
        duration_us: of one repetition, first arrival to last answer.
        ttft: arrival to the first token. tpot: from there on, a token, averaged over each request.
        latency: arrival to the last token.
        stall: the longest gap between two tokens of a request.
        output_tokens_per_s_milli: tokens of all answers in `duration_us`.
        prefix_hit_ppm: tokens of prompt found in the prefix cache, of all of prompts.
        acceptance_ppm: proposed tokens that the model kept.
        peak_memory_bytes: of all devices; of the engine's processes where the device is the CPU.
        energy_mj: of the devices, over one repetition. cpu_us: of the engine's processes, likewise.
        foreign_load_ppm: of the machine's processors, used by others meanwhile.
    """

    requests: Annotated[int, _SIZE]
    failures: Annotated[int, _SIZE]
    repetitions: Annotated[int | None, _SIZE] = None
    failure: Annotated[str | None, _WORD] = None
    duration_us: Annotated[int | None, _TIME] = None
    ttft_mean_us: Annotated[int | None, _TIME] = None
    ttft_p50_us: Annotated[int | None, _TIME] = None
    ttft_p95_us: Annotated[int | None, _TIME] = None
    ttft_mad_us: Annotated[int | None, _TIME] = None
    tpot_mean_us: Annotated[int | None, _TIME] = None
    tpot_p50_us: Annotated[int | None, _TIME] = None
    tpot_p95_us: Annotated[int | None, _TIME] = None
    tpot_mad_us: Annotated[int | None, _TIME] = None
    latency_mean_us: Annotated[int | None, _TIME] = None
    latency_p50_us: Annotated[int | None, _TIME] = None
    latency_p95_us: Annotated[int | None, _TIME] = None
    latency_mad_us: Annotated[int | None, _TIME] = None
    stall_mean_us: Annotated[int | None, _TIME] = None
    stall_p50_us: Annotated[int | None, _TIME] = None
    stall_p95_us: Annotated[int | None, _TIME] = None
    stall_mad_us: Annotated[int | None, _TIME] = None
    output_tokens_per_s_milli: Annotated[int | None, _SCALED] = None
    output_tokens_per_s_mad_milli: Annotated[int | None, _SCALED] = None
    preemptions: Annotated[int | None, _SIZE] = None
    prefix_hit_ppm: Annotated[int | None, _SHARE] = None
    acceptance_ppm: Annotated[int | None, _SHARE] = None
    peak_memory_bytes: Annotated[int | None, _COUNT] = None
    energy_mj: Annotated[int | None, _SCALED] = None
    cpu_us: Annotated[int | None, _SCALED] = None
    foreign_load_ppm: Annotated[int | None, _SHARE] = None
    unknown: Unknown = field(default_factory=no_unknown, hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Performance:
    """One performance record.

    Attributes:
        origin: `trial` or `traffic`; a word that is neither is a reader's to leave alone.
        benchmark: empty where none was run.
        pair: equal in records that were measured side by side, interleaved, on one machine: to be compared first.
        context: equal in an author's records that differ in strategy and outcome alone.
    """

    stamp: Annotated[Stamp, STAMP]
    origin: Annotated[str, _WORD]
    model: Annotated[Model, Nested(Model)]
    hardware: Annotated[Hardware, Nested(Hardware)]
    benchmark: Annotated[Benchmark, Nested(Benchmark)]
    engine: Annotated[Engine, Nested(Engine)]
    strategy: Annotated[Strategy, Nested(Strategy)]
    workload: Annotated[Workload, Nested(Workload)]
    outcome: Annotated[Outcome, Nested(Outcome)]
    pair: Annotated[bytes | None, Blob(limits.PAIR_BYTES, limits.PAIR_BYTES)] = None
    context: Annotated[int | None, _COUNT] = None
    unknown: Unknown = field(default_factory=no_unknown, hash=False)


PERFORMANCE: Final = Kind(
    name="performance",
    version=1,
    body=Performance,
    size=limits.PERFORMANCE_BYTES,
    values=limits.PERFORMANCE_VALUES,
)
