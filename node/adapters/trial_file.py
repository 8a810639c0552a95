"""The book of trials: one file of JSON Lines that only grows, so that a run may be broken off at any moment.

Keeps the port `TrialBook`. Knows how entries are written as lines; knows nothing of what they mean. A last line that
a crash tore is left out; a file that cannot be read at all, or that has grown too large to be, counts as none. The disk
is waited for in a thread.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import trio

from node.core.strategy import InvalidStrategy, from_plain, to_plain
from node.core.trial_outcome import NotATrial
from node.core.trial_outcome import from_plain as outcome_from_plain
from node.core.trial_outcome import to_plain as outcome_to_plain
from node.core.trial_plan import Entry, Failure, Session
from node.errors import Unavailable
from node.trial_ports import Page

VERSION = 1  # of the file's lines
SIZE_LIMIT = 16 << 20  # bytes; a run of a day has some megabytes, and reading these takes a core for a second


class TrialFile:
    """A book in a file, whose folder is made when it is needed."""

    def __init__(self, file: Path) -> None:
        self._file = file

    async def read(self) -> Page | None:
        """Return what is kept. See the port."""
        return await trio.to_thread.run_sync(self._read)

    async def begin(self, header: Mapping[str, object]) -> None:
        """Start a new run. See the port."""
        await _whole(partial(self._begin, header))

    async def write(self, entries: Sequence[Entry]) -> None:
        """Add trials. See the port."""
        await self._add([{"entry": _entry_plain(entry)} for entry in entries])

    async def write_time(self, session: Session, seconds: float) -> None:
        """Add how long a session took. See the port."""
        plain = {"strategy": to_plain(session.strategy), "loads": session.loads, "attempt": session.attempt}
        await self._add([{"session": plain, "seconds": seconds}])

    async def write_marks(self, marks: Sequence[str]) -> None:
        """Note what is told of in records. See the port."""
        await self._add([{"written": list(marks)}])

    async def _add(self, messages: Sequence[Mapping[str, Any]]) -> None:
        await _whole(partial(self._append, messages))

    # --- in a thread

    def _read(self) -> Page | None:
        try:
            with self._file.open("rb") as source:
                content = source.read(SIZE_LIMIT + 1)
        except OSError:
            return None
        if len(content) > SIZE_LIMIT:
            return None  # to be put aside: read in part, it would have its end tried again for ever
        lines = content.split(b"\n")[:-1]  # without its newline, a line is torn
        messages = [message for line in lines if (message := _message(line)) is not None]
        if not messages or messages[0].get("version") != VERSION:
            return None
        header = messages[0].get("header")
        if not isinstance(header, dict):
            return None
        entries = [entry for message in messages if (entry := _entry(message)) is not None]
        took = [time for message in messages if (time := _time(message)) is not None]
        written = frozenset(mark for message in messages for mark in _marks(message))
        return Page(header=header, entries=tuple(entries), took=tuple(took), written=written)

    def _begin(self, header: Mapping[str, object]) -> None:
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            if self._file.exists():
                self._file.replace(self._file.with_name(f"{self._file.name}.last"))
        except OSError as error:
            raise _refused(self._file, error) from error
        self._append([{"version": VERSION, "header": header}])

    def _append(self, messages: Sequence[Mapping[str, Any]]) -> None:
        try:
            torn = self._file.exists() and self._file.stat().st_size > 0 and not _ends_whole(self._file)
            with self._file.open("a", encoding="utf-8") as out:
                out.write("\n" if torn else "")
                out.writelines(json.dumps(message) + "\n" for message in messages)
        except OSError as error:
            raise _refused(self._file, error) from error


async def _whole(job: Callable[[], None]) -> None:
    """Have it done in a thread, even where whoever asks is being cancelled: then above all the book is to be right."""
    with trio.CancelScope(shield=True):
        await trio.to_thread.run_sync(job)


def _ends_whole(file: Path) -> bool:
    with file.open("rb") as source:
        source.seek(-1, 2)
        return source.read(1) == b"\n"


def _refused(file: Path, error: OSError) -> Unavailable:
    return Unavailable(f"cannot write {file}: {error.strerror}", remedy="make room, or choose another --data-dir")


def _message(line: bytes) -> dict[str, Any] | None:
    try:
        message = json.loads(line)
    except ValueError:
        return None
    return message if isinstance(message, dict) else None


def _entry_plain(entry: Entry) -> dict[str, Any]:
    failure = entry.failure
    return {
        "strategy": to_plain(entry.strategy),
        "load": entry.load,
        "attempt": entry.attempt,
        "outcome": None if entry.outcome is None else outcome_to_plain(entry.outcome),
        "failure": None if failure is None else {"kind": failure.kind, "reason": failure.reason, "load": failure.load},
        "discarded": entry.discarded,
    }


def _entry(message: Mapping[str, Any]) -> Entry | None:
    plain = message.get("entry")
    if plain is None:
        return None
    try:
        return Entry(
            strategy=from_plain(plain["strategy"]),
            load=plain["load"],
            attempt=int(plain["attempt"]),
            outcome=None if plain["outcome"] is None else outcome_from_plain(plain["outcome"]),
            failure=None if plain["failure"] is None else Failure(**plain["failure"]),
            discarded=str(plain["discarded"]),
        )
    except (KeyError, TypeError, ValueError, InvalidStrategy, NotATrial):
        return None  # of another version, or damaged: it will be tried again


def _marks(message: Mapping[str, Any]) -> list[str]:
    plain = message.get("written")
    return [mark for mark in plain if isinstance(mark, str)] if isinstance(plain, list) else []


def _time(message: Mapping[str, Any]) -> tuple[Session, float] | None:
    plain = message.get("session")
    if plain is None:
        return None
    try:
        session = Session(
            strategy=from_plain(plain["strategy"]), loads=tuple(plain["loads"]), attempt=int(plain["attempt"])
        )
        return session, float(message["seconds"])
    except (KeyError, TypeError, ValueError, InvalidStrategy):
        return None
