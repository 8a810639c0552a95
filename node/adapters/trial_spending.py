"""The spans of time that trials took of the last day: one small file, written whole or not at all.

Keeps the port `node.services.trial_budget.Spending`. Knows the time of day, by which a span outlives the process; knows
nothing of trials. A file that is damaged counts as none, and so does a span that begins in the future.
"""

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import trio

from node import files
from node.clock import wall_us
from node.errors import Unavailable

VERSION = 1
SIZE_LIMIT = 64 << 10  # bytes; a day has some twenty spans
MOST = 256  # spans that are read
MICRO = 1e6


class SpendingFile:
    """Spans in a file, whose folder is made when it is needed."""

    def __init__(self, file: Path, *, wall: Callable[[], int] = wall_us) -> None:
        """Prepare. `wall` is µs since 1970."""
        self._file = file
        self._wall = wall

    async def read(self) -> Sequence[tuple[float, float]]:
        """Return the spans that are kept, in seconds ago. See the port."""
        now = self._wall() / MICRO
        spans = await trio.to_thread.run_sync(self._read)
        # A span that is under way may end in the future: it counts as far as it will go.
        return [(now - began, max(now - ended, 0.0)) for began, ended in spans if began <= now]

    async def write(self, spans: Sequence[tuple[float, float]]) -> None:
        """Keep these in place of the others. See the port."""
        now = self._wall() / MICRO
        plain = {"version": VERSION, "spans": [[now - began, now - ended] for began, ended in spans]}
        await trio.to_thread.run_sync(partial(self._write, json.dumps(plain).encode()))

    def _read(self) -> list[tuple[float, float]]:
        try:
            with self._file.open("rb") as source:
                content = source.read(SIZE_LIMIT + 1)
            plain: Any = json.loads(content) if len(content) <= SIZE_LIMIT else None
            if not isinstance(plain, dict) or plain.get("version") != VERSION:
                return []
            return [(float(began), float(ended)) for began, ended in plain["spans"][:MOST]]
        except (OSError, ValueError, TypeError, KeyError):
            return []

    def _write(self, content: bytes) -> None:
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            files.replace(self._file, content)
        except OSError as error:
            raise Unavailable(
                f"cannot write {self._file}: {error.strerror}", remedy="make room, or choose another --data-dir"
            ) from error
