"""What a node can do about learning: its learner's process and its lessons, put together.

Knows no settings and no service; looks what is installed to learn with, and imports nothing of it.
"""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from node.adapters.learner_child import REMEDY, ChildSetup, LearnerChild, open_learner
from node.adapters.store.lesson import LessonFile
from node.core.snapshot import Snapshot
from node.learner_ports import LearnerHands, Said


def learner_hands(history: Path, *, memory_bytes: int, shipped: Snapshot | None = None) -> LearnerHands:
    """Return them for a history's file, and for what metainf came with."""
    return LearnerHands(
        open=partial(_open, memory_bytes),
        lessons=LessonFile(history, shipped=shipped),
        lacking_to_answer=_lacking("numpy", "scipy"),
        lacking_to_learn=_lacking("lightgbm"),
        shipped=shipped,
    )


def _open(memory_bytes: int, hear: Callable[[Said], None]) -> AbstractAsyncContextManager[LearnerChild]:
    return open_learner(ChildSetup(memory_bytes=memory_bytes, hear=hear))


def _lacking(*packages: str) -> str:
    gone = [name for name in packages if find_spec(name) is None]
    return f"not installed: {', '.join(gone)}. {REMEDY}" if gone else ""
