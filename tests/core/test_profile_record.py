"""The profile on the wire: each figure in its field, nothing invented, every field that is used there is one."""

from dataclasses import fields, replace

import pytest

from node.core.profile import Conditions, Cpu, Figure, Gpu, Hardware, Measurement, Profile
from node.core.profile_record import benchmark_on_wire, hardware_on_wire
from protocol import schema
from protocol.performance import Benchmark

CPU = Cpu(architecture="x86_64", cores=8, memory_bytes=64 * 2**30, name="AMD EPYC 9354P 32-Core Processor")
GPU = Gpu(
    name="NVIDIA H200",
    memory_bytes=150_754_820_096,
    capability="9.0",
    sm_clock_max_mhz=1980,
    memory_clock_max_mhz=3201,
    power_limit_mw=700_000,
    nvlinks=18,
)
MACHINE = Hardware(cpu=CPU, gpus=(GPU, GPU), driver="580.95.05")
CONDITIONS = Conditions(time_us=1, torch="2.13.0", build="cuda", threads=8, method=1, seconds=4.0)


def figure(kind: str, dtype: str = "bfloat16", median: float = 2e12, unit: str = "B/s", **changes: object) -> Figure:
    made = {"kind": kind, "dtype": dtype, "device": "cuda:0", "shape": "1x1", "unit": unit, "median": median}
    return Figure(**({"mad": median / 100, "samples": 9} | made | changes))  # type: ignore[arg-type]


FIGURES = (
    *(figure("gemv", dtype) for dtype in ("bfloat16", "float16", "float32", "float8_e4m3fn", "int8")),
    *(figure("gemm", dtype, 9e14, "FLOP/s") for dtype in ("bfloat16", "float16", "float32", "float8_e4m3fn", "int8")),
    figure("copy", median=3e12),
    figure("attention", median=2.5e12),
    figure("allreduce", median=7.29e-6, unit="s", shape="64 KiB x 2"),
    figure("allreduce", median=1.2e-4, unit="s", shape="32 MiB x 2"),
    figure("gemv", "float4", 1.0),  # a format that the wire has no field for yet
    figure("gemv", "bfloat16", 5e10, device="cpu"),
    figure("gemv", "bfloat16", 1.0, device="cuda:1"),
)


def profile(figures: tuple[Figure, ...] = FIGURES) -> Profile:
    return Profile(hardware=MACHINE, measurement=Measurement(conditions=CONDITIONS, figures=figures))


def test_every_field_of_the_benchmark_is_filled_by_a_figure_of_the_device_that_was_used() -> None:
    read = benchmark_on_wire(profile(), "cuda")
    assert all(getattr(read, item.name) is not None for item in fields(Benchmark))
    assert read.gemv_bf16_bytes_per_s == 2_000_000_000_000
    assert read.gemv_bf16_mad_bytes_per_s == 20_000_000_000
    assert read.gemm_fp8_mflops == 900_000_000
    assert read.allreduce_64k_ns == 7_290
    schema.write(read)
    assert benchmark_on_wire(profile(), "cpu").gemv_bf16_bytes_per_s == 50_000_000_000


def test_without_a_measurement_the_benchmark_is_empty() -> None:
    assert benchmark_on_wire(Profile(hardware=MACHINE), "cuda") == Benchmark()
    assert benchmark_on_wire(profile(()), "cpu") == Benchmark()


def test_the_devices_that_the_engine_used_are_told() -> None:
    told = hardware_on_wire(profile(), "cuda", devices=2)
    assert (told.name, told.count, told.platform) == ("NVIDIA H200", 2, "cuda")
    assert (told.clock_khz, told.power_limit_mw, told.interconnect) == (1_980_000, 700_000, "NVLink")
    assert (told.capability, told.driver, told.cpu_name) == ("9.0", "580.95.05", CPU.name)
    on_cpu = hardware_on_wire(profile(), "cpu")
    assert (on_cpu.name, on_cpu.count, on_cpu.memory_bytes, on_cpu.driver) == (CPU.name, 1, CPU.memory_bytes, None)
    for each in (told, on_cpu):
        schema.write(each)


@pytest.mark.parametrize(
    "machine",
    [
        Hardware(cpu=Cpu(architecture="x86_64", cores=0, memory_bytes=1)),
        Hardware(cpu=replace(CPU, name="\x1b[2J"), gpus=(Gpu(name="\x1b"),), driver="a driver"),
        Hardware(cpu=CPU, gpus=(replace(GPU, mig=True, mig_slices_bytes=(2**34,)),)),
    ],
)
def test_what_is_not_known_stays_unknown_and_odd_words_keep_no_record_from_being_written(machine: Hardware) -> None:
    for build in ("cuda", "cpu"):
        schema.write(hardware_on_wire(Profile(hardware=machine), build))
