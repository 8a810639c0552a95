"""What an author's newest records were measured on, out of the history's file: its machine, and the models that it ran.

Knows the tables, and reads them beside whoever writes; judges nothing. A few records are read by an index on their
author and opened in a thread.
"""

from pathlib import Path
from typing import Final

import trio

from node.adapters.store.reader import read_history
from node.core.own_records import Setting
from node.core.peer_cells import setting_of
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.ids import PeerId
from protocol.performance import PERFORMANCE
from protocol.records import open_unverified

NEWEST: Final = 8  # records of an author: a machine's models of late; two milliseconds of a thread


class ToldSettings:
    """Reads settings beside the history. Keeps the port `node.record_ports.Told`."""

    def __init__(self, history: Path) -> None:
        """`history`: the file of a swarm's records."""
        self._history = history

    async def settings_of(self, author: PeerId) -> tuple[Setting, ...]:
        """See the port; nothing of whom a fork proves to be no single author.

        Raises:
            node.errors.Unavailable: the history cannot be read.
        """
        return await trio.to_thread.run_sync(self._read, author)

    def _read(self, author: PeerId) -> tuple[Setting, ...]:
        found: dict[Setting, None] = {}
        with read_history(self._history) as tables:
            if tables.quarantined(author):
                return ()
            sealed = [record for *_, record in tables.newest_of(author, most=NEWEST)]
        for record in sealed:
            try:
                found[setting_of(open_unverified(record, PERFORMANCE))] = None
            except (RemoteProtocolError, LocalProtocolError):
                continue  # verified when it was written: the disk has changed it
        return tuple(found)
