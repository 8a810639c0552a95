"""What tuning needs of the world, as capabilities: an engine to switch, its traffic, advice, a turn, a ledger.

Knows no engine, learner, peer or file. `node.ports` is the rest; these are apart because only the tuner uses them.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from node.core.answer_meter import Measured
from node.core.engine_state import EngineSnapshot
from node.core.learning import Advice
from node.core.observation import Row
from node.core.strategy import Strategy
from node.core.tuning_ledger import Ledger
from node.core.workload import Description, Timed
from node.ports import Endpoint

# Hears an engine that is ready and serves nobody yet, under the model's name; returns why it must not take over, or "".
Audition = Callable[[Endpoint, str], Awaitable[str]]


class Switched(Protocol):
    """What came of a switch. See `node.services.switch.Switched`."""

    @property
    def result(self) -> str:
        """Return one of `node.core.switching.RESULTS`."""
        ...

    @property
    def how(self) -> str:
        """Return by what way: `live`, `start_first`, `restart`."""
        ...

    @property
    def reason(self) -> str:
        """Return why, for a person."""
        ...

    @property
    def down_s(self) -> float:
        """Return the seconds in which nobody was served."""
        ...


class StrategySwitch(Protocol):
    """Brings the engine to another strategy."""

    async def switch(self, strategy: Strategy, *, reason: str, audition: Audition | None = None) -> Switched:
        """Switch; where that fails the old one runs again, or is on its way. Raises nothing for the engine's faults.

        `audition` hears the new engine before it takes over, where there are two at once.
        """
        ...

    async def back(self, strategy: Strategy, *, reason: str) -> Switched:
        """Return to what was good, without trusting what runs; where that fails, the owner's own strategy runs."""
        ...

    def strategy(self) -> Strategy:
        """Return what runs, or is on its way."""
        ...

    def usual_start_s(self) -> float | None:
        """Return the seconds that a start takes here; None before the first."""
        ...


class TrafficWatch(Protocol):
    """The node's own traffic. See `node.core.workload.WorkloadWatch`."""

    def description(self, now: float) -> Description | None:
        """Return its shape; None where too little came."""
        ...

    def changed(self, since: Description, now: float) -> str:
        """Return in words why it is another; "" where it is not."""
        ...

    def answers(self, since: float) -> tuple[Timed, ...]:
        """Return the whole answers that ended since."""
        ...

    def failures(self, since: float, strategy: str | None = None) -> int:
        """Count those that the engine broke off since; of those asked while it ran `strategy`, where that is given."""
        ...


class Adviser(Protocol):
    """Says which strategy is best. See `node.services.learn.Learning`."""

    async def advise(  # noqa: PLR0913 -- one question
        self,
        rows: Sequence[Row],
        *,
        goal: str,
        default: int,
        current: int,
        lossy: bool,
        horizon_s: float,
        busy_share: float,
        restart_s: float,
        lost_share: float,
        evidence: Sequence[Row] = (),
        banned: Sequence[int] = (),
        memory_bytes: int | None = None,
        promises: Mapping[str, float] | None = None,
    ) -> Advice:
        """Weigh candidates. Ends by itself in time.

        Raises:
            node.errors.Unavailable: nobody can tell now.
        """
        ...

    async def learnt(self, than: int) -> int:
        """Wait until more lessons than that were learnt; return how many."""
        ...


class LedgerFile(Protocol):
    """Keeps the ledger."""

    async def load(self) -> Ledger | None:
        """Return what was kept; None where nothing was, or nothing that can be read."""
        ...

    async def save(self, ledger: Ledger) -> None:
        """Keep it, whole or not at all. A disk that refuses is logged and no more."""
        ...


Publish = Callable[[Strategy, str, Description | None], Awaitable[None]]
Enough = Callable[[Sequence[Measured]], bool]  # whether the answers so far to a rehearsal say enough
Engine = tuple[Endpoint, str]  # one of them, and the model's name there


class Rehearse(Protocol):
    """Sends a few requests (eight or more), the same each time, one after another. See `node.services.rehearse`."""

    async def __call__(self, enough: Enough, engine: Engine | None = None) -> Sequence[Measured]:
        """Return the answers in order: as many as came until somebody else wanted one, or they were enough.

        Args:
            enough: whether they are.
            engine: which one is asked; None is the one that serves.

        Raises:
            node.errors.Unavailable: it gave no answer that can be measured.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TunerHands:
    """What a tuner works with. What is awaited here is given a deadline by the tuner.

    Attributes:
        engine: what the engine is doing. troubles: its unplanned ends of the last ten minutes, under what runs.
        known: waits until it is known what the engine takes.
        candidates: what it may run, the engine's default first; equal engines under one name only. Before that is
            known, no more than what is configured.
        question: candidates as rows of one context. Raises Unavailable where the machine is not known yet.
        evidence: this node's own records of the model, as rows.
        canonical: the same strategy without what the engine does anyway.
        objections: why a strategy cannot run here, in words.
        turn: entered when it is this node's turn to take its engine away; may wait for minutes.
        peers: whether others of the swarm serve the model now.
        gapless: whether a switch to it leaves no gap: a lever, or room for a second engine.
        rehearse: a rehearsal, not counted in `asked` and `watch`. None where that is not to be had.
        flush: closes the window of traffic under way and has it recorded, so that a strategy that reality contradicts
            is published.
        publish: has a failure recorded: strategy, `start_failed` (or out_of_memory, crashed, timed_out), traffic.
        asked: how many prompts ever came for the engine.
        wall: seconds since 1970. clock: the loop's seconds.
        memory: bytes that the engine may take; None for no limit.
        leaving: whether an engine that another has taken over from is still there.
    """

    engine: Callable[[], EngineSnapshot]
    troubles: Callable[[], int]
    switch: StrategySwitch
    watch: TrafficWatch
    adviser: Adviser
    known: Callable[[], Awaitable[None]]
    candidates: Callable[[], Sequence[Strategy]]
    question: Callable[[Description | None, Sequence[Strategy]], Awaitable[Sequence[Row]]]
    evidence: Callable[[], Awaitable[Sequence[Row]]]
    canonical: Callable[[Strategy], Strategy]
    objections: Callable[[Strategy], Sequence[str]]
    turn: Callable[[], AbstractAsyncContextManager[object]]
    peers: Callable[[], bool]
    gapless: Callable[[Strategy], Awaitable[bool]]
    flush: Callable[[], Awaitable[None]]
    publish: Publish
    asked: Callable[[], int]
    file: LedgerFile
    tell: Callable[[str, Mapping[str, Any]], None]
    wall: Callable[[], float]
    clock: Callable[[], float]
    memory: Callable[[], int | None] = lambda: None
    leaving: Callable[[], bool] = lambda: False
    rehearse: Rehearse | None = None
