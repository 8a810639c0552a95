"""The attempts at one prompt: the router's choices in order until one brings a first byte, and again after a while.

Knows neither HTTP nor what peers say on the wire, and counts nothing but what happened between attempts. Where nobody
takes prompts for the moment but somebody will again, the prompt waits and is decided about anew.
"""

from collections.abc import Awaitable, Container
from dataclasses import dataclass

import trio

from node.core.explanation import Accounts
from node.core.hedging import may_be_hedged, second
from node.core.prompt import Prompt
from node.core.router import Choice, Route
from node.core.wanted import Wish
from node.errors import Broken, Refusal, Refused, Unreachable
from node.services.ask_hedged import Contest, Hedger
from node.services.ask_note import Noted
from node.services.ask_one import Asked, Course, Means
from node.services.ask_peer import EngineLost
from node.services.ask_verdict import SOON, away
from protocol.ids import PeerId
from protocol.limits import ATTEMPT_MAX

AGAIN = 1.0  # s between decisions about a prompt that waits for a peer to take prompts again


@dataclass(frozen=True, slots=True, kw_only=True)
class AskHold:
    """How prompts wait for a peer that takes nothing for the moment, where nobody else may answer.

    Attributes:
        longest: seconds from their coming.
        prompts: that wait so together; beyond that they are refused.
    """

    longest: float = 120.0
    prompts: int = 256


@dataclass(slots=True, kw_only=True)
class Rounds:
    """What the attempts of all prompts share. `retried`: attempts that were followed by another one elsewhere."""

    means: Means
    accounts: Accounts
    hedger: Hedger
    hold: AskHold
    holding: int = 0
    retried: int = 0


class Attempts:
    """See the module; of one prompt. Left where `first` returned, given up where it did not."""

    __slots__ = ("_contest", "_course", "_entered", "_means", "_rounds", "_wish")

    def __init__(self, rounds: Rounds, course: Course) -> None:
        """Prepare.

        Raises:
            Refused: the prompt's headers ask for what there is not.
        """
        self._rounds = rounds
        self._means = rounds.means
        self._course = course
        self._wish: Wish = rounds.means.whom.wish(course.prompt)
        self._contest: Contest | None = None  # where a second replica may be asked
        self._entered: Asked | Contest | None = None

    async def first(self) -> Noted:
        """Return the first answer that brings a byte.

        Raises:
            Refused, Broken: there is none; what helps the client most.
        """
        rounds, prompt, tried = self._rounds, self._course.prompt, self._course.tried
        until = self._means.clock() + rounds.hold.longest
        if prompt.deadline is not None:
            until = min(until, prompt.deadline)
        while True:
            route, gone = self._route()
            if gone is not None and not tried.attempts:
                route = Route(choices=self._means.whom.knock(prompt, self._means.clock()), reason=route.reason)
            rounds.accounts.decided(self._course.account, route)
            if not (tried.attempts and self._away(route.choices)):
                answer = await self._first_of(route)
                if answer is not None:
                    return answer
            if tried.anew() and tried.attempts < ATTEMPT_MAX:
                continue
            if not self._worth_waiting(until):
                raise tried.after(gone)
            rounds.holding += 1
            try:
                await trio.sleep(AGAIN)
            finally:
                rounds.holding -= 1

    async def leave(self, error: BaseException | None) -> None:
        """Leave the answer that came; `error` as in `Asked.leave`."""
        entered = self._entered
        assert entered is not None  # noqa: S101 -- it came
        self._contest = self._entered = None  # which know this one: whoever holds whom in a ring is held for long
        await entered.leave(error)

    def abandon(self) -> None:
        """Give up whoever is still asked. Safe to repeat."""
        contest, self._contest, self._entered = self._contest, None, None
        if contest is not None:
            contest.abandon()

    def _route(self) -> tuple[Route, Refusal | None]:
        """Return whom to try, or why there is nobody."""
        try:
            now, beyond = self._means.clock(), self._course.tried.beyond
            return self._means.whom.route(self._course.prompt, self._wish, now, beyond=beyond), None
        except Refused as refused:
            return Route(choices=(), reason=refused.refusal.code or refused.refusal.type), refused.refusal

    def _worth_waiting(self, until: float) -> bool:
        """Whether to decide anew in a moment: a peer that may answer takes nothing now, and will again."""
        now, tried, rounds = self._means.clock(), self._course.tried, self._rounds
        if now + AGAIN >= until or tried.hopeless or tried.attempts >= ATTEMPT_MAX:
            return False
        return rounds.holding < rounds.hold.prompts and self._means.whom.awaited(self._course.prompt, now)

    def _away(self, choices: tuple[Choice, ...]) -> bool:
        """Whether there is nobody but peers that take nothing for the moment: named ones, or a stored answer's."""
        now, standings = self._means.clock(), self._means.standings
        return all(each.replica != self._means.me and standings.returning(each.replica, now) for each in choices)

    async def _first_of(self, route: Route) -> Noted | None:
        """Try them in order; None where all refused or broke off, which is noted."""
        prompt, tried = self._course.prompt, self._course.tried
        contest = self._contest
        if contest is None and self._may_hedge(route, prompt):
            contest = self._contest = Contest(self._rounds.hedger, self._besides)
        failed: PeerId | None = None  # who was asked besides, in this round
        beyond = tried.beyond
        for choice in route.choices:
            if choice.replica == failed:
                continue
            self._rounds.retried += tried.attempts > 0
            asked = Asked(self._means, self._course, route, choice)
            self._entered = contest or asked
            answer = await self._heard(contest.enter(asked) if contest else asked.enter(), choice.replica)
            if answer is None and contest is not None and contest.second is not None:
                failed = contest.second
                answer = await self._heard(contest.join(), failed)
            if answer is not None:
                return answer
            late = prompt.deadline is not None and self._means.clock() >= prompt.deadline
            if late or tried.hopeless or tried.attempts >= ATTEMPT_MAX or tried.beyond > beyond:
                break
        return None

    async def _heard(self, answer: Awaitable[Noted], replica: PeerId) -> Noted | None:
        """Return an answer that is awaited; None where it did not come, which is noted."""
        tried = self._course.tried
        try:
            return await answer
        except Refused as refused:
            tried.refused(refused)
        except Unreachable:
            tried.refusals.append(away("unreachable", SOON))
        except Broken as broken:
            tried.broken.append(broken)
            tried.lost += replica == self._means.me or isinstance(broken, EngineLost)
        return None

    def _may_hedge(self, route: Route, prompt: Prompt) -> bool:
        """Whether a second replica may be asked while the first is late: mostly there is nobody else."""
        several = route.forecast is not None and len(route.choices) > 1
        return several and self._rounds.hedger.running and may_be_hedged(prompt)

    def _besides(self, wait: float, asked: Container[PeerId]) -> Asked | None:
        """See `node.services.ask_hedged.Besides`."""
        if self._course.tried.attempts >= ATTEMPT_MAX:
            return None
        route, _ = self._route()
        choice = second(route, asked, wait)
        return None if choice is None else Asked(self._means, self._course, route, choice)
