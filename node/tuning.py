"""How a node tunes itself: the engine's switcher, its owner's limits and the tuner, wired to the rest of the node.

The part of the composition between the engine and what is known of it. The engine starts with what the ledger says;
`connect` gives the tuner the node's traffic, records, learner and company once these are built. Decides nothing.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import structlog
import trio

from node.company import Company
from node.core.action_space import candidates, problems
from node.core.engine_defaults import Place, canonical
from node.core.engine_state import EngineState
from node.core.levers import Levers, levers
from node.core.observation import Row
from node.core.own_records import Setting
from node.core.probes import Probes
from node.core.question import canonical_rows, question
from node.core.strategy import DEFAULT, Strategy
from node.core.traffic import Traffic
from node.core.traffic_records import failure_record
from node.core.tuning_ledger import Ledger, initial, opened
from node.core.workload import Description
from node.errors import NodeError, Unavailable
from node.hands import Hands
from node.owning import Owning
from node.policies import Policies
from node.ports import LaunchPlan
from node.recording import Recording
from node.services.learn import Learning
from node.services.no_engine import NoEngine
from node.services.rehearse import Rehearsal
from node.services.serve import LocalReplica
from node.services.switch import PATIENCE, Switcher
from node.services.tend import EngineKeeper
from node.services.tune import Tuner
from node.tuner_ports import TunerHands
from protocol.advert import model_name
from protocol.errors import LocalProtocolError

log = structlog.get_logger(__name__)

Tell = Callable[[str, Mapping[str, Any]], None]
SETTING = 60.0  # s; reading a model's configuration from a slow disk fits
LENGTH_WITHOUT_WORD = 4096  # tokens of context, where neither plan nor engine says
DRAIN_SHARE = 0.5  # of the time that prompts are held; the rest is for the start, of a minute on most machines
NO_ENGINE = "this node runs no engine of its own"


def first_plan(hands: Hands, policies: Policies) -> LaunchPlan:
    """Return what the engine is started with: its owner's words, else what was good last time, else its defaults."""
    tools = hands.tuner
    if tools is None or not policies.tuner.enabled:
        return policies.plan
    strategy = initial(tools.kept, tools.key, _configured(policies), policies.plan.strategy)
    return replace(policies.plan, strategy=strategy)


def _configured(policies: Policies) -> Strategy | None:
    return policies.plan.strategy if policies.plan.strategy != DEFAULT else None


class Tuning:
    """A node's tuning. `run` is its one long-lived task, once it is connected."""

    def __init__(  # noqa: PLR0913 -- the parts of a node that it stands between
        self,
        hands: Hands,
        policies: Policies,
        *,
        engine: EngineKeeper | NoEngine,
        local: LocalReplica,
        traffic: Traffic | None,
        owning: Owning,
        tell: Tell,
    ) -> None:
        """Prepare what the engine needs at once.

        Args:
            traffic: that `local` tells of its answers.
        """
        self._hands = hands
        self._policies = policies
        self._tools = hands.tuner
        self._engine = engine if isinstance(engine, EngineKeeper) and self._tools is not None else None
        self._local = local
        self._traffic = traffic
        self._owning = owning
        self._tell = tell
        self._company: Company | None = None
        self._place: Place | None = None
        self._known = trio.Event()  # what the engine takes
        self._candidates: tuple[Strategy, ...] = (policies.plan.strategy,)
        self._setting: Setting | None = None
        self._switcher = self._make_switcher()
        self._tuner: Tuner | None = None

    # -- what others ask of it

    def strategy(self) -> Strategy:
        """Return what the engine runs, or is on its way to."""
        return self._policies.plan.strategy if self._switcher is None else self._switcher.strategy()

    def probes(self) -> Probes | None:
        """Return what to try next in idle time."""
        return None if self._tuner is None else self._tuner.probes()

    def tried(self) -> None:
        """Hear that trials were recorded."""
        if self._tuner is not None:
            self._tuner.tried()

    def description(self) -> Description | None:
        """Return the shape of the traffic of late; None where too little came."""
        return None if self._traffic is None else self._traffic.watch.description(trio.current_time())

    def engaged(self) -> bool:
        """Tell whether the engine and the machine are to be left alone by trials and lessons."""
        return self._owning.yielded() or (self._tuner is not None and self._tuner.engaged())

    @property
    def tuner(self) -> Tuner | None:
        """The tuner; None before `connect`, and on a node without an engine of its own."""
        return self._tuner

    def facts(self) -> Mapping[str, Any]:
        """Return the block `tuner` of `metainf status --json`."""
        return {"mode": "off", "phase": "off", "reason": NO_ENGINE} if self._tuner is None else self._tuner.facts()

    # -- wiring

    def connect(self, *, company: Company | None, recording: Recording, learning: Learning) -> None:
        """Make the tuner of what the node has."""
        if self._engine is None or self._switcher is None or self._tools is None or self._traffic is None:
            return
        self._company = company
        tools, policy, wall = self._tools, self._policies.tuner, self._hands.wall
        hands = TunerHands(
            engine=self._engine.snapshot,
            troubles=self._engine.troubles,
            switch=self._switcher,
            watch=self._traffic.watch,
            adviser=learning,
            known=self._known.wait,
            candidates=lambda: self._candidates,
            question=self._question,
            evidence=self._evidence,
            canonical=self._canonical,
            objections=self._objections,
            turn=self._turn,
            peers=self._peers_serve,
            gapless=self._gapless,
            flush=recording.flush,
            publish=partial(self._publish, recording),
            asked=self._local.generating_seen,
            file=tools.file,
            tell=self._tell,
            wall=lambda: wall() / 1e6,
            clock=trio.current_time,
            memory=lambda: policy.memory_limit(tools.memory),
            leaving=self._engine.leaving,
            rehearse=Rehearsal(self._engine, self._hands.upstream, asked=self._local.generating_seen),
        )
        configured = _configured(self._policies)
        kept = opened(tools.kept or Ledger(), tools.key, configured)
        self._tuner = Tuner(hands, policy=policy, ledger=kept, configured=configured is not None)

    async def run(self) -> None:
        """Tune, until cancelled; return at once where nothing is to be tuned."""
        if self._tuner is None or not self._policies.tuner.enabled:
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._learn_place)
            nursery.start_soon(self._tuner.run)

    def _make_switcher(self) -> Switcher | None:
        if self._engine is None or self._tools is None:
            return None
        policy = self._policies
        room = self._tools.room if policy.tuner.start_first else _no_room
        return Switcher(
            self._engine,
            base=policy.plan,
            room=room,
            lever=self._lever,
            # Who comes while others finish is held no longer than `hold_s`, and the start comes on top.
            patience=min(PATIENCE, policy.tuner.hold_s * DRAIN_SHARE),
            first_start=policy.tend.start_timeout,
        )

    # -- the engine

    def _levers(self, launched: Strategy, wanted: Strategy) -> Levers | None:
        return levers(self._canonical(launched), self._canonical(wanted))

    def _lever(self, launched: Strategy, wanted: Strategy) -> bool:
        found = self._levers(launched, wanted)
        if found is None:
            return False
        self._local.set_levers(replace(found, strategy=wanted))
        return True

    async def _gapless(self, wanted: Strategy) -> bool:
        assert self._engine is not None and self._tools is not None  # noqa: S101, PT018 -- else there is no tuner
        launched = self._engine.launched()
        if launched is not None and self._levers(launched, wanted) is not None:
            return True
        plan = replace(self._policies.plan, strategy=wanted)
        return self._policies.tuner.start_first and await self._tools.room(plan)

    # -- what may be run here

    async def _learn_place(self) -> None:
        """Find out what the engine on this machine takes, once it serves: until then nobody is asked for advice."""
        assert self._engine is not None and self._tools is not None  # noqa: S101, PT018 -- else there is no tuner
        snapshot = self._engine.snapshot()
        while snapshot.state is not EngineState.READY:
            snapshot = await self._engine.changed(snapshot)
        known = await self._tools.capabilities()
        served = self._engine.models()
        longest = next((model.max_length for model in served if model.max_length), self._policies.plan.max_model_len)
        await self._look_at_machine()
        model = None if self._setting is None else self._setting.model
        cuda = self._setting is not None and self._setting.hardware.platform == "cuda"
        self._place = Place(
            build="cuda" if cuda else "cpu",
            max_model_len=longest or LENGTH_WITHOUT_WORD,
            gpus=self._tools.gpus if cuda else 0,
            memory_bytes=self._tools.memory,
            heads=None if model is None else model.heads,
            layers=None if model is None else model.layers,
            weight_bytes=None if model is None else model.weight_bytes,
            capabilities=known,
        )
        base = self._policies.plan.strategy
        found = candidates(self._place, lossy=self._policies.tuner.lossy)
        self._candidates = tuple(dict.fromkeys(map(self._canonical, (base, *found))))
        self._known.set()

    async def _look_at_machine(self) -> None:
        """Find out which model runs on what, for questions and records."""
        if self._hands.setting is None:
            return
        try:
            with trio.move_on_after(SETTING):
                self._setting = await self._hands.setting()
        except NodeError as error:
            log.warning("tuner.machine_unknown", reason=error.message)

    def _canonical(self, strategy: Strategy) -> Strategy:
        return strategy if self._place is None else canonical(strategy, self._place)

    def _objections(self, strategy: Strategy) -> Sequence[str]:
        if strategy.external:
            return ("the engine is this node's own",)
        return () if self._place is None else problems(strategy, self._place)

    # -- what the learner is told

    async def _question(self, description: Description | None, strategies: Sequence[Strategy]) -> Sequence[Row]:
        await self._known.wait()  # whoever asks has a deadline
        if self._setting is None:
            await self._look_at_machine()
        if self._setting is None:
            raise Unavailable("nobody knows on what this engine runs")
        rows = question(self._setting, description, strategies)
        watts = self._setting.hardware.power_limit_mw
        price = self._policies.tuner.hourly_cost(None if watts is None else watts / 1000)
        return rows if price is None else [{**row, "hardware.price_per_hour": price} for row in rows]

    async def _evidence(self) -> Sequence[Row]:
        assert self._tools is not None  # noqa: S101 -- else there is no tuner
        digest = None if self._setting is None else self._setting.model.digest
        return canonical_rows(await self._tools.own_rows.own_rows(digest), self._canonical)

    async def _publish(
        self, recording: Recording, strategy: Strategy, kind: str, description: Description | None
    ) -> None:
        if self._setting is None:
            return
        told = description if self._policies.record_traffic else None  # what this node is asked is not to be told of
        try:
            await recording.write([failure_record(self._setting, strategy, told, kind)])
        except LocalProtocolError as error:  # it names a draft model by its place on this machine
            raise Unavailable(f"that is for this machine alone: {error}") from error

    # -- the others

    def _peers_serve(self) -> bool:
        model = None if self._engine is None else self._engine.snapshot().model
        named = None if model is None else model_name(model)
        return self._company is not None and named is not None and self._company.replica.others_serve(named)

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        model = None if self._engine is None else self._engine.snapshot().model
        if self._company is None or model is None:
            yield
            return
        async with self._company.turns.taken(model):
            yield


async def _no_room(_: LaunchPlan) -> bool:
    return False
