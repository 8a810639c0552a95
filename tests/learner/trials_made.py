"""Own trials that were never run: what strategies cost on one machine, said by a table, measured with noise."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from node.learner.table import Table

DAY_US: Final = 86_400_000_000
NOW_US: Final = 1_800_000_000_000_000
MACHINE: Final[dict[str, Any]] = {
    "model.name": "small", "model.weights": "real", "model.digest": "ab", "model.parameters": 1e9, "model.layers": 16,
    "model.hidden": 2048, "model.weight_dtype": "bfloat16", "hardware.name": "here", "hardware.platform": "cuda",
    "hardware.count": 1, "hardware.memory_bytes": 8e10, "hardware.spec_bytes_per_s": 1e12,
    "hardware.spec_flops_bf16": 4e14, "strategy.engine": "vllm", "strategy.engine_version": "0.32.0",
}  # fmt: skip
CHAT: Final[dict[str, Any]] = {
    "workload.prompt_tokens": 200.0, "workload.output_tokens": 100.0, "workload.requests_per_s": 2.0,
    "workload.burstiness": 1.0, "workload.shared_prefix_share": 0.0, "workload.streaming_share": 1.0,
    "workload.requests": 32,
}  # fmt: skip
STRATEGIES: Final[dict[str, dict[str, Any]]] = {
    "default": {"strategy.is_default": True},
    "few": {"strategy.max_num_seqs": 4, "strategy.is_default": False},
    "small": {"strategy.max_num_batched_tokens": 512, "strategy.is_default": False},
    "plain": {"strategy.prefix_caching": False, "strategy.is_default": False},
}
NAMES: Final = tuple(STRATEGIES)


def candidates(**workload: float) -> list[dict[str, Any]]:
    """Return the rows that are asked about, in the order of NAMES."""
    shape = CHAT | {f"workload.{name}": value for name, value in workload.items()}
    return [{**MACHINE, **shape, "strategy.name": name, **strategy} for name, strategy in STRATEGIES.items()]


def asked(**workload: float) -> Table:
    """Return them as a table of one context."""
    return Table.of_rows([{**row, "context": 0} for row in candidates(**workload)], merged=False)


def trial(
    latency: Mapping[str, float],
    *,
    pair: str = "one",
    noise: float = 0.0,
    seed: int = 0,
    age_days: float = 1.0,
    outcome: Mapping[str, Any] | None = None,
    **changes: Any,
) -> list[dict[str, Any]]:
    """Return a group that was measured side by side: a row for each strategy, by its mean latency in seconds."""
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for name, seconds in latency.items():
        mean = seconds * float(np.exp(noise * rng.standard_normal()))
        rows.append(
            {
                **MACHINE, **CHAT, **STRATEGIES[name], "strategy.name": name, "context": 7, "record.pair": pair,
                "record.origin": "trial", "record.author": "me", "record.time_us": NOW_US - int(age_days * DAY_US),
                "outcome.requests": 96, "outcome.failures": 0, "outcome.repetitions": 3,
                "outcome.latency_mean_s": mean, "outcome.latency_mad_s": mean * max(noise, 0.005),
                "outcome.latency_p95_s": 2 * mean, "outcome.stall_p95_s": mean / 10,
                "outcome.output_tokens_per_s": 100 / mean, **(outcome or {}),
                **{key.replace("workload_", "workload.").replace("strategy_", "strategy."): value
                   for key, value in changes.items()},
            }
        )  # fmt: skip
    return rows


def failure(name: str, kind: str = "start_failed", *, age_days: float = 1.0) -> dict[str, Any]:
    """Return the row of a strategy that did not come up."""
    (row,) = trial({name: 1.0}, age_days=age_days)
    row = {key: value for key, value in row.items() if not key.startswith("outcome.")}
    return row | {"outcome.requests": 0, "outcome.failures": 0, "outcome.failure": kind}
