"""A strategy in the words of vLLM's command line (0.32).

Knows each flag's spelling; knows neither where the engine listens nor which model it loads. That every flag here
is one that vLLM's own parser takes is a test, not a hope.
"""

import json
from collections.abc import Iterator

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


def engine_flags(strategy: Strategy, build: Build) -> list[str]:
    """Return the arguments that make vLLM run this strategy; none for what is left to the engine.

    The one exception is compilation on CPU: vLLM's own choice costs five times the start-up there and wins
    nothing that was measured, so it is asked for or absent.
    """
    eager = strategy.compile is False or (strategy.compile is None and build == "cpu")
    return [*_named(strategy), *(["--enforce-eager"] if eager else []), *_extra(strategy)]


def _named(strategy: Strategy) -> Iterator[str]:
    for field, flag in _SWITCHES.items():
        if (switch := getattr(strategy, field)) is not None:
            yield _switch(flag, on=switch)
    for field, flag in _VALUES.items():
        if (value := getattr(strategy, field)) is not None:
            yield from (f"--{flag}", str(value))
    if strategy.speculation is not None:
        yield from ("--speculative-config", _speculation(strategy))


def _extra(strategy: Strategy) -> Iterator[str]:
    for key, value in strategy.engine_extra:
        if EXTRA_FLAGS.get(key) == "switch":
            yield _switch(key, on=value == "yes")
        elif key in EXTRA_FLAGS:
            yield from (f"--{key}", value)


def _switch(flag: str, *, on: bool) -> str:
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
