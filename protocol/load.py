"""How busy a node is now: figures that ride on its answers, and `/metainf/load/1` to ask for them.

Specification: docs/protocol/load.md. Knows no engine and no clock: when figures came is for whoever keeps them.
Load changes with every prompt; that is why it is never signed, stored or gossiped.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import Annotated, Final, TypeAlias

from protocol import limits
from protocol.dialogue import Role, Script, Turn
from protocol.errors import LocalProtocolError, Reason, RemoteProtocolError
from protocol.messages import Vocabulary
from protocol.schema import Int, Named, Unknown, no_unknown

PROTOCOL_ID: Final = "/metainf/load/1"

Figures = Mapping[str, int]
FIGURES: Final = Named(Int(0, limits.EXACT_INT_MAX), limits.LOAD_ITEMS)

FRESH_FOR: Final = limits.LOAD_FRESH_US / limits.SECOND_US  # seconds


class Serving(IntEnum):
    """What the node's engine can do for a prompt. Numbers, because figures are; a newer one reads as AWAY."""

    AWAY = 0  # none, or none that could answer soon
    LOADING = 1
    READY = 2
    DRAINING = 3  # finishes what it has


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """One reading.

    Attributes:
        running: prompts at the engine.
        waiting: prompts in the queue for it.
        queued_tokens: tokens of prompt that are not processed yet, as far as the node can tell.
        slots: prompts that run together at most; 0 where it is not known.
        accepting: whether a prompt of the one who is told this would be let in now, by its share and its quota.
    """

    running: int
    waiting: int
    queued_tokens: int = 0
    slots: int = 0
    accepting: bool = True
    serving: Serving = Serving.READY

    @property
    def outstanding(self) -> int:
        """Prompts that are not answered yet."""
        return self.running + self.waiting

    @property
    def open(self) -> bool:
        """Whether a prompt sent now has a chance."""
        return self.accepting and self.serving is Serving.READY

    def to_figures(self) -> Figures:
        """Return the figures that say it.

        Raises:
            LocalProtocolError: a number below zero or beyond what figures carry.
        """
        figures = {
            "accepting": int(self.accepting),
            "queued_tokens": self.queued_tokens,
            "running": self.running,
            "slots": self.slots,
            "state": int(self.serving),
            "waiting": self.waiting,
        }
        for name, value in figures.items():
            if not 0 <= value <= limits.EXACT_INT_MAX:
                raise LocalProtocolError(f"load.{name}: {value} is not in 0..{limits.EXACT_INT_MAX}")
        return figures


def read_figures(figures: Figures) -> Load:
    """Return the reading that figures stand for. Figures that this version does not know are ignored.

    Raises:
        RemoteProtocolError: a figure that every version sends is missing, or none of its meanings fits.
    """
    for name in ("running", "waiting"):
        if name not in figures:
            raise RemoteProtocolError(Reason.MISSING_FIELD, "every load has it", path=name)
    accepting = figures.get("accepting", 1)
    if accepting not in (0, 1):
        raise RemoteProtocolError(Reason.OUT_OF_BOUNDS, f"{accepting} is neither 0 nor 1", path="accepting")
    state = figures.get("state", Serving.READY)
    return Load(
        running=figures["running"],
        waiting=figures["waiting"],
        queued_tokens=figures.get("queued_tokens", 0),
        slots=figures.get("slots", 0),
        accepting=accepting == 1,
        serving=Serving(state) if state in Serving.__members__.values() else Serving.AWAY,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Poll:
    """Asks how busy the node is."""

    unknown: Unknown = field(default_factory=no_unknown, hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The figures, as they ride on answers (docs/protocol/inference.md)."""

    load: Annotated[Figures, FIGURES]
    unknown: Unknown = field(default_factory=no_unknown, hash=False)


Message: TypeAlias = Poll | Report
KINDS: Final[Mapping[str, type[Message]]] = {"poll": Poll, "report": Report}


class State(Enum):
    """How far question and answer are."""

    IDLE = "idle"
    POLLED = "polled"


SCRIPT: Final[Script[State, Message]] = Script(
    table={
        State.IDLE: {Poll: Turn(Role.OPENER, State.POLLED)},
        State.POLLED: {Report: Turn(Role.ANSWERER, State.IDLE)},
    },
    start=State.IDLE,
    rests=frozenset({State.IDLE}),
    vocabulary=Vocabulary(KINDS, limits.LOAD),
    limit=limits.LOAD_BYTES,
)
