"""Trials: works off a plan on a bench, within a budget of seconds, and keeps what came of it as it comes.

Knows the order of steps: learn how fast the machine is, size the loads to it, then session by session what the plan
says. Knows no vLLM, no file and no screen. Whoever cancels it loses the session that runs, nothing else: the next run
goes on from the book. It never runs two engines at once; what else the machine is for is its caller's to see to.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, cast

import trio

from node.core import trial_plan, workloads
from node.core.mirror import mirror
from node.core.strategy import DEFAULT, Setting, Strategy
from node.core.trial_outcome import NotATrial, Outcome, outcome
from node.core.trial_plan import Cell, Entry, Failure, Limits, Plan, Session, Tally
from node.core.trial_strategies import candidates
from node.core.workload import Description
from node.core.workloads import MIRROR, Load, Scale
from node.errors import EngineUnavailable
from node.trial_ports import Answered, Bench, BenchWord, Built, Order, Page, Raw, TrialBook

BUILD_SECONDS = 900.0  # a large model on CUDA compiles for minutes; one that hangs costs this once
LOAD_SECONDS = 180.0  # sized to last seconds; without batching, on a busy machine, some twenty
FIRST_SESSION_SECONDS = 45.0  # expected of the first, before there is one to go by
LENGTH_WITHOUT_WORD = 4096  # tokens of context, where the engine does not say
KEEP_SECONDS = 10.0  # for `keep`, which is not broken off with the run: some thirty records on a slow disk


class Clock(Protocol):
    """Seconds that only grow."""

    def __call__(self) -> float:
        """Return them."""
        ...


Tell = Callable[[str, Mapping[str, Any]], None]
Keep = Callable[[Plan, Sequence[Load], Sequence[Entry], frozenset[str]], Awaitable[None]]


async def keep_nothing(plan: Plan, loads: Sequence[Load], entries: Sequence[Entry], written: frozenset[str]) -> None:
    """Make no records."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What is asked for.

    Attributes:
        strategies: None takes the candidates for the machine, the first `most` of them, of many where `wide`.
        kinds: of workloads; with `MIRROR` among them, one is made like the traffic of `description`.
        budget: seconds until no further session is begun.
        again: start a new run, though the last one is not complete or is.
        context: what else must be equal for a run to go on: driver, clocks, hardware.
    """

    strategies: tuple[Strategy, ...] | None = None
    kinds: tuple[str, ...] = workloads.KINDS[:3]
    description: Description | None = None
    repetitions: int = 3
    retries: int = 2
    limits: Limits = field(default_factory=Limits)
    budget: float = 900.0
    wide: bool = False
    most: int | None = None
    again: bool = False
    gpus: int | None = None
    context: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a run came to, so far."""

    plan: Plan
    loads: tuple[Load, ...]
    cells: tuple[Cell, ...]
    tally: Tally
    seconds: float
    ended: Literal["complete", "budget"]
    vllm: str
    model: str


async def run_trials(  # noqa: PLR0913 -- the capabilities of a loop: each is one thing it needs of the world
    bench: Bench,
    book: TrialBook,
    wish: Wish,
    *,
    clock: Clock,
    mint: Callable[[], str],
    tell: Tell,
    keep: Keep = keep_nothing,
) -> Report:
    """Try what is wanted and is not in the book yet.

    Args:
        mint: names for runs that nobody had before.
        tell: is given (event, facts): `scale`, `session`, `answered`, `trial`, `failed`, `discarded`.
        keep: is given all that is known when the run ends, broken off or not, and the marks of what was told of before
            (`Page.written`); it must not raise, and is broken off after KEEP_SECONDS.

    Raises:
        EngineUnavailable: no engine of this model can be had at all.
        Unavailable: the book cannot be written.
    """
    begun = clock()
    run, scale, longest, page = await _begin(bench, book, wish, mint=mint, tell=tell)
    loads = _loads(wish, scale, longest)
    plan = _plan(wish, loads, run=run, build=bench.facts.build, longest=longest)
    entries = _judged(plan, page)
    took = list(page.took) if page else []
    warmup = workloads.warmup(scale)
    requests = {load.name: load.requests for load in loads}
    ended: Literal["complete", "budget"] = "complete"
    try:
        while (session := trial_plan.next_session(plan, entries)) is not None:
            left = begun + wish.budget - clock()
            if trial_plan.expected_seconds(session, took, guess=FIRST_SESSION_SECONDS) > left:
                ended = "budget"
                break
            order = Order(
                strategy=session.strategy,
                warmup=warmup,
                loads=tuple((load, requests[load]) for load in session.loads),
                build_seconds=BUILD_SECONDS,
                load_seconds=LOAD_SECONDS,
            )
            tally = trial_plan.tally(plan, entries)
            tell(
                "session",
                {"strategy": session.strategy.name, "round": session.attempt, "left": left, "tally": tally},
            )
            started = clock()
            listener = _Listener(plan, session, entries, book, tell)
            await bench.run(order, listener)
            seconds = clock() - started
            if listener.failure is None:
                took.append((session, seconds))
                await book.write_time(session, seconds)
    finally:
        with trio.move_on_after(KEEP_SECONDS) as last:
            last.shield = True
            await keep(plan, loads, entries, page.written if page else frozenset())
    return Report(
        plan=plan,
        loads=loads,
        cells=trial_plan.cells(plan, entries),
        tally=trial_plan.tally(plan, entries),
        seconds=clock() - begun,
        ended=ended,
        vllm=bench.facts.vllm,
        model=bench.facts.model,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What a book says of a wish, without a bench. `report.ended` is "complete" where nothing is left to be tried."""

    report: Report
    entries: tuple[Entry, ...]


def known(page: Page | None, wish: Wish, *, model: str) -> Known | None:
    """Return what the book says; None where it holds no run of this context, or a new run is wished for."""
    if page is None or wish.again:
        return None
    context = page.header.get("context")
    expected = {"model": model, "workloads": workloads.VERSION, **wish.context}
    sizes = _sizes(page.header)
    if not isinstance(context, dict) or sizes is None or any(context.get(key) != expected[key] for key in expected):
        return None
    loads = _loads(wish, *sizes)
    plan = _plan(wish, loads, run=str(page.header.get("run")), build=context.get("build"), longest=sizes[1])
    entries = _judged(plan, page)
    report = Report(
        plan=plan,
        loads=loads,
        cells=trial_plan.cells(plan, entries),
        tally=trial_plan.tally(plan, entries),
        seconds=0.0,
        ended="complete" if trial_plan.next_session(plan, entries) is None else "budget",
        vllm=str(context.get("vllm")),
        model=model,
    )
    return Known(report=report, entries=tuple(entries))


def _loads(wish: Wish, scale: Scale, longest: int) -> tuple[Load, ...]:
    """Return the loads in the order of their kinds.

    Raises:
        ValueError: one is to be made like traffic of which nothing is said, or a kind is unknown.
    """
    made = {load.name: load for load in workloads.loads(scale, kinds=[kind for kind in wish.kinds if kind != MIRROR])}
    if MIRROR in wish.kinds:
        if wish.description is None:
            raise ValueError("a load like the traffic needs the traffic's description")
        made[MIRROR] = mirror(wish.description, max_model_len=longest)
    return tuple(made[kind] for kind in wish.kinds)


def _plan(
    wish: Wish,
    loads: Sequence[Load],
    *,
    run: str,
    build: Any,  # noqa: ANN401 -- a word of the bench or a file
    longest: int,
) -> Plan:
    place = Setting(build=build, max_model_len=longest, gpus=wish.gpus)
    return Plan(
        run=run,
        strategies=wish.strategies or candidates(place, max_model_len=longest, wide=wish.wide)[: wish.most],
        loads=tuple(load.name for load in loads),
        repetitions=wish.repetitions,
        retries=wish.retries,
        limits=wish.limits,
    )


def _judged(plan: Plan, page: Page | None) -> list[Entry]:
    """Return what was tried, judged anew: whoever changes the limits between two calls means all trials."""
    return [trial_plan.judged(plan.limits, entry) for entry in page.entries] if page else []


class _Listener:
    """Turns the words of one session into entries, written down as they come."""

    def __init__(self, plan: Plan, session: Session, entries: list[Entry], book: TrialBook, tell: Tell) -> None:
        self._plan = plan
        self._session = session
        self._entries = entries
        self._book = book
        self._tell = tell
        self.failure: Failure | None = None

    async def __call__(self, word: BenchWord) -> None:
        name = self._session.strategy.name
        match word:
            case Answered():
                self._tell("answered", {"strategy": name, "load": word.load, "answered": word.answered, "of": word.of})
            case Raw():
                await self._take(name, word)
            case Failure():
                self.failure = word
                await self._note(self._entry(word.load, failure=word))
                self._tell("failed", {"strategy": name, "load": word.load, "kind": word.kind, "reason": word.reason})
            case Built():
                pass

    async def _take(self, name: str, word: Raw) -> None:
        try:
            made = outcome(word.figures)
        except NotATrial as error:
            raise EngineUnavailable(f"the bench for trials is broken: {error}") from error
        reason = trial_plan.discarded(self._plan.limits, made)
        await self._note(self._entry(word.load, made=made, reason=reason))
        facts = {"strategy": name, "load": word.load, "outcome": made, "reason": reason}
        self._tell("discarded" if reason else "trial", facts)

    def _entry(
        self, load: str | None, *, made: Outcome | None = None, failure: Failure | None = None, reason: str = ""
    ) -> Entry:
        return Entry(
            strategy=self._session.strategy,
            load=load,
            attempt=self._session.attempt,
            outcome=made,
            failure=failure,
            discarded=reason,
        )

    async def _note(self, entry: Entry) -> None:
        self._entries.append(entry)
        await self._book.write([entry])


async def _begin(
    bench: Bench, book: TrialBook, wish: Wish, *, mint: Callable[[], str], tell: Tell
) -> tuple[str, Scale, int, Page | None]:
    """Return the run to go on with, the sizes of its loads, the longest context and what the book holds of the run.

    Where there is none to go on with, one is begun, of which the book holds nothing.
    """
    facts = bench.facts
    context: dict[str, object] = {
        "vllm": facts.vllm, "torch": facts.torch, "build": facts.build, "model": facts.model,
        "workloads": workloads.VERSION, **wish.context,
    }  # fmt: skip
    page = await book.read()
    known = page.header if page and page.header.get("context") == context else None
    if known is None or not _sizes(known):
        scale, longest = await _measure(bench)
    else:
        scale, longest = cast("tuple[Scale, int]", _sizes(known))
    fresh = known is None or wish.again
    run = mint() if known is None or fresh else str(known["run"])
    if fresh:
        sizes = {"prefill": scale.prefill, "decode": scale.decode, "max_model_len": longest}
        await book.begin({"run": run, "context": context, "sizes": sizes})
    tell("scale", {"prefill": scale.prefill, "decode": scale.decode, "max_model_len": longest, "resumed": not fresh})
    return run, scale, longest, None if fresh else page


def _sizes(header: Mapping[str, object]) -> tuple[Scale, int] | None:
    sizes = header.get("sizes")
    if not isinstance(sizes, dict):
        return None
    prefill, decode, longest = (sizes.get(name) for name in ("prefill", "decode", "max_model_len"))
    if not (isinstance(prefill, int) and isinstance(decode, int) and isinstance(longest, int)):
        return None
    return Scale(prefill=prefill, decode=decode), longest


async def _measure(bench: Bench) -> tuple[Scale, int]:
    """Return the sizes that fit the machine, by one engine under vLLM's own strategy."""
    figures: dict[str, Outcome] = {}
    prompts: dict[str, int] = {}
    heard: list[Failure] = []
    longest = LENGTH_WITHOUT_WORD

    async def hear(word: BenchWord) -> None:
        nonlocal longest
        if isinstance(word, Built):
            said = word.facts.get("max_model_len")
            longest = said if isinstance(said, int) else longest
        elif isinstance(word, Raw):
            figures[word.load] = outcome(word.figures)
        elif isinstance(word, Failure):
            heard.append(word)

    loads = workloads.probes(LENGTH_WITHOUT_WORD)
    prompts = {name: requests[0].prompt_tokens for name, requests in loads}
    order = Order(
        strategy=DEFAULT,
        warmup=workloads.warmup(Scale(prefill=workloads.MIN_PREFILL, decode=workloads.MIN_DECODE)),
        loads=loads,
        build_seconds=BUILD_SECONDS,
        load_seconds=LOAD_SECONDS,
    )
    await bench.run(order, hear)
    prefill, decode = figures.get("prefill"), figures.get("decode")
    if prefill is None or prefill.ttft is None or decode is None or decode.tpot is None:
        why = f"{heard[0].kind}: {heard[0].reason}" if heard else "its probe was not answered"
        raise EngineUnavailable(f"the engine cannot be tried with vLLM's own strategy: {why}")
    scale = workloads.scale_for(
        prefill_per_s=prompts["prefill"] * 1e6 / max(prefill.ttft.mean, 1),
        decode_per_s=1e6 / max(decode.tpot.mean, 1),
        max_model_len=longest,
    )
    return scale, longest
