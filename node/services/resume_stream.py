"""One stream that is followed on its way, and goes on elsewhere where it breaks off.

Knows no engine and no peer: who goes on is found by the replica that gave the answer. What is kept of the answer, and
how to go on with it, is for `node.core` to say.
"""

from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from http import HTTPStatus

import structlog
import trio

from node.core.continuation import TARGET, Closing, Lost, Told, go_on
from node.core.prompt import Headers, Prompt
from node.core.resumable import Terms, asking_for_ids, text_only
from node.core.splice import Splice
from node.core.sse_events import EventHolder, is_event_stream
from node.core.token_stream import TokenStream
from node.errors import Broken, Refusal, Refused
from node.ports import Replica, Served, ServedAnswer
from protocol.limits import ATTEMPT_MAX

EVENT_BYTES = 4 * 1024 * 1024  # of one that is waited for: the first holds the ids of the whole prompt
BUSY = frozenset({429})  # refusals that pass soon: an engine that loads takes half a minute
# As do those of a moment in which everybody failed lately: the first of them is tried again within seconds.
SET_ASIDE = frozenset({"failed", "hung", "probing", "unreachable"})
LOST_FOR = 10.0  # s that a model whose server was here a moment ago may be known to nobody: its ways to us change
AGAIN = 0.5  # s between askings while all are busy: what a client notices as a pause anyway
# Of one event: slower than that for so long comes from nobody who still serves. A token's event is some 300 bytes.
SLOWEST, SLOWEST_FOR = 64.0, 5.0  # bytes a second, s

log = structlog.get_logger(__name__)

# Tokens of prompt and answer together that whoever serves the model takes; None where that is not known.
Room = Callable[[str | None], int | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeLimits:
    """How answers are continued.

    Attributes:
        announce: whether the first event of who goes on tells so, in a field of its own.
        patience: seconds that a broken answer waits where everybody who could go on is busy. Its client waits as
            long for the next word, and would wait longer for the whole of another answer.
        streams: followed at once; one more passes by and cannot be continued. Each keeps 100 KB, 3 MB at the worst.
        fruitless: continuations in a row that broke off without a word: then it is likelier the prompt that breaks
            engines, and it is carried to no other.
        odd: answers that are no streams, from servers that do not take tokens for a prompt.
    """

    announce: bool = True
    patience: float = 60.0
    streams: int = 1024
    fruitless: int = 3
    odd: int = 3


@dataclass(slots=True)
class Tally:
    """What became of streams that broke off; see `node.services.resume.ResumeCounts`."""

    resumed: int = 0
    resumptions: int = 0
    hidden_failed: int = 0
    hidden_refused: int = 0
    lost: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What an answer needs to go on elsewhere. `blame`: see `node.services.resume.ResumingReplica`."""

    inner: Replica
    room: Room
    limits: ResumeLimits
    clock: Callable[[], float]
    tally: Tally
    blame: Callable[[str], None] | None


class Followed:
    """A stream that goes on elsewhere where it breaks off."""

    def __init__(self, means: Means, prompt: Prompt, terms: Terms, stack: AsyncExitStack, answer: ServedAnswer) -> None:
        self.status = answer.status
        self.headers: Headers = answer.headers
        self.served: Served = answer.served
        self._means = means
        self._prompt = prompt
        self._terms = terms
        self._stack = stack
        self._answer = answer
        self._holder = EventHolder(most=EVENT_BYTES)
        self._stream = TokenStream(terms, asked_bytes=len(prompt.body))
        self._told: Told | None = None  # from the first break on
        self._splice: Splice | None = None  # of the continuation that is received now
        self._plain = False  # from here on it passes as it comes, and ends as it ends
        self._over = False
        self._failed: Broken | None = None  # noticed with the last bytes, to be dealt with before the next
        self._tries = self._odd = self._fruitless = self._resumptions = 0
        self._said = -1  # characters, at the last break
        self._noticed = False  # whether the replica behind knows of it
        self._torn_at: float | None = None  # when the event began of which only a part is here
        self._counted = self._left = False

    async def receive(self) -> bytes:
        """See `node.ports.Answer.receive`."""
        while not self._over:
            if self._plain:
                return await self._answer.receive()
            try:
                out = self._passed(await self._next())
            except Broken as broken:
                out = await self._rescued(broken)
            if out:
                return out
        return b""

    async def _next(self) -> bytes:
        self._noticed = False
        if self._failed is not None:
            failed, self._failed = self._failed, None
            raise failed
        try:
            return await self._answer.receive()
        except Broken:
            self._noticed = True
            raise

    def _passed(self, data: bytes) -> bytes:
        """Return what the client gets of these bytes; may be empty."""
        if not data:
            return self._ended()
        ready = self._holder.feed(data)
        if not ready:
            return self._waited()
        self._torn_at = None
        if self._splice is not None:
            out = self._splice.take(ready)
            if self._splice.failed:
                self._failed = Broken(f"The answer broke off, and {self._splice.failed}.")
            return out
        stream = self._stream
        out = stream.take(ready)
        if stream.deaf:
            self._plain = True
            return out + self._holder.rest()
        if stream.failure:
            self._failed = Broken("The engine failed in the middle of an answer.")
        return out

    def _waited(self) -> bytes:
        """See that an event comes together in good time: one that trickles is as good as none.

        Raises:
            Broken: it does not.
        """
        now = self._means.clock()
        if self._torn_at is None:
            self._torn_at = now
        took = now - self._torn_at
        if took > SLOWEST_FOR and self._holder.held < SLOWEST * took:
            raise Broken("The answer trickles in, a few bytes a second.")
        return b""

    def _ended(self) -> bytes:
        """Take the end of what is received from.

        Raises:
            Broken: it is not the answer's.
        """
        if not (self._stream.ended() if self._told is None else self._told.done):
            raise Broken("The answer ended before its end.")
        self._over = True
        return self._holder.rest()

    async def _rescued(self, broken: Broken) -> bytes:
        """Go on elsewhere: what is received next is from there. Return the last bytes, where only those are missing.

        Raises:
            Broken: that cannot be done.
        """
        agreed = self._splice is None or not self._splice.failed or self._splice.garbage
        if self._means.blame is not None and agreed and not self._noticed:
            self._means.blame(self._answer.served.node)
        if self._told is None and not self._stream.begun:
            return await self._begun_anew(broken)
        told = self._stream.told() if self._told is None else self._told
        if isinstance(told, str):
            return self._given_up(broken, told)
        self._told = told
        step = go_on(told, self._terms, self._means.room(self._prompt.model))
        if isinstance(step, Closing):
            await self._stack.aclose()
            self._over = True
            self._note(told, resumed=False)
            return step.data
        if isinstance(step, Lost):
            return self._given_up(broken, step.reason)
        reason = self._hopeless(told.end)
        if not reason and self._splice is None and self._terms.chat and not text_only(self._prompt.body):
            reason = "tokens alone do not bring back what the prompt holds beside text"
        reason = reason or await self._asked(replace(self._prompt, target=TARGET, body=step.body))
        if reason:
            return self._given_up(broken, reason)
        self._note(told, resumed=True)
        announced = self._resumptions if self._means.limits.announce else 0
        self._splice = Splice(told, self._terms, step.mark, announced=announced)
        return b""

    async def _begun_anew(self, broken: Broken) -> bytes:
        """Have the whole prompt answered elsewhere: nothing of this answer was told.

        Raises:
            Broken: nobody does.
        """
        sent = replace(self._prompt, body=asking_for_ids(self._prompt.body, self._terms))
        noticed = self._noticed
        reason = self._hopeless(0) or await self._asked(sent)
        if reason:
            return self._given_up(broken, reason)
        self._means.tally.hidden_failed += noticed
        self._stream = TokenStream(self._terms, asked_bytes=len(self._prompt.body))
        return b""

    def _hopeless(self, end: int) -> str:
        """Return why nobody is to be asked; "" where somebody is. `end`: characters that were told so far."""
        self._fruitless = self._fruitless + 1 if end <= self._said else 0
        self._said = end
        if self._fruitless >= self._means.limits.fruitless:
            return "whoever goes on with it breaks off at once"
        return "its time is over" if self._late() else ""

    async def _asked(self, prompt: Prompt) -> str:
        """Have somebody go on; return why nobody does, "" where the first bytes of that are here."""
        await self._stack.aclose()
        self._left = True
        began = self._means.clock()
        until = began + self._means.limits.patience
        reason = "it was tried too often"
        while self._tries < ATTEMPT_MAX:
            try:
                answer = await self._stack.enter_async_context(self._means.inner.answer(prompt))
            except (Refused, Broken) as error:
                reason = _said(error)
                self._means.tally.hidden_refused += isinstance(error, Refused)
                self._means.tally.hidden_failed += isinstance(error, Broken)
                if isinstance(error, Refused) and not _passes(error.refusal, self._means.clock() - began):
                    break
                self._tries += isinstance(error, Broken)
            else:
                self._tries += 1
                if answer.status == HTTPStatus.OK and is_event_stream(answer.headers):
                    self._answer, self._holder, self._torn_at = answer, EventHolder(most=EVENT_BYTES), None
                    return ""
                await self._stack.aclose()
                self._odd += 1
                reason = f"whoever was asked to go on answered with status {answer.status}"
                if self._odd >= self._means.limits.odd:
                    break
            if self._late() or self._means.clock() + AGAIN >= until:
                break
            await trio.sleep(AGAIN)
        return reason

    def _late(self) -> bool:
        return self._prompt.deadline is not None and self._means.clock() >= self._prompt.deadline

    def _given_up(self, broken: Broken, reason: str) -> bytes:
        """End as the stream itself ended, with the engine's own words where it had any.

        Raises:
            Broken: it had none.
        """
        self._means.tally.lost += 1
        log.warning("answer.lost", request_id=self._prompt.request_id, reason=reason)
        if self._stream.failure and not self._left:
            self._plain = True
            return self._stream.failure
        self._over = True
        raise Broken(f"{broken.message} It could not be continued: {reason}.") from broken

    def _note(self, told: Told, *, resumed: bool) -> None:
        tally = self._means.tally
        tally.resumed += not self._counted
        self._counted = True
        self._resumptions += resumed
        tally.resumptions += resumed
        tally.hidden_failed += self._noticed
        event = "answer.resumed" if resumed else "answer.completed"
        log.info(event, request_id=self._prompt.request_id, tokens=len(told.ids), tries=self._tries)


def _passes(refusal: Refusal, waited: float) -> bool:
    if refusal.status == HTTPStatus.NOT_FOUND:
        return waited < LOST_FOR
    return refusal.status in BUSY or refusal.code in SET_ASIDE


def _said(error: Refused | Broken) -> str:
    return error.refusal.message if isinstance(error, Refused) else error.message
