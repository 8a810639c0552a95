"""Answering peers: their prompts with this node's own engine, and their question how busy it is.

Knows neither transport nor engine, and asks no other peer: what is asked here is answered here, so prompts never go
round in circles. Peers are hostile until their traffic says otherwise: whatever they send ends at most their stream.

Each stream has a task that listens and speaks in turn. While a prompt is answered it speaks, a second does the work and
a third listens for `Cancel`: leaving the engine then neither waits for a slow reader nor cuts a message off.
"""

import logging
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from math import inf
from typing import Any, Protocol

import structlog
import trio

from node.core.access import Access, quota_refusal, requester_of
from node.core.endpoints import Route, find
from node.core.holdings import Holdings
from node.core.media import THREAD_BYTES, screen
from node.core.peer_prompt import LATE, NOT_FOUND, NOT_GREETED, head_of, message_of, prompt_of, refuse_of, too_large
from node.core.prompt import Prompt, Requester
from node.core.quota import Quotas
from node.core.usage import UsageMeter
from node.errors import Broken, Refusal, Refused
from node.ports import PeerStream, Replica
from node.services.outgoing import Ending, Outgoing, Pacing
from node.services.peer_line import PeerLine
from protocol import limits as wire
from protocol.dialogue import Dialogue, Role
from protocol.errors import Reason, RemoteProtocolError
from protocol.ids import PeerId
from protocol.inference_events import Ask, Body, Cancel, Cancelled, Data, End, Fail, Refuse
from protocol.load import SCRIPT, Figures, Load, Report

LATE_ANSWER = "The time that the asker allows is over."
POLLS = 10  # in any second, on one stream, as docs/protocol/load.md allows; honest nodes ask every two seconds


class Engine(Replica, Protocol):
    """The node's own engine, turns included."""

    def load(self, requester: Requester) -> Load:
        """Tell how busy it is, and whether it would let a prompt of that requester in."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerLimits:
    """How much of this node peers may hold.

    Attributes:
        body_bytes: of one prompt.
        bodies_bytes: of all peers' prompts that are being received, wait or are answered.
        peer_bodies_bytes: of these, one peer's.
        silence: seconds between two parts of a prompt.
        slowest: bytes per second of a prompt on the whole, beyond one silence.
        answer_bytes: of one answer.
        answer_seconds: from a prompt's last byte to its answer's last, where the asker does not say less.
        allow_remote_media: whether prompts may name media by URL, which the engine would fetch.
    """

    body_bytes: int = wire.BODY_BYTES
    bodies_bytes: int = 128 * 1024 * 1024
    peer_bodies_bytes: int = 64 * 1024 * 1024
    silence: float = 30.0
    slowest: int = 64 * 1024
    answer_bytes: int = wire.ANSWER_BYTES
    answer_seconds: float = 3600.0
    pacing: Pacing = field(default_factory=Pacing)
    allow_remote_media: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerCounts:
    """What became of the prompts of peers since the node came up.

    Attributes:
        running: being received, waiting or being answered now.
        served: answered whole, whatever the status.
        refused: nothing was done.
        failed: the engine broke off, or the time was over.
        abandoned: cancelled, or the peer was lost.
        prompt_bytes, answer_bytes: of the bodies that came whole, and of what was said of answers.
    """

    running: int = 0
    served: int = 0
    refused: int = 0
    failed: int = 0
    abandoned: int = 0
    prompt_bytes: int = 0
    answer_bytes: int = 0


@dataclass(slots=True, kw_only=True)
class _Course:
    """One prompt on its way."""

    peer: PeerId
    requester: Requester
    ask: Ask
    route: Route
    began: float
    outcome: str = "abandoned"
    held: int = 0  # bytes of its body
    sent: int = 0  # bytes of its answer
    spent: bool = False  # the peer's share was found used up
    working: trio.CancelScope = field(default_factory=trio.CancelScope)  # around the work; it has the asker's deadline


class PeerServer:
    """Handles the streams of `/metainf/infer/1` and `/metainf/load/1`."""

    def __init__(  # noqa: PLR0913 -- each is one capability
        self,
        *,
        engine: Engine,
        access: Access,
        met: Callable[[PeerId], Awaitable[bool]],
        offence: Callable[[str], None],
        limits: PeerLimits,
        clock: Callable[[], float] = trio.current_time,
        lent: Callable[[PeerId, float, int], None] = lambda _peer, _seconds, _tokens: None,
    ) -> None:
        """Prepare.

        Args:
            met: tells whether a peer has greeted, waiting a little while for it.
            offence: counts what a peer did wrong, by a short constant.
            clock: the loop's time, seconds. lent: gets whose prompt took how many seconds and tokens, 0 if refused.
        """
        self._engine = engine
        self._access = access
        self._met = met
        self._offence, self._lent = offence, lent
        self._limits = limits
        self._clock = clock
        self._quotas = Quotas()
        self._bodies = Holdings(whole=limits.bodies_bytes, each=limits.peer_bodies_bytes)
        self._counts: Counter[str] = Counter()
        self._log: Any = None  # bound at the first prompt: by then it is known what is to be told

    def counts(self) -> PeerCounts:
        """Count what was done."""
        return PeerCounts(**self._counts)

    async def infer(self, stream: PeerStream) -> None:
        """Answer one prompt after another until the peer ends the stream.

        Raises:
            Broken: the stream was lost, or the peer left or fell silent in the middle of something.
            RemoteProtocolError: the peer said what it must not.
        """
        try:
            await self._converse(PeerLine(stream))
        except RemoteProtocolError as error:
            self._offence(error.reason.value)
            raise

    async def load(self, stream: PeerStream) -> None:
        """Tell a peer how busy this node is, as often as it asks.

        Raises:
            Broken: the stream was lost.
            RemoteProtocolError: the peer has not greeted, asks too often, or says what it must not.
        """
        if not await self._met(stream.peer):
            raise RemoteProtocolError(Reason.OUT_OF_TURN, "asked before it greeted")
        dialogue = Dialogue(SCRIPT, Role.ANSWERER)
        polls = deque([-inf] * POLLS, maxlen=POLLS)
        while (payload := await stream.receive()) is not None:
            dialogue.hear(payload)
            if self._clock() - polls[0] < 1.0:
                self._offence("polls_too_often")
                raise RemoteProtocolError(Reason.TOO_MANY, f"polls more than {POLLS} times a second")
            polls.append(self._clock())
            await stream.send(dialogue.say(Report(load=self._figures(stream.peer))))
        dialogue.end()

    def _figures(self, peer: PeerId, *, spent: bool = False) -> Figures:
        load = self._engine.load(_requester(peer))
        closed = spent or self._access.refusal(peer) is not None
        return (replace(load, accepting=False) if closed else load).to_figures()

    async def _converse(self, line: PeerLine) -> None:
        greeted = False
        while True:
            event = None
            if line.free:  # between prompts a stream may rest as long as it likes: it waits in the asker's pool
                event = await line.hear()
            else:
                with trio.move_on_after(self._limits.silence):
                    event = await line.hear()
            if event is None and line.free:
                return
            if event is None:
                raise Broken("The peer left or fell silent in the middle of an exchange.")
            if isinstance(event, Ask):
                greeted = greeted or await self._met(line.peer)
                await self._attend(line, event, greeted=greeted)
            elif isinstance(event, Cancel):
                await self._acknowledge(line)
            # What else may come is the rest of a body that was refused.

    async def _acknowledge(self, line: PeerLine) -> None:
        await line.say(Cancelled(load=self._figures(line.peer)))

    async def _refuse(self, line: PeerLine, refusal: Refusal) -> None:
        await line.say(replace(refuse_of(refusal), load=self._figures(line.peer)))

    async def _attend(self, line: PeerLine, ask: Ask, *, greeted: bool) -> None:
        """Take a prompt in and answer it, or refuse it."""
        route = self._admit(line.peer, ask, greeted=greeted)
        if isinstance(route, Refusal):
            self._counts["refused"] += 1
            await self._refuse(line, route)
            return
        course = _Course(peer=line.peer, requester=_requester(line.peer), ask=ask, route=route, began=self._clock())
        self._counts["running"] += 1
        try:
            body = await self._take_in(line, course)
            if body is not None:
                self._counts["prompt_bytes"] += len(body)
                await self._answer(line, course, body)
        finally:
            self._bodies.give_back(course.peer, course.held)
            self._counts["running"] -= 1
            self._counts[course.outcome] += 1
            self._counts["answer_bytes"] += course.sent
            self._report(course)

    def _admit(self, peer: PeerId, ask: Ask, *, greeted: bool) -> Route | Refusal:
        if not greeted:
            return NOT_GREETED
        unwelcome = self._access.refusal(peer)
        if unwelcome is not None:
            return unwelcome
        route = find(ask.target.partition("?")[0])
        if route is None or ask.method not in route.methods:
            return NOT_FOUND
        if ask.body_size > self._limits.body_bytes:
            self._offence("body_too_large")
            return too_large(self._limits.body_bytes)
        return self._bodies.refusal(peer, ask.body_size) or route

    async def _take_in(self, line: PeerLine, course: _Course) -> bytes | None:
        """Receive a prompt's body; None where there is nothing to answer, and that has been said."""
        body = bytearray()
        last = self._clock() + self._limits.silence + course.ask.body_size / self._limits.slowest
        while line.asking:
            event = None
            with trio.move_on_at(min(self._clock() + self._limits.silence, last)) as patience:
                event = await line.hear()
            refusal = LATE if patience.cancelled_caught else None
            if isinstance(event, Body):
                size = len(event.data)
                refusal = self._bodies.refusal(course.peer, size)
                if refusal is None:
                    self._bodies.take(course.peer, size)
                    course.held += size
                    body += event.data
                    continue
            if refusal is not None:
                course.outcome = "refused"
                await self._refuse(line, refusal)
            elif isinstance(event, Cancel):
                await self._acknowledge(line)
            return None
        return bytes(body)

    async def _answer(self, line: PeerLine, course: _Course, body: bytes) -> None:
        out = Outgoing(self._limits.pacing)
        listening, working = trio.CancelScope(), course.working
        cancelled = False
        async with trio.open_nursery() as nursery:

            async def listen() -> None:
                nonlocal cancelled
                with listening:
                    cancelled = await line.cancelled()
                    out.abandon()
                    # Where nobody is left to be told, what is being said need not be finished either.
                    (working if cancelled else nursery.cancel_scope).cancel()

            async def work() -> None:
                with working:
                    out.end(await self._work(course, body, out))
                if working.cancelled_caught and not cancelled:
                    out.end(Fail(code="deadline", message=LATE_ANSWER, load=self._figures(course.peer)))

            nursery.start_soon(listen)
            nursery.start_soon(work)
            while messages := await out.take():
                if isinstance(messages[-1], Ending):
                    listening.cancel()  # what the peer says now belongs to its next turn
                if not await line.try_say(*messages):
                    break
                course.sent += sum(len(each.data) for each in messages if isinstance(each, Data))
                course.outcome = _OUTCOMES.get(type(messages[-1]), course.outcome)
            nursery.cancel_scope.cancel()
        if cancelled:
            await self._acknowledge(line)

    async def _work(self, course: _Course, body: bytes, out: Outgoing) -> Ending:
        """Have a prompt answered within its peer's share; what it held is given back before its end is told."""
        refusal = await self._forbidden(course.route, body)
        if refusal is None:
            ending = await self._within_quota(course, body, out)
        else:
            ending = refuse_of(refusal)
        return replace(ending, load=self._figures(course.peer, spent=course.spent))

    async def _forbidden(self, route: Route, body: bytes) -> Refusal | None:
        if self._limits.allow_remote_media or not body:
            return None
        if len(body) < THREAD_BYTES:
            found = screen(body, route.dialect)
        else:
            found = await trio.to_thread.run_sync(screen, body, route.dialect)
        if found is None:
            return None
        self._offence(found.offence)
        return found.refusal

    async def _within_quota(self, course: _Course, body: bytes, out: Outgoing) -> Ending:
        now = self._clock()
        exceeded = self._quotas.take(course.requester, self._access.quota_of(course.peer), now)
        if exceeded is not None:
            self._offence("quota")
            course.spent = True
            return refuse_of(quota_refusal(exceeded))
        prompt = prompt_of(course.ask, body, course.requester, now=now, longest=self._limits.answer_seconds)
        course.working.deadline = inf if prompt.deadline is None else prompt.deadline
        meter = UsageMeter(prompt_bytes=len(body), stream=prompt.stream)
        ending: Ending | None = None
        try:
            ending = await self._ask_engine(prompt, meter, out)
            return ending
        finally:
            # What was abandoned costs what it had cost until then; what was refused, nothing.
            tokens = 0 if isinstance(ending, Refuse) else meter.tokens()
            self._quotas.give_back(course.requester, tokens=tokens)
            self._lent(course.peer, self._clock() - now, tokens)

    async def _ask_engine(self, prompt: Prompt, meter: UsageMeter, out: Outgoing) -> Ending:
        """Pass the engine's answer on as it comes; says what it came to."""
        try:
            async with self._engine.answer(prompt) as answer:
                head = head_of(
                    answer.status,
                    answer.headers,
                    request_id=prompt.request_id,
                    model=answer.served.model,
                    strategy=answer.served.strategy,
                )
                if head is None:
                    return Fail(code="engine_lost", message=f"The engine answered with status {answer.status}.")
                # The head goes along with the first bytes: the asker can use neither without the other.
                data = await answer.receive()
                head = replace(head, load=self._engine.load(prompt.requester).to_figures())
                out.begin(head)
                while data:
                    meter.feed(data)
                    if out.size + len(data) > self._limits.answer_bytes:
                        return Fail(code="answer_too_large", message="The answer is longer than answers may be.")
                    await out.put(data)
                    data = await answer.receive()
            return End(data_size=out.size)
        except Refused as refused:
            return refuse_of(refused.refusal)
        except Broken as broken:
            return Fail(code="engine_lost", message=message_of(broken.message))

    def _report(self, course: _Course) -> None:
        """Log what was answered or broke off. Refusals are counted: a flood of them must not flood the log."""
        if course.outcome == "refused":
            return
        if self._log is None:
            self._log = structlog.get_logger("peers").bind()
        asked = getattr(self._log, "isEnabledFor", None)
        if asked is not None and not asked(logging.INFO):
            return  # most nodes keep no such line, and to write it costs 100 µs
        self._log.info(
            "peers.request",
            request_id=course.ask.request_id,
            peer=str(course.peer),
            endpoint=course.route.name,
            outcome=course.outcome,
            bytes=course.sent,
            seconds=round(self._clock() - course.began, 4),
        )


_requester = lru_cache(maxsize=1024)(requester_of)  # asked for thrice a prompt; to spell a peer's name takes 10 µs
_OUTCOMES = {Refuse: "refused", End: "served", Fail: "failed"}
