"""The action space: every candidate can run, the engine's own choice is first, and equal engines are called equal."""

from dataclasses import fields, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.core.action_space import MOST, candidates, classic, problems
from node.core.capabilities import UNKNOWN, Capabilities, Defaults
from node.core.dimensions import BY_NAME, DIMENSIONS, Dimension, overlay
from node.core.engine_defaults import Draft, Place, canonical, resolved
from node.core.engine_flags import engine_flags
from node.core.levers import levers
from node.core.strategy import DEFAULT, DRAFT_MODEL, EXTERNAL, EXTRA_FLAGS, Speculation, Strategy
from tests.core.test_capabilities import VLLM_032
from tests.core.test_strategy import strategies

CPU = Place(build="cpu", max_model_len=2048, capabilities=VLLM_032)
GPU_DEFAULTS = Defaults(
    max_num_seqs=256, max_num_batched_tokens=2048, chunked_prefill=True, prefix_caching=True, block_size=16,
    async_scheduling=True, scheduling_policy="fcfs", long_prefill_token_threshold=0,
)  # fmt: skip
ON_GPU = replace(VLLM_032, platform="cuda", defaults=GPU_DEFAULTS)
GPUS = Place(build="cuda", max_model_len=8192, gpus=2, heads=32, layers=16, capabilities=ON_GPU)


def part(strategy: Strategy, dimension: Dimension) -> Strategy:
    """What the strategy chooses in that dimension; all else left to the engine."""
    extra = tuple(pair for pair in strategy.engine_extra if pair[0] in dimension.controls)
    named = {each.name for each in fields(Strategy)} & set(dimension.controls)
    return replace(DEFAULT, engine_extra=extra, **{name: getattr(strategy, name) for name in named})


def without(strategy: Strategy, dimension: Dimension) -> Strategy:
    """The strategy with that dimension left to the engine."""
    extra = tuple(pair for pair in strategy.engine_extra if pair[0] not in dimension.controls)
    named = {each.name for each in fields(Strategy)} & set(dimension.controls)
    return replace(strategy, engine_extra=extra, **dict.fromkeys(named))


def same_engine(one: Strategy, other: Strategy, place: Place) -> bool:
    return resolved(one, place) == resolved(other, place)


def needs_restart(running: Strategy, wanted: Strategy, place: Place) -> bool:
    """As the node asks: about what differs once the engine's own choices are left out."""
    return levers(canonical(running, place), canonical(wanted, place)) is None


drafts = st.builds(Draft, method=st.sampled_from(["draft_model", "eagle3"]), model=st.just("org/draft"))
places = st.builds(
    Place,
    build=st.sampled_from(["cpu", "cuda"]),
    max_model_len=st.integers(16, 1 << 18),
    gpus=st.integers(0, 9),
    heads=st.none() | st.sampled_from([6, 9, 32]),
    layers=st.none() | st.integers(1, 90),
    quantized=st.booleans(),
    mtp=st.booleans(),
    drafts=st.lists(drafts, max_size=2).map(tuple),
    weight_bytes=st.none() | st.integers(1, 10**12),
    memory_bytes=st.none() | st.integers(1, 10**12),
    capabilities=st.sampled_from([UNKNOWN, VLLM_032, ON_GPU, replace(VLLM_032, helpers=("arctic_inference",))]),
)


@settings(max_examples=40)  # each asks for two sets of candidates
@given(places, st.booleans(), st.integers(1, 300))
def test_candidates_can_run_begin_with_the_default_and_differ_as_engines(place: Place, lossy: bool, most: int) -> None:
    found = candidates(place, lossy=lossy, most=most)
    assert found[0] == DEFAULT
    assert len(found) <= most
    assert [problems(strategy, place) for strategy in found[1:]] == [()] * (len(found) - 1)
    assert lossy or all(strategy.lossless for strategy in found)
    assert len({resolved(strategy, place) for strategy in found}) == len(found)
    assert found == candidates(place, lossy=lossy, most=most)
    assert candidates(place, lossy=lossy, most=most + 1)[:most] == found


@given(places, strategies)
def test_the_canonical_form_is_the_same_engine_and_its_own_canonical_form(place: Place, strategy: Strategy) -> None:
    short = canonical(strategy, place)
    assert same_engine(short, strategy, place)
    assert canonical(short, place) == short
    assert same_engine(resolved(strategy, place), strategy, place)
    assert len(short.name) <= len(strategy.name) or short == DEFAULT


def test_on_a_known_place_the_space_is_wide_and_the_rest_does_not_crowd_it_out() -> None:
    for place in (CPU, GPUS):
        found = candidates(place, lossy=True)
        assert len(found) == MOST
        for dimension in DIMENSIONS:
            if place.build == "cpu" and dimension.name in {"active cap", "tensor parallelism", "pipeline parallelism"}:
                continue
            if dimension.choices(place):
                alone = {part(each, dimension) for each in found if without(each, dimension) == DEFAULT}
                assert alone - {DEFAULT}, dimension.name
        assert any(each.speculation and each.max_num_batched_tokens and not each.max_num_seqs for each in found)
        assert any(each.max_num_seqs and each.max_num_batched_tokens and each.prefix_caching is None for each in found)


def test_trials_strategies_keep_their_spelling_among_the_candidates() -> None:
    found = candidates(CPU, lossy=False)
    assert found[:10] == tuple(classic(2048))


def test_a_strategy_that_says_what_the_engine_does_anyway_is_the_default() -> None:
    spelled = Strategy(
        prefix_caching=True, chunked_prefill=True, max_num_seqs=128, max_num_batched_tokens=2048, compile=False,
        kv_cache_dtype="auto", tensor_parallel=1, long_prefill_token_threshold=2048,
        engine_extra=(("async-scheduling", "yes"), ("block-size", "128"), ("scheduling-policy", "fcfs")),
    )  # fmt: skip
    assert canonical(spelled, CPU) == DEFAULT
    assert spelled not in candidates(CPU, lossy=True)
    assert not same_engine(replace(spelled, max_num_seqs=64), DEFAULT, CPU)
    assert not same_engine(replace(spelled, compile=True), DEFAULT, CPU)


def test_without_the_engines_word_its_numbers_are_not_guessed() -> None:
    nowhere = replace(CPU, capabilities=UNKNOWN)
    assert not same_engine(Strategy(max_num_seqs=128), DEFAULT, nowhere)
    assert same_engine(Strategy(prefix_caching=True), DEFAULT, nowhere)


@pytest.mark.parametrize(
    ("strategy", "place", "filled"),
    [
        # vLLM: without chunked prefill a prompt must fit a step, so the budget grows to the longest.
        (Strategy(chunked_prefill=False), replace(CPU, max_model_len=4096), {"max_num_batched_tokens": 4096}),
        (Strategy(max_num_seqs=2), replace(CPU, max_model_len=512), {"max_num_batched_tokens": 1024}),
        (Strategy(max_num_batched_tokens=64), CPU, {"max_num_seqs": 64}),
        (Strategy(long_prefill_token_threshold=1024, max_num_batched_tokens=512), CPU,
         {"long_prefill_token_threshold": None}),
        (DEFAULT, GPUS, {"compile": True, "max_num_seqs": 256}),
    ],
)  # fmt: skip
def test_what_is_left_out_is_filled_in_as_vllm_does(
    strategy: Strategy, place: Place, filled: dict[str, object]
) -> None:
    engine = resolved(strategy, place)
    assert {name: getattr(engine, name) for name in filled} == filled


def test_async_scheduling_goes_off_by_itself_where_the_drafting_cannot_have_it() -> None:
    def ahead(method: str) -> str | None:
        strategy = Strategy(speculation=Speculation(method=method, tokens=2))
        return dict(resolved(strategy, GPUS).engine_extra).get("async-scheduling")

    assert (ahead("ngram"), ahead("ngram_gpu"), ahead("mtp")) == ("no", "yes", "yes")
    off = Strategy(speculation=Speculation(method="ngram", tokens=2), engine_extra=(("async-scheduling", "no"),))
    assert canonical(off, GPUS).engine_extra == ()


def test_a_budget_below_the_engines_own_batch_is_no_problem_and_one_below_an_asked_batch_is() -> None:
    assert problems(Strategy(max_num_batched_tokens=64), CPU) == ()
    assert problems(Strategy(max_num_seqs=4096), CPU)  # above the budget that the engine takes unasked
    assert problems(Strategy(max_num_seqs=4096), replace(CPU, capabilities=UNKNOWN)) == ()


def test_weights_that_fit_no_single_device_are_divided() -> None:
    tight = replace(GPUS, memory_bytes=10, weight_bytes=16)
    found = candidates(tight, lossy=False)
    assert found[0] == DEFAULT
    assert len(found) > 1
    assert all(each.devices == 2 for each in found[1:])


def test_no_table_row_lies_about_its_flags_or_about_what_it_changes() -> None:
    for place in (CPU, replace(GPUS, mtp=True, drafts=(Draft(method="eagle3", model="org/e"),))):
        for dimension in DIMENSIONS:
            for choice in dimension.choices(place):
                assert part(choice, dimension) == choice, dimension.name
                assert without(choice, dimension) == DEFAULT
                assert choice.lossless or not dimension.lossless
                flags = set(engine_flags(choice, place.build)) - set(engine_flags(Strategy(compile=True), place.build))
                said = {flag.removeprefix("--") for flag in flags if flag.startswith("--")}
                assert said <= {*dimension.flags, "enforce-eager"}, dimension.name


def test_every_field_of_a_strategy_is_somebodys_choice() -> None:
    controlled = [key for dimension in DIMENSIONS for key in dimension.controls]
    assert len(controlled) == len(set(controlled))
    known = {each.name for each in fields(Strategy)} - {"engine_extra"} | {*EXTRA_FLAGS, DRAFT_MODEL}
    assert known - set(controlled) == {"attention-backend"}  # vLLM knows its kernels better than a table
    assert set(controlled) <= known


def test_the_later_layer_wins_and_a_draft_model_goes_with_its_method() -> None:
    eagle = Strategy(speculation=Speculation(method="eagle", tokens=3), engine_extra=((DRAFT_MODEL, "org/e"),))
    ngram = Strategy(speculation=Speculation(method="ngram", tokens=4))
    assert overlay(eagle, ngram) == ngram
    assert overlay(ngram, eagle) == eagle
    assert overlay(eagle, Strategy(max_num_seqs=4)) == replace(eagle, max_num_seqs=4)
    assert without(eagle, BY_NAME["speculation"]) == DEFAULT


@pytest.mark.parametrize(
    ("running", "wanted", "restart"),
    [
        (DEFAULT, DEFAULT, False),
        (DEFAULT, Strategy(max_num_seqs=128), False),  # the same engine
        (DEFAULT, Strategy(max_num_seqs=4), False),
        (Strategy(max_num_seqs=4), DEFAULT, True),
        (DEFAULT, Strategy(prefix_caching=False), False),
        (Strategy(prefix_caching=False), Strategy(prefix_caching=True), True),
        (DEFAULT, Strategy(prefix_caching=False, max_num_seqs=1), False),
        (DEFAULT, Strategy(max_num_batched_tokens=512), True),
        (DEFAULT, Strategy(max_num_seqs=4, max_num_batched_tokens=512), True),
        (DEFAULT, Strategy(engine_extra=(("attention-backend", "FLASH_ATTN"),)), False),  # ignored on CPU
    ],
)
def test_a_restart_is_needed_unless_every_difference_has_another_way(
    running: Strategy, wanted: Strategy, restart: bool
) -> None:
    assert needs_restart(running, wanted, CPU) is restart


@pytest.mark.parametrize("dimension", DIMENSIONS, ids=lambda each: each.name)
@pytest.mark.parametrize("place", [CPU, GPUS], ids=["cpu", "gpus"])
def test_the_table_says_where_levers_lead(dimension: Dimension, place: Place) -> None:
    ranked = Strategy(engine_extra=(("scheduling-policy", "priority"),))
    choices = [DEFAULT, *dimension.choices(place), *([ranked] if dimension.name == "scheduling policy" else [])]
    pairs = [(one, other) for one in choices for other in choices if not same_engine(one, other, place)]
    led = any(not needs_restart(one, other, place) for one, other in pairs)
    assert led is (dimension.live and bool(pairs))


def test_what_only_follows_from_a_live_choice_needs_no_restart_either() -> None:
    short = replace(CPU, max_model_len=512)
    assert resolved(Strategy(max_num_seqs=2), short).max_num_batched_tokens == 1024
    assert not needs_restart(DEFAULT, Strategy(max_num_seqs=2), short)


def test_an_attention_backend_needs_a_restart_where_it_matters() -> None:
    assert needs_restart(DEFAULT, Strategy(engine_extra=(("attention-backend", "FLASH_ATTN"),)), GPUS)


def test_an_external_engine_is_nobodys_to_change() -> None:
    assert resolved(EXTERNAL, CPU) == EXTERNAL
    assert canonical(EXTERNAL, CPU) == EXTERNAL


def test_a_version_without_a_flag_gets_no_candidate_that_needs_it() -> None:
    options = tuple(option for option in VLLM_032.options if not option.startswith("--speculative-config"))
    old = replace(CPU, capabilities=replace(VLLM_032, options=options))
    assert not any(each.speculation for each in candidates(old, lossy=True))
    assert any(each.speculation for each in candidates(CPU, lossy=True))
    assert isinstance(old.capabilities, Capabilities)
