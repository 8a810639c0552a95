"""Trials as plain values: what a run came to, and what happens on its way, for JSON and for a screen elsewhere.

Knows the report's parts; knows no screen and no page. µs, ppm, bytes and mJ as in `node.core.trial_outcome`.
"""

from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from typing import Any

from node.core.strategy import to_plain
from node.core.trial_plan import Cell, Tally
from node.services.trials import Report


def plain(report: Report, *, signed: int = 0, author: str = "", trouble: str = "") -> dict[str, Any]:
    """Return the report, workloads by their kinds.

    Args:
        signed: how many records were written, as `author`.
        trouble: why not all of them; else empty.
    """
    kinds = {load.name: load.workload.kind for load in report.loads}
    return {
        "run": report.plan.run,
        "model": report.model,
        "vllm": report.vllm,
        "ended": report.ended,
        "seconds": round(report.seconds, 1),
        "baseline": report.plan.strategies[0].name,
        "trials": plain_tally(report.tally),
        "records": {"signed": signed, "author": author, "trouble": trouble},
        "workloads": [asdict(load.workload) for load in report.loads],
        "cells": [_plain_cell(cell, kinds[cell.load]) for cell in report.cells],
    }


def plain_tally(tally: Tally) -> dict[str, Any]:
    """Return how far a run is."""
    return {
        "trials": tally.trials,
        "discarded": tally.discarded,
        "reasons": dict(tally.reasons),
        "failed": dict(tally.failed),
        "cells": tally.cells,
        "complete": tally.complete,
        "discarded_share": tally.discarded_share,
    }


def plain_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what goes with an event."""
    return {name: _plain(value) for name, value in facts.items()}


def _plain(value: Any) -> Any:  # noqa: ANN401 -- any value of an event
    if isinstance(value, Tally):
        return plain_tally(value)
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


def _plain_cell(cell: Cell, kind: str) -> dict[str, Any]:
    return {
        "strategy": {"name": cell.strategy.name, **to_plain(cell.strategy)},
        "workload": kind,
        "repetitions": cell.count,
        "discarded": cell.discarded,
        "failure": None if cell.failure is None else asdict(cell.failure),
        "latency_by_baseline": cell.ratio,
        "figures": {name: asdict(figure) for name, figure in cell.figures.items()},
    }
