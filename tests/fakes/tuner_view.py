"""A tuner as the operator sees it: canned facts in the shape of `metainf strategy show --json`, wishes noted."""

from collections.abc import Mapping, Sequence
from typing import Any

from node.core.strategy import Strategy
from node.errors import NodeError

FACTS: dict[str, Any] = {
    "mode": "auto",
    "phase": "verifying",
    "reason": "38 answers, 0.12 saved so far",
    "objective": "latency",
    "strategy": "prefix:on",
    "fields": {"prefix_caching": True},
    "default": "default",
    "last_good": "default",
    "since": "2026-11-22T10:00:00+00:00",
    "decision": {
        "at": "2026-11-22T09:58:00+00:00",
        "why": "a new lesson",
        "chosen": "prefix:on",
        "candidates": [
            {"name": "prefix:on", "gain": 0.2231, "gain_low": 0.1, "gain_high": 0.35, "measured": 3, "learnt": True},
            {"name": "default", "gain": 0.0, "gain_low": 0.0, "gain_high": 0.0, "measured": 5, "learnt": True},
            {"name": "ngram:4", "gain": -0.5, "gain_low": -1.2, "gain_high": 0.1, "measured": 0, "learnt": False},
        ],
        "switch": {"worth": True, "saved_s": 1800.0, "cost_s": 45.0, "pays_after_s": 320.0},
    },
    "predicted": {"gain": 0.2231, "low": 0.1, "high": 0.35},
    "observed": {"gain": 0.1823, "low": 0.05, "high": 0.3, "answers": 38},
    "regret_estimate": 0.01,
    "switches": 2,
    "rollbacks": 1,
    "failed_starts": 1,
    "lost_s": 12.5,
    "banned": [{"strategy": "seqs:4", "until": "2026-11-23T10:00:00+00:00", "reason": "slower by 80 %"}],
    "workload": {"requests": 120, "prompt_tokens": 300.0, "output_tokens": 90.0},
    "estimated": False,
}
EXPLAINED: dict[str, Any] = FACTS | {
    "decision": FACTS["decision"]
    | {
        "candidates": [
            *FACTS["decision"]["candidates"],
            {"name": "seqs:4", "gain": None, "measured": 1, "failed": True},
        ],
        "probes": ["ngram:4", "seqs:8"],
        "switch": {"worth": False, "saved_s": 0.0, "cost_s": 45.0, "pays_after_s": float("inf")},
    }
}
HISTORY: list[dict[str, Any]] = [
    {"at": "2026-11-22T09:58:00+00:00", "from": "steady", "event": "question", "to": "deciding", "strategy": "default",
     "reason": "a new lesson"},
    {"at": "2026-11-22T10:08:00+00:00", "from": "verifying", "event": "confirmed", "to": "steady",
     "strategy": "prefix:on", "reason": "20 % saved"},
]  # fmt: skip


class FakeTunerView:
    """`node.http.tuner.TunerPower`. `against`: what it says to every wish."""

    def __init__(self, *, against: NodeError | None = None) -> None:
        self.wishes: list[Strategy | str] = []
        self._against = against

    def facts(self) -> Mapping[str, Any]:
        return FACTS

    def history(self) -> Sequence[Mapping[str, Any]]:
        return HISTORY

    def explain(self) -> Mapping[str, Any]:
        return EXPLAINED

    def fix(self, strategy: Strategy) -> None:
        if self._against is not None:
            raise self._against
        self.wishes.append(strategy)

    def release(self) -> None:
        self.wishes.append("release")
