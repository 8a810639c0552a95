"""What is told of a tuner, for `metainf strategy`, the control pages and the metrics: plain values.

Pure; knows no loop. Gains are natural logarithms of costs, positive is better; times of day are RFC 3339.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from node.core.strategy import Strategy, to_plain
from node.core.tuning_ledger import Entry, Ledger, Trust, bans_at
from node.core.tuning_rules import Decision
from node.core.verification import Judged
from node.core.workload import Description, shown


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How a tuner stands. `wall`, `decision_at`: seconds since 1970.

    Attributes:
        trust, judged: of the verification under way, or the last one.
        regret_s, regret_sum: seconds that decisions held, and the integral of what was foretold to be lost by them.
    """

    off: bool
    phase: str
    reason: str
    objective: str
    ledger: Ledger
    runs: Strategy
    default: Strategy
    decision: Decision | None
    decision_at: float
    trust: Trust | None
    judged: Judged | None
    regret_s: float
    regret_sum: float
    description: Description | None
    wall: float


def facts_of(at: Standing) -> Mapping[str, Any]:
    """Return how it stands, in short."""
    ledger, advice = at.ledger, None if at.decision is None else at.decision.advice
    foretold = None if at.trust is None else at.trust.foretold
    observed = None if at.judged is None else at.judged.observed
    return {
        "mode": "off" if at.off else ledger.mode,
        "phase": at.phase,
        "reason": at.reason,
        "objective": at.objective,
        "strategy": at.runs.name,
        "fields": to_plain(at.runs),
        "default": at.default.name,
        "last_good": None if ledger.good is None else ledger.good.name,
        "since": None if ledger.since is None else rfc3339(ledger.since),
        "decision": decision_of(at),
        "predicted": None if foretold is None else {"gain": foretold.gain, "low": foretold.low, "high": foretold.high},
        "observed": None
        if observed is None
        else {"gain": observed.gain, "low": observed.low, "high": observed.high, "answers": observed.answers},
        "regret_estimate": at.regret_sum / at.regret_s if at.regret_s > 0 else None,
        "switches": ledger.switches,
        "rollbacks": ledger.rollbacks,
        "failed_starts": ledger.failed_starts,
        "lost_s": ledger.lost_s,
        "banned": [
            {"strategy": ban.strategy.name, "until": rfc3339(ban.until), "reason": ban.reason}
            for ban in bans_at(ledger, at.wall)
        ],
        "workload": None if at.description is None else shown(at.description),
        "estimated": advice is not None and advice.estimated,
    }


SHORT = 5  # candidates told of without being asked for all


def decision_of(at: Standing, *, whole: bool = False) -> Mapping[str, Any] | None:
    """Return the last decision; of its candidates the first few by their gain, or, in `whole`, all and more of each."""
    decision = at.decision
    if decision is None or decision.advice is None:
        return None
    advice = decision.advice
    table = [
        {
            "name": strategy.name,
            "gain": None if gain is None else gain.mean,
            "gain_low": None if gain is None else gain.low,
            "gain_high": None if gain is None else gain.high,
            "measured": advice.measured[place],
            "learnt": advice.learnt,
            "failed": place in advice.failed,
        }
        for place, (strategy, gain) in enumerate(zip(decision.candidates, advice.gains, strict=True))
    ]
    table.sort(key=lambda row: (row["gain"] is None, -(row["gain"] or 0.0)))
    return {
        "at": rfc3339(at.decision_at),
        "why": decision.why,
        "chosen": None if decision.chosen is None else decision.chosen.name,
        "best": None if decision.best is None else decision.best.name,
        "untried": decision.untried,
        "exposure": decision.exposure,
        "candidates": table if whole else table[:SHORT],
        "switch": {
            "worth": advice.worth,
            "saved_s": advice.saved_s,
            "cost_s": advice.cost_s,
            "pays_after_s": advice.pays_after_s,
        },
        "probes": [strategy.name for strategy in decision.probes],
    }


def entry_facts(entry: Entry) -> Mapping[str, Any]:
    """Return a step of the history."""
    return {
        "at": rfc3339(entry.at),
        "from": entry.before,
        "event": entry.event,
        "to": entry.after,
        "strategy": entry.strategy,
        "reason": entry.reason,
    }


def rfc3339(wall: float) -> str:
    """Return seconds since 1970 as a time of day."""
    return datetime.fromtimestamp(wall, UTC).isoformat(timespec="seconds")
