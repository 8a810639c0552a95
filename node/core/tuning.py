"""The life of a tuner as a table: what it is doing with its engine's strategy, and what follows from what.

Knows no engine, clock, learner or strategy: events go in, phases come out. When something is decided is
`node.core.tuning_rules`'; what is kept over restarts is `node.core.tuning_ledger`'s; what each event is made of is the
service's (`node.services.tune`).
"""

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Final


class Phase(Enum):
    """What the tuner is doing."""

    OFF = "off"  # there is no engine of ours, or its owner wants no tuning
    AWAY = "away"  # the engine does not serve: it loads, is paused, lent or broken; nothing is decided
    FIXED = "fixed"  # the owner has said what runs
    STEADY = "steady"  # what runs was chosen; news are waited for
    DECIDING = "deciding"  # the learner is being asked
    WAITING = "waiting"  # a switch is wanted; others of the swarm go first, or it is not quiet
    SWITCHING = "switching"  # the engine is on its way to another strategy
    VERIFYING = "verifying"  # the new strategy serves and is held against what was before
    RETURNING = "returning"  # it was no good: back to the last good one


class TuningEvent(Enum):
    """What happens to a tuner."""

    SERVES = "serves"  # the engine serves, under a strategy that nothing is held against
    SERVES_FIXED = "serves_fixed"  # it serves, and its owner has said what runs
    SERVES_UNVERIFIED = "serves_unverified"  # it serves under a strategy that was being verified
    AWAY = "away"  # the engine stopped serving, by others' doing or its own
    QUESTION = "question"  # there is a reason to decide anew
    KEEP = "keep"  # what runs is to go on, or nobody can tell better
    GO = "go"  # another strategy is worth the switch
    FORGONE = "forgone"  # the turn did not come, or the reason for the switch is gone
    TURN = "turn"  # it is our turn
    DONE = "done"  # the new strategy serves
    DONE_FIXED = "done_fixed"  # so it does, by the owner's wish: it is not judged
    FAILED = "failed"  # it does not serve; what ran before does, or comes back
    CONFIRMED = "confirmed"  # it is no worse than what was before
    UNJUDGED = "unjudged"  # there was nothing to hold it against for too long; it stays, and is not called good
    CONTRADICTED = "contradicted"  # it is worse, or fails
    CRASHES = "crashes"  # the engine ends again and again under it
    RETURNED = "returned"  # the last good strategy serves again
    NOT_RETURNED = "not_returned"  # it does not; the keeper goes on trying
    FIX = "fix"  # the owner says what is to run
    RELEASE = "release"  # the owner leaves it to the tuner again


P, E = Phase, TuningEvent

TRANSITIONS: Final[Mapping[tuple[Phase, TuningEvent], Phase]] = {
    (P.AWAY, E.SERVES): P.STEADY,
    (P.AWAY, E.SERVES_FIXED): P.FIXED,
    (P.AWAY, E.SERVES_UNVERIFIED): P.VERIFYING,
    (P.AWAY, E.CRASHES): P.RETURNING,
    (P.AWAY, E.FIX): P.WAITING,  # of an engine that does not come up
    (P.STEADY, E.AWAY): P.AWAY,
    (P.STEADY, E.QUESTION): P.DECIDING,
    (P.STEADY, E.CRASHES): P.RETURNING,
    (P.STEADY, E.FIX): P.WAITING,
    (P.FIXED, E.AWAY): P.AWAY,
    (P.FIXED, E.CRASHES): P.RETURNING,
    (P.FIXED, E.FIX): P.WAITING,
    (P.FIXED, E.RELEASE): P.STEADY,
    (P.DECIDING, E.AWAY): P.AWAY,
    (P.DECIDING, E.KEEP): P.STEADY,
    (P.DECIDING, E.GO): P.WAITING,
    (P.WAITING, E.FORGONE): P.AWAY,  # looked at anew: whether it serves, and under whose will
    (P.WAITING, E.TURN): P.SWITCHING,
    (P.SWITCHING, E.DONE): P.VERIFYING,
    (P.SWITCHING, E.DONE_FIXED): P.FIXED,
    (P.SWITCHING, E.FAILED): P.AWAY,
    (P.VERIFYING, E.AWAY): P.AWAY,
    (P.VERIFYING, E.CONFIRMED): P.STEADY,
    (P.VERIFYING, E.UNJUDGED): P.STEADY,
    (P.VERIFYING, E.CONTRADICTED): P.RETURNING,
    (P.VERIFYING, E.CRASHES): P.RETURNING,
    (P.VERIFYING, E.FIX): P.WAITING,
    (P.RETURNING, E.RETURNED): P.AWAY,
    (P.RETURNING, E.NOT_RETURNED): P.AWAY,
}

# In these a switch may be under way or about to be: the engine must not be taken for trials, and no lesson begun.
ENGAGED: Final = frozenset({P.WAITING, P.SWITCHING, P.VERIFYING, P.RETURNING})


class ImpossibleEvent(Exception):
    """The tuner's own bug: an event that cannot happen in this phase."""


def after(phase: Phase, event: TuningEvent) -> Phase:
    """Return the phase that follows.

    Raises:
        ImpossibleEvent: the table has no such row.
    """
    found = TRANSITIONS.get((phase, event))
    if found is None:
        raise ImpossibleEvent(f"{event.value} while {phase.value}")
    return found


def diagram(draw: Callable[[str, str, str], str] = "    {} --> {}: {}".format) -> str:
    """Return the table as a Mermaid state diagram, for the documentation."""
    lines = [draw(old.value, new.value, event.value) for (old, event), new in TRANSITIONS.items()]
    return "\n".join(["stateDiagram-v2", f"    [*] --> {P.AWAY.value}", f"    [*] --> {P.OFF.value}", *lines])
