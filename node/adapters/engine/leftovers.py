"""Finding and ending engine processes that lost their guardian.

Knows `/proc` and the two marks that an engine and all its children carry: a variable of their environment and
their working folder. Both, because either can be lost: a program that renames itself may write over its
environment, and one may change its folder. Touches processes of the same user only.
"""

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import trio

TAG_VARIABLE = "METAINF_ENGINE"
ENVIRONMENT_LIMIT = 1 << 20  # bytes read of one environment; the mark is put first
KILL_ROUNDS = 100  # rounds of SIGKILL before giving up on what does not end
KILL_PAUSE = 0.02  # s between rounds


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """What an engine's processes are known by.

    Attributes:
        tag: the value of `METAINF_ENGINE`, or the part of it before a dot: a data folder's tag finds every
            engine of that folder, a launch's own tag only that one.
        folder: an engine's working folder, or the folder that holds those of several.
    """

    tag: str
    folder: Path

    def fits(self, tag: str | None, folder: str | None) -> bool:
        """Whether a process with this variable and this working folder belongs to the mark."""
        tagged = tag is not None and (tag == self.tag or tag.startswith(f"{self.tag}."))
        # The kernel appends this to the name of a folder that was removed under its process.
        where = (folder or "").removesuffix(" (deleted)")
        return tagged or where == str(self.folder) or where.startswith(f"{self.folder}/")


def find(mark: Mark) -> list[int]:
    """Return the processes that carry the mark, but for this one."""
    return [pid for pid in _own_processes() if mark.fits(_tag_of(pid), _folder_of(pid))]


async def end(mark: Mark) -> int:
    """SIGKILL every process that carries the mark until none is left; return how many there were.

    Gives up after two seconds on those that even SIGKILL does not end. Cancelled between rounds.
    """
    seen: set[int] = set()
    for _ in range(KILL_ROUNDS):
        found = find(mark)
        if not found:
            break
        seen.update(found)
        for pid in found:
            _kill(pid)
        await trio.sleep(KILL_PAUSE)
    return len(seen)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _own_processes() -> Iterator[int]:
    me, user = os.getpid(), os.getuid()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != me:
            try:
                if entry.stat().st_uid == user and _alive(entry):
                    yield int(entry.name)
            except OSError:
                continue  # ended since the listing


def _alive(entry: Path) -> bool:
    return (entry / "stat").read_bytes().rpartition(b") ")[2][:1] not in b"ZX"


def _tag_of(pid: int) -> str | None:
    try:
        with Path(f"/proc/{pid}/environ").open("rb") as file:
            variables = file.read(ENVIRONMENT_LIMIT).split(b"\0")
    except OSError:
        return None
    wanted = f"{TAG_VARIABLE}=".encode()
    for variable in variables:
        if variable.startswith(wanted):
            return variable.removeprefix(wanted).decode(errors="replace")
    return None


def _folder_of(pid: int) -> str | None:
    try:
        return str(Path(f"/proc/{pid}/cwd").readlink())
    except OSError:
        return None
