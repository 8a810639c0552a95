"""Turns what trials came to into signed records, each cell once in each state that it reaches.

Knows the book, in which it notes what is told of, and whoever writes records; knows no engine and no plan of its own.
A cell is told of once no further trial of it is planned: complete, failed for good, or given up among noise.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace

import structlog

from node.core.own_records import Compose, Setting
from node.core.strategy import Strategy
from node.core.trial_plan import Cell, Entry, Plan, mark, settled
from node.core.trial_records import outcome_on_wire, records_of
from node.core.workloads import Load
from node.errors import Unavailable
from node.services.trials import Report, Wish, known
from node.trial_ports import Page, TrialBook

log = structlog.get_logger(__name__)

Write = Callable[[Iterable[Compose]], Awaitable[Sequence[object]]]


class TrialSigner:
    """The `keep` of a run of trials. `signed` counts records; `trouble` says why there may be too few of them."""

    def __init__(self, book: TrialBook, setting: Setting, write: Write) -> None:
        """Prepare. `write` makes, keeps and publishes records, and raises Unavailable where the disk refuses."""
        self._book = book
        self._setting = setting
        self._write = write
        self.signed = 0
        self.trouble = ""

    async def __call__(self, plan: Plan, loads: Sequence[Load], entries: Sequence[Entry]) -> None:
        """Write records of what is settled and was not written yet. What fails is tried again at the next run's end."""
        untold = news(self._book.read(), plan, entries)
        composed = [compose for cell in untold for compose in self._records(plan, loads, cell)]
        if not composed:
            return
        try:
            # First the records, then the note: a crash in between writes a cell twice, and the newest of it is kept.
            self.signed += len(await self._write(composed))
            self._book.write_marks([mark(plan, cell) for cell in untold])
        except Unavailable as error:
            self.trouble = error.message
            log.warning("trials.not_written", reason=error.message)

    def _records(self, plan: Plan, loads: Sequence[Load], cell: Cell) -> Iterable[Compose]:
        hardware = self._setting.hardware
        if hardware.platform != "cpu":
            hardware = replace(hardware, count=_devices(cell.strategy))
        setting = replace(self._setting, hardware=hardware)
        return (compose for _, compose in records_of(plan, [cell], loads, setting))


def news(page: Page | None, plan: Plan, entries: Sequence[Entry]) -> list[Cell]:
    """Return the cells that are settled, have something to tell and were not told of in this state."""
    written = page.written if page is not None else frozenset[str]()
    return [
        cell for cell in settled(plan, entries) if outcome_on_wire(cell) is not None and mark(plan, cell) not in written
    ]


def nothing_left(book: TrialBook, wish: Wish, *, model: str) -> Report | None:
    """Return the report where all of a wish is in the book, and all of it was told; None where there is work."""
    page = book.read()
    found = known(page, wish, model=model)
    if found is None or found.report.ended != "complete" or news(page, found.report.plan, found.entries):
        return None
    return found.report


def _devices(strategy: Strategy) -> int:
    """Return how many GPUs an engine under it uses."""
    return (strategy.tensor_parallel or 1) * (strategy.pipeline_parallel or 1)
