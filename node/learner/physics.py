"""How long a step of the engine takes by the laws of memory, arithmetic and links: closed forms, in seconds.

Knows the columns that describe model, hardware, workload and strategy; learns nothing and sees no outcome. Constants
come from the node's micro-benchmark (`hardware.measured_*`), from data sheets where it has none. How steps add up to
requests under load is queueing.py's. Everything is an array of shape (rows,).

Theory. A decoder-only transformer with N active parameters does 2N operations for a token. A step over m tokens

    t(m) = | reads(m) / bandwidth , 2 N m / flops , layers x kernel floor | + attention + links + host
    reads(m) = bytes of the weights that m tokens touch, on one device
    attention = cached tokens x KV bytes / attention bandwidth (decode) + 4 x q x p^2/2 x layers / flops (prefill)
    links = 2 all-reduces a layer of m x hidden x 2 bytes

where |...| is the p-norm with p = NORM: 1 would add what in truth overlaps, infinity would be the pure roofline.
Decode (m = running requests) is bound by reads, prefill (m = prompt tokens) by operations: hence batching, hence
chunking's price, hence that speculation is free while m (k + 1) stays left of the ridge.
Sources: Williams et al., "Roofline" (2009); Pope et al., "Efficiently scaling transformer inference" (2022);
Agrawal et al., "Sarathi-Serve" (2024) for chunks; Leviathan et al. (2023) for speculation.
"""

import re
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from node.learner.table import Floats, Table

# Bytes of one parameter. Four-bit formats carry a scale of one byte for every 16 values.
WEIGHT_BYTES: Final = {
    "float32": 4.0, "fp32": 4.0, "bfloat16": 2.0, "bf16": 2.0, "float16": 2.0, "fp16": 2.0, "fp8": 1.0, "int8": 1.0,
    "fp4": 0.5625, "nvfp4": 0.5625, "mxfp4": 0.53, "int4": 0.5625, "awq": 0.5625, "gptq": 0.5625,
}  # fmt: skip
STORED: Final = ("model.weight_dtype",)  # what says how `model.weight_bytes` are kept
# What is reached of a data sheet's figure: medians over the devices whose micro-benchmark is known.
SPEC_BANDWIDTH_SHARE: Final = 0.75
SPEC_FLOPS_SHARE: Final = 0.65
SPEC_LINK_SHARE: Final = 0.5
PREFILL_ATTENTION_SHARE: Final = 0.5  # of GEMM's rate that attention over a prompt reaches
KERNEL_FLOOR_S: Final = 60e-6  # a layer's kernels at their shortest: ten of 6 µs, inside a captured graph
HOST_STEP_S: Final = 0.3e-3  # scheduling and sampling that does not overlap
LINK_FLOOR_S: Final = 12e-6  # an all-reduce of nothing, where none was measured
LINKED: Final = 8  # devices that one host's links join; beyond them the network counts
LINKED_IN_RACK: Final = 72  # of NVIDIA's GB series (NVL72), whose links join a rack
IN_RACK: Final = re.compile(r"\bgb\d{3}")
NETWORK: Final = 50e9  # bytes a second of one device's network card (400 Gbit/s), of which links' share is reached
NETWORK_FLOOR_S: Final = 40e-6  # an all-reduce of nothing among hosts
PREFIX_HASH_S: Final = 40e-6  # a prompt's blocks hashed and looked up
NORM: Final = 1.3
# A machine that nobody described: one small GPU. A wrong constant is a bias that records correct; NaN is none.
SOME_BANDWIDTH: Final = 300e9
SOME_FLOPS: Final = 50e12
SOME_LINK: Final = 16e9
SOME_MEMORY: Final = 24e9
SOME_TDP_WATTS: Final = 300.0
SPLIT_BY_LAYERS: Final = frozenset({"llama.cpp", "llamacpp", "ollama"})
MEMORY_SHARE: Final = 0.9  # of a device's memory that engines use
ACTIVATION_SHARE: Final = 0.02
LEAST_CACHE_SHARE: Final = 0.04
SOME_ACCEPTANCE: Final = 0.4  # of proposed tokens
BYTES_OF_ACTIVATIONS: Final = 2.0
ALLREDUCE_SMALL: Final = 64 * 1024.0
ALLREDUCE_LARGE: Final = 32 * 1024.0 * 1024.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Model on hardware: what a step costs there.

    Attributes:
        layers, hidden: of the model. query_width: heads x head dimension.
        devices: that work for one request together (tensor parallel). all_devices: of all copies.
        paid: devices that are counted; fewer where a table counts a worker of several as one.
        copies: of the model, each with its share of the requests. holders: devices that hold one copy.
        active: parameters that a token passes through. weight_bytes: of all parameters; expert_bytes: of those experts.
        experts, chosen: in a layer, and of them for a token; 0 where there are none.
        kv_bytes: of a token, over all devices.
        bandwidth, attention_bandwidth: bytes a second of one device. flops: operations a second of one device.
        allreduce_small_s, allreduce_large_s: of 64 KiB and of 32 MiB.
        memory_bytes, tdp_watts: of one device.
    """

    layers: Floats
    hidden: Floats
    query_width: Floats
    devices: Floats
    all_devices: Floats
    paid: Floats
    copies: Floats
    holders: Floats
    active: Floats
    weight_bytes: Floats
    expert_bytes: Floats
    experts: Floats
    chosen: Floats
    kv_bytes: Floats
    bandwidth: Floats
    attention_bandwidth: Floats
    flops: Floats
    allreduce_small_s: Floats
    allreduce_large_s: Floats
    memory_bytes: Floats
    tdp_watts: Floats

    def read_bytes(self, tokens: Floats) -> Floats:
        """Return the bytes of weights that a step over so many tokens reads on one device.

        Of E experts, of which each token goes to k, n tokens leave (1 - k/E)^n untouched if routed evenly.
        """
        share = np.divide(self.chosen, self.experts, out=np.ones_like(self.experts), where=self.experts > 0)
        touched = 1 - np.power(np.clip(1 - share, 0, 1), tokens)
        return (self.weight_bytes - self.expert_bytes * (1 - touched)) / self.devices

    def allreduce_s(self, size: Floats) -> Floats:
        """Return the time of one all-reduce of `size` bytes: a power law through both measurements, flat below."""
        ratio = np.log(self.allreduce_large_s / self.allreduce_small_s) / np.log(ALLREDUCE_LARGE / ALLREDUCE_SMALL)
        grown = self.allreduce_small_s * np.power(np.maximum(size, ALLREDUCE_SMALL) / ALLREDUCE_SMALL, ratio)
        beyond = self.allreduce_large_s * size / ALLREDUCE_LARGE  # bandwidth alone counts there
        return np.where(self.devices > 1, np.where(size > ALLREDUCE_LARGE, beyond, grown), 0.0)

    def step_s(self, decoding: Floats, width: Floats, context: Floats, prefilling: Floats, prompt: Floats) -> Floats:
        """Return the time of one step.

        Args:
            decoding: requests that decode, each over `context` cached tokens, which its tokens read together.
            width: tokens that each of them decodes: 1, or k + 1 under speculation.
            context: tokens cached for each.
            prefilling: tokens of prompts. prompt: tokens that each of those looks back on at most.
        """
        tokens = np.maximum(decoding * width + prefilling, 1.0)
        reads = self.read_bytes(tokens) / self.bandwidth
        operations = 2 * self.active * tokens / self.devices / self.flops
        dense = np.power(
            np.power(reads, NORM) + np.power(operations, NORM) + np.power(self.layers * KERNEL_FLOOR_S, NORM), 1 / NORM
        )
        cached = decoding * context * self.kv_bytes / self.devices / self.attention_bandwidth
        looking_back = 2 * self.query_width * prefilling * prompt * self.layers / self.devices
        attention = cached + looking_back / (PREFILL_ATTENTION_SHARE * self.flops)
        links = 2 * self.layers * self.allreduce_s(tokens * self.hidden * BYTES_OF_ACTIVATIONS)
        return dense + attention + links + HOST_STEP_S

    def prefill_s(self, tokens: Floats, prompt: Floats) -> Floats:
        """Return the time of prefilling so many tokens at once, nothing being decoded."""
        nothing = np.zeros_like(tokens)
        return self.step_s(nothing, nothing, nothing, tokens, prompt)

    def kv_tokens(self) -> Floats:
        """Return how many tokens of KV cache fit beside the weights.

        Never nothing: a row is asked about because it runs, so a figure of weights or memory is wrong then.
        """
        memory = self.memory_bytes * self.holders
        room = np.maximum(memory * (MEMORY_SHARE - ACTIVATION_SHARE) - self.weight_bytes, LEAST_CACHE_SHARE * memory)
        return np.maximum(room / np.maximum(self.kv_bytes, 1.0), 1.0)


def machine(table: Table) -> Machine:
    """Read a table's rows as machines, filling what is unknown from data sheets, then from common proportions."""
    numbers = table.numbers
    devices, paid = _devices(table)
    all_devices = np.maximum(paid, devices)
    parameters = known(numbers("model.parameters"), 7e9)
    active = known(numbers("model.active_parameters"), parameters)
    layers = known(numbers("model.layers"), 4 * np.cbrt(parameters / 1e6))
    hidden = known(numbers("model.hidden"), np.sqrt(parameters / (12 * layers)))
    width = known(numbers("model.heads") * numbers("model.head_dim"), hidden)
    experts, chosen = known(numbers("model.experts"), 0.0), known(numbers("model.experts_per_token"), 0.0)
    sparse = parameters > 1.2 * active
    experts = np.where(sparse & (experts == 0), 64.0, experts)  # of those whose card tells only both sizes
    chosen = np.where(sparse & (chosen == 0), np.maximum(experts * active / parameters, 1.0), chosen)
    size = weight_size(table)
    weights = known(numbers("model.weight_bytes") * size / _size_by(table, STORED), parameters * size)
    share = np.where(experts > 0, chosen / np.maximum(experts, 1), 0.0)
    # active = dense + share x expert and parameters = dense + expert, solved for expert
    expert = np.where(sparse & (share < 1), (parameters - active) / np.maximum(1 - share, 1e-9), 0.0)
    bandwidth = _bandwidth(table, size)
    stages = known(numbers("strategy.pipeline_parallel"), 1.0)
    holders = np.where(in_turn(table), all_devices, np.minimum(devices * stages, all_devices))
    small, large = _allreduce(table, devices)
    return Machine(
        layers=layers, hidden=hidden, query_width=width, devices=devices, all_devices=all_devices, paid=paid,
        copies=all_devices / holders, holders=holders, active=active,
        weight_bytes=weights, expert_bytes=np.minimum(expert, parameters) * weights / parameters,
        experts=experts, chosen=chosen, kv_bytes=_kv_bytes(table, layers, hidden),
        bandwidth=bandwidth, attention_bandwidth=known(numbers("hardware.measured_attention_bytes_per_s"), bandwidth),
        flops=_flops(table, size), allreduce_small_s=small, allreduce_large_s=large,
        memory_bytes=known(numbers("hardware.memory_bytes"), SOME_MEMORY),
        tdp_watts=known(numbers("hardware.tdp_watts"), numbers("hardware.power_limit_watts"), SOME_TDP_WATTS),
    )  # fmt: skip


def known(first: Floats, *others: "Floats | float") -> Floats:
    """Return the first value that is known of each row."""
    result = first
    for other in others:
        result = np.where(np.isnan(result), other, result)
    return result


def weight_size(table: Table) -> Floats:
    """Return the bytes of a parameter: as the strategy quantizes it, else by the engine's precision or the model."""
    return _size_by(table, (*STORED, "strategy.precision", "strategy.weight_quantization"))


def _size_by(table: Table, columns: tuple[str, ...]) -> Floats:
    sizes = np.full(table.rows, 2.0)
    for column in columns:  # the last word counts
        words = table.words(column)
        named = np.array([WEIGHT_BYTES.get(str(word).lower(), np.nan) for word in words], dtype=np.float64)
        sizes = known(named, sizes)
    return sizes


def price_devices(table: Table) -> Floats:
    """Return how many devices are counted and paid for."""
    return _devices(table)[1]


def busy_devices(table: Table) -> Floats:
    """Return how many devices can be at work: those that are counted, and those that experts are spread over."""
    return np.maximum(price_devices(table), known(table.numbers("strategy.expert_parallel"), 1.0))


def expected_tokens(acceptance: Floats, proposed: Floats) -> Floats:
    """Return the tokens that a step of speculation yields: (1 - a^(k+1)) / (1 - a); 1 where none are proposed."""
    a = np.clip(acceptance, 0.0, 0.999)
    return (1 - np.power(a, proposed + 1)) / (1 - a)


def _devices(table: Table) -> tuple[Floats, Floats]:
    count = known(table.numbers("hardware.count"), np.nan)
    parallel = table.numbers("strategy.tensor_parallel")
    stages = known(table.numbers("strategy.pipeline_parallel"), 1.0)
    paid = known(table.numbers("strategy.devices"), count, parallel * stages, 1.0)
    together = np.maximum(np.minimum(known(parallel, paid / stages), paid), 1.0)
    # Experts that are spread lie on as many devices, though attention is not split and a table counts one worker.
    spread = np.where(together == 1, known(table.numbers("strategy.expert_parallel"), 1.0), 1.0)
    together = np.maximum(together, spread)
    return np.where(in_turn(table), 1.0, together), np.maximum(paid, 1.0)


def in_turn(table: Table) -> NDArray[np.bool_]:
    """Tell which rows give each device some layers, so that one works while the others wait: more memory, no speed.

    llama.cpp splits so unless it is told otherwise.
    """
    return np.array([str(word).lower() in SPLIT_BY_LAYERS for word in table.words("strategy.engine")], dtype=np.bool_)


def _bandwidth(table: Table, size: Floats) -> Floats:
    numbers = table.numbers
    eight = np.where(size <= 1, numbers("hardware.measured_gemv_fp8_bytes_per_s"), np.nan)
    spec = SPEC_BANDWIDTH_SHARE * numbers("hardware.spec_bytes_per_s")
    # A copy reads and writes at once what a matrix times a vector reads alone, and comes close to it.
    return known(
        eight, numbers("hardware.measured_gemv_bytes_per_s"), numbers("hardware.measured_gemv_fp32_bytes_per_s"),
        numbers("hardware.measured_copy_bytes_per_s"), spec, SOME_BANDWIDTH,
    )  # fmt: skip


def _flops(table: Table, size: Floats) -> Floats:
    numbers = table.numbers
    eight = np.where(size <= 1, numbers("hardware.measured_gemm_fp8_flops"), np.nan)
    spec16, spec8 = numbers("hardware.spec_flops_bf16"), numbers("hardware.spec_flops_fp8")
    four = (size < 1) & _computes_in_four_bits(table)
    spec = np.where(size < 1, np.where(four, 2 * spec8, spec16), np.where(size == 1, known(spec8, spec16), spec16))
    return known(
        eight, numbers("hardware.measured_gemm_flops"), numbers("hardware.measured_gemm_fp32_flops"),
        SPEC_FLOPS_SHARE * known(spec, spec16), SOME_FLOPS,
    )  # fmt: skip


def _computes_in_four_bits(table: Table) -> NDArray[np.bool_]:
    """Tell which rows multiply in four bits (fp4 formats) rather than widen four-bit integers first."""
    words = [table.words(name) for name in ("strategy.precision", "strategy.weight_quantization")]
    named = [any("fp4" in str(word).lower() for word in row) for row in zip(*words, strict=True)]
    return np.array(named, dtype=np.bool_)


def _kv_bytes(table: Table, layers: Floats, hidden: Floats) -> Floats:
    by_heads = 4 * layers * table.numbers("model.kv_heads") * table.numbers("model.head_dim")
    kv = known(table.numbers("model.kv_bytes_per_token"), by_heads, 4 * layers * hidden / 4)  # four queries a KV head
    half = np.array(["8" in str(word) for word in table.words("strategy.kv_cache_dtype")])
    return np.where(half, kv / 2, kv)


def _allreduce(table: Table, devices: Floats) -> tuple[Floats, Floats]:
    link = known(table.numbers("hardware.spec_link_bytes_per_s"), SOME_LINK) * SPEC_LINK_SHARE
    moved = 2 * (devices - 1) / devices  # a ring sends each byte so often
    among_hosts = devices > _linked(table)

    def seconds(measured: str, size: float) -> Floats:
        linked = known(table.numbers(measured), LINK_FLOOR_S + moved * size / link)
        over_network = NETWORK_FLOOR_S + moved * size / (NETWORK * SPEC_LINK_SHARE)
        return np.where(among_hosts, np.maximum(linked, over_network), linked)

    small = seconds("hardware.measured_allreduce_64k_s", ALLREDUCE_SMALL)
    large = seconds("hardware.measured_allreduce_32m_s", ALLREDUCE_LARGE)
    return small, np.maximum(large, small)


def _linked(table: Table) -> Floats:
    """Return how many devices are joined by links rather than by a network, shape (rows,)."""
    rack = [bool(IN_RACK.search(str(name).lower())) for name in table.words("hardware.name")]
    return np.where(rack, LINKED_IN_RACK, LINKED)
