"""How far a long command is, told on standard error: a bar on a terminal, now and then a plain line elsewhere.

Knows numbers and one verb, and nothing of what is counted.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

PLAIN_EVERY_S: Final = 10.0  # a log is read later: it wants few lines


@contextmanager
def counting(doing: str, total: int | None = None) -> Iterator[Callable[[], None]]:
    """Tell how many are done of `total`, if that is known; each call of what is yielded is one more."""
    done = 0
    console = Console(stderr=True, highlight=False, markup=False)
    of = "" if total is None else f" of {total}"
    if console.is_terminal:
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(doing, total=total)

            def show() -> None:
                nonlocal done
                done += 1
                bar.update(task, completed=done, description=f"{doing}: {done}{of}")

            yield show
        return
    told = time.monotonic()

    def say() -> None:
        nonlocal done, told
        done += 1
        if time.monotonic() - told >= PLAIN_EVERY_S:
            told = time.monotonic()
            click.echo(f"{doing}: {done}{of}", err=True)

    yield say
