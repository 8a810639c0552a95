"""`metainf records list` and `show`: records found in the history and told in words. Knows no running node."""

import json
import shutil
import sys
from itertools import chain

import click

from node.cli.record_reading import Wanted, reading
from node.cli.record_words import as_row, listing, page
from node.places import Places
from protocol.ids import SwarmId


def show_list(where: Places, swarm: SwarmId, wanted: Wanted, *, as_json: bool) -> None:
    """Print what is wanted: a table, or a row of JSON a line.

    Raises:
        NodeError: there is no history, or no such author.
    """
    with reading(where, swarm) as book:
        found = book.pick(wanted)
        if as_json:
            for judged in found:
                click.echo(json.dumps(as_row(judged)))
        elif (first := next(found, None)) is not None:
            width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
            for line in listing(chain([first], found), now_us=book.now_us, width=width):
                click.echo(line)
        else:
            click.echo("there is no such record", err=True)
        if book.unreadable:
            click.echo(f"{book.unreadable} more cannot be read: `metainf records verify` names them", err=True)


def show_one(where: Places, swarm: SwarmId, name: str, *, as_json: bool) -> None:
    """Print everything in one record.

    Raises:
        NodeError: there is no history, or no such record.
    """
    with reading(where, swarm) as book:
        judged = book.find(name)
        if as_json:
            click.echo(json.dumps(as_row(judged)))
            return
        for line in page(judged, now_us=book.now_us):
            click.echo(line)
