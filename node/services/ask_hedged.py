"""A second replica asked while the first one's first byte is overdue: who brings one first answers, the other is left.

Knows neither who is asked nor why: it is given what to enter, and whom to ask besides when that takes long. The first
attempt runs in the prompt's own task and costs it a cancel scope. One task looks after all that wait (`Hedger.run`) and
begins second attempts, each in a task of its own, which alone enters and leaves it: at the end of the answer, where it
won. No answer holds a cancel scope while it is not asked for bytes, so any task may ask for these.
"""

import sys
from collections.abc import Callable, Container
from functools import partial
from math import inf
from types import TracebackType

import structlog
import trio

from node.core.explanation import OUTRUN
from node.core.hedging import AGAIN, Budget, due_after, left
from node.errors import Broken, NodeError, Refused
from node.services.ask_note import Noted
from node.services.ask_one import Asked
from protocol.ids import PeerId

TICK = 0.05  # s between looks while anybody waits: a fifth of the least that is waited for
FAILED = 400  # HTTP statuses from which on an answer is no better than none while somebody else is still at it

log = structlog.get_logger(__name__)

# Returns who is asked as well, as a prompt at it; None where nobody is worth it. Gets the seconds that are left to be
# expected of who is at it, and who was asked already.
Besides = Callable[[float, Container[PeerId]], Asked | None]


class Hedger:
    """Looks after prompts whose first byte is awaited. Where `run` does not run, nobody is asked a second time.

    Attributes:
        running: whether it runs.
        hedged: prompts that a second replica was asked with. won: those that it answered.
    """

    def __init__(self, budget: Budget, *, clock: Callable[[], float]) -> None:
        self.budget = budget
        self.clock = clock
        self.running = False
        self.hedged = self.won = 0
        self._waiting: set[Contest] = set()  # as many as wait for a first byte
        self._news = trio.Event()

    async def run(self) -> None:
        """Look, and have second attempts made; return never."""
        async with trio.open_nursery() as nursery:
            self.running = True
            try:
                while True:
                    if not self._waiting:
                        self._news = trio.Event()
                        await self._news.wait()
                    await trio.sleep(TICK)
                    self.budget.pass_time(TICK)
                    now = self.clock()
                    for contest in [each for each in self._waiting if each.look_at <= now]:
                        self._waiting.discard(contest)
                        if self.budget.suffices:
                            nursery.start_soon(contest.look)
                        else:
                            contest.put_off()
            finally:
                self.running = False

    def add(self, contest: "Contest") -> None:
        """Look at it when it says."""
        self._waiting.add(contest)
        self._news.set()

    def discard(self, contest: "Contest") -> None:
        """Look at it no more. Safe to repeat."""
        self._waiting.discard(contest)


class Contest:
    """A prompt's attempts one after another, and one beside them.

    Attributes:
        look_at: when it is to be looked at.
        asked: who was asked.
    """

    __slots__ = ("_besides", "_first", "_hedger", "_lost", "_rival", "_second", "asked", "look_at")

    def __init__(self, hedger: Hedger, besides: Besides) -> None:
        self.look_at = inf
        self.asked: set[PeerId] = set()
        self._hedger = hedger
        self._besides = besides
        self._first: Asked | None = None
        self._rival: trio.CancelScope | None = None  # around the wait for its first byte
        self._second: _Second | None = None
        self._lost = False  # the second failed, and that was said
        hedger.budget.earn()

    @property
    def second(self) -> PeerId | None:
        """Who was asked besides and may answer yet; None where nobody is."""
        return None if self._second is None or self._lost else self._second.replica

    async def enter(self, asked: Asked) -> Noted:
        """Return the answer of whoever has its first bytes first.

        Raises:
            Refused, Unreachable, Broken: what `asked` failed by; where there is a second, `join` it then.
        """
        self._first, guess = asked, asked.notes.guess
        self.asked.add(asked.choice.replica)
        with trio.CancelScope() as rival:
            self._rival = rival
            if guess is not None and self._second is None:
                self.look_at = asked.notes.asked_at + due_after(guess)
                self._hedger.add(self)
            try:
                noted = await asked.enter()
            finally:
                self._hedger.discard(self)
                self._rival = None
            if self._second is not None:
                self._second.outrun()
            return noted
        asked.notes.outcome(OUTRUN)
        return await self.join()  # at once

    async def join(self) -> Noted:
        """Return the second's answer, whatever it is, for nobody else is at it.

        Raises:
            Refused, Unreachable, Broken: what it failed by.
        """
        assert self._second is not None  # noqa: S101 -- see `enter`
        self._lost = True
        noted = await self._second.answer()
        self._first, self._lost = None, False
        self._hedger.won += 1
        return noted

    async def leave(self, error: BaseException | None) -> None:
        """Leave the answer that was entered; `error` as in `Asked.leave`."""
        if self._first is not None:
            await self._first.leave(error)
        elif self._second is not None:
            await self._second.leave(error)

    def abandon(self) -> None:
        """Give up whoever is still asked: nobody wants an answer any more. Safe to repeat."""
        if self._second is not None:
            self._second.abandon()

    async def look(self) -> None:
        """Ask somebody besides where that is worth it, else be looked at later; in a task of its own."""
        first, rival = self._first, self._rival
        if first is not None and rival is not None and self.look_at <= self._hedger.clock():  # as it was a moment ago
            second = _Second(rival)
            await second.run(partial(self._begin, first, second))

    def put_off(self) -> None:
        """Be looked at again later."""
        assert self._first is not None  # noqa: S101 -- else nobody looks
        asked_at = self._first.notes.asked_at
        self.look_at = asked_at + AGAIN * (self._hedger.clock() - asked_at)
        self._hedger.add(self)

    def _begin(self, first: Asked, second: "_Second") -> Asked | None:
        guess, budget = first.notes.guess, self._hedger.budget
        assert guess is not None  # noqa: S101 -- else nobody looks
        waited = self._hedger.clock() - first.notes.asked_at
        asked = self._besides(left(guess, waited), self.asked) if budget.suffices else None
        if asked is None:
            self.put_off()
            return None
        budget.spend()
        self._hedger.hedged += 1
        self._second = second
        self.asked.add(asked.choice.replica)
        return asked


class _Second:
    """The second attempt, from its beginning until it is left, in a task of its own."""

    def __init__(self, rival: trio.CancelScope) -> None:
        self._rival = rival
        self._asked: Asked | None = None
        self._noted: Noted | None = None
        self._error: Exception | None = None
        self._ending: BaseException | None = None
        self._scope = trio.CancelScope()
        self._settled = trio.Event()  # its first bytes are here, or will never be
        self._released = trio.Event()
        self._gone = trio.Event()

    @property
    def replica(self) -> PeerId | None:
        return None if self._asked is None else self._asked.choice.replica

    async def run(self, begin: Callable[[], Asked | None]) -> None:
        try:
            with self, self._scope:
                self._asked = begin()
                if self._asked is not None:
                    await self._answer(self._asked)
        finally:
            self._settled.set()
            self._gone.set()

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """Keep an error for the prompt's task, which raises it: here it would end all prompts', and the node."""
        if not isinstance(error, Exception):
            return False
        self._error = error
        if not isinstance(error, NodeError | Refused):
            log.error("hedge.defect", exc_info=error)  # its first attempt may never ask
        return True

    async def _answer(self, asked: Asked) -> None:
        self._noted = await asked.enter()
        self._settled.set()
        if self._noted.status < FAILED:
            self._rival.cancel()
        try:
            await self._released.wait()
        finally:
            await asked.leave(sys.exception() or self._ending)

    async def answer(self) -> Noted:
        """Return the answer; raises what came instead of one."""
        await self._settled.wait()
        if self._noted is not None:
            return self._noted
        raise self._error or Broken("The node ends.")

    def outrun(self) -> None:
        """Leave: somebody else was first."""
        if self._asked is not None:
            self._asked.notes.outcome(OUTRUN)
        self.abandon()

    def abandon(self) -> None:
        """Leave, as by cancellation. Safe to repeat."""
        self._scope.cancel()

    async def leave(self, error: BaseException | None) -> None:
        """Have the other task leave the answer; return when it has, or raise what that raised."""
        if error is None or isinstance(error, Broken):
            self._ending = error
            self._released.set()
        else:
            self.abandon()
        with trio.CancelScope(shield=True):  # as long as leaving takes, which waits for nobody
            await self._gone.wait()
        if self._error is not None:
            raise self._error
