"""`metainf strategy`: which acceleration strategy the node's engine runs and why, and the owner's word in it.

Speaks to the running node over its control socket; knows neither tuner nor engine.
"""

import json
import sys
import time
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from node.cli import control_client
from node.cli import strategy_words as words
from node.cli.options import data_dir_option, json_option, places_of
from node.core.strategy import InvalidStrategy, Strategy, from_plain, to_plain
from node.core.strategy_names import parse_name
from node.errors import ConfigError, ExitCode, Unavailable

if TYPE_CHECKING:
    from rich.console import Console

LOOK: Final = 0.5  # s between looks at a switch that goes on
BEGINS: Final = 5.0  # s in which the tuner has begun with a wish, unless something keeps it
BUSY: Final = frozenset({"waiting", "switching", "returning"})
AWAY: Final = "away"
# In these the engine does not come by itself, or nobody knows when: the wish is kept, and nobody waits for it here.
STUCK: Final = frozenset({"stopped", "backoff", "failed", "off"})
FAILURES: Final = frozenset({"failed", "forgone", "crashes", "not_returned"})  # steps that say why it does not run
FILE_BYTES: Final = 64 * 1024


@click.group()
def strategy() -> None:
    """Show, explain or fix the acceleration strategy that the node's engine runs."""


@strategy.command("show")
@data_dir_option
@json_option
def show(data_dir: Path | None, as_json: bool) -> None:
    """Show what runs, why, what was foretold and what came of it."""
    facts = control_client.get_json(places_of(data_dir).control_socket, "/strategy")
    click.echo(json.dumps(facts)) if as_json else words.show(facts, _console())


@strategy.command("history")
@click.option("--limit", type=click.IntRange(min=1), default=40, show_default=True, help="The newest so many steps.")
@data_dir_option
@json_option
def history(limit: int, data_dir: Path | None, as_json: bool) -> None:
    """List the tuner's steps with their reasons, the newest last; they are kept over restarts."""
    told = control_client.get_json(places_of(data_dir).control_socket, "/strategy/history")
    kept = told["history"][-limit:]
    if as_json:
        click.echo(json.dumps({"history": kept}))
        return
    if not kept:
        click.echo("nothing yet", err=True)
    for step in words.steps(kept):
        click.echo(step)


@strategy.command("explain")
@data_dir_option
@json_option
def explain(data_dir: Path | None, as_json: bool) -> None:
    """Tell the last decision: what came into question, what each would save, and whether a switch pays."""
    told = control_client.get_json(places_of(data_dir).control_socket, "/strategy/explain")
    if as_json:
        click.echo(json.dumps(told))
    elif not told.get("decision"):
        click.echo("nothing was decided yet" + (f": {told['reason']}" if told.get("reason") else ""))
    else:
        words.decision(told["decision"], _console(), estimated=bool(told.get("estimated")), whole=True)


@strategy.command("set")
@click.argument("wanted", metavar="NAME|FILE")
@click.option("--no-wait", is_flag=True, help="Do not wait for the end of the switch.")
@data_dir_option
@json_option
def fix(wanted: str, no_wait: bool, data_dir: Path | None, as_json: bool) -> int:
    """Switch to a strategy and stay there, until `metainf strategy auto`.

    NAME is what differs from the engine's defaults: prefix:on+seqs:16+ngram:4, or default. A FILE ending in .json or
    .toml has the fields of [engine.strategy]. No prompt is lost; what does not come up is taken back. While the
    engine is paused or broken, the wish is noted and this ends with exit code 75.
    """
    strategy_wanted = _wanted(wanted)
    socket = places_of(data_dir).control_socket
    before = control_client.get_json(socket, "/strategy")
    body = {"strategy": to_plain(strategy_wanted)}
    facts = control_client.get_json(socket, "/strategy", method="POST", body=body)
    if not no_wait:
        say = _nothing if as_json else _Said()
        try:
            facts = _until_settled(socket, strategy_wanted.name, before, say)
        except KeyboardInterrupt:
            click.echo("the node goes on with it: `metainf strategy show`", err=True)
            return ExitCode.INTERRUPTED
    runs = facts["strategy"] == strategy_wanted.name and (facts["mode"] == "fixed" or facts["phase"] != AWAY)
    put_off = not runs and facts["phase"] == AWAY
    why = facts["reason"] if runs or no_wait else _why_not(socket, facts)
    if as_json:
        click.echo(json.dumps({**facts, "reason": why}))
    elif no_wait:
        click.echo(f"{strategy_wanted.name} is asked for; `metainf strategy show` says what came of it")
    elif put_off:
        click.echo(f"{strategy_wanted.name} is noted, and comes when the engine serves again: {why}")
    else:
        click.echo(f"{facts['strategy']} runs" if runs else f"{facts['strategy']} runs still: {why}")
    if no_wait or runs:
        return ExitCode.OK
    return ExitCode.TEMPORARY if put_off else ExitCode.FAILURE


@strategy.command("auto")
@data_dir_option
@json_option
def auto(data_dir: Path | None, as_json: bool) -> None:
    """Let the node choose by itself again."""
    facts = control_client.get_json(places_of(data_dir).control_socket, "/strategy", method="DELETE")
    click.echo(json.dumps(facts) if as_json else words.line(facts))


def _wanted(text: str) -> Strategy:
    """Read a name, or a file of fields.

    Raises:
        ConfigError: it is neither.
    """
    remedy = "write it as prefix:on+seqs:16, or default; see `metainf strategy set --help`"
    try:
        return from_plain(_table(Path(text))) if text.endswith((".json", ".toml")) else parse_name(text)
    except InvalidStrategy as error:
        raise ConfigError(f"no strategy: {error}", remedy=remedy) from error


def _table(file: Path) -> Mapping[str, object]:
    try:
        raw = file.read_bytes()[: FILE_BYTES + 1]
        table: object = json.loads(raw) if file.suffix == ".json" else tomllib.loads(raw.decode())
    except OSError as error:
        raise Unavailable(f"{file} cannot be read: {error}", remedy="check its name and permissions") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{file} is no {file.suffix[1:].upper()}: {error}", remedy="mend that line") from error
    if not isinstance(table, dict):
        raise ConfigError(f"{file} holds no table", remedy='write {"prefix_caching": true}')
    return _fields(table)


def _fields(table: dict[str, Any]) -> Mapping[str, object]:
    """Return a strategy's fields: of a table of them, or of a whole configuration; in the settings' spelling too."""
    engine = table.get("engine")
    fields = engine.get("strategy") if isinstance(engine, dict) else table
    found: dict[str, Any] = dict(fields) if isinstance(fields, dict) else {}
    method, tokens = found.pop("speculation_method", None), found.pop("speculation_tokens", None)
    if method is not None or tokens is not None:
        found["speculation"] = {"method": method, "tokens": tokens}
    return found


def _until_settled(socket: Path, name: str, before: Mapping[str, Any], say: Callable[[str], None]) -> Mapping[str, Any]:
    """Wait until the wanted strategy runs, or the tuner has given it up or cannot begin; return the facts then."""
    began, moved = time.monotonic(), False
    while True:
        facts = control_client.get_json(socket, "/strategy")
        busy = facts["phase"] in BUSY
        moved = moved or busy or any(facts.get(key) != before.get(key) for key in ("failed_starts", "rollbacks"))
        if not busy and facts["strategy"] == name and facts["mode"] == "fixed":
            return facts
        if not busy and moved and facts["phase"] != AWAY:
            return facts
        late = time.monotonic() - began > BEGINS
        if late and facts["phase"] == AWAY and control_client.get_json(socket, "/status")["engine"]["state"] in STUCK:
            return facts
        if not moved and late:
            say(f"waiting: {facts['phase']}: {facts['reason']} (Ctrl-C leaves it to the node)")
        else:
            say(f"{facts['phase']}: {facts['reason']}")
        time.sleep(LOOK)


def _why_not(socket: Path, facts: Mapping[str, Any]) -> str:
    """Return why the wish did not come true: by now the facts tell of what serves instead, or of its absence."""
    if facts["phase"] == AWAY:
        return control_client.get_json(socket, "/status")["engine"]["reason"]
    steps = control_client.get_json(socket, "/strategy/history")["history"]
    return next((step["reason"] for step in reversed(steps) if step["event"] in FAILURES), facts["reason"])


class _Said:
    """Says each thing once."""

    def __init__(self) -> None:
        self._last = ""

    def __call__(self, text: str) -> None:
        if text != self._last:
            click.echo(text, err=True)
        self._last = text


def _nothing(_: str) -> None:
    """Say nothing: machines read along."""


def _console() -> "Console":
    from rich.console import Console  # noqa: PLC0415 -- other verbs need not wait for it

    return Console(highlight=False, width=None if sys.stdout.isatty() else words.WIDTH)
