"""The configuration: one frozen value, made once, from the command line, the environment, a file and defaults.

Each field stands here with its default, its bounds and its meaning, and nowhere else. Knows no file's place and
starts nothing. The order is: command line > `METAINF_SECTION_KEY` > file > default.
"""

import difflib
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, get_type_hints

import msgspec
from msgspec import Meta

from node.core.day_hours import parse_span
from node.errors import ConfigError

SCHEMA_VERSION = 1

Port = Annotated[str, Meta(pattern=r"^(\[[0-9a-fA-F:]+\]|[^\s:]+):\d{1,5}$")]
Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Milliseconds = Annotated[float, Meta(gt=0, le=86_400_000)]
Positive = Annotated[int, Meta(ge=1)]
Price = Annotated[float, Meta(ge=0, le=1e6)]
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,62}$")]


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the file; an unknown key in it is an error."""


class NodeSection(Section, frozen=True, kw_only=True):
    """[node]: the node itself."""

    name: Name | None = None  # what people call it; the peer id is what machines go by


class ApiKey(Section, frozen=True, kw_only=True):
    """[[api.keys]]: who may use the API, and how much. Stored as hashes: `metainf key add` makes one."""

    name: Name
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]
    requests_per_minute: Positive | None = None
    tokens_per_minute: Positive | None = None
    concurrent: Positive | None = None


class ApiSection(Section, frozen=True, kw_only=True):
    """[api]: the OpenAI-compatible endpoint."""

    bind: Port = "127.0.0.1:8470"
    keys: tuple[ApiKey, ...] = ()
    show_identity: bool = True  # tell clients which node answered
    allow_remote_media: bool = False  # let prompts name URLs that the engine then fetches
    cors_origins: tuple[str, ...] = ()  # origins of browser pages that may call the API
    max_body_bytes: Annotated[int, Meta(ge=1024, le=1 << 30)] = 32 << 20  # images in base64 fit; films do not
    max_connections: Positive = 1024
    max_connections_per_address: Positive = 256
    head_timeout_s: Seconds = 10.0  # a request's head must be whole by then
    body_timeout_s: Seconds = 30.0  # longest silence inside a request's body


class StrategySection(Section, frozen=True, kw_only=True):
    """[engine.strategy]: fixes the acceleration strategy; what is left out stays with the engine's default."""

    prefix_caching: bool | None = None
    chunked_prefill: bool | None = None
    max_num_seqs: Positive | None = None
    max_num_batched_tokens: Positive | None = None
    long_prefill_token_threshold: Positive | None = None
    speculation_method: str | None = None
    speculation_tokens: Positive | None = None
    kv_cache_dtype: str | None = None
    weight_quantization: str | None = None
    compile: bool | None = None
    tensor_parallel: Positive | None = None
    pipeline_parallel: Positive | None = None


class EngineSection(Section, frozen=True, kw_only=True):
    """[engine]: the vLLM that this node runs, or the OpenAI server that it speaks for."""

    enabled: bool = True
    model: str = "embedded"  # a folder, a hub id, or "embedded": SmolLM2-135M-Instruct, which needs no hub
    served_name: str | None = None  # the name clients use; default: the model's own
    url: str | None = None  # speak for this server instead of running an engine
    url_key: str | None = None  # its bearer key
    python: str | None = None  # interpreter of the environment that holds vLLM; default: the node's own
    command: tuple[str, ...] = ()  # replaces "python -m vllm.entrypoints.openai.api_server"
    extra_arguments: tuple[str, ...] = ()  # the operator's own flags for vLLM
    max_model_len: Positive | None = None
    kv_cache_bytes: Positive | None = None
    dtype: str | None = None
    strategy: StrategySection = StrategySection()
    start_timeout_s: Seconds = 900.0  # a hub download of a small model fits; a large one wants more
    hang_after_s: Seconds = 120.0  # neither health nor a byte for so long: it hangs
    drain_s: Seconds = 30.0  # what runs may finish for so long when the node stops
    max_running: Positive = 128  # prompts at the engine at once; beyond its own batch it would queue them unfairly
    max_queued: Annotated[int, Meta(ge=0)] = 256  # prompts that wait here for one of those places
    queue_timeout_s: Seconds = 60.0

    @property
    def own(self) -> bool:
        """Whether the node runs vLLM itself, and knows how: then it can say what runs, and on what."""
        return self.enabled and self.url is None and not self.command


class P2pSection(Section, frozen=True, kw_only=True):
    """[p2p]: the swarm: other nodes, which answer this one's prompts as it answers theirs."""

    enabled: bool = True
    listen: tuple[Port, ...] = ("0.0.0.0:47470",)  # IP addresses; [::]:47470 for IPv6
    join: tuple[str, ...] = ()  # multiaddrs of nodes to join through, as they print them
    announce: tuple[str, ...] = ()  # multiaddrs that reach this node from elsewhere, instead of its own addresses
    swarm: Annotated[str, Meta(pattern=r"^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$")] = "public"
    lan: bool = True  # find nodes of this network by multicast DNS, and be found
    relay: bool = True  # take calls for nodes that cannot be reached, where this one can; within bounds
    bootstrap: bool = False  # say that others are welcome to join through this node
    serve: tuple[str, ...] = ("everybody",)  # whose prompts are answered: everybody, nobody, peer ids, !PEER to exclude
    ask: tuple[str, ...] = ("everybody",)  # who may answer, and so read, this node's own prompts
    requests_per_minute: Positive | None = None  # of each peer; so the next two
    tokens_per_minute: Positive | None = None
    concurrent: Positive | None = None
    owner_places: Annotated[int, Meta(ge=0)] = 8  # of engine.max_running, never taken by peers
    inbound: Positive = 256  # connections that others open with this node
    inbound_per_address: Positive = 32  # of one address (a /64 of IPv6); of one /24 (or /48) half of all
    trusted_networks: tuple[str, ...] = ()  # shared by many peers, as a proxy of yours is: not counted per address
    price_per_hour: Price | None = None  # of this machine, told in its adverts, in the swarm's unit


class RoutingSection(Section, frozen=True, kw_only=True):
    """[routing]: who answers this node's prompts, and what happens when they break off."""

    policy: Annotated[str, Meta(pattern="^(predictive|least_outstanding)$")] = "predictive"
    resume: bool = True  # a stream whose server dies goes on elsewhere, where that is sound
    announce_resumed: bool = True  # such an answer says so, in a field of its own in one of its events
    spend_per_day: Price | None = None  # at most owed to peers that tell a price, for a day of UTC
    spend_per_request: Price | None = None  # likewise, for one answer, as it is foretold


class RecordsSection(Section, frozen=True, kw_only=True):
    """[records]: what this node tells the swarm of what it measured."""

    traffic: bool = True  # records of the answers that its own engine gave: times, and lengths cut down to two digits


class TrialsSection(Section, frozen=True, kw_only=True):
    """[trials]: this node measures its own engine under other strategies while nobody wants an answer of it."""

    idle: bool = True  # the engine is away meanwhile, and back as soon as a prompt comes
    idle_after_s: Seconds = 900.0  # for so long nobody was owed an answer
    budget_minutes: Annotated[float, Meta(gt=0, le=1440)] = 15.0  # at most, in 24 hours


_OBJECTIVE = r"(latency|tail|throughput|cost|energy|slo)(:\d*\.?\d+)?"
Objective = Annotated[str, Meta(pattern=rf"^{_OBJECTIVE}(,{_OBJECTIVE})*$")]


class LearnerSection(Section, frozen=True, kw_only=True):
    """[learner]: this node learns from the records that it holds how strategies and peers will do."""

    enabled: bool = True  # in a process of its own at the lowest priority, once there are 60 records
    objectives: Annotated[tuple[Objective, ...], Meta(min_length=1, max_length=8)] = ("latency",)  # to choose by
    memory_bytes: Annotated[int, Meta(ge=512 << 20, le=1 << 50)] = 4 << 30  # of that process, at most
    warm_start: bool = True  # also from the records that metainf came with


class TunerSection(Section, frozen=True, kw_only=True):
    """[tuner]: this node chooses the strategy of its own engine, and changes it while it serves."""

    enabled: bool = True  # false: the engine stays as it is configured; so it does with anything in [engine.strategy]
    objective: Objective | None = None  # what "best" means; default: the first of learner.objectives
    lossy: bool = False  # strategies that change answers may be chosen
    horizon_h: Annotated[float, Meta(gt=0, le=720)] = 6.0  # a workload lasts so long, until it is known better
    hold_s: Seconds = 120.0  # prompts wait for so long while the engine is away for a switch
    start_first: Annotated[str, Meta(pattern="^(auto|never)$")] = (
        "auto"  # the new engine beside the old one, where memory allows; or "never"
    )
    switches_per_day: Annotated[int, Meta(ge=0, le=1000)] = 24  # at most, by itself
    ttft_ms: Milliseconds | None = None  # promises that the objective slo is judged by: time to first token,
    tpot_ms: Milliseconds | None = None  # and for each token after it


Above = Annotated[float, Meta(gt=0, le=1e9)]


class LimitsSection(Section, frozen=True, kw_only=True):
    """[limits]: what this machine's owner lets the engine take; what is left out has no limit."""

    hours: tuple[str, ...] = ()  # ["22:00-07:00"]: local time in which the engine runs; outside it the device is free
    watts: Above | None = None  # drawn by all devices together: beyond it fewer prompts run at once
    temperature_c: Annotated[float, Meta(ge=30, le=120)] | None = None  # of the hottest: likewise; 5 beyond it none run
    others_bytes: Positive | None = None  # device memory that other programs hold, beyond which the device is theirs
    memory_bytes: Annotated[int, Meta(ge=1 << 20, le=1 << 50)] | None = None  # of the engine, whatever its strategy
    memory_share: Annotated[float, Meta(gt=0, le=1)] | None = None  # the same, of the memory that there is
    price_per_hour: Price | None = None  # of this machine: what the objective cost counts
    energy_price_per_kwh: Price | None = None  # for what it draws on top of that

    def __post_init__(self) -> None:
        for text in self.hours:
            try:
                parse_span(text)
            except ValueError as error:
                raise ValueError(f"hours: {error}") from None


class LogSection(Section, frozen=True, kw_only=True):
    """[log]: the node's own log."""

    level: Annotated[str, Meta(pattern="^(debug|info|warning|error)$")] = "info"
    format: Annotated[str, Meta(pattern="^(text|json)$")] = "text"
    requests: bool = False  # a line for each answered request too: a quarter of what a request costs the node
    max_file_bytes: Annotated[int, Meta(ge=1 << 16)] = 10 << 20  # each of the node's and the engine's log
    keep_files: Annotated[int, Meta(ge=0, le=100)] = 3  # rotated ones beside the current


class Settings(Section, frozen=True, kw_only=True):
    """The whole file."""

    version: Annotated[int, Meta(ge=SCHEMA_VERSION, le=SCHEMA_VERSION)] = SCHEMA_VERSION
    node: NodeSection = NodeSection()
    api: ApiSection = ApiSection()
    engine: EngineSection = EngineSection()
    p2p: P2pSection = P2pSection()
    routing: RoutingSection = RoutingSection()
    records: RecordsSection = RecordsSection()
    trials: TrialsSection = TrialsSection()
    learner: LearnerSection = LearnerSection()
    tuner: TunerSection = TunerSection()
    limits: LimitsSection = LimitsSection()
    log: LogSection = LogSection()

    def with_api_keys(self, keys: tuple[ApiKey, ...]) -> "Settings":
        """Return these settings with other API keys."""
        return msgspec.structs.replace(self, api=msgspec.structs.replace(self.api, keys=keys))


@dataclass(frozen=True, slots=True)
class Effective:
    """The settings in force, and where each value that is not a default came from."""

    settings: Settings
    sources: Mapping[str, str]  # "api.bind" -> "command line" | "METAINF_API_BIND" | the file's name

    def rows(self) -> Iterator[tuple[str, object, str]]:
        """Yield (dotted key, value, source) for every setting, secrets hidden."""
        for key, value in _leaves(msgspec.to_builtins(self.settings)):
            yield key, "(hidden)" if value and key in SECRETS else value, self.sources.get(key, "default")


SECRETS = frozenset({"engine.url_key"})


def effective(
    *,
    command_line: Mapping[str, object],
    environment: Mapping[str, str],
    file_text: str | None,
    file_name: str,
    joined: tuple[str, str] | None = None,
) -> Effective:
    """Merge the four sources.

    Args:
        command_line: dotted key to value; None means not given.
        file_text: contents of the configuration file; None where there is none.
        joined: the private swarm that this node belongs to, and what says so.

    Raises:
        ConfigError: what is wrong, where it stands, and the nearest right key.
    """
    tree: dict[str, Any] = {}
    sources: dict[str, str] = {}
    if file_text is not None:
        tree = _parse(file_text, file_name)
        sources |= {key: file_name for key, _ in _leaves(tree)}
        _convert(tree, where=file_name, strict=True)
    for key, variable, text in _from_environment(environment):
        _put(tree, key, text.split(",") if _is_list(key) else text)
        sources[key] = variable
        _convert(_only(key, tree), where=variable, strict=False)
    for key, value in command_line.items():
        if value is not None and value != ():
            _put(tree, key, value.split(",") if isinstance(value, str) and _is_list(key) else value)
            sources[key] = "command line"
    if joined is not None and "p2p.swarm" not in sources:
        tree.setdefault("p2p", {})["swarm"], sources["p2p.swarm"] = joined
    settings = _convert(tree, where="command line", strict=False)
    if joined is not None and (swarm := settings.p2p.swarm) != joined[0]:
        what = f"p2p.swarm is {swarm!r} ({sources['p2p.swarm']}), but this node has joined {joined[0]!r}"
        raise ConfigError(what, remedy="take that setting away, or leave: metainf swarm leave")
    return Effective(settings, sources)


def parse_api_keys(raw: bytes, file_name: str) -> tuple[ApiKey, ...]:
    """Return the keys of the file that `metainf api-key` keeps: JSON, a list of tables like [[api.keys]].

    Raises:
        ConfigError: it holds something else.
    """
    try:
        return msgspec.json.decode(raw, type=tuple[ApiKey, ...])
    except msgspec.DecodeError as error:
        raise ConfigError(f"{file_name} is damaged: {error}", remedy="restore a back-up, or remove it") from error


def format_api_keys(keys: tuple[ApiKey, ...]) -> bytes:
    """Return what `parse_api_keys` reads."""
    return msgspec.json.format(msgspec.json.encode(keys)) + b"\n"


def _parse(text: str, file_name: str) -> dict[str, Any]:
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file_name} is not valid TOML: {error}", remedy="mend that line") from error
    if "version" not in tree:
        remedy = f"add `version = {SCHEMA_VERSION}` as its first line"
        raise ConfigError(f"{file_name} does not say its version", remedy=remedy)
    return tree


def _convert(tree: object, *, where: str, strict: bool) -> Settings:
    try:
        return msgspec.convert(tree, Settings, strict=strict)
    except msgspec.ValidationError as error:
        raise _explained(str(error), where) from error


def _explained(message: str, where: str) -> ConfigError:
    """Turn msgspec's words into the user's: a dotted key, and the nearest right one."""
    what, _, path = message.partition(" - at `$")
    section = path.rstrip("`").lstrip(".")
    if "unknown field" in what:
        wrong = what.split("`")[1]
        key = f"{section}.{wrong}" if section else wrong
        return ConfigError(f"{where}: there is no setting `{key}`", remedy=_suggestion(section, wrong))
    words = what[:1].lower() + what[1:]
    return ConfigError(f"{where}: `{section or 'settings'}`: {words}", remedy="see `metainf config show`")


def _suggestion(section: str, wrong: str) -> str:
    """Name the key of that name in another table, else the nearest one of this table, else of any."""
    siblings: Any = msgspec.to_builtins(Settings())
    for part in filter(None, section.split(".")):
        siblings = siblings.get(part, {}) if isinstance(siblings, dict) else {}
    anywhere = {name.rpartition(".")[2]: name for name in _defaults()}
    here = {name: f"{section}.{name}" if section else name for name in siblings}
    for known, cutoff in ((anywhere, 1.0), (here, 0.5), (anywhere, 0.5)):
        if near := difflib.get_close_matches(wrong, known, n=1, cutoff=cutoff):
            return f"did you mean `{known[near[0]]}`?"
    return "`metainf config show` lists them all"


def _defaults() -> dict[str, Any]:
    """Return every setting's dotted key and default."""
    return dict(_leaves(msgspec.to_builtins(Settings())))


def _from_environment(environment: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """Yield (dotted key, variable, text) of the variables that name a setting; a misspelt one is an error."""
    known = {"METAINF_" + key.upper().replace(".", "_"): key for key in _defaults()}
    prefixes = tuple(f"METAINF_{section.upper()}_" for section in get_type_hints(Settings))
    for variable, text in sorted(environment.items()):
        if variable in known and variable != "METAINF_VERSION":
            yield known[variable], variable, text
        elif variable.startswith(prefixes):
            near = difflib.get_close_matches(variable, known, n=1, cutoff=0.5)
            remedy = f"did you mean {near[0]}?" if near else "unset it; see `metainf config show`"
            raise ConfigError(f"the environment variable {variable} names no setting", remedy=remedy)


def _is_list(key: str) -> bool:
    return isinstance(_defaults()[key], list | tuple)


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _put(tree: dict[str, Any], key: str, value: object) -> None:
    *sections, last = key.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
    tree[last] = value


def _only(key: str, tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tree with nothing but `key` in it, so that an error can name its one source."""
    value: Any = tree
    for part in key.split("."):
        value = value[part]
    alone: dict[str, Any] = {}
    _put(alone, key, value)
    return alone
