"""What learning needs of the world, as capabilities: a learner that answers, and lessons written out of the history.

Knows no process, no file's format and no table. `node.ports` is the rest; these are apart because only learning uses
them.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from node.core.snapshot import Snapshot
from protocol.ids import PeerId

Said = Mapping[str, Any]  # a message of the learner: plain values, of which nothing is certain


class Learner(Protocol):
    """Whatever learns and answers. It may be down, slow or mad at any time."""

    async def ask(self, do: str, **what: object) -> Said:
        """Ask one question and return its answer; ends by itself in time.

        Raises:
            node.errors.Unavailable: it is down, busy, dumb, died over it, or refuses the question.
        """
        ...

    def renew(self, reason: str) -> None:
        """End it and start another in its place, which knows nothing."""
        ...


# Keeps a learner for a block. What it says unasked is handed over as it comes: {"event": "ready"} when it can be asked,
# "trained" or "failed" at the end of each lesson, "ended" when it died; it is started again by itself.
LearnerOpener = Callable[[Callable[[Said], None]], AbstractAsyncContextManager[Learner]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Authors:
    """Who is who among the authors of records.

    Attributes:
        known: those who proved to be of use.
        shunned: those of whom nothing is learnt.
    """

    own: PeerId
    known: frozenset[PeerId] = frozenset()
    shunned: frozenset[PeerId] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """Records to learn from, in a file of JSON Lines.

    Attributes:
        records: in it; `own` of them this node's, `shipped` of them those that metainf came with.
        authors: how many.
    """

    path: Path
    records: int
    own: int
    authors: int
    shipped: int = 0


class Lessons(Protocol):
    """Writes lessons out of the history. There is one at a time."""

    async def write(self, authors: Authors, *, most: int) -> Lesson:
        """Write the records that count most, at most so many: own ones, then known authors', then the newest.

        Cancelled, it leaves nothing behind.

        Raises:
            node.errors.Unavailable: the history cannot be read, or the disk refused.
        """
        ...

    async def remove(self) -> None:
        """Remove the lesson, if there is one."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerHands:
    """What a node can do about learning.

    Attributes:
        lacking: what is not installed and needed to answer at all, and what to learn; empty where all is there.
        shipped: records that metainf came with, which lessons have beside the history's; None where there are none.
    """

    open: LearnerOpener
    lessons: Lessons
    lacking_to_answer: str = ""
    lacking_to_learn: str = ""
    shipped: Snapshot | None = None
