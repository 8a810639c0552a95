"""vLLM's counters read off its metrics page, and what they grew by."""

from node.core import engine_counters as counters

PAGE = b"""# HELP vllm:num_preemptions_total Cumulative number of preemption from the engine.
# TYPE vllm:num_preemptions_total counter
vllm:num_preemptions_total{engine="0",model_name="a b} c"} 3.0
vllm:num_preemptions_total{engine="1",model_name="a b} c"} 4.0
vllm:num_preemptions_created{engine="0",model_name="m"} 1.7e+09
vllm:prefix_cache_queries_total{engine="0",model_name="m"} 100.0
vllm:prefix_cache_hits_total{engine="0",model_name="m"} NaN
vllm:request_prompt_tokens_sum 50
process_cpu_seconds_total 9
"""


def test_the_counters_that_matter_are_summed_over_their_labels() -> None:
    assert counters.read_counters(PAGE) == {
        counters.PREEMPTIONS: 7.0,
        counters.PREFIX_QUERIES: 100.0,
        counters.PROMPT_TOKENS: 50.0,
    }
    assert counters.read_counters(b"\xff\x00 garbage\nvllm:prefix_cache_hits_total") == {}


def test_a_counter_that_went_backwards_or_was_not_told_before_is_absent() -> None:
    before = {counters.PREEMPTIONS: 5.0, counters.PREFIX_QUERIES: 100.0, counters.DRAFTED: 1.0}
    after = {counters.PREEMPTIONS: 4.0, counters.PREFIX_QUERIES: 300.0, counters.PREFIX_HITS: 9.0}
    grown = counters.growth(before, after)
    assert grown == {counters.PREFIX_QUERIES: 200.0}
    assert counters.share_ppm(counters.PREFIX_HITS, counters.PREFIX_QUERIES, grown) is None
    assert counters.share_ppm(counters.PREFIX_QUERIES, counters.PREFIX_QUERIES, grown) == 1_000_000
    assert counters.mean(counters.PROMPT_TOKENS, counters.PROMPTS, grown) is None
