"""The figures of an evaluation: a summary for machines with documented keys, and lines of a table for people.

Knows finished folds; knows no head and no table of records. Where a figure does not exist there is None, never a guess.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from node.learner.evaluate import DEFAULT, EQUAL, HARM, ORACLE, WITHIN, Fold, Judged, merged, oracle

FIGURES: Final = (
    "accuracy_1pct", "accuracy_strict", "regret_mean", "regret_p95", "speedup_over_default", "oracle_gain_share",
    "worse_than_default_2pct", "error_median", "coverage_90", "interval_log_width", "abstained", "train_s",
    "predict_us",
)  # fmt: skip
# Beyond the contract: coverage of those too of whom nothing was said, and the standard error of the mean regret.
MORE: Final = ("coverage_90_all", "regret_se")
SHOWN: Final = {
    "accuracy_1pct": "within 1%", "accuracy_strict": "strict", "regret_mean": "regret", "regret_p95": "p95",
    "speedup_over_default": "speed-up", "oracle_gain_share": "of oracle's", "worse_than_default_2pct": "harm",
    "error_median": "error", "coverage_90": "coverage", "interval_log_width": "width", "abstained": "abstained",
    "train_s": "train s", "predict_us": "µs a row",
}  # fmt: skip
Figures = dict[str, float | None]


def report(judged: Judged, methods: Sequence[str]) -> dict[str, Any]:
    """Return `contexts`, `methods` and `groups`, as documented in docs/learner.md.

    Args:
        methods: the names to report, in their order; those that were not judged are all None.
    """
    known = oracle(judged)
    per_group = {group: {**folds, ORACLE: known[group]} for group, folds in judged.folds.items()}
    by_group = {
        group: {name: figures(_of(folds, name), judged.has_default, name) for name in methods}
        for group, folds in per_group.items()
    }
    overall = {}
    for name in methods:
        folds = [found for group in per_group.values() if (found := _of(group, name)) is not None]
        overall[name] = figures(merged(folds) if len(folds) == len(per_group) else None, judged.has_default, name)
    contexts = sum(len(fold["regret"]) for fold in known.values())
    return {"contexts": contexts, "methods": overall, "groups": by_group}


def unsupported(methods: Sequence[str]) -> dict[str, Any]:
    """Return the report of a table that does not support the objective: every figure None."""
    return {"contexts": 0, "methods": {name: figures(None, False, name) for name in methods}, "groups": {}}


def figures(fold: Fold | None, has_default: bool, name: str) -> Figures:
    """Return the figures of one method over the contexts of a fold."""
    found: Figures = dict.fromkeys((*FIGURES, *MORE))
    if fold is None or not fold["regret"] or (name == DEFAULT and not has_default):
        return found
    regret = np.array(fold["regret"])
    relative = np.expm1(regret)
    found["accuracy_1pct"] = float(np.mean(regret <= WITHIN))
    found["accuracy_strict"] = float(np.mean(regret <= EQUAL))
    found["regret_mean"], found["regret_p95"] = float(relative.mean()), float(np.percentile(relative, 95))
    found["regret_se"] = float(relative.std() / np.sqrt(len(relative)))
    found |= _against_default(regret, fold["default"]) | _foretold(fold)
    found["train_s"], found["predict_us"] = fold["train_s"], fold["predict_us"]
    return found


def lines(summary: Mapping[str, Any]) -> list[str]:
    """Return the table for people: a line for each method."""
    head = f"{'':20}" + "".join(f"{title:>12}" for title in SHOWN.values())
    return [head] + [
        f"{name:20}" + "".join(f"{_cell(key, found[key]):>12}" for key in SHOWN)
        for name, found in summary["methods"].items()
    ]


def _of(folds: Mapping[str, Fold], name: str) -> Fold | None:
    return folds.get(name)


def _against_default(regret: np.ndarray, default: Sequence[float | None]) -> Figures:
    with_default = np.array([value is not None for value in default])
    if not with_default.any():
        return {}
    behind = np.array([value for value in default if value is not None])
    gain = behind - regret[with_default]
    available = float(behind.sum())
    return {
        "speedup_over_default": float(np.exp(gain.mean())),
        "oracle_gain_share": float(gain.sum()) / available if available > 0 else None,
        "worse_than_default_2pct": float(np.mean(gain < -HARM)),
    }


def _foretold(fold: Fold) -> Figures:
    found: Figures = {}
    if fold["error"] is not None:
        found["error_median"] = float(np.expm1(np.median(fold["error"])))
    if fold["covered"] is not None:
        covered, silent = np.array(fold["covered"]), np.array(fold["abstained"])
        found["coverage_90_all"] = float(covered.mean())
        found["coverage_90"] = float(covered[~silent].mean()) if (~silent).any() else None
        found["interval_log_width"] = float(np.median(fold["width"]))
        found["abstained"] = float(silent.mean())
    return found


def _cell(key: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if key in ("train_s", "predict_us") else f"{value:.3f}"
