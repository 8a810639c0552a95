"""Asking for advice: the candidates, what is known of the moment, the question, and what is made of the answer.

Knows its hands (`node.tuner_ports`) and the rules of core; changes no engine and no ledger.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import trio

from node.core.learning import Advice
from node.core.strategy import Strategy
from node.core.tuner_policy import TunerPolicy
from node.core.tuning_ledger import DAY, Ledger, bans_at, horizon
from node.core.tuning_rules import Decision, Moment, Past, decide
from node.core.workload import Description
from node.errors import Unavailable
from node.tuner_ports import TunerHands

# s for one question, reading own records and waiting for the learner (15 s) included.
DEADLINE: Final = 60.0
GAP_DEADLINE: Final = 10.0  # s to look at the memory; who cannot tell in time has no room


class Decider:
    """Turns the state of things into a decision."""

    def __init__(self, hands: TunerHands, policy: TunerPolicy) -> None:
        self._hands = hands
        self._policy = policy

    async def decide(self, ledger: Ledger, moment: Moment, *, first: bool) -> Decision:
        """Ask, and decide.

        Args:
            first: nothing was ever decided since the node came up.

        Raises:
            Unavailable: nobody can tell now.
        """
        with trio.move_on_after(DEADLINE):
            return await self._decide(ledger, moment, first=first)
        raise Unavailable(f"no advice came within {DEADLINE:.0f} s")

    async def costs(
        self, description: Description, strategies: Sequence[Strategy]
    ) -> Sequence[tuple[float | None, float | None]]:
        """Return the foretold log-cost of each strategy under that traffic, and half its 90 % interval.

        Raises:
            Unavailable: nobody can tell now.
        """
        with trio.move_on_after(DEADLINE):
            rows = await self._hands.question(description, strategies)
            advice = await self._hands.adviser.advise(
                rows,
                goal=self._policy.goal,
                default=0,
                current=0,
                lossy=True,
                horizon_s=self._policy.horizon_s,
                busy_share=description.busy_share,
                restart_s=0.0,
                lost_share=0.0,
            )
            return list(zip(advice.cost, advice.level, strict=True))
        raise Unavailable(f"no advice came within {DEADLINE:.0f} s")

    async def _decide(self, ledger: Ledger, moment: Moment, *, first: bool) -> Decision:
        await self._hands.known()
        candidates, current = self._candidates()
        wall = self._hands.wall()
        banned = {ban.strategy for ban in bans_at(ledger, wall)}
        forbidden = [at for at, strategy in enumerate(candidates) if at != current and strategy in banned]
        past = self._past(ledger, moment.now - wall, wall, first=first)
        rows = await self._hands.question(moment.description, candidates)
        evidence = await self._hands.evidence()

        async def ask(without: Sequence[int]) -> Decision:
            advice = await self._hands.adviser.advise(
                rows,
                goal=self._policy.goal,
                default=0,
                current=current,
                lossy=self._policy.lossy,
                horizon_s=horizon(ledger, wall, usual=self._policy.horizon_s),
                busy_share=moment.busy_share,
                restart_s=moment.restart_s,
                lost_share=moment.lost_share,
                evidence=evidence,
                banned=without,
                memory_bytes=self._hands.memory(),
                promises=self._policy.promises,
            )
            return decide(
                advice,
                candidates,
                current=current,
                moment=moment,
                past=past,
                gapless=await self._gapless(advice, candidates, current),
                most_a_day=self._policy.switches_per_day,
            )

        found = await ask(forbidden)
        if not found.untried or found.advice is None:
            return found
        # The best is to be tried first. Of what was tried, something may be better than what runs for certain.
        untried = [at for at, count in enumerate(found.advice.measured) if at and at != current and not count]
        second = await ask(sorted({*forbidden, *untried}))
        if second.chosen is None:
            return found
        return _joined(second, found)

    def _candidates(self) -> tuple[list[Strategy], int]:
        """Return the candidates, what runs among them, and its place."""
        found = list(self._hands.candidates())
        runs = self._hands.canonical(self._hands.switch.strategy())
        if runs not in found:
            found.append(runs)
        return found, found.index(runs)

    def _past(self, ledger: Ledger, offset: float, wall: float, *, first: bool) -> Past:
        """Return the ledger's times as the loop's: `offset` apart."""
        off, dared = ledger.put_off_since, ledger.dared_at
        return Past(
            first=first,
            put_off_since=None if off is None else off + offset,
            dared_at=None if dared is None else dared + offset,
            switches=sum(wall - at < DAY for at in ledger.switched_at),
        )

    async def _gapless(self, advice: Advice, candidates: Sequence[Strategy], current: int) -> bool:
        if advice.index is None or advice.index == current or not advice.worth:
            return False
        with trio.move_on_after(GAP_DEADLINE):
            return await self._hands.gapless(candidates[advice.index])
        return False


def _joined(second: Decision, first: Decision) -> Decision:
    why = f"{second.why}, of what was measured here; {first.best.name if first.best else ''} is to be tried first"
    return replace(second, why=why, probes=first.probes, regret=first.regret)
