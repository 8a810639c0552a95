"""What trials need of the world, as capabilities: a bench that runs engines, and a book that outlives the run.

Knows no vLLM and no file. `node.ports` is the rest; these are apart because only trials use them.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from node.core.own_records import Setting
from node.core.strategy import Strategy
from node.core.trial_plan import Entry, Failure, Session
from node.core.workloads import Request


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One engine to be built, and what to send it.

    Attributes:
        loads: name and requests, in the order that they are sent in; nothing else is at the engine meanwhile.
        build_seconds, load_seconds: how long the build (with its warm-up) and each load may take.
    """

    strategy: Strategy
    warmup: tuple[Request, ...]
    loads: tuple[tuple[str, tuple[Request, ...]], ...]
    build_seconds: float
    load_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """The engine is up and warm. `facts` are what it made of its flags."""

    seconds: float
    facts: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """So many of a load's requests are answered."""

    load: str
    answered: int
    of: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Raw:
    """One load is done; its raw figures, as `node.core.trial_outcome.outcome` takes them."""

    load: str
    figures: Mapping[str, object]


BenchWord = Built | Answered | Raw | Failure
Hear = Callable[[BenchWord], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchFacts:
    """What the bench measures with."""

    vllm: str
    torch: str
    build: str
    model: str  # name of the model, never a path


class Bench(Protocol):
    """Runs engines, one at a time."""

    @property
    def facts(self) -> BenchFacts:
        """What it measures with."""
        ...

    async def run(self, order: Order, hear: Hear) -> None:
        """Build the engine, send the loads and end it; `hear` is told each step. A `Failure` ends the order.

        Cancelled, it leaves no engine behind and takes no further order.

        Raises:
            node.errors.EngineUnavailable: the bench itself is broken.
        """
        ...


BenchOpener = Callable[[], AbstractAsyncContextManager[Bench]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What a book holds: the run's settings, what was tried, how long each session took, what is told of in records.

    Attributes:
        written: names of cells in the state in which records were made of them (`node.core.trial_plan.mark`).
    """

    header: Mapping[str, object]
    entries: tuple[Entry, ...]
    took: tuple[tuple[Session, float], ...]
    written: frozenset[str] = frozenset()


class TrialBook(Protocol):
    """What was tried, kept so that a run may be broken off at any time and goes on later.

    What writes, writes all of it, though it be cancelled meanwhile.
    """

    async def read(self) -> Page | None:
        """Return what is kept; None where nothing is, or nothing that can be read, or more than a book may hold."""
        ...

    async def begin(self, header: Mapping[str, object]) -> None:
        """Start a new run; the one before is put aside.

        Raises:
            node.errors.Unavailable: the disk refused. So the others.
        """
        ...

    async def write(self, entries: Sequence[Entry]) -> None:
        """Add trials."""
        ...

    async def write_time(self, session: Session, seconds: float) -> None:
        """Add how long a session took."""
        ...

    async def write_marks(self, marks: Sequence[str]) -> None:
        """Note of which cells records were made."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Workshop:
    """What trials of one model on one machine are made with.

    Attributes:
        open: the bench. It wants the machine for itself, as does `setting`.
        context: what must be equal for a run of earlier to go on: driver, clocks, hardware, software.
        model: the name that the bench's facts give.
        setting: what the records of these trials share; may measure for some seconds. Raises EngineUnavailable.
    """

    open: BenchOpener
    book: TrialBook
    context: Mapping[str, object]
    model: str
    gpus: int
    setting: Callable[[], Awaitable[Setting]]


Span = tuple[float, float]


class Spending(Protocol):
    """Where the spans of the last day are kept. Times are seconds ago, so that no clock has to outlive the process."""

    async def read(self) -> Sequence[Span]:
        """Return the spans that are kept, (began, ended) each; none where nothing can be read."""
        ...

    async def write(self, spans: Sequence[Span]) -> None:
        """Keep these in place of the others.

        Raises:
            node.errors.Unavailable: the disk refused.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialHands:
    """What a node can do about trials.

    Attributes:
        prepare: finds out what trials would be made with now, telling progress in words. Raises EngineUnavailable.
        mint: names for runs that nobody had before.
        spending: keeps what was spent of the day's budget over a restart; None: nothing does.
    """

    prepare: Callable[[Callable[[str], None]], Awaitable[Workshop]]
    mint: Callable[[], str]
    spending: Spending | None = None
