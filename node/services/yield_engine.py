"""The engine gives way to its machine's owner: a pause, hours of the day, heat, power, another program.

Knows the engine as something to be stopped and started, the devices as readings, and what is allowed from
`node.core.operator_limits`; knows no driver, no file and nobody who serves prompts. Whoever else may take the engine
(trials, the tuner) asks `yielded` first; should anybody start it all the same, it is stopped again at once.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, Protocol

import structlog
import trio

from node.core.engine_state import EngineSnapshot, EngineState
from node.core.operator_limits import Action, Moment, OperatorLimits, Pause, Readings, Verdict, Why
from node.errors import Unavailable
from node.services.race import first

log = structlog.get_logger(__name__)

Tell = Callable[[str, Mapping[str, Any]], None]
Read = Callable[[], Awaitable[Readings]]
Keep = Callable[[Pause | None], Awaitable[None]]

READING: Final = 3.0  # s for the devices to say how they are: a driver that loads takes one, one that hangs takes all
SHORTEST: Final = 0.05  # s between looks, whatever the clocks make of an end that is just there
GONE = frozenset({EngineState.OFF, EngineState.DRAINING, EngineState.STOPPING, EngineState.STOPPED})


class YieldingEngine(Protocol):
    """The node's own engine."""

    def snapshot(self) -> EngineSnapshot:
        """Return what it is doing."""
        ...

    async def changed(self, than: EngineSnapshot) -> EngineSnapshot:
        """Wait until it does something else."""
        ...

    def start(self, *, reason: str) -> None:
        """Want it running."""
        ...

    async def stop(self, *, reason: str, grace: float = 0.0) -> None:
        """Want it ended, after what runs (for at most `grace` seconds); less grace in a later call shortens that."""
        ...


@dataclass(slots=True)
class _Tally:
    """What giving way came to."""

    yields: int = 0
    seconds: float = 0.0  # of those that are over
    since: float | None = None  # of the one that goes on


class EngineYielding:
    """Gives way and comes back. `run` is its one long-lived task; `pause` and `resume` are the owner's."""

    def __init__(  # noqa: PLR0913 -- a list of capabilities
        self,
        *,
        engine: YieldingEngine | None,
        limits: OperatorLimits,
        read: Read | None,
        running: Callable[[], int],
        cap: Callable[[int | None], None],
        keep: Keep,
        wall: Callable[[], float],
        tell: Tell,
        grace: float,
        paused: Pause | None = None,
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        """Prepare.

        Args:
            engine: None on a node that runs none.
            read: how the devices are; None where there is nothing to be read.
            running: how many prompts are at the engine now.
            cap: lets so many prompts run at once and no more; None lifts that.
            keep: keeps a pause over a restart of the node; None: there is none any more.
            wall: seconds since 1970.
            tell: lifecycle events: `owner`.
            grace: seconds that running prompts have, unless they are to be cut off.
            paused: what was kept.
        """
        self._engine = engine
        self._limits = limits
        self._read = read
        self._running = running
        self._set_cap = cap
        self._keep = keep
        self._wall = wall
        self._tell = tell
        self._grace = grace
        self._pause = paused
        self._clock = clock
        self._keeping = trio.Lock()  # writes follow each other, so that the last one stands
        self._news = trio.Event()
        self._verdict = Verdict(action=Action.RUN)
        self._readings = Readings()
        self._told_cap: int | None = None
        self._tally = _Tally()
        self._said: object = (Action.RUN, Why.NONE, None, None)
        self._away = False  # the engine was told to go
        self._cut = False  # at once
        self._ending = False

    # -- what can be read

    def yielded(self) -> bool:
        """Tell whether nobody may take or start the engine now."""
        return self._verdict.action is Action.YIELD

    def facts(self) -> dict[str, Any]:
        """Return the block `owner` of `metainf status --json`."""
        verdict, tally = self._verdict, self._tally
        yielded = tally.seconds + (self._clock() - tally.since if tally.since is not None else 0.0)
        read = self._readings
        return {
            "state": "paused" if self._paused() else verdict.action.value,
            "why": verdict.why.value,
            "reason": verdict.reason,
            "until": _rfc3339(verdict.until),
            "cap": verdict.cap,
            "watts": read.watts,
            "temperature_c": read.temperature_c,
            "others_bytes": read.others_bytes,
            "blind": list(verdict.blind),
            "yields": tally.yields,
            "yielded_s": round(yielded, 1),
        }

    # -- what the owner wishes

    async def pause(self, *, for_s: float | None, now: bool) -> Mapping[str, Any]:
        """Give way until `resume`, or for so many seconds; return the facts at once, the engine is on its way out.

        Args:
            for_s: None: until it is resumed, restarts of the node included.
            now: cut off what runs.

        Raises:
            Unavailable: there is no engine to pause.
        """
        self._require_engine()
        wall = self._wall()
        await self._wish(Pause(since=wall, until=None if for_s is None else wall + for_s, now=now))
        return self.facts()

    async def resume(self) -> Mapping[str, Any]:
        """End the pause; other limits still hold. Return the facts."""
        self._require_engine()
        await self._wish(None)
        return self.facts()

    async def _wish(self, pause: Pause | None) -> None:
        self._pause = pause
        self._verdict = self._judge()  # so that the facts and whoever asks `yielded` know it already
        self._wake()
        await self._write()

    async def _write(self) -> None:
        async with self._keeping:
            await self._keep(self._pause)

    # -- the loop

    async def begin(self) -> None:
        """Decide for the first time, before the engine starts; needs no `run`, and reads no device."""
        if self._engine is None:
            return
        self._verdict = self._judge()
        if self.yielded():
            self._note(self._verdict)
            self._away, self._cut = True, self._verdict.cut
            await self._engine.stop(reason=self._verdict.reason)  # it was never started: this returns at once

    def end(self) -> None:
        """Start nothing any more: the node ends."""
        self._ending = True

    async def run(self) -> None:
        """Give way and come back, until cancelled. Returns at once where there is no engine."""
        if self._engine is None:
            return
        async with trio.open_nursery() as nursery:
            while not self._ending:
                news, seen = self._news, self._engine.snapshot()
                await self._look()
                if self._ending:
                    break
                self._verdict = self._judge()
                self._act(self._engine, self._verdict, nursery)
                await self._forget_pause()
                await self._until_news(self._engine, news, seen)

    async def _until_news(self, engine: YieldingEngine, news: trio.Event, seen: EngineSnapshot) -> None:
        """Wait for the owner, the time to look again, or, while it is to be away, for the engine to do something."""

        async def moved() -> None:
            await engine.changed(seen)

        with trio.move_on_after(max(self._verdict.look, SHORTEST)):
            if self.yielded():
                await first(news.wait, moved)
            else:
                await news.wait()

    async def _look(self) -> None:
        """Read the devices, where a limit asks for it. Of a driver that does not answer nothing is known."""
        if self._read is None or not self._limits.limits.measured:
            return
        readings = Readings()
        with trio.move_on_after(READING):
            readings = await self._read()
        self._readings = readings

    def _judge(self) -> Verdict:
        return self._limits.judge(
            Moment(
                now=self._clock(),
                wall=self._wall(),
                readings=self._readings,
                running=self._running(),
                pause=self._pause,
            )
        )

    def _act(self, engine: YieldingEngine, verdict: Verdict, nursery: trio.Nursery) -> None:
        """Make it so."""
        self._note(verdict)
        if verdict.action is Action.YIELD:
            # The first time in any state: an engine that is lent stands still, and would come back.
            again = not self._away or engine.snapshot().state not in GONE
            if again or verdict.cut > self._cut:
                grace = 0.0 if verdict.cut else self._grace
                nursery.start_soon(partial(engine.stop, reason=verdict.reason, grace=grace))
            self._away, self._cut = True, verdict.cut
        elif self._away:
            self._away = self._cut = False
            engine.start(reason="its owner allows it again")
        if verdict.cap != self._told_cap:
            self._told_cap = verdict.cap
            self._set_cap(verdict.cap)

    async def _forget_pause(self) -> None:
        """Let go of a pause that has run out."""
        if self._pause is not None and not self._pause.holds(self._wall()):
            self._pause = None
            await self._write()

    # -- bookkeeping

    def _note(self, verdict: Verdict) -> None:
        """Count, and tell what is new."""
        now, tally = self._clock(), self._tally
        if verdict.action is Action.YIELD and tally.since is None:
            tally.yields, tally.since = tally.yields + 1, now
        elif verdict.action is not Action.YIELD and tally.since is not None:
            tally.seconds, tally.since = tally.seconds + now - tally.since, None
        said = (verdict.action, verdict.why, verdict.cap, verdict.until)
        if said == self._said:
            return
        self._said = said
        facts = self.facts()
        log.info("owner.verdict", **{name: facts[name] for name in ("state", "why", "reason", "until", "cap")})
        self._tell("owner", {name: facts[name] for name in ("state", "why", "reason", "until", "cap")})

    def _paused(self) -> bool:
        return self._verdict.why is Why.PAUSE

    def _require_engine(self) -> None:
        if self._engine is None:
            raise Unavailable("this node runs no engine", remedy="there is nothing to pause here")

    def _wake(self) -> None:
        self._news.set()
        self._news = trio.Event()


def _rfc3339(wall: float | None) -> str | None:
    return None if wall is None else datetime.fromtimestamp(wall, UTC).isoformat(timespec="seconds")
