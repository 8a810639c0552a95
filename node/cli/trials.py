"""`metainf profile --trials`: measures the real engine and shows what came of it, as a table or as JSON.

Wires the bench, the book and the service together; knows neither vLLM nor how trials are planned. Progress goes to
standard error, results to standard output.
"""

import hashlib
import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import trio
from rich.console import Console
from rich.table import Table

from node.adapters import nvml
from node.adapters.engine.trial_bench import bench_setup, open_bench
from node.adapters.system import LocalMachine
from node.adapters.trial_file import TrialFile
from node.cli import control_client
from node.cli.options import VERSION
from node.cli.trial_options import PPM_PER_PERCENT, TrialOptions
from node.core.strategy import to_plain
from node.core.trial_outcome import Figure
from node.core.trial_plan import Cell, Limits
from node.errors import ConfigError, ExitCode, NodeError, Unavailable
from node.places import Places
from node.policies import policies_of
from node.services.trials import Report, Wish, run_trials
from node.settings import Settings

RUN_BYTES = 8
MS = 1000  # µs
MIB = 1 << 20


def profile_trials(where: Places, settings: Settings, options: TrialOptions, *, as_json: bool) -> int:
    """Run what is not in the book yet, and show everything that is. Returns the exit code.

    Raises:
        NodeError: this node runs no engine of its own, or it runs now.
    """
    if not settings.engine.enabled or settings.engine.url is not None or settings.engine.command:
        raise ConfigError(
            "trials need an engine of this node's own", remedy="leave out engine.url, engine.command and --no-engine"
        )
    _check_idle(where)
    report: list[Report] = []
    teller = Teller()
    try:
        trio.run(_run, where, settings, options, teller, report)
    except KeyboardInterrupt:
        teller.close()
        click.echo("broken off; what was measured is kept, and the same command goes on from there", err=True)
        return ExitCode.INTERRUPTED
    finally:
        teller.close()
    if as_json:
        click.echo(json.dumps(plain(report[0]), indent=2))
    else:
        show(report[0], Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH))
    return ExitCode.OK


def _check_idle(where: Places) -> None:
    """Refuse beside a node that serves: each would measure the other, and a GPU has room for one."""
    try:
        status = control_client.get_json(where.control_socket, "/status")
    except NodeError:
        return
    if status["engine"]["state"] in ("preparing", "starting", "warming", "ready", "draining"):
        raise Unavailable(
            "this node's engine is running: trials beside it would measure each other",
            remedy="stop the node for as long (`metainf up` again afterwards), or give --data-dir of another",
        )


async def _run(
    where: Places, settings: Settings, options: TrialOptions, teller: "Teller", report: list[Report]
) -> None:
    plan = policies_of(settings, where, version=VERSION).plan
    python = Path(settings.engine.python or sys.executable)
    teller.say("looking at the engine")
    setup = await bench_setup(python, plan, cache=where.cache / "models", machine=LocalMachine(), tell=teller.say)
    gpu = nvml.survey()
    wish = Wish(
        kinds=options.workloads,
        repetitions=options.repetitions,
        limits=Limits(foreign=round(options.foreign * PPM_PER_PERCENT), waited=round(options.waited * PPM_PER_PERCENT)),
        budget=options.budget * 60,
        wide=options.wide,
        most=options.strategies,
        again=options.fresh,
        gpus=len(gpu.gpus),
        context={
            "gpus": list(gpu.gpus),
            "driver": gpu.driver,
            "threads": setup.threads,
            "kv_cache_bytes": setup.plan.kv_cache_bytes,
            "max_model_len": setup.plan.max_model_len,
        },
    )
    teller.say("importing vLLM")
    async with open_bench(setup) as bench:
        report.append(
            await run_trials(
                bench,
                TrialFile(_book(where, setup.model)),
                wish,
                clock=time.monotonic,
                mint=lambda: os.urandom(RUN_BYTES).hex(),
                tell=teller,
            )
        )


def _book(where: Places, model: str) -> Path:
    """Return where the trials of a model are kept: in the cache, which nodes may share; it can all be made again."""
    return where.cache / "trials" / f"{hashlib.sha256(model.encode()).hexdigest()[:16]}.jsonl"


class Teller:
    """Says on standard error how far it is: a line that moves on a terminal, one for each trial elsewhere."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._status = self._console.status("") if self._console.is_terminal else None
        self._doing = ""
        if self._status is not None:
            self._status.start()

    def say(self, text: str) -> None:
        """Say what is being done."""
        if self._status is not None:
            self._status.update(text)
        else:
            self._console.print(text, markup=False)

    def __call__(self, event: str, facts: Mapping[str, Any]) -> None:
        """Tell one event of the trials."""
        match event:
            case "scale":
                how = "going on with" if facts["resumed"] else "a new run, with"
                self._line(f"{how} prompts of {facts['prefill']} and answers of {facts['decode']} tokens as units")
            case "session":
                tally = facts["tally"]
                self._doing = f"[{tally.complete}/{tally.cells} cells, {facts['left']:.0f} s left] {facts['strategy']}"
                self.say(self._doing)
            case "answered":
                if self._status is not None:
                    self._status.update(f"{self._doing}: {facts['load']} {facts['answered']}/{facts['of']}")
            case "failed":
                self._line(f"  {facts['strategy']} {facts['load'] or ''} {facts['kind']}: {facts['reason']}")
            case _:
                latency = facts["outcome"].latency
                what = f"mean {latency.mean / MS:.0f} ms" if latency else "nothing answered"
                self._line(
                    f"  {facts['load']}: {what}" + (f" (discarded: {facts['reason']})" if facts["reason"] else "")
                )

    def _line(self, text: str) -> None:
        self._console.print(text, markup=False)

    def close(self) -> None:
        """Leave the terminal as it was. Safe to repeat."""
        if self._status is not None:
            self._status.stop()


# --- results


def plain(report: Report) -> dict[str, Any]:
    """Return the report as plain values; µs, ppm, bytes and mJ as in `node.core.trial_outcome`."""
    tally = report.tally
    return {
        "run": report.plan.run,
        "model": report.model,
        "vllm": report.vllm,
        "ended": report.ended,
        "seconds": round(report.seconds, 1),
        "baseline": report.plan.strategies[0].name,
        "trials": {**asdict(tally), "discarded_share": tally.discarded_share},
        "workloads": [asdict(load.workload) for load in report.loads],
        "cells": [_plain_cell(cell) for cell in report.cells],
    }


def _plain_cell(cell: Cell) -> dict[str, Any]:
    return {
        "strategy": {"name": cell.strategy.name, **to_plain(cell.strategy)},
        "workload": cell.load,
        "repetitions": cell.count,
        "discarded": cell.discarded,
        "failure": None if cell.failure is None else asdict(cell.failure),
        "latency_by_baseline": cell.ratio,
        "figures": {name: asdict(figure) for name, figure in cell.figures.items()},
    }


COLUMNS = ("strategy", "n", "mean", "±", "p95", "TTFT", "TPOT", "stall", "tok/s", "hit", "accept", "MiB", "/ default")
WIDTH = 132  # columns where the output is no terminal


def show(report: Report, console: Console) -> None:
    """Print a table for each workload, the quickest strategy first."""
    console.print(
        f"{report.model} on vLLM {report.vllm}. Medians over n repetitions, ± their median deviation; times in ms: "
        "mean\nand p95 end to end, mean to first token and per token, p95 of the longest stall; by default: in pairs.\n"
    )
    for load in report.loads:
        shape = load.workload
        title = (
            f"{shape.kind}: {shape.requests} requests of {shape.prompt_tokens.mean:.0f} + "
            f"{shape.output_tokens.mean:.0f} tokens"
        )
        table = Table(*COLUMNS, title=title, title_justify="left", box=None, pad_edge=False)
        for column in table.columns[1:]:
            column.justify = "right"
        mine = [cell for cell in report.cells if cell.load == load.name]
        for cell in sorted(mine, key=_rank):
            table.add_row(*_row(cell))
        console.print(table)
        console.print()
    tally = report.tally
    share = tally.discarded_share
    console.print(
        f"{tally.complete} of {tally.cells} cells complete; {tally.trials} trials in the book, "
        f"{tally.discarded} discarded" + (f" ({share:.0%})" if share is not None else "")
    )
    for reason, count in tally.reasons.items():
        console.print(f"  {count} x {' '.join(reason.split())}", markup=False)
    if report.ended == "budget":
        console.print("The time is up; the same command goes on from here.")


def _rank(cell: Cell) -> float:
    figure = cell.figures.get("latency.mean")
    return figure.median if figure is not None else float("inf")


def _row(cell: Cell) -> tuple[str, ...]:
    figures = cell.figures
    if not cell.count:
        why = cell.failure.kind if cell.failure else ("all discarded" if cell.discarded else "not tried yet")
        return (cell.strategy.name, "0", why)
    mean = figures.get("latency.mean")
    return (
        cell.strategy.name,
        str(cell.count),
        _number(mean, MS),
        f"{mean.mad / mean.median:.0%}" if mean and mean.median else "",
        *(_number(figures.get(name), MS) for name in ("latency.p95", "ttft.mean", "tpot.mean", "stall.p95")),
        _number(figures.get("throughput"), 1000),
        _number(figures.get("prefix_hit_share"), PPM_PER_PERCENT, "%"),
        _number(figures.get("acceptance"), PPM_PER_PERCENT, "%"),
        _number(figures.get("peak_memory_bytes"), MIB),
        f"{cell.ratio:.2f}" if cell.ratio is not None else "",
    )


def _number(figure: Figure | None, unit: float, sign: str = "") -> str:
    return "" if figure is None else f"{figure.median / unit:.0f}{sign}"
