"""NVIDIA GPUs as the driver shows them, and an honest word where there is none.

One foreign library: `pynvml`. Never raises: a machine without a GPU is a normal machine.
"""

from dataclasses import dataclass

import pynvml


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuSurvey:
    """What NVML said. `trouble` is empty when the driver answered, even with no GPU behind it."""

    gpus: tuple[str, ...] = ()
    memory_bytes: tuple[int, ...] = ()
    driver: str = ""
    trouble: str = ""


def survey() -> GpuSurvey:
    """Ask the driver once."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return GpuSurvey(trouble=_words(error))
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        return GpuSurvey(
            gpus=tuple(_text(pynvml.nvmlDeviceGetName(handle)) for handle in handles),
            memory_bytes=tuple(int(pynvml.nvmlDeviceGetMemoryInfo(handle).total) for handle in handles),
            driver=_text(pynvml.nvmlSystemGetDriverVersion()),
        )
    except pynvml.NVMLError as error:
        return GpuSurvey(trouble=_words(error))
    finally:
        pynvml.nvmlShutdown()


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _words(error: pynvml.NVMLError) -> str:
    library_missing = getattr(pynvml, "NVMLError_LibraryNotFound", ())
    if library_missing and isinstance(error, library_missing):
        return "no NVIDIA driver on this machine"
    return f"the NVIDIA driver answers with an error: {error}"
