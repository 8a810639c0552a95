"""What is kept of the account, in memory: the port `node.services.keep_account.Store` without a disk."""

from collections.abc import Sequence

import trio

from node.core.spending import Kept, Key, Line
from node.errors import Unavailable


class FakeAccountStore:
    """Keeps lines as long as the object lives; `full`: the disk refuses."""

    def __init__(self) -> None:
        self.lines: dict[Key, Line] = {}
        self.writes = 0
        self.full = False

    async def read(self, *, first_day: int) -> Sequence[Kept]:
        await trio.lowlevel.checkpoint()
        self._look()
        return [(*key, line) for key, line in self.lines.items() if key[0] >= first_day]

    async def write(self, lines: Sequence[Kept], *, first_day: int) -> None:
        await trio.lowlevel.checkpoint()
        self._look()
        self.writes += 1
        self.lines |= {(day, peer): line for day, peer, line in lines}
        self.lines = {key: line for key, line in self.lines.items() if key[0] >= first_day}

    def _look(self) -> None:
        if self.full:
            raise Unavailable("the disk is full")
