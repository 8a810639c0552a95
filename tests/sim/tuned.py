"""A whole node that tunes itself, in virtual time: its disk, a learner that may lie, an engine with faults.

`Tuned` outlives its nodes: who starts a second one on it has restarted the node.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import trio

from node.core.capabilities import UNKNOWN
from node.core.operator_limits import Limits
from node.core.own_records import Setting
from node.core.tuner_policy import TunerPolicy
from node.core.tuning_ledger import Ledger
from node.hands import OwnerHands
from node.learner_ports import Said
from node.ports import LaunchPlan
from node.services.learn import LearnerPolicy
from node.services.trial_runs import TrialPolicy
from node.trial_ports import Bench, TrialHands, Workshop
from node.tuner_hands import TunerTools
from protocol.performance import PERFORMANCE, TRIAL, Performance
from tests.fakes.engine import FakeEngine
from tests.fakes.history import FakeHistory
from tests.fakes.learner import FakeLearner, FakeLessons, hands_of
from tests.fakes.trial_bench import FakeBench
from tests.fakes.trial_book import FakeBook
from tests.fakes.yielding import FakePauseFile
from tests.protocol import samples
from tests.protocol.performance_samples import BENCHMARK, ENGINE, HARDWARE, MODEL
from tests.sim.node import SimNode, wall

LOAD = 16.0  # s that an engine takes to come up
KEY = "model, engine and machine"
STREAM = b'{"model": "m", "prompt": "x", "max_tokens": 16, "stream": true}'
WIDTH = 0.05  # half of each interval, log-cost


def engine(**more: Any) -> FakeEngine:
    """Return an engine that streams: a quarter of a second of prefill, then 16 tokens at 50 a second."""
    return FakeEngine(load_time=LOAD, tokens=16, prefill_time=0.25, token_time=0.02, **more)


class FakeLedgerFile:
    """Keeps the ledger as a file would."""

    def __init__(self) -> None:
        self.ledger: Ledger | None = None

    async def load(self) -> Ledger | None:
        await trio.lowlevel.checkpoint()
        return self.ledger

    async def save(self, ledger: Ledger) -> None:
        await trio.lowlevel.checkpoint()
        self.ledger = ledger


@dataclass
class Tuned:
    """A node's disk and surroundings.

    Attributes:
        gains: log-cost that the learner says each strategy saves over the default, by name; the rest saves nothing.
        room: for a second engine.
        answers: statuses of what `people` asked.
    """

    engine: FakeEngine = field(default_factory=engine)
    gains: dict[str, float] = field(default_factory=dict)
    room: bool = False
    limits: Limits = field(default_factory=Limits)
    policy: TunerPolicy = field(default_factory=TunerPolicy)
    trials: TrialPolicy = field(default_factory=TrialPolicy)
    ledger: FakeLedgerFile = field(default_factory=FakeLedgerFile)
    pauses: FakePauseFile = field(default_factory=FakePauseFile)
    bench: FakeBench = field(default_factory=FakeBench)
    book: FakeBook = field(default_factory=FakeBook)
    learner: FakeLearner = field(default_factory=FakeLearner)
    answers: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.history = FakeHistory(PERFORMANCE, now_us=wall, key=samples.KEY)
        self.learner.answers["choose"] = self._advise
        self.setting = Setting(model=MODEL, hardware=HARDWARE, benchmark=BENCHMARK, engine=ENGINE)
        self._runs = count()

    def records(self) -> list[Performance]:
        """Return what the node has signed, oldest first."""
        return [signed.body for signed in self.history.records.values()]

    def tools(self) -> TunerTools:
        """Return what its node tunes with."""
        return TunerTools(
            key=KEY,
            kept=self.ledger.ledger,
            file=self.ledger,
            room=self._room,
            capabilities=_unknown,
            own_rows=self.history,
            gpus=1,
            memory=1 << 36,
        )

    @asynccontextmanager
    async def node(self) -> AsyncIterator[SimNode]:
        """Run a node on all this; enter once its API answers; leaving kills it."""
        self.history.begin_run()
        node = SimNode(
            self.engine,
            history=self.history,
            setting=self.setting,
            trials=TrialHands(prepare=self._prepare, mint=lambda: f"run-{next(self._runs)}"),
            learner=hands_of(self.learner, FakeLessons(lambda: len(self.history.records))),
            learner_policy=LearnerPolicy(look=60.0),
            tuner=self.tools(),
            tuner_policy=self.policy,
            owner=OwnerHands(paused=self.pauses.kept, keep=self.pauses.keep),
            limits=self.limits,
            trial_policy=self.trials,
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.live)
            await node.until("ready", within=1.0)
            yield node
            nursery.cancel_scope.cancel()

    async def people(self, node: SimNode, *, every: float) -> None:
        """Ask again and again, whatever comes of it."""
        async with trio.open_nursery() as nursery:
            while True:
                nursery.start_soon(self.one, node)
                await trio.sleep(every)

    async def one(self, node: SimNode) -> None:
        """Ask once."""
        self.answers.append((await node.ask("POST", "/v1/completions", STREAM)).status)

    async def _room(self, _: LaunchPlan) -> bool:
        await trio.lowlevel.checkpoint()
        return self.room

    async def _prepare(self, _: object) -> Workshop:
        await trio.lowlevel.checkpoint()
        return Workshop(
            open=self._open, book=self.book, context={"driver": "1"}, model="tiny", gpus=1, setting=self._setting
        )

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[Bench]:
        await trio.lowlevel.checkpoint()
        yield self.bench

    async def _setting(self) -> Setting:
        await trio.lowlevel.checkpoint()
        return self.setting

    # -- the learner

    def _advise(self, asked: dict[str, Any]) -> Said:
        """Swear by `gains`, whatever was measured; say truly what was."""
        names = [row["strategy.name"] for row in asked["rows"]]
        tried = [row.get("strategy.name") for row in asked["evidence"] if row.get("record.origin") == TRIAL]
        gains, current = [self.gains.get(name, 0.0) for name in names], asked["current"]
        allowed = [at for at in range(len(names)) if at not in asked["banned"]]
        best = max(allowed, key=lambda at: (gains[at], -at))
        over = gains[best] - gains[current]
        return {
            "index": best,
            "why": "best" if best else "default_is_best",
            "learnt": True,
            "over_current": _around(over),
            "gains": [_around(gain) for gain in gains],
            "cost": [-gain for gain in gains],
            "half_width": [WIDTH] * len(names),
            "level": [0.2] * len(names),
            "measured": [tried.count(name) for name in names],
            "worth": best != current and over > WIDTH,
            "saved_s": 1000.0,
            "cost_s": 20.0,
            "pays_after_s": 60.0,
            "probes": [{"index": best, "value": 1.0, "saves": 0.1}] if best else [],
        }


def _around(gain: float) -> list[float]:
    return [gain, gain - WIDTH, gain + WIDTH]


async def _unknown() -> Any:
    await trio.lowlevel.checkpoint()
    return UNKNOWN


async def status(node: SimNode) -> Mapping[str, Any]:
    """Return what `metainf status --json` says."""
    return (await node.call("GET", "/status", on="control"))[1]


async def settled(node: SimNode, phase: str, *, within: float, **facts: object) -> Mapping[str, Any]:
    """Wait until the tuner is in a phase, with these facts; return all of them."""
    with trio.move_on_after(within):
        while True:
            tuner = (await status(node))["tuner"]
            if tuner["phase"] == phase and facts.items() <= tuner.items():
                return tuner
            await trio.sleep(0.5)
    raise AssertionError(f"not {phase} {facts} within {within} s, but {(await status(node))['tuner']}")


async def steps(node: SimNode) -> list[Mapping[str, Any]]:
    """Return the tuner's history."""
    return (await node.call("GET", "/strategy/history", on="control"))[1]["history"]


async def wish(node: SimNode, strategy: str) -> tuple[int, Any]:
    """Set a strategy as `metainf strategy set` does."""
    return await node.call("POST", "/strategy", b'{"strategy": "%s"}' % strategy.encode(), on="control")
