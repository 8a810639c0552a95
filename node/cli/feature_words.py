"""The learner's features in words, and their values with units. Knows no figure of any row, and no screen.

A feature that has no words here is shown under its own name: strategies may set what this version has not heard of.
"""

import math
from collections.abc import Mapping
from typing import Final

FEATURE: Final = "feature."
STRATEGY: Final = "strategy."
HERE: Final = ", here"

# Name of a feature to what it is, and how its value is stored.
_WORDS: Final[Mapping[str, tuple[str, str]]] = {
    "prompt, log": ("tokens of a prompt", "log"),
    "output, log": ("tokens of an answer", "log"),
    "output / prompt": ("answer tokens for each prompt token", "log"),
    "uncached / prompt": ("share of the prompt that no cache has", "share"),
    "open load": ("arrivals do not wait for answers", "truth"),
    "clients, log": ("requests in flight", "log"),
    "waves": ("requests of a run for each in flight", "log"),
    "seats / clients": ("places in the batch for each request in flight", "log"),
    "budget / prompt": ("a step's token budget, in uncached prompts", "log"),
    "budget / batch": ("a step's token budget for each sequence in it", "log"),
    "batch, log": ("requests in the engine at once", "log"),
    "kv filled": ("share of the KV cache that the batch fills", "log share"),
    "prefilling": ("share of the time in which prompts are worked on", "share"),
    "wait / latency": ("share of the latency that is waiting", "share"),
    "ttft / latency": ("share of the latency before the first token", "share"),
    "tokens a step": ("tokens that a step yields each sequence (speculation)", "number"),
    "prompts a decode": ("uncached prompt tokens for each step of decoding", "log"),
    "prefill / decode": ("time of a prefill, in times of decoding", "log"),
    "rate of prefill": ("prefills alone would take this share of the time", "log share"),
    "past the ridge": ("operations over reads in a decode step (above 1: bound by arithmetic)", "log"),
    "past the ridge alone": ("operations over reads of one token", "log"),
    "reads in a step": ("share of a decode step that reads weights", "share"),
    "operations in a step": ("share of a decode step that is arithmetic", "share"),
    "links in a step": ("share of a decode step between devices", "share"),
    "cache in a step": ("share of a decode step that reads the KV cache", "share"),
    "kernels in a step": ("share of a decode step that starts kernels", "share"),
    "host in a step": ("share of a decode step on the host", "share"),
    "mixed / decode": ("a step with prefill, in steps without", "log"),
    "attention / reads": ("bandwidth of attention, in that of weights", "log"),
    "experts touched": ("share of the experts that a token goes to", "share"),
    "devices together": ("devices that work for one request together", "log2"),
    "copies": ("copies of the model", "log2"),
    "weights / memory": ("share of the memory that weights take", "share"),
    "prompt past the ridge": ("a prompt's operations over its reads", "log"),
    "latency above the best": ("latency by physics, over the best strategy's", "change"),
    "static batches": ("batches are worked off whole", "truth"),
    "bytes a weight": ("bytes of a weight", "number"),
}
_PHYSICS: Final[Mapping[str, str]] = {
    "latency": "latency", "ttft": "time to the first token", "tpot": "time for each output token",
    "stall": "worst stall", "tokens_per_s": "output tokens a second", "batch": "requests in the engine at once",
    "wait": "wait before the prefill", "decode_step": "time of a decode step",
    "mixed_step": "time of a step with prefill", "device_seconds": "device-seconds of a request",
}  # fmt: skip


def told(feature: str) -> str:
    """Return what a feature is."""
    return _known(feature)[0]


def shown(feature: str, value: float) -> str:
    """Return a feature's value as people read it; a dash where it is unknown."""
    if math.isnan(value):
        return "-"
    form = _known(feature)[1]
    if form == "share":
        return f"{value:.0%}"
    if form == "truth":
        return "yes" if value else "no"
    if form == "number":
        return f"{value:,.4g}" if abs(value) < 10_000 else f"{value:,.0f}"
    if form == "change":
        return f"{math.expm1(value):+.1%}"
    whole = 2**value if form == "log2" else math.exp(value)
    return f"{whole:.0%}" if form == "log share" else f"{whole:,.3g}" if whole < 1000 else f"{whole:,.0f}"


def _known(feature: str) -> tuple[str, str]:
    name = feature.removeprefix(FEATURE)
    if name in _WORDS:
        return _WORDS[name]
    if name.endswith(HERE) and (what := _PHYSICS.get(name.removesuffix(HERE))) is not None:
        return f"{what} by physics, against the strategies here", "change"
    if name.startswith(STRATEGY) and "=" in name:
        setting, _, word = name.removeprefix(STRATEGY).partition("=")
        return f"{setting} is {word}", "truth"
    return name.removeprefix(STRATEGY), "number"
