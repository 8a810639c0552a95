"""What is known of the engine's life: its state and reason now, how long starts take, how often it died.

Knows the table of states and whom to tell; decides nothing.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import structlog
import trio

from node.core.engine_state import SERVING, EngineEvent, EngineLife, EngineSnapshot, EngineState
from node.core.switching import TROUBLE_SPAN
from node.ports import LaunchPlan

log = structlog.get_logger(__name__)

STARTS_KEPT = 9  # of which the usual one is the median: one slow start among them changes nothing
TROUBLES_KEPT = 64  # unplanned ends remembered; the backoff allows some twelve in TROUBLE_SPAN


class EngineRecord:
    """The engine's snapshot and figures. Everything here is done at once; only `news` waits.

    Capabilities:
        luck: numbers in [0, 1), which spread new starts.
        on_change: told of every new snapshot, in order; it must not block.
    """

    def __init__(
        self, plan: LaunchPlan, *, luck: Callable[[], float], on_change: Callable[[EngineSnapshot], None]
    ) -> None:
        self._luck = luck
        self._on_change = on_change
        self._news = trio.Event()
        self._starts: deque[float] = deque(maxlen=STARTS_KEPT)
        self._troubles: deque[float] = deque(maxlen=TROUBLES_KEPT)
        self._absent = 0.0
        self._away_since: float | None = None  # it served once, and does not now
        self._life = EngineLife(
            snapshot=EngineSnapshot(
                state=EngineState.STOPPED,
                since=float("-inf"),
                model=plan.served_name or None,
                strategy=plan.strategy.name,
                reason="not started yet",
            )
        )

    @property
    def snapshot(self) -> EngineSnapshot:
        """What the engine is doing now."""
        return self._life.snapshot

    @property
    def state(self) -> EngineState:
        """The snapshot's state."""
        return self._life.snapshot.state

    def apply(
        self,
        event: EngineEvent,
        reason: str,
        *,
        returning: bool,
        log_tail: tuple[str, ...] = (),
        pid: int | None = None,
        **facts: Any,  # noqa: ANN401 -- fields of the snapshot, which says their types
    ) -> None:
        """Have an event happen, and with it what else the snapshot says from now on.

        Raises:
            ImpossibleEvent: it cannot happen now.
        """
        now, old = trio.current_time(), self._life
        life = old.after(
            event, now=now, luck=self._luck(), reason=reason, log_tail=log_tail, pid=pid, returning=returning
        )
        self._life = replace(life, snapshot=replace(life.snapshot, **facts))
        snapshot = self._life.snapshot
        if snapshot.restarts > old.snapshot.restarts:
            self._troubles.append(now)
        self._measure_absence(old.snapshot.state, snapshot.state, now)
        log.info("engine.state", state=snapshot.state.value, reason=reason, pid=snapshot.pid)
        self.announce()
        self._on_change(snapshot)

    def show(self, **facts: Any) -> None:  # noqa: ANN401 -- as for `apply`
        """Change what the snapshot says without an event."""
        snapshot = replace(self._life.snapshot, **facts)
        if snapshot == self._life.snapshot:
            return
        self._life = replace(self._life, snapshot=snapshot)
        self.announce()
        self._on_change(snapshot)

    def progress(self, words: str) -> None:
        """Say what it is doing."""
        self.show(progress=words)

    def announce(self) -> None:
        """Wake whoever waits for news: there may be some."""
        self._news.set()
        self._news = trio.Event()

    async def news(self) -> None:
        """Wait until something may have changed."""
        await self._news.wait()

    def started(self, seconds: float) -> None:
        """Note how long a start took, from launch to the first token."""
        self._starts.append(seconds)

    def starts(self) -> tuple[float, ...]:
        """Return the seconds that the last starts took, oldest first."""
        return tuple(self._starts)

    def troubles(self) -> int:
        """Count the unplanned ends of the last ten minutes, since `forget`."""
        now = trio.current_time()
        return sum(1 for at in self._troubles if now - at <= TROUBLE_SPAN)

    def forget(self) -> None:
        """Forget the unplanned ends: they were another strategy's."""
        self._troubles.clear()

    def absent_s(self) -> float:
        """Return the seconds, since it served for the first time, in which it did not."""
        return self._absent + (trio.current_time() - self._away_since if self._away_since is not None else 0.0)

    def _measure_absence(self, old: EngineState, new: EngineState, now: float) -> None:
        if old in SERVING and new not in SERVING:
            self._away_since = now
        elif new in SERVING and self._away_since is not None:
            self._absent += now - self._away_since
            self._away_since = None
