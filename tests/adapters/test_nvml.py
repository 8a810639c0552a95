from dataclasses import fields
from types import SimpleNamespace

import pynvml
import pytest

from node.adapters import nvml
from node.core.profile import Gpu
from tests.fakes.nvml import FULL, FakeNvml


def test_a_card_that_answers_everything_is_described_in_full() -> None:
    library = FakeNvml([FULL])
    found = nvml.survey(library)
    assert (found.driver, found.cuda, found.trouble) == ("580.65.06", "13.0", "")
    assert found.devices == (
        Gpu(
            name="NVIDIA H100 80GB HBM3",
            memory_bytes=85_520_809_984,
            capability="9.0",
            sm_clock_max_mhz=1980,
            memory_clock_max_mhz=2619,
            sm_clock_target_mhz=1755,
            power_limit_mw=650_000,
            power_limit_default_mw=700_000,
            pcie_generation=5,
            pcie_width=16,
            nvlinks=17,
            mig=False,
            ecc=True,
            sm_clock_mhz=345,
            memory_clock_mhz=2619,
            temperature_c=34,
            processes=2,
            processes_memory_bytes=4 << 30,
        ),
    )
    assert library.open == 0


def test_every_function_that_is_asked_for_is_one_of_the_real_library() -> None:
    library = FakeNvml([FULL])
    nvml.survey(library)
    own = {name for name in vars(FakeNvml) if name.startswith("nvml")}
    assert len(library.asked) >= len(FULL)
    assert [name for name in library.asked | own if not hasattr(pynvml, name)] == []


@pytest.mark.parametrize("missing", [name for name in FULL if name != "nvmlDeviceGetName"])
def test_a_query_that_a_card_does_not_support_costs_its_own_fact_and_no_other(missing: str) -> None:
    whole = nvml.survey(FakeNvml([FULL])).devices[0]
    found = nvml.survey(FakeNvml([{name: answer for name, answer in FULL.items() if name != missing}]))
    assert found.trouble == ""
    changed = {
        field.name for field in fields(Gpu) if getattr(found.devices[0], field.name) != getattr(whole, field.name)
    }
    assert all(getattr(found.devices[0], name) is None for name in changed - {"processes", "processes_memory_bytes"})
    assert 0 <= len(changed) <= 2


def test_a_card_that_only_has_a_name_is_a_card_all_the_same() -> None:
    only_name: dict[str, object] = {"nvmlDeviceGetName": b"Tesla K80"}  # old libraries answer in bytes
    assert nvml.survey(FakeNvml([only_name])).devices == (Gpu(name="Tesla K80"),)


def test_a_card_that_fell_off_the_bus_hides_no_other() -> None:
    found = nvml.survey(FakeNvml([None, FULL]))
    assert found.gpus == ("NVIDIA H100 80GB HBM3",)
    assert found.trouble.startswith("GPU 0: ")


def test_a_card_cut_into_slices_tells_the_memory_of_each() -> None:
    slices = [{"nvmlDeviceGetMemoryInfo": SimpleNamespace(total=size << 30)} for size in (40, 20)]
    card = {**FULL, "nvmlDeviceGetMigMode": [1, 1], "nvmlDeviceGetMaxMigDeviceCount": 2, "slices": slices}
    (gpu,) = nvml.survey(FakeNvml([card])).devices
    assert (gpu.mig, gpu.mig_slices_bytes) == (True, (40 << 30, 20 << 30))


def test_a_machine_without_a_driver_says_so_and_a_driver_without_a_card_is_no_trouble() -> None:
    assert nvml.survey(FakeNvml([], driver=False)) == nvml.GpuSurvey(trouble="no NVIDIA driver on this machine")
    assert nvml.survey(FakeNvml([])).trouble == ""


@pytest.mark.gpu
def test_a_real_card_has_a_name_memory_and_a_capability() -> None:
    found = nvml.survey()
    if not found.devices:
        pytest.skip(f"no NVIDIA GPU: {found.trouble}")
    gpu = found.devices[0]
    assert gpu.name
    assert gpu.memory_bytes
    assert gpu.capability
