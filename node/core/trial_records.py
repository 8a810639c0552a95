"""A cell of trials as the body of a performance record: medians over its repetitions, with their spread.

Knows both vocabularies and nothing else: who signs it, when, and what machine and model it was are arguments.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from node.core.observation import to_wire_strategy
from node.core.own_records import Compose, Setting
from node.core.trial_outcome import Figure
from node.core.trial_plan import Cell, Plan, pair
from node.core.workloads import Load, Workload
from protocol import performance as wire

MILLI: Final = 1000
PPM: Final = 1_000_000
CONTEXT_BYTES: Final = 4  # of the pair's name: enough to tell one author's contexts apart


def workload_on_wire(workload: Workload) -> wire.Workload:
    """Return the workload as records carry it."""
    prompt, output = workload.prompt_tokens, workload.output_tokens
    return wire.Workload(
        kind=workload.kind,
        requests=workload.requests,
        prompt_tokens_mean_milli=round(prompt.mean * MILLI),
        prompt_tokens_p50=prompt.p50,
        prompt_tokens_p95=prompt.p95,
        output_tokens_mean_milli=round(output.mean * MILLI),
        output_tokens_p50=output.p50,
        output_tokens_p95=output.p95,
        shared_prefix_ppm=round(workload.shared_prefix_share * PPM),
        prefix_groups=workload.prefix_groups,
        requests_per_s_milli=round(workload.requests_per_s * MILLI),
        burstiness_ppm=round(workload.burstiness * PPM),
        streaming_ppm=round(workload.streaming_share * PPM),
        copy_ppm=None if workload.copy_share is None else round(workload.copy_share * PPM),
    )


def outcome_on_wire(cell: Cell) -> wire.Outcome | None:
    """Return what a cell came to, or why nothing did; None where nothing was tried that counts."""
    if not cell.count:
        return None if cell.failure is None else wire.Outcome(requests=0, failures=0, failure=cell.failure.kind)
    figures = cell.figures
    return wire.Outcome(
        requests=_whole(figures, "requests", 0) * cell.count,
        failures=_whole(figures, "failures", 0) * cell.count,
        repetitions=cell.count,
        duration_us=_median(figures, "wall_us"),
        ttft_mean_us=_median(figures, "ttft.mean"),
        ttft_p50_us=_median(figures, "ttft.p50"),
        ttft_p95_us=_median(figures, "ttft.p95"),
        ttft_mad_us=_mad(figures, "ttft.mean"),
        tpot_mean_us=_median(figures, "tpot.mean"),
        tpot_p50_us=_median(figures, "tpot.p50"),
        tpot_p95_us=_median(figures, "tpot.p95"),
        tpot_mad_us=_mad(figures, "tpot.mean"),
        latency_mean_us=_median(figures, "latency.mean"),
        latency_p50_us=_median(figures, "latency.p50"),
        latency_p95_us=_median(figures, "latency.p95"),
        latency_mad_us=_mad(figures, "latency.mean"),
        stall_mean_us=_median(figures, "stall.mean"),
        stall_p50_us=_median(figures, "stall.p50"),
        stall_p95_us=_median(figures, "stall.p95"),
        stall_mad_us=_mad(figures, "stall.mean"),
        output_tokens_per_s_milli=_median(figures, "throughput"),
        output_tokens_per_s_mad_milli=_mad(figures, "throughput"),
        preemptions=_median(figures, "preemptions"),
        prefix_hit_ppm=_median(figures, "prefix_hit_share"),
        acceptance_ppm=_median(figures, "acceptance"),
        peak_memory_bytes=_median(figures, "peak_memory_bytes"),
        energy_mj=_median(figures, "energy_mj"),
        cpu_us=_median(figures, "cpu_us"),
        foreign_load_ppm=_median(figures, "foreign_load"),
    )


def records_of(
    plan: Plan, cells: Sequence[Cell], loads: Sequence[Load], setting: Setting
) -> tuple[tuple[Cell, Compose], ...]:
    """Return what makes each cell's record, once it is given a stamp; cells of which nothing is known have none."""
    workloads = {load.name: load.workload for load in loads}
    return tuple(
        (cell, _compose(plan, cell, outcome, workloads[cell.load], setting))
        for cell in cells
        if cell.load in workloads and (outcome := outcome_on_wire(cell)) is not None
    )


def _compose(plan: Plan, cell: Cell, outcome: wire.Outcome, workload: Workload, setting: Setting) -> Compose:
    together = pair(plan, cell.load)
    return setting.composing(
        origin=wire.TRIAL,
        strategy=to_wire_strategy(cell.strategy),
        workload=workload_on_wire(workload),
        outcome=outcome,
        pair=together,
        context=int.from_bytes(together[:CONTEXT_BYTES], "big"),
    )


def _median(figures: Mapping[str, Figure], name: str) -> int | None:
    figure = figures.get(name)
    return None if figure is None else round(figure.median)


def _mad(figures: Mapping[str, Figure], name: str) -> int | None:
    figure = figures.get(name)
    return None if figure is None else round(figure.mad)


def _whole(figures: Mapping[str, Figure], name: str, otherwise: int) -> int:
    return _median(figures, name) or otherwise
