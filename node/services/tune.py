"""The tuner: decides what the engine runs, has it switched, holds it against what was, and goes back.

Knows its hands (`node.tuner_ports`), the table of its life and the rules of core; knows no process, learner, peer or
file. One task does everything in order, so that no two wishes for the engine are under way at once. Every step is
logged, told (`tell`) and kept in the ledger with its reason.

    deciding    news are gathered, a minute apart at least, and one question answers them all
    waiting     for a turn among the replicas of the model; given up when the engine goes away or its owner wishes
    switching   broken off by nobody but the node's end: the switch itself knows how to end well
    verifying   a look each second; between looks nothing but counters is read
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import inf
from typing import Any, Final

import trio

from node.core.engine_state import EngineState
from node.core.probes import Probes
from node.core.strategy import Strategy
from node.core.switching import CRASHED
from node.core.tuner_policy import TunerPolicy
from node.core.tuning import ENGAGED, Phase, TuningEvent
from node.core.tuning_ledger import Ledger, bans_at, confirmed, serving, workload_ended
from node.core.tuning_rules import EVERY, LOOK_AT_TRAFFIC, PATIENCE, QUIET, UNASKED, Decision, Moment, worth_trials
from node.core.verification import Level, Verdict
from node.errors import NodeError, Unavailable
from node.services.tune_change import Changes
from node.services.tune_decide import Decider
from node.services.tune_desk import Desk
from node.services.tune_tell import Standing, decision_of, entry_facts, facts_of
from node.services.tune_verify import Proof
from node.tuner_ports import TunerHands

LOOK: Final = 1.0  # s between looks while something is going on
REST: Final = 5.0  # s while nothing is
CRASHES: Final = 3  # unplanned ends within ten minutes: a loop, not an accident
ASK_AGAIN: Final = 300.0  # s after nobody could tell, if no news come before
QUIET_PROOF: Final = 3600.0  # s of a verification after which it ends where nobody asks any more
LONGEST_PROOF: Final = 6 * 3600.0  # s after which it ends anyhow
NORMAL_90: Final = 1.645  # half-width of a 90 % interval, in standard deviations
STARTED: Final = "the node has started"
TRAFFIC_CHANGED: Final = "the traffic has changed"
RELEASED: Final = "released by its owner"
URGENT: Final = (TRAFFIC_CHANGED, RELEASED)  # the beginnings of news that no dwelling keeps waiting


class Tuner:
    """A node's tuner. `run` is its one long-lived task; the rest tells and asks."""

    def __init__(
        self, hands: TunerHands, *, policy: TunerPolicy, ledger: Ledger, configured: bool = False, off: str = ""
    ) -> None:
        """Prepare.

        Args:
            ledger: as `node.core.tuning_ledger.opened` returns it; the engine was started by its `initial`.
            configured: the owner's settings say what runs: nothing takes that back by itself.
            off: why nothing is ever tuned; "" where it is.
        """
        self._hands = hands
        self._policy = policy
        self._configured = configured
        self._off = off or ("" if policy.enabled else "tuner.enabled is false")
        # The engine is on its way to what it was started with, whatever ran when the node ended.
        ledger = replace(ledger, present=hands.switch.strategy())
        self._desk = Desk(hands, policy, ledger, off=self._off)
        self._changes = Changes(self._desk)
        self._decider = Decider(hands, policy)
        self._decided_at = self._looked_at = -inf
        self._tried_at = -inf  # under the present workload
        self._decision: Decision | None = None
        self._decision_at = 0.0  # wall
        self._decided = self._switched = False  # since the node came up
        self._regret_s = self._regret_sum = 0.0
        self._quiet = 0  # marks of quiet that were passed at the last look
        self._pressed_at = -inf  # wall: when what was put off for long was asked about again
        self._desk.want(STARTED)

    # --- asked by others

    def fix(self, strategy: Strategy) -> None:
        """Switch to this and stay; the switch itself follows.

        Raises:
            NodeError: it cannot run here, or nothing can be switched.
        """
        if self._off:
            raise NodeError(f"the strategy cannot be changed: {self._off}", remedy="restart the node with the tuner on")
        if wrong := self._hands.objections(strategy):
            raise NodeError(f"{strategy.name} cannot run here: {'; '.join(wrong)}", remedy="choose another strategy")
        self._desk.wish, self._desk.wish_after = strategy, -inf
        self._desk.wake()

    def release(self) -> None:
        """Decide by itself again."""
        self._desk.wish = None
        self._configured = False
        self._desk.ledger = replace(self._desk.ledger, mode="auto", fixed=None)
        self._desk.want(RELEASED)

    def tried(self) -> None:
        """Hear that trials were recorded."""
        self._tried_at = self._hands.clock()
        self._desk.ledger = replace(self._desk.ledger, put_off_since=None)
        self._desk.want("new trials")

    def probes(self) -> Probes | None:
        """Return what to try in idle time; None where the tuner has no wish."""
        decision = self._decision
        if decision is None or decision.advice is None or self._desk.ledger.mode == "fixed" or self._off:
            return None
        measured = dict(zip(decision.candidates, decision.advice.measured, strict=True))
        failed = {decision.candidates[at] for at in decision.advice.failed}
        # What was sent back after a few answers is measured properly, and so published, when nobody waits.
        suspects = [
            ban.strategy
            for ban in bans_at(self._desk.ledger, self._hands.wall())
            if measured.get(ban.strategy) == 0 and ban.strategy not in failed
        ]
        if not suspects and not worth_trials(decision, since_s=self._hands.clock() - self._tried_at):
            return None
        wanted = tuple(dict.fromkeys([decision.candidates[0], *suspects, *decision.probes]))
        return Probes(strategies=wanted, description=self._desk.description()) if len(wanted) > 1 else None

    def engaged(self) -> bool:
        """Tell whether a switch is wished for, under way or being verified: no time for lessons and trials."""
        return self._desk.phase in ENGAGED or self._desk.wish is not None

    def facts(self) -> Mapping[str, Any]:
        """Return how it stands: see `node.services.tune_tell`."""
        return facts_of(self._standing())

    def history(self) -> Sequence[Mapping[str, Any]]:
        """Return its steps, newest last."""
        return [entry_facts(entry) for entry in self._desk.ledger.history]

    def explain(self) -> Mapping[str, Any]:
        """Return the last decision in full."""
        return {**self.facts(), "decision": decision_of(self._standing(), whole=True)}

    # --- the loop

    async def run(self) -> None:
        """Tune, until cancelled; return at once where nothing is to be tuned."""
        if self._off:
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._hear_lessons)
            while True:
                await self._step()
                await self._desk.save()
                woken = self._desk.woken
                busy = self._desk.phase in ENGAGED or self._desk.phase is Phase.AWAY
                with trio.move_on_after(LOOK if busy else REST):
                    await woken.wait()

    async def _hear_lessons(self) -> None:
        lessons = 0
        while True:
            lessons = await self._hands.adviser.learnt(lessons)
            self._desk.want("a new lesson")

    async def _step(self) -> None:
        """Do what the phase asks for, once."""
        self._desk.note_prompts()
        if self._crashes():
            words = f"the engine ends again and again: {self._hands.engine().reason}"
            await self._changes.go_back(words, TuningEvent.CRASHES, kind=CRASHED)
        elif self._desk.phase is Phase.AWAY:
            if self._desk.serves:
                self._arrive()
            elif self._desk.broken and self._desk.wish is not None:
                await self._obey(self._desk.wish)
        elif not self._desk.serves:
            self._desk.go(TuningEvent.AWAY, self._hands.engine().reason)
        elif self._desk.wish is not None:
            if self._hands.clock() >= self._desk.wish_after:
                await self._obey(self._desk.wish)
        else:
            await self._work()

    async def _work(self) -> None:
        match self._desk.phase:
            case Phase.VERIFYING:
                await self._verify()
            case Phase.FIXED:
                if self._desk.ledger.mode == "auto":
                    self._desk.go(TuningEvent.RELEASE, RELEASED)
            case _:
                await self._rest()

    def _arrive(self) -> None:
        """Take note of what serves."""
        runs = self._desk.runs
        self._desk.served_since = self._hands.clock()
        self._desk.ledger = serving(self._desk.ledger, runs, self._hands.wall())
        proof = self._desk.proof
        if proof is not None and self._desk.ledger.trust == proof.trust:
            self._desk.go(TuningEvent.SERVES_UNVERIFIED, f"{runs.name} serves, and is not verified yet")
            return
        self._desk.proof = None
        self._desk.ledger = replace(self._desk.ledger, trust=None)
        fixed = self._desk.ledger.mode == "fixed"
        self._desk.go(TuningEvent.SERVES_FIXED if fixed else TuningEvent.SERVES, f"{runs.name} serves")

    async def _rest(self) -> None:
        """Notice a changed workload; decide when there is a reason and the time has come."""
        now = self._hands.clock()
        if now - self._looked_at >= LOOK_AT_TRAFFIC:
            self._look_at_traffic(now)
            self._look_at_quiet()
        urgent = any(reason.startswith(URGENT) for reason in self._desk.news)
        due = self._decided_at + EVERY if urgent else max(self._decided_at + EVERY, self._desk.not_before)
        if self._desk.news and now >= due:
            await self._decide(now)

    def _look_at_quiet(self) -> None:
        """Ask again, once at each mark, when it has become so quiet that what was put off may be applied."""
        passed = sum(self._desk.quiet_s >= mark for mark in (UNASKED, QUIET))
        risen, self._quiet = passed > self._quiet, passed
        if risen and not self._switched and self._decision is not None and self._decision.untried:
            self._desk.want("nobody asks")
        since, now = self._desk.ledger.put_off_since, self._hands.wall()
        if since is not None and now - max(since, self._pressed_at) >= PATIENCE:
            self._pressed_at = now
            self._desk.want("there was no idle time to try it")

    def _look_at_traffic(self, now: float) -> str:
        """Return in words how the traffic changed since the last decision, if it did."""
        self._looked_at = now
        before = self._desk.ledger.baseline
        if before is None or not self._decided:
            if self._decided and self._desk.description() is not None:
                self._desk.want("the traffic is known now")
            return ""
        if changed := self._hands.watch.changed(before, now):
            usual, self._tried_at = self._policy.horizon_s, -inf
            self._desk.ledger = workload_ended(self._desk.ledger, self._hands.wall(), usual=usual)
            self._desk.want(f"{TRAFFIC_CHANGED}: {changed}")
        return changed

    async def _decide(self, now: float) -> None:
        why, self._desk.news = "; ".join(self._desk.news), {}
        self._decided_at = now
        self._desk.go(TuningEvent.QUESTION, why)
        moment = Moment(
            now=now,
            quiet_s=self._desk.quiet_s,
            unasked=self._desk.unasked,
            peers=self._hands.peers(),
            start_s=self._hands.switch.usual_start_s(),
            description=self._desk.description(),
        )
        try:
            decision = await self._decider.decide(self._desk.ledger, moment, first=not self._switched)
        except Unavailable as error:
            self._desk.go(TuningEvent.KEEP, f"no advice: {error.message}")
            self._decided_at = now + ASK_AGAIN - EVERY  # news wait no longer than that; without any, it asks again
            self._desk.news[why] = None
            return
        self._take(decision, moment)
        if decision.chosen is None:
            self._desk.go(TuningEvent.KEEP, decision.why)
        elif self._desk.wish is None:
            self._desk.go(TuningEvent.GO, f"{decision.why}: {decision.chosen.name}")
            # What is dared while nobody asks is rehearsed first; what is dared before people's eyes is judged by them.
            alone = decision.untried_taken and decision.exposure is None
            begun = await self._changes.switch(decision.chosen, decision.foretold, decision.why, rehearsed=alone)
            self._switched |= begun
            if decision.dared and begun:
                self._desk.ledger = replace(self._desk.ledger, dared_at=self._hands.wall())
        else:
            self._desk.go(TuningEvent.KEEP, "its owner wishes something else")

    def _take(self, decision: Decision, moment: Moment) -> None:
        """Keep a decision and what it was made for."""
        wall, ledger = self._hands.wall(), self._desk.ledger
        if self._decision is not None and self._decision.regret is not None:
            lasted = wall - self._decision_at
            self._regret_s += lasted
            self._regret_sum += self._decision.regret * lasted
        self._decision, self._decision_at, self._decided = decision, wall, True
        started = ledger.workload_since
        self._desk.ledger = replace(
            ledger,
            baseline=moment.description,
            workload_since=wall if started is None and moment.description is not None else started,
            put_off_since=(ledger.put_off_since or wall) if decision.untried else None,
        )

    # --- switching

    async def _obey(self, wish: Strategy) -> None:
        """Bring about what the owner said."""
        self._desk.proof = None
        self._desk.ledger = replace(self._desk.ledger, trust=None)
        if wish == self._desk.runs:
            self._desk.wish = None
            self._desk.ledger = replace(self._desk.ledger, mode="fixed", fixed=wish, good=wish)
            if self._desk.phase is not Phase.FIXED:
                self._desk.go(TuningEvent.FIX, f"{wish.name}, by its owner's wish")
                self._desk.go(TuningEvent.FORGONE, "it runs already")
            return
        self._desk.go(TuningEvent.FIX, f"{wish.name}, by its owner's wish")
        await self._changes.switch(wish, None, "its owner's wish", wished=True)

    # --- verifying

    async def _verify(self) -> None:
        proof = self._desk.proof
        if proof is None:
            self._desk.go(TuningEvent.UNJUDGED, "nothing is known of the switch")
            return
        await self._changes.rehearse_again(proof)
        now = self._hands.clock()
        proof.wait(self._hands.leaving(), now)
        if now - self._looked_at >= LOOK_AT_TRAFFIC and (changed := self._look_at_traffic(now)):
            # What came before was asked for something else: neither is it held against that, nor called good.
            self._leave(proof, f"{TRAFFIC_CHANGED} meanwhile: {changed}")
            return
        judged = proof.look(self._hands.watch, now)
        if proof.wants_level():
            await self._ask_level(proof)
        if judged is None or judged.verdict is Verdict.UNDECIDED:
            if self._too_long(proof, now):
                self._leave(proof, "too few answers came to tell")
            return
        if judged.verdict is Verdict.CONTRADICTED:
            if self._changes.may_return:
                await self._changes.go_back(judged.reason, TuningEvent.CONTRADICTED)
            return
        good = judged.verdict is Verdict.CONFIRMED
        self._desk.ledger = confirmed(self._desk.ledger, good=good)
        self._desk.last_proof, self._desk.proof = proof, None
        self._desk.go(TuningEvent.CONFIRMED if good else TuningEvent.UNJUDGED, judged.reason)

    def _too_long(self, proof: Proof, now: float) -> bool:
        """Tell whether to wait no longer for answers: meanwhile nothing is tried, learnt or decided."""
        lasted = now - proof.began
        return lasted >= LONGEST_PROOF or (lasted >= QUIET_PROOF and self._desk.quiet_s >= QUIET)

    def _leave(self, proof: Proof, why: str) -> None:
        """End a verification without a verdict: the strategy stays, and is not called good."""
        self._desk.ledger = confirmed(self._desk.ledger, good=False)
        self._desk.last_proof, self._desk.proof = proof, None
        self._desk.go(TuningEvent.UNJUDGED, why)

    async def _ask_level(self, proof: Proof) -> None:
        """Ask what the strategy before would take for these very answers."""
        proof.level_asked = True
        description = self._desk.description()
        if description is None:
            proof.level_asked = False
            return
        try:
            (cost, width), *_ = await self._decider.costs(description, [proof.trust.before])
        except Unavailable:
            return
        if cost is not None and width is not None and self._policy.goal == "latency":
            proof.level = Level(cost=cost, sd=width / NORMAL_90)

    def _crashes(self) -> bool:
        """Tell whether the engine ends again and again under what can be taken back."""
        if self._desk.phase not in (Phase.AWAY, Phase.STEADY, Phase.FIXED, Phase.VERIFYING) or self._configured:
            return False
        hopeless = self._hands.engine().state is EngineState.FAILED
        looping = hopeless or self._hands.troubles() >= CRASHES
        return looping and self._desk.ledger.present == self._desk.runs and self._changes.may_return

    # --- bookkeeping

    def _standing(self) -> Standing:
        lasted = 0.0 if self._decision is None else self._hands.wall() - self._decision_at
        proof = self._desk.proof or self._desk.last_proof
        return Standing(
            off=bool(self._off),
            phase=self._desk.phase.value,
            reason=self._desk.reason,
            objective=self._policy.objective,
            ledger=self._desk.ledger,
            runs=self._desk.runs,
            default=self._desk.default,
            decision=self._decision,
            decision_at=self._decision_at,
            trust=None if proof is None else proof.trust,
            judged=None if proof is None else proof.latest or proof.rehearsed,
            regret_s=self._regret_s + lasted,
            regret_sum=self._regret_sum + lasted * ((self._decision.regret or 0.0) if self._decision else 0.0),
            description=self._desk.description(),
            wall=self._hands.wall(),
        )
