"""What `metainf learn evaluate --plots` draws: predictions of left-out groups, regret by group, learning curves.

Knows tasks and methods of an evaluation, and fits them again where it kept no predictions; draws with plots.py.
"""

from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final
from zlib import crc32

import numpy as np

from node.cli.plots import Scatter, Step, draw_curve, draw_regret, draw_scatter
from node.learner import groups, report
from node.learner.baselines import RANKS_ONLY
from node.learner.evaluate import Fold, Maker, NothingToJudge, Task, evaluate
from node.learner.features import prepare
from node.learner.prior import Prior
from node.learner.table import Floats, Table

SHARES: Final = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)  # of the contexts that can be learnt from
SCATTERED: Final = 8  # groups, the largest: each is a fit of its own, and a colour
CURVE_GROUPS: Final = 3  # left out in turn, the largest: five fits of each method for each
NO_LEARNERS: Final = frozenset({"default", "random", "oracle"})
UNITS: Final[Mapping[str, str]] = {
    "latency": "s", "tail": "s", "throughput": "tokens/s", "energy": "J", "cost": "device-seconds"
}  # fmt: skip

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """What is drawn from. `summary` is the evaluation's report; `kept` has its finished folds; `curve`: draw one."""

    task: Task
    summary: Mapping[str, Any]
    kept: MutableMapping[str, Fold]
    clock: Callable[[], float]
    progress: Progress
    curve: bool = False


def draw(folder: Path, drawing: Drawing) -> list[Path]:
    """Write the figures into a folder; return their files.

    Raises:
        Unavailable: the disk refused.
    """
    task = drawing.task
    name = f"{task.objective.name} by {task.group}"
    files: list[Path] = []
    method = next((method for method in task.methods if method not in RANKS_ONLY | NO_LEARNERS), None)
    if method is not None:
        parts = list(predictions(task, task.methods[method], method, drawing.progress))
        files.append(folder / "predicted_against_observed.png")
        draw_scatter(files[-1], parts, title=f"{method}: {name}", unit=UNITS.get(task.objective.name, "cost"))
    files.append(folder / "regret_by_group.png")
    draw_regret(files[-1], _regrets(drawing.summary), title=f"regret: {name}")
    if drawing.curve and (steps := learning_curve(drawing)):
        files.append(folder / "learning_curve.png")
        draw_curve(files[-1], steps, title=f"learning: {name} left out")
    return files


def predictions(task: Task, maker: Maker, method: str, progress: Progress) -> Iterator[Scatter]:
    """Yield what one method foretells of the largest groups, having learnt from the others or from `task.train`."""
    table, cost = _costed(task, task.table)
    sign = -1 if task.objective.name == "throughput" else 1
    once = None if task.train is None else _fitted(task, maker, *_costed(task, task.train))
    for name, own in _largest(table, task.group, SCATTERED):
        progress(f"{method} without {name}, for the plot")
        fitted = once or _fitted(task, maker, table.take(~own), cost[~own])
        foretold = fitted.predict(table.take(own).without("outcome.")).mean
        both = np.isfinite(foretold)
        yield Scatter(
            group=name or "unknown",
            observed=np.exp(sign * cost[own][both]).tolist(),
            foretold=np.exp(sign * foretold[both]).tolist(),
        )


def learning_curve(drawing: Drawing) -> list[Step]:
    """Return regret and error on groups that were left out, by how many contexts of the others were learnt from.

    Contexts are drawn by the task's seed, the smaller sets within the larger.
    """
    task = drawing.task
    methods = {name: maker for name, maker in task.methods.items() if name not in NO_LEARNERS}
    found: dict[tuple[str, float], list[tuple[int, int, Mapping[str, float | None]]]] = {}
    for name, own in _largest(task.table, task.group, CURVE_GROUPS):
        rest = task.table.take(~own) if task.train is None else task.train
        order = np.random.default_rng([task.seed, crc32(name.encode())]).permutation(np.unique(rest.contexts))
        for share in SHARES:
            count = max(round(share * len(order)), 1)
            drawing.progress(f"learning curve: {name} from {count} contexts")
            part = rest.take(np.isin(rest.contexts, order[:count]))
            one = replace(task, table=task.table.take(own), train=part, methods=methods)
            try:
                judged = evaluate(one, drawing.clock, drawing.kept)
            except (NothingToJudge, ValueError):  # too few rows for some method to learn from
                continue
            summary = report.report(judged, list(methods))
            for method, figures in summary["methods"].items():
                found.setdefault((method, share), []).append((summary["contexts"], count, figures))
    return [
        Step(
            method=method,
            contexts=round(float(np.mean([count for _, count, _ in each]))),
            regret=_mean(each, "regret_mean"),
            error=_mean(each, "error_median"),
        )
        for (method, _), each in found.items()
    ]


def _mean(each: Sequence[tuple[int, int, Mapping[str, float | None]]], figure: str) -> float | None:
    known = [(weight, value) for weight, _, figures in each if (value := figures[figure]) is not None]
    weight = sum(weight for weight, _ in known)
    return sum(weight * value for weight, value in known) / weight if weight else None


def _regrets(summary: Mapping[str, Any]) -> dict[str, dict[str, float | None]]:
    return {
        group or "unknown": {name: figures["regret_mean"] for name, figures in methods.items() if name != "oracle"}
        for group, methods in summary["groups"].items()
    }


def _largest(table: Table, group: str, most: int) -> list[tuple[str, Any]]:
    """Return the largest groups by name, and masks of their rows."""
    labels = groups.labels(table, group)
    names, counts = np.unique(labels.astype(str), return_counts=True)
    return [(str(name), labels == name) for name in names[np.argsort(-counts, kind="stable")][:most]]


def _costed(task: Task, table: Table) -> tuple[Table, Floats]:
    cost = task.objective.of(table)
    known = np.isfinite(cost)
    return prepare(table.take(known)), cost[known]


def _fitted(task: Task, maker: Maker, table: Table, cost: Floats) -> Any:  # noqa: ANN401 -- a Fitted of any head
    head = maker(Prior.of(task.objective, table))
    return head.fit(table, cost, np.ones(table.rows), np.random.default_rng(task.seed))
