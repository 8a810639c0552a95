"""The composition root: what there is, and who gets it.

`hands.open_hands` builds the adapters that the settings ask for; `run` builds the core and the services on whatever
hands it is given, so that a simulation runs the real wiring on fakes; `company` is the part of it among peers,
`recording` what it writes of itself, `learning` what it makes of everybody's records, `tuning` what the engine is to
run by that, `owning` whether it may run at all.
"""

import gc
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import structlog
import trio
from prometheus_client import CollectorRegistry

from node.adapters.http_server.server import TcpBind, UnixBind
from node.answering import Answering
from node.company import Company
from node.core.admission import Admission
from node.core.engine_state import EngineSnapshot, EngineState
from node.hands import Hands, Reports, open_hands
from node.home import Home
from node.http.account import AccountMetrics
from node.http.app import http_app
from node.http.asgi import App
from node.http.auth import KeyRing
from node.http.config import HttpLimits, NodeIdentity
from node.http.control import control_app
from node.http.metrics import HttpMetrics
from node.http.routing_metrics import RoutingMetrics
from node.http.tuner_metrics import TunerMetrics
from node.learning import foretell_by, learning_of, metrics_of
from node.owning import owning_of
from node.places import Places
from node.policies import Policies
from node.ports import Endpoint
from node.recording import Recording, Wanted, traffic_of
from node.services.no_engine import NoEngine
from node.services.serve import LocalReplica
from node.services.tend import EngineKeeper
from node.services.watch_lag import EVERY, LagWatch
from node.settings import Settings
from node.supervise import StopWish, first_node_error, stop_on_signals
from node.telemetry import Events, OffenceLog
from node.tuning import Tuning, first_plan
from protocol.ids import PeerId

log = structlog.get_logger(__name__)

Tell = Callable[[str, Mapping[str, Any]], None]


def main(settings: Settings, policies: Policies, where: Places, *, events: Events, narrate: Tell) -> bool:
    """Run a node until it is told to stop; return whether that was by Ctrl-C.

    Raises:
        NodeError: it could not be started.
    """
    wish = StopWish()

    def tell(event: str, facts: Mapping[str, Any]) -> None:
        events.emit(event, facts)
        narrate(event, facts)
        if event == "ready":
            # What was imported and built stays: the collector looking through it again stops everybody for 80 ms.
            gc.collect()
            gc.freeze()

    async def live() -> None:
        tell("starting", {"version": policies.version, "data_dir": str(where.data)})
        async with stop_on_signals(wish), open_hands(settings, policies, where) as hands:
            await run(hands, policies, wish=wish, tell=tell)
        tell("stopped", {"reason": wish.reason})

    try:
        trio.run(live)
    except BaseExceptionGroup as group:
        if error := first_node_error(group):
            raise error from group
        raise
    return wish.by_interrupt


async def run(hands: Hands, policies: Policies, *, wish: StopWish, tell: Tell, lag_every: float = EVERY) -> None:
    """Run a node on these hands until it is wished to stop; what runs may finish unless the wish is urgent.

    Raises:
        NodeError: the API or the control socket cannot be had.
    """
    me = PeerId.from_public_key(hands.public_key)
    peer_id = str(me)
    registry = CollectorRegistry()
    metrics = HttpMetrics(registry)
    lag = LagWatch(metrics.late, every=lag_every)
    reports = Reports(OffenceLog(now=trio.current_time, count=metrics.offence))
    # The keeper and the replica need each other: what runs is asked of the replica once there is one.
    engine = _engine(hands, policies, tell, in_flight=lambda endpoint: local.running_at(endpoint))  # noqa: PLW0108
    traffic = traffic_of(hands)
    clock = trio.lowlevel.current_clock().current_time  # as `trio.current_time`, which looks for it each time
    local = LocalReplica(
        node=peer_id,
        board=engine,
        upstream=hands.upstream,
        admission=Admission(policies.admission),
        traffic=traffic,
        clock=clock,
    )
    owning = owning_of(hands, policies, engine=engine, local=local, tell=tell)
    tuning = Tuning(hands, policies, engine=engine, local=local, traffic=traffic, owning=owning, tell=tell)
    company = None
    if hands.swarm is not None and policies.swarm is not None:
        home = Home(
            me=me,
            engine=engine,
            replica=local,
            history=hands.history,
            wall=hands.wall,
            setting=hands.setting,
            luck=hands.luck,
            tell=tell,
            offence=reports.offence,
            strategy=tuning.strategy,
        )
        company = Company(hands.swarm, policies, policies.swarm, home)
    recording = Recording(
        hands,
        policies,
        author=peer_id,
        engine=engine,
        local=local,
        traffic=traffic,
        company=company,
        wanted=Wanted(
            away=tuning.engaged,
            probes=tuning.probes,
            tried=tuning.tried,
            strategy=tuning.strategy,
            description=tuning.description,
        ),
        tell=tell,
    )
    recording.metrics.register(registry)
    learning = learning_of(hands, policies, me=me, company=company, recording=recording, engaged=tuning.engaged)
    metrics_of(learning).register(registry)
    tuning.connect(company=company, recording=recording, learning=learning)
    TunerMetrics(tuning.facts, owning.facts).register(registry)
    if company is not None:
        foretell_by(learning, hands, company, me=me, model=lambda: engine.snapshot().model, strategy=tuning.strategy)
    answering = Answering(
        local,
        None if company is None else company.replica,
        policies=policies,
        own=engine.models,
        offers=tuple if company is None else company.models,
        blame=None if company is None else company.blame,
    )
    RoutingMetrics(answering.routing).register(registry)
    AccountMetrics(dict if company is None else company.reckoning.account.facts).register(registry)

    def application(keys: KeyRing, limits: HttpLimits) -> App:
        return http_app(
            replica=answering.replica,
            board=engine,
            keys=keys,
            limits=limits,
            identity=NodeIdentity(peer_id=peer_id, name=policies.name or "", version=policies.version),
            metrics=metrics,
            offence=reports.offence,
            engine_metrics=local.engine_metrics,
            models=tuple if company is None else company.models,
            serving=bool if company is None else company.replica.serves,
            clock=clock,
        )

    started = trio.current_time()
    address = ""

    def status() -> Mapping[str, Any]:
        return {
            "peer_id": peer_id,
            "name": policies.name,
            "swarm": str(policies.swarm.swarm) if policies.swarm is not None else None,
            "private_swarm": company.circle.facts() if company is not None else None,
            "version": policies.version,
            "uptime_s": round(trio.current_time() - started, 3),
            "loop_lag_ms": lag.facts(),
            "tasks": trio.lowlevel.current_statistics().tasks_living,
            "api_url": address,
            "addresses": [str(each) for each in company.addresses] if company is not None else [],
            "engine": _engine_facts(engine.snapshot()),
            "peers": company.numbers() if company is not None else {"connected": 0, "known": 0},
            **(company.finding.facts() if company is not None else {}),
            "reachability": company.reaching.facts() if company is not None else None,
            "records": recording.facts(),
            "trials": recording.trial_facts(),
            "learner": learning.facts(),
            "tuner": tuning.facts(),
            "owner": owning.facts(),
            "routing": answering.routing(),
            "account": company.reckoning.account.facts() if company is not None else {},
            "requests": answering.facts(),
            "requests_of_peers": company.served() if company is not None else {},
        }

    control = control_app(
        api=application(KeyRing(), policies.http),
        status=status,
        peers=lambda: company.peers() if company is not None else {"peers": []},
        stop=wish.ask,
        restart_engine=lambda reason: engine.restart(reason=reason, grace=policies.drain),
        admit=recording.admit,
        trials=recording.trials,
        tuner=tuning.tuner,
        owner=owning,
        accounts=answering.accounts,
        account=None if company is None else company.reckoning.account.page,
        circle=None if company is None else company.circle,
    )
    api = application(KeyRing(policies.keys), policies.http)
    ending = trio.Event()
    async with trio.open_nursery() as background:
        background.start_soon(_hurry, wish, background.cancel_scope)
        background.start_soon(lag.run)
        await owning.begin()  # who is paused starts no engine
        background.start_soon(hands.upstream.keep_time)
        background.start_soon(engine.run)
        background.start_soon(owning.run)
        background.start_soon(tuning.run)
        if company is not None:
            background.start_soon(company.run)
            background.start_soon(company.foretelling.run)
            background.start_soon(company.reckoning.account.run)
        background.start_soon(recording.run)
        background.start_soon(learning.run)
        async with trio.open_nursery() as servers:
            listen = partial(hands.listen, reports=reports, stop=ending.wait, limits=policies.server)
            here = TcpBind(host=policies.api.host, port=policies.api.port)
            bound = await servers.start(partial(listen, api, bind=here))
            await servers.start(partial(listen, control, bind=UnixBind(path=str(policies.control_socket))))
            address = f"http://{policies.api.url_host}:{bound.port}/v1"
            tell(
                "ready",
                {
                    "peer_id": peer_id,
                    "addresses": [str(each) for each in company.addresses] if company is not None else [],
                    "api_url": address,
                    "version": policies.version,
                    "keys": len(policies.keys),
                },
            )
            reason = await wish.wanted()
            tell("stopping", {"reason": reason})
            ending.set()
            owning.end()
            if company is not None:
                servers.start_soon(company.leave)
            servers.start_soon(partial(engine.stop, reason=f"the node stops ({reason})", grace=policies.drain))
        if company is not None:
            await company.settle()
        background.cancel_scope.cancel()


async def _hurry(wish: StopWish, scope: trio.CancelScope) -> None:
    """Cut everything short once somebody asks a second time."""
    await wish.urgent()
    scope.cancel()


def _engine(
    hands: Hands, policies: Policies, tell: Tell, *, in_flight: Callable[[Endpoint], int]
) -> EngineKeeper | NoEngine:
    if hands.launcher is None:
        return NoEngine()

    def on_change(snapshot: EngineSnapshot) -> None:
        tell("engine_state", _engine_facts(snapshot))
        if snapshot.state is EngineState.READY:
            tell("strategy", {"name": snapshot.strategy, "reason": snapshot.reason})

    return EngineKeeper(
        launcher=hands.launcher,
        upstream=hands.upstream,
        plan=first_plan(hands, policies),
        limits=policies.tend,
        in_flight=in_flight,
        last_activity=hands.upstream.last_activity,
        luck=hands.luck,
        on_change=on_change,
    )


def _engine_facts(snapshot: EngineSnapshot) -> dict[str, Any]:
    return {
        "state": snapshot.state.value,
        "model": snapshot.model,
        "strategy": snapshot.strategy,
        "reason": snapshot.reason,
        "progress": snapshot.progress,
        "restarts": snapshot.restarts,
        "log_tail": list(snapshot.log_tail),
        "pid": snapshot.pid,
    }
