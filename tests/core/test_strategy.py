"""Strategies: round trip, names, rules, and that nothing dangerous can be said in one."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.core.engine_flags import engine_flags
from node.core.strategy import (
    DEFAULT,
    EXTERNAL,
    EXTRA_FLAGS,
    RULES,
    InvalidStrategy,
    Setting,
    Speculation,
    Strategy,
    from_plain,
    objections,
    to_plain,
)

CPU = Setting(build="cpu", max_model_len=2048)
CUDA = Setting(build="cuda", max_model_len=2048, gpus=2)

switches = st.none() | st.booleans()
counts = st.none() | st.integers(1, 1_000_000)
widths = st.none() | st.integers(1, 64)
tokens = st.text("abcdefghij_0123456789", min_size=1, max_size=20)
extras = st.dictionaries(st.sampled_from(sorted(EXTRA_FLAGS)), st.sampled_from(["yes", "no"]), max_size=4).map(
    lambda extra: tuple(sorted(extra.items()))
)
strategies = st.builds(
    Strategy,
    prefix_caching=switches,
    chunked_prefill=switches,
    max_num_seqs=counts,
    max_num_batched_tokens=counts,
    long_prefill_token_threshold=counts,
    speculation=st.none() | st.builds(Speculation, method=tokens, tokens=st.integers(1, 32)),
    kv_cache_dtype=st.none() | tokens,
    weight_quantization=st.none() | tokens,
    compile=switches,
    tensor_parallel=widths,
    pipeline_parallel=widths,
    engine_extra=extras,
)


@given(strategies)
def test_plain_values_give_the_same_strategy_back(strategy: Strategy) -> None:
    plain = to_plain(strategy)
    assert from_plain(plain) == strategy
    assert from_plain(json.loads(json.dumps(plain))) == strategy


@given(strategies)
def test_plain_values_hold_no_float_and_no_null(strategy: Strategy) -> None:
    def leaves(value: object) -> list[object]:
        if isinstance(value, dict):
            return [leaf for inner in value.values() for leaf in leaves(inner)]
        return [value]

    assert all(isinstance(leaf, bool | int | str) for leaf in leaves(to_plain(strategy)))


@given(strategies, strategies)
def test_unlike_strategies_have_unlike_names(one: Strategy, other: Strategy) -> None:
    assert (one.name == other.name) == (one == other)


@given(strategies, st.sampled_from(["cpu", "cuda"]))
def test_a_value_never_reads_as_a_flag(strategy: Strategy, build: str) -> None:
    flags = engine_flags(strategy, "cpu" if build == "cpu" else "cuda")
    known = ("--enable-", "--no-", "--max-", "--long-", "--kv-", "--quantization", "--tensor-", "--pipeline-")
    known += ("--speculative-config", "--enforce-eager", *(f"--{key}" for key in EXTRA_FLAGS))
    assert all(flag.startswith(known) for flag in flags if flag.startswith("-"))


def test_the_default_leaves_everything_to_the_engine() -> None:
    assert DEFAULT.name == "default"
    assert to_plain(DEFAULT) == {}
    assert engine_flags(DEFAULT, "cuda") == []
    assert DEFAULT.lossless


def test_on_cpu_compilation_is_asked_for_or_absent() -> None:
    assert engine_flags(DEFAULT, "cpu") == ["--enforce-eager"]
    assert engine_flags(Strategy(compile=True), "cpu") == []
    assert engine_flags(Strategy(compile=False), "cuda") == ["--enforce-eager"]


def test_the_external_strategy_is_called_so_and_stays_alone() -> None:
    assert EXTERNAL.name == "external"
    assert EXTERNAL.external
    assert objections(EXTERNAL, CUDA) == ()
    assert objections(replace(EXTERNAL, max_num_seqs=4), CUDA) != ()


def test_a_name_says_what_differs() -> None:
    strategy = Strategy(
        prefix_caching=False, max_num_seqs=8, speculation=Speculation(method="ngram", tokens=3), kv_cache_dtype="fp8"
    )
    assert strategy.name == "prefix:off+seqs:8+kv:fp8+ngram:3"


def test_flags_are_spelled_as_vllm_spells_them() -> None:
    strategy = Strategy(
        prefix_caching=True,
        chunked_prefill=False,
        max_num_seqs=1,
        speculation=Speculation(method="draft_model", tokens=4),
        engine_extra=(("block-size", "32"), ("draft-model", "org/draft")),
    )
    assert engine_flags(strategy, "cuda") == [
        "--enable-prefix-caching",
        "--no-enable-chunked-prefill",
        *("--max-num-seqs", "1"),
        *("--speculative-config", '{"method": "draft_model", "model": "org/draft", "num_speculative_tokens": 4}'),
        *("--block-size", "32"),
    ]


@pytest.mark.parametrize(
    ("strategy", "lossless"),
    [
        (Strategy(kv_cache_dtype="bfloat16"), True),
        (Strategy(kv_cache_dtype="fp8_e5m2"), False),
        (Strategy(weight_quantization="fp8"), False),
        (Strategy(speculation=Speculation(method="ngram", tokens=5)), True),
    ],
)
def test_rounding_is_what_makes_a_strategy_lossy(strategy: Strategy, *, lossless: bool) -> None:
    assert strategy.lossless is lossless


BROKEN = [
    (replace(EXTERNAL, max_num_seqs=1), CPU, "configured where it runs"),
    (Strategy(chunked_prefill=False, max_num_batched_tokens=512), CPU, "must fit one step"),
    (Strategy(max_num_seqs=64, max_num_batched_tokens=32), CPU, "below max_num_seqs"),
    (Strategy(chunked_prefill=False, long_prefill_token_threshold=64), CPU, "needs chunked prefill"),
    (Strategy(speculation=Speculation(method="magic", tokens=2)), CPU, "speculation.method is one of"),
    (Strategy(speculation=Speculation(method="eagle", tokens=2)), CUDA, "draft-model goes with"),
    (Strategy(weight_quantization="fp8"), CPU, "on CPU fp8 weights do not start"),
    (Strategy(tensor_parallel=2), CPU, "divides a model over GPUs"),
    (Strategy(tensor_parallel=2, pipeline_parallel=2), CUDA, "needs as many GPUs"),
    (Strategy(tensor_parallel=2), replace(CUDA, heads=9), "it must divide the model's"),
    (Strategy(long_prefill_token_threshold=4096), CPU, "above max_model_len"),
    (Strategy(engine_extra=(("block-size", "large"),)), CPU, "needs a whole number"),
    (Strategy(max_num_seqs=4, engine_extra=(("max-num-active-seqs", "8"),)), CUDA, "above max_num_seqs"),
    (
        Strategy(speculation=Speculation(method="ngram", tokens=2), engine_extra=(("async-scheduling", "yes"),)),
        CUDA,
        "async scheduling speculates",
    ),
    (Strategy(speculation=Speculation(method="ngram_gpu", tokens=2)), CPU, "on a GPU"),
]


@pytest.mark.parametrize(("strategy", "setting", "words"), BROKEN)
def test_each_rule_finds_its_sin(strategy: Strategy, setting: Setting, words: str) -> None:
    assert any(words in reason for reason in objections(strategy, setting))


def test_no_rule_is_without_a_sin_that_shows_it() -> None:
    shown = {reason for strategy, setting, _ in BROKEN for reason in objections(strategy, setting)}
    assert shown == {reason for _, reason in RULES}


@pytest.mark.parametrize(
    "strategy",
    [Strategy(chunked_prefill=False, max_num_batched_tokens=2048), Strategy(max_num_seqs=64, prefix_caching=False)],
)
def test_sound_strategies_meet_no_objection(strategy: Strategy) -> None:
    assert objections(strategy, CPU) == ()


@pytest.mark.parametrize(
    "plain",
    [
        {"max_num_seqs": 0},
        {"max_num_seqs": True},
        {"max_num_seqs": 1.0},
        {"max_num_seqs": 10**7},
        {"prefix_caching": 1},
        {"kv_cache_dtype": "--trust-remote-code"},
        {"kv_cache_dtype": "a b"},
        {"kv_cache_dtype": ""},
        {"weight_quantization": "x" * 65},
        {"engine_extra": {"trust-remote-code": "yes"}},
        {"engine_extra": {"async-scheduling": "perhaps"}},
        {"engine_extra": {"block-size": "-1"}},
        {"engine_extra": ["block-size"]},
        {"engine_extra": {1: "2"}},
        {"speculation": {"method": "ngram"}},
        {"speculation": {"method": "ngram", "tokens": 0}},
        {"speculation": "ngram"},
        {"unheard_of": 1},
    ],
)
def test_what_is_no_strategy_is_refused_by_name(plain: dict[str, object]) -> None:
    with pytest.raises(InvalidStrategy, match=next(iter(plain))):
        from_plain(plain)
