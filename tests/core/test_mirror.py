"""A load made like traffic: of the shape that was described, the same for the same traffic, and within the context."""

import math
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from node.core.mirror import FEW, LEAST, MOST, mirror
from node.core.trial_records import workload_on_wire
from node.core.workload import Description
from node.core.workloads import MIRROR, Lengths

CHAT = Description(
    requests=200,
    prompt_tokens=Lengths(mean=420, p50=300, p95=1000),
    output_tokens=Lengths(mean=105, p50=80, p95=250),
    shared_prefix_share=0.3,
    prefix_groups=None,
    concurrency=1.6,
    requests_per_s=0.9,
    burstiness=1.0,
    streaming_share=1.0,
    copy_share=0.4,
    busy_share=0.5,
    span_s=3600.0,
    latency_s=3.0,
)
CONTEXT = 8192


def near(one: float, other: float, factor: float) -> bool:
    return 1 / factor <= one / other <= factor


@st.composite
def lengths(draw: st.DrawFn, longest: int) -> Lengths:
    """Lengths as lognormal traffic has them."""
    middle = draw(st.integers(24, longest // 12))
    spread = draw(st.floats(0.05, 1.2))
    return Lengths(
        mean=middle * math.exp(spread**2 / 2), p50=middle, p95=max(round(middle * math.exp(1.645 * spread)), middle)
    )


@settings(max_examples=30, deadline=None)
@given(
    prompt=lengths(CONTEXT // 8),
    output=lengths(CONTEXT // 8),
    rate=st.floats(0.5, 20),
    burstiness=st.floats(0, 1.6),
    prefix=st.floats(0, 0.8),
    copied=st.floats(0, 1),
)
@example(
    prompt=Lengths(mean=420, p50=300, p95=1000),
    output=Lengths(mean=105, p50=80, p95=250),
    rate=5.0,
    burstiness=2.0,
    prefix=0.0,
    copied=0.8,
)
def test_the_load_is_of_the_shape_that_was_described(
    prompt: Lengths, output: Lengths, rate: float, burstiness: float, prefix: float, copied: float
) -> None:
    described = replace(
        CHAT,
        prompt_tokens=prompt,
        output_tokens=output,
        requests_per_s=rate,
        burstiness=burstiness,
        shared_prefix_share=prefix,
        copy_share=copied,
    )
    found = mirror(described, max_model_len=CONTEXT).workload
    step = 2**0.25 * 1.05  # half a step of rounding, and what whole tokens make of it
    assert near(found.prompt_tokens.p95, prompt.p95, step)
    assert near(found.output_tokens.p95, output.p95, step)
    assert near(found.prompt_tokens.mean, prompt.mean, step)
    assert near(found.output_tokens.mean, output.mean, step)
    assert near(found.prompt_tokens.p50, prompt.p50, step * 1.3)  # the middle two of a few are apart
    assert near(found.output_tokens.p50, output.p50, step * 1.3)
    assert near(found.requests_per_s, rate, step)
    assert abs(found.burstiness - burstiness) <= 0.13
    assert abs(found.shared_prefix_share - prefix) <= 0.1
    assert LEAST <= found.requests <= MOST
    assert found.copy_share is not None
    if prefix < 0.2:  # beyond it, prompts that are little more than the prefix have nothing of their own to copy
        assert abs(found.copy_share - copied) <= 0.25


@given(st.sampled_from([512, 2048, 131072]), st.floats(1, 1e6), st.floats(0.001, 1e5), st.floats(0.001, 500))
@settings(max_examples=30, deadline=None)
def test_every_request_fits_the_context_whatever_was_described(
    longest: int, tokens: float, rate: float, latency: float
) -> None:
    most = min(tokens, 4_000.0)  # more words say nothing new
    wide = Lengths(mean=most, p50=round(most), p95=round(2 * most))
    described = replace(CHAT, prompt_tokens=wide, output_tokens=wide, requests_per_s=rate, latency_s=latency)
    load = mirror(described, max_model_len=longest)
    assert FEW <= len(load.requests) <= MOST
    for request in load.requests:
        assert request.prompt_tokens + request.max_tokens <= longest
        assert request.max_tokens >= 2
        assert all(part.tokens >= 1 and len(part.text.split()) >= part.tokens for part in request.parts)


def test_the_same_traffic_makes_the_same_load_and_other_traffic_another() -> None:
    one = mirror(CHAT, max_model_len=CONTEXT)
    alike = replace(CHAT, requests=300, requests_per_s=0.95, copy_share=0.42, burstiness=1.05, span_s=5000.0)
    assert one == mirror(alike, max_model_len=CONTEXT)
    assert one.workload.kind == MIRROR
    assert one.name.startswith(f"{MIRROR}-")
    other = mirror(replace(CHAT, copy_share=0.9), max_model_len=CONTEXT)
    assert other.name != one.name
    assert mirror(CHAT, max_model_len=CONTEXT, seed=2).name != one.name


def test_prompts_that_come_one_by_one_come_as_soon_as_the_last_is_answered() -> None:
    rare = mirror(replace(CHAT, requests_per_s=0.01, latency_s=1.0, burstiness=2.0), max_model_len=CONTEXT)
    last = rare.requests[-1].at_us / 1e6
    assert 5 <= last <= 15
    gaps = [after.at_us - before.at_us for before, after in zip(rare.requests, rare.requests[1:], strict=False)]
    assert min(gaps) >= 1_200_000  # an answer takes one second: no two meet


def test_a_trial_of_slow_answers_has_fewer_requests_rather_than_minutes() -> None:
    slow = mirror(replace(CHAT, requests_per_s=0.05, latency_s=15.0), max_model_len=CONTEXT)
    assert len(slow.requests) == FEW


@pytest.mark.parametrize("copied", [0.0, 0.5, 1.0])
def test_what_is_to_be_copied_stands_in_the_prompt_once_and_its_beginning_again(copied: float) -> None:
    load = mirror(replace(CHAT, copy_share=copied, shared_prefix_share=0.0), max_model_len=CONTEXT)
    copies = [each for each in load.requests if len(each.parts) == 2]
    assert len(copies) == pytest.approx(copied * len(load.requests), abs=1.5)
    for request in copies:
        passage, again = request.parts
        assert passage.text == again.text
        assert again.tokens < passage.tokens / 3


def test_of_traffic_of_which_little_is_known_a_load_is_made_all_the_same() -> None:
    blind = replace(
        CHAT,
        prompt_tokens=None, output_tokens=None, shared_prefix_share=None, concurrency=None, requests_per_s=None,
        burstiness=None, copy_share=None, latency_s=None,
    )  # fmt: skip
    load = mirror(blind, max_model_len=CONTEXT)
    assert len(load.requests) >= FEW
    assert load.workload.copy_share == 0.0


def test_the_load_s_copies_are_told_on_the_wire() -> None:
    load = mirror(CHAT, max_model_len=CONTEXT)
    assert load.workload.copy_share is not None
    assert workload_on_wire(load.workload).copy_ppm == round(load.workload.copy_share * 1e6)
