"""A driver's library as `pynvml` shows it, with cards that answer what a test says and nothing else."""

from types import ModuleType, SimpleNamespace

import pynvml

FULL: dict[str, object] = {
    "nvmlDeviceGetName": "NVIDIA H100 80GB HBM3",
    "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=85_520_809_984),
    "nvmlDeviceGetCudaComputeCapability": (9, 0),
    "nvmlDeviceGetMaxClockInfo": {pynvml.NVML_CLOCK_SM: 1980, pynvml.NVML_CLOCK_MEM: 2619},
    "nvmlDeviceGetApplicationsClock": {pynvml.NVML_CLOCK_SM: 1755},
    "nvmlDeviceGetClockInfo": {pynvml.NVML_CLOCK_SM: 345, pynvml.NVML_CLOCK_MEM: 2619},
    "nvmlDeviceGetEnforcedPowerLimit": 650_000,
    "nvmlDeviceGetPowerManagementDefaultLimit": 700_000,
    "nvmlDeviceGetTemperature": {pynvml.NVML_TEMPERATURE_GPU: 34},
    "nvmlDeviceGetMaxPcieLinkGeneration": 5,
    "nvmlDeviceGetCurrPcieLinkWidth": 16,
    "nvmlDeviceGetNvLinkState": {**dict.fromkeys(range(17), 1), 17: 0},
    "nvmlDeviceGetEccMode": [1, 1],
    "nvmlDeviceGetMigMode": [0, 0],
    "nvmlDeviceGetComputeRunningProcesses": [SimpleNamespace(pid=7, usedGpuMemory=4 << 30)],
    "nvmlDeviceGetGraphicsRunningProcesses": [
        SimpleNamespace(pid=7, usedGpuMemory=4 << 30),
        SimpleNamespace(pid=9, usedGpuMemory=None),  # as Windows' driver model has it
    ],
}


class FakeNvml(ModuleType):
    """Cards are dictionaries of answers; what one does not answer is not supported. A card of None is lost."""

    def __init__(self, cards: list[dict[str, object] | None], *, driver: bool = True) -> None:
        super().__init__("pynvml")
        self._cards = cards
        self._driver = driver
        self.asked: set[str] = set()
        self.open = 0

    def __getattr__(self, name: str) -> object:
        if not name.startswith("nvmlDevice"):
            return getattr(pynvml, name)
        self.asked.add(name)
        return lambda handle, *arguments: self._answer(handle, name, arguments)

    def nvmlInit(self) -> None:  # noqa: N802 -- the library's own names, here and below
        if not self._driver:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self._cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> dict[str, object]:  # noqa: N802
        card = self._cards[index]
        if card is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
        return card

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: dict[str, list[dict[str, object]]], index: int) -> object:  # noqa: N802
        return handle["slices"][index]

    def nvmlSystemGetDriverVersion(self) -> str:  # noqa: N802
        return "580.65.06"

    def nvmlSystemGetCudaDriverVersion_v2(self) -> int:  # noqa: N802
        return 13000

    @staticmethod
    def _answer(handle: dict[str, object], name: str, arguments: tuple[int, ...]) -> object:
        found = handle.get(name)
        if arguments and isinstance(found, dict):
            found = found.get(arguments[0])
        if found is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return found
