"""The tuners of a swarm on paper: each the real one, on an engine, a traffic and idle time of virtual seconds.

Every node runs `node.services.tune` as the daemon does, with the real rules, verification, ledger and description of
traffic; the learner's answers are the real ones too, of one brain that is taught each midnight on what all nodes had
shared by then. What is made up: engines (what a strategy takes is the world's), prompts (a few a minute stand for all;
their lengths and times are drawn around the workload's), trials (a minute and a half of idle time each, within half an
hour a day). At midnight every node is started anew from its ledger, which is also where an interrupted run goes on.
"""

import math
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import trio
from trio.testing import MockClock

from node.core.answer_meter import Measured
from node.core.engine_state import EngineSnapshot, EngineState
from node.core.learning import Advice, advice
from node.core.strategy import Strategy
from node.core.tuner_policy import TunerPolicy
from node.core.tuning_ledger import Ledger, initial, opened
from node.core.workload import Description, Timed, WorkloadWatch
from node.errors import Unavailable
from node.learner import asked
from node.learner.brain import Brain
from node.services.tune import Tuner
from node.tuner_ports import Audition, Engine, Enough, TunerHands
from tests.benchmarks.tuning_account import Ran
from tests.benchmarks.tuning_world import DAY, HOUR, TRAFFIC_SD, TRIAL_SD, Node, Row, Workload, World, measured

EPOCH: Final = 1_800_000_000.0  # s since 1970 at the beginning of the week
KEY: Final = "paper"
A_MINUTE: Final = 1.5  # prompts that stand for all, while there is one at the engine and never two
ANSWER_SD: Final = 0.3  # log-cost of one answer, beside what its lengths explain
LENGTH_SD: Final = 0.5  # of the log of lengths
START_S, START_SD = 60.0, 0.2  # of a restart, in the median
LOOKS: Final = 600.0  # s between looks whether there is idle time for trials
TRIAL_S: Final = 90.0  # s of one strategy's trial: a start and three repetitions
TRIALS_A_DAY: Final = 1800.0  # s, as `trials.idle_minutes` has it
LESSON: Final = 12_000  # rows of one lesson: the newest, and of those before the week what there is room for
OWN_ROWS: Final = 512
MICRO: Final = 1_000_000


@dataclass(slots=True, kw_only=True)
class Told:
    """One record of a node: enough to make its row again."""

    at: float
    workload: int
    strategy: int
    cost: float
    trial: bool
    pair: str


@dataclass(slots=True, kw_only=True)
class Kept:
    """What of one node outlives a day."""

    ledger: Ledger | None = None
    ran: list[Ran] = field(default_factory=list)
    told: list[Told] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class DayClock:
    """The time of a day that begins at that second of the week; the loop's own begins at 0 each day."""

    begin: float

    def now(self) -> float:
        """Return the seconds since the week began."""
        return self.begin + trio.current_time()

    def wall(self) -> float:
        """Return seconds since 1970."""
        return EPOCH + self.now()


class Learner:
    """One brain for all; keeps the port `Adviser`."""

    def __init__(self, brain: Brain, clock: DayClock) -> None:
        self._brain = brain
        self._clock = clock

    async def advise(self, rows: Sequence[Row], **situation: Any) -> Advice:
        await trio.lowlevel.checkpoint()
        found = asked.choose(self._brain, {"rows": list(rows), "now_s": self._clock.wall(), **situation})
        if (read := advice(found, len(rows))) is None:
            raise Unavailable("the learner talks nonsense")
        return read

    async def learnt(self, than: int) -> int:
        """Tell of the day's lesson, which is over when the day begins; there is no other."""
        if than >= 1:
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()
        return 1


class LedgerInMemory:
    """Keeps the port `LedgerFile`."""

    def __init__(self, kept: Kept) -> None:
        self._kept = kept

    async def load(self) -> Ledger | None:
        await trio.lowlevel.checkpoint()
        return self._kept.ledger

    async def save(self, ledger: Ledger) -> None:
        await trio.lowlevel.checkpoint()
        self._kept.ledger = ledger


class Paper:
    """One node for one day: its engine, its traffic and its idle time."""

    def __init__(self, world: World, node: Node, kept: Kept, learner: Learner, clock: DayClock, seed: int) -> None:
        self._world, self._node, self._kept, self._clock = world, node, kept, clock
        begin = clock.begin
        self._luck = np.random.default_rng([seed, node.number, int(begin)])
        self.watch = WorkloadWatch()
        self._described: dict[int, Workload] = {}
        self._running: list[tuple[float, int, Timed]] = []  # prompts at the engine, by their ends
        self._next, self._seen, self._asked = begin, begin, 0
        self._budget = TRIALS_A_DAY
        started = initial(kept.ledger, KEY, None, world.strategies[world.default])
        if not kept.ran or world.strategies[kept.ran[-1].strategy] != started:
            kept.ran.append(Ran(begin=begin, strategy=world.index(started)))
        self._strategy = started
        self._away = ""
        self.judging = False
        self.tuner = Tuner(
            TunerHands(
                engine=self.snapshot,
                troubles=lambda: 0,
                switch=self,
                watch=self,
                adviser=learner,
                known=trio.lowlevel.checkpoint,
                candidates=self._candidates,
                question=self._question,
                evidence=self._evidence,
                canonical=lambda strategy: strategy,
                objections=lambda _: (),
                turn=_turn,
                peers=lambda: False,
                gapless=_never,
                flush=self._flush,
                publish=self._publish,
                asked=self._ever_asked,
                file=LedgerInMemory(kept),
                tell=self._hear,
                wall=clock.wall,
                clock=trio.current_time,
                rehearse=self._rehearse,
            ),
            policy=TunerPolicy(),
            ledger=opened(kept.ledger, KEY, None),
        )

    async def live(self) -> None:
        """Run the day out."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.tuner.run)
            nursery.start_soon(self._idle)
            nursery.start_soon(self._publish_traffic)
            await trio.sleep(DAY)
            nursery.cancel_scope.cancel()

    # -- the engine

    def snapshot(self) -> EngineSnapshot:
        state = EngineState.STARTING if self._away else EngineState.READY
        return EngineSnapshot(
            state=state, since=0.0, model="model", strategy=self._strategy.name, reason=self._away, returning=True
        )

    def strategy(self) -> Strategy:
        return self._strategy

    def usual_start_s(self) -> float | None:
        return START_S

    async def switch(self, strategy: Strategy, *, reason: str, audition: Audition | None = None) -> "Came":
        del audition  # no machine of the table is said to have room for two engines
        self._catch_up()
        self._away, down = reason, START_S * math.exp(self._luck.normal(0.0, START_SD))
        await trio.sleep(down)
        self._catch_up(answered=False)
        self._away, self._strategy = "", strategy
        now = self._clock.now()
        self._kept.ran.append(Ran(begin=now, strategy=self._world.index(strategy), down_s=down, judged_until=now))
        return Came(reason=reason, down_s=down)

    async def back(self, strategy: Strategy, *, reason: str) -> "Came":
        return await self.switch(strategy, reason=reason)

    # -- its traffic

    def description(self, now: float) -> Description | None:
        self._catch_up()
        found = self.watch.description(now)
        if found is None:
            return None
        # Few prompts stand for all: their lengths are the traffic's, the time that they take is not.
        begin = self._clock.now() - found.span_s
        found = replace(found, busy_share=float(np.mean([self._node.busy(begin + at) for at in (0.0, found.span_s)])))
        self._described[hash(found)] = self._workload()
        return found

    def changed(self, since: Description, now: float) -> str:
        self._catch_up()
        return self.watch.changed(since, now)

    def answers(self, since: float) -> tuple[Timed, ...]:
        self._catch_up()
        return self.watch.answers(since)

    def failures(self, since: float, strategy: str | None = None) -> int:
        return self.watch.failures(since, strategy)

    def _ever_asked(self) -> int:
        self._catch_up()
        return self._asked

    def _workload(self) -> Workload:
        return self._node.at(self._clock.now())

    def _catch_up(self, *, answered: bool = True) -> None:
        """Let happen what has since it was last looked: prompts that came, and answers that ended, in order.

        Args:
            answered: whether the engine was there; else whoever came waits until now.
        """
        now = self._clock.now()
        while self._next <= now:
            came, self._next = self._next, self._next + self._gap(self._next)
            self._end_until(came)
            self._arrive(came if answered else now)
        self._end_until(now)

    def _gap(self, at: float) -> float:
        """Draw how long nobody else comes: a few stand for all, more where there is more load, as its root."""
        rate = A_MINUTE / 60.0 * math.sqrt(self._node.at(at).load) * self._node.busy(at)
        return float(self._luck.exponential(1 / rate))

    def _arrive(self, at: float) -> None:
        workload = self._node.at(at)
        shape = workload.rows[0]
        prompt, output = (
            max(float(shape[name]) * math.exp(self._luck.normal(-(LENGTH_SD**2) / 2, LENGTH_SD)), 1.0)
            for name in ("workload.prompt_tokens", "workload.output_tokens")
        )
        longer = 0.9 * (math.log(output / float(shape["workload.output_tokens"])) + LENGTH_SD**2 / 2)
        cost = workload.cost[self._world.index(self._strategy)] + longer + self._luck.normal(0.0, ANSWER_SD)
        latency = min(math.exp(cost), 3600.0)
        took = Measured(
            streamed=True,
            latency=round(latency * MICRO),
            ttft=round(latency * MICRO / 10),
            prompt_tokens=round(prompt),
            output_tokens=round(output),
            told=True,
        )
        self.watch.arrived(self._loop(at))
        self._asked += 1
        end = self._loop(at) + latency
        answer = Timed(began=self._loop(at), at=end, strategy=self._strategy.name, measured=took)
        heappush(self._running, (end, self._asked, answer))

    def _end_until(self, now: float) -> None:
        while self._running and self._running[0][0] <= self._loop(now):
            end, _, answer = heappop(self._running)
            self.watch.gone(end)
            self.watch.answered(answer)

    def _loop(self, at: float) -> float:
        """Return the loop's time of a moment of the week."""
        return at - self._clock.begin

    # -- what the tuner asks

    def _candidates(self) -> Sequence[Strategy]:
        default = self._world.strategies[self._world.default]
        return (default, *(each for each in self._world.strategies if each != default))

    async def _question(self, description: Description | None, strategies: Sequence[Strategy]) -> Sequence[Row]:
        await trio.lowlevel.checkpoint()
        workload = self._workload() if description is None else self._described.get(hash(description), self._workload())
        rows = [workload.rows[self._world.index(strategy)] for strategy in strategies]
        return [{name: value for name, value in row.items() if not name.startswith("outcome.")} for row in rows]

    async def _evidence(self) -> Sequence[Row]:
        await trio.lowlevel.checkpoint()
        return [row_of(self._world, self._node, told) for told in reversed(self._kept.told[-OWN_ROWS:])]

    async def _rehearse(self, enough: Enough, engine: Engine | None = None) -> Sequence[Measured]:
        del enough, engine
        cost = self._workload().cost[self._world.index(self._strategy)]
        took = [math.exp(cost + self._luck.normal(0.0, 0.05)) for _ in range(8)]
        await trio.sleep(min(max(took), 60.0))
        return [
            Measured(streamed=True, latency=round(each * MICRO), prompt_tokens=100, output_tokens=100, told=True)
            for each in took
        ]

    async def _flush(self) -> None:
        await trio.lowlevel.checkpoint()
        self._tell(self._workload(), self._strategy, trial=False)

    async def _publish(self, strategy: Strategy, kind: str, description: Description | None) -> None:
        await trio.lowlevel.checkpoint()

    def _hear(self, event: str, facts: Mapping[str, Any]) -> None:
        """Note until when what runs was on trial."""
        phase, ran = facts.get("phase", facts.get("to")), self._kept.ran
        if self.judging and phase not in ("verifying", "away"):
            ran[-1] = replace(ran[-1], judged_until=self._clock.now())
        self.judging = phase == "verifying"

    # -- what it tells

    def _tell(self, workload: Workload, strategy: Strategy, *, trial: bool, pair: str = "") -> None:
        which = self._world.index(strategy)
        cost = workload.cost[which] + self._luck.normal(0.0, TRIAL_SD if trial else TRAFFIC_SD)
        self._kept.told.append(
            Told(
                at=self._clock.now(),
                workload=self._node.workloads.index(workload),
                strategy=which,
                cost=cost,
                trial=trial,
                pair=pair,
            )
        )

    async def _publish_traffic(self) -> None:
        while True:
            await trio.sleep(HOUR)
            if not self._away and self._luck.random() < self._node.busy(self._clock.now()):
                self._tell(self._workload(), self._strategy, trial=False)

    async def _idle(self) -> None:
        """Try what the tuner wishes while nobody wants an answer."""
        while True:
            await trio.sleep(LOOKS)
            wanted = self._luck.random() < self._node.busy(self._clock.now())
            probes = None if self._away or wanted or self.tuner.engaged() else self.tuner.probes()
            if probes is None or self._budget < TRIAL_S * len(probes.strategies):
                continue
            described = None if probes.description is None else self._described.get(hash(probes.description))
            workload, pair = described or self._workload(), f"{self._node.number}/{self._clock.now():.0f}"
            self._budget -= TRIAL_S * len(probes.strategies)
            self._away = "lent to trials"
            await trio.sleep(TRIAL_S * len(probes.strategies))
            self._catch_up(answered=False)
            self._away = ""
            for strategy in probes.strategies:
                self._tell(workload, strategy, trial=True, pair=pair)
            self.tuner.tried()


@dataclass(frozen=True, slots=True, kw_only=True)
class Came:
    """What came of a switch."""

    reason: str
    down_s: float
    result: str = "done"
    how: str = "restart"


@asynccontextmanager
async def _turn() -> AsyncIterator[None]:
    await trio.lowlevel.checkpoint()
    yield


async def _never(_: Strategy) -> bool:
    await trio.lowlevel.checkpoint()
    return False


def row_of(world: World, node: Node, told: Told) -> Row:
    """Return the row of a record."""
    workload = node.workloads[told.workload]
    row = measured(
        workload.rows[told.strategy], told.cost, author=f"node {node.number}", sd=0.0, rng=np.random.default_rng(0)
    )
    return {
        **row,
        "record.time_us": (EPOCH + told.at) * MICRO,
        "record.origin": "trial" if told.trial else "traffic",
        "record.pair": told.pair or None,
        "outcome.repetitions": 3 if told.trial else 1,
    }


def lesson(world: World, kept: Sequence[Kept], luck: np.random.Generator) -> list[Row]:
    """Return what all have shared, newest first, and what was there before."""
    news = sorted(
        ((told, node) for node, each in zip(world.nodes, kept, strict=True) for told in each.told),
        key=lambda pair: -pair[0].at,
    )[: LESSON // 2]
    rows = [row_of(world, node, told) for told, node in news]
    room = LESSON - len(rows)
    old = (
        world.before if len(world.before) <= room else [world.before[at] for at in _contexts(world.before, room, luck)]
    )
    return [*rows, *old]


def _contexts(rows: Sequence[Row], room: int, luck: np.random.Generator) -> list[int]:
    """Return the numbers of rows of whole contexts, as many as there is room for."""
    numbers = np.array([float(row["context"]) for row in rows])
    order = luck.permutation(np.unique(numbers))
    size = max(len(rows) // len(order), 1)
    return [int(at) for at in np.flatnonzero(np.isin(numbers, order[: room // size]))]


def tuner(
    world: World, seed: int, folder: Path | None, teach: Callable[[Sequence[Row], int], Brain], workers: int = 1
) -> list[list[Ran]]:
    """Return what ran when on each node, tuned by itself."""
    kept = [Kept() for _ in world.nodes]
    for day in range(math.ceil(world.days)):
        file = None if folder is None else folder / f"tuner-day-{day}.json"
        if file is not None and file.exists():
            kept = msgspec.json.decode(file.read_bytes(), type=list[Kept])
            continue
        brain = teach(lesson(world, kept, np.random.default_rng([seed, day])), seed)
        clock = DayClock(begin=day * DAY)
        kept = _lived(Day(world=world, learner=Learner(brain, clock), clock=clock, seed=seed), kept, workers)
        if file is not None:
            file.write_bytes(msgspec.json.encode(kept))
    return [each.ran for each in kept]


@dataclass(frozen=True, slots=True, kw_only=True)
class Day:
    """What all nodes have in common for a day. Nothing of it changes before midnight, so their order is free."""

    world: World
    learner: Learner
    clock: DayClock
    seed: int

    def __call__(self, pair: tuple[Node, Kept]) -> Kept:
        """Let one node live it; return what is left of it."""
        node, kept = pair

        async def live() -> None:
            await Paper(self.world, node, kept, self.learner, self.clock, self.seed).live()

        trio.run(live, clock=MockClock(autojump_threshold=0))
        return kept


_day: Day | None = None  # of a worker


def _lived(day: Day, kept: Sequence[Kept], workers: int) -> list[Kept]:
    pairs = list(zip(day.world.nodes, kept, strict=True))
    if workers == 1:
        return [day(pair) for pair in pairs]
    # Forked, so that nobody has to pickle a world and what was learnt.
    with get_context("fork").Pool(workers, _inherit, (day,)) as pool:
        return pool.map(_live, pairs, chunksize=4)


def _inherit(day: Day) -> None:
    global _day  # noqa: PLW0603 -- what a worker is for
    _day = day


def _live(pair: tuple[Node, Kept]) -> Kept:
    assert _day is not None, "no worker of a day"
    return _day(pair)
