"""NVIDIA GPUs as the driver shows them, and an honest word where there is none.

One foreign library: `pynvml`. Never raises: a machine without a GPU is a normal machine, and every single query is
one that some card, driver or container does not support; what cannot be learnt is None.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pynvml

from node.core.operator_limits import Readings
from node.core.profile import Gpu


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuSurvey:
    """What NVML said. `trouble` is empty when the driver answered for all that it counts, even if that is none."""

    devices: tuple[Gpu, ...] = ()
    driver: str = ""
    cuda: str = ""  # the highest version that the driver speaks
    trouble: str = ""

    @property
    def gpus(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(device.name for device in self.devices)


def survey(library: ModuleType = pynvml) -> GpuSurvey:
    """Ask the driver once. Blocks: some ms, a second where the driver was not loaded.

    Args:
        library: what speaks for the driver.
    """
    try:
        library.nvmlInit()
    except library.NVMLError as error:
        return GpuSurvey(trouble=_words(library, error))
    try:
        return _Driver(library).survey()
    except library.NVMLError as error:
        return GpuSurvey(trouble=_words(library, error))
    finally:
        library.nvmlShutdown()


def free_bytes(library: ModuleType = pynvml) -> int | None:
    """Return the memory that is free on the first GPU; None where nobody can tell. Blocks as `survey` does."""
    try:
        library.nvmlInit()
    except library.NVMLError:
        return None
    try:
        return int(library.nvmlDeviceGetMemoryInfo(library.nvmlDeviceGetHandleByIndex(0)).free)
    except library.NVMLError:
        return None
    finally:
        library.nvmlShutdown()


def readings(foreign: Callable[[int], bool], library: ModuleType = pynvml) -> Readings:
    """Ask the driver how the devices are at this moment. Blocks as `survey` does.

    Args:
        foreign: whether a process is not of this node.
        library: what speaks for the driver.
    """
    try:
        library.nvmlInit()
    except library.NVMLError:
        return Readings()
    try:
        return _Driver(library).readings(foreign)
    except library.NVMLError:
        return Readings()
    finally:
        library.nvmlShutdown()


class _Driver:
    """NVML's functions, each of which may be missing, unsupported or forbidden."""

    def __init__(self, library: ModuleType) -> None:
        self._library = library

    def survey(self) -> GpuSurvey:
        devices: list[Gpu] = []
        troubles: list[str] = []
        for index in range(self._library.nvmlDeviceGetCount()):
            try:
                devices.append(self._gpu(self._library.nvmlDeviceGetHandleByIndex(index)))
            except self._library.NVMLError as error:  # one that fell off the bus hides no other
                troubles.append(f"GPU {index}: {error}")
        cuda = self._ask("nvmlSystemGetCudaDriverVersion_v2")
        return GpuSurvey(
            devices=tuple(devices),
            driver=_text(self._ask("nvmlSystemGetDriverVersion") or ""),
            cuda=f"{cuda // 1000}.{cuda % 1000 // 10}" if cuda else "",
            trouble="; ".join(troubles),
        )

    def readings(self, foreign: Callable[[int], bool]) -> Readings:
        """Return power and others' memory of all devices, and the temperature of the hottest."""
        watts: list[float] = []
        degrees: list[int] = []
        held: dict[int, int] | None = None
        for index in range(self._library.nvmlDeviceGetCount()):
            handle = self._ask("nvmlDeviceGetHandleByIndex", index)
            if handle is None:  # it fell off the bus
                continue
            if (milliwatts := self._ask("nvmlDeviceGetPowerUsage", handle)) is not None:
                watts.append(milliwatts / 1000.0)
            if (warm := self._ask("nvmlDeviceGetTemperature", handle, self._library.NVML_TEMPERATURE_GPU)) is not None:
                degrees.append(warm)
            if (processes := self._processes(handle)) is not None:
                held = {} if held is None else held
                for pid, used in processes.items():
                    held[pid] = held.get(pid, 0) + used
        others = None if held is None else {pid: used for pid, used in held.items() if foreign(pid)}
        return Readings(
            watts=sum(watts) if watts else None,
            temperature_c=float(max(degrees)) if degrees else None,
            others_bytes=None if others is None else sum(others.values()),
            others=None if others is None else len(others),
        )

    def _gpu(self, handle: object) -> Gpu:
        library = self._library
        name = _text(library.nvmlDeviceGetName(handle))
        ask = _asker(self._ask, handle)
        capability = ask("nvmlDeviceGetCudaComputeCapability")
        ecc = ask("nvmlDeviceGetEccMode")
        mig = ask("nvmlDeviceGetMigMode")
        processes = self._processes(handle)
        return Gpu(
            name=name,
            memory_bytes=self._memory(handle),
            capability=f"{capability[0]}.{capability[1]}" if capability else None,
            sm_clock_max_mhz=ask("nvmlDeviceGetMaxClockInfo", library.NVML_CLOCK_SM),
            memory_clock_max_mhz=ask("nvmlDeviceGetMaxClockInfo", library.NVML_CLOCK_MEM),
            sm_clock_target_mhz=ask("nvmlDeviceGetApplicationsClock", library.NVML_CLOCK_SM),
            power_limit_mw=ask("nvmlDeviceGetEnforcedPowerLimit"),
            power_limit_default_mw=ask("nvmlDeviceGetPowerManagementDefaultLimit"),
            pcie_generation=ask("nvmlDeviceGetMaxPcieLinkGeneration"),
            pcie_width=ask("nvmlDeviceGetCurrPcieLinkWidth"),
            nvlinks=self._nvlinks(handle),
            mig=None if mig is None else bool(mig[0]),
            mig_slices_bytes=tuple(self._slices(handle)) if mig and mig[0] else (),
            ecc=None if ecc is None else bool(ecc[0]),
            sm_clock_mhz=ask("nvmlDeviceGetClockInfo", library.NVML_CLOCK_SM),
            memory_clock_mhz=ask("nvmlDeviceGetClockInfo", library.NVML_CLOCK_MEM),
            temperature_c=ask("nvmlDeviceGetTemperature", library.NVML_TEMPERATURE_GPU),
            processes=None if processes is None else len(processes),
            processes_memory_bytes=None if processes is None else sum(processes.values()),
        )

    def _ask(self, function: str, *arguments: object) -> Any:  # noqa: ANN401 -- whatever the driver's function returns
        """Return one answer; None where this library, driver or card has none."""
        try:
            return getattr(self._library, function)(*arguments)
        except (AttributeError, self._library.NVMLError):
            return None

    def _memory(self, handle: object) -> int | None:
        info = self._ask("nvmlDeviceGetMemoryInfo", handle)
        return None if info is None else int(info.total)

    def _processes(self, handle: object) -> dict[int, int] | None:
        """Memory by process id; None where the driver does not tell (in most containers it says: nobody)."""
        lists = [
            self._ask(function, handle)
            for function in ("nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetGraphicsRunningProcesses")
        ]
        if all(each is None for each in lists):
            return None
        held: dict[int, int] = {}
        for process in (each for some in lists for each in some or ()):
            # One that computes and draws is in both lists with the same memory.
            held[process.pid] = max(held.get(process.pid, 0), process.usedGpuMemory or 0)
        return held

    def _nvlinks(self, handle: object) -> int | None:
        links = range(self._library.NVML_NVLINK_MAX_LINKS)
        states = [self._ask("nvmlDeviceGetNvLinkState", handle, link) for link in links]
        known = [state for state in states if state is not None]  # a card answers for the links that it has
        return sum(1 for state in known if state) if known else None

    def _slices(self, handle: object) -> Iterator[int]:
        for index in range(self._ask("nvmlDeviceGetMaxMigDeviceCount", handle) or 0):
            slice_handle = self._ask("nvmlDeviceGetMigDeviceHandleByIndex", handle, index)
            memory = None if slice_handle is None else self._memory(slice_handle)
            if memory is not None:
                yield memory


def _asker(ask: Callable[..., Any], handle: object) -> Callable[..., Any]:
    return lambda function, *arguments: ask(function, handle, *arguments)


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _words(library: ModuleType, error: Exception) -> str:
    library_missing = getattr(library, "NVMLError_LibraryNotFound", ())
    if library_missing and isinstance(error, library_missing):
        return "no NVIDIA driver on this machine"
    return f"the NVIDIA driver answers with an error: {error}"
