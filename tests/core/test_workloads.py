"""The workloads of trials: the same everywhere, of the shape that they are described by, within the context."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.core import workloads
from node.core.workloads import KINDS, Scale

SCALE = Scale(prefill=256, decode=16)
# Of every request of SCALE. Another digest is another workload: then VERSION moves, and records no longer mix.
DIGEST = "3cd5cf4037981308"


def test_the_same_scale_gives_the_very_same_requests_on_every_node() -> None:
    made = workloads.loads(SCALE, kinds=KINDS)
    assert made == workloads.loads(SCALE, kinds=KINDS)
    assert hashlib.sha256(repr([load.requests for load in made]).encode()).hexdigest()[:16] == DIGEST
    assert made != workloads.loads(SCALE, kinds=KINDS, seed=2)


def test_the_kinds_differ_in_what_strategies_live_on() -> None:
    shape = {load.name: load.workload for load in workloads.loads(SCALE, kinds=KINDS)}
    assert shape["shared_prefix"].prefix_groups == 1
    assert shape["shared_prefix"].shared_prefix_share == 384 / 400
    assert all(shape[kind].shared_prefix_share == 0 for kind in KINDS if kind != "shared_prefix")
    assert shape["long_output"].output_tokens.mean > shape["long_output"].prompt_tokens.mean
    assert shape["long_prompt"].prompt_tokens.mean > 20 * shape["long_prompt"].output_tokens.mean
    assert shape["bursty"].burstiness > 2 > 0.1 > shape["long_output"].burstiness
    copied = workloads.loads(SCALE, kinds=("copy",))[0].requests[0].parts
    assert copied[0].text == copied[1].text
    assert copied[1].tokens < copied[0].tokens


def test_a_kind_that_nobody_knows_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="longish"):
        workloads.loads(SCALE, kinds=("longish",))


@given(st.floats(0.01, 1e7), st.floats(0.01, 1e5), st.integers(1024, 1 << 20))
def test_every_request_fits_the_context_of_any_machine_and_has_words_enough(
    prefill: float, decode: float, longest: int
) -> None:
    scale = workloads.scale_for(prefill_per_s=prefill, decode_per_s=decode, max_model_len=longest)
    assert scale.prefill.bit_count() == scale.decode.bit_count() == 1
    if scale.prefill > 4096:
        return  # megabytes of text say nothing new
    for load in workloads.loads(scale, kinds=KINDS):
        for request in load.requests:
            assert request.prompt_tokens + request.max_tokens <= longest
            assert request.max_tokens >= 2  # one token has no time per token
            assert all(len(part.text.split()) >= part.tokens for part in request.parts)


@given(st.floats(10, 1e6), st.floats(0.97, 1.03))
def test_machines_of_one_speed_nearly_always_try_the_same_sizes(rate: float, noise: float) -> None:
    one, other = (
        workloads.scale_for(prefill_per_s=each, decode_per_s=50, max_model_len=1 << 18) for each in (rate, rate * noise)
    )
    assert one.prefill in (other.prefill, 2 * other.prefill, other.prefill // 2)
