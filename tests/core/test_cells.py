"""Which records are of one cell."""

from dataclasses import replace
from typing import Any

from node.core.cells import cell_of
from tests.protocol import performance_samples as samples


def test_later_figures_of_one_thing_are_of_one_cell_and_another_thing_is_not() -> None:
    one = cell_of(samples.performance())
    assert len(one) == 32
    assert cell_of(samples.performance(seq=9, outcome=samples.outcome(ttft_mean_us=1), context=7)) == one
    assert cell_of(samples.performance(hardware=replace(samples.HARDWARE, driver="590.1"))) == one
    others: list[dict[str, Any]] = [
        {"strategy": replace(samples.STRATEGY, max_num_seqs=32)},
        {"model": replace(samples.MODEL, weights="dummy")},
        {"hardware": replace(samples.HARDWARE, count=2)},
        {"engine": replace(samples.ENGINE, version="0.33.0")},
        {"workload": replace(samples.WORKLOAD, kind="bursty")},
        {"workload": replace(samples.WORKLOAD, prompt_tokens_p50=4096)},
        {"origin": "traffic"},
    ]
    for changes in others:
        assert cell_of(samples.performance(**changes)) != one, changes


def test_traffic_that_differs_a_little_is_one_cell() -> None:
    near = replace(samples.WORKLOAD, requests=33, prompt_tokens_p95=1100)
    again = replace(near, requests=40, prompt_tokens_p95=1200)
    assert cell_of(samples.performance(workload=near)) == cell_of(samples.performance(workload=again))
