"""`metainf learn predict` and `explain`: what the learner would choose, by how much, why, and how sure it is.

Knows the words and the screen; what is asked is learn_asking's, what is learnt learn_source's.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import click
import numpy as np

from node.cli.feature_words import shown, told
from node.cli.learn_asking import Question, rows_of, words
from node.cli.learn_source import Source, Taught, goal_of, table_or_nothing, teach
from node.cli.learning import json_text
from node.errors import ConfigError, ExitCode
from node.learner.explain import Explanation, explain
from node.learner.groups import labels
from node.learner.objective import NO_PROMISE, Objective
from node.learner.propose import Proposal, propose
from node.learner.refine import PARAMETERS
from node.learner.table import CONTEXT, WHERE, Column, Table, stack

NAME_CHARS: Final = 80  # of a strategy's name in a table
WHY: Final[Mapping[str, str]] = {
    "best": "the cheapest that is unlikely to be worse than the default",
    "only_default_fits": "nothing else fits",
    "abstained": "this lies beyond what was learnt, or is foretold too unsurely: the default is safe",
    "not_sure_enough": "something looks better, but may well be worse than the default",
    "default_is_best": "nothing is foretold to be better",
    "nothing_fits": "nothing fits",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What the command line asked for.

    Attributes:
        unseen: a column; rows that agree in it with what is asked about are not learnt from.
        between: search for numbers between known ones. top: strategies shown.
    """

    source: Source
    question: Question
    objective: str
    promises: tuple[str, ...] = ()
    unseen: str | None = None
    lossy: bool = False
    between: bool = True
    top: int = 10
    as_json: bool = False


def predict(wish: Wish) -> int:
    """Print the strategies of one context, ranked; return the exit code.

    Raises:
        NodeError: what is asked cannot be answered, or nothing can be learnt from.
    """
    goal, taught, proposal = _asked(wish)
    if wish.as_json:
        click.echo(json_text(_plain(wish, goal, taught, proposal)))
    else:
        for line in (*_head(wish, goal, taught, proposal), "", *_table(proposal, goal, wish.top)):
            click.echo(line)
    return ExitCode.OK


def explain_choice(wish: Wish) -> int:
    """Print why the choice is what it is; as `predict`."""
    goal, taught, proposal = _asked(wish)
    found = explain(taught.brain, proposal, goal)
    if wish.as_json:
        reasons = None if found is None else _plain_reasons(found, proposal)
        click.echo(json_text({**_plain(wish, goal, taught, proposal), "explanation": reasons}))
        return ExitCode.OK
    lines = ["there is nothing to compare"] if found is None else _reasons(found, proposal)
    for line in (*_head(wish, goal, taught, proposal), "", *lines):
        click.echo(line)
    return ExitCode.OK


def _asked(wish: Wish) -> tuple[Objective, Taught, Proposal]:
    goal = goal_of(wish.objective, wish.promises)
    table = table_or_nothing(wish.source)
    rows = rows_of(wish.question, table, wish.source.where)
    taught = teach(wish.source, _unseen(table, rows[0], wish.unseen), [goal], curves_too=False)
    parameters = PARAMETERS if wish.between else ()
    return goal, taught, propose(taught.brain, rows, goal, lossy_allowed=wish.lossy, parameters=parameters)


def _unseen(table: Table, asked: Mapping[str, object], column: str | None) -> Table:
    """Return the rows that do not agree with what is asked about in a column."""
    if column is None:
        return table
    both = stack(table, Table.of_rows([asked], merged=False))
    if column == CONTEXT:
        there = _elsewhere(both)
    else:
        found = labels(both, column)
        there = found[:-1] != found[-1]
    if not there.any():
        raise ConfigError(f"nothing would be left to learn from without this {column}", remedy="name another --unseen")
    return table.take(there)


def _elsewhere(both: Table) -> Column:
    """Return which rows but the last, which is asked about, are of another context than it."""
    # What is asked about has no number that the table gave: contexts are compared by the columns that make them.
    computed = Table.of(both.columns, merged=False).contexts
    own = both.contexts[:-1]
    return ~np.isin(own, own[computed[:-1] == computed[-1]])


# --- in words


def _head(wish: Wish, goal: Objective, taught: Taught, proposal: Proposal) -> Iterator[str]:
    choice, table = proposal.choice, proposal.table
    yield f"{words({name: column[0] for name, column in table.columns.items() if _there(column[0])})}: {goal.name}"
    by = f"learnt from {taught.table.rows} rows of {taught.source}" if proposal.learnt else "physics: too few records"
    yield f"by      {by}; {proposal.looked_at or proposal.given} strategies looked at"
    name = "nothing" if choice.index is None else proposal.names[choice.index]
    yield f"choice  {name}: {WHY[choice.why]}"
    if proposal.default is not None and choice.index not in (None, proposal.default):
        least = "at least" if choice.gain_low >= 0 else "at worst"
        bound = f"{least} {_less(choice.gain_low)} (95 % sure)"
        yield f"        foretold to cost {_less(choice.gain)} than the default, {bound}"
        yield f"        worse than the default by 2 % with a probability of {choice.harm_probability:.0%}"
    if choice.considered is not None:
        gain = proposal.gain(choice.considered)
        yield f"        passed over: {proposal.names[choice.considered]}" + (f", {_less(gain[0])}" if gain else "")
    if proposal.lossy.any():
        yield "lossy   strategies that change answers (!) " + (
            "may be chosen" if wish.lossy else "are not chosen: --lossy"
        )


def _table(proposal: Proposal, goal: Objective, top: int) -> Iterator[str]:
    order = _first(proposal, top)
    unit = _unit(goal)
    width = min(max(len(proposal.names[row]) for row in order), NAME_CHARS)
    yield f"    {'strategy':{width}}  {unit or 'cost':>12}  {'90 %':>19}  {'saves':>7}  {'90 %':>17}  fails"
    for row in order:
        marks = "".join(
            mark if true else " "
            for mark, true in (
                (">", row == proposal.choice.index), ("~", row >= proposal.given), ("!", bool(proposal.lossy[row])),
            )
        )  # fmt: skip
        cost, low, high = _costs(proposal, goal, row)
        between = "-" if math.isnan(low) else f"{low:.4g} to {high:.4g}"
        gain = proposal.gain(row)
        saves, bounds = (
            ("-", "-") if gain is None else (_percent(gain[0]), f"{_percent(gain[1])} to {_percent(gain[2])}")
        )
        if row == proposal.default:
            saves, bounds = "default", ""
        yield (
            f"{marks} {proposal.names[row][:NAME_CHARS]:{width}}  {cost:12.4g}  {between:>19}  {saves:>7}  {bounds:>17}"
            f"  {proposal.failure[row]:5.1%}"
        )
    yield "> chosen" + (", ~ between those that are known" if max(order) >= proposal.given else "")


def _reasons(found: Explanation, proposal: Proposal) -> Iterator[str]:
    yield f"{proposal.names[found.chosen]}"
    yield f"  against {proposal.names[found.other]}"
    yield f"  costs {_less(found.gain)}, give or take {_factor(found.half_width)}"
    if found.heads:
        yield f"  physics says {_less(found.physics)}; what was learnt makes it {_less(found.learnt)}"
    else:
        yield "  physics says so alone"
    if found.moved:
        yield ""
        yield "what moved it (saved by it; here; there)"
        width = max(len(told(each.feature)) for each in found.moved)
        for each in found.moved:
            here, there = (shown(each.feature, value) for value in (each.chosen, each.other))
            yield f"  {_percent(each.gain):>7}  {told(each.feature):{width}}  {here:>9}  {there:>9}"
        if abs(found.unexplained) > 0.001:
            yield f"  {_percent(found.unexplained):>7}  by heads that are no trees, and by what both have in common"
    if found.heads:
        yield ""
        yield "heads (weight for the choice; for the level; what each says alone)"
        width = max(len(head.name) for head in found.heads)
        for head in found.heads:
            yield f"  {head.name:{width}}  {head.advantage:4.0%}  {head.level:4.0%}  {_less(head.gain)}"
    yield ""
    yield from _sureness(found)


def _sureness(found: Explanation) -> Iterator[str]:
    yield "how sure"
    if found.distance:
        parts = ", ".join(f"{part} {value:.2f}" for part, value in found.distance.items())
        yield f"  distance to what was seen (1: as far as any two that were): {parts}"
        new = [f"{name} {word}" for name, word in found.unheard]
        yield f"  never seen: {', '.join(new) if new else 'nothing of it'}"
    figures = found.figures
    if figures is None or figures.stack is None:
        yield "  nothing was learnt for this objective as it stands: intervals are those of physics"
        return
    error = "unknown" if figures.error_median is None else _factor(figures.error_median)
    cover = "unknown" if figures.coverage_90 is None else f"{figures.coverage_90:.0%}"
    yield f"  on contexts that were left out: median error {error}, 90 % intervals cover {cover}"


def _costs(proposal: Proposal, goal: Objective, row: int) -> tuple[float, float, float]:
    """Return what a row costs in the objective's unit, with bounds; a mix has none and is shown against the default."""
    cost, half = float(proposal.forecast.cost[row]), float(proposal.level[row])
    if _unit(goal) is None:
        base = proposal.default if proposal.default is not None else proposal.order[0]
        return math.exp(cost - float(proposal.forecast.cost[base])), math.nan, math.nan
    sign = -1 if goal.name == "throughput" else 1
    low, high = (
        sorted((math.exp(sign * (cost - half)), math.exp(sign * (cost + half)))) if half == half else (half, half)
    )
    return math.exp(sign * cost), low, high


def _unit(goal: Objective) -> str | None:
    """Return the unit of an objective's cost; None where it has none."""
    if goal.promises != NO_PROMISE:
        return None
    return {"latency": "seconds", "tail": "seconds", "throughput": "tokens/s", "energy": "joules"}.get(
        goal.name, "device-s" if goal.name == "cost" else None
    )


def _first(proposal: Proposal, top: int) -> list[int]:
    """Return the rows to show: the cheapest, and whatever is chosen or the default."""
    shown_rows = proposal.order[:top]
    extra = [row for row in (proposal.choice.index, proposal.default) if row is not None and row not in shown_rows]
    return shown_rows + list(dict.fromkeys(extra))


def _less(gain: float) -> str:
    """Return a log-cost that is saved as `12 % less`, or `3 % more`."""
    share = -math.expm1(-gain)
    return f"{abs(share):.1%} {'less' if share >= 0 else 'more'}"


def _percent(gain: float) -> str:
    return f"{-math.expm1(-gain):+.1%}"


def _factor(half_width: float) -> str:
    return f"{math.expm1(half_width):.0%}"


def _there(value: object) -> bool:
    return value is not None and value == value


# --- for machines


def _plain(wish: Wish, goal: Objective, taught: Taught, proposal: Proposal) -> dict[str, Any]:
    choice = proposal.choice
    return {
        "source": taught.source,
        "objective": goal.name,
        "context": _columns(proposal, 0, WHERE),
        "learnt": proposal.learnt,
        "rows": taught.table.rows,
        "train_s": taught.train_s,
        "looked_at": proposal.looked_at,
        "lossy_allowed": wish.lossy,
        "choice": None if choice.index is None else proposal.names[choice.index],
        "why": choice.why,
        "abstained": choice.why == "abstained",
        "gain": choice.gain,
        "gain_low": choice.gain_low,
        "harm_probability": choice.harm_probability,
        "considered": None if choice.considered is None else proposal.names[choice.considered],
        "unit": _unit(goal),
        "strategies": [_plain_row(proposal, goal, row) for row in proposal.order],
    }


def _plain_row(proposal: Proposal, goal: Objective, row: int) -> dict[str, Any]:
    gain = proposal.gain(row) or (None, None, None)
    cost, low, high = _costs(proposal, goal, row)
    return {
        "name": proposal.names[row],
        "strategy": _columns(proposal, row, ("strategy.",)),
        "chosen": row == proposal.choice.index,
        "default": row == proposal.default,
        "between": row >= proposal.given,
        "lossy": bool(proposal.lossy[row]),
        "cost": cost,
        "cost_low": low,
        "cost_high": high,
        "gain": gain[0],
        "gain_low": gain[1],
        "gain_high": gain[2],
        "failure_probability": float(proposal.failure[row]),
    }


def _columns(proposal: Proposal, row: int, prefixes: tuple[str, ...]) -> dict[str, Any]:
    columns = {name: column[row] for name, column in proposal.table.columns.items() if name.startswith(prefixes)}
    return {name: value if isinstance(value, str) else float(value) for name, value in columns.items() if _there(value)}


def _plain_reasons(found: Explanation, proposal: Proposal) -> dict[str, Any]:
    figures = found.figures
    return {
        "chosen": proposal.names[found.chosen],
        "other": proposal.names[found.other],
        "gain": found.gain,
        "half_width": found.half_width,
        "physics": found.physics,
        "learnt": found.learnt,
        "unexplained": found.unexplained,
        "features": [
            {"feature": each.feature, "words": told(each.feature), "chosen": float(each.chosen),
             "other": float(each.other), "gain": each.gain}
            for each in found.moved
        ],
        "heads": [
            {"name": head.name, "level": head.level, "advantage": head.advantage, "gain": head.gain}
            for head in found.heads
        ],
        "distance": dict(found.distance),
        "unheard": dict(found.unheard),
        "known_hardware": found.known_hardware,
        "error_median": None if figures is None else figures.error_median,
        "coverage_90": None if figures is None else figures.coverage_90,
    }  # fmt: skip
