"""Bringing the engine from one strategy to another, and back: by a lever, start first, or with a restart.

Knows the engine as something that can be followed or exchanged; knows neither processes nor why one strategy is
better. It decides within a switch only: which of the three ways, and what runs when the way ends badly. Whether to
switch, and whether a strategy that started well serves well, is the tuner's.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Protocol

import structlog
import trio

from node.core.engine_state import EngineSnapshot, EngineState
from node.core.strategy import Strategy
from node.core.switching import DONE, OUT_OF_MEMORY, START_FAILED, Outcome, start_timeout, usual_start
from node.ports import LaunchPlan
from node.tuner_ports import Audition

log = structlog.get_logger(__name__)

PATIENCE = 300.0  # s for what runs: some answers of 4,096 tokens take minutes on CPU
FIRST_START = 600.0  # s for a start where none was seen yet

LIVE = "live"
START_FIRST = "start_first"
RESTART = "restart"


class SwitchableEngine(Protocol):
    """The node's own engine. See `node.services.tend.EngineKeeper`."""

    def snapshot(self) -> EngineSnapshot:
        """Return what it is doing."""
        ...

    def plan(self) -> LaunchPlan:
        """Return what it runs, or is on its way to."""
        ...

    def launched(self) -> Strategy | None:
        """Return what the engine that serves was launched with; None while none serves."""
        ...

    def starts(self) -> tuple[float, ...]:
        """Return the seconds that its last starts took."""
        ...

    def absent_s(self) -> float:
        """Return the seconds in which it did not serve, since it served first."""
        ...

    def rename(self, plan: LaunchPlan, *, reason: str) -> None:
        """Say that it works as by `plan` without a restart."""
        ...

    async def succeed(
        self,
        plan: LaunchPlan,
        *,
        reason: str,
        start_timeout: float,
        patience: float,
        compare: bool = True,
        audition: Audition | None = None,
    ) -> Outcome:
        """Start a second one beside it and change over."""
        ...

    async def exchange(
        self,
        plan: LaunchPlan,
        *,
        fallback: LaunchPlan | None,
        reason: str,
        start_timeout: float,
        patience: float,
        compare: bool = True,
    ) -> Outcome:
        """End it, start another, and return to `fallback` where that fails."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Switched:
    """What came of a switch.

    Attributes:
        result: one of `node.core.switching.RESULTS`.
        how: "live" (a lever: no restart), "start_first" or "restart".
        reason: for a person; the engine's own words where it failed.
        down_s: seconds in which this node served nobody; 0 with "live" and, unless the old engine died, "start_first".
        took_s: seconds from the wish to the end, the way back included.
        serving: what runs now, or is being started.
    """

    result: str
    how: str
    reason: str
    down_s: float
    took_s: float
    serving: Strategy

    @property
    def done(self) -> bool:
        """Whether the engine runs as was wished."""
        return self.result == DONE


class Switcher:
    """Switches one engine. One switch at a time: a second waits for the first.

    Capabilities:
        base: the operator's plan: what every plan is but for its strategy, and the last resort of `back`.
        room: whether the machine has memory for a second engine by that plan beside the one that runs.
        lever: have the engine that was launched with the first strategy serve as with the second, without a restart,
            and say whether that can be done. With both alike it takes back what it did before.
        patience: seconds for what runs while new prompts wait, before a restart; then the switch is given up. Beside a
            new engine, where nobody waits, what runs has PATIENCE.
        first_start: seconds for a start as long as none was seen: the setting for the engine's start.
    """

    def __init__(  # noqa: PLR0913 -- a list of capabilities
        self,
        engine: SwitchableEngine,
        *,
        base: LaunchPlan,
        room: Callable[[LaunchPlan], Awaitable[bool]],
        lever: Callable[[Strategy, Strategy], bool],
        clock: Callable[[], float] = trio.current_time,
        patience: float = PATIENCE,
        first_start: float = FIRST_START,
    ) -> None:
        self._engine = engine
        self._base = base
        self._room = room
        self._lever = lever
        self._clock = clock
        self._patience = patience
        self._first_start = first_start
        self._turn = trio.Lock()

    def strategy(self) -> Strategy:
        """Return what the engine runs, or is on its way to."""
        return self._engine.plan().strategy

    def usual_start_s(self) -> float | None:
        """Return the median of the seconds that the last starts took, from launch to the first token."""
        return usual_start(self._engine.starts())

    async def switch(self, strategy: Strategy, *, reason: str, audition: Audition | None = None) -> Switched:
        """Have the engine run a strategy; where it does not, the old one serves when this returns.

        Should even that have troubles, it is being started again. Never raises for the engine's faults. Cancelled,
        nothing is left behind and no answer is cut off: a second engine is put away, a drain is given up, and a
        restart under way goes its way, to the new strategy or back.

        Args:
            strategy: what to run.
            reason: why, for `metainf status`.
            audition: hears a second engine before it takes over from the first; not asked on the other two ways.
        """
        async with self._turn:
            plan = replace(self._base, strategy=strategy)
            return await self._to(plan, reason, fallback=self._engine.plan(), audition=audition)

    async def back(self, strategy: Strategy, *, reason: str) -> Switched:
        """Have the engine run a strategy again that was good, because the present one is not.

        Unlike in `switch`, what runs is not trusted: answers are not held against its own, a second engine that fails
        is followed by a restart, and where the strategy does not become ready, the operator's plan is what is started.
        """
        async with self._turn:
            plan = replace(self._base, strategy=strategy)
            fallback = self._base if strategy != self._base.strategy else None
            return await self._to(plan, reason, fallback=fallback, going_back=True)

    async def _to(
        self,
        plan: LaunchPlan,
        reason: str,
        *,
        fallback: LaunchPlan | None,
        going_back: bool = False,
        audition: Audition | None = None,
    ) -> Switched:
        engine, began, absent = self._engine, self._clock(), self._engine.absent_s()

        def switched(how: str, outcome: Outcome) -> Switched:
            took, down = self._clock() - began, engine.absent_s() - absent
            log.info("switch.ended", result=outcome.result, how=how, reason=outcome.reason, took_s=took, down_s=down)
            return Switched(
                result=outcome.result,
                how=how,
                reason=outcome.reason,
                down_s=down,
                took_s=took,
                serving=self.strategy(),
            )

        log.info("switch.began", old=self.strategy().name, new=plan.strategy.name, reason=reason)
        if self._base.strategy.external:
            words = "the engine runs elsewhere: its strategy is not this node's to change"
            return switched(LIVE, Outcome(result=START_FAILED, reason=words))
        if plan.strategy == self.strategy():
            return switched(LIVE, Outcome(result=DONE, reason="it runs already"))
        launched, ready = engine.launched(), engine.snapshot().state is EngineState.READY
        if launched is not None and ready and self._lever(launched, plan.strategy):
            engine.rename(plan, reason=reason)
            return switched(LIVE, Outcome(result=DONE, reason=reason))
        timeout = start_timeout(engine.starts(), self._first_start)
        outcome, how = None, RESTART
        if ready and await self._room(plan):
            how = START_FIRST
            # Nobody waits for it, and it shares the machine with one that is at work: as patient as with a first start.
            outcome = await engine.succeed(
                plan,
                reason=reason,
                start_timeout=self._first_start,
                patience=PATIENCE,
                compare=not going_back,
                audition=audition,
            )
            # Two at once may be what was too much, and what is to be left must not stay for want of room.
            again = outcome.result == OUT_OF_MEMORY or (going_back and outcome.failed)
            outcome = None if again else outcome
        if outcome is None:
            how = RESTART
            outcome = await engine.exchange(
                plan,
                fallback=fallback,
                reason=reason,
                start_timeout=timeout,
                patience=self._patience,
                compare=not going_back,
            )
        # Levers that were pulled on the engine that was are not those of the one that is.
        self._lever(engine.launched() or self.strategy(), self.strategy())
        return switched(how, outcome)
