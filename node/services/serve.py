"""Answering prompts with this node's own engine: through the door, then the engine, then the answer as it comes.

Knows neither HTTP servers nor how the engine is kept alive: it reads the board and uses the upstream. Who waits, for
a turn or for an engine that is away for a moment, is the door's (`node.services.serve_door`).
"""

import secrets
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from node.core.admission import Admission, Ticket
from node.core.answer_meter import AnswerMeter
from node.core.endpoints import generates
from node.core.levers import Levers, apply, capped, limited
from node.core.prompt import OWNER, Headers, Prompt, Requester, RequesterKind
from node.core.traffic import Ending, Traffic
from node.errors import Broken, Refused, Unreached
from node.ports import Answer, Endpoint, EngineBoard, Served, ServedAnswer, Upstream
from node.services.serve_door import Door
from node.services.serve_words import refusal, serving, unreached
from protocol.load import Load

METRICS_DEADLINE = 5.0  # seconds for the engine to tell its metrics
METRICS_BYTES = 4 * 1024 * 1024  # vLLM's are 51 KB
SALT_BYTES = 16  # of a prompt's own salt: nobody guesses it, no two are alike


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What became of the prompts since the node came up.

    Attributes:
        running, waiting: now; `running` counts every prompt that is at the engine, `waiting` also those that wait for
            an engine that is away for a moment.
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
        self._door = Door(board=board, admission=admission, clock=clock)
        self._limits = admission.limits  # the node's own, whatever levers make of them
        self._levers: Levers | None = None
        self._cap: int | None = None  # the owner's, for power or heat
        self._at: Counter[Endpoint] = Counter()  # prompts, by the endpoint that they were sent to
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
            waiting=self._door.waiting,
            served=self._served,
            failed=self._failed,
            refused=self._refused,
            abandoned=self._abandoned,
        )

    def load(self, requester: Requester = OWNER) -> Load:
        """Tell how busy the engine is now, and whether a prompt of that requester would find a slot or a place."""
        return Load(
            running=self._admission.running,
            waiting=self._door.waiting,
            slots=self._admission.slots,
            accepting=self._admission.takes(requester),
            serving=serving(self._board.snapshot()),
        )

    def running_at(self, endpoint: Endpoint) -> int:
        """Count the prompts that were sent to one endpoint and are not over."""
        return self._at[endpoint]

    def set_levers(self, levers: Levers | None) -> None:
        """Serve prompts from now on as these levers say; None: as the engine was started. What runs goes on.

        The board is to name their strategy as the engine's: while it names another, prompts go as they came.
        """
        self._levers = levers
        self._resize()

    def set_cap(self, cap: int | None) -> None:
        """Let so many prompts run at once and no more, whatever levers allow; None lifts that. What runs goes on."""
        self._cap = cap
        self._resize()

    def _resize(self) -> None:
        self._door.resize(capped(limited(self._limits, self._levers), self._cap))

    @asynccontextmanager
    async def answer(self, prompt: Prompt) -> AsyncIterator[ServedAnswer]:
        """See `node.ports.Replica.answer`.

        A prompt for an endpoint that generates nothing needs no turn, unless it is a peer's and has a body. While the
        engine is away for a moment, it waits; where it is sent is what the board names once it is its turn. Cancelled
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
        arrived = self._clock()
        try:
            ticket = await self._door.let_in(prompt, generates=works, wants_turn=works or _burdens(prompt))
            async with self._at_engine(prompt, outcome, arrived) as answer:
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
                self._door.give_back(ticket)
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
    async def _at_engine(self, prompt: Prompt, outcome: "_Outcome", arrived: float) -> AsyncIterator[ServedAnswer]:
        endpoint = self._board.endpoint()
        if endpoint is None:
            raise Refused(refusal(self._board.snapshot()))
        sent = self._as_pulled(prompt)
        self._running += 1
        self._at[endpoint] += 1
        meter = self._meter(prompt, arrived)
        answering = False
        outcome.interrupted = True
        try:
            async with self._upstream.send(
                endpoint, method=sent.method, target=sent.target, headers=sent.headers, body=sent.body
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
            raise Refused(unreached(error)) from error
        except Broken:
            outcome.interrupted = False
            outcome.broken |= not answering  # else it is the reader's, or noted already
            raise
        finally:
            self._running -= 1
            self._at[endpoint] -= 1
            if not self._at[endpoint]:
                del self._at[endpoint]  # each engine has a port of its own, and there are many in a node's life
            if meter is not None and self._traffic is not None:
                self._traffic.end(meter, outcome.ending, self._clock())

    def _meter(self, prompt: Prompt, arrived: float) -> AnswerMeter | None:
        if self._traffic is None:
            return None
        snapshot, now = self._board.snapshot(), self._clock()
        levers = self._levers
        # Under a cap of the strategy's prompts wait at the door that would wait in the engine's own queue: it is the
        # strategy that they wait for. What they waited for the engine itself is not.
        capped = levers is not None and levers.running is not None and levers.strategy.name == snapshot.strategy
        since = max(arrived, snapshot.since) if capped else now
        return self._traffic.begin(prompt, snapshot, now, since=since)

    def _as_pulled(self, prompt: Prompt) -> Prompt:
        """Return what the levers make of a prompt, while the engine that they are of is the one that serves.

        Another one may refuse what they add, and in a hand-over prompts are sent before anybody can set them anew.
        """
        levers = self._levers
        if levers is None or levers.strategy.name != self._board.snapshot().strategy:
            return prompt
        return apply(prompt, levers, secrets.token_hex(SALT_BYTES))

    def _served_by(self) -> Served:
        snapshot = self._board.snapshot()
        return Served(node=self._node, model=snapshot.model, strategy=snapshot.strategy)


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
