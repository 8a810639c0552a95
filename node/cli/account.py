"""`metainf account`: what this node used of its peers and they of it, what that comes to, and what is left of limits.

Speaks to the running node over its control socket; knows no account.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import click

from node.cli import control_client
from node.cli.options import data_dir_option, json_option, places_of

LISTED: Final = 20  # peers, without --json
NOBODY_PAID: Final = "Counted by this node alone, at the prices that peers tell. No payment: nobody is paid by it."
WINDOWS: Final[Mapping[str, str]] = {"today": "today", "days_30": "30 days"}


@click.command("account")
@data_dir_option
@json_option
def account(data_dir: Path | None, as_json: bool) -> None:
    """Tell what was used of peers, what peers used of this node, and what is left of the limits of spending."""
    told = control_client.get_json(places_of(data_dir).control_socket, "/account")
    click.echo(json.dumps(told) if as_json else "\n".join(_page(told)))


def status_line(facts: Mapping[str, Any]) -> str:
    """Return the line `account` of `metainf status`; "" where there is nothing to tell."""
    if not facts:
        return ""
    today, month = facts["today"], facts["days_30"]
    if not (month["used"]["requests"] or month["lent"]["requests"]):
        return ""
    words = [f"today {_owed(today)} of {today['used']['requests']} answers, {_due(today)}"]
    if (limit := facts["limits"]["per_day"]) is not None:
        words.append(f"{limit:g} a day may be owed")
    if facts["refused"]:
        words.append(f"{facts['refused']} prompts were beyond a limit")
    return "; ".join(words)


def _page(told: Mapping[str, Any]) -> Iterator[str]:
    for window, name in WINDOWS.items():
        used, lent = told[window]["used"], told[window]["lent"]
        tokens = f"{used['prompt_tokens']} + {used['output_tokens']} tokens"
        yield f"{name:<9} used   {_answers(used)}, {tokens}: {_owed(told[window])}"
        yield f"{'':<9} lent   {_answers(lent)}, {lent['tokens']} tokens: {_due(told[window])}"
    yield f"limits    {_limits(told)}"
    if not told["kept"]:
        yield "          not on the disk at the moment: the node's log says why"
    for each in told["peers"][:LISTED]:
        month = each["days_30"]
        yield f"peer      {each['peer_id'] or 'the rest'}"
        yield f"          used {_answers(month['used'])}: {_owed(month)}; lent {_answers(month['lent'])}: {_due(month)}"
    left_out = len(told["peers"]) - LISTED + told["peers_left_out"]
    if left_out > 0:
        yield f"          and {left_out} more; --json names {len(told['peers'])}"
    yield NOBODY_PAID


def _limits(told: Mapping[str, Any]) -> str:
    limits = told["limits"]
    words = [f"routing.spend_{name} = {value:g}" for name, value in limits.items() if value is not None]
    if not words:
        return "none; routing.spend_per_day and routing.spend_per_request set them"
    words.append(f"the next answer may cost {told['next_may_cost']:.6g}")
    if told["pledged"]:
        words.append(f"{told['pledged']:.6g} pledged to answers under way")
    if told["refused"]:
        words.append(f"{told['refused']} prompts refused since the node came up")
    words.append(f"a new day in {told['new_day_in_s'] / 3600:.1f} h")
    return ", ".join(words)


def _answers(sums: Mapping[str, Any]) -> str:
    return f"{sums['requests']} answers, {sums['device_s']:.1f} device-seconds"


def _owed(window: Mapping[str, Any]) -> str:
    return f"{window['used']['owed']:.6g} owed"


def _due(window: Mapping[str, Any]) -> str:
    return f"{window['lent']['due']:.6g} due"
