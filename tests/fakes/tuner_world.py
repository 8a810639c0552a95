"""A node around a tuner, in virtual time: an engine with true speeds, people who ask it, and a learner that may lie.

Prompts come as a Poisson stream and are answered side by side, each in the time of its length times how slow the
strategy truly is; while the engine is away they wait for it. `World.costs`
keeps what each prompt cost, waiting included.
"""

import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from math import exp, log
from typing import Any

import trio

from node.core.answer_meter import Measured
from node.core.engine_state import EngineSnapshot, EngineState
from node.core.learning import Advice, Gain, Probe
from node.core.observation import Row
from node.core.strategy import DEFAULT, Strategy
from node.core.switching import DONE, WORSE
from node.core.tuner_policy import TunerPolicy
from node.core.tuning_ledger import Ledger, initial, opened
from node.core.workload import Description, Timed, WorkloadWatch
from node.errors import Unavailable
from node.ports import Endpoint
from node.services.tune import Tuner
from node.tuner_ports import Audition, Engine, Enough, TunerHands

KEY = "model engine machine"
WALL = 1_800_000_000.0  # s since 1970 at the loop's 0
LIAR = Strategy(max_num_seqs=7)
GOOD = Strategy(max_num_seqs=64)
CANDIDATES = (DEFAULT, LIAR, GOOD)
HEIR = Endpoint(host="127.0.0.1", port=2)  # of an engine that is started beside the one that serves


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeSwitched:
    """As `node.services.switch.Switched`."""

    result: str
    how: str
    reason: str
    down_s: float


@dataclass
class FakeAdviser:
    """Says what a test says: gains over the default by strategy, and which were measured here."""

    gains: dict[Strategy, float] = field(default_factory=dict)
    width: float = 0.05
    measured: dict[Strategy, int] = field(default_factory=dict)
    cost_s: float = 1.0  # log-cost of the default is its log
    level: float = 0.2
    silent: str = ""
    lessons: int = 0
    late_s: float = 0.1
    asked: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._more = trio.Event()

    def teach(self) -> None:
        self.lessons += 1
        self._more.set()
        self._more = trio.Event()

    async def learnt(self, than: int) -> int:
        while self.lessons <= than:
            await self._more.wait()
        return self.lessons

    async def advise(self, rows: Sequence[Row], **how: Any) -> Advice:
        self.asked.append({"rows": rows, **how})
        await trio.sleep(self.late_s)
        if self.silent:
            raise Unavailable(self.silent)
        strategies: list[Strategy] = [row["strategy"] for row in rows]  # type: ignore[misc]
        banned = set(how.get("banned", ()))
        gains = [self.gains.get(each, 0.0) for each in strategies]
        allowed = [at for at in range(len(rows)) if at not in banned]
        best = max(allowed, key=lambda at: (gains[at], -at))
        current = how["current"]
        over = gains[best] - gains[current]
        low = over - self.width
        saved = max(1 - exp(-max(low, 0)), 0.0) * how["horizon_s"] * how["busy_share"]
        cost = how["restart_s"] * how["lost_share"]
        return Advice(
            index=best,
            why="best" if best else "default_is_best",
            learnt=True,
            estimated=False,
            gain=gains[best],
            gain_low=gains[best] - self.width,
            gain_high=gains[best] + self.width,
            over_current=Gain(mean=over, low=low, high=over + self.width),
            harm_probability=0.0,
            gains=tuple(Gain(mean=gain, low=gain - self.width, high=gain + self.width) for gain in gains),
            cost=tuple(log(self.cost_s) - gain for gain in gains),
            half_width=tuple(self.width for _ in rows),
            level=tuple(self.level for _ in rows),
            measured=tuple(self.measured.get(each, 0) for each in strategies),
            failed=(),
            worth=best != current and low >= 0.01 and saved > 1.5 * cost,
            saved_s=saved,
            cost_s=cost,
            pays_after_s=None,
            probes=tuple(Probe(index=at, value=1.0 / at, saves=0.1) for at in allowed if at),
        )


class FakeFile:
    """Keeps the ledger as a file would: over a restart of the node."""

    def __init__(self, ledger: Ledger | None = None) -> None:
        self.ledger = ledger
        self.saves = 0

    async def load(self) -> Ledger | None:
        await trio.lowlevel.checkpoint()
        return self.ledger

    async def save(self, ledger: Ledger) -> None:
        await trio.lowlevel.checkpoint()
        self.ledger = ledger
        self.saves += 1


class World:
    """Everything around the tuner. Speeds and faults are data: see the attributes.

    Attributes:
        slow: by strategy, how many times as slow as the default it truly is.
        results: of the next switches by strategy, what they come to; `done` where there is none.
        start_s: that a start takes. start_first: switches leave no gap.
        rate: prompts a second. usual_s: an answer's middle time. noise: sd of its log. prompt_tokens: in the middle.
    """

    def __init__(
        self,
        *,
        seed: int = 1,
        file: FakeFile | None = None,
        policy: TunerPolicy | None = None,
        wall: float = WALL,
        rehearsing: bool = False,
    ) -> None:
        self.rng = random.Random(seed)  # noqa: S311 -- luck of a test
        self._wall, self._now = wall, 0.0
        self.slow: dict[Strategy, float] = {}
        self.results: dict[Strategy, str] = {}
        self.start_s, self.start_first = 30.0, False
        self.rate, self.usual_s, self.noise, self.prompt_tokens = 0.0, 5.0, 0.4, exp(5.0)
        self._plans: list[tuple[float, Callable[[World], object]]] = []
        self.failing: set[Strategy] = set()  # their answers are broken off
        self.has_peers = False
        self.rehearsing = rehearsing
        self.known = trio.Event()  # what the engine takes
        self.known.set()
        self.rehearsals = 0
        self.leaving = False  # whether the engine of before a switch is still there
        self.rehearsed = 0  # requests of theirs that were answered
        self.adviser = FakeAdviser(cost_s=self.usual_s)
        self.watch = WorkloadWatch()
        self.file = FakeFile() if file is None else file
        self.policy = TunerPolicy() if policy is None else policy
        self.told: list[tuple[str, Mapping[str, Any]]] = []
        self.switches: list[Strategy] = []
        self.auditioned: list[Strategy] = []  # heard beside the engine that served, and never more than that
        self._heir = DEFAULT
        self.published: list[tuple[Strategy, str]] = []
        self.flushed = 0
        self.costs: list[
            float
        ] = []  # of every prompt: log of its seconds, less that of what it takes at the default's speed
        self.asked = 0
        self.crashes = 0
        self.turn_s = 0.0
        self.no_turn = ""
        self._runs = initial(self.file.ledger, KEY, None, DEFAULT)
        self._state, self._reason = EngineState.STARTING, "starting"
        self._serving = trio.Event()
        self.tuner = Tuner(self._hands(), policy=self.policy, ledger=opened(self.file.ledger, KEY, None))

    def _hands(self) -> TunerHands:
        async def question(_: Description | None, strategies: Sequence[Strategy]) -> Sequence[Row]:
            await trio.lowlevel.checkpoint()
            return [{"strategy": each} for each in strategies]  # type: ignore[dict-item]

        async def evidence() -> Sequence[Row]:
            await trio.lowlevel.checkpoint()
            return []

        async def gapless(_: Strategy) -> bool:
            await trio.lowlevel.checkpoint()
            return self.start_first

        async def flush() -> None:
            await trio.lowlevel.checkpoint()
            self.flushed += 1

        async def publish(strategy: Strategy, kind: str, _: Description | None) -> None:
            await trio.lowlevel.checkpoint()
            self.published.append((strategy, kind))

        return TunerHands(
            engine=self.snapshot,
            troubles=lambda: self.crashes,
            switch=self,
            watch=self.watch,
            adviser=self.adviser,
            known=self._until_known,
            candidates=lambda: CANDIDATES if self.known.is_set() else (DEFAULT,),
            question=question,
            evidence=evidence,
            canonical=lambda strategy: strategy,
            objections=lambda strategy: ("it needs two GPUs",) if strategy.tensor_parallel else (),
            turn=self._turn,
            peers=lambda: self.has_peers,
            gapless=gapless,
            flush=flush,
            publish=publish,
            asked=lambda: self.asked,
            file=self.file,
            tell=lambda event, facts: self.told.append((event, facts)),
            wall=lambda: self._wall + self.clock(),
            clock=self.clock,
            rehearse=self._rehearse if self.rehearsing else None,
            leaving=lambda: self.leaving,
        )

    def clock(self) -> float:
        """Return the loop's time; after its end, the last."""
        with suppress(RuntimeError):
            self._now = trio.current_time()
        return self._now

    # --- the engine

    def snapshot(self) -> EngineSnapshot:
        return EngineSnapshot(state=self._state, since=0.0, model="m", strategy=self._runs.name, reason=self._reason)

    def strategy(self) -> Strategy:
        return self._runs

    def usual_start_s(self) -> float | None:
        return self.start_s

    def up(self, reason: str = "healthy") -> None:
        self._state, self._reason = EngineState.READY, reason
        self._serving.set()

    def down(self, reason: str = "lent") -> None:
        self._state, self._reason = EngineState.STOPPED, reason
        self._serving = trio.Event()

    async def switch(self, strategy: Strategy, *, reason: str, audition: Audition | None = None) -> FakeSwitched:
        self.switches.append(strategy)
        result = self.results.pop(strategy, DONE)
        if result == "not_drained":
            await trio.sleep(300.0)
            return FakeSwitched(result=result, how="restart", reason="it is busy", down_s=0.0)
        if not self.start_first:
            self.down(reason)
        starts = self.start_s if result == DONE else 2 * self.start_s  # and the way back
        await trio.sleep(starts)
        if self.start_first and result == DONE and audition is not None:
            self._heir = strategy
            if words := await audition(HEIR, "m"):
                self.auditioned.append(self.switches.pop())
                return FakeSwitched(result=WORSE, how="start_first", reason=words, down_s=0.0)
        if result == DONE:
            self._runs = strategy
        self.crashes = 0
        self.up()
        down = 0.0 if self.start_first else starts
        return FakeSwitched(result=result, how="start_first" if self.start_first else "restart", reason="", down_s=down)

    async def back(self, strategy: Strategy, *, reason: str) -> FakeSwitched:
        return await self.switch(strategy, reason=reason)

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        if self.no_turn:
            raise Unavailable(self.no_turn)
        await trio.sleep(self.turn_s)
        yield

    # --- people

    async def people(self, nursery: trio.Nursery) -> None:
        """Ask again and again, until cancelled."""
        while True:
            await trio.sleep(self.rng.expovariate(self.rate))
            nursery.start_soon(self.prompt)

    async def prompt(self) -> None:
        """Ask once, and wait for the answer."""
        self.asked += 1
        came = trio.current_time()
        while self._state is not EngineState.READY:
            await self._serving.wait()
        began, runs = trio.current_time(), self._runs
        prompt, output = self.rng.lognormvariate(log(self.prompt_tokens), 0.7), self.rng.lognormvariate(4.0, 0.5)
        usual = self.usual_s * (output / exp(4.0))
        self.watch.arrived(began)
        if runs in self.failing:
            await trio.sleep(0.1)
            self.watch.gone(trio.current_time())
            self.watch.failed(trio.current_time(), runs.name)
            return
        usual *= exp(self.rng.gauss(0.0, self.noise))
        await trio.sleep(usual * self.slow.get(runs, 1.0))
        now = trio.current_time()
        self.watch.gone(now)
        measured = _measured(now - began, prompt, output)
        self.watch.answered(Timed(began=began, at=now, strategy=runs.name, measured=measured))
        self.costs.append(log((now - came) / usual))

    async def _until_known(self) -> None:
        await self.known.wait()

    async def _rehearse(self, enough: Enough, engine: Engine | None = None) -> Sequence[Measured]:
        self.rehearsals += 1
        runs = self._runs if engine is None else self._heir
        asked, answers = self.asked, list[Measured]()
        for at in range(8):
            if enough(answers):
                break
            tokens = 8 + at
            usual = self.usual_s * tokens / exp(4.0)
            took = usual * self.slow.get(runs, 1.0) * exp(self.rng.gauss(0.0, 0.05))
            await trio.sleep(took)
            if self.asked != asked or self._state is not EngineState.READY:
                break
            answers.append(_measured(took, 100, tokens))
            self.rehearsed += 1
        return answers

    # --- the whole

    async def run(self, seconds: float, script: Callable[["World"], None] | None = None) -> None:
        """Let it go on for so long; `script` is called at the beginning."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.tuner.run)
            if self.rate:
                nursery.start_soon(self.people, nursery)
            if script is not None:
                script(self)
            if self._state is EngineState.STARTING:
                self.up()
            for after, change in self._plans:
                nursery.start_soon(self._later, after, change)
            await trio.sleep(seconds)
            nursery.cancel_scope.cancel()

    def at(self, seconds: float, change: Callable[["World"], object]) -> None:
        """Have something happen so long after the beginning; to be called by the script."""
        self._plans.append((seconds, change))

    async def _later(self, after: float, change: Callable[["World"], object]) -> None:
        await trio.sleep(after)
        change(self)

    def told_steps(self, step: str) -> list[Mapping[str, Any]]:
        """Return what was told of steps of one kind, those among them that history leaves out."""
        return [facts for event, facts in self.told if event == "tuner" and facts["step"] == step]

    @property
    def steps(self) -> list[str]:
        """What the history tells, as words."""
        return [str(step["event"]) for step in self.tuner.history()]

    def restarted(self, seed: int = 2) -> "World":
        """Return the node after a restart, with what the disk kept."""
        again = World(
            seed=seed,
            file=self.file,
            policy=self.policy,
            wall=self._wall + self.clock() + 60.0,
            rehearsing=self.rehearsing,
        )
        again.slow, again.rate = self.slow, self.rate
        told = self.adviser
        again.adviser.gains, again.adviser.measured, again.adviser.width = told.gains, told.measured, told.width
        return again


def _measured(seconds: float, prompt: float, output: float) -> Measured:
    return Measured(
        streamed=True,
        latency=round(seconds * 1e6),
        ttft=round(seconds * 1e5),
        stall=round(seconds * 1e4),
        prompt_tokens=round(prompt),
        output_tokens=round(output),
        told=True,
    )
