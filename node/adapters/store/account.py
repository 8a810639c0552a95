"""The account of what was used and owed, in one sqlite file of its own: a line for each day and peer.

Apart from the history: that is the swarm's, is passed on, and may be set aside with all that is in it; this concerns
nobody else. Knows no prices. The file is opened for each reading and writing, of which there is one in ten seconds.
"""

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

import structlog
import trio

from node.adapters.store.database import Damaged, Database
from node.core.spending import DAYS, FIELDS, MOST, PEERS, REST, Kept, Line, Who
from node.errors import Unavailable
from protocol.ids import InvalidId, PeerId

NAME: Final = "account.sqlite"
_REST: Final = ""  # in the column of names
MOST_LINES: Final = DAYS * (PEERS + 1)
_STEPS: Final = (
    (
        "CREATE TABLE account ("
        "day INTEGER NOT NULL, peer TEXT NOT NULL, "
        "used_requests INTEGER NOT NULL, used_input INTEGER NOT NULL, used_output INTEGER NOT NULL, "
        "used_device_us INTEGER NOT NULL, owed_micro INTEGER NOT NULL, "
        "lent_requests INTEGER NOT NULL, lent_tokens INTEGER NOT NULL, "
        "lent_device_us INTEGER NOT NULL, due_micro INTEGER NOT NULL, "
        "PRIMARY KEY (day, peer)) STRICT, WITHOUT ROWID",
    ),
)
# Columns in the order of `FIELDS`.
_READ: Final = "SELECT * FROM account WHERE day >= ? ORDER BY day DESC LIMIT ?"
_WRITE: Final = "INSERT OR REPLACE INTO account VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_FORGET: Final = "DELETE FROM account WHERE day < ?"

log = structlog.get_logger(__name__)


class AccountFile:
    """Keeps the port `node.services.keep_account.Store`."""

    def __init__(self, file: Path) -> None:
        """`file`: made, with its folder, when it is needed."""
        self._file = file

    async def read(self, *, first_day: int) -> Sequence[Kept]:
        """See the port. A file that is damaged is set aside: its sums are lost, and nothing else."""
        return await trio.to_thread.run_sync(self._read, first_day)

    async def write(self, lines: Sequence[Kept], *, first_day: int) -> None:
        """See the port."""
        await trio.to_thread.run_sync(partial(self._write, lines, first_day))

    def _read(self, first_day: int) -> list[Kept]:
        if not self._file.exists():
            return []
        try:
            with self._open() as database:
                rows = database.rows(_READ, first_day, MOST_LINES)
            return [_kept(*row) for row in rows]
        except Damaged as error:
            self._set_aside(error)
            return []

    def _write(self, lines: Sequence[Kept], first_day: int) -> None:
        try:
            self._put(lines, first_day)
        except Damaged as error:
            self._set_aside(error)
            self._put(lines, first_day)

    def _put(self, lines: Sequence[Kept], first_day: int) -> None:
        with self._open() as database, database.transaction():
            for day, peer, line in lines:
                database.rows(_WRITE, day, _name(peer), *(getattr(line, name) for name in FIELDS))
            database.rows(_FORGET, first_day)

    def _open(self) -> Database:
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            return Database(self._file, steps=_STEPS)
        except Damaged:
            raise
        except (OSError, Unavailable) as error:
            raise Unavailable(
                f"the account in {self._file} cannot be read or written: {error}",
                remedy="look whether the disk is full or read-only; `metainf doctor` says what it sees",
            ) from error

    def _set_aside(self, error: Damaged) -> None:
        aside = self._file.with_name(self._file.name + ".damaged")
        log.warning("account.damaged", reason=error.message, set_aside=str(aside))
        try:
            self._file.replace(aside)
        except OSError as refused:
            raise Unavailable(f"{self._file} is damaged and cannot be moved: {refused}") from refused
        for rest in ("-wal", "-shm"):
            with suppress(OSError):
                self._file.with_name(self._file.name + rest).unlink()


def _name(peer: Who) -> str:
    return _REST if peer is REST else str(peer)


def _kept(day: int, name: str, *sums: int) -> Kept:
    """Return a line; one whose name the disk has changed is the rest's."""
    try:
        peer = REST if name == _REST else PeerId.from_string(name)
    except InvalidId:
        peer = REST
    return day, peer, Line(**{name: min(max(each, 0), MOST) for name, each in zip(FIELDS, sums, strict=True)})
