"""The strategies that are worth a trial on an engine, the likeliest first: a view of the action space.

Knows which of the engine's choices tell strategies apart; what of it an engine can really do is probed by trying:
a strategy that does not build leaves a record of that, and costs seconds.
"""

from collections.abc import Iterator

from node.core.action_space import DRAFT_TOKENS, classic, speculating
from node.core.dimensions import BATCH, BY_NAME, MIN_CHUNK, chunk
from node.core.engine_defaults import Place
from node.core.strategy import Setting, Speculation, Strategy, objections

WIDE_DRAFT = 8
CUDA_BATCHES = (32, 256)


def candidates(setting: Setting, *, max_model_len: int, wide: bool = False) -> tuple[Strategy, ...]:
    """Return strategies to try, vLLM's own choice first: every comparison names it.

    The eight combinations of batching, prefix caching and chunked prefill, and speculation on top of all three.
    `wide` adds number formats of the cache, longer drafts, other batches and budgets and the ways to divide a model
    over GPUs. What is known to be impossible there is left out. Books of trials are kept by these: their order stays.
    """
    place = Place(build=setting.build, max_model_len=max_model_len, gpus=setting.gpus or 0, heads=setting.heads)
    found = [*classic(max_model_len), *(_wide(place) if wide else ())]
    judged = Setting(build=setting.build, max_model_len=max_model_len, gpus=setting.gpus, heads=setting.heads)
    return tuple(dict.fromkeys(strategy for strategy in found if not objections(strategy, judged)))


def _wide(place: Place) -> Iterator[Strategy]:
    budget = chunk(place.max_model_len)
    yield speculating(budget, WIDE_DRAFT)
    yield BY_NAME["cache number format"].choices(place)[0]
    yield Strategy(max_num_batched_tokens=max(budget // 2, MIN_CHUNK), max_num_seqs=BATCH)
    yield Strategy(speculation=Speculation(method="ngram", tokens=DRAFT_TOKENS))
    if place.build == "cpu":
        yield BY_NAME["cache block size"].choices(place)[0]
        return
    yield from (Strategy(max_num_seqs=batch) for batch in CUDA_BATCHES)
    for name in ("compilation", "weight quantisation", "async scheduling"):
        yield BY_NAME[name].choices(place)[0]
    for tensor, pipeline in zip(
        BY_NAME["tensor parallelism"].choices(place), BY_NAME["pipeline parallelism"].choices(place), strict=True
    ):
        yield tensor
        yield pipeline
