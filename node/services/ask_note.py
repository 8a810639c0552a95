"""An answer on its way to the client, and what it tells of the replica that gives it.

Knows no choosing and no wire. Each piece costs a look at the clock and what `node.core.answer_meter` does; the numbers
are looked for once, at the end. Where nothing had been foretold (there was no choice), nothing is measured.
"""

from collections.abc import Awaitable, Callable
from math import inf
from typing import Protocol

from node.core.answer_meter import MICRO, AnswerMeter, Measured
from node.core.endpoints import dialect_of
from node.core.experience import Experience
from node.core.explanation import Account, Attempt
from node.core.prompt import Prompt
from node.core.router import Choice, Route
from node.core.standings import Standings
from node.errors import Broken
from node.ports import Answer, Served
from node.services.passing import Passing
from protocol.ids import PeerId

LOOK_AFTER = 2.0  # s of a stream, then 4, 8 and so on, after which its pace is looked at before its end
SLOW = 4.0  # times what was foretold that it must be by to be noted then: an event may hold as many tokens
LEAST_EVENTS = 4
ATTEMPTS = 16  # told of in one account


class Spent(Protocol):
    """Gets what an attempt has used of a replica once it is over."""

    def __call__(
        self, replica: PeerId, seconds: float, *, begun: bool, prompt_tokens: int = 0, output_tokens: int = 0
    ) -> None:
        """Note it; `begun`: whether anything of an answer came. Tokens are 0 where they are not known."""
        ...


class End:
    """How a prompt ended."""

    __slots__ = ("broken", "interrupted", "refused", "whole")

    def __init__(self) -> None:
        self.whole = False
        self.broken = False
        self.refused = False
        self.interrupted = False  # left by an exception that is not about the answer, cancellation above all


class Notes:
    """What one attempt tells."""

    __slots__ = (
        "_attempt", "_begun", "_clock", "_experience", "_look_at", "_look_for", "_measured", "_meter", "_spent",
        "_standings", "_streams", "_ticket", "guess",
    )  # fmt: skip

    def __init__(  # noqa: PLR0913 -- what an attempt is about, each by itself
        self,
        experience: Experience,
        standings: Standings,
        route: Route,
        choice: Choice,
        prompt: Prompt,
        account: Account,
        clock: Callable[[], float],
        spent: Spent | None = None,
    ) -> None:
        """Begin when the replica is about to be asked, and counted as such. `guess`: what was foretold, if anything."""
        now = clock()
        self._experience = experience
        self._standings = standings
        self._clock = clock
        self._spent = spent
        self.guess = route.forecast.guess(choice.replica) if route.forecast is not None else None
        self._streams = prompt.stream
        self._attempt = Attempt(replica=choice.replica, reason=choice.reason, asked_at=now)
        if len(account.attempts) < ATTEMPTS:
            account.attempts.append(self._attempt)
        self._begun = False
        self._look_for = LOOK_AFTER
        self._look_at = inf
        self._ticket: int | None = None
        self._meter: AnswerMeter | None = None
        self._measured: Measured | None = None
        if self.guess is not None:
            # Of an answer that is no stream the first byte comes with the last.
            due = self.guess.first_byte if prompt.stream else self.guess.total
            self._ticket = standings.expect(choice.replica, now, due, self.guess.uncached)
            self._meter = AnswerMeter(began=now, dialect=dialect_of(prompt.path))

    @property
    def measures(self) -> bool:
        """Whether pieces are of interest."""
        return self._meter is not None

    @property
    def foretold(self) -> tuple[float, float] | None:
        """Seconds to the first token and to the last, as foretold; None where nothing was."""
        return None if self.guess is None else (self.guess.first_byte, self.guess.total)

    @property
    def asked_at(self) -> float:
        """When the replica was asked."""
        return self._attempt.asked_at

    def now(self) -> float:
        """Return the time that pieces are measured by."""
        return self._clock()

    async def first(self, answer: Answer, receive: Callable[[], Awaitable[bytes]]) -> bytes:
        """Receive an answer's first bytes."""
        if self._meter is None:
            first = await receive()
            self._begun = True
            self._attempt.ttft = self._clock() - self._attempt.asked_at
            return first
        asked = self._clock()
        self._meter.head(answer.status, answer.headers, asked)
        first = await receive()
        self._begun = True
        self._heard()
        self.piece(first, asked)
        return first

    def piece(self, data: bytes, asked: float) -> None:
        """Take the next bytes, b"" at the end; they were asked for at `asked`."""
        meter = self._meter
        if meter is None:
            return
        now = self._clock()
        if not data:
            self._whole(now)
            return
        meter.piece(data, asked, now)
        if self._attempt.ttft is None and meter.content_at is not None:
            self._content(meter.content_at, now)
        elif now >= self._look_at:
            self._look(meter, now)

    def outcome(self, word: str) -> None:
        """Note how the attempt ended; the first word counts."""
        if self._attempt.outcome == "running":
            self._attempt.outcome = word

    def over(self, end: End) -> None:
        """Note that the attempt is over; where the answer had begun, `end` says how."""
        if self._begun:
            self.outcome("answered" if end.whole else "broken" if end.broken else "abandoned")
        elif self.guess is not None and self._streams:
            now = self._clock()
            self._experience.waited(self.guess, now - self._attempt.asked_at, now)
        self._heard()
        if self._spent is not None:
            measured = self._measured
            self._spent(
                self._attempt.replica,
                self._clock() - self._attempt.asked_at,
                begun=self._begun,
                prompt_tokens=(measured and measured.prompt_tokens) or 0,
                output_tokens=(measured and measured.output_tokens) or 0,
            )

    def _heard(self) -> None:
        if self._ticket is not None:
            self._standings.heard(self._attempt.replica, self._ticket)
            self._ticket = None

    def _content(self, content_at: float, now: float) -> None:
        took = content_at - self._attempt.asked_at
        self._attempt.ttft = took
        self._look_at = now + self._look_for
        if self.guess is not None:
            self._experience.began(self.guess, took, now)

    def _look(self, meter: AnswerMeter, now: float) -> None:
        """Have a stream that crawls noted while it does: its end may be minutes away."""
        self._look_for *= 2.0
        self._look_at = now + self._look_for
        if self.guess is None or self.guess.guesses or meter.content_at is None or meter.events < LEAST_EVENTS:
            return
        pace = (now - meter.content_at) / meter.events
        if pace > SLOW * self.guess.token:
            self._experience.went_on(self.guess, pace, now)

    def _whole(self, now: float) -> None:
        assert self._meter is not None  # noqa: S101 -- nobody else asks
        self._attempt.latency = now - self._attempt.asked_at
        measured = self._measured = self._meter.measured()
        if measured is None or self.guess is None:
            return
        if measured.tpot is not None:
            self._attempt.tpot = measured.tpot / MICRO
        self._attempt.output_tokens = measured.output_tokens
        self._experience.ended(self.guess, measured, now)


class Noted(Passing):
    """An answer whose first bytes are here already, and which notes how it ended."""

    __slots__ = ("_end", "_first", "_measures", "_notes")

    def __init__(self, answer: Answer, first: bytes, served: Served, end: End, notes: Notes) -> None:
        super().__init__(answer, served)
        self._first: bytes | None = first
        self._end = end
        self._notes = notes
        self._measures = notes.measures

    async def receive(self) -> bytes:
        """See `node.ports.Answer`. No checkpoint before the first bytes, which have been waited for already."""
        data = self._first
        if data is not None:
            self._first = None
        else:
            asked = self._notes.now() if self._measures else 0.0
            try:
                data = await self._answer.receive()
            except Broken:
                self._end.broken = True
                raise
            if self._measures:
                self._notes.piece(data, asked)
        if not data:
            self._end.whole = True
        return data
