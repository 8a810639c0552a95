"""The speed of light: a mean latency below which no machine of a row's data sheet can come, however it is driven.

Knows columns of model, hardware, workload and strategy; knows no author and no prediction. A lower bound, not a
forecast: a stream reads the active weights once for each step that it is in, at the full bandwidth of all its devices,
and the products of its own prompt run at their full rate, unless a cache may have had it. Whatever else takes time
(keys and values, host, links, waiting) is left out, and a part of which something is unknown is nothing: so the bound
only falls. Published tables hold rows that are faster than this.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from node.learner.objective import LATENCY
from node.learner.physics import busy_devices, known, weight_size
from node.learner.table import Floats, Table
from node.learner.trust import possible

READS: Final = (
    "spec_bytes_per_s", "measured_gemv_bytes_per_s", "measured_gemv_fp32_bytes_per_s",
    "measured_gemv_fp8_bytes_per_s", "measured_copy_bytes_per_s",
)  # fmt: skip
PRODUCTS: Final = ("spec_flops_bf16", "measured_gemm_flops", "measured_gemm_fp32_flops")
NARROW_PRODUCTS: Final = ("spec_flops_fp8", "measured_gemm_fp8_flops")
CACHED: Final = "cpu"


def log_floor(table: Table) -> Floats:
    """Return the least mean latency of each row's requests, log-seconds, shape (rows,); NaN where nothing bounds it."""
    numbers = table.numbers
    devices, size = busy_devices(table), weight_size(table)
    active = known(numbers("model.active_parameters"), numbers("model.parameters"))
    # What a machine measured of itself may pass its data sheet (a boost), and one kernel another: the fastest bounds.
    bandwidth = _fastest(table, READS)
    wide, narrow = _fastest(table, PRODUCTS), _fastest(table, NARROW_PRODUCTS)
    rate = np.where(size <= 1, np.fmax(wide, narrow), wide) * np.where(size < 1, 2.0, 1.0)
    steps = numbers("workload.output_tokens") / (known(numbers("strategy.speculative_tokens"), 0.0) + 1)
    reading = steps * active * size / (devices * bandwidth)
    products = 2 * active * numbers("workload.prompt_tokens") / (devices * rate)
    computing = np.where(numbers("strategy.prefix_caching") == 0, products, np.nan)
    seconds = known(reading, 0.0) + known(computing, 0.0)
    cached = table.words("hardware.platform") == CACHED  # its caches may hold a small model
    return np.log(np.where((seconds > 0) & ~cached, seconds, np.nan))


def believable(table: Table) -> NDArray[np.bool_]:
    """Tell which rows are no faster than light; what has no latency, or no bound, is believed."""
    latency = table.numbers(LATENCY)
    return possible(np.log(np.where(latency > 0, latency, np.nan)), log_floor(table))


def _fastest(table: Table, rates: tuple[str, ...]) -> Floats:
    found = np.full(table.rows, np.nan)
    for name in rates:
        found = np.fmax(found, table.numbers(f"hardware.{name}"))
    return found
