"""Answering prompts with this node's own engine: through the door, then the engine, then the answer as it comes.

Knows neither HTTP servers nor how the engine is kept alive: it reads the board and uses the upstream. Who waits, for
a turn or for an engine that is away for a moment, is the door's (`node.services.serve_door`).
"""

import secrets
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from types import TracebackType

import trio

from node.core.admission import Admission, Ticket
from node.core.answer_meter import AnswerMeter
from node.core.endpoints import generates
from node.core.engine_state import EngineSnapshot
from node.core.levers import Levers, apply, capped, limited
from node.core.prompt import OWNER, Prompt, Requester, RequesterKind
from node.core.traffic import Traffic
from node.errors import Broken, Refused, Unreached
from node.ports import Answer, Endpoint, EngineBoard, Served, ServedAnswer, Upstream
from node.services.serve_answer import Metered, Outcome, Watched
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
        self._at: dict[Endpoint, _Spot] = {}
        self._spot: _Spot | None = None  # the latest of them: mostly there is one engine
        self._told: tuple[EngineSnapshot, Served] | None = None  # what the latest snapshot says to clients
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
        spot = self._at.get(endpoint)
        return spot.running if spot is not None else 0

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

    def answer(self, prompt: Prompt) -> "_Serving":
        """See `node.ports.Replica.answer`.

        A prompt for an endpoint that generates nothing needs no turn, unless it is a peer's and has a body. While the
        engine is away for a moment, it waits; where it is sent is what the board names once it is its turn. Cancelled
        while it waits, it leaves the queue.

        Raises:
            Refused: 503 `model_loading` or `engine_unavailable`, 429 `overloaded`, each with when to ask again.
            Broken: the engine gave no answer.
        """
        return _Serving(self, prompt)

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

    # What follows is `_Serving`'s.

    async def enter(self, visit: "_Serving") -> ServedAnswer:
        """Let a prompt in, and have its answer begin."""
        prompt = visit.prompt
        works = visit.works = generates(prompt.path)
        self._generating += works
        self._generating_seen += works
        arrived = self._clock()
        entered = False
        try:
            visit.ticket = await self._door.let_in(prompt, generates=works, wants_turn=works or _burdens(prompt))
            answer = await self._begin(visit, arrived)
            entered = True
        except Refused:
            self._refused += 1
            raise
        except Broken:
            self._failed += 1
            raise
        finally:
            if not entered:
                self._leave(visit)
        return answer

    async def exit(
        self,
        visit: "_Serving",
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End a prompt's answer, whatever became of it."""
        outcome = visit.outcome
        try:
            assert visit.sending is not None  # noqa: S101 -- entered
            await visit.sending.__aexit__(kind, error, trace)
        finally:
            outcome.interrupted = error is not None and not isinstance(error, Broken)
            self._end_at_engine(visit)
            if isinstance(error, Broken):
                self._failed += 1
            elif error is None:
                self._count(outcome)
            self._leave(visit)

    async def _begin(self, visit: "_Serving", arrived: float) -> ServedAnswer:
        endpoint = self._board.endpoint()
        if endpoint is None:
            raise Refused(refusal(self._board.snapshot()))
        sent = self._as_pulled(visit.prompt)
        visit.spot = self._sent_to(endpoint)
        visit.meter = meter = self._meter(visit.prompt, arrived)
        visit.sending = self._upstream.send(
            endpoint, method=sent.method, target=sent.target, headers=sent.headers, body=sent.body
        )
        answering = False
        visit.outcome.interrupted = True
        try:
            answer = await visit.sending.__aenter__()
            answering = True
        except Unreached as error:
            # It has just died, or is overrun: the board will say so in a moment.
            visit.outcome.interrupted = False
            raise Refused(unreached(error)) from error
        except Broken:
            visit.outcome.interrupted = False
            visit.outcome.broken = True
            raise
        finally:
            if not answering:
                self._end_at_engine(visit)
        if meter is None:
            return Watched(answer, visit.outcome, self._served_by())
        meter.head(answer.status, answer.headers, self._clock())
        return Metered(answer, visit.outcome, self._served_by(), meter, self._clock)

    def _sent_to(self, endpoint: Endpoint) -> "_Spot":
        """Count one more prompt at an endpoint."""
        spot = self._spot
        if spot is None or spot.endpoint is not endpoint:
            found = self._at.get(endpoint)
            if found is None:
                found = self._at[endpoint] = _Spot(endpoint)
            self._spot = found
            if spot is not None and not spot.running and spot is not found:
                del self._at[spot.endpoint]
            spot = found
        self._running += 1
        spot.running += 1
        return spot

    def _end_at_engine(self, visit: "_Serving") -> None:
        spot, meter = visit.spot, visit.meter
        assert spot is not None  # noqa: S101 -- it was sent there
        self._running -= 1
        spot.running -= 1
        if not spot.running and spot is not self._spot:
            del self._at[spot.endpoint]  # each engine has a port of its own, and there are many in a node's life
        if meter is not None and self._traffic is not None:
            self._traffic.end(meter, visit.outcome.ending, self._clock())

    def _leave(self, visit: "_Serving") -> None:
        self._generating -= visit.works
        if visit.ticket is not None:
            self._door.give_back(visit.ticket)
        if visit.outcome.interrupted:
            self._abandoned += 1

    def _count(self, outcome: Outcome) -> None:
        if outcome.whole:
            self._served += 1
        elif outcome.broken:
            self._failed += 1
        else:
            self._abandoned += 1

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
        if self._told is None or self._told[0] is not snapshot:
            self._told = (snapshot, Served(node=self._node, model=snapshot.model, strategy=snapshot.strategy))
        return self._told[1]


class _Spot:
    """How many prompts are at one endpoint."""

    __slots__ = ("endpoint", "running")

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.running = 0


class _Serving:
    """One prompt and its answer, as a context. A class by hand: a generator made into one costs five times as much."""

    __slots__ = ("_replica", "meter", "outcome", "prompt", "sending", "spot", "ticket", "works")

    def __init__(self, replica: LocalReplica, prompt: Prompt) -> None:
        self.prompt = prompt
        self.works = False
        self.ticket: Ticket | None = None
        self.outcome = Outcome()
        self.spot: _Spot | None = None  # where it was sent
        self.meter: AnswerMeter | None = None
        self.sending: AbstractAsyncContextManager[Answer] | None = None
        self._replica = replica

    async def __aenter__(self) -> ServedAnswer:
        return await self._replica.enter(self)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._replica.exit(self, kind, error, trace)


def _burdens(prompt: Prompt) -> bool:
    """Whether a peer could keep the engine busy with it whatever it asks for: tokenizing megabytes is work, too."""
    return prompt.requester.kind is RequesterKind.PEER and bool(prompt.body)
