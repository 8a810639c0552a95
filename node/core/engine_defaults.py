"""What a strategy comes to once the engine has added its own choices, and which strategies come to the same engine.

Knows vLLM's rules for what is left out (0.32: `EngineArgs._set_default_max_num_seqs_and_batched_tokens_args`,
`VllmConfig.__post_init__`, `CpuPlatform.check_and_update_config`) and takes the numbers from what the version on this
machine said. What is not known stays None: two strategies are called the same only where that is known.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace

from node.core.capabilities import UNKNOWN, Capabilities
from node.core.strategy import ASYNC_DRAFTING, DEFAULT, Build, Setting, Strategy

_CPU_IGNORES = ("async-scheduling", "attention-backend")  # the CPU platform decides these whatever is asked


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A second set of weights at hand, for a method of speculation that needs one. `model`: its id or folder."""

    method: str
    model: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """An engine's machine and model, as far as strategies turn on them. None where it is not known.

    Attributes:
        max_model_len: tokens of prompt and output together.
        gpus: that this engine may use. `memory_bytes`: of one of them; on CPU the RAM that the engine may use.
        heads, layers: of the model. `weight_bytes`: of its weights as they lie there.
        quantized: whether its weights are quantised already. `mtp`: whether it brings heads to draft with.
        drafts: other weights at hand to draft with.
        capabilities: of the engine's version.
    """

    build: Build
    max_model_len: int
    gpus: int = 0
    memory_bytes: int | None = None
    heads: int | None = None
    layers: int | None = None
    weight_bytes: int | None = None
    quantized: bool = False
    mtp: bool = False
    drafts: tuple[Draft, ...] = ()
    capabilities: Capabilities = field(default=UNKNOWN)

    @property
    def setting(self) -> Setting:
        """The place as the rules of strategies know it."""
        gpus = self.gpus if self.build == "cuda" else None
        return Setting(build=self.build, max_model_len=self.max_model_len, gpus=gpus, heads=self.heads)


def resolved(strategy: Strategy, place: Place) -> Strategy:
    """Return the strategy with what the engine does unasked filled in, and without what changes nothing there.

    Two strategies that come to equal values are the same engine. Raises nothing: what could not run stays as it is.
    """
    if strategy.external:
        return strategy
    known = place.capabilities.defaults
    chunked = known.chunked_prefill if strategy.chunked_prefill is None else strategy.chunked_prefill
    seqs, budget = _batch(strategy, place, chunked=chunked)
    filled = replace(
        strategy,
        prefix_caching=known.prefix_caching if strategy.prefix_caching is None else strategy.prefix_caching,
        chunked_prefill=chunked,
        max_num_seqs=seqs,
        max_num_batched_tokens=budget,
        long_prefill_token_threshold=_threshold(strategy, place, budget),
        kv_cache_dtype=None if strategy.kv_cache_dtype == "auto" else strategy.kv_cache_dtype,
        compile=place.build == "cuda" if strategy.compile is None else strategy.compile,
        tensor_parallel=strategy.tensor_parallel or 1,
        pipeline_parallel=strategy.pipeline_parallel or 1,
    )
    return replace(filled, engine_extra=tuple(sorted(_extra(filled, place).items())))


def canonical(strategy: Strategy, place: Place) -> Strategy:
    """Return the strategy without what the engine does anyway; the shortest way to say the same.

    `canonical(canonical(s)) == canonical(s)`, and it comes to the same engine as `s`.
    """
    target = resolved(strategy, place)
    shortest = strategy
    while (shorter := next(_shorter(shortest, place, target), None)) is not None:
        shortest = shorter  # one choice less each time: it ends
    return shortest


def _shorter(strategy: Strategy, place: Place, target: Strategy) -> Iterator[Strategy]:
    for each in _without_one(strategy):
        if resolved(each, place) == target:
            yield each


def _without_one(strategy: Strategy) -> Iterator[Strategy]:
    for each in fields(Strategy):
        if each.name != "engine_extra" and getattr(strategy, each.name) != getattr(DEFAULT, each.name):
            yield replace(strategy, **{each.name: None})
    for key, _ in strategy.engine_extra:
        yield replace(strategy, engine_extra=tuple(pair for pair in strategy.engine_extra if pair[0] != key))


def _batch(strategy: Strategy, place: Place, *, chunked: bool | None) -> tuple[int | None, int | None]:
    """Return max_num_seqs and max_num_batched_tokens as vLLM completes one from the other."""
    known = place.capabilities.defaults
    seqs = strategy.max_num_seqs or known.max_num_seqs
    budget = strategy.max_num_batched_tokens
    if budget is None and known.max_num_batched_tokens is not None and seqs is not None and chunked is not None:
        budget = known.max_num_batched_tokens
        if not chunked:
            budget = max(budget, place.max_model_len)
        budget = min(budget, seqs * place.max_model_len)
    if strategy.max_num_seqs is None and seqs is not None:
        seqs = None if budget is None else min(seqs, budget)
    return seqs, budget


def _threshold(strategy: Strategy, place: Place, budget: int | None) -> int | None:
    """Return the cap on one prompt's part of a step; None where there is none, or none that anything would meet."""
    wanted = strategy.long_prefill_token_threshold or place.capabilities.defaults.long_prefill_token_threshold or None
    return None if wanted is not None and budget is not None and wanted >= budget else wanted


def _extra(filled: Strategy, place: Place) -> dict[str, str]:
    known = place.capabilities.defaults
    extra = dict(filled.engine_extra)
    if place.build == "cpu":
        for key in _CPU_IGNORES:
            extra.pop(key, None)
        if known.block_size is not None:  # on CUDA the attention backend has the last word on it
            extra.setdefault("block-size", str(known.block_size))
    elif (unasked := _async_scheduling(filled, place)) is not None:
        extra.setdefault("async-scheduling", "yes" if unasked else "no")
    if known.scheduling_policy is not None:
        extra.setdefault("scheduling-policy", known.scheduling_policy)
    # The cap floats up with the share of a step that each prompt has; without a cap there is nothing to float.
    if extra.get("long-prefill-token-threshold-adaptive") == "no" or filled.long_prefill_token_threshold is None:
        extra.pop("long-prefill-token-threshold-adaptive", None)
    if filled.max_num_seqs is not None and extra.get("max-num-active-seqs") == str(filled.max_num_seqs):
        del extra["max-num-active-seqs"]
    return extra


def _async_scheduling(filled: Strategy, place: Place) -> bool | None:
    """Whether vLLM schedules ahead unasked; None where that is not known."""
    if filled.speculation is not None and filled.speculation.method not in ASYNC_DRAFTING:
        return False
    if (filled.pipeline_parallel or 1) > 1:
        return None  # one of its two model runners does, the other does not
    return place.capabilities.defaults.async_scheduling
