"""Bringing about what was decided: the turn, the switch, the rehearsal, and the way back; and telling what failed.

Knows its hands (`node.tuner_ports`) and the desk; decides neither what is to run nor whether it is any good. A switch
that is begun is brought to its end: it is broken off by nobody but the node's own end.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from math import inf
from typing import Final

import structlog
import trio

from node.core.answer_meter import Measured
from node.core.learning import Gain
from node.core.strategy import Strategy
from node.core.switching import CRASHED, DONE, OUT_OF_MEMORY, START_FAILED, TIMED_OUT, WORSE, WRONG_ANSWERS
from node.core.tuning import TuningEvent
from node.core.tuning_ledger import Foretold, Ledger, Trust, banned, bans_at, returned, switched, target
from node.core.tuning_rules import AGAIN, DWELL
from node.core.verification import LEAST_BEFORE, LEAST_PAIRS, Judged, Verdict, hopeless, judge_pairs
from node.errors import NodeError, Unavailable
from node.ports import Endpoint
from node.services.tune_desk import Desk
from node.services.tune_verify import BEFORE_SPAN, Proof, seen_before, tails, times
from node.tuner_ports import Engine, Enough, Switched

log = structlog.get_logger(__name__)

LOOK: Final = 1.0  # s between looks at whether the turn is still wanted
TURN_TO_RETURN: Final = 60.0  # s that a way back waits for its turn: a bad strategy serves meanwhile
REHEARSAL: Final = 60.0  # s for a few requests of seconds
QUIET_AWAITED: Final = 2 * REHEARSAL  # s for quiet and a rehearsal, while two engines have the machine's memory
REHEARSED_AFTER: Final = 5.0  # s without a prompt: who asks now is not to share the engine with a rehearsal
LEAST_REHEARSED: Final = 8  # answers of before, without which nothing untried is applied
WISH_AGAIN: Final = 60.0  # s until a wish that got no turn is tried again
PUBLISHING: Final = 60.0  # s
RETURN_AGAIN: Final = 60.0  # s between tries to go back
BANNING: Final = frozenset({START_FAILED, OUT_OF_MEMORY, TIMED_OUT, CRASHED, WRONG_ANSWERS})  # the strategy's fault
PUBLISHED: Final = BANNING - {WRONG_ANSWERS}  # for which records have a word


class Changes:
    """Does what was decided, one thing at a time."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._hands = desk.hands
        self._returned_at = -inf
        self._gone: Strategy | None = None  # it was good, and did not come up when it was gone back to

    @property
    def may_return(self) -> bool:
        """Whether there is something to go back to, and the last try is a while ago."""
        return self._target() is not None and self._hands.clock() - self._returned_at >= RETURN_AGAIN

    def _target(self) -> Strategy | None:
        """Return what to go back to: the last good strategy; the default where that did not come up any more."""
        return target(self._desk.ledger, self._desk.default, without=self._gone)

    async def switch(
        self, strategy: Strategy, foretold: Gain | None, why: str, *, wished: bool = False, rehearsed: bool = False
    ) -> bool:
        """Wait for the turn, switch, and note what came of it; return whether it was begun.

        Args:
            rehearsed: not without a rehearsal, where one can be had: nobody has measured it here.
        """
        taken = False

        async def work() -> None:
            nonlocal taken
            first = await self._rehearse(_whole) if not wished and self._may_rehearse() else ()
            if rehearsed and self._hands.rehearse is not None and len(first) < LEAST_REHEARSED:
                raise Unavailable("somebody wants answers: it could not be rehearsed")
            taken = True
            await self._switch_now(strategy, foretold, why, first=first, wished=wished)

        trouble = await self._in_turn(work, lambda: self._desk.wish is not (strategy if wished else None))
        if not taken:
            self._desk.go(TuningEvent.FORGONE, trouble or "the engine went away, or its owner wishes something else")
            self._desk.not_before = self._hands.clock() + (AGAIN if trouble else 0.0)
            self._desk.wish_after = self._hands.clock() + (WISH_AGAIN if trouble else 0.0)
            if not wished:
                self._desk.want("a switch that was forgone")
        return taken

    def _may_rehearse(self) -> bool:
        """Whether a rehearsal would tell more than it costs: somebody's prompts would be measured with it, and slowed.

        Where too few answers came to compare with, it is all that there is; it gives way to the next who asks.
        """
        known = self._hands.watch.answers(self._hands.clock() - BEFORE_SPAN)
        return self._desk.quiet_s >= REHEARSED_AFTER or len(known) < LEAST_BEFORE

    async def _in_turn(self, work: Callable[[], Awaitable[None]], overruled: Callable[[], bool]) -> str:
        """Do it when it is this node's turn, unless the engine goes away before; return why the turn did not come."""
        trouble = ""
        watching = trio.CancelScope()
        with trio.CancelScope() as waiting:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._give_up, watching, waiting, overruled)
                try:
                    async with self._hands.turn():
                        if not waiting.cancel_called:  # or it was given up in this very moment
                            watching.cancel()
                            await work()
                except Unavailable as error:
                    trouble = error.message
                finally:
                    watching.cancel()
        return trouble

    async def _give_up(
        self, watching: trio.CancelScope, waiting: trio.CancelScope, overruled: Callable[[], bool]
    ) -> None:
        with watching:
            broken = self._desk.broken  # then there is nothing to wait for that could go away
            # The engine's state and its owner's wishes owe us no event; a look costs nothing.
            while (self._desk.serves or broken) and not overruled():  # noqa: ASYNC110
                await trio.sleep(LOOK)
            if not watching.cancel_called:  # or the turn came before this task's first step
                waiting.cancel()

    async def _switch_now(
        self, strategy: Strategy, foretold: Gain | None, why: str, *, first: Sequence[Measured], wished: bool
    ) -> None:
        hands, now = self._hands, self._hands.clock()
        before = hands.switch.strategy()
        self._desk.go(TuningEvent.TURN, f"from {before.name} to {strategy.name}")
        usual, earlier, failed = seen_before(
            hands.watch, before.name, rehearsal=first, objective=self._desk.policy.objective, now=now
        )
        await self._desk.save()
        heard: list[Judged] = []
        audition = partial(self._hear, first, heard) if first and not wished else None
        done = await hands.switch.switch(strategy, reason=why, audition=audition)
        if done.result != DONE:
            await self._failed(strategy, done, wished=wished)
            return
        trust = Trust(strategy=strategy, before=before, since=hands.wall(), foretold=_foretold(foretold))
        self._desk.ledger = switched(self._desk.ledger, trust, down_s=done.down_s, now=hands.wall())
        self._desk.not_before = hands.clock() + DWELL
        if wished:
            held = self._desk.wish == strategy  # else its owner left it to the tuner meanwhile, or wants another
            self._desk.wish = None if held else self._desk.wish
            self._desk.ledger = replace(self._desk.ledger, trust=None, good=strategy)
            if held:
                self._desk.ledger = replace(self._desk.ledger, mode="fixed", fixed=strategy)
            self._desk.go(TuningEvent.DONE_FIXED, f"{done.reason or 'done'} ({done.how})")
            return
        self._desk.proof = Proof(
            trust=trust,
            began=hands.clock(),
            before=usual,
            earlier=earlier,
            failed_before=failed,
            tail=tails(self._desk.policy.objective),
            first=first,
            rehearsed=heard[0] if heard else None,
        )
        self._desk.go(TuningEvent.DONE, f"{done.reason or 'done'} ({done.how})")
        await self.rehearse_again(self._desk.proof)

    async def _hear(self, first: Sequence[Measured], heard: list[Judged], endpoint: Endpoint, model: str) -> str:
        """Rehearse an engine that is ready and serves nobody yet; return why it must not, or "" where none is found.

        Too few answers say nothing: then people's prompts, or another rehearsal, tell once it serves.
        """
        with trio.move_on_after(QUIET_AWAITED):
            while self._desk.quiet_s < REHEARSED_AFTER:
                await trio.sleep(LOOK)
                self._desk.note_prompts()
            second = await self._rehearse(lambda found: hopeless(times(first), times(found)), (endpoint, model))
            if min(len(first), len(second)) >= LEAST_PAIRS:
                heard.append(judged := judge_pairs(times(first), times(second)))
                return judged.reason if judged.verdict is Verdict.CONTRADICTED else ""
        return ""

    async def rehearse_again(self, proof: Proof) -> None:
        """Send what was sent before the switch once more, if that was not done yet and nobody wants an answer.

        Not while the engine of before is still there: it would have its share of the machine.
        """
        alone = self._desk.quiet_s >= REHEARSED_AFTER and not self._hands.leaving()
        if proof.first and not proof.pairs_enough and alone:
            proof.compare(await self._rehearse(proof.hopeless))

    async def _rehearse(self, enough: Enough, engine: Engine | None = None) -> Sequence[Measured]:
        """Return answers to the same few requests as ever, where nobody else wants any; else nothing."""
        if self._hands.rehearse is None:
            return ()
        with trio.move_on_after(REHEARSAL):
            try:
                return await self._hands.rehearse(enough, engine)
            except NodeError as error:
                log.info("tuner.not_rehearsed", reason=error.message)
        return ()

    async def _failed(self, strategy: Strategy, done: Switched, *, wished: bool) -> None:
        """Note a switch that did not come about."""
        self._desk.wish = None if self._desk.wish == strategy else self._desk.wish
        ledger = replace(self._desk.ledger, lost_s=self._desk.ledger.lost_s + done.down_s)
        reason = f"{strategy.name}: {done.result.replace('_', ' ')}: {done.reason}"
        if done.result in BANNING:
            ledger = replace(ledger, failed_starts=ledger.failed_starts + 1)
            if not wished:  # what its owner wishes may be wished again
                ledger = banned(ledger, strategy, reason=done.result, now=self._hands.wall())
        elif done.result == WORSE:
            ledger = self._condemned(ledger, strategy, done.reason)
        self._desk.not_before = self._hands.clock() + AGAIN
        self._desk.ledger = ledger
        self._desk.go(TuningEvent.FAILED, reason)
        if done.result in PUBLISHED:
            await self._publish(strategy, done.result)
        self._desk.want("a switch that failed")

    def _condemned(self, ledger: Ledger, strategy: Strategy, reason: str) -> Ledger:
        """Ban what was found to be worse. The default, what a node falls back to, is so only where that was seen."""
        here = strategy == self._desk.default
        return banned(ledger, strategy, reason=reason, now=self._hands.wall(), here=here)

    # --- the way back

    async def go_back(self, reason: str, event: TuningEvent, *, kind: str = "") -> None:
        """Go back to the last good strategy; what runs is banned and told of."""
        bad, back = self._desk.runs, self._target()
        if back is None:
            return
        wall = self._hands.wall()
        self._returned_at = self._hands.clock()
        self._desk.last_proof = self._desk.proof
        if all(ban.strategy != bad for ban in bans_at(self._desk.ledger, wall)):
            self._desk.ledger = self._condemned(self._desk.ledger, bad, reason)
        self._desk.go(event, f"{bad.name}: {reason}")
        await self._desk.save()
        with trio.move_on_after(PUBLISHING):
            await self._hands.flush()
        done: Switched | None = None

        async def work() -> None:
            nonlocal done
            done = await self._hands.switch.back(back, reason=f"{bad.name}: {reason}")

        if event is not TuningEvent.CRASHES:
            with trio.move_on_after(TURN_TO_RETURN) as patience:
                await self._in_turn(partial(self._unhurried, patience, work), lambda: False)
        if done is None:
            await work()
        self._came_back(bad, back, done)
        if kind:
            await self._publish(bad, kind)

    async def _unhurried(self, patience: trio.CancelScope, work: Callable[[], Awaitable[None]]) -> None:
        if not patience.cancel_called:
            patience.deadline = inf  # the turn has come: what is begun is brought to its end
            await work()

    def _came_back(self, bad: Strategy, back: Strategy, done: Switched | None) -> None:
        wall, lost = self._hands.wall(), 0.0 if done is None else done.down_s
        self._gone = back
        if done is not None and done.result == DONE:
            self._gone, self._desk.proof = None, None
            self._desk.ledger = returned(self._desk.ledger, back, down_s=lost, now=wall)
            if self._desk.ledger.mode == "fixed":
                self._desk.ledger = replace(self._desk.ledger, fixed=back)
            self._desk.not_before = self._hands.clock() + DWELL
            self._desk.go(TuningEvent.RETURNED, f"back on {back.name}")
        else:
            words = "it did not come to an end" if done is None else f"{done.result.replace('_', ' ')}: {done.reason}"
            self._desk.ledger = replace(self._desk.ledger, lost_s=self._desk.ledger.lost_s + lost)
            self._desk.go(TuningEvent.NOT_RETURNED, f"still on the way from {bad.name} to {back.name}: {words}")
        self._desk.want("a strategy that was no good")

    async def _publish(self, strategy: Strategy, kind: str) -> None:
        with trio.move_on_after(PUBLISHING):
            try:
                await self._hands.publish(strategy, kind, self._desk.description())
            except NodeError as error:
                log.warning("tuner.not_published", strategy=strategy.name, reason=error.message)


def _whole(_: Sequence[Measured]) -> bool:
    """Say of a rehearsal that nothing is enough but all of it."""
    return False


def _foretold(gain: Gain | None) -> Foretold | None:
    return None if gain is None else Foretold(gain=gain.mean, low=gain.low, high=gain.high)
