"""The book of trials in memory: `node.trial_ports.TrialBook` without a disk, and without a thread that virtual time
would not wait for. Keeps the same promises but for surviving.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import trio

from node.core.trial_plan import Entry, Session
from node.trial_ports import Page


class FakeBook:
    """Keeps what is written as long as the object lives."""

    def __init__(self) -> None:
        self.page: Page | None = None
        self.reads = 0

    async def read(self) -> Page | None:
        await trio.lowlevel.checkpoint()
        self.reads += 1
        return self.page

    async def begin(self, header: Mapping[str, object]) -> None:
        self.page = Page(header=header, entries=(), took=())

    async def write(self, entries: Sequence[Entry]) -> None:
        page = self._begun()
        self.page = replace(page, entries=(*page.entries, *entries))

    async def write_time(self, session: Session, seconds: float) -> None:
        page = self._begun()
        self.page = replace(page, took=(*page.took, (session, seconds)))

    async def write_marks(self, marks: Sequence[str]) -> None:
        page = self._begun()
        self.page = replace(page, written=page.written.union(marks))

    def _begun(self) -> Page:
        assert self.page is not None, "nothing was begun"
        return self.page
