"""Which processes of this machine are this node's: those that descend from it, however many there are between.

Reads /proc and knows nothing of what processes do. A process that cannot be seen (it has ended, or lives in another
container) is not called foreign: nobody is to give way to what nobody can name.
"""

import os
from pathlib import Path
from typing import Final

PROC: Final = Path("/proc")
GENERATIONS: Final = 64  # between the node and a process of its engine lie three


def foreign(pid: int, *, proc: Path = PROC, me: int | None = None) -> bool:
    """Tell whether a process is somebody else's. Quick enough for hundreds; from any thread."""
    own = os.getpid() if me is None else me
    for generation in range(GENERATIONS):
        if pid == own:
            return False
        parent = _parent(pid, proc)
        if parent is None:
            return generation > 0  # it was seen, and then its line broke off
        if parent == own:
            return False  # it may be the first process of a container
        if parent <= 1:
            return True
        pid = parent
    return True


def _parent(pid: int, proc: Path) -> int | None:
    try:
        stat = (proc / str(pid) / "stat").read_bytes()
        return int(stat.rpartition(b")")[2].split()[1])  # a program's name, in parentheses, may hold anything
    except (OSError, ValueError, IndexError):
        return None
