"""Answering prompts with this node's own engine: a turn in the queue, then the engine, then the answer as it comes.

Knows neither HTTP servers nor how the engine is kept alive: it reads the board, asks `Admission` and uses the
upstream. The waiting is here; who waits and for how long is decided there.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from node.core.admission import Admission, Admitted, Decline, Declined, Ticket
from node.core.answer_meter import AnswerMeter
from node.core.endpoints import generates
from node.core.engine_state import LENT, EngineSnapshot, EngineState
from node.core.prompt import OWNER, Headers, Prompt, Requester, RequesterKind
from node.core.traffic import Ending, Traffic
from node.errors import Broken, Refusal, Refused, Unreached
from node.ports import Answer, EngineBoard, Served, ServedAnswer, Upstream
from protocol.load import Load, Serving

LOADING_RETRY = 5  # seconds: an engine takes 16 s and more to start, so an answer in five is soon enough
LOADING = frozenset({EngineState.PREPARING, EngineState.STARTING})
AWAY = {
    EngineState.OFF: "This node runs no engine.",
    EngineState.FAILED: "The engine cannot be started; the node's status says why.",
    EngineState.STOPPED: "The engine is stopped at present; the node's status says why.",
}
SERVING = {
    EngineState.PREPARING: Serving.LOADING,
    EngineState.STARTING: Serving.LOADING,
    EngineState.READY: Serving.READY,
    EngineState.DRAINING: Serving.DRAINING,
}
METRICS_DEADLINE = 5.0  # seconds for the engine to tell its metrics
METRICS_BYTES = 4 * 1024 * 1024  # vLLM's are 51 KB


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What became of the prompts since the node came up.

    Attributes:
        running, waiting: now; `running` counts every prompt that is at the engine.
        served: answered whole, whatever the status.
        failed: the engine broke off.
        refused: no turn, or no engine.
        abandoned: the client left before the end.
    """

    running: int
    waiting: int
    served: int
    failed: int
    refused: int
    abandoned: int


class LocalReplica:
    """`node.ports.Replica` over this node's engine."""

    def __init__(
        self,
        *,
        node: str,
        board: EngineBoard,
        upstream: Upstream,
        admission: Admission,
        traffic: Traffic | None = None,
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        """Prepare.

        Args:
            traffic: is told when the engine is asked, of each piece of its answers, and how they end; None: nobody is.
        """
        self._node = node
        self._board = board
        self._upstream = upstream
        self._admission = admission
        self._traffic = traffic
        self._clock = clock
        self._turns: dict[int, trio.Event] = {}  # of the tickets in the queue
        self._running = self._served = self._failed = self._refused = self._abandoned = 0
        self._generating = self._generating_seen = 0

    def generating_running(self) -> int:
        """Count the prompts for endpoints that generate which are owed an answer now, waiting ones included."""
        return self._generating

    def generating_seen(self) -> int:
        """Count those that ever came, whatever became of them."""
        return self._generating_seen

    def counts(self) -> Counts:
        """Count what was done."""
        return Counts(
            running=self._running,
            waiting=self._admission.waiting,
            served=self._served,
            failed=self._failed,
            refused=self._refused,
            abandoned=self._abandoned,
        )

    def load(self, requester: Requester = OWNER) -> Load:
        """Tell how busy the engine is now, and whether a prompt of that requester would find a slot or a place."""
        return Load(
            running=self._admission.running,
            waiting=self._admission.waiting,
            slots=self._admission.slots,
            accepting=self._admission.takes(requester),
            serving=SERVING.get(self._board.snapshot().state, Serving.AWAY),
        )

    @asynccontextmanager
    async def answer(self, prompt: Prompt) -> AsyncIterator[ServedAnswer]:
        """See `node.ports.Replica.answer`.

        A prompt for an endpoint that generates nothing needs no turn, unless it is a peer's and has a body. Cancelled
        while it waits, it leaves the queue.

        Raises:
            Refused: 503 `model_loading` or `engine_unavailable`, 429 `overloaded`, each with when to ask again.
            Broken: the engine gave no answer.
        """
        works = generates(prompt.path)
        ticket: Ticket | None = None
        outcome = _Outcome()
        self._generating += works
        self._generating_seen += works
        try:
            self._require_engine()  # before the queue, so that nobody waits for an engine that is not there
            if works or _burdens(prompt):
                ticket = await self._turn(prompt)
            async with self._at_engine(prompt, outcome) as answer:
                yield answer
        except Refused:
            self._refused += 1
            raise
        except Broken:
            self._failed += 1
            raise
        else:
            self._count(outcome)
        finally:
            self._generating -= works
            if ticket is not None:
                self._give_back(ticket)
            if outcome.interrupted:
                self._abandoned += 1

    async def engine_metrics(self) -> bytes:
        """Return the engine's own metrics as it gives them; b"" when it gives none in time."""
        endpoint = self._board.endpoint()
        if endpoint is None:
            return b""
        gathered = bytearray()
        with trio.move_on_after(METRICS_DEADLINE) as patience:
            try:
                async with self._upstream.send(
                    endpoint, method="GET", target="/metrics", headers=(), body=b""
                ) as answer:
                    while answer.status == 200 and (piece := await answer.receive()):
                        gathered += piece
                        if len(gathered) > METRICS_BYTES:
                            return b""
            except Broken:
                return b""
        return b"" if patience.cancelled_caught else bytes(gathered)

    def _count(self, outcome: "_Outcome") -> None:
        if outcome.whole:
            self._served += 1
        elif outcome.broken:
            self._failed += 1
        else:
            self._abandoned += 1

    @asynccontextmanager
    async def _at_engine(self, prompt: Prompt, outcome: "_Outcome") -> AsyncIterator[ServedAnswer]:
        self._require_engine()  # again: it may have died while this prompt waited for its turn
        endpoint = self._board.endpoint()
        if endpoint is None:
            raise Refused(_refusal(self._board.snapshot()))
        self._running += 1
        meter = self._meter(prompt)
        answering = False
        outcome.interrupted = True
        try:
            async with self._upstream.send(
                endpoint, method=prompt.method, target=prompt.target, headers=prompt.headers, body=prompt.body
            ) as answer:
                answering = True
                if meter is None:
                    yield _Watched(answer, outcome, self._served_by())
                else:
                    meter.head(answer.status, answer.headers, self._clock())
                    yield _Metered(answer, outcome, self._served_by(), meter, self._clock)
            outcome.interrupted = False
        except Unreached as error:
            # It has just died, or is overrun: the board will say so in a moment.
            outcome.interrupted = False
            raise Refused(_unreached(error)) from error
        except Broken:
            outcome.interrupted = False
            outcome.broken |= not answering  # else it is the reader's, or noted already
            raise
        finally:
            self._running -= 1
            if meter is not None and self._traffic is not None:
                self._traffic.end(meter, outcome.ending, self._clock())

    def _meter(self, prompt: Prompt) -> AnswerMeter | None:
        if self._traffic is None:
            return None
        return self._traffic.begin(prompt, self._board.snapshot(), self._clock())

    def _served_by(self) -> Served:
        snapshot = self._board.snapshot()
        return Served(node=self._node, model=snapshot.model, strategy=snapshot.strategy)

    def _require_engine(self) -> None:
        snapshot = self._board.snapshot()
        if snapshot.state is not EngineState.READY:
            raise Refused(_refusal(snapshot))

    async def _turn(self, prompt: Prompt) -> Ticket:
        decision = self._admission.arrive(prompt.requester, self._clock())
        if isinstance(decision, Declined):
            raise _declined(decision)
        if isinstance(decision, Admitted):
            return decision.ticket
        if decision.displaced is not None:
            self._wake(decision.displaced)
        ticket = decision.ticket
        until = ticket.until if prompt.deadline is None else min(ticket.until, prompt.deadline)
        turn = self._turns[ticket.number] = trio.Event()
        admitted = False
        try:
            with trio.move_on_at(until):
                await turn.wait()
            admitted = self._admission.holds_slot(ticket)
        finally:
            self._turns.pop(ticket.number, None)
            if not admitted:
                self._give_back(ticket)
        if admitted:
            return ticket
        now = self._clock()
        reason = Decline.QUEUE_TIMEOUT if now >= until else Decline.DISPLACED
        raise _declined(Declined(reason=reason, retry_after=self._admission.retry_after(now)))

    def _give_back(self, ticket: Ticket) -> None:
        for admitted in self._admission.release(ticket, self._clock()):
            self._wake(admitted)

    def _wake(self, ticket: Ticket) -> None:
        turn = self._turns.get(ticket.number)
        if turn is not None:
            turn.set()


@dataclass(slots=True)
class _Outcome:
    whole: bool = False
    broken: bool = False
    interrupted: bool = False  # left by an exception that is not about the engine, cancellation above all

    @property
    def ending(self) -> Ending:
        """How the answer ended as far as the engine goes."""
        return Ending.WHOLE if self.whole else Ending.BROKEN if self.broken else Ending.LEFT


class _Watched:
    """An answer that notes how it ended."""

    def __init__(self, answer: Answer, outcome: _Outcome, served: Served) -> None:
        self.served = served
        self._answer = answer
        self._outcome = outcome

    @property
    def status(self) -> int:
        return self._answer.status

    @property
    def headers(self) -> Headers:
        return self._answer.headers

    async def receive(self) -> bytes:
        try:
            data = await self._answer.receive()
        except Broken:
            self._outcome.broken = True
            raise
        if not data:
            self._outcome.whole = True
        return data


class _Metered(_Watched):
    """An answer whose pieces are timed on their way too, for a microsecond and a half each."""

    def __init__(
        self, answer: Answer, outcome: _Outcome, served: Served, meter: AnswerMeter, clock: Callable[[], float]
    ) -> None:
        super().__init__(answer, outcome, served)
        self._meter = meter
        self._clock = clock

    async def receive(self) -> bytes:
        asked = self._clock()
        try:
            data = await self._answer.receive()
        except Broken:
            self._outcome.broken = True
            raise
        if data:
            self._meter.piece(data, asked, self._clock())
        else:
            self._outcome.whole = True
        return data


def _burdens(prompt: Prompt) -> bool:
    """Whether a peer could keep the engine busy with it whatever it asks for: tokenizing megabytes is work, too."""
    return prompt.requester.kind is RequesterKind.PEER and bool(prompt.body)


def _refusal(snapshot: EngineSnapshot) -> Refusal:
    """Why there is no engine to ask, in terms of the API."""
    if snapshot.state in LOADING:
        return Refusal(
            status=503,
            type="model_loading",
            message=f"The model is being loaded: {snapshot.progress or snapshot.reason}.",
            retry_after=LOADING_RETRY,
        )
    if snapshot.reason == LENT:
        message = f"The engine is {LENT}; it will be back."
    else:
        message = AWAY.get(snapshot.state, f"The engine is {snapshot.state.value}; it will be back.")
    return Refusal(status=503, type="engine_unavailable", message=message, retry_after=LOADING_RETRY)


def _unreached(error: Unreached) -> Refusal:
    return Refusal(status=503, type="engine_unavailable", message=error.message, retry_after=LOADING_RETRY)


_DECLINES = {
    Decline.QUEUE_FULL: "This node has more prompts waiting than it takes.",
    Decline.QUEUE_TIMEOUT: "No turn came up in the time that prompts may wait here.",
    Decline.DISPLACED: "The queue is full, and a requester with fewer prompts waiting has taken this place.",
}


def _declined(declined: Declined) -> Refused:
    return Refused(
        Refusal(
            status=429,
            type="overloaded",
            code=declined.reason.value,
            message=_DECLINES[declined.reason],
            retry_after=declined.retry_after,
        )
    )
