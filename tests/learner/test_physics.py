from collections.abc import Mapping

import numpy as np
import pytest

from node.learner import physics, queueing
from node.learner.table import Table

LLAMA_8B = {
    "model.parameters": 8.03e9, "model.layers": 32, "model.hidden": 4096, "model.heads": 32, "model.kv_heads": 8,
    "model.head_dim": 128, "model.weight_dtype": "bfloat16",
}  # fmt: skip
H100 = {
    "hardware.memory_bytes": 80e9, "hardware.measured_gemv_bytes_per_s": 3.0e12,
    "hardware.measured_gemm_flops": 700e12, "hardware.measured_attention_bytes_per_s": 2.5e12, "hardware.count": 1,
}  # fmt: skip
CHAT = {"workload.prompt_tokens": 1000, "workload.output_tokens": 200, "workload.concurrency": 1}
VLLM = {"strategy.chunked_prefill": True, "strategy.prefix_caching": False}
ROW = LLAMA_8B | H100 | CHAT | VLLM


def foretell(*rows: Mapping[str, object]) -> queueing.Times:
    # Contexts apart, so that equal rows are not merged.
    return queueing.times(Table.of_rows([{**row, "context": number} for number, row in enumerate(rows)]))


def test_one_request_decodes_at_the_speed_at_which_its_weights_are_read() -> None:
    times = foretell(ROW)

    reads = 2 * 8.03e9 / 3.0e12  # 5.4 ms: two bytes for each parameter
    assert reads < times.tpot[0] < 1.6 * reads
    assert times.latency[0] == pytest.approx(times.ttft[0] + 199 * times.tpot[0], rel=0.01)


def test_a_prompt_alone_takes_two_operations_for_each_parameter_and_token() -> None:
    long = foretell(ROW | {"workload.prompt_tokens": 8000})

    operations = 2 * 8.03e9 * 8000 / 700e12  # 184 ms
    assert operations < long.prefill[0] < 1.6 * operations


def test_an_eight_bit_copy_reads_half_and_a_second_device_halves_what_is_left_but_for_the_link() -> None:
    link = {"hardware.count": 2, "hardware.measured_allreduce_64k_s": 1e-5, "hardware.measured_allreduce_32m_s": 2e-4}
    times = foretell(ROW, ROW | {"model.weight_dtype": "fp8"}, ROW | link)

    sixteen, eight, two = times.tpot
    assert 0.5 < eight / sixteen < 0.85
    assert 0.5 < two / sixteen < 0.9


def test_past_one_hosts_devices_the_network_counts_unless_links_join_a_rack() -> None:
    many = ROW | {"hardware.count": 16, "strategy.tensor_parallel": 16, "hardware.spec_link_bytes_per_s": 900e9}
    host = many | {"hardware.count": 8, "strategy.tensor_parallel": 8}

    of_host, of_hosts, of_rack = foretell(host, many, many | {"hardware.name": "NVIDIA GB200 NVL72"}).tpot
    assert of_rack < of_host < of_hosts
    large = {"workload.prompt_tokens": 100_000}
    of_host, of_hosts = foretell(host | large, many | large).prefill
    assert of_hosts > of_host / 2 + 1  # half the products, and an all-reduce of 800 MB over each layer's network twice


def test_spread_experts_lie_on_as_many_devices_though_a_table_counts_one_worker() -> None:
    sparse = {"model.parameters": 670e9, "model.active_parameters": 37e9, "model.weight_dtype": "fp8"}
    worker = ROW | sparse | {"strategy.devices": 1, "strategy.tensor_parallel": 1, "strategy.expert_parallel": 8}

    times = foretell(worker, worker | {"strategy.devices": 8, "strategy.tensor_parallel": 8})
    assert times.latency[0] == pytest.approx(times.latency[1])
    assert times.energy[0] == pytest.approx(times.energy[1])
    assert times.device_seconds[0] == pytest.approx(times.device_seconds[1] / 8)  # as the table counts them


def test_layers_split_over_devices_one_after_the_other_gain_memory_and_no_speed() -> None:
    link = {"hardware.count": 4, "hardware.memory_bytes": 24e9}
    times = foretell(ROW | {"strategy.engine": "llama.cpp"}, ROW | link | {"strategy.engine": "llama.cpp"})

    assert times.tpot[1] == pytest.approx(times.tpot[0], rel=0.01)


def test_a_batch_costs_little_until_the_ridge_and_throughput_grows_with_it() -> None:
    one, many = foretell(ROW, ROW | {"workload.concurrency": 16}).tokens_per_s

    assert 8 < many / one < 16


def test_speculation_pays_where_tokens_are_accepted_and_the_batch_is_small_and_costs_where_it_is_large() -> None:
    guess = {"strategy.speculative_tokens": 4}
    small = foretell(
        ROW, ROW | guess | {"workload.draft_acceptance": 0.8}, ROW | guess | {"workload.draft_acceptance": 0.0}
    )
    many = {"workload.concurrency": 250, "workload.prompt_tokens": 100, "workload.requests": 2000}
    large = foretell(ROW | many, ROW | many | guess | {"workload.draft_acceptance": 0.3})

    assert small.latency[1] < 0.5 * small.latency[0]
    assert small.latency[2] >= 0.99 * small.latency[0]
    assert large.latency[1] > large.latency[0]


def test_a_prefix_that_is_cached_is_not_computed_again_but_by_the_first_of_its_group() -> None:
    shared = {"workload.shared_prefix_tokens": 800, "workload.prefix_groups": 1, "workload.requests": 100}
    without, with_it = foretell(ROW | shared, ROW | shared | {"strategy.prefix_caching": True}).ttft

    assert with_it < 0.75 * without


def test_small_chunks_shorten_the_worst_stall_and_lengthen_a_prompt() -> None:
    busy = ROW | {"workload.concurrency": 32, "workload.prompt_tokens": 4000, "workload.requests": 320}
    whole = {"strategy.chunked_prefill": False}
    times = foretell(
        busy | {"strategy.max_num_batched_tokens": 512}, busy | {"strategy.max_num_batched_tokens": 8192}, busy | whole
    )

    assert times.stall[0] < times.stall[1] < times.stall[2]


def test_fewer_seats_than_clients_make_requests_wait_and_past_capacity_an_open_load_queues() -> None:
    crowd = ROW | {"workload.concurrency": 64, "workload.requests": 640}
    closed = foretell(crowd, crowd | {"strategy.max_num_seqs": 4})
    open_load = {key: value for key, value in ROW.items() if key != "workload.concurrency"}
    opened = foretell(
        *(open_load | {"workload.requests_per_s": rate, "workload.requests": 200} for rate in (0.1, 1, 500))
    )

    assert closed.ttft[1] > 3 * closed.ttft[0]
    assert opened.latency[0] < 1.2 * foretell(ROW).latency[0]
    assert opened.latency[2] > 3 * opened.latency[0]
    assert opened.requests_per_s[2] < 100
    assert opened.requests_per_s[0] == pytest.approx(0.1, rel=0.01)


def test_a_few_tokens_touch_a_few_experts_and_many_touch_all() -> None:
    sparse = Table.of_rows(
        [{"model.parameters": 30e9, "model.active_parameters": 3e9, "model.experts": 128, "model.experts_per_token": 8}]
    )
    hands = physics.machine(sparse)

    assert hands.read_bytes(np.array([1.0]))[0] == pytest.approx(2 * 3e9, rel=0.02)
    assert hands.read_bytes(np.array([1000.0]))[0] == pytest.approx(2 * 30e9, rel=0.02)


def test_tokens_of_a_step_follow_the_geometric_series() -> None:
    assert physics.expected_tokens(np.array([0.5]), np.array([2.0]))[0] == pytest.approx(1 + 0.5 + 0.25)
    assert physics.expected_tokens(np.array([0.9]), np.array([0.0]))[0] == pytest.approx(1)


def test_a_row_of_which_nothing_is_known_still_has_finite_times() -> None:
    times = foretell({"model.name": "who knows"}, {"workload.requests_per_s": 3.0, "strategy.batching": "static"})

    for name in ("latency", "latency_p95", "ttft", "tpot", "stall", "tokens_per_s", "energy", "device_seconds"):
        values = getattr(times, name)
        assert np.isfinite(values).all(), name
        assert (values > 0).all(), name
