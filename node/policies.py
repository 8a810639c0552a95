"""What the node is to do: the settings, translated into the terms of those who act on them.

Checks what no single setting can say (a bind beyond loopback wants a key). Pure: builds nothing, starts nothing.
"""

import hashlib
import ipaddress
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from node.adapters.engine.vllm import default_served_name
from node.adapters.http_server.connection import ServerLimits
from node.core.access import Access, PeerList, parse_peer_list
from node.core.address import BindAddress
from node.core.admission import AdmissionLimits
from node.core.bootstraps import PREFIX, DnsAddr, parse_dnsaddr
from node.core.day_hours import parse_span
from node.core.operator_limits import Limits
from node.core.quota import QuotaLimits
from node.core.spending import SpendLimits
from node.core.strategy import EXTERNAL, InvalidStrategy, Strategy, from_plain
from node.core.tuner_policy import TunerPolicy, by_littles_law
from node.errors import ConfigError
from node.http.auth import ApiKey
from node.http.config import HttpLimits
from node.places import Places
from node.ports import LaunchPlan
from node.services.learn import LearnerPolicy
from node.services.resume import ResumeLimits
from node.services.serve_peers import PeerLimits
from node.services.tend import TendLimits
from node.services.trial_runs import TrialPolicy
from node.settings import ApiKey as SettingsApiKey
from node.settings import EngineSection, LimitsSection, P2pSection, Settings
from protocol import limits
from protocol.addresses import Address, Reach, parse_address
from protocol.ids import SwarmId

MOST_GOALS = 8  # objectives that the learner takes
# What examples and other servers' documentation use as keys: whoever tries these gets in everywhere.
WELL_KNOWN_KEYS = frozenset(
    hashlib.sha256(key.encode()).hexdigest()
    for key in (
        *("", "none", "null", "key", "test", "empty", "EMPTY", "dummy", "secret", "password", "changeme", "admin"),
        *("token-abc123", "sk-1234", "sk-123", "sk-xxx", "sk-test", "sk-no-key-required", "not-needed", "ollama"),
        *("lm-studio", "vllm", "metainf", "123456", "1234", "apikey", "api-key", "your-api-key", "YOUR_API_KEY"),
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DoorPolicy:
    """Who comes in: connections in all and of one address, and networks whose addresses are not counted."""

    inbound: int = 256
    inbound_per_address: int = 32
    trusted: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SwarmPolicies:
    """How the node takes part in the swarm.

    Attributes:
        listen: without peer ids; port 0 takes any.
        join, announce: with the peer's id, and without our own.
        join_names: names that stand for such addresses.
        nearest: addresses of nearer reach than this are not believed of strangers.
        price_per_hour: what an hour of this machine costs others; None: nothing is asked.
        relay: whether others may be called through this node.
    """

    swarm: SwarmId
    listen: tuple[Address, ...]
    join: tuple[Address, ...]
    announce: tuple[Address, ...]
    lan: bool
    bootstrap: bool
    access: Access
    nearest: Reach
    limits: PeerLimits
    price_per_hour: float | None = None
    door: DoorPolicy = field(default_factory=DoorPolicy)
    join_names: tuple[DnsAddr, ...] = ()
    relay: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingPolicy:
    """Who answers prompts.

    Attributes:
        predictive: by what is foretold of each replica; else by who has the least to do.
        resume: how broken streams are gone on with elsewhere; None: not at all.
        spend: what may be owed to peers.
        own_price_per_hour: what an hour of this machine costs its owner; None where that is not known.
    """

    predictive: bool = True
    resume: ResumeLimits | None = None
    spend: SpendLimits = field(default_factory=SpendLimits)
    own_price_per_hour: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Policies:
    """What the node is to do: the settings, in the terms of those who act on them."""

    name: str | None
    version: str
    plan: LaunchPlan
    tend: TendLimits
    drain: float  # seconds that running prompts have at the end
    admission: AdmissionLimits
    api: BindAddress
    control_socket: Path
    keys: tuple[ApiKey, ...]
    http: HttpLimits
    server: ServerLimits
    trials: TrialPolicy = field(default_factory=TrialPolicy)
    learner: LearnerPolicy = field(default_factory=LearnerPolicy)
    tuner: TunerPolicy = field(default_factory=TunerPolicy)
    limits: Limits = field(default_factory=Limits)  # what the machine's owner lets the engine take
    routing: RoutingPolicy = field(default_factory=RoutingPolicy)
    record_traffic: bool = True  # whether the swarm is told how this node's answers went
    swarm: SwarmPolicies | None = None  # None: a node by itself


def policies_of(settings: Settings, where: Places, *, version: str) -> Policies:
    """Translate the settings into the terms of those who act on them.

    Raises:
        ConfigError: values that are each well-formed, but not together.
    """
    engine, api = settings.engine, settings.api
    try:
        bind = BindAddress.parse(api.bind)
    except ValueError as error:
        raise ConfigError(f"api.bind: {error}", remedy="write it as 127.0.0.1:8470 or [::1]:8470") from error
    keys = tuple(_api_key(key) for key in api.keys)
    if not bind.loopback and not keys:
        raise ConfigError(
            f"the API would be open to every machine that reaches {bind}, without a key",
            remedy="make one with `metainf api-key add NAME`, or keep to loopback: --http 127.0.0.1:8470",
        )
    return Policies(
        name=settings.node.name,
        version=version,
        plan=_plan(engine, settings.limits),
        tend=TendLimits(start_timeout=engine.start_timeout_s, hang_after=engine.hang_after_s),
        drain=engine.drain_s,
        admission=AdmissionLimits(
            running=engine.max_running,
            waiting=engine.max_queued,
            longest_wait=engine.queue_timeout_s,
            longest_hold=settings.tuner.hold_s,
            reserved=min(settings.p2p.owner_places, engine.max_running - 1) if settings.p2p.enabled else 0,
        ),
        api=bind,
        control_socket=where.control_socket,
        keys=keys,
        http=HttpLimits(
            body_bytes=api.max_body_bytes,
            allow_remote_media=api.allow_remote_media,
            show_node=api.show_identity,
            origins=api.cors_origins,
        ),
        server=ServerLimits(
            connections=api.max_connections,
            connections_per_address=api.max_connections_per_address,
            head_seconds=api.head_timeout_s,
            body_idle_seconds=api.body_timeout_s,
            grace_seconds=engine.drain_s,
        ),
        trials=TrialPolicy(
            idle=settings.trials.idle,
            idle_after=settings.trials.idle_after_s,
            daily=settings.trials.budget_minutes * 60,
            grace=engine.drain_s,
        ),
        learner=LearnerPolicy(enabled=settings.learner.enabled, goals=_goals(settings)),
        tuner=_tuner(settings),
        limits=_limits(settings.limits),
        routing=RoutingPolicy(
            predictive=settings.routing.policy == "predictive",
            resume=ResumeLimits(announce=settings.routing.announce_resumed) if settings.routing.resume else None,
            spend=SpendLimits(per_day=settings.routing.spend_per_day, per_request=settings.routing.spend_per_request),
            # Who asks others for a price and has told no other is reckoned to work for that price here, too.
            own_price_per_hour=_first(settings.limits.price_per_hour, settings.p2p.price_per_hour),
        ),
        record_traffic=settings.records.traffic,
        swarm=_swarm(settings.p2p, settings) if settings.p2p.enabled else None,
    )


def _first(*values: float | None) -> float | None:
    return next((each for each in values if each is not None), None)


def _goals(settings: Settings) -> tuple[str, ...]:
    """Return what is learnt: what was asked for, and what the tuner chooses by."""
    goals, wanted = settings.learner.objectives, by_littles_law(_objective(settings))
    if not settings.tuner.enabled or wanted in goals:
        return goals
    if len(goals) >= MOST_GOALS:
        raise ConfigError(
            f"tuner.objective: {wanted!r} is not among the {len(goals)} learner.objectives, and no more can be learnt",
            remedy="put it in the place of one of them",
        )
    return (*goals, wanted)


def _objective(settings: Settings) -> str:
    return settings.tuner.objective or settings.learner.objectives[0]


def _tuner(settings: Settings) -> TunerPolicy:
    tuner, owner = settings.tuner, settings.limits
    objective = _objective(settings)
    promises = {"ttft_s": tuner.ttft_ms, "tpot_s": tuner.tpot_ms}
    kept = {name: value / 1000.0 for name, value in promises.items() if value is not None}
    # Only where it was chosen for the tuner: without promises slo is latency, which the learner may well learn twice.
    if tuner.enabled and tuner.objective is not None and "slo" in objective and not kept:
        raise ConfigError(
            "tuner.objective: slo is judged by promises, and none is made",
            remedy="set tuner.ttft_ms or tuner.tpot_ms, or choose another objective",
        )
    return TunerPolicy(
        enabled=tuner.enabled,
        objective=objective,
        lossy=tuner.lossy,
        horizon_s=tuner.horizon_h * 3600.0,
        hold_s=tuner.hold_s,
        start_first=tuner.start_first == "auto",
        switches_per_day=tuner.switches_per_day,
        promises=kept,
        memory_bytes=owner.memory_bytes,
        memory_share=owner.memory_share,
        price_per_hour=owner.price_per_hour,
        energy_price_per_kwh=owner.energy_price_per_kwh,
    )


def _limits(owner: LimitsSection) -> Limits:
    return Limits(
        hours=tuple(parse_span(text) for text in owner.hours),
        watts=owner.watts,
        temperature_c=owner.temperature_c,
        others_bytes=owner.others_bytes,
    )


def _swarm(p2p: P2pSection, settings: Settings) -> SwarmPolicies:
    listen = tuple(_listen_address(text) for text in p2p.listen)
    if not listen:
        raise ConfigError("p2p.listen is empty", remedy="give an address such as 0.0.0.0:47470, or p2p.enabled = false")
    quota = QuotaLimits(
        requests_per_minute=p2p.requests_per_minute,
        tokens_per_minute=p2p.tokens_per_minute,
        concurrent=p2p.concurrent,
    )
    loopback = all(address.reach is Reach.LOOPBACK for address in listen)
    return SwarmPolicies(
        swarm=SwarmId(p2p.swarm),
        listen=listen,
        join=tuple(_peer_address(text) for text in p2p.join if not text.startswith(PREFIX)),
        join_names=tuple(_peer_name(text) for text in p2p.join if text.startswith(PREFIX)),
        announce=tuple(_announced_address(text) for text in p2p.announce),
        lan=p2p.lan and not loopback,
        bootstrap=p2p.bootstrap,
        access=Access(serve=_peer_list("serve", p2p.serve), ask=_peer_list("ask", p2p.ask), each=quota),
        nearest=Reach.LOOPBACK if loopback else Reach.PRIVATE,
        limits=PeerLimits(
            body_bytes=min(settings.api.max_body_bytes, limits.BODY_BYTES),
            allow_remote_media=settings.api.allow_remote_media,
        ),
        price_per_hour=p2p.price_per_hour,
        door=DoorPolicy(
            inbound=p2p.inbound,
            inbound_per_address=p2p.inbound_per_address,
            trusted=tuple(_network(text) for text in p2p.trusted_networks),
        ),
        relay=p2p.relay,
    )


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise ConfigError(
            f"p2p.trusted_networks: {error}", remedy="write networks as 10.1.0.0/16, single addresses as 10.1.2.3"
        ) from error


def _listen_address(text: str) -> Address:
    try:
        bind = BindAddress.parse(text)
        ip = ipaddress.ip_address("127.0.0.1" if bind.host == "localhost" else bind.host)
    except ValueError as error:
        raise ConfigError(f"p2p.listen: {error}", remedy="write it as 0.0.0.0:47470 or [::]:47470") from error
    return Address(f"ip{ip.version}", str(ip), bind.port)


def _peer_address(text: str) -> Address:
    address = parse_address(text)
    if address is None or address.peer is None:
        raise ConfigError(
            f"p2p.join: {text[:200]!r} is no address of a node",
            remedy="write it as the node prints it: /ip4/192.0.2.1/tcp/47470/p2p/12D3Koo..., or /dns/HOST/tcp/...",
        )
    return address


def _peer_name(text: str) -> DnsAddr:
    name = parse_dnsaddr(text)
    if name is None:
        remedy = "write it as /dnsaddr/bootstrap.example.org, with /p2p/12D3Koo... behind it for one node alone"
        raise ConfigError(f"p2p.join: {text[:200]!r} is no name that could be asked for", remedy=remedy)
    return name


def _announced_address(text: str) -> Address:
    address = parse_address(text)
    if address is None:
        remedy = "write it as /ip4/192.0.2.1/tcp/47470 or /dns/node.example.org/tcp/47470"
        raise ConfigError(f"p2p.announce: {text[:200]!r} is no address that can be dialled", remedy=remedy)
    return address.of(None)


def _peer_list(key: str, words: tuple[str, ...]) -> PeerList:
    try:
        return parse_peer_list(words)
    except ValueError as error:
        raise ConfigError(f"p2p.{key}: {error}", remedy='write ["everybody"], ["nobody"] or peer ids') from error


def _plan(engine: EngineSection, owner: LimitsSection) -> LaunchPlan:
    # vLLM's own limit, on CPU too; the operator's own flags come after it and win.
    share = () if owner.memory_share is None else ("--gpu-memory-utilization", f"{owner.memory_share:g}")
    return LaunchPlan(
        model=engine.model,
        # A server elsewhere is asked for its own names.
        served_name=engine.served_name or ("" if engine.url is not None else default_served_name(engine.model)),
        strategy=EXTERNAL if engine.url is not None else _strategy(engine),
        max_model_len=engine.max_model_len,
        kv_cache_bytes=engine.kv_cache_bytes,
        dtype=engine.dtype,
        extra_arguments=(*share, *engine.extra_arguments),
    )


def _strategy(engine: EngineSection) -> Strategy:
    chosen = msgspec.structs.asdict(engine.strategy)
    method, tokens = chosen.pop("speculation_method"), chosen.pop("speculation_tokens")
    if (method is None) != (tokens is None):
        raise ConfigError(
            "engine.strategy: speculation wants both a method and a number of tokens",
            remedy="set speculation_method and speculation_tokens, or neither",
        )
    plain = {name: value for name, value in chosen.items() if value is not None}
    if method is not None:
        plain["speculation"] = {"method": method, "tokens": tokens}
    try:
        return from_plain(plain)
    except InvalidStrategy as error:
        raise ConfigError(f"engine.strategy: {error}", remedy="see deploy/example.toml") from error


def _api_key(key: SettingsApiKey) -> ApiKey:
    if key.sha256 in WELL_KNOWN_KEYS:
        remedy = "make one of your own: metainf api-key add NAME"
        raise ConfigError(f"the API key {key.name!r} is one that everybody knows", remedy=remedy)
    return ApiKey(
        name=key.name,
        sha256=bytes.fromhex(key.sha256),
        limits=QuotaLimits(
            requests_per_minute=key.requests_per_minute,
            tokens_per_minute=key.tokens_per_minute,
            concurrent=key.concurrent,
        ),
    )
