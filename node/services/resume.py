"""Answers that outlive who gives them: a stream whose server dies goes on elsewhere, and its client sees one answer.

Knows no engine, no peer and no HTTP server: it stands before a `Replica` that finds who answers, and asks it again. It
has token ids sent with the streams that can be continued, keeps what a continuation needs of them, and takes them out
of what the client gets. What cannot be continued (`node.core.resumable`) passes by as if nothing stood here.

A break is the replica's `Broken`, an engine's word of its own failure, or an end before the end. The client's leaving
cancels whatever is done here, as everywhere; where a prompt's time is over, nothing is begun.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from http import HTTPStatus

import trio

from node.core.prompt import Headers, Prompt
from node.core.resumable import Terms, asking_for_ids, terms_of
from node.core.sse_events import is_event_stream
from node.ports import Replica, Served, ServedAnswer
from node.services.resume_stream import Followed, Means, ResumeLimits, Room, Tally

AVERSE_FOR = 600.0  # s that a model is not asked for ids whose server refuses requests that want them
AVERSE = 64  # models that this is known of
COMPLAINTS = frozenset({400, 422})
IDS_FIELD = b"return_token_ids"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeCounts:
    """What became of streams that broke off since the node came up.

    Attributes:
        resumed: prompts whose answers somebody else went on with, or for which only the end was missing.
        resumptions: how often that was, each time counted.
        hidden_failed, hidden_refused: what the replica behind counts as failed and refused, and no client heard of.
        lost: streams that broke off and could not be continued, among those that it was tried for.
    """

    resumed: int
    resumptions: int
    hidden_failed: int
    hidden_refused: int
    lost: int


class ResumingReplica:
    """`node.ports.Replica` before another one."""

    def __init__(
        self,
        inner: Replica,
        *,
        room: Room,
        limits: ResumeLimits | None = None,
        clock: Callable[[], float] = trio.current_time,
        blame: Callable[[str], None] | None = None,
    ) -> None:
        """Prepare.

        Args:
            blame: gets the node (`Served.node`) whose answer turned out to be none where the replica behind cannot
                tell: garbage in place of events, an end before the end, a trickle. None: nobody wants to know.
        """
        self._inner = inner
        self._limits = limits or ResumeLimits()
        self._clock = clock
        self._tally = Tally()
        self._means = Means(inner=inner, room=room, limits=self._limits, clock=clock, tally=self._tally, blame=blame)
        self._followed = 0
        self._averse: dict[str | None, float] = {}  # models, and until when

    def counts(self) -> ResumeCounts:
        """Count what was done."""
        tally = self._tally
        return ResumeCounts(
            resumed=tally.resumed,
            resumptions=tally.resumptions,
            hidden_failed=tally.hidden_failed,
            hidden_refused=tally.hidden_refused,
            lost=tally.lost,
        )

    def answer(self, prompt: Prompt) -> AbstractAsyncContextManager[ServedAnswer]:
        """See `node.ports.Replica.answer`.

        The answer may leave what it was entered with, and enter another, whenever it is received from: by the task that
        entered it, in no cancel scope that ends before it.
        """
        terms = terms_of(prompt.path, prompt.body) if prompt.stream and prompt.method == "POST" else None
        if terms is None or self._followed >= self._limits.streams or self._is_averse(prompt.model):
            return self._inner.answer(prompt)
        return self._follow(prompt, terms)

    @asynccontextmanager
    async def _follow(self, prompt: Prompt, terms: Terms) -> AsyncIterator[ServedAnswer]:
        self._followed += 1
        try:
            async with AsyncExitStack() as stack:
                sent = replace(prompt, body=asking_for_ids(prompt.body, terms))
                answer = await stack.enter_async_context(self._inner.answer(sent))
                if is_event_stream(answer.headers):
                    yield Followed(self._means, prompt, terms, stack, answer)
                elif answer.status in COMPLAINTS and sent.body is not prompt.body:
                    yield await self._plainly(prompt, stack, answer)
                else:
                    yield answer
        finally:
            self._followed -= 1

    async def _plainly(self, prompt: Prompt, stack: AsyncExitStack, answer: ServedAnswer) -> ServedAnswer:
        """Return the answer to the prompt as it came, where this one may be about what was added to it."""
        first = await answer.receive()
        if IDS_FIELD not in first:
            return _Begun(answer, first)
        await stack.aclose()
        answer = await stack.enter_async_context(self._inner.answer(prompt))
        if answer.status == HTTPStatus.OK:
            self._averse[prompt.model] = self._clock() + AVERSE_FOR
            if len(self._averse) > AVERSE:
                del self._averse[next(iter(self._averse))]
        return answer

    def _is_averse(self, model: str | None) -> bool:
        until = self._averse.get(model) if self._averse else None
        if until is not None and self._clock() >= until:
            del self._averse[model]
            return False
        return until is not None


class _Begun:
    """An answer whose first bytes are here."""

    def __init__(self, answer: ServedAnswer, first: bytes) -> None:
        self.status = answer.status
        self.headers: Headers = answer.headers
        self.served: Served = answer.served
        self._answer = answer
        self._first: bytes | None = first

    async def receive(self) -> bytes:
        if self._first is None:
            return await self._answer.receive()
        first, self._first = self._first, None
        await trio.lowlevel.checkpoint()
        return first
