"""What replication needs of the world: the history, as a capability. The adapter keeps it, and so does the fake.

Knows no database. `node.ports` is the rest; these are apart because they are as much as that.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol

from node.core.observation import Row
from node.core.own_records import Setting
from protocol.ids import ContentDigest, Epoch, PeerId, RecordName
from protocol.performance import Performance
from protocol.records import Signed, Stamp


class Standing(Enum):
    """What became of one sealed record at the history's door."""

    NEW = "new"
    KNOWN = "known"  # this very one is here already
    FORK = "fork"  # another body under a name that is here: kept as evidence, its author is quarantined
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """One record's fate. `reason` says why it is rejected: a short constant for counters."""

    standing: Standing
    name: RecordName | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """What is held of one author in one epoch.

    Attributes:
        ranges: sequence numbers held, as (first, last), ascending, neither touching nor overlapping; where there are
            more than `protocol.limits` allows, the newest.
        count: records in them.
        digest: 32 bytes: XOR of the SHA-256 of every sealed record in `ranges`.
    """

    author: PeerId
    epoch: Epoch
    ranges: tuple[tuple[int, int], ...]
    count: int
    digest: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryFacts:
    """The history in figures. `rejected` by reason, since the node came up; `bytes` of sealed records.

    `quarantined` authors have forked; one proof is kept of each.
    """

    records: int
    authors: int
    bytes: int
    quarantined: int
    rejected: Mapping[str, int]


class History(Protocol):
    """Every performance record that this node knows. What is said to be in it survives a crash."""

    async def admit(self, sealed: Sequence[bytes], *, via: PeerId | None) -> tuple[Admitted, ...]:
        """Judge records and keep the good ones; returns once they are on the disk, a verdict for each, in order.

        At most `protocol.limits.BATCH_RECORDS` at a time. Verification happens off the loop.

        Args:
            via: the neighbour that brought them; None for our own.

        Raises:
            node.errors.Unavailable: the disk refused; nothing of the batch is kept.
        """
        ...

    async def holdings(self, authors: Collection[PeerId] | None = None) -> tuple[Holding, ...]:
        """Return what is held: of these authors, or of all; by author, the newest epoch first."""
        ...

    async def page(
        self, author: PeerId, epoch: Epoch, ranges: Sequence[tuple[int, int]], *, records: int, size: int
    ) -> tuple[bytes, ...]:
        """Return sealed records of those sequence numbers, newest first, at most so many and so many bytes in all."""
        ...

    def facts(self) -> HistoryFacts:
        """Return the history in figures. Never waits."""
        ...


class OwnHistory(History, Protocol):
    """A history that this node writes records of its own into."""

    async def append(self, compose: Callable[[Stamp], Performance], *, lifetime_us: int) -> Signed[Performance]:
        """Sign what `compose` makes around a new stamp, and keep it; returns once it is on the disk.

        What `compose` raises is raised on, and nothing is kept.

        Raises:
            protocol.errors.LocalProtocolError: the body breaks a rule of its kind.
            node.errors.Unavailable: the disk refused.
        """
        ...


# Rows that are read at once: two months of an hour of trials a day on one load; the newest say most.
OWN_ROWS: Final = 512


class OwnRows(Protocol):
    """What this node measured itself."""

    async def own_rows(self, model: ContentDigest | None, *, most: int = OWN_ROWS) -> Sequence[Row]:
        """Return rows of this node's own records of one model, newest first, of whichever run of the node.

        In the names of the observation tables, outcomes included, without their sealed bytes. Off the loop.

        Args:
            model: None for those of any.

        Raises:
            node.errors.Unavailable: the history cannot be read.
        """
        ...


class Told(Protocol):
    """What records say of machines and models."""

    async def settings_of(self, author: PeerId) -> Sequence[Setting]:
        """Return what an author's newest records were measured on, each once, newest first; raises `Unavailable`."""
        ...
