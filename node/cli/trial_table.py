"""What trials came to, as tables for a person: one for each workload, the quickest strategy first.

Knows the report as plain values (`node.services.trial_report`), wherever the trials ran; knows no trial.
"""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from node.core.trial_request import PPM_PER_PERCENT

MS = 1000  # µs
MIB = 1 << 20
COLUMNS = ("strategy", "n", "mean", "±", "p95", "TTFT", "TPOT", "stall", "tok/s", "hit", "accept", "MiB", "/ default")
WIDTH = 132  # columns where the output is no terminal


def show(report: Mapping[str, Any], console: Console) -> None:
    """Print them, and how far the trials are."""
    console.print(
        f"{report['model']} on vLLM {report['vllm']}. Medians over n repetitions, ± their median deviation; "
        "times in ms: mean\nand p95 end to end, mean to first token and per token, p95 of the longest stall; "
        "by default: in pairs.\n",
        markup=False,
    )
    for load in report["workloads"]:
        title = (
            f"{load['kind']}: {load['requests']} requests of {load['prompt_tokens']['mean']:.0f} + "
            f"{load['output_tokens']['mean']:.0f} tokens"
        )
        table = Table(*COLUMNS, title=title, title_justify="left", box=None, pad_edge=False)
        for column in table.columns[1:]:
            column.justify = "right"
        mine = [cell for cell in report["cells"] if cell["workload"] == load["kind"]]
        for cell in sorted(mine, key=_rank):
            table.add_row(*_row(cell))
        console.print(table)
        console.print()
    trials, share = report["trials"], report["trials"]["discarded_share"]
    console.print(
        f"{trials['complete']} of {trials['cells']} cells complete; {trials['trials']} trials in the book, "
        f"{trials['discarded']} discarded" + (f" ({share:.0%})" if share is not None else "")
    )
    for reason, count in trials["reasons"].items():
        console.print(f"  {count} x {' '.join(reason.split())}", markup=False)
    records = report["records"]
    console.print(f"{records['signed']} records signed as {records['author']}", markup=False)
    if records["trouble"]:
        console.print(f"  not all that there should be: {records['trouble']}", markup=False)
    if report["ended"] == "budget":
        console.print("The time is up; the same command goes on from here.")


def _rank(cell: Mapping[str, Any]) -> float:
    figure = cell["figures"].get("latency.mean")
    return figure["median"] if figure is not None else float("inf")


def _row(cell: Mapping[str, Any]) -> tuple[str, ...]:
    figures, name, ratio = cell["figures"], cell["strategy"]["name"], cell["latency_by_baseline"]
    if not cell["repetitions"]:
        failure = cell["failure"]
        why = failure["kind"] if failure else ("all discarded" if cell["discarded"] else "not tried yet")
        return (name, "0", why)
    mean = figures.get("latency.mean")
    return (
        name,
        str(cell["repetitions"]),
        _number(mean, MS),
        f"{mean['mad'] / mean['median']:.0%}" if mean and mean["median"] else "",
        *(_number(figures.get(column), MS) for column in ("latency.p95", "ttft.mean", "tpot.mean", "stall.p95")),
        _number(figures.get("throughput"), 1000),
        _number(figures.get("prefix_hit_share"), PPM_PER_PERCENT, "%"),
        _number(figures.get("acceptance"), PPM_PER_PERCENT, "%"),
        _number(figures.get("peak_memory_bytes"), MIB),
        f"{ratio:.2f}" if ratio is not None else "",
    )


def _number(figure: Mapping[str, float] | None, unit: float, sign: str = "") -> str:
    return "" if figure is None else f"{figure['median'] / unit:.0f}{sign}"
