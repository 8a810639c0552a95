"""Knowing what peers' machines can do and what their models are: their own signed records, read one author at a time.

Knows no learner and no advert: who is in the swarm goes in, what their records say goes into `Known`, by which adverts
become questions (`node.services.foretell`). An author takes a thread a few milliseconds, and nobody waits for it.
"""

from collections.abc import Callable, Sequence
from math import inf
from typing import Final, Protocol

import structlog
import trio

from node.core.own_records import Setting
from node.core.peer_cells import BELIEVED, OTHERS, Known
from node.errors import Unavailable
from node.learner_ports import Authors
from node.record_ports import Told
from protocol.ids import PeerId

log = structlog.get_logger(__name__)

REREAD: Final = 1800.0  # s after which an author's records are read again
PATIENCE: Final = 10.0  # s for reading one author's
GAP: Final = 0.1  # s between two authors
LOOK: Final = 15.0  # s between looks at who is there


class Book(Protocol):
    """Who is in the swarm (`node.core.peerbook`)."""

    def members(self, now: float) -> tuple[PeerId, ...]:
        """Return everybody."""
        ...

    def connections(self) -> frozenset[PeerId]:
        """Return who is connected."""
        ...


class MachineReader:
    """Keeps `Known` up to date. `run` is its one long-lived task."""

    def __init__(
        self,
        told: Told,
        known: Known,
        *,
        book: Book,
        authors: Callable[[], Authors],
        changed: Callable[[], None],
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        """Prepare.

        Args:
            authors: who is who now: whose records count more, and whose nothing.
            changed: called when something else is known.
        """
        self._told = told
        self._known = known
        self._book = book
        self._authors = authors
        self._changed = changed
        self._clock = clock
        self._read_at: dict[PeerId, float] = {}  # of members

    async def run(self) -> None:
        """Read whoever is due; return never."""
        version = self._known.version
        while True:
            for author in self._due():
                await self._read(author)
                await trio.sleep(GAP)
            if self._known.version != version:
                version = self._known.version
                self._changed()
            await trio.sleep(LOOK)

    def _due(self) -> list[PeerId]:
        """Return whose records are to be read now: those never read come first, of these the ones connected."""
        now, near = self._clock(), self._book.connections()
        members = self._book.members(now)
        here = frozenset(members)
        self._read_at = {author: at for author, at in self._read_at.items() if author in here}
        due = [author for author in members if now >= self._read_at.get(author, -inf) + REREAD]
        return sorted(due, key=lambda author: (author in self._read_at, author not in near))

    async def _read(self, author: PeerId) -> None:
        self._read_at[author] = self._clock()
        authors = self._authors()
        if author in authors.shunned:
            self._known.forget(author)
            return
        settings: Sequence[Setting] = ()
        with trio.move_on_after(PATIENCE):
            try:
                settings = await self._told.settings_of(author)
            except Unavailable as error:
                log.debug("machines.unread", author=str(author), reason=str(error))
        if settings:
            self._known.hear(author, settings, BELIEVED if author in authors.known else OTHERS)
