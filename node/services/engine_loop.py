"""The engine's lives, one after another: from a wish over prepare, launch, ready and watch to a gentle or sudden end.

Knows the launcher and the upstream as ports, and what is wished now; what to wish is the keeper's (`tend`). A wish
interrupts every await but the last of a kill. Decisions and what they are made of lie in one step: nothing is awaited
between reading a wish and acting on it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import trio

from node.core.engine_state import EngineEvent, EngineSnapshot, EngineState, ServedModel
from node.core.switching import DONE, NOT_DRAINED, OVERRULED, Outcome, back_on
from node.errors import EngineUnavailable
from node.ports import Endpoint, EngineLauncher, LaunchPlan, Upstream
from node.services.engine_hold import Held, hold
from node.services.engine_leaving import Leaving, until_idle
from node.services.engine_record import EngineRecord
from node.services.engine_watch import EngineWatch, Fault, Ready, TendLimits, unavailable
from node.services.engine_wish import Wish
from node.services.race import first

WELL = "healthy, and it answers"


class EngineLoop:
    """One engine, kept as it is wished to be. Capabilities as of `EngineKeeper`.

    Attributes:
        record: what is known of its life.
        models: what it lists; empty until it was ready once.
        lease: of whoever the engine is lent to: while there is one, none is started.
    """

    def __init__(  # noqa: PLR0913  # a list of capabilities
        self,
        *,
        launcher: EngineLauncher,
        upstream: Upstream,
        plan: LaunchPlan,
        limits: TendLimits,
        in_flight: Callable[[Endpoint], int],
        last_activity: Callable[[Endpoint], float | None],
        luck: Callable[[], float],
        on_change: Callable[[EngineSnapshot], None],
    ) -> None:
        self.record = EngineRecord(plan, luck=luck, on_change=on_change)
        self.models: tuple[ServedModel, ...] = ()
        self.lease: trio.CancelScope | None = None
        self._launcher = launcher
        self._upstream = upstream
        self._limits = limits
        self._in_flight = in_flight
        self._last_activity = last_activity
        self._wish = Wish(running=True, plan=plan, reason="the node starts")
        self._attended = self._wish  # the wish that the present life goes by
        self._held: Held | None = None  # the process that is the engine, or is to be
        self._heirs = 0  # processes that are being started beside it
        self._leaving = Leaving(
            in_flight=in_flight,
            latest=lambda: float("inf") if self._wish.running else self._wish.deadline,
            stop_grace=limits.stop_grace,
            on_gone=self.record.announce,
        )
        self._nursery: trio.Nursery | None = None

    # --- what is so

    @property
    def wish(self) -> Wish:
        """What is wanted now."""
        return self._wish

    @property
    def held(self) -> Held | None:
        """The process that is the engine, or is to be."""
        return self._held

    @property
    def nursery(self) -> trio.Nursery | None:
        """The parent of processes' tasks; None while `run` does not run."""
        return self._nursery

    @property
    def leaving(self) -> int:
        """How many engines that another has taken over from still finish their answers."""
        return len(self._leaving)

    def empty(self) -> bool:
        """Whether no engine is left."""
        return self.record.state is EngineState.STOPPED and not self.leaving

    async def told(self, wish: Wish) -> None:
        """Wait until another wish has replaced this one."""
        while self._wish.number == wish.number:
            await self.record.news()

    def watch(self, held: Held) -> EngineWatch:
        """Return the watch over a process."""
        return EngineWatch(
            self._upstream, held.process, held.plan, limits=self._limits, last_activity=self._last_activity
        )

    # --- what is wished

    def tell(self, wish: Wish) -> None:
        """Replace the wish. An open try is overruled, and who has borrowed the engine loses it."""
        if self.lease is not None:
            self.lease.cancel()
        tried = self._wish.attempt
        if tried is not None and tried.open:
            tried.outcome = Outcome(result=OVERRULED, reason=wish.reason)
        self.change(wish)

    def change(self, wish: Wish) -> None:
        """Replace the wish and nothing else."""
        self._wish = replace(wish, number=self._wish.number + 1)
        if not wish.returning and self.record.snapshot.returning:
            self.record.show(returning=False)
        self.record.announce()

    def amend(self, wish: Wish) -> None:
        """Replace the wish by one that asks for nothing new: what goes on goes on."""
        if self._attended.number == self._wish.number:
            self._attended = wish
        self._wish = wish
        self.record.announce()

    @contextmanager
    def heir_expected(self) -> Iterator[None]:
        """For the block, do not start the engine again should it die: another one is on its way."""
        self._heirs += 1
        try:
            yield
        finally:
            self._heirs -= 1
            self.record.announce()

    def take_over(self, heir: Held, ready: Ready, *, reason: str, patience: float) -> None:
        """Make another process the engine, in one step; the one before it leaves, with `patience` seconds."""
        old, self._held = self._held, heir
        self.change(Wish(running=True, plan=heir.plan, reason=reason, standing=reason))
        self._attended = self._wish
        self.record.forget()
        self._serve(EngineEvent.SUCCEEDED, heir, ready, reason)
        if old is not None and self._nursery is not None:
            self._leaving.add(self._nursery, old, deadline=trio.current_time() + patience)

    # --- the loop

    async def run(self) -> None:
        """Keep the engine as it is wished to be, until cancelled; cancelled, it leaves nothing behind."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                while True:
                    await self._turn(nursery)
        finally:
            self._nursery = self._held = None

    async def _turn(self, nursery: trio.Nursery) -> None:
        """One life, or what lies between two."""
        if self._held is None and not (self._wish.running and self.lease is None):
            wish = self._wish
            if self.record.state is not EngineState.STOPPED:
                self._apply(EngineEvent.STOP, wish.reason)
            else:
                self.record.show(reason=wish.reason)  # it may be another than the one that it was stopped for
            await self.told(wish)
            return
        if self._held is None:
            await self._begin(nursery)
        while self._held is not None:
            await self._attend(self._held)
        await self._pause()

    async def _pause(self) -> None:
        """Wait for the next start, for the first wish after a failure, or not at all."""
        snapshot, wish = self.record.snapshot, self._attended
        if snapshot.state is EngineState.BACKOFF and snapshot.retry_at is not None:
            with trio.move_on_at(snapshot.retry_at):
                await self.told(wish)
            while self._heirs and self._wish.number == wish.number:
                await self.record.news()
        elif snapshot.state is EngineState.FAILED:
            await self.told(wish)

    async def _begin(self, nursery: trio.Nursery) -> None:
        """From BEGIN to the birth of the process, or to the state that a failure leaves behind."""
        wish = self._attended = self._wish
        tried = wish.attempt is not None and wish.attempt.open
        reason = wish.reason if tried or self.record.snapshot.retry_at is None else "starting again"
        name = wish.plan.served_name or None
        self._apply(EngineEvent.BEGIN, reason, model=name, strategy=wish.plan.strategy.name)
        try:
            await self._prepare(wish)
            if self._wish.number == wish.number:
                held = await hold(nursery, self._launcher, wish.plan)
                self._held = held
                self._apply(EngineEvent.SPAWNED, "the engine process runs", pid=held.process.pid)
                return
            self._apply(EngineEvent.STOP, self._wish.reason)
        except EngineUnavailable as error:
            self._suffer(unavailable(error))
        self._ended()

    async def _prepare(self, wish: Wish) -> None:
        """Make ready what the plan needs, or as much of it as fits before the next wish."""

        async def prepared() -> EngineUnavailable | None:
            try:
                await self._launcher.prepare(wish.plan, tell=self.record.progress)
            except EngineUnavailable as error:
                return error  # carried out by hand: a nursery would wrap it into a group
            return None

        if error := await first(prepared, lambda: self.told(wish)):
            raise error

    async def _attend(self, held: Held) -> None:
        """From the process's birth to its end, or until it is the engine no more, or goes on by another wish."""
        wish = self._attended
        end = await first(lambda: self._end(held), lambda: self._raise_and_watch(held, wish), lambda: self.told(wish))
        if self._held is not held:
            return  # another has taken over, and this one is leaving
        if isinstance(end, Fault):
            # Before the process is killed: from now on nobody is sent there.
            self._suffer(end)
        elif not await self._put_down(held):
            return
        self._held = None
        await held.let_go()
        self._ended()

    async def _end(self, held: Held) -> Fault:
        ended = await held.process.wait()
        return held.fault(ended, starting=self.record.state is EngineState.STARTING)

    async def _raise_and_watch(self, held: Held, wish: Wish) -> Fault:
        watch = self.watch(held)
        if self.record.state is EngineState.STARTING:
            tried = wish.attempt if wish.attempt is not None and wish.attempt.open else None
            found = await watch.until_ready(
                within=tried.start_timeout if tried is not None else self._limits.start_timeout,
                tell=self.record.progress,
                reference=tried.reference if tried is not None else None,
            )
            if isinstance(found, Fault):
                return found
            if tried is not None and tried.open:
                tried.outcome = Outcome(result=DONE, reason=wish.reason)
                self.record.forget()
            self._serve(EngineEvent.ANSWERED, held, found, wish.standing or WELL)
        return await watch.until_broken()

    def _serve(self, event: EngineEvent, held: Held, ready: Ready, reason: str) -> None:
        """Note that a process serves from now on."""
        self.models = ready.models
        self.record.started(trio.current_time() - held.born)
        self._apply(event, reason, pid=held.process.pid, model=ready.model, strategy=self._attended.plan.strategy.name)

    def _suffer(self, fault: Fault) -> None:
        """Draw the conclusion of a fault: start again later, or never, or return at once to what ran before a try."""
        tried = self._attended.attempt
        if tried is not None and tried.open:
            tried.outcome = fault.outcome
            if tried.fallback is not None:
                words = back_on(tried.fallback.strategy, self._attended.plan.strategy, fault.outcome)
                self._apply(EngineEvent.STOP, words, log_tail=fault.log_tail)
                self.change(Wish(running=True, plan=tried.fallback, reason=words, standing=words, returning=True))
                return
        event = EngineEvent.HOPELESS if fault.hopeless else EngineEvent.TROUBLE
        self._apply(event, fault.words, log_tail=fault.log_tail)

    # --- down

    async def _put_down(self, held: Held) -> bool:
        """End it as the wish says: what runs first, then the process; return False where it serves on."""
        if self.record.state is EngineState.READY:
            self._apply(EngineEvent.DRAIN, self._wish.reason)
            if end := await first(lambda: self._end(held), lambda: self._idle(held)):
                self._apply(EngineEvent.TROUBLE, end.words)
                return True
            if self._give_up(self._in_flight(held.process.endpoint)):
                return False
        wish = self._wish  # read with what is decided by it: the next wish may come before the next await returns
        self._apply(EngineEvent.STOP, wish.reason)
        grace = self._limits.stop_grace if wish.deadline > trio.current_time() else 0.0
        await first(lambda: held.process.stop(grace=grace), lambda: self._hurry(held, wish))
        return True

    async def _idle(self, held: Held) -> None:
        """Wait until nothing runs or the wish's patience is over; a later wish may shorten it."""
        await until_idle(lambda: self._in_flight(held.process.endpoint), lambda: self._wish.deadline)

    def _give_up(self, running: int) -> bool:
        """Let a try go that nobody wants any more, or for which some would be cut off; return whether that is so."""
        tried, name = self._wish.attempt, self._wish.plan.strategy.name
        if tried is None or not tried.open or not (running or tried.withdrawn):
            return False
        words = f"serves on: {running} prompts did not end in time for {name}"
        if tried.withdrawn:
            words = f"serves on: nobody wants {name} any more"
        tried.outcome = Outcome(result=NOT_DRAINED, reason=words)
        self.change(tried.before)
        self._attended = self._wish
        self._apply(EngineEvent.RESUMED, words)
        return True

    async def _hurry(self, held: Held, wish: Wish) -> None:
        """Kill it at once when a later wish has no patience left."""
        while wish.number == self._wish.number or self._wish.deadline > trio.current_time():
            await self.record.news()
        await held.process.stop(grace=0.0)

    def _ended(self) -> None:
        """Note that nothing is left of a process that was told to end."""
        if self.record.state is EngineState.STOPPING:
            self._apply(EngineEvent.ENDED, self._wish.reason)

    def _apply(
        self,
        event: EngineEvent,
        reason: str,
        *,
        log_tail: tuple[str, ...] = (),
        pid: int | None = None,
        **facts: str | None,
    ) -> None:
        self.record.apply(event, reason, returning=self._wish.returning, log_tail=log_tail, pid=pid, **facts)
