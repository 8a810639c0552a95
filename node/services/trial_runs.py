"""Trials beside a running node: while nobody wants an answer, and when its owner asks.

Knows the engine as something to be lent, the bench and the book as capabilities, how prompts are counted, and that
somebody may have strategies that he wants tried first; knows no vLLM, no screen and no tuner. One run at a time: the
owner's goes first, and a prompt ends an idle one at once.
"""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from math import log2
from typing import Any, Literal, Protocol

import structlog
import trio

from node.core.engine_state import LENT, EngineSnapshot, EngineState
from node.core.probes import Probes
from node.core.trial_plan import Tally
from node.core.trial_request import InvalidRequest, from_plain
from node.core.workload import Description
from node.core.workloads import KINDS, MIRROR
from node.errors import NodeError, Unavailable
from node.services.race import first
from node.services.sign_trials import TrialSigner, Write, nothing_left
from node.services.trial_budget import DayBudget, Spending
from node.services.trial_report import plain, plain_facts
from node.services.trial_wishes import WishFor, idle_wishes, wish_of
from node.services.trials import Wish, known, run_trials
from node.trial_ports import TrialHands, Workshop

log = structlog.get_logger(__name__)

Tell = Callable[[str, Mapping[str, Any]], None]

LOOK = 5.0  # s between looks at whether the node is idle; it must be so for minutes
WATCH = 0.2  # s between looks for a prompt while trials run: what the first one waits beside the engine's start
AGAIN = 3600.0  # s until a plan that is complete, or that could not be tried, is looked at again
DAY = 86_400.0
RELOAD = 600.0  # s waited at most for the engine to be up again, which the day's budget pays for


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
        probes: Callable[[], Probes | None] = lambda: None,
        tried: Callable[[], None] = lambda: None,
        description: Callable[[], Description | None] = lambda: None,
        spending: Spending | None = None,
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        """Prepare.

        Args:
            author: the peer id under which `write` signs.
            owed: how many prompts that the engine has to generate for run or wait here now.
            prompts_seen: how many of those ever came, whatever became of them.
            tell: lifecycle events: `trials_began`, `trials_ended`.
            probes: what somebody wants tried first in idle time; None where nobody does.
            tried: is called when a run that made trials is over, its records written, the engine on its way back.
            description: of this node's traffic, for the load that is made like it; None while too little came.
            spending: keeps what is spent of the day's budget over a restart; None: nothing does.
        """
        self._engine = engine
        self._hands = hands
        self._write = write
        self._author = author
        self._policy = policy
        self._owed = owed
        self._prompts_seen = prompts_seen
        self._tell = tell
        self._probes = probes
        self._tried = tried
        self._description = description
        self._clock = clock
        self._budget = DayBudget(policy.daily, spending=spending, clock=clock)
        self._turn = trio.Lock()
        self._asked = False  # the owner's run goes on, or waits for the idle one to end
        self._taken: float | None = None  # when the idle run that goes on, or is not paid yet, took the engine
        self._idle_after = policy.idle_after
        self._finished = 0  # sessions of the run that goes on, or of the last one
        self._doubted: set[str] = set()  # cells that no peer would believe: bounded by what this process ever tried
        self._not_before = float("-inf")
        self._complete = False
        self._wanted_then: Probes | None = None  # what somebody wanted at the last attempt
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
                description = self._description() if MIRROR in request.workloads else None
                if MIRROR in request.workloads and description is None:
                    raise Unavailable(
                        "too few prompts came to make a load like this node's traffic",
                        remedy=f"let it answer some first, or choose of {', '.join(KINDS)}",
                    )

                def wish_for(workshop: Workshop, budget: float) -> Wish:
                    return wish_of(request, workshop, budget, description=description)

                budget = request.budget * 60
                page = await workshop.book.read()
                if report := nothing_left(
                    page, wish_for(workshop, budget), model=workshop.model, doubted=self._doubted
                ):
                    return plain(report, author=self._author)  # the engine stays where it is
                return await self._told("asked for", budget, wish_for, tell)
        finally:
            self._asked = False

    # --- in idle time

    async def run(self) -> None:
        """Try whenever the node is idle, until cancelled."""
        if self._policy.idle:
            await self._budget.recall()
        while self._policy.idle:
            seen = await self._until_idle()
            try:
                async with self._turn:
                    if self._asked or self._wanted(seen):
                        continue
                    await self._attempt(seen, self._budget.for_trials(self._clock()))
                if self._taken is not None:
                    await self._until_back()
            finally:
                taken, self._taken = self._taken, None
                if taken is not None:
                    await self._budget.end(taken)

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
            elif now - since >= self._idle_after + LOOK and self._due(now) and self._budget.enough(now):
                return seen

    def _due(self, now: float) -> bool:
        """Whether there may be something to try: the time has come, or all is tried and something new is wanted."""
        return now >= self._not_before or (self._complete and not _alike(self._probes(), self._wanted_then))

    async def _until_back(self) -> None:
        """Wait until the engine is up again (at most for `RELOAD`), or the owner wants it away once more."""
        since = self._clock()
        while not self._asked and self._clock() - since < RELOAD:
            await trio.sleep(WATCH)
            if self._engine.snapshot().state in (EngineState.READY, EngineState.FAILED):
                break
        if not self._asked:
            self._budget.reload = self._clock() - since

    async def _attempt(self, seen: int, left: float) -> None:
        """Try until all of one wish is tried, the day's budget is spent or somebody wants an answer.

        `_taken` says afterwards when the engine was taken away; None where it was left alone.
        """
        try:
            workshop = await self._hands.prepare(_unheard)
        except NodeError as error:
            self._ended(error.message, again_after=AGAIN)
            return
        self._wanted_then, page = self._probes(), await workshop.book.read()
        wishes = idle_wishes(self._wanted_then)
        while wishes:
            wish = wishes[0](workshop, left)
            found = known(page, wish, model=workshop.model)
            self._tally = found.report.tally if found is not None else None
            if nothing_left(page, wish, model=workshop.model, doubted=self._doubted) is None:
                break
            wishes = wishes[1:]
        self._complete = not wishes
        if not wishes:
            self._ended("complete", again_after=AGAIN)
            return
        await self._attempt_one(seen, left, wishes[0], last=len(wishes) == 1)

    async def _attempt_one(self, seen: int, left: float, wanted: WishFor, *, last: bool) -> None:
        async def tried() -> str:
            if self._asked or self._wanted(seen):  # since it was found idle; from here to the loan nothing is awaited
                return ""
            self._taken = self._clock()
            with trio.move_on_after(left):
                try:
                    report = await self._told("idle", left, wanted, _unheard, away=self._budget.begin)
                except NodeError as error:
                    self._not_before = self._clock() + AGAIN
                    return error.message
                return str(report["ended"])
            return "budget"

        reason = await first(tried, lambda: self._until_wanted(seen))
        if self._taken is not None:
            # Where this was not the last wish, the next one's turn comes when the node is idle once more.
            self._complete = last and reason == "complete"
            self._ended(reason, again_after=AGAIN if self._complete else 0.0)
            self._be_patient(prompted=self._wanted(seen))

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

    def _ended(self, reason: str, *, again_after: float) -> None:
        self._last_reason = reason
        self._not_before = max(self._not_before, self._clock() + again_after)

    # --- both

    async def _told(
        self,
        why: str,
        budget: float,
        wish_for: WishFor,
        tell: Callable[[Mapping[str, Any]], None],
        *,
        away: Callable[[float], Awaitable[None]] | None = None,
    ) -> Mapping[str, Any]:
        """Run trials with the engine out of the way; say so at both ends.

        Args:
            wish_for: makes the wish, for as many seconds as are left when it comes to that.
            away: is told when the engine is.
        """
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
                if away is not None:
                    await away(began)
                workshop = await self._hands.prepare(lambda text: tell({"event": "doing", "text": text}))
                tell({"event": "doing", "text": "looking at the machine"})
                setting = await workshop.setting()
                signer = TrialSigner(workshop.book, setting, self._write, doubted=self._doubted)
                tell({"event": "doing", "text": "importing vLLM"})
                async with workshop.open() as bench:
                    report = await run_trials(
                        bench,
                        workshop.book,
                        wish_for(workshop, began + budget - self._clock()),
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
            if records or self._finished:
                self._tried()


def _alike(one: Probes | None, other: Probes | None) -> bool:
    """Whether the same is wanted: of the traffic, which is never twice the same to the digit, the lengths to a half."""
    if one is None or other is None:
        return one is other
    return one.strategies == other.strategies and _size(one.description) == _size(other.description)


def _size(description: Description | None) -> tuple[int, ...] | None:
    if description is None:
        return None
    lengths = (description.prompt_tokens, description.output_tokens)
    return tuple(0 if each is None else round(2 * log2(max(each.mean, 1.0))) for each in lengths)


def _unheard(_: object) -> None:
    """Hear what nobody watches."""
