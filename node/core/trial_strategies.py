"""The strategies that are worth a trial on an engine, the likeliest first.

Knows which of the engine's choices tell strategies apart; what of it an engine can really do is probed by trying:
a strategy that does not build leaves a record of that, and costs seconds.
"""

from collections.abc import Iterator

from node.core.strategy import DEFAULT, Setting, Speculation, Strategy, objections

BATCH = 16  # sequences decoded together where the question is batching or not: more than any trial's load has
CHUNKS = 4  # a prompt of full length is split into so many; at least MIN_CHUNK
MIN_CHUNK = 128
DRAFT_TOKENS = 4  # per step: acceptance falls with each further one
WIDE_DRAFT = 8
CUDA_BATCHES = (32, 256)


def candidates(setting: Setting, *, max_model_len: int, wide: bool = False) -> tuple[Strategy, ...]:
    """Return strategies to try, vLLM's own choice first: every comparison names it.

    The eight combinations of batching, prefix caching and chunked prefill, and speculation on top of all three.
    `wide` adds number formats of the cache, longer drafts, other batches and budgets and the ways to divide a model
    over GPUs. What is known to be impossible there is left out.
    """
    chunk = max(max_model_len // CHUNKS, MIN_CHUNK)
    found = [*_classic(max_model_len, chunk), *(_wide(setting, chunk) if wide else ())]
    place = Setting(build=setting.build, max_model_len=max_model_len, gpus=setting.gpus)
    return tuple(dict.fromkeys(strategy for strategy in found if not objections(strategy, place)))


def _classic(longest: int, chunk: int) -> Iterator[Strategy]:
    yield DEFAULT
    yield _speculating(chunk, DRAFT_TOKENS)
    for prefix, chunked, batched in _COMBINATIONS:
        yield Strategy(
            prefix_caching=prefix,
            chunked_prefill=chunked,
            max_num_batched_tokens=chunk if chunked else longest,
            max_num_seqs=BATCH if batched else 1,
        )


# All three first and none last: a budget that ends early still has the strategies that people run.
_COMBINATIONS = (
    (True, True, True),
    (False, False, True),
    (True, False, True),
    (False, True, True),
    (False, False, False),
    (True, False, False),
    (True, True, False),
    (False, True, False),
)


def _speculating(chunk: int, tokens: int) -> Strategy:
    return Strategy(
        prefix_caching=True,
        chunked_prefill=True,
        max_num_batched_tokens=chunk,
        max_num_seqs=BATCH,
        speculation=Speculation(method="ngram", tokens=tokens),
    )


def _wide(setting: Setting, chunk: int) -> Iterator[Strategy]:
    yield _speculating(chunk, WIDE_DRAFT)
    yield Strategy(kv_cache_dtype="fp8")
    yield Strategy(max_num_batched_tokens=max(chunk // 2, MIN_CHUNK), max_num_seqs=BATCH)
    yield Strategy(speculation=Speculation(method="ngram", tokens=DRAFT_TOKENS))
    if setting.build == "cuda":
        yield from (Strategy(max_num_seqs=batch) for batch in CUDA_BATCHES)
        yield Strategy(compile=False)
        yield Strategy(weight_quantization="fp8")
        yield Strategy(engine_extra=(("async-scheduling", "no"),))
        width = 2
        while width <= (setting.gpus or 1):
            yield Strategy(tensor_parallel=width)
            yield Strategy(pipeline_parallel=width)
            width *= 2
    else:
        yield Strategy(engine_extra=(("block-size", "32"),))
