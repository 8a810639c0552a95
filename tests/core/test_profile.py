from dataclasses import replace

import pytest

from node.core.profile import (
    DISTURBED_OLD_US,
    METHOD,
    OLD_US,
    Conditions,
    Cpu,
    Figure,
    Gpu,
    Hardware,
    Measurement,
    Profile,
    Tools,
    differences,
    hardware_summary,
    reason_to_measure,
    same_conditions,
)
from protocol import limits
from protocol.advert import Accelerator

NOW = 1_800_000_000_000_000
GPU = Gpu(name="NVIDIA A100", memory_bytes=80 << 30, power_limit_mw=400_000, temperature_c=30, sm_clock_mhz=210)
CPU = Cpu(architecture="x86_64", cores=16, memory_bytes=64 << 30, name="AMD EPYC", governors=("performance",))
HARDWARE = Hardware(cpu=CPU, gpus=(GPU, GPU), driver="580.65")
TOOLS = Tools(torch="2.14.0", build="cuda", threads=15)
CONDITIONS = Conditions(time_us=NOW, torch="2.14.0", build="cuda", threads=15, method=METHOD, seconds=4.0)
FIGURE = Figure(
    kind="gemv", dtype="bfloat16", device="NVIDIA A100", shape="1x8192x8192", unit="B/s", median=1.5e12, mad=3e10,
    samples=40,
)  # fmt: skip
PROFILE = Profile(hardware=HARDWARE, measurement=Measurement(conditions=CONDITIONS, figures=(FIGURE,)))


def measured(conditions: Conditions = CONDITIONS, hardware: Hardware = HARDWARE) -> Profile:
    return Profile(hardware=hardware, measurement=Measurement(conditions=conditions, figures=(FIGURE,)))


def with_gpu(**changes: object) -> Hardware:
    return replace(HARDWARE, gpus=(GPU, replace(GPU, **changes)))


def test_what_was_measured_a_week_ago_on_the_same_machine_still_holds() -> None:
    assert reason_to_measure(PROFILE, HARDWARE, TOOLS, now_us=NOW + 7 * 86_400_000_000) == ""


@pytest.mark.parametrize(
    ("hardware", "tools", "word"),
    [
        (replace(HARDWARE, driver="590.1"), TOOLS, "driver: 580.65 -> 590.1"),
        (replace(HARDWARE, gpus=(GPU,)), TOOLS, "GPUs: NVIDIA A100, NVIDIA A100 -> NVIDIA A100"),
        (with_gpu(power_limit_mw=300_000), TOOLS, "GPU 1 power_limit_mw: 400000 -> 300000"),
        (replace(HARDWARE, cpu=replace(CPU, governors=("powersave",))), TOOLS, "CPU governors"),
        (replace(HARDWARE, cpu=replace(CPU, memory_bytes=32 << 30)), TOOLS, "CPU memory_bytes"),
        (HARDWARE, replace(TOOLS, torch="2.15.0"), "torch: 2.14.0 -> 2.15.0"),
        (HARDWARE, replace(TOOLS, threads=7), "threads: 15 -> 7"),
    ],
)
def test_another_driver_limit_part_or_library_is_measured_anew(hardware: Hardware, tools: Tools, word: str) -> None:
    assert word in reason_to_measure(PROFILE, hardware, tools, now_us=NOW)
    assert same_conditions(PROFILE, measured(hardware=hardware)) == (hardware == HARDWARE)


@pytest.mark.parametrize(
    "hardware",
    [
        with_gpu(temperature_c=80, sm_clock_mhz=1410, processes=3, processes_memory_bytes=1),
        with_gpu(power_limit_mw=None),  # a query that fails today is no other card
        with_gpu(ecc=True),  # a query that this version has learnt to ask is none either
        replace(HARDWARE, cpu=replace(CPU, memory_bytes=CPU.memory_bytes - (200 << 20))),  # another kernel keeps more
    ],
)
def test_readings_of_the_moment_and_what_is_unknown_make_no_other_machine(hardware: Hardware) -> None:
    assert differences(PROFILE, measured(hardware=hardware)) == ()
    assert reason_to_measure(PROFILE, hardware, TOOLS, now_us=NOW) == ""


@pytest.mark.parametrize(
    ("kept", "tools", "now_us", "word"),
    [
        (None, TOOLS, NOW, "nothing was measured"),
        (Profile(hardware=HARDWARE), TOOLS, NOW, "nothing was measured"),
        (PROFILE, TOOLS, NOW + OLD_US + 1, "is old"),
        (PROFILE, TOOLS, NOW - 1, "is old"),  # measured in the future: the clock was wrong then
        (measured(replace(CONDITIONS, method=METHOD - 1)), TOOLS, NOW, "in another way"),
        (measured(replace(CONDITIONS, engine_running=True)), TOOLS, NOW, "while an engine ran"),
        (measured(replace(CONDITIONS, foreign_cpu=0.5)), TOOLS, NOW + DISTURBED_OLD_US + 1, "disturbed"),
    ],
)
def test_no_old_or_disturbed_figures_are_measured_anew(
    kept: Profile | None, tools: Tools, now_us: int, word: str
) -> None:
    assert word in reason_to_measure(kept, HARDWARE, tools, now_us=now_us)


def test_disturbed_figures_hold_while_measuring_again_would_be_no_better() -> None:
    beside = measured(replace(CONDITIONS, engine_running=True, foreign_cpu=0.5))
    assert reason_to_measure(beside, HARDWARE, replace(TOOLS, engine_running=True), now_us=NOW + OLD_US) == ""
    busy = measured(replace(CONDITIONS, foreign_cpu=0.5))
    assert reason_to_measure(busy, HARDWARE, TOOLS, now_us=NOW + 60_000_000) == ""


def test_the_advert_says_equal_cards_once_in_words_that_the_wire_takes() -> None:
    odd = replace(GPU, name="  Näme\tof a card " + "x" * 100)
    summary = hardware_summary(Profile(hardware=replace(HARDWARE, gpus=(odd, GPU, GPU))))
    assert summary.accelerators[0] == Accelerator(name="NVIDIA A100", count=2, memory_bytes=80 << 30)
    assert summary.accelerators[1].name == ("N me of a card " + "x" * 100).strip()[: limits.WORD_CHARS].strip()
    assert (summary.cpu_name, summary.cpu_cores, summary.memory_bytes) == ("AMD EPYC", 16, 64 << 30)


def test_a_machine_of_too_many_kinds_of_card_says_the_most_frequent_within_the_wire_s_bound() -> None:
    gpus = tuple(replace(GPU, name=f"card {kind}") for kind in range(limits.ACCELERATORS + 4))
    summary = hardware_summary(Profile(hardware=replace(HARDWARE, gpus=(*gpus, gpus[-1]))))
    assert len(summary.accelerators) == limits.ACCELERATORS
    assert summary.accelerators[0] == Accelerator(name=gpus[-1].name, count=2, memory_bytes=80 << 30)


def test_a_figure_is_found_by_kind_and_dtype() -> None:
    assert PROFILE.figure("gemv") is FIGURE
    assert PROFILE.figure("gemv", "float16") is None
    assert FIGURE.spread == pytest.approx(0.02)
    assert Profile(hardware=HARDWARE).figure("gemv") is None
