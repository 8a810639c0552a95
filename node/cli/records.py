"""`metainf records`: the performance records that this node holds, its own and everybody's: looked at, moved, verified.

Works on the history on the disk, beside a running node and without one. What each verb does is imported when it is
asked for: it brings the store and rich along.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

from node.cli.options import common_options, places_of, settings_of
from node.places import Places
from protocol.ids import SwarmId

LISTED: Final = 20  # records: a terminal's height


@click.group()
def records() -> None:
    """Look at the swarm's performance records: list, show, verify, export, import, stats, snapshot.

    They are this node's own and everybody's that it holds. No node needs to run.
    """


def _history_of(data_dir: Path | None, config_file: Path | None) -> tuple[Places, SwarmId]:
    where = places_of(data_dir)
    return where, SwarmId(settings_of(where, config_file).settings.p2p.swarm)


def filters(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say which records are meant."""
    for option in (
        click.option("--origin", type=click.Choice(["trial", "traffic"]), help="How it was measured."),
        click.option("--model", metavar="NAME", help="Of models with this in their name."),
        click.option("--mine", is_flag=True, help="This node's own."),
        click.option("--author", metavar="PEER", help="Of this node: its peer id, or how that ends."),
    ):
        command = option(command)
    return command


def _hold_one_author(author: str | None, *, mine: bool) -> None:
    if author is not None and mine:
        raise click.UsageError("--author and --mine exclude each other")


@records.command("list")
@filters
@click.option("--limit", type=click.IntRange(min=1), default=LISTED, show_default=True, help="How many at most.")
@common_options
def list_records(
    author: str | None,
    mine: bool,
    model: str | None,
    origin: str | None,
    limit: int,
    data_dir: Path | None,
    config_file: Path | None,
    as_json: bool,
) -> None:
    """List records, the newest first, each verified. With --json, one row a line.

    Times are means in milliseconds: to the first token, per token after it, end to end.
    """
    _hold_one_author(author, mine=mine)
    from node.cli.record_listing import show_list  # noqa: PLC0415 -- the quick verbs must not pay for it
    from node.cli.record_reading import Wanted  # noqa: PLC0415 -- likewise

    wanted = Wanted(author=author, mine=mine, model=model, origin=origin, limit=limit)
    show_list(*_history_of(data_dir, config_file), wanted, as_json=as_json)


@records.command("show")
@click.argument("name")
@common_options
def show(name: str, data_dir: Path | None, config_file: Path | None, as_json: bool) -> None:
    """Show everything in the record NAME, as `list` prints names. With --json, its row."""
    from node.cli.record_listing import show_one  # noqa: PLC0415 -- the quick verbs must not pay for it

    show_one(*_history_of(data_dir, config_file), name, as_json=as_json)


@records.command("verify")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@common_options
def verify(names: tuple[str, ...], data_dir: Path | None, config_file: Path | None, as_json: bool) -> int:
    """Verify records: signatures, and whether what they say can be true. Without NAME all, and the proofs of forks.

    Exit code 1 if any fails.
    """
    from node.cli.record_verify import verify_records  # noqa: PLC0415 -- the quick verbs must not pay for it

    return verify_records(*_history_of(data_dir, config_file), names, as_json=as_json)


@records.command("stats")
@common_options
def stats(data_dir: Path | None, config_file: Path | None, as_json: bool) -> int:
    """Count records: by author, model, hardware and origin. Nothing is verified."""
    from node.cli.record_verify import show_stats  # noqa: PLC0415 -- the quick verbs must not pay for it

    return show_stats(*_history_of(data_dir, config_file), as_json=as_json)


@records.command("snapshot")
@click.option("--make", "folder", type=click.Path(exists=True, file_okay=False, path_type=Path), hidden=True)
@click.argument("files", nargs=-1, metavar="", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@common_options
def snapshot(
    folder: Path | None, files: tuple[Path, ...], data_dir: Path | None, config_file: Path | None, as_json: bool
) -> int:
    """Show what metainf ships with: records that a node learns from on its first day, each verified.

    They are not in the history and go to no peer.
    """
    del data_dir, config_file  # what is shipped is the same for every node
    from node.cli.record_snapshot import make_snapshot, show_snapshot  # noqa: PLC0415 -- likewise

    if folder is not None:
        return make_snapshot(files, folder)
    if files:
        raise click.UsageError("it takes no file; `metainf records import` does")
    return show_snapshot(as_json=as_json)


@records.command("export")
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path), default="-")
@click.option("--format", "form", type=click.Choice(["jsonl", "parquet"]), help="Default: by FILE's suffix.")
@click.option("--force", is_flag=True, help="Replace FILE where it exists.")
@filters
@common_options
def export(
    file: Path,
    form: str | None,
    force: bool,
    author: str | None,
    mine: bool,
    model: str | None,
    origin: str | None,
    data_dir: Path | None,
    config_file: Path | None,
    as_json: bool,
) -> int:
    """Write records to FILE as rows of a table, newest first; without FILE as JSON Lines to standard output.

    Each row carries the signed record, so that whoever imports it can verify it.
    """
    _hold_one_author(author, mine=mine)
    from node.cli.record_export import PARQUET, STANDARD, export_records, format_of  # noqa: PLC0415 -- likewise
    from node.cli.record_reading import Wanted  # noqa: PLC0415 -- the quick verbs must not pay for it

    form = format_of(file, form)
    if form == PARQUET and file == STANDARD:
        raise click.UsageError("Parquet is written to a file: name one")
    wanted = Wanted(author=author, mine=mine, model=model, origin=origin)
    return export_records(*_history_of(data_dir, config_file), wanted, file, form, force=force, as_json=as_json)


@records.command("import")
@click.argument(
    "files",
    nargs=-1,
    required=True,
    metavar="FILE...",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path),
)
@common_options
def import_(files: tuple[Path, ...], data_dir: Path | None, config_file: Path | None, as_json: bool) -> int:
    """Take in the records of each FILE: Parquet by its suffix, else JSON Lines; `-` is standard input.

    Each is judged as if a peer had brought it. Exit code 1 if any is rejected but for its age.
    """
    from node.cli.record_import import import_files  # noqa: PLC0415 -- the quick verbs must not pay for it

    return import_files(*_history_of(data_dir, config_file), files, as_json=as_json)
