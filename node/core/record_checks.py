"""What no honest performance record says: contradictions, and speeds beyond what its own hardware figures allow.

Knows one record at a time; no other record, no author's standing and no statistics. A first filter, and a wide one:
every bound has a margin, because a record that is turned away wrongly is lost to everybody, while a liar who keeps
within physics is for the learner's weights. What a record leaves unsaid is not held against it.

Times are microseconds, as in the record; `now_us` is the reader's clock.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from protocol import limits
from protocol.performance import OUT_OF_MEMORY, TRIAL, Benchmark, Outcome, Performance, Strategy


class Doubt(StrEnum):
    """Why a record is turned away: stable codes, counted in metrics. Meanings: docs/protocol/performance.md."""

    CLOCK = "clock"
    CONTRADICTION = "contradiction"
    MEMORY = "memory"
    SPEED_OF_LIGHT = "speed_of_light"
    POWER = "power"


# A micro-benchmark of seconds reads up to a third low while something else runs on the machine, and reads a CPU at
# its sustained clock where a short answer gets the boost. Measured end-to-end records of a well-known benchmark
# break the plain bounds by up to 1.3; what is invented is usually ten times too fast.
SPEED_MARGIN: Final = 2
MEMORY_MARGIN_PPM: Final = 1_050_000  # drivers and data sheets disagree by up to five per cent about a device's memory
POWER_MARGIN: Final = 2  # limits are held on average over a second or so, and a CPU's counter sees its memory too
# Weights in a last-level cache are read faster than any benchmark of the memory shows. The largest of one socket.
CACHE_BYTES: Final = 1_280 * limits.MIB
QUANTISED_SHRINK: Final = 4  # 16 bits to 4, the farthest that weights are rounded
LOW_PRECISION_GAIN: Final = 4  # operations a second in 8 or 4 bits against 16, where only 16 were measured
# Sums of rounded numbers, percentiles of few samples and medians of repetitions do not add up exactly.
SLACK: Final = 1.1
# Latency against TTFT + tokens × TPOT: the mean of a product is not the product of means.
PRODUCT_SLACK: Final = 3
ROUNDING_US: Final = 1_000  # of times near the clock's own resolution
COUNTED_SLACK: Final = 1.5  # tokens of the answers that failed half-way count in a rate, and not in the workload


def doubts(body: Performance, *, now_us: int) -> tuple[Doubt, ...]:
    """Return why the record cannot be true, each reason once; empty where nothing speaks against it."""
    found = (
        (Doubt.CLOCK, not now_us - limits.LIFETIME_MAX_US < body.stamp.time <= now_us + limits.CLOCK_SKEW_US),
        (Doubt.CONTRADICTION, any(_contradictions(body))),
        (Doubt.MEMORY, any(_too_large(body))),
        (Doubt.SPEED_OF_LIGHT, any(_too_fast(body))),
        (Doubt.POWER, any(_too_hungry(body))),
    )
    return tuple(doubt for doubt, raised in found if raised)


def first_doubt(body: Performance, *, now_us: int) -> str | None:
    """Return the first of them: the filter in front of a store."""
    return next(iter(doubts(body, now_us=now_us)), None)


# --- contradictions: true of any set of times, whatever ran


@dataclass(frozen=True, slots=True)
class _Figure:
    mean: int | None
    p50: int | None
    p95: int | None

    def below(self, other: "_Figure") -> bool:
        """Whether each is at most the other's, as when it is a part of it."""
        pairs = ((self.mean, other.mean), (self.p50, other.p50), (self.p95, other.p95))
        return all(_at_most(one, two) for one, two in pairs)

    @property
    def sound(self) -> bool:
        """Whether one set of numbers can have them: half are at least p50, a twentieth at least p95."""
        return (
            (self.p50 is None or self.p95 is None or self.p50 <= self.p95)
            and _at_most(self.p50, None if self.mean is None else 2 * self.mean)
            and _at_most(self.p95, None if self.mean is None else 20 * self.mean)
        )


def _at_most(one: float | None, other: float | None) -> bool:
    return one is None or other is None or one <= SLACK * other + ROUNDING_US


def _figures(outcome: Outcome) -> dict[str, _Figure]:
    return {
        "ttft": _Figure(outcome.ttft_mean_us, outcome.ttft_p50_us, outcome.ttft_p95_us),
        "tpot": _Figure(outcome.tpot_mean_us, outcome.tpot_p50_us, outcome.tpot_p95_us),
        "latency": _Figure(outcome.latency_mean_us, outcome.latency_p50_us, outcome.latency_p95_us),
        "stall": _Figure(outcome.stall_mean_us, outcome.stall_p50_us, outcome.stall_p95_us),
    }


def _contradictions(body: Performance) -> Iterator[bool]:
    outcome, figures = body.outcome, _figures(body.outcome)
    yield outcome.failures > outcome.requests
    yield any(not figure.sound for figure in figures.values())
    # Where only some requests stream, times to the first token are those of others than the latencies.
    if body.origin == TRIAL or body.workload.streaming_ppm in (None, limits.PPM):
        yield not figures["ttft"].below(figures["latency"])
        yield not figures["stall"].below(figures["latency"])
        yield _sums_apart(body)
    yield outcome.requests == outcome.failures and any(
        figure != _Figure(None, None, None) for figure in figures.values()
    )
    yield _more_tokens_than_there_were(body)
    yield from _impossible_shape(body)
    yield from _unused(body.strategy, outcome)


def _sums_apart(body: Performance) -> bool:
    outcome, tokens = body.outcome, body.workload.output_tokens_mean_milli
    ttft, tpot, latency = outcome.ttft_mean_us, outcome.tpot_mean_us, outcome.latency_mean_us
    if ttft is None or tpot is None or latency is None or tokens is None:
        return False
    summed = ttft + tpot * max(tokens - 1000, 0) / 1000
    return not (latency <= PRODUCT_SLACK * summed + ROUNDING_US and summed <= PRODUCT_SLACK * latency + ROUNDING_US)


def _more_tokens_than_there_were(body: Performance) -> bool:
    outcome, tokens, rate = body.outcome, body.workload.output_tokens_mean_milli, body.outcome.output_tokens_per_s_milli
    if rate is None or outcome.duration_us is None or tokens is None or outcome.repetitions == 0:
        return False
    said = rate * outcome.duration_us / limits.SECOND_US
    return said > COUNTED_SLACK * (tokens + 1000) * outcome.requests / (outcome.repetitions or 1)


def _impossible_shape(body: Performance) -> Iterator[bool]:
    model, workload = body.model, body.workload
    yield _above(model.kv_heads, model.heads)
    yield _above(model.active_parameters, model.parameters)
    yield _above(model.experts_per_token, model.experts)
    yield _above(workload.prompt_tokens_p50, workload.prompt_tokens_p95)
    yield _above(workload.output_tokens_p50, workload.output_tokens_p95)
    prompt, output = workload.prompt_tokens_mean_milli, workload.output_tokens_mean_milli
    yield model.max_length is not None and (prompt or 0) + (output or 0) > 1000 * model.max_length
    devices = (body.strategy.tensor_parallel or 1) * (body.strategy.pipeline_parallel or 1)
    yield body.hardware.platform == "cuda" and devices > body.hardware.count


def _above(one: int | None, other: int | None) -> bool:
    return one is not None and other is not None and one > other


def _external(strategy: Strategy) -> bool:
    """Whether the engine runs elsewhere, under a strategy that the author cannot see."""
    return (strategy.engine_extra or {}).get("external") == "yes"


def _unused(strategy: Strategy, outcome: Outcome) -> Iterator[bool]:
    if _external(strategy):
        return
    yield strategy.prefix_caching is False and bool(outcome.prefix_hit_ppm)
    yield strategy.speculation is None and bool(outcome.acceptance_ppm)


# --- physics: of the hardware that the record itself tells of


def _weight_bytes(body: Performance) -> int | None:
    """Return the least that the weights can take in memory."""
    whole = body.model.weight_bytes
    if whole is None:
        return None
    return whole // QUANTISED_SHRINK if body.strategy.weight_quantization is not None else whole


def _too_large(body: Performance) -> Iterator[bool]:
    memory, outcome = body.hardware.memory_bytes, body.outcome
    if memory is None or _external(body.strategy):
        return
    room = memory * body.hardware.count * MEMORY_MARGIN_PPM // limits.PPM
    yield (outcome.peak_memory_bytes or 0) > room
    ran = outcome.requests > outcome.failures and outcome.failure != OUT_OF_MEMORY
    yield ran and (_weight_bytes(body) or 0) > room


def _too_fast(body: Performance) -> Iterator[bool]:
    if body.model.parameters is None or _external(body.strategy):
        return
    outcome = body.outcome
    step = _step_us(body)
    most = 1 + (body.strategy.speculation.tokens if body.strategy.speculation is not None else 0)
    for tpot in (outcome.tpot_mean_us, outcome.tpot_p50_us):
        yield tpot is not None and (tpot + 1) * most * SPEED_MARGIN < max(step, _flops_us(body, tokens=1))
    if outcome.latency_mean_us is not None and body.workload.output_tokens_mean_milli is not None:
        steps = max(body.workload.output_tokens_mean_milli / 1000 / most, 1)
        yield (outcome.latency_mean_us + 1) * SPEED_MARGIN < step * steps
    for ttft in (outcome.ttft_mean_us, outcome.ttft_p50_us):
        yield ttft is not None and (ttft + 1) * SPEED_MARGIN < step
    if outcome.ttft_mean_us is not None:
        yield (outcome.ttft_mean_us + 1) * SPEED_MARGIN < _flops_us(body, tokens=_uncached_tokens(body))
    if outcome.output_tokens_per_s_milli is not None:
        tokens = outcome.output_tokens_per_s_milli / 1000 * _tokens_per_output(body)
        yield _flops_us(body, tokens=tokens) > SPEED_MARGIN * limits.SECOND_US


def _read_parameters(body: Performance) -> int:
    """Return the parameters that every token goes through: the active ones, less the embeddings that are looked up.

    The output head counts as an embedding too: where it is tied it is one, and a prompt's tokens skip it but for the
    last.
    """
    model = body.model
    active = model.active_parameters if model.active_parameters is not None else model.parameters
    return max((active or 0) - 2 * (model.vocab or 0) * (model.hidden or 0), 0)


def _step_us(body: Performance) -> float:
    """Return how long reading the weights once takes at the least."""
    bandwidth = _fastest_read(body.benchmark) * body.hardware.count
    held, parameters = _weight_bytes(body), body.model.parameters
    if not bandwidth or held is None or not parameters:
        return 0.0
    read = held * (_read_parameters(body) / parameters) - CACHE_BYTES * body.hardware.count
    return max(read, 0.0) / bandwidth * limits.SECOND_US


def _flops_us(body: Performance, *, tokens: float) -> float:
    """Return how long the matrix products of so many tokens take at the least; 0 where their speed is not told."""
    fastest, wide = _fastest_product(body.benchmark), body.model.weight_dtype in _32_BITS
    halves = body.benchmark.gemm_bf16_mflops is not None or body.benchmark.gemm_fp16_mflops is not None
    if not fastest or not (halves or wide):
        return 0.0  # what a device does in 32 bits says nothing of what it does in 16
    whole = body.strategy.weight_quantization is None and (wide or body.model.weight_dtype in _16_BITS)
    mflops = fastest * body.hardware.count * (1 if whole else LOW_PRECISION_GAIN)
    return 2 * _read_parameters(body) * tokens / mflops


_16_BITS: Final = frozenset({"bfloat16", "bf16", "float16", "fp16", "half"})
_32_BITS: Final = frozenset({"float32", "fp32", "float"})


def _fastest_read(benchmark: Benchmark) -> int:
    """Return bytes a second of the best reading, whatever it was of; 0 where there is none."""
    readings = (
        benchmark.gemv_bf16_bytes_per_s,
        benchmark.gemv_fp16_bytes_per_s,
        benchmark.gemv_fp32_bytes_per_s,
        benchmark.gemv_fp8_bytes_per_s,
        benchmark.gemv_int8_bytes_per_s,
        benchmark.copy_bytes_per_s,
        benchmark.attention_bytes_per_s,
    )
    return max((reading for reading in readings if reading is not None), default=0)


def _fastest_product(benchmark: Benchmark) -> int:
    """Return millions of operations a second of the best reading; 0 where there is none."""
    readings = (
        benchmark.gemm_bf16_mflops,
        benchmark.gemm_fp16_mflops,
        benchmark.gemm_fp32_mflops,
        benchmark.gemm_fp8_mflops,
        benchmark.gemm_int8_mflops,
    )
    return max((reading for reading in readings if reading is not None), default=0)


def _uncached_tokens(body: Performance) -> float:
    """Return the tokens of a prompt that cannot have been found in the prefix cache; 0 where nothing says so."""
    tokens, hits = body.workload.prompt_tokens_mean_milli, body.outcome.prefix_hit_ppm
    if tokens is None or (hits is None and body.strategy.prefix_caching is not False):
        return 0.0
    return tokens / 1000 * (1 - (hits or 0) / limits.PPM)


def _tokens_per_output(body: Performance) -> float:
    """Return how many tokens the model goes through for each that it answers with: its share of the prompt, and it."""
    outputs = body.workload.output_tokens_mean_milli
    return 1 + _uncached_tokens(body) / max(outputs / 1000, 1) if outputs is not None else 1


def _too_hungry(body: Performance) -> Iterator[bool]:
    outcome, limit = body.outcome, body.hardware.power_limit_mw
    if outcome.energy_mj is None or not outcome.duration_us or limit is None:
        return
    # mJ in a µs is MW; the limit is in mW.
    spent_mw = outcome.energy_mj * limits.SECOND_US / outcome.duration_us
    yield spent_mw > POWER_MARGIN * limit * body.hardware.count
