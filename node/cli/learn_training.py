"""`metainf learn train`: the learner trained once, and how that went. Nothing of it is kept.

Knows the words and the screen; what is learnt from is learn_source's.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, Final

import click

from node.cli.learn_source import Source, Taught, authors, goal_of, table_of, teach
from node.cli.learning import json_text
from node.errors import ExitCode
from node.learner.brain import Learnt

DOUBTED: Final = 10  # authors that are shown: the least credible


def train(source: Source, objectives: Sequence[str], *, as_json: bool) -> int:
    """Learn, and print what came of it; return the exit code.

    Raises:
        NodeError: an objective that does not exist, or nothing to learn from.
    """
    goals = [goal_of(words) for words in objectives]
    taught = teach(source, table_of(source), goals, curves_too=True)
    if as_json:
        click.echo(json_text(_plain(taught)))
        return ExitCode.OK
    for line in _lines(taught):
        click.echo(line)
    return ExitCode.OK


def _lines(taught: Taught) -> Iterator[str]:
    failures = taught.brain.failures
    contexts = len(set(taught.table.contexts.tolist()))
    yield f"{taught.brain.rows} rows of {contexts} contexts from {taught.source}, in {taught.train_s:.1f} s"
    yield f"heads: {', '.join(taught.heads)}"
    by = "trees and counts" if failures.odds is not None else "counts" if failures.failed else "memory alone"
    yield f"failures: {failures.failed} of {failures.observed}; foretold by {by}"
    yield ""
    width = max(len(name) for name in taught.brain.learnt)
    yield f"{'':{width}}  {'rows':>7}  {'error':>7}  {'coverage':>8}  {'choice':>7}  by"
    for name, learnt in taught.brain.learnt.items():
        yield (
            f"{name:{width}}  {learnt.rows:7}  {_share(learnt.error_median):>7}  {_percent(learnt.coverage_90):>8}"
            f"  {_share(learnt.gain_half_width):>7}  {_by(learnt)}"
        )
    yield "error: median on contexts that were left out; coverage: of 90 % intervals there;"
    yield "choice: nine of ten gains over the default (without one: differences in a context) are foretold within it"
    found = authors(taught)
    if found:
        yield ""
        yield f"{len(found)} authors; the least credible:"
        for author, rows, worth in found[:DOUBTED]:
            own = "  (this node)" if author in taught.ranks else ""
            yield f"  {author or 'nobody'}  {worth:4.0%} of {rows} rows{own}"


def _by(learnt: Learnt) -> str:
    """Return the heads that count for choices on hardware that was not learnt from, the weightiest first."""
    if learnt.stack is None:
        return "physics: too few rows" + ("" if learnt.shift is None else ", but own ones set its level")
    pairs = sorted(zip(learnt.stack.on_strange.advantage, learnt.stack.names, strict=True), reverse=True)
    return ", ".join(f"{name} {weight:.0%}" for weight, name in pairs if weight > 0)


def _plain(taught: Taught) -> dict[str, Any]:
    failures = taught.brain.failures
    found = authors(taught)
    return {
        "source": taught.source,
        "rows": taught.brain.rows,
        "contexts": len(set(taught.table.contexts.tolist())),
        "train_s": taught.train_s,
        "heads": list(taught.heads),
        "learnt": {name: _plain_learnt(learnt) for name, learnt in taught.brain.learnt.items()},
        "failures": {"failed": failures.failed, "observed": failures.observed, "trees": failures.odds is not None},
        "authors": len(found),
        "least_credible": [
            {"author": author, "rows": rows, "credibility": worth} for author, rows, worth in found[:DOUBTED]
        ],
    }


def _plain_learnt(learnt: Learnt) -> dict[str, Any]:
    stack, weights = learnt.stack, {}
    if stack is not None:
        for situation, one in (("strange_hardware", stack.on_strange), ("known_hardware", stack.on_known)):
            weights[situation] = {
                name: {"level": float(level), "advantage": float(advantage)}
                for name, level, advantage in zip(stack.names, one.level, one.advantage, strict=True)
            }
    return {
        "rows": learnt.rows,
        "error_median": learnt.error_median,
        "coverage_90": learnt.coverage_90,
        "choice_half_width": learnt.gain_half_width,
        "weights": weights,
    }


def _share(log: float | None) -> str:
    return "-" if log is None else f"{math.expm1(log):.1%}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"
