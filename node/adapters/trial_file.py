"""The book of trials: one file of JSON Lines that only grows, so that a run may be broken off at any moment.

Keeps the port `TrialBook`. Knows how entries are written as lines; knows nothing of what they mean. A last line that
a crash tore is left out; a file that cannot be read at all counts as none.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from node.core.strategy import InvalidStrategy, from_plain, to_plain
from node.core.trial_outcome import NotATrial
from node.core.trial_outcome import from_plain as outcome_from_plain
from node.core.trial_outcome import to_plain as outcome_to_plain
from node.core.trial_plan import Entry, Failure, Session
from node.errors import Unavailable
from node.trial_ports import Page

VERSION = 1  # of the file's lines
SIZE_LIMIT = 64 << 20  # bytes read; a run of a day has some megabytes


class TrialFile:
    """A book in a file, whose folder is made when it is needed."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def read(self) -> Page | None:
        """Return what is kept. See the port."""
        try:
            with self._file.open("rb") as source:
                lines = source.read(SIZE_LIMIT).split(b"\n")[:-1]  # without its newline, a line is torn
        except OSError:
            return None
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

    def begin(self, header: Mapping[str, object]) -> None:
        """Start a new run. See the port."""
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            if self._file.exists():
                self._file.replace(self._file.with_name(f"{self._file.name}.last"))
        except OSError as error:
            raise _refused(self._file, error) from error
        self._append([{"version": VERSION, "header": header}])

    def write(self, entries: Sequence[Entry]) -> None:
        """Add trials. See the port."""
        self._append([{"entry": _entry_plain(entry)} for entry in entries])

    def write_time(self, session: Session, seconds: float) -> None:
        """Add how long a session took. See the port."""
        plain = {"strategy": to_plain(session.strategy), "loads": session.loads, "attempt": session.attempt}
        self._append([{"session": plain, "seconds": seconds}])

    def write_marks(self, marks: Sequence[str]) -> None:
        """Note what is told of in records. See the port."""
        self._append([{"written": list(marks)}])

    def _append(self, messages: Sequence[Mapping[str, Any]]) -> None:
        try:
            torn = self._file.exists() and self._file.stat().st_size > 0 and not _ends_whole(self._file)
            with self._file.open("a", encoding="utf-8") as out:
                out.write("\n" if torn else "")
                out.writelines(json.dumps(message) + "\n" for message in messages)
        except OSError as error:
            raise _refused(self._file, error) from error


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
