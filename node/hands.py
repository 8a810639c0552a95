"""What the node can do to the world: the adapters, built as the settings ask and closed at the end.

The first half of the composition. Knows settings and adapters, and no service.
"""

import hashlib
import random
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

import structlog
import trio

from node.adapters import nvml, own_processes, pause_file, peer_file
from node.adapters.devices import DeviceReader
from node.adapters.engine.external import ExternalLauncher, parse_engine_url
from node.adapters.engine.vllm import VllmLauncher, VllmSetup
from node.adapters.http_server.connection import ServerLimits
from node.adapters.http_server.server import Bind, serve
from node.adapters.keystore import Identity, load_or_create
from node.adapters.lan import nodes_nearby
from node.adapters.names import text_records
from node.adapters.snapshot_file import read_shipped
from node.adapters.store.account import NAME as ACCOUNT
from node.adapters.store.account import AccountFile
from node.adapters.store.told import ToldSettings
from node.adapters.system import LocalMachine, local_addresses, port_owner, private_folder
from node.adapters.upstream.pool import UpstreamPool
from node.claiming import taken, until_free
from node.clock import wall_us
from node.core.operator_limits import Pause, Readings
from node.core.own_addresses import own_addresses
from node.core.own_records import Setting
from node.core.profile import Profile, hardware_summary
from node.core.snapshot import Snapshot
from node.directory_rules import dht_rules
from node.edge_ports import Door
from node.errors import Unavailable
from node.history import begin_epoch, open_own_history
from node.http.asgi import App
from node.learner_hands import learner_hands
from node.learner_ports import LearnerHands
from node.machine_profile import hardware_now, kept_capabilities
from node.membership_ports import Doors
from node.places import Places
from node.policies import Policies, SwarmPolicies
from node.ports import Directory, Endpoint, EngineLauncher, Gossip, Streams, Swarm, Upstream
from node.private_hands import PrivateHands, private_hands
from node.record_ports import OwnHistory, Told
from node.relay_ports import Ways
from node.services.keep_account import Store as AccountStore
from node.settings import Settings
from node.telemetry import OffenceLog, hush_libraries
from node.trial_hands import kept_setting, trial_hands
from node.trial_ports import TrialHands
from node.tuner_hands import TunerTools, tuner_tools
from protocol.addresses import Address
from protocol.advert import Hardware
from protocol.gossip import Subject, Topic, message_id
from protocol.ids import Epoch, PeerId, SwarmId
from protocol.limits import SECOND_US
from protocol.records import SigningKey

log = structlog.get_logger(__name__)


class Pool(Upstream, Protocol):
    """The upstream, which also knows when it last heard of an endpoint."""

    def last_activity(self, endpoint: Endpoint) -> float | None:
        """Return the loop's time of the last byte from it; None before the first."""
        ...

    async def keep_time(self) -> None:
        """Watch the deadlines of all waits together, for as long as it runs; else each wait watches its own."""
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


class Network(Swarm, Streams, Door, Doors, Protocol):
    """Connections and conversations with peers, and who is let in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SwarmHands:
    """What the node can do among peers.

    Attributes:
        key: signs what this node says.
        epoch: the start of this run.
        interfaces: returns this machine's IP addresses.
        nearby: addresses of nodes heard of on the local network; None where nobody listens for them.
        remembered: addresses that worked in the last run.
        remember: keeps such addresses for the next.
        hardware: this machine, as adverts tell of it.
        account: keeps what was used and owed; None: nothing outlives the run.
        weigh: has gossip weigh its neighbours by what is told of their conduct: 1 for the best, near 0 for the worst.
        text_records: returns the TXT records of a name, or raises `Unreachable`.
        ways: what is known of how peers are reached; None where relays are not known of.
        private: what makes this node one of a private swarm; None: the swarm is public.
    """

    network: Network
    gossip: Gossip
    directory: Directory
    key: SigningKey
    epoch: Epoch
    interfaces: Callable[[], tuple[str, ...]]
    nearby: trio.MemoryReceiveChannel[Address] | None
    remembered: tuple[Address, ...]
    remember: Callable[[Sequence[Address]], Awaitable[None]]
    hardware: Hardware | None = None
    account: AccountStore | None = None
    weigh: Callable[[Callable[[PeerId], float]], None] | None = None
    text_records: Callable[[str], Awaitable[Sequence[str]]] = text_records
    ways: Ways | None = None
    private: PrivateHands | None = None


async def _keep_no_pause(_: Pause | None) -> None:
    """Keep nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnerHands:
    """What a node knows of its owner's wishes beside the settings.

    Attributes:
        read: how the devices are; None where there is nothing to be read.
        paused: the pause that the last run left. keep: keeps one for the next; None: there is none any more.
    """

    read: Callable[[], Awaitable[Readings]] | None = None
    paused: Pause | None = None
    keep: Callable[[Pause | None], Awaitable[None]] = _keep_no_pause


@dataclass(frozen=True, slots=True, kw_only=True)
class Hands:
    """What the node can do to the world.

    Attributes:
        public_key: Ed25519, 32 bytes.
        launcher: None on a node that runs no engine.
        history: the performance records, with a pen for its own.
        luck: uniform in [0, 1).
        wall: returns the wall clock, microseconds since 1970; from any thread.
        trials: None on a node without an engine of its own.
        setting: model, machine and engine as records tell of them, without measuring anything; likewise.
        learner: None on a node that is not to learn.
        tuner: None on a node without an engine to tune.
        swarm: None on a node by itself.
        told: what peers' records say of their machines; None where no history is kept in a file.
    """

    public_key: bytes
    launcher: EngineLauncher | None
    upstream: Pool
    listen: Listen
    history: OwnHistory
    luck: Callable[[], float]
    wall: Callable[[], int]
    trials: TrialHands | None = None
    setting: Callable[[], Awaitable[Setting | None]] | None = None
    learner: LearnerHands | None = None
    tuner: TunerTools | None = None
    owner: OwnerHands = field(default_factory=OwnerHands)
    swarm: SwarmHands | None = None
    told: Told | None = None


@dataclass(frozen=True, slots=True)
class Reports:
    """What the HTTP servers tell: offences of clients, and defects of ours (answered 500, logged whole, survived)."""

    offence: OffenceLog

    def defect(self, error: Exception) -> None:
        """Log a bug with its traceback. One request ends by it, not the node."""
        log.error("http.defect", exc_info=error)


@asynccontextmanager
async def open_hands(settings: Settings, policies: Policies, where: Places) -> AsyncIterator[Hands]:
    """Build the adapters that the settings ask for, and close them at the end.

    Raises:
        NodeError: something that they need is not there, or is not to be used.
    """
    identity, made = load_or_create(where.identity_file)
    if made:
        log.info("identity.made", file=str(where.identity_file))
    private_folder(where.runtime)
    upstream = UpstreamPool()
    epoch = await begin_epoch(where)
    async with AsyncExitStack() as resources:
        resources.push_async_callback(_close, upstream)
        history = await resources.enter_async_context(
            open_own_history(where, SwarmId(settings.p2p.swarm), identity, epoch)
        )
        warm = settings.learner.enabled and settings.learner.warm_start
        shipped = await trio.to_thread.run_sync(read_shipped) if warm else None
        swarm = None
        if policies.swarm is not None:
            swarm = await resources.enter_async_context(_open_swarm(identity, policies.swarm, where, epoch))
        yield Hands(
            public_key=identity.public_key,
            launcher=_launcher(settings, where),
            upstream=upstream,
            listen=partial(serve, owner_of=port_owner),
            history=history,
            luck=random.random,
            wall=wall_us,
            trials=_trials(settings, policies, where),
            setting=_setting(settings, policies, where),
            learner=_learner(settings, where, shipped),
            tuner=await _tuner(settings, policies, where, PeerId.from_public_key(identity.public_key)),
            owner=await trio.to_thread.run_sync(_owner, where),
            swarm=swarm,
            told=ToldSettings(where.history_file(SwarmId(settings.p2p.swarm))),
        )


async def _close(upstream: UpstreamPool) -> None:
    with trio.CancelScope(shield=True):
        await upstream.aclose()


@asynccontextmanager
async def _open_swarm(
    identity: Identity, policies: SwarmPolicies, where: Places, epoch: Epoch
) -> AsyncIterator[SwarmHands]:
    # Here and not above: a second of imports that a node by itself does without.
    from node.adapters.p2p.circuits import open_ways  # noqa: PLC0415
    from node.adapters.p2p.host import open_host  # noqa: PLC0415
    from node.adapters.p2p.limits import P2pLimits  # noqa: PLC0415
    from node.adapters.p2p.private import SwarmKey  # noqa: PLC0415
    from node.adapters.p2p.routing import Namespace, open_directory, open_gossip  # noqa: PLC0415

    hush_libraries()
    private = await trio.to_thread.run_sync(private_hands, where, policies.swarm)
    secret = None if private is None else private.membership.key
    key = None if secret is None else SwarmKey(swarm=str(policies.swarm), key=secret)
    peers_file = where.peers_file_of(policies.swarm)
    remembered = await trio.to_thread.run_sync(peer_file.load, peers_file)
    rules = dht_rules(policies.swarm, wall_us)
    async with AsyncExitStack() as resources:
        await until_free(policies.listen)
        try:
            host = await resources.enter_async_context(
                open_host(
                    identity.secret_seed(),
                    policies.listen,
                    limits=P2pLimits(
                        inbound=policies.door.inbound,
                        inbound_per_address=policies.door.inbound_per_address,
                        inbound_per_subnet=max(policies.door.inbound_per_address, policies.door.inbound // 2),
                        trusted=policies.door.trusted,
                    ),
                    private=key,
                )
            )
        except Unavailable as error:
            raise taken(error, policies.listen) from error
        ways = await resources.enter_async_context(open_ways(host, lambda: wall_us() / SECOND_US))
        gossip = await resources.enter_async_context(
            open_gossip(
                host,
                topics={str(Topic(policies.swarm, subject)) for subject in Subject},
                message_id=message_id,
            )
        )
        directory = await resources.enter_async_context(
            open_directory(host, {name: Namespace(valid=valid, best=best) for name, (valid, best) in rules.items()})
        )
        nearby = None
        if policies.lan:
            addresses = own_addresses(host.me, host.addresses(), local_addresses(), policies.announce)
            try:
                nearby = await resources.enter_async_context(
                    nodes_nearby(host.me, policies.swarm, addresses, secret=secret)
                )
            except Unavailable as error:
                log.warning("lan.unavailable", reason=error.message)

        async def remember(addresses: Sequence[Address]) -> None:
            await trio.to_thread.run_sync(peer_file.save, peers_file, addresses)

        yield SwarmHands(
            network=host,
            gossip=gossip,
            directory=directory,
            key=identity.signing_key(),
            epoch=epoch,
            interfaces=local_addresses,
            nearby=nearby,
            remembered=remembered,
            remember=remember,
            hardware=hardware_summary(Profile(hardware=await trio.to_thread.run_sync(hardware_now))),
            account=AccountFile(where.data / ACCOUNT),
            weigh=gossip.weigh,
            ways=ways,
            private=private,
        )


def _trials(settings: Settings, policies: Policies, where: Places) -> TrialHands | None:
    if not settings.engine.own:
        return None
    return trial_hands(python=_python(settings), plan=policies.plan, where=where)


def _setting(settings: Settings, policies: Policies, where: Places) -> Callable[[], Awaitable[Setting]] | None:
    """Return what says which model and machine are observed; a server elsewhere runs on nobody knows what."""
    if not settings.engine.own:
        return None
    return kept_setting(python=_python(settings), plan=policies.plan, where=where)


def _learner(settings: Settings, where: Places, shipped: Snapshot | None) -> LearnerHands:
    history = where.history_file(SwarmId(settings.p2p.swarm))
    return learner_hands(history, memory_bytes=settings.learner.memory_bytes, shipped=shipped)


def _python(settings: Settings) -> Path:
    return Path(settings.engine.python or sys.executable)


async def _tuner(settings: Settings, policies: Policies, where: Places, me: PeerId) -> TunerTools | None:
    if not settings.engine.enabled or settings.engine.url is not None:
        return None
    history = where.history_file(SwarmId(settings.p2p.swarm))
    return await tuner_tools(_setup(settings, where), policies.plan, where, history=history, me=me)


def _owner(where: Places) -> OwnerHands:
    file = where.data / pause_file.NAME

    async def keep(pause: Pause | None) -> None:
        await trio.to_thread.run_sync(pause_file.save, file, pause)

    devices = DeviceReader(partial(nvml.readings, own_processes.foreign))
    return OwnerHands(read=devices.read, paused=pause_file.load(file), keep=keep)


def _setup(settings: Settings, where: Places) -> VllmSetup:
    engine, python = settings.engine, _python(settings)
    return VllmSetup(
        python=python,
        command=engine.command,
        logs=where.logs,
        work=where.state / "engine",
        cache=where.cache / "models",
        tag=hashlib.sha256(str(where.data).encode()).hexdigest()[:16],
        allow_remote_media=settings.api.allow_remote_media,
        log_bytes=settings.log.max_file_bytes,
        log_files=settings.log.keep_files,
        capabilities=partial(kept_capabilities, where.cache, python),
    )


def _launcher(settings: Settings, where: Places) -> EngineLauncher | None:
    engine = settings.engine
    if not engine.enabled:
        return None
    if engine.url is not None:
        return ExternalLauncher(parse_engine_url(engine.url, engine.url_key))
    return VllmLauncher(_setup(settings, where), LocalMachine())
