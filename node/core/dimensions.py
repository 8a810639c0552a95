"""The action space as data: what can be chosen about an engine, one row for each choice, and what speaks for trying it.

Knows vLLM's choices and on which machines each is worth a look; knows no measurement. A choice is itself a strategy
that leaves all the rest to the engine, so that choices combine by laying one over the other (`overlay`).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Final

from node.core.engine_defaults import Place
from node.core.strategy import DEFAULT, DRAFT_MODEL, SELF_DRAFTING, Speculation, Strategy

BATCH = 16  # sequences decoded together where the question is batching or not: more than any trial's load has
CHUNKS = 4  # a prompt of full length is split into so many; at least MIN_CHUNK
MIN_CHUNK = 128
# Powers of two: machines of like size try the very same strategies, and their records speak of the same cells.
CPU_CAPS = tuple(2**power for power in range(7))  # 1 to 64; beyond it a step on some cores lasts seconds
CUDA_CAPS = tuple(2**power for power in range(3, 11))  # 8 to 1024, vLLM's own default on the largest GPUs
CUDA_CENTRE = 64  # a cap that a volunteer's traffic may meet; from here outwards
CPU_BUDGETS = tuple(2**power for power in range(7, 13))  # 128 to 4096
CUDA_BUDGETS = tuple(2**power for power in range(9, 15))  # 512 to 16384, vLLM's own largest default
CUDA_BUDGET = 2048  # vLLM's default for most GPUs
CPU_BLOCKS = ("32", "64")  # 128 is the default there; the kernels want multiples of 32
ACTIVE = ("16", "64")
NGRAM_TOKENS = (4, 8, 2)  # per step, best first: acceptance falls with each further one
SUFFIX_TOKENS = (8, 16)  # the tree stops by itself where it is unsure (arXiv 2411.04975), so longer ones cost less
DRAFTED_TOKENS = (4, 2)  # each costs a pass of the draft model
EAGLE_TOKENS = (3, 5)  # 3 to 5 in the EAGLE papers (arXiv 2401.15077, 2503.01840)
MTP_TOKENS = (1, 2)  # models bring one or few heads; beyond them one is applied again
FLOAT8_KV = ("fp8", "fp8_e5m2", "int8_per_token_head")


@dataclass(frozen=True, slots=True, kw_only=True)
class Dimension:
    """One thing that can be chosen.

    Attributes:
        name: for people. meaning: one sentence for people.
        controls: the fields of Strategy, or keys of `engine_extra`, that a choice of this dimension sets.
        choices: those worth a look at that place, the likeliest first; may hold some that the place cannot run.
        lossless: whether answers stay what they would be (up to the rounding of sums).
        live: whether some of its choices need no restart; which, `node.core.levers` alone says.
        flags: of vLLM's command line that a choice may need.
        source: where it comes from.
    """

    name: str
    meaning: str
    controls: tuple[str, ...]
    choices: Callable[[Place], tuple[Strategy, ...]]
    flags: tuple[str, ...]
    source: str
    lossless: bool = True
    live: bool = False


def chunk(max_model_len: int) -> int:
    """Return the token budget that splits a prompt of full length into CHUNKS parts."""
    return max(max_model_len // CHUNKS, MIN_CHUNK)


def overlay(*layers: Strategy) -> Strategy:
    """Return one strategy with the choices of all; where two choose, the later."""
    chosen: dict[str, object] = {}
    extra: dict[str, str] = {}
    for layer in layers:
        extra.update(layer.engine_extra)
        for each in fields(Strategy):
            if (value := getattr(layer, each.name)) is not None:
                chosen[each.name] = value
    if (speculation := chosen.get("speculation")) is not None and DRAFT_MODEL in extra:
        assert isinstance(speculation, Speculation)  # noqa: S101 -- narrows the type of a field
        if speculation.method in SELF_DRAFTING:  # an earlier layer's draft model goes with its method
            del extra[DRAFT_MODEL]
    chosen["engine_extra"] = tuple(sorted(extra.items()))
    return replace(DEFAULT, **chosen)


def _from_centre(ladder: Sequence[int], centre: int) -> Iterator[int]:
    """Yield a scale's values, those nearest the centre first; of two equally far the smaller."""
    yield from sorted(ladder, key=lambda value: (abs(math.log2(value / centre)), value))


def _caps(place: Place) -> tuple[Strategy, ...]:
    cuda = place.build == "cuda"
    values = _from_centre(CUDA_CAPS if cuda else CPU_CAPS, CUDA_CENTRE if cuda else BATCH)
    return tuple(Strategy(max_num_seqs=value) for value in values)


def _budgets(place: Place) -> tuple[Strategy, ...]:
    own = chunk(place.max_model_len)
    cuda = place.build == "cuda"
    centre = (place.capabilities.defaults.max_num_batched_tokens or CUDA_BUDGET) if cuda else own
    ladder = {*(CUDA_BUDGETS if cuda else CPU_BUDGETS), *(() if cuda else (own,))}
    return tuple(Strategy(max_num_batched_tokens=value) for value in _from_centre(sorted(ladder), centre))


def _thresholds(place: Place) -> tuple[Strategy, ...]:
    own = chunk(place.max_model_len)
    return tuple(
        Strategy(long_prefill_token_threshold=value)
        for value in dict.fromkeys((own, max(own // 2, MIN_CHUNK), max(own // 4, MIN_CHUNK)))
    )


def _speculations(place: Place) -> tuple[Strategy, ...]:
    ways: list[tuple[str, str | None, tuple[int, ...]]] = [
        ("ngram", None, NGRAM_TOKENS),
        ("suffix", None, SUFFIX_TOKENS),
    ]
    if place.build == "cuda":
        ways.append(("ngram_gpu", None, NGRAM_TOKENS))
    if place.mtp:
        ways.append(("mtp", None, MTP_TOKENS))
    ways.extend(
        (draft.method, draft.model, EAGLE_TOKENS if "eagle" in draft.method else DRAFTED_TOKENS)
        for draft in place.drafts
    )
    # The first of each way before the second of any.
    depth = max(len(tokens) for _, _, tokens in ways)
    return tuple(
        Strategy(
            speculation=Speculation(method=method, tokens=tokens[index]),
            engine_extra=((DRAFT_MODEL, model),) if model is not None else (),
        )
        for index in range(depth)
        for method, model, tokens in ways
        if index < len(tokens) and place.capabilities.drafts(method)
    )


def _widths(place: Place) -> Iterator[int]:
    width = 2
    while place.build == "cuda" and width <= place.gpus:
        yield width
        width *= 2


def _tensor(place: Place) -> tuple[Strategy, ...]:
    return tuple(Strategy(tensor_parallel=width) for width in _widths(place))


def _pipeline(place: Place) -> tuple[Strategy, ...]:
    longest = place.layers or place.gpus
    return tuple(Strategy(pipeline_parallel=width) for width in _widths(place) if width <= longest)


def _weights(place: Place) -> tuple[Strategy, ...]:
    # On CPU neither starts or changes anything; weights that are quantised already cannot be quantised again.
    return () if place.build == "cpu" or place.quantized else (Strategy(weight_quantization="fp8"),)


def _async(place: Place) -> tuple[Strategy, ...]:
    if place.build == "cpu":
        return ()
    unasked = place.capabilities.defaults.async_scheduling
    return (Strategy(engine_extra=(("async-scheduling", "yes" if unasked is False else "no"),)),)


def _extra_on(build: str, key: str, values: tuple[str, ...]) -> Callable[[Place], tuple[Strategy, ...]]:
    def choices(place: Place) -> tuple[Strategy, ...]:
        return tuple(Strategy(engine_extra=((key, value),)) for value in values) if place.build == build else ()

    return choices


def _same(*strategies: Strategy) -> Callable[[Place], tuple[Strategy, ...]]:
    return lambda _: strategies


DIMENSIONS: Final[tuple[Dimension, ...]] = (
    Dimension(
        name="speculation",
        meaning="Guesses several tokens cheaply and lets the model check them at once; pays where text repeats itself.",
        controls=("speculation", DRAFT_MODEL),
        choices=_speculations,
        flags=("speculative-config",),
        source="Leviathan et al., arXiv 2211.17192; here n-grams wrote 160 to 178 instead of 50 tokens/s on copies",
    ),
    Dimension(
        name="token budget",
        meaning="How many tokens one step works on: small ones keep answers flowing while long prompts are read.",
        controls=("max_num_batched_tokens",),
        choices=_budgets,
        flags=("max-num-batched-tokens",),
        source="Sarathi-Serve, arXiv 2403.02310; here the worst stall fell from 1,721 to 121 ms",
    ),
    Dimension(
        name="batch cap",
        meaning="How many answers are written together: many for throughput, few for each one's speed.",
        controls=("max_num_seqs",),
        choices=_caps,
        flags=("max-num-seqs",),
        source="Orca, OSDI 2022; 1 is no continuous batching",
        live=True,
    ),
    Dimension(
        name="prefix caching",
        meaning="Keeps what was computed of earlier prompts, for prompts that begin alike.",
        controls=("prefix_caching",),
        choices=_same(Strategy(prefix_caching=False), Strategy(prefix_caching=True)),
        flags=("enable-prefix-caching", "no-enable-prefix-caching"),
        source="PagedAttention, arXiv 2309.06180; RadixAttention, arXiv 2312.07104",
        live=True,
    ),
    Dimension(
        name="chunked prefill",
        meaning="Splits long prompts, so that answers go on being written while they are read.",
        controls=("chunked_prefill",),
        choices=_same(Strategy(chunked_prefill=False), Strategy(chunked_prefill=True)),
        flags=("enable-chunked-prefill", "no-enable-chunked-prefill"),
        source="Sarathi-Serve, arXiv 2403.02310",
    ),
    Dimension(
        name="long-prefill threshold",
        meaning="Caps one prompt's part of a step, so that short prompts need not wait for a long one.",
        controls=("long_prefill_token_threshold", "long-prefill-token-threshold-adaptive"),
        choices=_thresholds,
        flags=("long-prefill-token-threshold", "long-prefill-token-threshold-adaptive"),
        source="vLLM, SchedulerConfig.long_prefill_token_threshold",
    ),
    Dimension(
        name="compilation",
        meaning="Compiles the model: quicker steps for a longer start.",
        controls=("compile",),
        choices=lambda place: (Strategy(compile=place.build == "cpu"),),
        flags=("enforce-eager",),
        source="vLLM, torch.compile and CUDA graphs; on CPU a start takes five times as long",
    ),
    Dimension(
        name="async scheduling",
        meaning="Plans the next step while the present one runs.",
        controls=("async-scheduling",),
        choices=_async,
        flags=("async-scheduling", "no-async-scheduling"),
        source="vLLM, SchedulerConfig.async_scheduling; CUDA only",
    ),
    Dimension(
        name="cache block size",
        meaning="How many tokens a block of the cache holds: small ones share more of a prefix.",
        controls=("block-size",),
        choices=_extra_on("cpu", "block-size", CPU_BLOCKS),
        flags=("block-size",),
        source="vLLM, CacheConfig.block_size; here scoring took 0.15 s with 32 instead of 0.95 s with 128",
    ),
    Dimension(
        name="active cap",
        meaning="Lets fewer answers run at once than the engine has room for, whose compiled sizes stay.",
        controls=("max-num-active-seqs",),
        choices=_extra_on("cuda", "max-num-active-seqs", ACTIVE),
        flags=("max-num-active-seqs",),
        source="vLLM, SchedulerConfig.max_num_active_seqs",
    ),
    Dimension(
        name="tensor parallelism",
        meaning="Divides every layer over several GPUs: each token sooner, at the price of talk between them.",
        controls=("tensor_parallel",),
        choices=_tensor,
        flags=("tensor-parallel-size",),
        source="Megatron-LM, arXiv 1909.08053",
    ),
    Dimension(
        name="pipeline parallelism",
        meaning="Gives each GPU some of the layers: more in a batch, no token sooner.",
        controls=("pipeline_parallel",),
        choices=_pipeline,
        flags=("pipeline-parallel-size",),
        source="GPipe, arXiv 1811.06965",
    ),
    Dimension(
        name="cache number format",
        meaning="Rounds the cache to one byte a number: room for twice as much, and answers may differ.",
        controls=("kv_cache_dtype",),
        choices=_same(*(Strategy(kv_cache_dtype=dtype) for dtype in FLOAT8_KV)),
        flags=("kv-cache-dtype",),
        source="vLLM, CacheConfig.cache_dtype",
        lossless=False,
    ),
    Dimension(
        name="weight quantisation",
        meaning="Rounds the weights while loading: less to read for each token, and answers differ.",
        controls=("weight_quantization",),
        choices=_weights,
        flags=("quantization",),
        source="vLLM, quantization=fp8; on CPU it does not start or changes nothing",
        lossless=False,
    ),
    Dimension(
        name="scheduling policy",
        meaning="Lets prompts that matter more go first; changes nothing where none is marked.",
        controls=("scheduling-policy",),
        choices=_same(),  # an owner's wish: no measurement of the whole tells who should have gone first
        flags=("scheduling-policy",),
        source="vLLM, SchedulerConfig.policy",
        live=True,
    ),
)
BY_NAME: Final = {dimension.name: dimension for dimension in DIMENSIONS}
