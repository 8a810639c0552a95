"""What trials need of the world, as capabilities: a bench that runs engines, and a book that outlives the run.

Knows no vLLM and no file. `node.ports` is the rest; these are apart because only trials use them.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

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

    async def run(self, order: Order, hear: Callable[[BenchWord], None]) -> None:
        """Build the engine, send the loads and end it; `hear` is told each step. A `Failure` ends the order.

        Cancelled, it leaves no engine behind and takes no further order.

        Raises:
            node.errors.EngineUnavailable: the bench itself is broken.
        """
        ...


BenchOpener = Callable[[], AbstractAsyncContextManager[Bench]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What a book holds: the run's settings, what was tried, and how long each session took."""

    header: Mapping[str, object]
    entries: tuple[Entry, ...]
    took: tuple[tuple[Session, float], ...]


class TrialBook(Protocol):
    """What was tried, kept so that a run may be broken off at any time and goes on later."""

    def read(self) -> Page | None:
        """Return what is kept; None where nothing is, or nothing that can be read."""
        ...

    def begin(self, header: Mapping[str, object]) -> None:
        """Start a new run; the one before is put aside.

        Raises:
            node.errors.Unavailable: the disk refused. So the others.
        """
        ...

    def write(self, entries: Sequence[Entry]) -> None:
        """Add trials."""
        ...

    def write_time(self, session: Session, seconds: float) -> None:
        """Add how long a session took."""
        ...
