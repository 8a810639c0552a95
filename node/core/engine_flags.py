"""A strategy in the words of vLLM's command line (0.32), or of the version that is on this machine.

Knows each flag's spelling; knows neither where the engine listens nor which model it loads. That every flag here
is one that vLLM's own parser takes is a test, not a hope; that the version at hand has it is asked of that version
(`node.core.capabilities`), and where it was not asked, flags are spelled as ever and the engine judges them.
"""

import json
from collections.abc import Iterator

from node.core.capabilities import HELPER_OF, UNKNOWN, Capabilities
from node.core.strategy import DRAFT_MODEL, EXTRA_FLAGS, Build, Strategy

_SWITCHES = {"prefix_caching": "enable-prefix-caching", "chunked_prefill": "enable-chunked-prefill"}
_VALUES = {
    "max_num_seqs": "max-num-seqs",
    "max_num_batched_tokens": "max-num-batched-tokens",
    "long_prefill_token_threshold": "long-prefill-token-threshold",
    "kv_cache_dtype": "kv-cache-dtype",
    "weight_quantization": "quantization",
    "tensor_parallel": "tensor-parallel-size",
    "pipeline_parallel": "pipeline-parallel-size",
}


def engine_flags(strategy: Strategy, build: Build, capabilities: Capabilities = UNKNOWN) -> list[str]:
    """Return the arguments that make vLLM run this strategy; none for what is left to the engine.

    The one exception is compilation on CPU: vLLM's own choice costs five times the start-up there and wins
    nothing that was measured, so it is asked for or absent. What the version lacks (`lacking`) is spelled as if it
    had it.
    """
    eager = strategy.compile is False or (strategy.compile is None and build == "cpu")
    return [
        *_named(strategy, capabilities),
        *(["--enforce-eager"] if eager else []),
        *_extra(strategy, capabilities),
    ]


def lacking(strategy: Strategy, build: Build, capabilities: Capabilities) -> tuple[str, ...]:
    """Say in words what of the strategy this engine's version cannot be asked for; empty where it takes it all."""
    engine = capabilities.engine
    return (
        *(
            f"{engine} has no flag {flag}"
            for flag in _options(strategy, build, capabilities)
            if not capabilities.has(flag)
        ),
        *(
            f"{engine} does not take {value} for --{flag}"
            for flag, value in _valued(strategy)
            if not capabilities.allows(flag, value)
        ),
        *_undraftable(strategy, capabilities),
    )


def _options(strategy: Strategy, build: Build, capabilities: Capabilities) -> Iterator[str]:
    """Yield the flags alone, without values."""
    for part in engine_flags(strategy, build, capabilities):
        if part.startswith("--"):
            yield part.partition("=")[0]


def _undraftable(strategy: Strategy, capabilities: Capabilities) -> Iterator[str]:
    method = strategy.speculation.method if strategy.speculation is not None else None
    if method is None or capabilities.drafts(method):
        return
    helper = HELPER_OF.get(method)
    if helper is not None and method in capabilities.methods:
        yield f"speculation by {method} needs the package {helper} beside {capabilities.engine}"
    else:
        yield f"{capabilities.engine} does not speculate by {method}"


def _named(strategy: Strategy, capabilities: Capabilities) -> Iterator[str]:
    for field, flag in _SWITCHES.items():
        if (switch := getattr(strategy, field)) is not None:
            yield _switch(flag, capabilities, on=switch)
    for field, flag in _VALUES.items():
        if (value := getattr(strategy, field)) is not None:
            yield from (f"--{flag}", str(value))
    if strategy.speculation is not None:
        yield from ("--speculative-config", _speculation(strategy))


def _extra(strategy: Strategy, capabilities: Capabilities) -> Iterator[str]:
    for key, value in strategy.engine_extra:
        if EXTRA_FLAGS.get(key) == "switch":
            yield _switch(key, capabilities, on=value == "yes")
        elif key in EXTRA_FLAGS:
            yield from (f"--{key}", value)


def _valued(strategy: Strategy) -> Iterator[tuple[str, str]]:
    """Yield flags that may have a list of values, and the value."""
    for field in ("kv_cache_dtype", "weight_quantization"):
        if (value := getattr(strategy, field)) is not None:
            yield _VALUES[field], value
    for key, value in strategy.engine_extra:
        if EXTRA_FLAGS.get(key) == "value":
            yield key, value


def _switch(flag: str, capabilities: Capabilities, *, on: bool) -> str:
    # Older versions had switches without a negation that took a word instead (StoreBoolean, until early 2025).
    if capabilities.takes_word(f"--{flag}"):
        return f"--{flag}={'true' if on else 'false'}"
    return f"--{flag}" if on else f"--no-{flag}"


def _speculation(strategy: Strategy) -> str:
    if strategy.speculation is None:
        raise ValueError("no speculation to describe")
    config: dict[str, str | int] = {
        "method": strategy.speculation.method,
        "num_speculative_tokens": strategy.speculation.tokens,
    }
    if draft := dict(strategy.engine_extra).get(DRAFT_MODEL):
        config["model"] = draft
    return json.dumps(config, sort_keys=True)
