"""Turns what trials came to into signed records, each cell once in each state that it reaches.

Knows the book, in which it notes what is told of, and whoever writes records; knows no engine and no plan of its own.
A cell is told of once no further trial of it is planned: complete, failed for good, or given up among noise.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace

import structlog

from node.core.own_records import Compose, Setting
from node.core.trial_plan import Cell, Entry, Plan, cells, mark, settled
from node.core.trial_records import outcome_on_wire, records_of
from node.core.workloads import Load
from node.errors import Unavailable
from node.services.trials import Report, Wish, known
from node.trial_ports import Page, TrialBook
from protocol.errors import LocalProtocolError

log = structlog.get_logger(__name__)

Write = Callable[[Iterable[Compose]], Awaitable[Sequence[object]]]

LATE = "there was no time to write all records; the rest follows at the next run's end"


class TrialSigner:
    """The `keep` of a run of trials. `signed` counts records; `trouble` says why there may be too few of them."""

    def __init__(self, book: TrialBook, setting: Setting, write: Write, *, doubted: set[str] | None = None) -> None:
        """Prepare.

        Args:
            write: makes, keeps and publishes records; raises Unavailable where the disk refuses, LocalProtocolError
                for what the wire cannot carry, and leaves out what no peer would believe.
            doubted: gets the marks of cells that `write` left out, and those in it are not tried again. It is not the
                book's: what is asked of records may be another thing after an update.
        """
        self._book = book
        self._setting = setting
        self._write = write
        self._doubted = doubted if doubted is not None else set[str]()
        self.signed = 0
        self.trouble = ""

    async def __call__(
        self, plan: Plan, loads: Sequence[Load], entries: Sequence[Entry], written: frozenset[str]
    ) -> None:
        """Write records of what is settled and was not written yet. What fails is tried again at the next run's end."""
        self.trouble, trouble = LATE, ""  # for whoever looks after this was broken off
        for cell in news(written | self._doubted, plan, entries):
            try:
                trouble = await self._tell_of(plan, loads, cell) or trouble
            except Unavailable as error:
                log.warning("trials.not_written", reason=error.message)
                trouble = error.message
                break
        self.trouble = trouble

    async def _tell_of(self, plan: Plan, loads: Sequence[Load], cell: Cell) -> str:
        """Write a cell's record, then the note of it; return what is wrong with the cell, if anything.

        One cell at a time: what is kept is counted and noted, whatever becomes of the next. A crash between the record
        and the note writes a cell twice, and the newest of it is kept.
        """
        name, trouble = mark(plan, cell), ""
        try:
            kept = len(await self._write(self._records(plan, loads, cell)))
        except LocalProtocolError as error:
            # No later run would fare better with the same figures, and each would take the engine away for it.
            log.warning("trials.unsayable", strategy=cell.strategy.name, load=cell.load, reason=str(error))
            trouble = f"{cell.strategy.name} under {cell.load} is not for records: {error}"
        else:
            self.signed += kept
            if not kept:
                self._doubted.add(name)
                return f"{cell.strategy.name} under {cell.load} came to what no peer would believe"
        await self._book.write_marks([name])
        return trouble

    def _records(self, plan: Plan, loads: Sequence[Load], cell: Cell) -> list[Compose]:
        hardware = self._setting.hardware
        if hardware.platform != "cpu":
            hardware = replace(hardware, count=cell.strategy.devices)
        setting = replace(self._setting, hardware=hardware)
        return [compose for _, compose in records_of(plan, [cell], loads, setting)]


def news(written: AbstractSet[str], plan: Plan, entries: Sequence[Entry]) -> list[Cell]:
    """Return the cells that are settled, have something to tell and were not told of in this state.

    A failure is told of once some strategy came through the same load: where none does, it is no strategy's fault.
    """
    passable = {cell.load for cell in cells(plan, entries) if cell.count}
    return [
        cell
        for cell in settled(plan, entries)
        if outcome_on_wire(cell) is not None
        and (cell.count or cell.load in passable)
        and mark(plan, cell) not in written
    ]


def nothing_left(
    page: Page | None, wish: Wish, *, model: str, doubted: AbstractSet[str] = frozenset()
) -> Report | None:
    """Return the report where all of a wish is in the book and was told, or is doubted; None where there is work."""
    found = known(page, wish, model=model)
    if page is None or found is None or found.report.ended != "complete":
        return None
    return None if news(page.written | doubted, found.report.plan, found.entries) else found.report
