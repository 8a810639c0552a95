"""The composition root: the one file that knows settings, adapters and services, and puts them together.

`open_hands` builds the adapters that the settings ask for; `run` builds the core and the services on whatever hands
it is given, so that a simulation runs the real wiring on fakes. In reading order: what there is, then who gets it.
"""

import hashlib
import random
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import structlog
import trio
from prometheus_client import CollectorRegistry

from node.adapters.engine.external import ExternalLauncher, parse_engine_url
from node.adapters.engine.vllm import VllmLauncher, VllmSetup
from node.adapters.http_server.connection import ServerLimits
from node.adapters.http_server.server import Bind, TcpBind, UnixBind, serve
from node.adapters.keystore import load_or_create
from node.adapters.system import LocalMachine, port_owner, private_folder
from node.adapters.upstream.pool import UpstreamPool
from node.core.admission import Admission
from node.core.engine_state import EngineSnapshot, EngineState
from node.http.app import http_app
from node.http.asgi import App
from node.http.auth import KeyRing
from node.http.config import HttpLimits, NodeIdentity
from node.http.control import control_app
from node.http.metrics import HttpMetrics
from node.places import Places
from node.policies import Policies
from node.ports import Endpoint, EngineLauncher, Upstream
from node.services.no_engine import NoEngine
from node.services.serve import LocalReplica
from node.services.tend import EngineKeeper
from node.settings import Settings
from node.supervise import StopWish, first_node_error, stop_on_signals
from node.telemetry import Events, OffenceLog
from protocol.ids import PeerId

log = structlog.get_logger(__name__)

Tell = Callable[[str, Mapping[str, Any]], None]


class Pool(Upstream, Protocol):
    """The upstream, which also knows when it last heard of an endpoint."""

    def last_activity(self, endpoint: Endpoint) -> float | None:
        """Return the loop's time of the last byte from it; None before the first."""
        ...


class Listen(Protocol):
    """Serves an application at an address until `stop()` returns; starts with the address that was bound."""

    def __call__(
        self,
        app: App,
        *,
        bind: Bind,
        reports: "Reports",
        stop: Callable[[], Awaitable[object]],
        limits: ServerLimits | None = None,
        task_status: trio.TaskStatus[Bind] = trio.TASK_STATUS_IGNORED,
    ) -> Awaitable[None]:
        """See `node.adapters.http_server`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Hands:
    """What the node can do to the world. `launcher` is None on a node that runs no engine."""

    public_key: bytes  # Ed25519, 32 bytes
    launcher: EngineLauncher | None
    upstream: Pool
    listen: Listen
    luck: Callable[[], float]  # uniform in [0, 1)


@dataclass(frozen=True, slots=True)
class Reports:
    """What the HTTP servers tell: offences of clients, and defects of ours (answered 500, logged whole, survived)."""

    offence: OffenceLog

    def defect(self, error: Exception) -> None:
        """Log a bug with its traceback. One request ends by it, not the node."""
        log.error("http.defect", exc_info=error)


def main(settings: Settings, policies: Policies, where: Places, *, events: Events, narrate: Tell) -> bool:
    """Run a node until it is told to stop; return whether that was by Ctrl-C.

    Raises:
        NodeError: it could not be started.
    """
    wish = StopWish()

    def tell(event: str, facts: Mapping[str, Any]) -> None:
        events.emit(event, facts)
        narrate(event, facts)

    async def live() -> None:
        tell("starting", {"version": policies.version, "data_dir": str(where.data)})
        async with stop_on_signals(wish), open_hands(settings, where) as hands:
            await run(hands, policies, wish=wish, tell=tell)
        tell("stopped", {"reason": wish.reason})

    try:
        trio.run(live)
    except BaseExceptionGroup as group:
        if error := first_node_error(group):
            raise error from group
        raise
    return wish.by_interrupt


@asynccontextmanager
async def open_hands(settings: Settings, where: Places) -> AsyncIterator[Hands]:
    """Build the adapters that the settings ask for, and close them at the end.

    Raises:
        NodeError: something that they need is not there, or is not to be used.
    """
    identity, made = load_or_create(where.identity_file)
    if made:
        log.info("identity.made", file=str(where.identity_file))
    private_folder(where.runtime)
    upstream = UpstreamPool()
    try:
        yield Hands(
            public_key=identity.public_key,
            launcher=_launcher(settings, where),
            upstream=upstream,
            listen=partial(serve, owner_of=port_owner),
            luck=random.random,
        )
    finally:
        with trio.CancelScope(shield=True):
            await upstream.aclose()


def _launcher(settings: Settings, where: Places) -> EngineLauncher | None:
    engine = settings.engine
    if not engine.enabled:
        return None
    if engine.url is not None:
        return ExternalLauncher(parse_engine_url(engine.url, engine.url_key))
    setup = VllmSetup(
        python=Path(engine.python or sys.executable),
        command=engine.command,
        logs=where.logs,
        work=where.state / "engine",
        cache=where.cache / "models",
        tag=hashlib.sha256(str(where.data).encode()).hexdigest()[:16],
        allow_remote_media=settings.api.allow_remote_media,
        log_bytes=settings.log.max_file_bytes,
        log_files=settings.log.keep_files,
    )
    return VllmLauncher(setup, LocalMachine())


async def run(hands: Hands, policies: Policies, *, wish: StopWish, tell: Tell) -> None:
    """Run a node on these hands until it is wished to stop; what runs may finish unless the wish is urgent.

    Raises:
        NodeError: the API or the control socket cannot be had.
    """
    peer_id = str(PeerId.from_public_key(hands.public_key))
    registry = CollectorRegistry()
    metrics = HttpMetrics(registry)
    reports = Reports(OffenceLog(now=trio.current_time, count=metrics.offence))
    # The keeper and the replica need each other: what runs is asked of the replica once there is one.
    engine = _engine(hands, policies, tell, in_flight=lambda: replica.counts().running)
    replica = LocalReplica(node=peer_id, board=engine, upstream=hands.upstream, admission=Admission(policies.admission))

    def application(keys: KeyRing, limits: HttpLimits) -> App:
        return http_app(
            replica=replica,
            board=engine,
            keys=keys,
            limits=limits,
            identity=NodeIdentity(peer_id=peer_id, name=policies.name or "", version=policies.version),
            metrics=metrics,
            offence=reports.offence,
            engine_metrics=replica.engine_metrics,
        )

    started = trio.current_time()
    address = ""

    def status() -> Mapping[str, Any]:
        counts, snapshot = replica.counts(), engine.snapshot()
        return {
            "peer_id": peer_id,
            "name": policies.name,
            "swarm": "public",
            "version": policies.version,
            "uptime_s": round(trio.current_time() - started, 3),
            "api_url": address,
            "engine": _engine_facts(snapshot),
            "peers": {"connected": 0, "known": 0},
            "records": {"total": 0, "authors": 0},
            "learner": {"trained_at": None, "records_used": 0, "error_median": None, "coverage_90": None},
            "requests": {
                "running": counts.running,
                "waiting": counts.waiting,
                "served": counts.served,
                "failed": counts.failed,
                "refused": counts.refused,
                "abandoned": counts.abandoned,
                "resumed": 0,
            },
        }

    control = control_app(
        api=application(KeyRing(), policies.http),
        status=status,
        stop=wish.ask,
        restart_engine=lambda reason: engine.restart(reason=reason, grace=policies.drain),
    )
    api = application(KeyRing(policies.keys), policies.http)
    ending = trio.Event()
    async with trio.open_nursery() as background:
        background.start_soon(_hurry, wish, background.cancel_scope)
        background.start_soon(engine.run)
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
                    "addresses": [],
                    "api_url": address,
                    "version": policies.version,
                    "keys": len(policies.keys),
                },
            )
            reason = await wish.wanted()
            tell("stopping", {"reason": reason})
            ending.set()
            servers.start_soon(partial(engine.stop, reason=f"the node stops ({reason})", grace=policies.drain))
        background.cancel_scope.cancel()


async def _hurry(wish: StopWish, scope: trio.CancelScope) -> None:
    """Cut everything short once somebody asks a second time."""
    await wish.urgent()
    scope.cancel()


def _engine(hands: Hands, policies: Policies, tell: Tell, *, in_flight: Callable[[], int]) -> EngineKeeper | NoEngine:
    if hands.launcher is None:
        return NoEngine()

    def on_change(snapshot: EngineSnapshot) -> None:
        tell("engine_state", _engine_facts(snapshot))
        if snapshot.state is EngineState.READY:
            tell("strategy", {"name": snapshot.strategy, "reason": snapshot.reason})

    return EngineKeeper(
        launcher=hands.launcher,
        upstream=hands.upstream,
        plan=policies.plan,
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
