"""Own records of this node out of the history's file, as rows: what it measured itself of one model.

Knows the tables, and reads them beside whoever writes; judges nothing. Records are read a page at a time by an index on
their author and opened in the same thread, so that neither the loop nor a writer waits for them, however much of others
the history holds.
"""

from pathlib import Path
from typing import Final

import trio

from node.adapters.store.reader import read_history
from node.core.observation import Row, to_row
from node.record_ports import OWN_ROWS
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.ids import ContentDigest, PeerId
from protocol.performance import PERFORMANCE, Performance
from protocol.records import open_unverified

PAGE: Final = 64  # records opened at once: some ten milliseconds of a thread
SCAN: Final = 4  # times as many records as are wanted are looked through for those of the model


class OwnRecords:
    """Reads own records beside the history. Keeps the port `OwnRows`."""

    def __init__(self, history: Path, own: PeerId) -> None:
        """`history`: the file of a swarm's records. `own`: who this node is."""
        self._history = history
        self._own = own

    async def own_rows(self, model: ContentDigest | None, *, most: int = OWN_ROWS) -> tuple[Row, ...]:
        """See `node.record_ports.OwnRows`."""
        return await trio.to_thread.run_sync(self._read, model, most)

    def _read(self, model: ContentDigest | None, most: int) -> tuple[Row, ...]:
        found: list[Row] = []
        after, left = None, most * SCAN
        with read_history(self._history) as tables:
            while len(found) < most and left > 0:
                page = tables.newest_of(self._own, after=after, most=min(PAGE, left))
                if not page:
                    break
                left, after = left - len(page), page[-1][:2]
                bodies = [body for *_, sealed in page if (body := _opened(sealed)) is not None]
                found += [to_row(body) for body in bodies if model is None or body.model.digest == model]
        return tuple(found[:most])


def _opened(sealed: bytes) -> Performance | None:
    """Return the body of a record that was verified when it was written; None where the disk has changed it."""
    try:
        return open_unverified(sealed, PERFORMANCE)
    except (RemoteProtocolError, LocalProtocolError):
        return None
