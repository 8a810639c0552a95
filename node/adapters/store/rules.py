"""What belongs into a history: of which kind and swarm, what is believable, how much is retained.

Knows no database: values that whoever opens a history chooses.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from node.core.retention import Quota
from protocol.ids import SwarmId
from protocol.records import Kind, Signed, Stamped

B = TypeVar("B", bound=Stamped)


def no_objection(_: object) -> None:
    """Believe everything that is signed."""


def one_cell(_: object) -> bytes:
    """Let all records of an author measure the same thing: the newest are retained."""
    return b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules(Generic[B]):
    """What belongs into a history.

    Attributes:
        check: says why a verified record is not believable, as a short constant; None where it is. Pure.
        cell: bytes that are equal for records of one author that measure the same thing; at most 32. Pure.
        quota: how much is retained (`node.core.retention`).
    """

    kind: Kind[B]
    swarm: SwarmId
    check: Callable[[Signed[B]], str | None] = no_objection
    cell: Callable[[Signed[B]], bytes] = one_cell
    quota: Quota = field(default_factory=Quota)
