"""A small world to learn: contexts on made-up machines, strategies whose worth follows from what the columns say."""

import numpy as np

from node.learner.table import Table

BUDGETS = (256, 1024, 4096)


def world(contexts: int, seed: int = 0, families: tuple[str, ...] = ("old", "new")) -> Table:
    """Return contexts x 6 rows: three token budgets, each with and without prefix caching."""
    rng = np.random.default_rng(seed)
    rows: list[dict[str, object]] = []
    for context in range(contexts):
        family = families[context % len(families)]
        bandwidth = (1 + families.index(family)) * 1e12 * rng.choice([1.0, 1.5, 2.0])
        size = rng.choice([1e9, 4e9, 8e9])
        prompt, shared = float(rng.choice([200, 1000, 4000])), float(rng.choice([0.0, 0.8]))
        base = 2 * (100 * size * 2 / bandwidth + prompt * size * 2 / 4e14)  # no prefix makes it faster than light
        for budget in BUDGETS:
            for prefix in (True, False):
                saved = 1 - 0.6 * shared * prefix
                fitted = 1 + 0.3 * abs(np.log(budget / prompt)) / np.log(16)
                rows.append(
                    {
                        "context": context,
                        "model.name": f"model {size:.0e}",
                        "model.parameters": size,
                        "model.active_parameters": size,
                        "model.layers": 32,
                        "model.hidden": 4096,
                        "model.weight_dtype": "bfloat16",
                        "hardware.name": f"{family} card",
                        "hardware.family": family,
                        "hardware.count": 1,
                        "hardware.memory_bytes": 8e10,
                        "hardware.spec_bytes_per_s": bandwidth,
                        "hardware.spec_flops_bf16": 4e14,
                        "workload.prompt_tokens": prompt,
                        "workload.output_tokens": 100,
                        "workload.concurrency": 8,
                        "workload.requests": 32,
                        "workload.shared_prefix_tokens": shared * prompt,
                        "workload.prefix_groups": 1,
                        "strategy.name": f"budget {budget}{'+prefix' if prefix else ''}",
                        "strategy.max_num_batched_tokens": budget,
                        "strategy.max_num_seqs": 64,
                        "strategy.prefix_caching": prefix,
                        "strategy.chunked_prefill": True,
                        "strategy.is_default": budget == BUDGETS[1] and prefix,
                        "outcome.latency_mean_s": base * saved * fitted * np.exp(0.01 * rng.standard_normal()),
                    }
                )
    return Table.of_rows(rows)


def regret(table: Table, foretold: np.ndarray, target: np.ndarray) -> float:
    """Return the mean log-seconds lost by taking each context's foretold best."""
    lost = [target[rows][np.argmin(foretold[rows])] - target[rows].min() for rows in table.context_groups()]
    return float(np.mean(lost))


def rows_of(table: Table, number: int) -> list[dict[str, object]]:
    """Return the rows of one context, without what came of them."""
    rows = table.take(table.context_groups()[number]).without("outcome.")
    return [
        {name: column[at] if column.dtype == object else float(column[at]) for name, column in rows.columns.items()}
        for at in range(rows.rows)
    ]
