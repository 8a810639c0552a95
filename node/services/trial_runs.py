"""Trials beside a running node: while nobody wants an answer, and when its owner asks.

Knows the engine as something to be lent, the bench and the book as capabilities, and how prompts are counted; knows
no vLLM and no screen. One run at a time: the owner's goes first, and a prompt ends an idle one at once.
"""

from collections import deque
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import structlog
import trio

from node.core.engine_state import LENT, EngineSnapshot, EngineState
from node.core.trial_plan import Limits, Tally
from node.core.trial_request import PPM_PER_PERCENT, InvalidRequest, TrialRequest, from_plain
from node.errors import NodeError, Unavailable
from node.services.race import first
from node.services.sign_trials import TrialSigner, Write, nothing_left
from node.services.trial_report import plain, plain_facts
from node.services.trials import Wish, known, run_trials
from node.trial_ports import TrialHands, Workshop

log = structlog.get_logger(__name__)

Tell = Callable[[str, Mapping[str, Any]], None]

LOOK = 5.0  # s between looks at whether the node is idle; it must be so for minutes
WATCH = 0.2  # s between looks for a prompt while trials run: what the first one waits beside the engine's start
AGAIN = 3600.0  # s until a plan that is complete, or that could not be tried, is looked at again
DAY = 86_400.0
RETRIES = 10  # in idle time, of a cell whose trials are discarded: its machine's owner may be at work for days
RELOAD = 600.0  # s waited at most for the engine to be up again, which the day's budget pays for
LEAST = 120.0  # s of the day's budget below which nothing is begun: vLLM's import, a probe and one session


class LendableEngine(Protocol):
    """The node's own engine."""

    def snapshot(self) -> EngineSnapshot:
        """Return what it is doing."""
        ...

    def lent(self, *, reason: str, grace: float) -> AbstractAsyncContextManager[None]:
        """Have it stopped for the block. See `node.services.tend.EngineKeeper.lent`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialPolicy:
    """When trials run unasked. Seconds.

    Attributes:
        idle: whether they do.
        idle_after: for so long nobody was owed an answer; longer after runs that a prompt ended too soon.
        daily: for so long at most in 24 hours, until the engine is up again. How long that takes is known only after
            the first run, which may be longer by it.
        grace: that running prompts have when the owner asks for trials.
    """

    idle: bool = True
    idle_after: float = 900.0
    daily: float = 900.0
    grace: float = 30.0


class TrialRuns:
    """A node's trials. `run` tries in idle time; `answer` is what the owner asks for."""

    def __init__(  # noqa: PLR0913 -- a list of capabilities
        self,
        *,
        engine: LendableEngine,
        hands: TrialHands,
        write: Write,
        author: str,
        policy: TrialPolicy,
        owed: Callable[[], int],
        prompts_seen: Callable[[], int],
        tell: Tell,
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        """Prepare.

        Args:
            author: the peer id under which `write` signs.
            owed: how many prompts that the engine has to generate for run or wait here now.
            prompts_seen: how many of those ever came, whatever became of them.
            tell: lifecycle events: `trials_began`, `trials_ended`.
        """
        self._engine = engine
        self._hands = hands
        self._write = write
        self._author = author
        self._policy = policy
        self._owed = owed
        self._prompts_seen = prompts_seen
        self._tell = tell
        self._clock = clock
        self._turn = trio.Lock()
        self._asked = False  # the owner's run goes on, or waits for the idle one to end
        self._spent: deque[tuple[float, float]] = deque()  # idle runs of the last day: engine taken, and up again
        self._reload = 0.0  # s that it took to be up again after the last one
        self._idle_after = policy.idle_after
        self._finished = 0  # sessions of the run that goes on, or of the last one
        self._doubted: set[str] = set()  # cells that no peer would believe: bounded by what this process ever tried
        self._not_before = float("-inf")
        self._complete = False
        self._tally: Tally | None = None
        self._last_reason = ""
        self._interruption = ""  # why the run that goes on is being broken off

    def facts(self) -> dict[str, Any]:
        """Return how far trials are, for `metainf status`."""
        state: Literal["running", "complete", "idle", "off"] = "idle" if self._policy.idle else "off"
        if self._turn.locked():
            state = "running"
        elif self._complete:
            state = "complete"
        tally = self._tally
        return {
            "state": state,
            "cells": tally.complete if tally is not None else 0,
            "of": tally.cells if tally is not None else 0,
            "discarded_share": tally.discarded_share if tally is not None else None,
            "last_reason": self._last_reason,
        }

    # --- asked for

    async def answer(self, asked: object, tell: Callable[[Mapping[str, Any]], None]) -> Mapping[str, Any]:
        """Run what the owner asks for, and return the report; cancelled, the engine comes back and nothing is lost.

        Args:
            asked: `node.core.trial_request.TrialRequest` as JSON has it.
            tell: is told each event, as plain values under "event"; must not block.

        Raises:
            NodeError: it is no such request, trials run already, or they cannot be run.
        """
        try:
            request = from_plain(asked)
        except InvalidRequest as error:
            raise NodeError(f"no request for trials: {error}") from error
        if self._asked:
            raise Unavailable("trials run already", remedy="wait for their end, or break off the command that asked")
        self._asked = True
        try:
            if self._turn.locked():
                tell({"event": "doing", "text": "ending the idle trials"})
            async with self._turn:  # an idle run sees `_asked` and ends
                workshop = await self._hands.prepare(lambda text: tell({"event": "doing", "text": text}))
                wish = wish_of(request, workshop, request.budget * 60)
                page = await workshop.book.read()
                if report := nothing_left(page, wish, model=workshop.model, doubted=self._doubted):
                    return plain(report, author=self._author)  # the engine stays where it is
                return await self._told("asked for", request.budget * 60, request, tell)
        finally:
            self._asked = False

    # --- in idle time

    async def run(self) -> None:
        """Try whenever the node is idle, until cancelled."""
        while self._policy.idle:
            seen = await self._until_idle()
            async with self._turn:
                if self._asked or self._wanted(seen):
                    continue
                taken = await self._attempt(seen, self._left(self._clock()) - self._reserve)
            if taken is not None:
                await self._until_back()
                self._spent.append((taken, self._clock()))

    async def _until_idle(self) -> int:
        """Wait until nobody was owed an answer for long enough; return how many prompts had come by then.

        A look more than that: the last one that found it busy may have been as long before its end.
        """
        seen, since = self._prompts_seen(), self._clock()
        while True:
            await trio.sleep(LOOK)
            now = self._clock()
            ready = self._engine.snapshot().state is EngineState.READY
            if self._asked or not ready or self._wanted(seen):
                seen, since = self._prompts_seen(), now
            elif now - since >= self._idle_after + LOOK and now >= self._not_before and self._enough(now):
                return seen

    async def _until_back(self) -> None:
        """Wait until the engine is up again (at most for `RELOAD`), or the owner wants it away once more."""
        since = self._clock()
        while not self._asked and self._clock() - since < RELOAD:
            await trio.sleep(WATCH)
            if self._engine.snapshot().state in (EngineState.READY, EngineState.FAILED):
                break
        if not self._asked:
            self._reload = self._clock() - since

    async def _attempt(self, seen: int, left: float) -> float | None:
        """Try until all is tried, the day's budget is spent or somebody wants an answer.

        Return when the engine was taken away; None where it was left alone.
        """
        request = TrialRequest()
        try:
            workshop = await self._hands.prepare(_unheard)
        except NodeError as error:
            self._ended(error.message, again_after=AGAIN)
            return None
        wish, page = wish_of(request, workshop, left, retries=RETRIES), await workshop.book.read()
        found = known(page, wish, model=workshop.model)
        self._tally = found.report.tally if found is not None else None
        self._complete = nothing_left(page, wish, model=workshop.model, doubted=self._doubted) is not None
        if self._complete:
            self._ended("complete", again_after=AGAIN)
            return None
        taken: float | None = None

        async def tried() -> str:
            nonlocal taken
            if self._asked or self._wanted(seen):  # since it was found idle; from here to the loan nothing is awaited
                return ""
            taken = self._clock()
            with trio.move_on_after(left):
                try:
                    report = await self._told("idle", left, request, _unheard, retries=RETRIES)
                except NodeError as error:
                    self._not_before = self._clock() + AGAIN
                    return error.message
                return str(report["ended"])
            return "budget"

        reason = await first(tried, lambda: self._until_wanted(seen))
        if taken is not None:
            self._complete = reason == "complete"
            self._ended(reason, again_after=AGAIN if self._complete else 0.0)
            self._be_patient(prompted=self._wanted(seen))
        return taken

    def _be_patient(self, *, prompted: bool) -> None:
        """Ask for more quiet where prompts come as often as not: each that ends trials waits for an engine's start."""
        if self._finished:
            self._idle_after = self._policy.idle_after
        elif prompted:
            self._idle_after = max(min(2 * self._idle_after, DAY), self._policy.idle_after)
            log.info("trials.backed_off", idle_after=self._idle_after)

    async def _until_wanted(self, seen: int) -> str:
        """Wait until the engine is to be had back."""
        # Counts are other services', which owe us no event; a look costs nothing.
        while not (self._asked or self._wanted(seen)):  # noqa: ASYNC110
            await trio.sleep(WATCH)
        self._interruption = "trials were asked for" if self._asked else "a prompt came"
        return self._interruption

    def _wanted(self, seen: int) -> bool:
        return self._owed() > 0 or self._prompts_seen() != seen

    def _left(self, now: float) -> float:
        """Return how many of the day's seconds are left."""
        while self._spent and self._spent[0][1] <= now - DAY:
            self._spent.popleft()
        return self._policy.daily - sum(end - max(begin, now - DAY) for begin, end in self._spent)

    @property
    def _reserve(self) -> float:
        """Seconds of the day's budget that are the engine's, to be up again; not all, should it once have hung."""
        return min(self._reload, self._policy.daily / 2)

    def _enough(self, now: float) -> bool:
        return self._left(now) - self._reserve >= min(LEAST, self._policy.daily - self._reserve)

    def _ended(self, reason: str, *, again_after: float) -> None:
        self._last_reason = reason
        self._not_before = max(self._not_before, self._clock() + again_after)

    # --- both

    async def _told(
        self,
        why: str,
        budget: float,
        request: TrialRequest,
        tell: Callable[[Mapping[str, Any]], None],
        *,
        retries: int = 2,
    ) -> Mapping[str, Any]:
        """Run trials with the engine out of the way; say so at both ends."""
        began, reason, signer, self._interruption = self._clock(), "", None, ""
        begun = self._finished = 0

        def said(event: str, facts: Mapping[str, Any]) -> None:
            nonlocal begun
            if event == "session":
                self._tally = facts["tally"]
                begun, self._finished = begun + 1, begun  # this one is begun when all before it are finished
            tell({"event": event, **plain_facts(facts)})

        log.info("trials.began", why=why)
        self._tell("trials_began", {"reason": why})
        try:
            tell({"event": "doing", "text": "waiting for what the engine still answers"})
            async with self._engine.lent(reason=LENT, grace=self._policy.grace):
                workshop = await self._hands.prepare(lambda text: tell({"event": "doing", "text": text}))
                tell({"event": "doing", "text": "looking at the machine"})
                setting = await workshop.setting()
                signer = TrialSigner(workshop.book, setting, self._write, doubted=self._doubted)
                tell({"event": "doing", "text": "importing vLLM"})
                async with workshop.open() as bench:
                    report = await run_trials(
                        bench,
                        workshop.book,
                        wish_of(request, workshop, began + budget - self._clock(), retries=retries),
                        clock=self._clock,
                        mint=self._hands.mint,
                        tell=said,
                        keep=signer,
                    )
            self._tally, reason, self._finished = report.tally, report.ended, begun
            return plain(report, signed=signer.signed, author=self._author, trouble=signer.trouble)
        except NodeError as error:
            reason = error.message
            raise
        finally:
            late = self._clock() >= began + budget
            self._last_reason = reason = reason or self._interruption or ("budget" if late else "broken off")
            records = signer.signed if signer is not None else 0
            log.info("trials.ended", reason=reason, records=records)
            self._tell("trials_ended", {"reason": reason, "records": records})


def wish_of(request: TrialRequest, workshop: Workshop, budget: float, *, retries: int = 2) -> Wish:
    """Return the request in the terms of those who act on it. `budget` in seconds."""
    return Wish(
        kinds=request.workloads,
        repetitions=request.repetitions,
        retries=retries,
        limits=Limits(foreign=round(request.foreign * PPM_PER_PERCENT), waited=round(request.waited * PPM_PER_PERCENT)),
        budget=budget,
        wide=request.wide,
        most=request.strategies,
        again=request.fresh,
        gpus=workshop.gpus,
        context=workshop.context,
    )


def _unheard(_: object) -> None:
    """Hear what nobody watches."""
