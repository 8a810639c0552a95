"""The acceleration strategy of an engine: a frozen, versioned value, its rules, its name and its engine flags.

Knows vLLM's options by name and what each does to an answer; knows no process, machine or measurement.
The fields are those of the records (contracts): a field added later gets a default of None, and the schema's
version moves only when an old reader would misunderstand.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Literal, cast

SCHEMA_VERSION = 1

Build = Literal["cpu", "cuda"]

MAX_COUNT = 1_000_000  # of sequences or tokens; far above any engine's limit, small enough for 32 bits
MAX_PARALLEL = 64  # GPUs of one engine; a larger one is attached by URL
MAX_EXTRA = 16  # entries of engine_extra; one strategy is a handful of changes to the engine's defaults
MAX_TEXT = 64  # characters of a token (method, dtype, quantisation, extra value)
MAX_DRAFT_TOKENS = 32  # proposed per step; beyond ~8 acceptance falls towards nothing

TOKEN_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-/:")

# What a strategy may set beside its named fields. Strategies travel between strangers in records, so this is a
# list of what is allowed: none of these loads code, opens a port, reads a file or changes who may ask.
EXTRA_FLAGS: Mapping[str, str] = {
    "async-scheduling": "switch",
    "attention-backend": "value",
    "block-size": "value",
    "max-num-active-seqs": "value",
    "long-prefill-token-threshold-adaptive": "switch",
    "scheduling-policy": "value",
}
DRAFT_MODEL = "draft-model"  # part of the speculation, not a flag: what proposes the tokens
EXTERNAL_MARK = "external"  # an engine that is not ours to configure

SELF_DRAFTING = frozenset({"ngram", "ngram_gpu", "suffix", "mtp"})  # propose from the prompt or the model itself
DRAFTED = frozenset({"draft_model", "eagle", "eagle3", "medusa"})  # need a second set of weights
ASYNC_DRAFTING = frozenset({"ngram_gpu", "mtp", "draft_model", "eagle", "eagle3"})  # those that async scheduling takes
COUNTED_EXTRA = frozenset({"block-size", "max-num-active-seqs"})  # keys of engine_extra whose value is a whole number
LOSSY_KV = ("fp8", "int8", "int4", "nvfp4", "turboquant", "ultraquant")  # families that round the cache


class InvalidStrategy(ValueError):
    """A value is not a strategy at all: wrong type, unknown field, out of bounds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Speculation:
    """Tokens proposed cheaply and verified by the model: the answer's distribution stays the model's own."""

    method: str
    tokens: int

    def __post_init__(self) -> None:
        _check_token("speculation.method", self.method)
        _check_count("speculation.tokens", self.tokens, MAX_DRAFT_TOKENS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Strategy:
    """How an engine works off its prompts. None leaves a choice to the engine.

    Attributes:
        prefix_caching: keep the KV blocks of prompts for later prompts that begin alike.
        chunked_prefill: split long prompts so that decoding goes on between the parts.
        max_num_seqs: sequences decoded together; 1 is no continuous batching.
        max_num_batched_tokens: token budget of one step.
        long_prefill_token_threshold: tokens of one prompt per step while others wait.
        kv_cache_dtype: number format of the cache, in vLLM's words.
        weight_quantization: in vLLM's words; applied while loading.
        compile: torch.compile and CUDA graphs; False runs eagerly.
        engine_extra: sorted pairs of (key of EXTRA_FLAGS, value), for what has no field of its own yet.

    Raises:
        InvalidStrategy: a value that no engine could mean.
    """

    prefix_caching: bool | None = None
    chunked_prefill: bool | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    long_prefill_token_threshold: int | None = None
    speculation: Speculation | None = None
    kv_cache_dtype: str | None = None
    weight_quantization: str | None = None
    compile: bool | None = None
    tensor_parallel: int | None = None
    pipeline_parallel: int | None = None
    engine_extra: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        for switch in ("prefix_caching", "chunked_prefill", "compile"):
            if not isinstance(getattr(self, switch), bool | None):
                raise InvalidStrategy(f"{switch} is yes, no or absent")
        for count in ("max_num_seqs", "max_num_batched_tokens", "long_prefill_token_threshold"):
            _check_count(count, getattr(self, count), MAX_COUNT)
        for width in ("tensor_parallel", "pipeline_parallel"):
            _check_count(width, getattr(self, width), MAX_PARALLEL)
        for token in ("kv_cache_dtype", "weight_quantization"):
            if getattr(self, token) is not None:
                _check_token(token, getattr(self, token))
        _check_extra(self.engine_extra)

    @property
    def external(self) -> bool:
        """Whether the engine runs elsewhere under a strategy that is not ours to know or change."""
        return (EXTERNAL_MARK, "yes") in self.engine_extra

    @property
    def name(self) -> str:
        """A short name, the same on every node: what differs from the engine's defaults, joined by +."""
        if self.external:
            return "external"
        return "+".join(_name_parts(self)) or "default"

    @property
    def devices(self) -> int:
        """How many GPUs one engine under it uses."""
        return (self.tensor_parallel or 1) * (self.pipeline_parallel or 1)

    @property
    def lossless(self) -> bool:
        """Whether answers are drawn from the same distribution as without it (up to rounding of sums)."""
        rounded_cache = (self.kv_cache_dtype or "").startswith(LOSSY_KV)
        return not rounded_cache and self.weight_quantization is None


def _check_count(what: str, value: object, most: int) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise InvalidStrategy(f"{what} must be a whole number from 1 to {most:,}")


def _check_token(what: str, value: object) -> None:
    # No leading dash: a value must never read as a flag of its own on the engine's command line.
    fit = isinstance(value, str) and 0 < len(value) <= MAX_TEXT and set(value) <= TOKEN_CHARACTERS
    if not fit or str(value).startswith("-"):
        raise InvalidStrategy(f"{what} must be 1 to {MAX_TEXT} letters, digits or . _ - / :")


def _check_extra(extra: tuple[tuple[str, str], ...]) -> None:
    if len(extra) > MAX_EXTRA:
        raise InvalidStrategy(f"engine_extra has more than {MAX_EXTRA} entries")
    keys = [key for key, _ in extra]
    if keys != sorted(set(keys)):
        raise InvalidStrategy("engine_extra is sorted and names each key once")
    for key, value in extra:
        if key not in EXTRA_FLAGS and key not in (DRAFT_MODEL, EXTERNAL_MARK):
            raise InvalidStrategy(f"engine_extra may not set {key!r}; it may set {', '.join(sorted(EXTRA_FLAGS))}")
        _check_token(f"engine_extra.{key}", value)
        if (EXTRA_FLAGS.get(key) == "switch" or key == EXTERNAL_MARK) and value not in ("yes", "no"):
            raise InvalidStrategy(f"engine_extra.{key} is yes or no")


DEFAULT = Strategy()  # every choice is the engine's own
EXTERNAL = Strategy(engine_extra=((EXTERNAL_MARK, "yes"),))


# --- the name

_SWITCH_NAMES = {"prefix_caching": "prefix", "chunked_prefill": "chunked", "compile": "compile"}
_COUNT_NAMES = {
    "max_num_seqs": "seqs",
    "max_num_batched_tokens": "budget",
    "long_prefill_token_threshold": "longprefill",
    "kv_cache_dtype": "kv",
    "weight_quantization": "weights",
    "tensor_parallel": "tp",
    "pipeline_parallel": "pp",
}


def _name_parts(strategy: Strategy) -> Iterator[str]:
    for field, word in _SWITCH_NAMES.items():
        if (switch := getattr(strategy, field)) is not None:
            yield f"{word}:{'on' if switch else 'off'}"
    for field, word in _COUNT_NAMES.items():
        if (value := getattr(strategy, field)) is not None:
            yield f"{word}:{value}"
    if strategy.speculation is not None:
        yield f"{strategy.speculation.method}:{strategy.speculation.tokens}"
    for key, value in strategy.engine_extra:
        yield f"{key}={value}"


# --- validity: what a well-formed strategy may still get wrong on a given engine


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Where a strategy is to run. None where it is not known: rules that need it then stay silent.

    `heads` are the model's attention heads.
    """

    build: Build
    max_model_len: int | None = None
    gpus: int | None = None
    heads: int | None = None


def _draft_model(strategy: Strategy) -> str | None:
    return dict(strategy.engine_extra).get(DRAFT_MODEL)


def _budget_too_small(strategy: Strategy, setting: Setting) -> bool:
    budget, longest = strategy.max_num_batched_tokens, setting.max_model_len
    return strategy.chunked_prefill is False and budget is not None and longest is not None and budget < longest


def _unknown_drafting(strategy: Strategy, _: Setting) -> bool:
    speculation = strategy.speculation
    return speculation is not None and speculation.method not in SELF_DRAFTING | DRAFTED


def _draft_mismatch(strategy: Strategy, _: Setting) -> bool:
    needs_draft = strategy.speculation is not None and strategy.speculation.method in DRAFTED
    return needs_draft != (_draft_model(strategy) is not None)


def _too_few_gpus(strategy: Strategy, setting: Setting) -> bool:
    wanted = strategy.devices
    return setting.build == "cuda" and setting.gpus is not None and wanted > setting.gpus


def _uneven_heads(strategy: Strategy, setting: Setting) -> bool:
    return setting.heads is not None and setting.heads % (strategy.tensor_parallel or 1) != 0


def _threshold_too_long(strategy: Strategy, setting: Setting) -> bool:
    threshold, longest = strategy.long_prefill_token_threshold, setting.max_model_len
    return threshold is not None and longest is not None and threshold > longest


def _uncountable_extra(strategy: Strategy, _: Setting) -> bool:
    return any(key in COUNTED_EXTRA and _count(value) is None for key, value in strategy.engine_extra)


def _more_active_than_seqs(strategy: Strategy, _: Setting) -> bool:
    active = _count(dict(strategy.engine_extra).get("max-num-active-seqs", ""))
    return active is not None and strategy.max_num_seqs is not None and active > strategy.max_num_seqs


def _async_with_this_drafting(strategy: Strategy, _: Setting) -> bool:
    asked = ("async-scheduling", "yes") in strategy.engine_extra
    return asked and strategy.speculation is not None and strategy.speculation.method not in ASYNC_DRAFTING


def _count(text: str) -> int | None:
    """Return the whole number from 1 to MAX_COUNT that an engine's flag would read; None where it is none."""
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= len(str(MAX_COUNT)) else 0
    return number if 1 <= number <= MAX_COUNT else None


Rule = tuple[Callable[[Strategy, Setting], bool], str]

# Each rule: when it is broken, and why it is one. What an engine can do beyond these is probed on the machine.
RULES: tuple[Rule, ...] = (
    (
        lambda strategy, _: strategy.external and strategy != EXTERNAL,
        "an engine reached by URL is configured where it runs",
    ),
    (
        _budget_too_small,
        "without chunked prefill a prompt must fit one step: max_num_batched_tokens below max_model_len would"
        " refuse long prompts, and vLLM does not start",
    ),
    (
        lambda strategy, _: (
            strategy.max_num_batched_tokens is not None
            and strategy.max_num_seqs is not None
            and strategy.max_num_batched_tokens < strategy.max_num_seqs
        ),
        "a step decodes one token of each sequence: max_num_batched_tokens below max_num_seqs does not start",
    ),
    (
        lambda strategy, _: strategy.long_prefill_token_threshold is not None and strategy.chunked_prefill is False,
        "long_prefill_token_threshold splits prompts, which needs chunked prefill",
    ),
    (_unknown_drafting, f"speculation.method is one of {', '.join(sorted(SELF_DRAFTING | DRAFTED))}"),
    (_draft_mismatch, f"engine_extra.{DRAFT_MODEL} goes with these methods only: {', '.join(sorted(DRAFTED))}"),
    (
        lambda strategy, setting: setting.build == "cpu" and strategy.weight_quantization is not None,
        "on CPU fp8 weights do not start, and int8 weights start and change nothing: it would be a false record",
    ),
    (
        lambda strategy, setting: (
            setting.build == "cpu" and max(strategy.tensor_parallel or 1, strategy.pipeline_parallel or 1) > 1
        ),
        "parallelism divides a model over GPUs; the CPU engine runs in one process",
    ),
    (_too_few_gpus, "tensor_parallel times pipeline_parallel needs as many GPUs"),
    (_uneven_heads, "tensor_parallel gives each GPU as many attention heads: it must divide the model's"),
    (_threshold_too_long, "long_prefill_token_threshold above max_model_len does not start"),
    (_uncountable_extra, f"engine_extra needs a whole number for {' and '.join(sorted(COUNTED_EXTRA))}"),
    (_more_active_than_seqs, "engine_extra.max-num-active-seqs above max_num_seqs does not start"),
    (
        _async_with_this_drafting,
        f"async scheduling speculates with these methods only: {', '.join(sorted(ASYNC_DRAFTING))}",
    ),
    (
        lambda strategy, setting: (
            setting.build == "cpu" and strategy.speculation is not None and strategy.speculation.method == "ngram_gpu"
        ),
        "speculation by ngram_gpu looks its n-grams up on a GPU",
    ),
)


def objections(strategy: Strategy, setting: Setting) -> tuple[str, ...]:
    """Why the strategy cannot run there, in words; empty when nothing speaks against it."""
    return tuple(reason for broken, reason in RULES if broken(strategy, setting))


# --- plain values, for TOML and the wire: booleans, whole numbers and strings; an absent key is None


def to_plain(strategy: Strategy) -> dict[str, object]:
    """Return the strategy without what is left to the engine. `from_plain` undoes it exactly."""
    plain: dict[str, object] = {}
    for field in fields(strategy):
        value = getattr(strategy, field.name)
        if isinstance(value, Speculation):
            plain[field.name] = {"method": value.method, "tokens": value.tokens}
        elif isinstance(value, tuple):
            if value:
                plain[field.name] = dict(cast("tuple[tuple[str, str], ...]", value))
        elif value is not None:
            plain[field.name] = value
    return plain


def from_plain(plain: Mapping[str, object]) -> Strategy:
    """Read what `to_plain` wrote.

    Raises:
        InvalidStrategy: an unknown key or a value out of bounds; the message names it.
    """
    known = {field.name for field in fields(Strategy)}
    if unknown := sorted(set(plain) - known):
        raise InvalidStrategy(f"unknown field {unknown[0]!r}; a strategy has {', '.join(sorted(known))}")
    values: dict[str, object] = dict(plain)
    if "speculation" in values:
        speculation = _mapping("speculation", values["speculation"])
        if set(speculation) != {"method", "tokens"}:
            raise InvalidStrategy("speculation has exactly method and tokens")
        values["speculation"] = Speculation(
            method=cast("str", speculation["method"]), tokens=cast("int", speculation["tokens"])
        )
    if "engine_extra" in values:
        extra = _mapping("engine_extra", values["engine_extra"])
        values["engine_extra"] = tuple(sorted(extra.items()))
    return Strategy(**values)  # pyright: ignore[reportArgumentType]  # __post_init__ judges every value


def _mapping(what: str, value: object) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise InvalidStrategy(f"{what} must be a table")
    table = cast("Mapping[object, object]", value)
    if not all(isinstance(key, str) for key in table):
        raise InvalidStrategy(f"{what} has a key that is not text")
    return cast("Mapping[str, object]", table)
