"""What a run of a simulated swarm came to, in a handful of figures."""

import numpy as np

from tests.benchmarks.routing_cells import Floats
from tests.benchmarks.routing_run import Run


def figures(run: Run) -> dict[str, float]:
    """Return what a run came to, of the requests after the warm-up: seconds, device-seconds, and their price.

    `spent` is that of a thousand answers, in what an hour of an A100 costs.
    """
    counted = run.world.requests.at >= run.world.warm
    latency: Floats = run.latency[counted]
    p50, p95, p99 = np.percentile(latency, (50, 95, 99))
    return {
        "mean": float(latency.mean()),
        "p50": float(p50),
        "p95": float(p95),
        "p99": float(p99),
        "cost": float(run.cost[counted].mean()),
        "spent": 1000.0 * float(run.spent[counted].mean()),
        "retried": float((run.tries - 1).sum()),
    }
