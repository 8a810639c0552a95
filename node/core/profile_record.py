"""The machine's profile as performance records tell of it: the devices that the engine used, and what they can do.

Knows both vocabularies and nothing else. What the profile does not know stays unknown, and what the wire has no word
for is left out.
"""

import re
from typing import Any, Final

from node.core.profile import Figure, Gpu, Profile
from node.core.self_advert import device_label
from node.core.strategy import Build
from protocol import limits
from protocol.performance import Benchmark, Hardware

_DTYPES: Final = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32", "float8_e4m3fn": "fp8", "int8": "int8"}
_WORD: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+:/-]{0,63}")
_SIZES: Final = {"64 KiB": "64k", "32 MiB": "32m"}  # how the shape of an all-reduce begins


def hardware_on_wire(profile: Profile, build: Build, *, devices: int = 1) -> Hardware:
    """Return what an engine of that build ran on, with so many of the GPUs: the first ones, as vLLM takes them."""
    cpu, gpus = profile.hardware.cpu, profile.hardware.gpus
    host: dict[str, Any] = {
        "cpu_name": device_label(cpu.name) if cpu.name else None,
        "cpu_cores": max(cpu.cores, 1),
        "host_memory_bytes": cpu.memory_bytes,
    }
    if build == "cpu" or not gpus:
        name = host["cpu_name"] or cpu.architecture
        return Hardware(
            name=name, count=1, platform=build, memory_bytes=cpu.memory_bytes, clock_khz=_khz(cpu.clock_max_mhz), **host
        )
    gpu = gpus[0]
    return Hardware(
        name=device_label(gpu.name) or "unnamed",
        count=min(devices, limits.DEVICES),
        platform=build,
        memory_bytes=gpu.mig_slices_bytes[0] if gpu.mig_slices_bytes else gpu.memory_bytes,
        capability=_word(gpu.capability),
        driver=_word(profile.hardware.driver),
        clock_khz=_khz(gpu.sm_clock_target_mhz or gpu.sm_clock_max_mhz),
        memory_clock_khz=_khz(gpu.memory_clock_max_mhz),
        power_limit_mw=gpu.power_limit_mw,
        interconnect=_interconnect(gpu),
        partition="mig" if gpu.mig else None,
        **host,
    )


def benchmark_on_wire(profile: Profile, build: Build) -> Benchmark:
    """Return what the micro-benchmark read of the device that an engine of that build uses; empty where none ran."""
    if profile.measurement is None:
        return Benchmark()
    figures = profile.measurement.figures
    device = next((figure.device for figure in figures if (figure.device == "cpu") == (build == "cpu")), None)
    found: dict[str, int] = {}
    for figure in figures:
        if figure.device == device and (name := _name(figure)) is not None:
            found.setdefault(name, round(figure.median * _SCALE[figure.unit][1]))
            found.setdefault(_of_spread(name), round(figure.mad * _SCALE[figure.unit][1]))
    return Benchmark(**found)  # pyright: ignore[reportArgumentType] -- the names are those of its integer fields


_SCALE: Final = {"B/s": ("bytes_per_s", 1.0), "FLOP/s": ("mflops", 1e-6), "s": ("ns", 1e9)}


def _name(figure: Figure) -> str | None:
    """Return the field that a figure goes into."""
    unit, dtype = _SCALE[figure.unit][0], _DTYPES.get(figure.dtype)
    if figure.kind in ("copy", "attention"):
        return f"{figure.kind}_{unit}"
    if figure.kind == "allreduce":
        size = next((size for start, size in _SIZES.items() if figure.shape.startswith(start)), None)
        return None if size is None else f"allreduce_{size}_{unit}"
    return None if dtype is None else f"{figure.kind}_{dtype}_{unit}"


def _of_spread(name: str) -> str:
    for unit, _ in _SCALE.values():
        if name.endswith(unit):
            return f"{name.removesuffix(unit)}mad_{unit}"
    return name


def _khz(mhz: int | None) -> int | None:
    return None if mhz is None else mhz * 1000


def _word(text: str | None) -> str | None:
    return text if text and _WORD.fullmatch(text) else None


def _interconnect(gpu: Gpu) -> str | None:
    if gpu.nvlinks:
        return "NVLink"
    if gpu.pcie_generation and gpu.pcie_width:
        return f"PCIe {gpu.pcie_generation}.0 x{gpu.pcie_width}"
    return None
