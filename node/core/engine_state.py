"""The life of an engine as a table: which state follows which event, and when to try again.

Knows no process, clock or socket: events go in with the time and luck, states come out. What each event is made
of, and what is done in each state, is the keeper's (`node.services.tend`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum

FIRST_DELAY = 1.0  # s before the first new start: most crashes are not repeated
LONGEST_DELAY = 60.0  # s; doubling stops here
UNREADY_LIMIT = 6  # starts in a row that never became ready, after which it is not likely to heal by itself
UNREADY_DELAY = 300.0  # s between starts from then on: a volunteer's machine may heal (disk, memory, network),
# and nobody may be watching; so it is never given up, but no longer costs a model load every minute
STABLE_AFTER = 120.0  # s in READY after which its past is forgotten

LENT = "lent to trials"  # a snapshot's reason: the owner's node has put it away for as long as they go on


class EngineState(Enum):
    """What the engine is doing."""

    OFF = "off"  # this node runs none
    PREPARING = "preparing"  # its files are being made ready (the embedded model is unpacked)
    STARTING = "starting"  # the process runs; not healthy or no token yet
    READY = "ready"
    DRAINING = "draining"  # takes nothing new, finishes what runs
    STOPPING = "stopping"
    BACKOFF = "backoff"  # it died; waiting before the next start
    FAILED = "failed"  # starting again cannot help until something is changed
    STOPPED = "stopped"


class EngineEvent(Enum):
    """What happens to an engine."""

    BEGIN = "begin"  # it is wanted, and the time has come
    SPAWNED = "spawned"  # the process exists
    ANSWERED = "answered"  # healthy, and one token generated
    TROUBLE = "trouble"  # it died, hangs, was late or could not start: worth another try
    HOPELESS = "hopeless"  # it cannot start, and trying again cannot help
    DRAIN = "drain"  # it is to end once what runs has ended
    RESUMED = "resumed"  # what runs did not end in time, and nobody is to be cut off: it takes prompts again
    SUCCEEDED = "succeeded"  # another process, ready already, serves in its place
    STOP = "stop"  # it is to end now
    ENDED = "ended"  # it is gone, as it was told


S, E = EngineState, EngineEvent

TRANSITIONS: Mapping[tuple[EngineState, EngineEvent], EngineState] = {
    (S.STOPPED, E.BEGIN): S.PREPARING,
    (S.BACKOFF, E.BEGIN): S.PREPARING,
    (S.FAILED, E.BEGIN): S.PREPARING,  # after a change: a restart by command, another plan
    (S.PREPARING, E.SPAWNED): S.STARTING,
    (S.PREPARING, E.TROUBLE): S.BACKOFF,
    (S.PREPARING, E.HOPELESS): S.FAILED,
    (S.PREPARING, E.STOP): S.STOPPING,
    (S.STARTING, E.ANSWERED): S.READY,
    (S.STARTING, E.TROUBLE): S.BACKOFF,
    (S.STARTING, E.HOPELESS): S.FAILED,
    (S.STARTING, E.STOP): S.STOPPING,
    (S.READY, E.TROUBLE): S.BACKOFF,
    (S.READY, E.DRAIN): S.DRAINING,
    (S.READY, E.STOP): S.STOPPING,
    (S.READY, E.SUCCEEDED): S.READY,
    (S.DRAINING, E.STOP): S.STOPPING,
    (S.DRAINING, E.RESUMED): S.READY,
    (S.DRAINING, E.TROUBLE): S.STOPPED,  # it died while it was to end anyway
    (S.STOPPING, E.ENDED): S.STOPPED,
    (S.BACKOFF, E.SUCCEEDED): S.READY,  # the old one died while the new one was starting beside it
    (S.BACKOFF, E.STOP): S.STOPPED,
    (S.FAILED, E.STOP): S.STOPPED,
}

SERVING = frozenset({S.READY, S.DRAINING})  # states in which an engine answers
AT_REST = frozenset({S.OFF, S.READY, S.BACKOFF, S.FAILED})  # states in which nothing that was planned goes on
ALIVE = frozenset({S.STARTING, S.READY, S.DRAINING, S.STOPPING})  # states in which there may be a process


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSnapshot:
    """What anybody may know of the engine at one moment.

    Attributes:
        since: the loop's time (seconds) at which the state was entered.
        model: the served name; None where there is no engine.
        strategy: the short name of the strategy (`Strategy.name`).
        reason: why it is in this state, for a person.
        log_tail: last lines of its log, set when it has died or failed.
        restarts: unplanned ends since the node came up.
        retry_at: the loop's time of the next start, in BACKOFF.
        progress: what it is doing in words, while PREPARING or STARTING.
        returning: it is away for a moment on purpose (a switch, the way back from one, lent to trials) and will be
            ready again: prompts may wait for it. Never at the first start, after a crash or while it is to stay away.
    """

    state: EngineState
    since: float
    model: str | None
    strategy: str | None
    reason: str
    log_tail: tuple[str, ...] = ()
    restarts: int = 0
    retry_at: float | None = None
    progress: str = ""
    pid: int | None = None
    returning: bool = False


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model as the engine lists it. `max_length`: tokens of prompt and output together, where it tells."""

    name: str
    max_length: int | None = None


class ImpossibleEvent(Exception):
    """The keeper's own bug: an event that cannot happen in this state."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLife:
    """A snapshot and the past that decides how long to wait.

    Attributes:
        troubles: unplanned ends since it was last stable.
        unready: starts in a row that ended before READY.
    """

    snapshot: EngineSnapshot
    troubles: int = 0
    unready: int = 0

    def after(  # noqa: PLR0913 -- an event and all that comes with it
        self,
        event: EngineEvent,
        *,
        now: float,
        luck: float,
        reason: str,
        log_tail: tuple[str, ...] = (),
        pid: int | None = None,
        returning: bool = False,
    ) -> "EngineLife":
        """Return the life after an event.

        Args:
            event: what happened.
            now: the loop's time, in seconds.
            luck: in [0, 1); spreads the next start.
            reason: why, for a person.
            log_tail: the last lines of an engine that died, or was put away because it failed.
            pid: of the process that is the engine from now on; None leaves it.
            returning: whether it comes back by itself, should it go away now or be away already.

        Raises:
            ImpossibleEvent: the table has no such row.
        """
        old = self.snapshot
        state = TRANSITIONS.get((old.state, event))
        if state is None:
            raise ImpossibleEvent(f"{event.value} while {old.state.value}")
        unplanned = event in (E.TROUBLE, E.HOPELESS) and old.state is not S.DRAINING
        troubles, unready = self._past(event, now)
        return EngineLife(
            snapshot=replace(
                old,
                state=state,
                since=now,
                reason=reason,
                log_tail=log_tail if unplanned else () if state is S.READY else log_tail or old.log_tail,
                restarts=old.restarts + unplanned,
                retry_at=now + delay(troubles=troubles, unready=unready, luck=luck) if state is S.BACKOFF else None,
                progress="",
                pid=(pid or old.pid) if state in ALIVE else None,
                returning=returning and state not in AT_REST and (old.returning or old.state in SERVING),
            ),
            troubles=troubles,
            unready=unready,
        )

    def _past(self, event: EngineEvent, now: float) -> tuple[int, int]:
        """Return (troubles, unready) after the event."""
        if event in (E.ANSWERED, E.SUCCEEDED):
            return self.troubles, 0
        if event is not E.TROUBLE:
            return self.troubles, self.unready
        was_ready = self.snapshot.state is S.READY
        stable = was_ready and now - self.snapshot.since >= STABLE_AFTER
        return (1 if stable else self.troubles + 1), (self.unready if was_ready else self.unready + 1)


def delay(*, troubles: int, unready: int, luck: float) -> float:
    """Return the seconds until the next start: doubling from one to sixty, spread over their upper half.

    The spread keeps nodes that died of one cause (a shared disk, a driver update) from coming back at one moment.
    """
    if unready >= UNREADY_LIMIT:
        longest = UNREADY_DELAY
    else:
        # The exponent is bounded before it is used: 2.0 ** 2000 overflows.
        longest = min(FIRST_DELAY * 2.0 ** min(max(troubles - 1, 0), 16), LONGEST_DELAY)
    return longest * (0.5 + 0.5 * luck)


def diagram(draw: Callable[[str, str, str], str] = "    {} --> {}: {}".format) -> str:
    """Return the table as a Mermaid state diagram, for the documentation."""
    lines = [draw(old.value, new.value, event.value) for (old, event), new in TRANSITIONS.items()]
    return "\n".join(["stateDiagram-v2", f"    [*] --> {S.STOPPED.value}", *lines])
