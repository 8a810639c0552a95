"""One replica asked with a prompt: this node's own engine or a peer, entered with the first bytes of its answer.

Knows no choosing, and nothing of who else is asked. Whoever enters it leaves it, in the same task.
"""

import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import TypeVar

from node.core.experience import Experience
from node.core.explanation import Account
from node.core.prompt import Prompt
from node.core.router import Choice, Route
from node.core.standings import Standings
from node.core.stored import StoredAnswers
from node.errors import Broken, Refused, Unreachable
from node.ports import Replica, Served
from node.services.ask_note import End, Noted, Notes, Spent
from node.services.ask_peer import Flight, PeerAnswer, PeerAsker
from node.services.ask_verdict import Tried
from node.services.ask_whom import Whom, unpinned
from protocol.ids import PeerId

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What asking takes, the same for all prompts."""

    me: PeerId
    local: Replica
    peers: PeerAsker
    whom: Whom
    stored: StoredAnswers
    standings: Standings
    experience: Experience
    clock: Callable[[], float]
    spent: Spent | None = None


@dataclass(slots=True, kw_only=True)
class Course:
    """One prompt, and what came of it so far; shared by all that are asked with it."""

    prompt: Prompt
    account: Account
    tried: Tried
    end: End


class Asked:
    """One replica that is asked. Made in one go with the decision: the next prompt's is made with this one counted."""

    __slots__ = ("_context", "_course", "_flight", "_means", "_number", "choice", "notes")

    def __init__(self, means: Means, course: Course, route: Route, choice: Choice) -> None:
        now = means.clock()
        course.tried.attempts += 1
        self.choice = choice
        self._means = means
        self._course = course
        self._number = course.tried.attempts
        self._flight = Flight(means.standings, choice.replica, now)
        means.whom.pledge(route, choice)
        self.notes = Notes(
            means.experience,
            means.standings,
            route,
            choice,
            course.prompt,
            course.account,
            means.clock,
            means.spent,
        )
        self._context: AbstractAsyncContextManager[object] | None = None

    async def enter(self) -> Noted:
        """Return the answer once its first bytes are here. Where that fails it has been left already.

        Raises:
            Refused, Unreachable, Broken: as `node.services.ask_peer` and this node's engine do.
        """
        here = False
        try:
            noted = await (self._ours() if self.choice.replica == self._means.me else self._theirs())
            here = True
        except Refused:
            self.notes.outcome("refused")
            raise
        except Unreachable:
            self.notes.outcome("unreachable")
            raise
        except Broken:
            self.notes.outcome("broken")
            raise
        finally:
            if not here:
                await self.leave(sys.exception())
        return noted

    async def leave(self, error: BaseException | None) -> None:
        """Leave the answer; `error` is what it is left by, None where it was passed on as far as it went."""
        try:
            if self._context is not None:
                context, self._context = self._context, None
                await context.__aexit__(type(error) if error else None, error, error.__traceback__ if error else None)
        finally:
            self.notes.over(self._course.end)
            self._flight.end()

    async def _ours(self) -> Noted:
        course = self._course
        answer = await self._entered(self._means.local.answer(self._means.whom.for_us(course.prompt)))
        first = await self.notes.first(answer, answer.receive)
        self._look_at(answer.status, first)
        served = answer.served
        if served.reason != self.choice.reason or course.tried.attempts != served.attempts or self.notes.guess:
            reason, attempts = self.choice.reason, course.tried.attempts
            served = replace(served, reason=reason, attempts=attempts, foretold=self.notes.foretold)
        return Noted(answer, first, served, course.end, self.notes)

    async def _theirs(self) -> Noted:
        course, replica = self._course, self.choice.replica
        asking = self._means.peers.answer(replica, unpinned(course.prompt), attempt=self._number, flight=self._flight)
        answer = await self._entered(asking)
        first = await self.notes.first(answer, answer.begin)
        self._look_at(answer.status, first)
        return Noted(answer, first, self._served_by(answer), course.end, self.notes)

    def _look_at(self, status: int, first: bytes) -> None:
        """Take note of an answer's first bytes; raises where they say that somebody else should be asked."""
        means, prompt, replica = self._means, self._course.prompt, self.choice.replica
        means.stored.note(prompt, first, replica)
        if status >= HTTPStatus.BAD_REQUEST:
            means.whom.mind_length(prompt, replica, status, first, means.clock())

    async def _entered(self, context: AbstractAsyncContextManager[T]) -> T:
        entered = await context.__aenter__()
        self._context = context
        return entered

    def _served_by(self, answer: PeerAnswer) -> Served:
        return Served(
            node=str(self.choice.replica),
            reason=self.choice.reason,
            attempts=self._course.tried.attempts,
            model=answer.model or self._course.prompt.model,
            strategy=answer.strategy,
            foretold=self.notes.foretold,
        )
