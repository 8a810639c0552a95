"""What a tuner says of itself, in words and tables for people.

Knows the documents of the control socket's pages and nothing of a tuner. Gains are natural logarithms of cost there and
per cent here. Whatever rests on energy that was reckoned and not measured says so.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from rich.console import Console

ESTIMATED: Final = " (estimated)"
WIDTH: Final = 110  # of tables that nobody looks at on a terminal
SHOWN: Final = 8  # candidates of `show`; `explain` has all


def percent(gain: float | None) -> str:
    """Return a gain in log-cost as the share of the cost that it saves: 0.2231 is "20 %", below zero it costs more."""
    if gain is None or not math.isfinite(gain):
        return "?"
    return f"{-math.expm1(-gain):+.0%}".replace("%", " %")


def between(found: Mapping[str, Any] | None) -> str:
    """Return a gain with its interval; both spellings of its ends are in use."""
    if not found:
        return "not known"
    low, high = (found.get(end, found.get(f"gain_{end}")) for end in ("low", "high"))
    return f"{percent(found['gain'])} ({percent(low)} to {percent(high)})"


def line(facts: Mapping[str, Any]) -> str:
    """Return one line of `metainf status`."""
    if not facts or facts.get("mode") == "off":
        return f"off{_because(facts)}"
    mark = ESTIMATED if facts.get("estimated") else ""
    words = [
        f"{facts['phase']}, {facts['mode']}: {facts['strategy']}{_because(facts)}",
        f"for {facts['objective']}{mark}",
    ]
    if facts.get("predicted"):
        words.append(f"foretold {percent(facts['predicted']['gain'])}{mark}")
    if facts.get("observed"):
        words.append(f"observed {percent(facts['observed']['gain'])}")
    words.append(_counts(facts))
    return ", ".join(words)


def owner_line(facts: Mapping[str, Any]) -> str:
    """Return what the machine's owner allows, "" where that is everything."""
    words: list[str] = []
    if facts.get("state", "running") != "running":
        until = f" until {clock(facts['until'])}" if facts.get("until") else ""
        words.append(f"{facts['state']}{until}: {facts['reason']}")
    if facts.get("blind"):
        words.append(f"cannot be kept here, since nothing reads it: limits.{', limits.'.join(facts['blind'])}")
    return "; ".join(words)


def show(facts: Mapping[str, Any], console: "Console") -> None:
    """Print what runs, and why."""
    mark = ESTIMATED if facts.get("estimated") else ""
    since = f", since {clock(facts['since'])}" if facts.get("since") else ""
    rows = [
        ("strategy", f"{facts['strategy']}{since}"),
        ("mode", f"{facts['mode']}, {facts['phase']}{_because(facts)}"),
        ("objective", f"{facts['objective']}{mark}"),
        ("last good", f"{facts.get('last_good') or 'none yet'} (default: {facts.get('default') or 'not known'})"),
    ]
    if facts.get("predicted"):
        rows.append(("foretold", f"{between(facts['predicted'])} saved{mark}"))
    if observed := facts.get("observed"):
        rows.append(("observed", f"{between(observed)} saved, over {observed['answers']} answers"))
    rows.append(("so far", f"{_counts(facts)}, {facts['lost_s']:.0f} s in which nobody was served"))
    rows += [
        ("banned", f"{ban['strategy']} until {clock(ban['until'])}: {ban['reason']}") for ban in facts.get("banned", ())
    ]
    for name, words in rows:
        console.print(f"{name:<10}{words}", markup=False, soft_wrap=True)
    if facts.get("decision"):
        decision(facts["decision"], console, estimated=bool(facts.get("estimated")))


def decision(made: Mapping[str, Any], console: "Console", *, estimated: bool = False, whole: bool = False) -> None:
    """Print one decision: why, what came into question (in `whole`, all of it), and whether a switch pays."""
    mark = ESTIMATED if estimated else ""
    console.print(f"\ndecided   {clock(made.get('at'))}: {made.get('why', '')}", markup=False, soft_wrap=True)
    if switch := made.get("switch"):
        console.print(f"switch    {_pays(switch)}", markup=False, soft_wrap=True)
    if made.get("probes"):
        console.print(f"to try    {', '.join(made['probes'])}, in idle time", markup=False, soft_wrap=True)
    candidates: Sequence[Mapping[str, Any]] = made.get("candidates", ())
    if not candidates:
        return
    from rich.table import Table  # noqa: PLC0415 -- `metainf status` has one line of this and no table

    table = Table(box=None, pad_edge=False)
    for head in ("", "strategy", f"saves{mark}", "at least", "at most", "trials here", "from"):
        table.add_column(head, no_wrap=head == "strategy")
    shown = candidates if whole else candidates[:SHOWN]
    for each in shown:
        table.add_row(
            ">" if each["name"] == made.get("chosen") else "",
            each["name"],
            *(percent(each.get(key)) for key in ("gain", "gain_low", "gain_high")),
            str(each.get("measured", 0)),
            "failed here" if each.get("failed") else "records" if each.get("learnt") else "physics",
        )
    console.print(table)
    if len(shown) < len(candidates):
        console.print(f"and {len(candidates) - len(shown)} more: metainf strategy explain", markup=False)


def steps(history: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield a line for each step of the tuner."""
    for step in history:
        way = f"{step['from']} -> {step['to']}"
        yield f"{clock(step['at'])}  {way:<24} {step['event']:<18} {step['strategy']}  {step['reason']}".rstrip()


def clock(rfc3339: str | None) -> str:
    """Return a time as the local clock shows it; as it came where it is none."""
    if not rfc3339:
        return "at no known time"
    try:
        return datetime.fromisoformat(rfc3339).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    except ValueError:
        return rfc3339


def _because(facts: Mapping[str, Any]) -> str:
    return f" ({facts['reason']})" if facts.get("reason") else ""


def _counts(facts: Mapping[str, Any]) -> str:
    failed = facts.get("failed_starts") or 0
    switches = f"{facts['switches']} switch{'es' * (facts['switches'] != 1)}"
    return f"{switches}, {facts['rollbacks']} taken back" + (f", {failed} never came up" if failed else "")


def _pays(switch: Mapping[str, Any]) -> str:
    saved, cost, after = (switch.get(key) for key in ("saved_s", "cost_s", "pays_after_s"))
    figures = f"saves {saved:.0f} s" if saved is not None else ""
    figures += f", costs {cost:.0f} s" if cost is not None else ""
    figures += f", pays after {after:.0f} s" if after is not None and math.isfinite(after) else ""
    return f"{'worth it' if switch.get('worth') else 'not worth it'}{': ' if figures else ''}{figures.lstrip(', ')}"
