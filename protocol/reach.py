"""`/metainf/reach/1`: am I reached from where you are? Specification: docs/protocol/reach.md.

Knows no network. The opener names ports alone: the answerer looks at the IP address that the opener is connected from,
dials it at those ports and no other address, and says what it saw. So nobody can be made to knock at a stranger's door.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated, Final, TypeAlias

from protocol import limits
from protocol.dialogue import Role, Script, Turn
from protocol.messages import Vocabulary
from protocol.schema import Int, Items, Text, Unknown, no_unknown

PROTOCOL_ID: Final = "/metainf/reach/1"

_PORT: Final = Int(1, 0xFFFF)
_PORTS: Final = Items(_PORT, limits.REACH_PORTS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """Asks to be dialled.

    Attributes:
        ports: that the opener listens at, or that its router passes on to it.
    """

    ports: Annotated[tuple[int, ...], _PORTS]
    unknown: Unknown = field(default_factory=no_unknown, hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """Says what was seen.

    Attributes:
        host: the IP address that the opener's connection comes from; absent where a relay carries it.
        tried: the ports that were dialled there: none, where the answerer has no time for it now.
        reached: those of them at which the opener proved to be.
    """

    tried: Annotated[tuple[int, ...], _PORTS]
    reached: Annotated[tuple[int, ...], _PORTS]
    host: Annotated[str | None, Text(limits.REACH_HOST_CHARS, r"[0-9a-f.:]+")] = None
    unknown: Unknown = field(default_factory=no_unknown, hash=False)


Message: TypeAlias = Ask | Seen
KINDS: Final[Mapping[str, type[Message]]] = {"ask": Ask, "seen": Seen}


class State(Enum):
    """How far question and answer are."""

    BEGUN = "begun"
    ASKED = "asked"
    ANSWERED = "answered"


SCRIPT: Final[Script[State, Message]] = Script(
    table={
        State.BEGUN: {Ask: Turn(Role.OPENER, State.ASKED)},
        State.ASKED: {Seen: Turn(Role.ANSWERER, State.ANSWERED)},
        State.ANSWERED: {},
    },
    start=State.BEGUN,
    rests=frozenset({State.ANSWERED}),
    vocabulary=Vocabulary(KINDS, limits.REACH),
    limit=limits.REACH_BYTES,
)
