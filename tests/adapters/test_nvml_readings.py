"""How devices are at one moment: summed, the hottest, and what of their memory is others'."""

from types import SimpleNamespace

import pynvml
import pytest

from node.adapters.nvml import readings
from node.adapters.own_processes import foreign
from node.core.operator_limits import Readings
from tests.fakes.nvml import FULL, FakeNvml

CARD = {**FULL, "nvmlDeviceGetPowerUsage": 312_500}
BUSY = {
    **CARD,
    "nvmlDeviceGetTemperature": {pynvml.NVML_TEMPERATURE_GPU: 71},
    "nvmlDeviceGetComputeRunningProcesses": [
        SimpleNamespace(pid=7, usedGpuMemory=4 << 30),
        SimpleNamespace(pid=8, usedGpuMemory=2 << 30),
    ],
    "nvmlDeviceGetGraphicsRunningProcesses": [SimpleNamespace(pid=8, usedGpuMemory=2 << 30)],
}


def test_power_is_summed_the_hottest_counts_and_our_own_memory_is_not_others() -> None:
    library = FakeNvml([CARD, BUSY])
    found = readings(lambda pid: pid != 7, library)
    assert found == Readings(watts=625.0, temperature_c=71.0, others_bytes=2 << 30, others=2)
    assert library.open == 0
    assert all(hasattr(pynvml, name) for name in library.asked)


@pytest.mark.parametrize(
    ("missing", "field"),
    [("nvmlDeviceGetPowerUsage", "watts"), ("nvmlDeviceGetTemperature", "temperature_c")],
)
def test_what_a_card_does_not_say_costs_nothing_else(missing: str, field: str) -> None:
    card = {name: value for name, value in CARD.items() if name != missing}
    found = readings(lambda _: True, FakeNvml([card]))
    assert getattr(found, field) is None
    assert found.others == 2
    assert (found.watts, found.temperature_c) != (None, None)


def test_a_driver_that_tells_of_no_processes_is_believed_to_know_none() -> None:
    card: dict[str, object] = {"nvmlDeviceGetName": "K80"}
    assert readings(lambda _: True, FakeNvml([card])) == Readings()


def test_a_card_that_fell_off_the_bus_and_a_missing_driver_hide_nothing_and_break_nothing() -> None:
    assert readings(lambda _: True, FakeNvml([None, CARD])).watts == 312.5
    assert readings(lambda _: True, FakeNvml([], driver=False)) == Readings()
    assert readings(lambda _: True, FakeNvml([])) == Readings()


@pytest.mark.gpu
def test_a_real_card_draws_power_and_is_warm() -> None:
    found = readings(foreign)
    if found == Readings():
        pytest.skip("no NVIDIA GPU, or no driver")
    assert found.watts is not None
    assert 5.0 < found.watts < 2000.0
    assert found.temperature_c is not None
    assert 10.0 < found.temperature_c < 110.0
