"""Evaluations of the meta-learner for people: tables read, methods made, finished folds kept, figures printed.

Knows files, the screen and the learner; knows no running node.
"""

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import click

from node.adapters.parquet import read_table
from node.cli.plots import hold_matplotlib
from node.core.observation import LINE_BYTES, Row, from_line
from node.core.observation_columns import InvalidRow
from node.errors import ConfigError, ExitCode, Unavailable
from node.learner import methods as named
from node.learner import report
from node.learner.evaluate import Fold, NothingToJudge, Task, evaluate
from node.learner.head import Head
from node.learner.objective import InvalidObjective, parse
from node.learner.table import Table
from node.learner.worker import finite

PARQUET: Final = ".parquet"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What somebody asks for.

    Attributes:
        folds: where finished ones are kept; None for nowhere.
        plots: a folder for figures; None for none. curve: draw how it learns as well.
    """

    table: Path
    train: Path | None
    group: str
    objective: str
    methods: str
    seed: int
    folds: Path | None
    plots: Path | None = None
    curve: bool = False


def evaluate_tables(asked: Asked, *, as_json: bool) -> int:
    """Evaluate, and print the report.

    Raises:
        ConfigError: an objective or a method that does not exist, or nothing to judge.
        Unavailable: a file that cannot be read.
    """
    if asked.plots is not None:
        hold_matplotlib()
    names = _names(asked.methods)
    try:
        objective = parse(asked.objective)
    except InvalidObjective as error:
        raise ConfigError(str(error), remedy="see metainf learn evaluate --help") from error
    table = read(asked.table)
    train = None if asked.train is None else read(asked.train)
    makers = {name: maker for name in names if (maker := named.maker(name, replica)) is not None}
    task = Task(
        table=table, train=train, group=asked.group, objective=objective, methods=makers, seed=asked.seed,
        recipe=recipe(),
    )  # fmt: skip
    supported = all(_supports(objective.targets(one.has)) for one in (table, train) if one is not None)
    summary = _judged(asked, task, names) if supported else report.unsupported(names)
    whole = {"table": str(asked.table), "train": None if asked.train is None else str(asked.train),
             "group": asked.group, "objective": objective.name, "seed": asked.seed, **summary}  # fmt: skip
    if as_json:
        click.echo(json_text(whole))
        return ExitCode.OK
    click.echo(f"{asked.table.name}: {objective.name}, {summary['contexts']} contexts with a choice, by {asked.group}")
    if not supported:
        click.echo("The table lacks the columns of this objective.")
    for line in report.lines(summary):
        click.echo(line)
    return ExitCode.OK


def json_text(whole: Mapping[str, Any]) -> str:
    """Return what is printed for machines: JSON, with null where a number is not finite, for which JSON has no word."""
    return json.dumps(finite(whole), allow_nan=False)


def read(path: Path) -> Table:
    """Read an observation table, Parquet or JSON Lines.

    Raises:
        Unavailable: it cannot be read. ConfigError: a row is no row.
    """
    return Table.of_rows(read_rows(path))


def read_rows(path: Path) -> list[Row]:
    """Read the rows of an observation table; raises as `read` does."""
    try:
        rows = list(read_table(path) if path.suffix == PARQUET else _lines(path))
    except InvalidRow as error:
        raise ConfigError(f"{path}: {error}", remedy="Is it an observation table?") from error
    except OSError as error:
        raise Unavailable(f"{path} cannot be read: {error}", remedy="check its permissions") from error
    if not rows:
        raise ConfigError(f"{path} has no rows", remedy="metainf records export writes some")
    return rows


def _lines(path: Path) -> Iterator[Row]:
    with path.open("rb") as file:
        while line := file.readline(LINE_BYTES + 1):
            if line.strip():
                yield from_line(line)


def _judged(asked: Asked, task: Task, names: list[str]) -> dict[str, Any]:
    kept = folds(asked.folds)
    try:
        judged = evaluate(task, time.monotonic, kept, _progress)
    except NothingToJudge as error:
        raise ConfigError(str(error), remedy="choose another --group or --table") from error
    summary = report.report(judged, names)
    if asked.plots is not None:
        _draw(asked.plots, task, summary, kept, curve=asked.curve)
    return summary


def _draw(
    folder: Path, task: Task, summary: Mapping[str, Any], kept: MutableMapping[str, Fold], *, curve: bool
) -> None:
    from node.cli.learn_plots import Drawing, draw  # noqa: PLC0415 -- few want figures

    drawing = Drawing(
        task=task, summary=summary, kept=kept, clock=time.monotonic, progress=_progress, curve=curve
    )  # fmt: skip
    for file in draw(folder, drawing):
        click.echo(f"drawn: {file}", err=True)


def _names(words: str) -> list[str]:
    if words == "all":
        return list(named.NAMES)
    names = [word.strip() for word in words.split(",")]
    for name in names:
        if name not in named.NAMES:
            raise ConfigError(f"there is no method {name!r}", remedy=f"there are {', '.join(named.NAMES)}")
    return names


def _supports(targets: tuple[str, ...]) -> bool:
    return bool(targets)


def replica() -> Head:
    """Return the MetaInf head over the embedder of the extra `learner`."""
    from node.learner.metainf_head import MetaInfHead  # noqa: PLC0415 -- seconds, and gigabytes
    from node.learner.texts import load  # noqa: PLC0415

    return MetaInfHead(embedder=load())


def recipe() -> str:
    """Return a digest of the learner as it is written: what it left behind before a change is not its own."""
    sources = sorted(Path(named.__file__).parent.glob("*.py"))
    return sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()


def _progress(what: str) -> None:
    if sys.stderr.isatty():
        click.echo(f"\r{what:60}", err=True, nl=False)


def folds(folder: Path | None) -> MutableMapping[str, Fold]:
    """Return the place of finished folds: files of a folder; without one, nothing outlives the run."""
    if folder is None:
        return {}
    folder.mkdir(parents=True, exist_ok=True)
    return _Folder(folder)


class _Folder(MutableMapping[str, Fold]):
    """Finished folds, one file each: written beside their place and moved there whole."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __getitem__(self, key: str) -> Fold:
        try:
            found: Any = json.loads(self._file(key).read_text())
        except (OSError, ValueError):
            raise KeyError(key) from None
        return found

    def __setitem__(self, key: str, fold: Fold) -> None:
        beside = self._file(key).with_suffix(f".{os.getpid()}")
        beside.write_text(json.dumps(fold))
        beside.replace(self._file(key))

    def __delitem__(self, key: str) -> None:
        self._file(key).unlink(missing_ok=True)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0

    def _file(self, key: str) -> Path:
        return self._folder / f"{sha256(key.encode()).hexdigest()[:32]}.json"
