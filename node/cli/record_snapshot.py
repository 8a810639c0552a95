"""`metainf records snapshot`: what metainf ships with, shown; and, for whoever makes a release, made anew.

Knows no running node and no history: records come from files that `metainf records export` wrote.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import click

import node.warm_start
from node.adapters import snapshot_file
from node.cli.record_import import found_in
from node.cli.record_words import moment
from node.core.snapshot import InvalidSnapshot, Summary, digest_of, write_snapshot
from node.errors import ExitCode, NodeError, Unavailable

DIGEST_LINE: Final = "DIGEST: Final = "


def show_snapshot(*, as_json: bool) -> int:
    """Print what is shipped, each record verified; return the exit code."""
    shipped = snapshot_file.read_shipped()
    if shipped is None:
        raise Unavailable(
            f"{snapshot_file.SHIPPED} is not what this version of metainf was made with", remedy="install metainf again"
        )
    if as_json:
        document = {**shipped.summary.to_plain(), "digest": node.warm_start.DIGEST, "file": str(snapshot_file.SHIPPED)}
        click.echo(json.dumps(document, indent=2))
        return ExitCode.OK
    for line in _lines(shipped.summary):
        click.echo(line)
    return ExitCode.OK


def make_snapshot(files: Sequence[Path], folder: Path) -> int:
    """Write a snapshot of the records in these files, and its digest, into the folder of `node.warm_start`.

    Raises:
        NodeError: a file cannot be read, a record of it is not to be shipped, or the disk refused.
    """
    sealed: list[bytes] = []
    for file in files:
        for found in found_in(file):
            if not found.sealed:
                raise NodeError(
                    f"{found.place}: {found.reason}", remedy="export it again with `metainf records export`"
                )
            sealed.append(found.sealed)
    try:
        raw = write_snapshot(sealed)
    except InvalidSnapshot as error:
        raise NodeError(str(error), remedy="leave that record out and make the snapshot again") from error
    module, target = folder / "__init__.py", folder / snapshot_file.SHIPPED.name
    try:
        before = module.read_text().splitlines(keepends=True)
        after = [f'{DIGEST_LINE}"{digest_of(raw)}"\n' if line.startswith(DIGEST_LINE) else line for line in before]
        target.write_bytes(raw)
        module.write_text("".join(after))
    except OSError as error:
        raise Unavailable(f"cannot write {error.filename}: {error.strerror or error}", remedy="name another") from error
    click.echo(f"{len(raw.splitlines()) - 1} records, {len(raw)} bytes, SHA-256 {digest_of(raw)}, in {target}")
    return ExitCode.OK


def _lines(summary: Summary) -> Iterator[str]:
    yield f"file         {snapshot_file.SHIPPED}"
    yield f"records      {summary.records}, all verified" + (
        f"; {summary.dummy} of random weights" * bool(summary.dummy)
    )
    yield f"from         {moment(summary.first_us)}"
    yield f"to           {moment(summary.last_us)}"
    for title, words in (("engine", summary.engines), ("model", summary.models), ("hardware", summary.hardware)):
        yield from (f"{title:<12} {word}" for word in words)
    yield f"platform     {', '.join(summary.platforms)}"
    for signer in summary.signers:
        yield f"signer       {signer.records:>5}  {signer.author}, in {len(signer.epochs)} epochs"
