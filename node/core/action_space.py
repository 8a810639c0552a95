"""The strategies that come into question at a place: which are valid, and which are worth comparing.

Knows the table of choices (`node.core.dimensions`), the rules of strategies and what this engine's version takes;
knows no measurement, so it orders by what usually pays and leaves judging to the learner. That the engine takes the
flags does not mean that it starts: what a machine cannot do is learnt by trials and failed starts.
"""

from collections.abc import Iterable, Iterator
from itertools import zip_longest

from node.core.dimensions import BATCH, BY_NAME, DIMENSIONS, chunk, overlay
from node.core.engine_defaults import Place, resolved
from node.core.engine_flags import lacking
from node.core.strategy import DEFAULT, Speculation, Strategy, objections

MOST = 64  # candidates of one question: the learner's process takes 256, and few of them are ever likely
DRAFT_TOKENS = 4
SMALLEST_WEIGHT = 0.25  # of a weight's bytes, once quantised: four bits of sixteen; below it no format goes


def problems(strategy: Strategy, place: Place) -> tuple[str, ...]:
    """Say in words why the strategy cannot run there; empty when nothing that is known speaks against it."""
    found = dict.fromkeys(
        (
            *objections(strategy, place.setting),
            *objections(resolved(strategy, place), place.setting),
            *lacking(strategy, place.build, place.capabilities),
            *_too_large(strategy, place),
        )
    )
    return tuple(found)


def candidates(place: Place, *, lossy: bool, most: int = MOST) -> tuple[Strategy, ...]:
    """Return the strategies that are worth comparing there: the engine's own choice first, then the likeliest.

    All are valid there and no two come to the same engine; the same place gives the same ones in the same order. The
    ones that trials have always made come before all others and keep their spelling: records speak of them by it.

    Args:
        lossy: whether strategies that may change answers come into question.
        most: of them, at least 1.
    """
    found: dict[Strategy, Strategy] = {resolved(DEFAULT, place): DEFAULT}
    for strategy in _likeliest(place):
        if len(found) >= most:
            break
        engine = resolved(strategy, place)
        if engine in found or (not lossy and not strategy.lossless) or problems(strategy, place):
            continue
        found[engine] = strategy
    return tuple(found.values())


def classic(max_model_len: int) -> Iterator[Strategy]:
    """Yield those that every node tries: the engine's own, all with n-grams, and the eight combinations of three.

    These three are batching, prefix caching and chunked prefill. Their order and spelling are kept: trials resume by
    them and records are compared by them.
    """
    budget = chunk(max_model_len)
    yield DEFAULT
    yield speculating(budget, DRAFT_TOKENS)
    for prefix, chunked, batched in _COMBINATIONS:
        yield Strategy(
            prefix_caching=prefix,
            chunked_prefill=chunked,
            max_num_batched_tokens=budget if chunked else max_model_len,
            max_num_seqs=BATCH if batched else 1,
        )


def speculating(budget: int, tokens: int) -> Strategy:
    """Return all three with n-grams."""
    return Strategy(
        prefix_caching=True,
        chunked_prefill=True,
        max_num_batched_tokens=budget,
        max_num_seqs=BATCH,
        speculation=Speculation(method="ngram", tokens=tokens),
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

# Which dimensions are laid over each other, and how many choices of each: those whose effects depend on one another.
_PAIRS: tuple[tuple[tuple[str, int], ...], ...] = (
    (("speculation", 2), ("token budget", 3)),  # drafted tokens fill the budget
    (("batch cap", 3), ("token budget", 3)),  # how a step's work is divided among prompts
    (("speculation", 3), ("batch cap", 3)),  # guessing pays in small batches (arXiv 2406.14066)
    (("tensor parallelism", 3), ("speculation", 1)),
    (("tensor parallelism", 2), ("pipeline parallelism", 2)),
    (("weight quantisation", 1), ("cache number format", 1)),
    (("cache number format", 1), ("speculation", 2)),
    (("weight quantisation", 1), ("speculation", 2)),
    (("speculation", 2), ("token budget", 2), ("batch cap", 2)),
    (("prefix caching", 1), ("speculation", 1)),
    (("long-prefill threshold", 2), ("batch cap", 2)),
    (("tensor parallelism", 2), ("token budget", 2)),
    (("weight quantisation", 1), ("token budget", 2)),
)


def _likeliest(place: Place) -> Iterator[Strategy]:
    yield from classic(place.max_model_len)
    singles = _in_turn([dimension.choices(place) for dimension in DIMENSIONS])
    combined = _in_turn([tuple(_combined(pair, place)) for pair in _PAIRS])
    # Two singles for each combination: the cut at `most` takes some of both.
    yield from _in_turn([tuple(singles), tuple(combined)], shares=(2, 1))


def _combined(pair: tuple[tuple[str, int], ...], place: Place) -> Iterator[Strategy]:
    layers = [DEFAULT]
    for name, count in pair:
        layers = [overlay(layer, choice) for layer in layers for choice in BY_NAME[name].choices(place)[:count]]
    yield from layers


def _in_turn(lists: Iterable[tuple[Strategy, ...]], shares: tuple[int, ...] | None = None) -> Iterator[Strategy]:
    """Yield from the lists in turn, `shares` of each at a time (1)."""
    rows = list(lists)
    cut = [
        [row[at : at + share] for at in range(0, len(row), share)]
        for row, share in zip(rows, shares or (1,) * len(rows), strict=True)
    ]
    for turn in zip_longest(*cut, fillvalue=()):
        for some in turn:
            yield from some


def _too_large(strategy: Strategy, place: Place) -> Iterator[str]:
    if place.weight_bytes is None or place.memory_bytes is None or strategy == DEFAULT:
        return
    share = SMALLEST_WEIGHT if strategy.weight_quantization is not None else 1.0
    if place.weight_bytes * share / strategy.devices > place.memory_bytes:
        yield "the model's weights do not fit into the memory of so few devices"
