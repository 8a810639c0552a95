"""A curve by the laws of memory and arithmetic alone, for as long as no learner says a better one.

Knows the columns that tell of a model, a machine and a strategy; learns nothing. It is the learner's physics
(node/learner/physics.py, where the theory and the sources stand) cut down to what fits here: one step of the engine,
and others' prompts ahead in proportion to how many there are. The daemon never imports the learner, and a node without
one should still know a data centre from a desktop. Where the model's size or the machine's memory is not known, nothing
is said.
"""

from typing import Final

import numpy as np

from node.core.curves import LEAST_S, LOADS, MOST_QUEUED_S, MOST_S, PHYSICS, PROMPTS, Curve, Floats
from node.core.observation import Row

# As in the learner's physics, where each has its reason.
NORM: Final = 1.3
KERNEL_FLOOR_S: Final = 60e-6
HOST_STEP_S: Final = 0.3e-3
PREFILL_ATTENTION_SHARE: Final = 0.5
WEIGHT_BYTES: Final = {
    "float32": 4.0, "fp8": 1.0, "int8": 1.0, "fp4": 0.5625, "nvfp4": 0.5625, "mxfp4": 0.53, "int4": 0.5625,
    "awq": 0.5625, "gptq": 0.5625,
}  # fmt: skip
SIXTEEN_BITS: Final = 2.0
SOME_FLOPS_PER_BYTE: Final = 100.0  # of a device whose arithmetic was not measured: from 60 (desktops) to 300 (servers)

TYPICAL_PROMPT: Final = 1024.0
AHEAD: Final = 0.35  # of another's prefill that one waits for, in the mean
OUTPUT_TOKENS: Final = 128.0
HALF_WIDTH: Final = 1.3  # of the 90 % interval, log-seconds; the learner's own physics has 1.1


def rough_curve(row: Row) -> Curve | None:
    """Return the curve of a cell; None where too little is known of it."""
    size = WEIGHT_BYTES.get(
        _word(row, "strategy.weight_quantization") or _word(row, "model.weight_dtype"), SIXTEEN_BITS
    )
    parameters = _number(row, "model.parameters")
    bandwidth = _first(row, "gemv_bytes_per_s", "gemv_fp32_bytes_per_s", "copy_bytes_per_s")
    if parameters is None or bandwidth is None:
        return None
    active = _number(row, "model.active_parameters") or parameters
    devices = min(_number(row, "strategy.tensor_parallel") or 1.0, _number(row, "hardware.count") or 1.0)
    flops = _first(row, "gemm_flops", "gemm_fp32_flops") or SOME_FLOPS_PER_BYTE * bandwidth
    layers = _number(row, "model.layers") or float(4 * np.cbrt(parameters / 1e6))
    hidden = _number(row, "model.hidden") or float(np.sqrt(parameters / (12 * layers)))
    cached = (_number(row, "model.kv_bytes_per_token") or layers * hidden) / devices / bandwidth  # a token, read again
    prompts, loads = np.array(PROMPTS, dtype=np.float64), np.array(LOADS, dtype=np.float64)
    # A token meets few experts of many, and many tokens meet all.
    touched = 1 - (1 - active / parameters) ** loads if active < parameters else np.ones_like(loads)

    def step(tokens: Floats, share: Floats | float) -> Floats:
        parts = (
            share * parameters * size / devices / bandwidth,
            2 * active * tokens / devices / flops,
            layers * KERNEL_FLOOR_S,
        )
        return np.power(sum(np.power(part, NORM) for part in parts), 1 / NORM) + HOST_STEP_S

    def prefill(tokens: Floats) -> Floats:
        looking_back = hidden * tokens * tokens * layers / devices / (PREFILL_ATTENTION_SHARE * flops)
        return step(tokens, 1.0) + looking_back

    other = float(prefill(np.array([TYPICAL_PROMPT]))[0])
    ttft = prefill(prompts)[:, None] + AHEAD * other * (loads - 1)[None, :]
    # While one decodes, each of the others comes by with a prompt once.
    tpot = step(loads, touched) + loads * (TYPICAL_PROMPT + OUTPUT_TOKENS / 2) * cached
    tpot += (loads - 1) * other / OUTPUT_TOKENS
    return Curve(
        prompts=prompts,
        loads=loads,
        log_ttft=np.log(np.clip(ttft, LEAST_S, MOST_S)),
        ttft_width=np.full(ttft.shape, HALF_WIDTH),
        log_tpot=np.log(np.clip(tpot, LEAST_S, MOST_S)),
        tpot_width=np.full(tpot.shape, HALF_WIDTH),
        queued_token_s=min(2 * active / devices / flops, MOST_QUEUED_S),
        source=PHYSICS,
    )


def _first(row: Row, *names: str) -> float | None:
    return next((found for name in names if (found := _number(row, f"hardware.measured_{name}")) is not None), None)


def _number(row: Row, name: str) -> float | None:
    value = row.get(name)
    return float(value) if isinstance(value, int | float) and value > 0 else None


def _word(row: Row, name: str) -> str:
    return str(row.get(name) or "").lower()
