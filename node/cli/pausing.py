"""`metainf pause` and `metainf resume`: the machine's owner wants its device, and gives it back."""

import json
import re
import time
from pathlib import Path
from typing import Any, Final

import click

from node.cli import control_client
from node.cli import strategy_words as words
from node.cli.options import data_dir_option, json_option, places_of
from node.core.operator_limits import LONGEST_PAUSE
from node.errors import ExitCode

LOOK: Final = 0.2  # s between looks while the engine ends
WATCHED: Final = 120.0  # s for it to end: its grace, and what a driver takes to give memory back
GONE: Final = frozenset({"stopped", "off", "failed"})
UNITS: Final = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86_400.0}
_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|min|h|d)", re.ASCII)


class Span(click.ParamType):
    """A length of time: `90s`, `20m`, `2h`, `1d`. Seconds."""

    name = "time"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read one."""
        if isinstance(value, float):
            return value
        found = _SPAN.fullmatch(str(value).strip())
        if found is None or float(found[1]) == 0:
            self.fail(f"{value!r} is no length of time; write 90s, 20m, 2h or 1d", param, ctx)
        seconds = float(found[1]) * UNITS[found[2]]
        if seconds > LONGEST_PAUSE:
            self.fail(f"{value!r} is too long; leave it out, and the pause lasts until `metainf resume`", param, ctx)
        return seconds


@click.command()
@click.option("--for", "for_s", type=Span(), metavar="TIME", help="Go on by itself after 90s, 20m, 2h, 1d.")
@click.option("--now", is_flag=True, help="Cut off what runs, instead of letting it finish for engine.drain_s.")
@data_dir_option
@json_option
def pause(for_s: float | None, now: bool, data_dir: Path | None, as_json: bool) -> int:
    """Stop the engine, so that its device is free for you: to play, say. It holds over a restart of the node.

    New prompts go to peers, or are told when to come back. Ctrl-C leaves the pause in force.
    """
    socket = places_of(data_dir).control_socket
    began = time.monotonic()
    wish = {"now": now} | ({"for_s": for_s} if for_s is not None else {})
    facts = control_client.get_json(socket, "/pause", method="POST", body=wish)
    free = _until_gone(socket, began + WATCHED)
    if as_json:
        click.echo(json.dumps({**facts, "free": free, "took_s": round(time.monotonic() - began, 3)}))
    elif free:
        click.echo(f"the device is free, after {time.monotonic() - began:.1f} s; {_until(facts)}")
    else:
        click.echo(
            f"the engine has not ended within {WATCHED:.0f} s: `metainf status`; --now cuts off what runs", err=True
        )
    return ExitCode.OK if free else ExitCode.TEMPORARY


@click.command()
@data_dir_option
@json_option
def resume(data_dir: Path | None, as_json: bool) -> None:
    """End a pause: the engine starts again, unless another limit holds it back."""
    facts = control_client.get_json(places_of(data_dir).control_socket, "/resume", method="POST")
    if as_json:
        click.echo(json.dumps(facts))
        return
    click.echo(words.owner_line(facts) or "nothing holds the engine back: `metainf status` says when it serves")


def _until(facts: dict[str, Any]) -> str:
    if facts.get("until"):
        return f"the node goes on at {words.clock(facts['until'])}, or with `metainf resume`"
    return "`metainf resume` lets the node go on"


def _until_gone(socket: Path, deadline: float) -> bool:
    """Wait for the engine's end; tell whether it came."""
    while control_client.get_json(socket, "/status")["engine"]["state"] not in GONE:
        if time.monotonic() >= deadline:
            return False
        time.sleep(LOOK)
    return True
