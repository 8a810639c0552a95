"""`metainf explain`: why a prompt went where it went, and how that compares with what was foretold.

Speaks to the running node over its control socket; knows no router.
"""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import click

from node.cli import control_client
from node.cli import explain_words as words
from node.cli.options import data_dir_option, json_option, places_of

if TYPE_CHECKING:
    from rich.console import Console

LISTED: Final = 10  # without a word of the user's
MOST_LISTED: Final = 200  # that a node tells at once


@click.command("explain")
@click.argument("request_id", required=False)
@click.option(
    "--last", type=click.IntRange(1, MOST_LISTED), help=f"List the latest so many prompts; default: {LISTED}."
)
@data_dir_option
@json_option
def explain(request_id: str | None, last: int | None, data_dir: Path | None, as_json: bool) -> None:
    """Tell why a prompt went where it went: who came into question, what was foretold of each, and what came.

    REQUEST_ID is what the header x-request-id of the answer says. Without it, the latest prompts are listed.
    """
    if request_id is not None and last is not None:
        raise click.UsageError("give a REQUEST_ID or --last, not both")
    socket = places_of(data_dir).control_socket
    if request_id is None:
        told = control_client.get_json(socket, f"/explain?last={last or LISTED}")
        click.echo(json.dumps(told)) if as_json else words.prompts(told, _console())
    else:
        told = control_client.get_json(socket, f"/explain/{quote(request_id, safe='')}")
        click.echo(json.dumps(told)) if as_json else words.prompt(told, _console())


def _console() -> "Console":
    from rich.console import Console  # noqa: PLC0415 -- other verbs need not wait for it

    return Console(highlight=False, width=max(shutil.get_terminal_size((words.WIDTH, 1)).columns, words.WIDTH))
