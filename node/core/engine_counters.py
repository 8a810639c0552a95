"""What an engine's own counters grew by between two readings: vLLM's metrics page in, differences out.

Knows vLLM's names and Prometheus' text format; knows no engine and no HTTP. A counter that is not told, or that went
backwards (another engine, a wrap), is absent.
"""

import math
from collections.abc import Mapping
from typing import Final

PREEMPTIONS: Final = "vllm:num_preemptions_total"
PREFIX_QUERIES: Final = "vllm:prefix_cache_queries_total"  # tokens of prompts looked up
PREFIX_HITS: Final = "vllm:prefix_cache_hits_total"  # of them, found
DRAFTED: Final = "vllm:spec_decode_num_draft_tokens_total"
ACCEPTED: Final = "vllm:spec_decode_num_accepted_tokens_total"
PROMPT_TOKENS: Final = "vllm:request_prompt_tokens_sum"  # of requests that ended, as the next three
PROMPTS: Final = "vllm:request_prompt_tokens_count"
OUTPUT_TOKENS: Final = "vllm:request_generation_tokens_sum"
OUTPUTS: Final = "vllm:request_generation_tokens_count"

_NAMES: Final = {
    name.encode(): name
    for name in (
        PREEMPTIONS,
        PREFIX_QUERIES,
        PREFIX_HITS,
        DRAFTED,
        ACCEPTED,
        PROMPT_TOKENS,
        PROMPTS,
        OUTPUT_TOKENS,
        OUTPUTS,
    )
}

Counters = Mapping[str, float]


def read_counters(page: bytes) -> Counters:
    """Return the counters that matter, each summed over its labels (one engine may have several cores)."""
    found: dict[str, float] = {}
    for line in page.split(b"\n"):
        if not line.startswith(b"vllm:"):
            continue
        name = _NAMES.get(line.partition(b"{")[0].partition(b" ")[0])
        if name is None:
            continue
        value = _number(line.rpartition(b" ")[2])
        if value is not None:
            found[name] = found.get(name, 0.0) + value
    return found


def growth(before: Counters, after: Counters) -> Counters:
    """Return by how much each grew that both readings tell and that did not go backwards."""
    return {name: value - before[name] for name, value in after.items() if name in before and value >= before[name]}


def share_ppm(part: str, whole: str, grown: Counters) -> int | None:
    """Return one counter's growth as a share of another's, in parts per million; None where there is none to tell."""
    if part not in grown or not grown.get(whole):
        return None
    return min(round(grown[part] * 1_000_000 / grown[whole]), 1_000_000)


def mean(total: str, count: str, grown: Counters) -> float | None:
    """Return the growth of a sum for each thing counted; None where nothing was."""
    if total not in grown or not grown.get(count):
        return None
    return grown[total] / grown[count]


def _number(text: bytes) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None
