"""Names of strategies read back: every name gives its strategy, and nothing else passes."""

from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.core.strategy import (
    DEFAULT,
    EXTERNAL,
    EXTRA_FLAGS,
    MAX_COUNT,
    MAX_DRAFT_TOKENS,
    MAX_PARALLEL,
    TOKEN_CHARACTERS,
    InvalidStrategy,
    Speculation,
    Strategy,
)
from node.core.strategy_names import FIELD_WORDS, parse_name

tokens = st.text(sorted(TOKEN_CHARACTERS), min_size=1, max_size=12).filter(lambda text: not text.startswith("-"))
# A method that is called as a field is would read as the field; vLLM has none, and the rules know none.
methods = st.sampled_from(["ngram", "suffix", "eagle3", "mtp", "my:own"]) | tokens.filter(
    lambda text: text.partition(":")[0] not in FIELD_WORDS and bool(text.partition(":")[0])
)
extras = st.dictionaries(st.sampled_from(sorted(EXTRA_FLAGS)), st.just(""), max_size=3).flatmap(
    lambda keys: st.fixed_dictionaries(
        {key: st.sampled_from(["yes", "no"]) if EXTRA_FLAGS[key] == "switch" else tokens for key in keys}
    )
)


def maybe(values: st.SearchStrategy[int] | st.SearchStrategy[bool] | st.SearchStrategy[str]) -> st.SearchStrategy:
    return st.none() | values


counts = st.integers(1, MAX_COUNT)
strategies = st.builds(
    Strategy,
    prefix_caching=maybe(st.booleans()),
    chunked_prefill=maybe(st.booleans()),
    max_num_seqs=maybe(counts),
    max_num_batched_tokens=maybe(counts),
    long_prefill_token_threshold=maybe(counts),
    speculation=st.none() | st.builds(Speculation, method=methods, tokens=st.integers(1, MAX_DRAFT_TOKENS)),
    kv_cache_dtype=maybe(tokens),
    weight_quantization=maybe(tokens),
    compile=maybe(st.booleans()),
    tensor_parallel=maybe(st.integers(1, MAX_PARALLEL)),
    pipeline_parallel=maybe(st.integers(1, MAX_PARALLEL)),
    engine_extra=extras.map(lambda extra: tuple(sorted(extra.items()))),
)


@given(strategies)
def test_every_name_gives_its_strategy_back(strategy: Strategy) -> None:
    assert parse_name(strategy.name) == strategy


@given(strategies, st.randoms())
def test_the_order_of_the_parts_is_free(strategy: Strategy, luck: Random) -> None:
    parts = strategy.name.split("+")
    luck.shuffle(parts)
    assert parse_name("+".join(parts)) == strategy


@given(st.text(max_size=40) | st.text("prefixseqkv:+=109onf", max_size=24))
def test_whatever_is_typed_is_a_strategy_or_refused_in_words(text: str) -> None:
    try:
        strategy = parse_name(text)
    except InvalidStrategy:
        return
    assert parse_name(strategy.name) == strategy


def test_the_two_words_for_whole_strategies_are_known() -> None:
    assert parse_name("default") == DEFAULT
    assert parse_name("external") == EXTERNAL


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "prefix:on"),
        ("prefx:on", "did you mean 'prefix'"),
        ("prefix:maybe", "prefix is on or off"),
        ("prefix:3", "prefix is on or off"),
        ("seqs:many", "no whole number"),
        ("seqs:" + "9" * 5000, "at most"),
        ("seqs:" + "9" * 16, "no whole number"),
        ("seqs:0", "max_num_seqs"),
        ("seqs:4+seqs:8", "again"),
        ("block-size=16+block-size=32", "again"),
        ("load-format=evil", "engine_extra may not set"),
        ("ngram:99", "speculation.tokens"),
        ("ngram", "no part"),
        ("ngram:", "no part"),
        ("default+prefix:on", "no part"),
    ],
)
def test_what_is_no_name_is_refused_with_what_would_be_one(text: str, words: str) -> None:
    read: Callable[[str], Strategy] = parse_name
    with pytest.raises(InvalidStrategy, match=words.replace("(", r"\(")):
        read(text)
