"""One engine process under watch: until it is ready, and from then on until it hangs or is broken.

Knows what to ask and how long to be patient; knows neither states nor what is done about what it finds.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import structlog
import trio

from node.core.answer_check import FirstTokens, disagreement
from node.core.engine_end import lacked_memory
from node.core.engine_state import ServedModel
from node.core.switching import OUT_OF_MEMORY, START_FAILED, TIMED_OUT, WRONG_ANSWERS, Outcome
from node.errors import EngineUnavailable
from node.ports import Endpoint, EngineProcess, LaunchPlan, Upstream
from node.services.engine_probe import EngineProbe, Finding, Verdict

log = structlog.get_logger(__name__)

READY_TICK = 0.5  # s between questions while it starts; a refused connection costs nothing
DOWN_LIMIT = 3  # health checks in a row that say "broken" before it is believed
COMPARISON_TIMEOUT = 30.0  # s for eight tokens of a busy engine; without them a switch goes on unchecked


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
class Fault:
    """Why an engine is of no use.

    Attributes:
        result: one of `node.core.switching.RESULTS`.
        words: for a person.
        log_tail: its last lines, where it had any.
        hopeless: whether it would end the same way again.
    """

    result: str
    words: str
    log_tail: tuple[str, ...] = ()
    hopeless: bool = False

    @property
    def outcome(self) -> Outcome:
        """What this makes of a try."""
        return Outcome(result=self.result, reason=self.words)


def unavailable(error: EngineUnavailable) -> Fault:
    """Return the fault of an engine that could not even be launched."""
    words = f"{error.message} {error.remedy}".strip()
    result = OUT_OF_MEMORY if lacked_memory(None, (words,)) else START_FAILED
    return Fault(result=result, words=words, hopeless=error.permanent)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """What a sound engine serves: the model that is asked for, and all that it lists."""

    model: str
    models: tuple[ServedModel, ...]


class EngineWatch:
    """The watch over one process that was launched by `plan`."""

    def __init__(
        self,
        upstream: Upstream,
        process: EngineProcess,
        plan: LaunchPlan,
        *,
        limits: TendLimits,
        last_activity: Callable[[Endpoint], float | None],
    ) -> None:
        self._process = process
        self._plan = plan
        self._limits = limits
        self._last_activity = last_activity
        self._probe = EngineProbe(upstream, process.endpoint, patience=limits.probe_timeout)

    async def until_ready(
        self, *, within: float, tell: Callable[[str], None], reference: FirstTokens | None = None
    ) -> Ready | Fault:
        """Ask until it answers well, there is no hope, or `within` seconds are over.

        Args:
            within: seconds.
            tell: is told progress in words.
            reference: what an engine of the same model said, which this one must agree with; None compares nothing.
        """
        latest = Finding(verdict=Verdict.SILENT, words="it has not answered yet")
        with trio.move_on_after(within):
            while True:
                latest, ready = await self._examine(tell, within)
                if ready is not None:
                    return await self._compared(ready, reference)
                if latest.verdict is Verdict.REFUSED:
                    return self._fault(START_FAILED, f"the engine did not become ready: {latest.words}")
                if latest.verdict is Verdict.WRONG:
                    return self._fault(WRONG_ANSWERS, f"the engine answers wrongly: {latest.words}")
                await trio.sleep(READY_TICK)
        return self._fault(TIMED_OUT, f"the engine did not become ready: {latest.words}, after {within:g} s")

    async def first_tokens(self, model: str) -> FirstTokens | None:
        """Ask for what a successor is compared with; None where it cannot be had, which is logged."""
        told = await self._probe.first_tokens(model, patience=COMPARISON_TIMEOUT)
        if isinstance(told, FirstTokens):
            return told
        log.info("engine.not_compared", reason=told.words)
        return None

    async def until_broken(self) -> Fault:
        """Watch until it hangs or says that it is broken. Its exit is another task's to see."""
        last_well = trio.current_time()
        down = 0
        while True:
            await trio.sleep(self._limits.health_every)
            finding = await self._probe.health()
            now = trio.current_time()
            down = down + 1 if finding.verdict is Verdict.DOWN else 0
            if finding.good:
                last_well = now
            if down >= DOWN_LIMIT:
                return self._fault(START_FAILED, f"the engine is broken: {finding.words}")
            last_byte = self._last_activity(self._process.endpoint)
            silence = now - max(last_well, last_byte if last_byte is not None else last_well)
            if silence >= self._limits.hang_after:
                words = f"the engine hangs: neither health nor a byte for {silence:.0f} s ({finding.words})"
                return self._fault(TIMED_OUT, words)

    async def _examine(self, tell: Callable[[str], None], patience: float) -> tuple[Finding, Ready | None]:
        """Health, then models, then a token: the finding tells how far it got."""
        finding = await self._probe.health()
        if not finding.good:
            return finding, None
        finding, models = await self._probe.models()
        if not finding.good:
            return finding, None
        names = tuple(model.name for model in models)
        model = self._plan.served_name or (names[0] if names else "")
        if model not in names:
            words = f"it serves {', '.join(names) or 'no model'}, not {model or 'any'}"
            return Finding(verdict=Verdict.DOWN, words=words), None
        tell("it listens; waiting for its first token")
        finding = await self._probe.token(model, patience=patience, strict=not self._plan.strategy.external)
        if finding.verdict is Verdict.MISSING:
            # It generates and embeds nothing (it ranks, say): being well and listing its model must do.
            finding = replace(finding, verdict=Verdict.GOOD)
        return finding, Ready(model=model, models=models) if finding.good else None

    async def _compared(self, ready: Ready, reference: FirstTokens | None) -> Ready | Fault:
        if reference is None:
            return ready
        now = await self.first_tokens(ready.model)
        if now is not None and (wrong := disagreement(reference, now)):
            return self._fault(WRONG_ANSWERS, f"the engine answers otherwise than before: {wrong}")
        return ready

    def _fault(self, result: str, words: str) -> Fault:
        return Fault(result=result, words=words, log_tail=self._process.log_tail())
