"""What the learner learns from on the command line: a table, or this node's history; and a brain that has learnt it.

Knows files, the history on the disk and the learner; knows no running node, and keeps nothing of what was learnt.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click
import numpy as np
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from node.adapters.snapshot_file import read_shipped
from node.cli.counting import counting
from node.cli.learning import read_rows
from node.cli.record_reading import Wanted, own_author, reading
from node.core.observation import Row, sealed_of, to_row
from node.core.observation_columns import InvalidRow
from node.errors import ConfigError, Unavailable
from node.learner.brain import MOST_ROWS, Brain
from node.learner.hearing import AUTHOR
from node.learner.objective import NO_PROMISE, InvalidObjective, Objective, Promises, parse
from node.learner.table import Table
from node.learner.trust import Standing
from node.learner.worker import available_heads
from node.places import Places
from protocol.errors import RemoteProtocolError
from protocol.ids import SwarmId
from protocol.performance import PERFORMANCE
from protocol.records import open_unverified, verify_archived

OWN: Final = "own"
KNOWN: Final[Standing] = "known"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What somebody wants learnt from. `contexts`: so many at most, drawn by `seed`; None for all."""

    table: Path | None
    where: Places
    swarm: SwarmId
    contexts: int | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Taught:
    """A brain, what it learnt from, by which heads, and how long that took."""

    brain: Brain
    table: Table
    ranks: dict[str, Standing]
    heads: tuple[str, ...]
    train_s: float
    source: str


def goal_of(words: str, promises: Sequence[str] = ()) -> Objective:
    """Read an objective and what is promised: `ttft_s=0.5`.

    Raises:
        ConfigError: there is no such objective or promise.
    """
    kept: dict[str, float] = {}
    for text in promises:
        name, _, value = text.partition("=")
        if name not in ("ttft_s", "tpot_s", "latency_s"):
            raise ConfigError(f"{text!r} is no promise", remedy="say ttft_s=0.5, tpot_s=0.05 or latency_s=10")
        kept[name] = _seconds(text, value)
    try:
        goal = parse(words, Promises(**kept))
    except InvalidObjective as error:
        raise ConfigError(str(error), remedy="see --help") from error
    if kept and "slo" not in goal.weights:
        raise ConfigError("promises count in the objective slo alone", remedy="add --objective slo")
    return goal


def table_or_nothing(source: Source) -> Table:
    """Read as `table_of` does; of a node that has no records yet nothing, which is said: physics answers then."""
    if source.table is None and not source.where.history_file(source.swarm).exists():
        click.echo("no table, and no history here yet: physics alone answers", err=True)
        return Table.of({})
    return table_of(source)


def table_of(source: Source) -> Table:
    """Read what can be learnt from, repeats apart.

    Raises:
        NodeError: a file that cannot be read, no history, or nothing in it.
    """
    if source.table is not None:
        return Table.of_rows(_believed(read_rows(source.table), source.table), merged=False)
    rows = list(_own_rows(source))
    if not rows:
        raise Unavailable(
            f"the history of the swarm {str(source.swarm)!r} holds no record that is believed",
            remedy="`metainf profile --trials` measures some; --table FILE learns from a file",
        )
    return Table.of_rows(rows, merged=False)


def teach(source: Source, table: Table, goals: Sequence[Objective], *, curves_too: bool) -> Taught:
    """Learn what is asked, as the node's learner does."""
    kept = _drawn(table, source)
    heads, names = available_heads()
    own = own_author(source.where)
    ranks: dict[str, Standing] = {} if own is None else {str(own): OWN}
    if source.table is None and (shipped := read_shipped()) is not None:
        ranks = {**dict.fromkeys(map(str, shipped.authors), KNOWN), **ranks}
    begun = time.monotonic()
    doing = f"learning {', '.join(goal.name for goal in goals)} from {kept.rows} rows"
    with _busy(doing) if kept.rows else nullcontext():
        brain = Brain(make_heads=heads).taught(
            kept, ranks, _learnable(goals), np.random.default_rng(source.seed),
            curves_too=curves_too or any(goal.promises != NO_PROMISE for goal in goals),
        )  # fmt: skip
    return Taught(
        brain=brain, table=kept, ranks=ranks, heads=tuple(names), train_s=time.monotonic() - begun,
        source=str(source.table or f"the history of {source.swarm} and what metainf ships with"),
    )  # fmt: skip


def _drawn(table: Table, source: Source) -> Table:
    if source.contexts is None:
        return table
    drawn = np.random.default_rng(source.seed).permutation(np.unique(table.contexts))[: source.contexts]
    return table.take(np.isin(table.contexts, drawn))


def authors(taught: Taught) -> list[tuple[str, int, float]]:
    """Return each author with rows and credibility, the least credible first."""
    table = taught.table
    names, counts = np.unique([str(name or "") for name in table.words(AUTHOR)], return_counts=True)
    rows = dict(zip(names.tolist(), counts.tolist(), strict=True))
    found = [(author, int(rows.get(author, 0)), worth) for author, worth in taught.brain.credibility.items()]
    return sorted(found, key=lambda each: (each[2], each[0]))


def _learnable(goals: Sequence[Objective]) -> list[Objective]:
    """Return what can be learnt of objectives: promises are kept by forecasts of what was promised."""
    plain = [parse("latency") if goal.promises != NO_PROMISE else goal for goal in goals]
    return list({goal.name: goal for goal in plain}.values())


def _believed(rows: Sequence[Row], file: Path) -> list[Row]:
    """Return observations as they are, and of signed records what their author signed, not what stands beside it.

    Raises:
        ConfigError: nothing is left.
    """
    kept = [found for row in rows if (found := _signed(row)) is not None]
    if left_out := len(rows) - len(kept):
        click.echo(f"{left_out} records of {file} do not verify, and are left out", err=True)
    if not kept:
        raise ConfigError(f"no record of {file} verifies", remedy="have it exported again")
    return kept


def _signed(row: Row) -> Row | None:
    try:
        sealed = sealed_of(row)
        if sealed is None:
            return row
        swarm = open_unverified(sealed, PERFORMANCE).stamp.swarm
        return to_row(verify_archived(sealed, PERFORMANCE, swarm=swarm).body)
    except (InvalidRow, RemoteProtocolError):
        return None


def _own_rows(source: Source) -> Iterator[Row]:
    """Yield the rows of the records that this node believes, newest first, then of those that metainf ships with."""
    held: set[bytes] = set()
    with reading(source.where, source.swarm) as book, counting("reading records", book.tables.totals()[0]) as tick:
        for judged in book.pick(Wanted(limit=MOST_ROWS)):
            tick()
            if judged.body is not None and not (judged.trouble or judged.expired or judged.quarantined):
                held.add(judged.sealed)
                yield to_row(judged.body)
    shipped = read_shipped()
    for signed in () if shipped is None else shipped.records:
        if signed.sealed not in held and len(held) < MOST_ROWS:
            held.add(signed.sealed)
            yield to_row(signed.body)


@contextmanager
def _busy(doing: str) -> Iterator[None]:
    """Say on standard error what takes so long: with its seconds on a terminal, as one line elsewhere."""
    console = Console(stderr=True, highlight=False, markup=False)
    if not console.is_terminal:
        click.echo(doing, err=True)
        yield
        return
    with Progress(SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn(),
                  console=console, transient=True) as bar:  # fmt: skip
        bar.add_task(doing, total=None)
        yield


def _seconds(text: str, value: str) -> float:
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ConfigError(f"{text!r}: a positive number of seconds belongs there", remedy="for example ttft_s=0.5")
    return seconds
