"""Keeps the engine alive: prepare, launch, make sure that it answers, watch it, start it again, end it gently.

Keeps the `EngineBoard` port. Knows the launcher and the upstream as ports, and the table of states; knows neither
vLLM nor processes. Every await of the engine has a deadline; a wish (`stop`, `restart`) interrupts all of them.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import structlog
import trio

from node.core.engine_end import describe_end, hopeless
from node.core.engine_state import SERVING, EngineEvent, EngineLife, EngineSnapshot, EngineState, ServedModel
from node.errors import EngineUnavailable, Unavailable
from node.ports import Endpoint, EngineLauncher, EngineProcess, LaunchPlan, Upstream
from node.services.engine_probe import EngineProbe, Finding, Verdict
from node.services.race import first

log = structlog.get_logger(__name__)

READY_TICK = 0.5  # s between questions while it starts; a refused connection costs nothing
DRAIN_TICK = 0.05  # s between looks at what still runs
DOWN_LIMIT = 3  # health checks in a row that say "broken" before it is believed


@dataclass(frozen=True, slots=True, kw_only=True)
class TendLimits:
    """How long the keeper is patient, in seconds.

    Attributes:
        start_timeout: from launch to the first token; a hub download happens inside.
        hang_after: with neither health nor a byte for so long it hangs. A long prefill on CPU can block /health.
        health_every: between health checks.
        probe_timeout: for one answer to a health check.
        stop_grace: from SIGTERM to SIGKILL once nothing runs any more; vLLM takes 3 s on an idle machine.
    """

    start_timeout: float = 600.0
    hang_after: float = 120.0
    health_every: float = 5.0
    probe_timeout: float = 10.0
    stop_grace: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wish:
    """What the operator or the tuner wants. `deadline`: the loop's time until which what runs may finish."""

    number: int
    running: bool
    plan: LaunchPlan
    reason: str
    deadline: float = float("-inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class _End:
    """Why a life ended by itself. A life that was told to end has none."""

    event: EngineEvent
    reason: str
    log_tail: tuple[str, ...] = ()


class EngineKeeper:
    """One engine, kept alive. `run` does the work; the other methods may be called at any time from any task.

    Capabilities:
        in_flight: how many prompts the engine is working on; a drain waits until there is none.
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
        in_flight: Callable[[], int],
        last_activity: Callable[[Endpoint], float | None],
        luck: Callable[[], float],
        on_change: Callable[[EngineSnapshot], None],
    ) -> None:
        self._launcher = launcher
        self._upstream = upstream
        self._limits = limits
        self._in_flight = in_flight
        self._last_activity = last_activity
        self._luck = luck
        self._on_change = on_change
        self._wish = _Wish(number=0, running=True, plan=plan, reason="the node starts")
        self._lease: trio.CancelScope | None = None  # of whoever the engine is lent to: until it ends, none runs
        self._process: EngineProcess | None = None
        self._models: tuple[ServedModel, ...] = ()
        self._news = trio.Event()
        self._life = EngineLife(
            snapshot=EngineSnapshot(
                state=EngineState.STOPPED,
                since=float("-inf"),
                model=plan.served_name or None,
                strategy=plan.strategy.name,
                reason="not started yet",
            )
        )

    # --- what can be read

    def snapshot(self) -> EngineSnapshot:
        """See the port."""
        return self._life.snapshot

    def endpoint(self) -> Endpoint | None:
        """See the port."""
        if self._process is None or self._life.snapshot.state not in SERVING:
            return None
        return self._process.endpoint

    def models(self) -> tuple[ServedModel, ...]:
        """Return what the engine lists; empty until it was ready once."""
        return self._models

    async def changed(self, than: EngineSnapshot) -> EngineSnapshot:
        """See the port."""
        while self._life.snapshot == than:
            await self._news.wait()
        return self._life.snapshot

    # --- what can be wished

    def start(self, *, reason: str) -> None:
        """Want it running: after a stop, or at once where it waits for its next start or has failed for good."""
        waiting = self._life.snapshot.state in (EngineState.BACKOFF, EngineState.FAILED)
        if waiting or not self._wish.running:
            self._tell(replace(self._wish, running=True, reason=reason))

    def restart(self, *, reason: str, plan: LaunchPlan | None = None, grace: float = 0.0) -> None:
        """Want it ended, after what runs (for at most `grace` seconds), and started anew, by another plan perhaps."""
        deadline = trio.current_time() + grace
        self._tell(_Wish(number=0, running=True, plan=plan or self._wish.plan, reason=reason, deadline=deadline))

    async def stop(self, *, reason: str, grace: float = 0.0) -> None:
        """Want it ended, after what runs (for at most `grace` seconds); return once it is, or is wanted again.

        A second call with less grace shortens the first's. Needs `run` to run. Cancelled, the wish remains.
        """
        deadline = trio.current_time() + grace
        self._tell(replace(self._wish, running=False, reason=reason, deadline=deadline))
        while not self._wish.running and self._life.snapshot.state is not EngineState.STOPPED:
            await self._news.wait()

    @asynccontextmanager
    async def lent(self, *, reason: str, grace: float) -> AsyncIterator[None]:
        """Have it ended as `stop` does and kept so for the block; then, whatever happened, it is wanted again.

        Who wishes something else meanwhile (the node's end, a restart) gets it: the block is cancelled first.

        Raises:
            Unavailable: it is not to be had now, or it was taken back.
        """
        if not self._wish.running:
            raise Unavailable(f"the engine is not to be had: {self._wish.reason}")
        with trio.CancelScope() as lease:
            self._tell(replace(self._wish, running=False, reason=reason, deadline=trio.current_time() + grace))
            self._lease, mine = lease, self._wish.number
            try:
                while self._life.snapshot.state is not EngineState.STOPPED:
                    await self._news.wait()
                yield
            finally:
                self._lease = None
                back = replace(self._wish, running=True, reason=f"no longer {reason}")
                self._tell(back if self._wish.number == mine else self._wish)
        if lease.cancelled_caught:
            raise Unavailable(f"the engine was taken back: {self._wish.reason}")

    def _tell(self, wish: _Wish) -> None:
        if self._lease is not None:
            self._lease.cancel()
        self._wish = replace(wish, number=self._wish.number + 1)
        self._announce()

    # --- the loop

    async def run(self) -> None:
        """Keep the engine as it is wished to be, until cancelled; cancelled, it leaves nothing behind."""
        while True:
            wish = self._wish
            if wish.running and self._lease is None:
                await self._live(wish)
                await self._pause(wish)
            else:
                if self._life.snapshot.state is not EngineState.STOPPED:
                    self._apply(EngineEvent.STOP, wish.reason)
                await self._told(wish)

    async def _pause(self, wish: _Wish) -> None:
        """Wait for the next start, for the first wish after a failure, or not at all."""
        snapshot = self._life.snapshot
        if snapshot.state is EngineState.BACKOFF and snapshot.retry_at is not None:
            with trio.move_on_at(snapshot.retry_at):
                await self._told(wish)
        elif snapshot.state is EngineState.FAILED:
            await self._told(wish)

    async def _live(self, wish: _Wish) -> None:
        """One life, from BEGIN to the state that it leaves behind."""
        snapshot = self._life.snapshot
        self._life = replace(
            self._life,
            snapshot=replace(snapshot, model=wish.plan.served_name or None, strategy=wish.plan.strategy.name),
        )
        self._apply(EngineEvent.BEGIN, wish.reason if snapshot.retry_at is None else "starting again")
        try:
            await self._prepare(wish)
            if self._wish.number == wish.number:
                async with self._launcher.launch(wish.plan) as process:
                    await self._attend(process, wish)
            else:
                self._apply(EngineEvent.STOP, self._wish.reason)
                self._apply(EngineEvent.ENDED, self._wish.reason)
        except EngineUnavailable as error:
            event = EngineEvent.HOPELESS if error.permanent else EngineEvent.TROUBLE
            self._apply(event, f"{error.message} {error.remedy}".strip())
        finally:
            self._process = None

    async def _prepare(self, wish: _Wish) -> None:
        """Make ready what the plan needs, or as much of it as fits before the next wish."""

        async def prepared() -> EngineUnavailable | None:
            try:
                await self._launcher.prepare(wish.plan, tell=self._progress)
            except EngineUnavailable as error:
                return error  # carried out by hand: a nursery would wrap it into a group
            return None

        if error := await first(prepared, lambda: self._told(wish)):
            raise error

    async def _attend(self, process: EngineProcess, wish: _Wish) -> None:
        """From the process's birth to its end."""
        self._process = process
        self._apply(EngineEvent.SPAWNED, "the engine process runs", pid=process.pid)
        end = await first(
            lambda: self._exit(process), lambda: self._raise_and_watch(process, wish), lambda: self._told(wish)
        )
        if isinstance(end, _End):
            # Before the process is killed (on leaving its context): from now on nobody is sent there.
            self._apply(end.event, end.reason, log_tail=end.log_tail)
        else:
            await self._put_down(process)

    async def _exit(self, process: EngineProcess) -> _End:
        """Wait for its end, which was not asked for."""
        ended = await process.wait()
        starting = self._life.snapshot.state is EngineState.STARTING
        lost = starting and hopeless(ended.code, ended.log_tail)
        when = "while starting" if starting else "while serving"
        return _End(
            event=EngineEvent.HOPELESS if lost else EngineEvent.TROUBLE,
            reason=f"the engine {describe_end(ended.code, ended.signal, ended.log_tail)} ({when})",
            log_tail=ended.log_tail,
        )

    # --- up

    async def _raise_and_watch(self, process: EngineProcess, wish: _Wish) -> _End:
        probe = EngineProbe(self._upstream, process.endpoint, patience=self._limits.probe_timeout)
        if problem := await self._not_ready(probe, wish.plan):
            return self._trouble(process, f"the engine did not become ready: {problem}")
        self._apply(EngineEvent.ANSWERED, "healthy, and it answers")
        return await self._watch(process, probe)

    async def _not_ready(self, probe: EngineProbe, plan: LaunchPlan) -> str:
        """Ask until it is ready; return "" then, and what is wrong once there is no hope or no time left."""
        latest = Finding(verdict=Verdict.SILENT, words="it has not answered yet")
        with trio.move_on_after(self._limits.start_timeout):
            while True:
                latest = await self._examine(probe, plan)
                if latest.good:
                    return ""
                if latest.verdict is Verdict.REFUSED:
                    return latest.words
                await trio.sleep(READY_TICK)
        return f"{latest.words}, after {self._limits.start_timeout:g} s"

    async def _examine(self, probe: EngineProbe, plan: LaunchPlan) -> Finding:
        """Health, then models, then a token: the last finding tells how far it got."""
        finding = await probe.health()
        if not finding.good:
            return finding
        finding, models = await probe.models()
        if not finding.good:
            return finding
        names = tuple(model.name for model in models)
        model = plan.served_name or (names[0] if names else "")
        if model not in names:
            words = f"it serves {', '.join(names) or 'no model'}, not {model or 'any'}"
            return Finding(verdict=Verdict.DOWN, words=words)
        self._progress("it listens; waiting for its first token")
        finding = await probe.token(model, patience=self._limits.start_timeout)
        if finding.verdict is Verdict.MISSING:
            # It generates and embeds nothing (it ranks, say): being well and listing its model must do.
            finding = replace(finding, verdict=Verdict.GOOD)
        if finding.good:
            self._models = models
            self._show(replace(self._life.snapshot, model=model))
        return finding

    async def _watch(self, process: EngineProcess, probe: EngineProbe) -> _End:
        """Until it hangs or is broken. Its exit is another task's to see."""
        last_well = trio.current_time()
        down = 0
        while True:
            await trio.sleep(self._limits.health_every)
            finding = await probe.health()
            now = trio.current_time()
            down = down + 1 if finding.verdict is Verdict.DOWN else 0
            if finding.good:
                last_well = now
            if down >= DOWN_LIMIT:
                return self._trouble(process, f"the engine is broken: {finding.words}")
            last_byte = self._last_activity(process.endpoint)
            silence = now - max(last_well, last_byte if last_byte is not None else last_well)
            if silence >= self._limits.hang_after:
                words = f"the engine hangs: neither health nor a byte for {silence:.0f} s ({finding.words})"
                return self._trouble(process, words)

    def _trouble(self, process: EngineProcess, reason: str) -> _End:
        return _End(event=EngineEvent.TROUBLE, reason=reason, log_tail=process.log_tail())

    # --- down

    async def _put_down(self, process: EngineProcess) -> None:
        """End it as the wish says: what runs first, then the process."""
        if self._life.snapshot.state is EngineState.READY:
            self._apply(EngineEvent.DRAIN, self._wish.reason)
            if end := await first(lambda: self._exit(process), self._idle):
                self._apply(EngineEvent.TROUBLE, end.reason)
                return
        wish = self._wish  # read with what is decided by it: the next wish may come before the next await returns
        self._apply(EngineEvent.STOP, wish.reason)
        grace = self._limits.stop_grace if wish.deadline > trio.current_time() else 0.0
        await first(lambda: process.stop(grace=grace), lambda: self._hurry(process, wish))
        self._apply(EngineEvent.ENDED, self._wish.reason)

    async def _idle(self) -> None:
        """Wait until nothing runs or the wish's patience is over; a later wish may shorten it."""
        # The count is another service's, which owes us no event; a look costs nothing.
        while self._in_flight() > 0 and trio.current_time() < self._wish.deadline:  # noqa: ASYNC110
            await trio.sleep(DRAIN_TICK)

    async def _hurry(self, process: EngineProcess, wish: _Wish) -> None:
        """Kill it at once when a later wish has no patience left."""
        while wish.number == self._wish.number or self._wish.deadline > trio.current_time():
            await self._news.wait()
        await process.stop(grace=0.0)

    # --- bookkeeping

    async def _told(self, wish: _Wish) -> None:
        """Wait until another wish has replaced this one."""
        while self._wish.number == wish.number:
            await self._news.wait()

    def _apply(
        self, event: EngineEvent, reason: str, *, log_tail: tuple[str, ...] = (), pid: int | None = None
    ) -> None:
        self._life = self._life.after(
            event, now=trio.current_time(), luck=self._luck(), reason=reason, log_tail=log_tail, pid=pid
        )
        snapshot = self._life.snapshot
        log.info("engine.state", state=snapshot.state.value, reason=reason, pid=snapshot.pid)
        self._announce()
        self._on_change(snapshot)

    def _progress(self, words: str) -> None:
        self._show(replace(self._life.snapshot, progress=words))

    def _show(self, snapshot: EngineSnapshot) -> None:
        if snapshot == self._life.snapshot:
            return
        self._life = replace(self._life, snapshot=snapshot)
        self._announce()
        self._on_change(snapshot)

    def _announce(self) -> None:
        self._news.set()
        self._news = trio.Event()
