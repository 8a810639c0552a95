"""Questions about strategies as plain values, and their answers: what `node.learner.worker` is asked to choose.

Knows the names of the messages, which `node.core.learning` reads on the other side; knows no process and no stream. A
question without `current` is who would be best; with it, whether to go over, and what to try.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from node.learner import objective as objectives
from node.learner.brain import Brain
from node.learner.counsel import Counsel, Gain, Situation, advise
from node.learner.select import Limits, lossy
from node.learner.table import Table

CANDIDATES: Final = 4096
EVIDENCE: Final = 1024  # rows of own measurements; a node keeps the newest
CURRENT_UNFIT: Final = "current_unfit"  # why: what runs now is not to be run

Message = Mapping[str, Any]


def choose(brain: Brain, request: Message) -> Message:
    """Answer one question.

    Raises:
        ValueError: what is asked makes no sense; so may TypeError and LookupError be raised.
    """
    table = _table("rows", request["rows"], CANDIDATES, one_context=True)
    default, current = _row("default", request, table.rows), _row("current", request, table.rows)
    promises = objectives.Promises(**{key: float(value) for key, value in request.get("promises", {}).items()})
    goal = objectives.parse(str(request.get("goal", "latency")), promises)
    limits = Limits(lossy=lossy(table), lossy_allowed=request.get("lossy") is True)
    if current is None:
        return _choice(brain, table, goal, default, limits)
    situation = Situation(
        current=current,
        horizon_s=_figure(request, "horizon_s", 0.0),
        busy_share=_figure(request, "busy_share", 1.0),
        restart_s=_figure(request, "restart_s", 0.0),
        lost_share=_figure(request, "lost_share", 1.0),
        evidence=_table("evidence", rows, EVIDENCE) if (rows := request.get("evidence")) else None,
        now_s=_figure(request, "now_s", float("nan")),
        banned=_mask(request.get("banned", ()), table.rows),
        memory_bytes=None if request.get("memory_bytes") is None else _figure(request, "memory_bytes", 0.0),
    )
    return _counsel(advise(brain, table, goal, default, situation, limits))


def _choice(brain: Brain, table: Table, goal: objectives.Objective, default: int | None, limits: Limits) -> Message:
    advice = brain.advise(table, goal, default, limits)
    choice = advice.choice
    return {
        "index": choice.index,
        "why": choice.why,
        "gain": choice.gain,
        "gain_low": choice.gain_low,
        "harm_probability": choice.harm_probability,
        "considered": choice.considered,
        "learnt": advice.learnt,
        "cost": advice.forecast.cost.tolist(),
        "half_width": advice.forecast.half_width.tolist(),
    }


def _counsel(counsel: Counsel) -> Message:
    choice, weighed, switch = counsel.choice, counsel.weighed, counsel.switch
    over = counsel.over_default
    return {
        "index": choice.index,
        "why": CURRENT_UNFIT if counsel.unfit else choice.why,
        "gain": choice.gain,
        "gain_low": choice.gain_low,
        "harm_probability": choice.harm_probability,
        "considered": choice.considered,
        "learnt": counsel.learnt,
        "estimated": counsel.estimated,
        "cost": weighed.forecast.cost.tolist(),
        "half_width": weighed.forecast.half_width.tolist(),
        "level": weighed.level.tolist(),
        "gains": None if over is None else [_gain(over, at) for at in range(len(over.mean))],
        "over_current": None if choice.index is None else _gain(counsel.over_current, choice.index),
        "measured": weighed.measured.tolist(),
        "failed": np.flatnonzero(weighed.failed).tolist(),
        "worth": counsel.worth,
        "saved_s": None if switch is None else switch.saved_s,
        "cost_s": None if switch is None else switch.cost_s,
        "pays_after_s": None if switch is None else switch.pays_after_s,
        "probes": [{"index": each.index, "value": each.value, "saves": each.saves} for each in counsel.probes],
    }


def _gain(gain: Gain | None, at: int) -> list[float] | None:
    """Return what one candidate saves: as thought, the least and the most."""
    if gain is None:
        return None
    mean, half = float(gain.mean[at]), float(gain.half_width[at])
    return [mean, mean - half, mean + half]


def _table(name: str, rows: object, most: int, *, one_context: bool = False) -> Table:
    if not isinstance(rows, list) or not 0 < len(rows) <= most or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{name}: 1 to {most} rows belong there")
    return Table.of_rows([{**row, "context": 0} for row in rows] if one_context else rows, merged=False)


def _row(name: str, request: Message, rows: int) -> int | None:
    value = request.get(name)
    if value is None:
        return None
    if not 0 <= int(value) < rows:
        raise ValueError(f"{name}: no such row")
    return int(value)


def _mask(which: Sequence[object], rows: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    banned = np.zeros(rows, dtype=np.bool_)
    for at in which:
        if (row := _row("banned", {"banned": at}, rows)) is not None:
            banned[row] = True
    return banned


def _figure(request: Message, name: str, otherwise: float) -> float:
    found = float(request.get(name, otherwise))
    if not (found >= 0 or name == "now_s"):
        raise ValueError(f"{name}: a number that is not negative belongs there")
    return found
