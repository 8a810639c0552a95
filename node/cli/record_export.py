"""`metainf records export`: records as rows of a table, in JSON Lines or Parquet, their sealed bytes with them.

Whoever reads the file can verify each record as if its author had handed it over, and `metainf records import` does.
"""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

import click

from node.adapters.parquet import write_table
from node.cli.counting import counting
from node.cli.record_reading import Reading, Wanted, reading
from node.core.observation import Row, to_line, to_row
from node.core.observation_columns import KINDS
from node.errors import ExitCode, Unavailable
from node.places import Places
from protocol.ids import SwarmId

JSONL: Final = "jsonl"
PARQUET: Final = "parquet"
STANDARD: Final = Path("-")  # output or input


class Export:
    """The rows of what is wanted. What does not verify is left out and counted: nobody could import it."""

    def __init__(self, book: Reading, wanted: Wanted) -> None:
        self._book = book
        self._wanted = wanted
        self.written = self.left_out = 0

    def __iter__(self) -> Iterator[Row]:
        total = self._book.tables.totals()[0]
        with counting("exporting", total if self._wanted == Wanted() else None) as tick:
            for judged in self._book.pick(self._wanted):
                tick()
                if judged.failure or judged.body is None:
                    self.left_out += 1
                    continue
                self.written += 1
                yield to_row(judged.body, judged.sealed)


def format_of(file: Path, asked: str | None) -> str:
    """Return the format of a file: as it was asked for, else by its suffix."""
    return asked or (PARQUET if file.suffix == ".parquet" else JSONL)


def export_records(
    where: Places, swarm: SwarmId, wanted: Wanted, target: Path, form: str, *, force: bool, as_json: bool
) -> int:
    """Write what is wanted to `target`, whole or not at all; return the exit code.

    Raises:
        Unavailable: there is no history, the file is there already, or the disk refused.
    """
    to_stdout = target == STANDARD
    if not to_stdout and target.exists() and not force:
        raise Unavailable(f"{target} exists and was left as it is", remedy="name another file, or say --force")
    with reading(where, swarm) as book:
        rows = Export(book, wanted)
        if to_stdout:
            _write_lines(rows, sys.stdout.buffer)
        elif form == PARQUET:
            write_table(target.absolute(), rows, KINDS)
        else:
            _write_file(rows, target.absolute())
        _report(rows, book, target, as_json=as_json)
    return ExitCode.OK


def _write_lines(rows: Export, out: BinaryIO) -> None:
    out.writelines(to_line(row) for row in rows)
    out.flush()


def _write_file(rows: Export, target: Path) -> None:
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with partial.open("wb") as out:
            _write_lines(rows, out)
            os.fsync(out.fileno())
        partial.replace(target)
    except OSError as error:
        raise Unavailable(f"cannot write {target}: {error.strerror or error}", remedy="name another place") from error
    finally:
        partial.unlink(missing_ok=True)


def _report(rows: Export, book: Reading, target: Path, *, as_json: bool) -> None:
    """Say what was written: on standard error where the records went to standard output."""
    aside = target == STANDARD
    facts = {"written": rows.written, "left_out": rows.left_out + book.unreadable, "file": str(target)}
    if as_json:
        click.echo(json.dumps(facts), err=aside)
        return
    if not aside or sys.stderr.isatty():
        click.echo(f"{rows.written} records written" + ("" if aside else f" to {target}"), err=aside)
    if facts["left_out"]:
        click.echo(
            f"{facts['left_out']} were left out because they do not verify: `metainf records verify` names them",
            err=True,
        )
