"""Keeps the engine alive, and takes what others wish for it: start, restart, stop, lend, change its strategy.

Keeps the `EngineBoard` port. The work is `EngineLoop`'s; here is what each wish means for the next. Two ways lead to
another plan without losing a prompt: `succeed` starts a second process beside the one that serves and changes over in
one step; `exchange` ends the one and starts the other, and returns to the old plan at once where the new one does not
become ready. See docs/decisions/switching.md.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import trio

from node.core.answer_check import FirstTokens
from node.core.engine_state import AT_REST, SERVING, EngineSnapshot, EngineState, ServedModel
from node.core.strategy import Strategy
from node.core.switching import DONE, OVERRULED, WORSE, Outcome, same_answers
from node.errors import EngineUnavailable, Unavailable
from node.ports import Endpoint, EngineLauncher, LaunchPlan, Upstream
from node.services.engine_hold import Held, hold
from node.services.engine_loop import EngineLoop
from node.services.engine_watch import DOWN_LIMIT, Fault, Ready, TendLimits, unavailable
from node.services.engine_wish import Attempt, Wish
from node.services.race import first
from node.tuner_ports import Audition

__all__ = ["DOWN_LIMIT", "EngineKeeper", "TendLimits"]


class EngineKeeper:
    """One engine, kept alive. `run` does the work; the other methods may be called at any time from any task.

    Capabilities:
        in_flight: how many prompts the engine at an endpoint is working on; a drain waits until there is none.
        last_activity: the loop's time of the last byte from an endpoint, None before the first.
        luck: numbers in [0, 1), which spread new starts.
        on_change: told of every new snapshot, in order, from within the loop; it must not block.
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
        self._launcher = launcher
        self._loop = EngineLoop(
            launcher=launcher,
            upstream=upstream,
            plan=plan,
            limits=limits,
            in_flight=in_flight,
            last_activity=last_activity,
            luck=luck,
            on_change=on_change,
        )
        self._record = self._loop.record

    async def run(self) -> None:
        """Keep the engine as it is wished to be, until cancelled; cancelled, it leaves nothing behind."""
        await self._loop.run()

    # --- what can be read

    def snapshot(self) -> EngineSnapshot:
        """See the port."""
        return self._record.snapshot

    def endpoint(self) -> Endpoint | None:
        """See the port."""
        return self._serving.process.endpoint if self._serving is not None else None

    def models(self) -> tuple[ServedModel, ...]:
        """Return what the engine lists; empty until it was ready once."""
        return self._loop.models

    def plan(self) -> LaunchPlan:
        """Return what it runs, or is on its way to."""
        return self._loop.wish.plan

    def launched(self) -> Strategy | None:
        """Return what the engine that serves now was launched with; None while none serves."""
        return self._serving.plan.strategy if self._serving is not None else None

    def starts(self) -> tuple[float, ...]:
        """Return the seconds from launch to the first token of the last starts, oldest first."""
        return self._record.starts()

    def troubles(self) -> int:
        """Count the unplanned ends of the last ten minutes under the present strategy."""
        return self._record.troubles()

    def leaving(self) -> bool:
        """Tell whether an engine that another has taken over from is still there."""
        return self._loop.leaving > 0

    def absent_s(self) -> float:
        """Return the seconds, since it served for the first time, in which no engine served."""
        return self._record.absent_s()

    async def changed(self, than: EngineSnapshot) -> EngineSnapshot:
        """See the port."""
        while self._record.snapshot == than:
            await self._record.news()
        return self._record.snapshot

    @property
    def _serving(self) -> Held | None:
        return self._loop.held if self._record.state in SERVING else None

    # --- what can be wished

    def start(self, *, reason: str) -> None:
        """Want it running: after a stop, or at once where it waits for its next start or has failed for good."""
        waiting = self._record.state in (EngineState.BACKOFF, EngineState.FAILED)
        if waiting or not self._loop.wish.running:
            self._loop.tell(replace(self._loop.wish.untried(), running=True, reason=reason))

    def restart(self, *, reason: str, plan: LaunchPlan | None = None, grace: float = 0.0) -> None:
        """Want it ended, after what runs (for at most `grace` seconds), and started anew, by another plan perhaps.

        Prompts may wait for it meanwhile.
        """
        wish, deadline = self._loop.wish.untried(), trio.current_time() + grace
        self._loop.tell(Wish(running=True, plan=plan or wish.plan, reason=reason, deadline=deadline, returning=True))

    async def stop(self, *, reason: str, grace: float = 0.0) -> None:
        """Want it ended, after what runs (for at most `grace` seconds); return once it is, or is wanted again.

        A second call with less grace shortens the first's. Needs `run` to run. Cancelled, the wish remains.
        """
        self._loop.tell(self._away(reason, grace, returning=False))
        while not self._loop.wish.running and not self._loop.empty():
            await self._record.news()

    @asynccontextmanager
    async def lent(self, *, reason: str, grace: float) -> AsyncIterator[None]:
        """Have it ended as `stop` does and kept so for the block; then, whatever happened, it is wanted again.

        Prompts may wait for it meanwhile. Who wishes something else (the node's end, a restart) gets it: the block is
        cancelled first.

        Raises:
            Unavailable: it is not to be had now, or it was taken back.
        """
        loop = self._loop
        if not loop.wish.running:
            raise Unavailable(f"the engine is not to be had: {loop.wish.reason}")
        with trio.CancelScope() as lease:
            loop.tell(self._away(reason, grace, returning=True))
            loop.lease, mine = lease, loop.wish.number
            try:
                while not loop.empty():
                    await self._record.news()
                yield
            finally:
                loop.lease = None
                back = replace(loop.wish, running=True, reason=f"no longer {reason}")
                loop.change(back if loop.wish.number == mine else loop.wish)
        if lease.cancelled_caught:
            raise Unavailable(f"the engine was taken back: {loop.wish.reason}")

    def _away(self, reason: str, grace: float, *, returning: bool) -> Wish:
        deadline = trio.current_time() + grace
        return replace(self._loop.wish.untried(), running=False, reason=reason, deadline=deadline, returning=returning)

    def rename(self, plan: LaunchPlan, *, reason: str) -> None:
        """Say that what runs works as by `plan` without a restart; the next start is by that plan."""
        self._loop.amend(replace(self._loop.wish, plan=plan, standing=reason))
        self._record.forget()
        self._record.show(strategy=plan.strategy.name, reason=reason)

    # --- another plan, without losing a prompt

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
        """Start a second engine beside the one that serves, and change over to it in one step once it is ready.

        The old one then takes nothing new and ends with the last of what it answers, in the background. Where the new
        one fails, nobody notices. Where the old one dies meanwhile, the new one is the engine as soon as it is ready.
        Cancelled, the new one is put away.

        Args:
            plan: what the new one is started by.
            reason: why; the snapshot says so from the change on.
            start_timeout: seconds from launch until it must be ready.
            patience: seconds for what the old one still answers, from the change on.
            compare: whether its first tokens must be the old one's, as far as both can be had.
            audition: hears it once it is ready, while the old one serves; what it finds fault with never takes over.
                Not waited for once the old one is gone. Must end by itself.
        """
        await self._alone()
        wish = self._loop.wish
        if not wish.running or self._record.state is not EngineState.READY:
            return Outcome(result=OVERRULED, reason=f"no engine serves that another could follow: {wish.reason}")

        successor = _Successor(
            plan=plan, reason=reason, start_timeout=start_timeout, patience=patience, audition=audition
        )

        async def followed() -> Outcome:
            reference = await self._reference(plan) if compare else None
            try:
                return await self._follow(wish, successor, reference)
            except EngineUnavailable as error:
                return unavailable(error).outcome

        async def told() -> Outcome:
            await self._loop.told(wish)
            return self._overruled()

        with self._loop.heir_expected():
            return await first(followed, told)

    async def _follow(self, wish: Wish, successor: "_Successor", reference: FirstTokens | None) -> Outcome:
        nursery = self._loop.nursery
        if nursery is None:
            return self._overruled()
        await self._launcher.prepare(successor.plan, tell=_unheard)
        heir = await hold(nursery, self._launcher, successor.plan)
        try:
            found = await self._proved(heir, successor, reference)
            if isinstance(found, Fault):
                return found.outcome
            if self._loop.wish.number != wish.number:
                return self._overruled()
            self._loop.take_over(heir, found, reason=successor.reason, patience=successor.patience)
            return Outcome(result=DONE, reason=successor.reason)
        finally:
            if self._loop.held is not heir:
                await heir.let_go()

    async def _proved(self, heir: Held, successor: "_Successor", reference: FirstTokens | None) -> Ready | Fault:
        """Wait until a second engine is ready and was heard; return what it serves, or why it must not."""

        async def ended() -> Fault:
            return heir.fault(await heir.process.wait(), starting=True)

        async def ready() -> Ready | Fault:
            watch = self._loop.watch(heir)
            return await watch.until_ready(within=successor.start_timeout, tell=_unheard, reference=reference)

        found = await first(ended, ready)
        audition = successor.audition
        if isinstance(found, Fault) or audition is None:
            return found
        model = found.model

        async def heard() -> Fault | None:
            words = await audition(heir.process.endpoint, model)
            return Fault(result=WORSE, words=words) if words else None

        return await first(ended, heard, self._left_alone) or found

    async def _left_alone(self) -> None:
        """Wait until no engine serves any more beside the one that is to follow."""
        while self._record.state is EngineState.READY:
            await self._record.news()

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
        """End the engine once nothing runs and start it by another plan; return once it serves again, or cannot.

        What runs is never cut off: where it does not end within `patience` seconds, the engine takes prompts again.
        Where the new one does not become ready, `fallback` is started at once; this returns when that serves, or has
        troubles of its own, which are tended as ever. Cancelled before the old one has ended, it serves on; cancelled
        later, the change goes its way. The other arguments are those of `succeed`.
        """
        await self._alone()
        loop, before = self._loop, self._loop.wish
        reference = await self._reference(plan) if compare else None
        if loop.wish.number != before.number or not before.running:
            return self._overruled()
        attempt = Attempt(fallback=fallback, before=before, start_timeout=start_timeout, reference=reference)
        wish = Wish(running=True, plan=plan, reason=reason, standing=reason, returning=True, attempt=attempt)
        loop.tell(replace(wish, deadline=trio.current_time() + patience))
        try:
            while attempt.outcome is None:
                await self._record.news()
        finally:
            if attempt.open and self._record.state in SERVING:
                attempt.withdrawn = True
                loop.amend(replace(loop.wish, deadline=float("-inf")))
        number = loop.wish.number
        while attempt.outcome.failed and loop.wish.number == number and self._record.state not in AT_REST:
            await self._record.news()
        return attempt.outcome

    async def _alone(self) -> None:
        """Wait until no engine is on its way out any more: nobody reckons with memory for three."""
        while self._loop.leaving:
            await self._record.news()

    async def _reference(self, plan: LaunchPlan) -> FirstTokens | None:
        """Ask the engine that serves for what one by `plan` must agree with; None where they need not agree."""
        held, model = self._loop.held, self._record.snapshot.model
        if held is None or model is None or self._record.state is not EngineState.READY:
            return None
        same = (held.plan.model, held.plan.served_name, held.plan.dtype) == (plan.model, plan.served_name, plan.dtype)
        if not same or not same_answers(held.plan.strategy, plan.strategy):
            return None
        return await self._loop.watch(held).first_tokens(model)

    def _overruled(self) -> Outcome:
        return Outcome(result=OVERRULED, reason=self._loop.wish.reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Successor:
    """What `succeed` was asked for."""

    plan: LaunchPlan
    reason: str
    start_timeout: float
    patience: float
    audition: Audition | None


def _unheard(_: str) -> None:
    """Hear what is told of an engine that is not the engine yet."""
