"""The port `History` over the shelf: every call goes to one thread at a time, so that the loop never waits for a disk.

Knows no table and no rule. Callers queue in the order in which they came; each holds what it asked for, and that
is bounded by the wire. A call that has begun is not abandoned when its caller is cancelled: it ends with its disk.
"""

from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Generic, TypeVar

import structlog
import trio

from node.adapters.store.database import Damaged
from node.adapters.store.pen import Pen
from node.adapters.store.rules import Rules
from node.adapters.store.salvage import open_shelf
from node.adapters.store.shelf import Shelf
from node.adapters.store.tables import Listed, Query
from node.record_ports import Admitted, HistoryFacts, Holding
from protocol import limits
from protocol.errors import LocalProtocolError
from protocol.ids import Epoch, PeerId
from protocol.records import Fork, Signed, Stamp, Stamped

log = structlog.get_logger(__name__)

B = TypeVar("B", bound=Stamped)
T = TypeVar("T")

LISTED: int = 200  # records in one page of a listing


class StoredHistory(Generic[B]):
    """Every record that this node knows, on the disk. Keeps the port `History`. Come by with `open_history`."""

    def __init__(self, shelf: Shelf[B], reopen: Callable[[], Shelf[B]]) -> None:
        self._shelf: Shelf[B] | None = shelf  # None while what was found damaged cannot be opened anew
        self._reopen = reopen
        self._facts = shelf.facts
        self._turn = trio.CapacityLimiter(1)

    async def admit(self, sealed: Sequence[bytes], *, via: PeerId | None) -> tuple[Admitted, ...]:
        """See `node.record_ports.History`."""
        if len(sealed) > limits.BATCH_RECORDS:
            raise LocalProtocolError(f"{len(sealed)} records where {limits.BATCH_RECORDS} may come at once")
        batch = tuple(sealed)
        return await self._do(lambda shelf: shelf.admit(batch, via=via))

    async def append(self, compose: Callable[[Stamp], B], *, lifetime_us: int) -> Signed[B]:
        """Write a record of our own: `compose` makes the body around the stamp that it gets.

        Returns once the record is on the disk. Its name was never given before and will never be again.

        Raises:
            LocalProtocolError: there is no pen, or the body breaks a rule of its kind.
            node.errors.Unavailable: the disk refused; nothing is kept.
        """
        return await self._do(lambda shelf: shelf.append(compose, lifetime_us=lifetime_us))

    async def holdings(self, authors: Collection[PeerId] | None = None) -> tuple[Holding, ...]:
        """See `node.record_ports.History`."""
        return await self._do(lambda shelf: shelf.holdings(authors))

    async def page(
        self, author: PeerId, epoch: Epoch, ranges: Sequence[tuple[int, int]], *, records: int, size: int
    ) -> tuple[bytes, ...]:
        """See `node.record_ports.History`."""
        head = author.key, epoch.start_us
        return await self._do(lambda shelf: shelf.page(head, ranges, records=records, size=size))

    async def browse(self, query: Query, *, most: int = LISTED) -> tuple[Listed, ...]:
        """Return a page of records, newest first; the next page begins `after` the last one's `place`."""
        return await self._do(lambda shelf: shelf.browse(query, most=most))

    async def forks(self, *, most: int = LISTED) -> tuple[Fork, ...]:
        """Return proofs of forks, the latest first: one for each author in quarantine."""
        return await self._do(lambda shelf: shelf.forks(most=most))

    def facts(self) -> HistoryFacts:
        """See `node.record_ports.History`."""
        return self._facts

    async def close(self) -> None:
        """Close the file when the calls under way are done."""
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._close, limiter=self._turn)

    async def _do(self, ask: Callable[[Shelf[B]], T]) -> T:
        return await trio.to_thread.run_sync(self._ask, ask, limiter=self._turn)

    def _ask(self, ask: Callable[[Shelf[B]], T]) -> T:
        shelf = self._shelf or self._open()
        try:
            return ask(shelf)
        except Damaged as error:
            log.error("history.damaged", reason=error.message)  # noqa: TRY400 - the trace says no more
            self._close()
            shelf = self._open()
            return ask(shelf)
        finally:
            self._facts = shelf.facts

    def _open(self) -> Shelf[B]:
        self._shelf = self._reopen()
        return self._shelf

    def _close(self) -> None:
        if self._shelf is not None:
            self._shelf.close()
        self._shelf = None


@asynccontextmanager
async def open_history(
    file: Path, rules: Rules[B], *, now_us: Callable[[], int], pen: Pen[B] | None = None
) -> AsyncIterator[StoredHistory[B]]:
    """Open the history, or make it; closed when the block is left.

    Args:
        now_us: the wall clock, microseconds since 1970; called in another thread.
        pen: for records of our own; None where there will be none.

    Raises:
        node.errors.Unavailable: the file system refused, or a newer version of this program made the file.
    """

    def reopen() -> Shelf[B]:
        return open_shelf(file, rules, now_us=now_us, pen=pen)

    history = StoredHistory(await trio.to_thread.run_sync(reopen), reopen)
    try:
        yield history
    finally:
        await history.close()
