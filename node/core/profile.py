"""What this machine is and what it can do: hardware, measured figures, the conditions they hold under, as one value.

Knows no driver, file or benchmark: facts come in, and out come whether to measure anew, and the machine in one line
for the advert. None of a fact is "cannot be seen here", never zero.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Final, Literal

from node.core.self_advert import device_label
from node.core.strategy import Build
from protocol import advert, limits

SCHEMA_VERSION: Final = 1
METHOD: Final = 1  # of the micro-benchmark: figures of another method are not comparable. Raise it with the script

MONTH_US: Final = 30 * 86_400 * 1_000_000
HOUR_US: Final = 3600 * 1_000_000
OLD_US: Final = MONTH_US  # cards gather dust and kernels are patched: a measurement costs seconds
DISTURBED_OLD_US: Final = HOUR_US  # a disturbed one is tried again soon, but not at every look
BUSY_SHARE: Final = 0.10  # of the machine's CPU in the hands of others: more than that moves medians by as much
NOISY_SPREAD: Final = 0.10  # MAD over median; an undisturbed machine stays below a few per cent
MEMORY_TOLERANCE: Final = 0.02  # kernels keep a little more or less of the RAM for themselves at each boot

Kind = Literal["gemv", "gemm", "copy", "attention", "allreduce"]
Unit = Literal["B/s", "FLOP/s", "s"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU as its driver describes it; MHz, milliwatts and degrees Celsius are the driver's own units.

    Attributes:
        capability: CUDA's compute capability, "9.0".
        sm_clock_max_mhz, memory_clock_max_mhz: as high as they go; `..._target_mhz` what the owner has set.
        sm_clock_mhz, memory_clock_mhz, temperature_c, processes, processes_memory_bytes: readings of the moment.
        power_limit_mw: in force now. `power_limit_default_mw`: the card's own.
        pcie_generation: the highest that card and board agree on (idle links run slower). pcie_width: lanes in use.
        nvlinks: links that are up.
        mig: whether the card is cut into slices; `mig_slices_bytes` is the memory of each.
        processes: that hold memory on it, whoever owns them.
    """

    name: str
    memory_bytes: int | None = None
    capability: str | None = None
    sm_clock_max_mhz: int | None = None
    memory_clock_max_mhz: int | None = None
    sm_clock_target_mhz: int | None = None
    power_limit_mw: int | None = None
    power_limit_default_mw: int | None = None
    pcie_generation: int | None = None
    pcie_width: int | None = None
    nvlinks: int | None = None
    mig: bool | None = None
    mig_slices_bytes: tuple[int, ...] = ()
    ecc: bool | None = None
    sm_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    temperature_c: int | None = None
    processes: int | None = None
    processes_memory_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cpu:
    """The processor and its memory.

    Attributes:
        name: the model's name. `architecture`: "x86_64", "aarch64".
        cores: that this process may run on. `physical_cores`: of the machine, hyper-threads not counted.
        quota_cores: what a container's CPU limit leaves of them; None without a limit.
        isa: the instruction sets that matter to inference, sorted.
        cache_bytes: of the last level, all of it.
        memory_bytes: RAM that this process may use.
        governors: of frequency, each kind once. `clock_max_mhz`: what it may rise to; None in most virtual machines.
        virtual: whether a hypervisor is below.
    """

    architecture: str
    cores: int
    memory_bytes: int
    name: str | None = None
    physical_cores: int | None = None
    quota_cores: float | None = None
    isa: tuple[str, ...] = ()
    cache_bytes: int | None = None
    governors: tuple[str, ...] = ()
    clock_max_mhz: int | None = None
    virtual: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """The machine. `gpu_trouble` says why GPUs could not be asked; empty where they were, even if there are none."""

    cpu: Cpu
    gpus: tuple[Gpu, ...] = ()
    driver: str = ""
    cuda: str = ""  # the highest that the driver speaks
    gpu_trouble: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured quantity.

    Attributes:
        kind: `gemv` reads a weight matrix for one token, `gemm` multiplies large matrices, `copy` reads and writes
            (both are counted), `attention` reads a long KV cache for one token of each sequence, `allreduce` adds
            up a buffer over all GPUs.
        dtype: torch's name of it. `shape`: for people. `way`: which of torch's kernels was fastest and measured.
        device: its name, "cpu" for the processor.
        median: in `unit`. mad: the median absolute deviation of the samples, same unit.
        samples: that the median rests on. disturbed: samples set aside, because something else took the core.
    """

    kind: Kind
    dtype: str
    device: str
    shape: str
    unit: Unit
    median: float
    mad: float
    samples: int
    disturbed: int = 0
    way: str = ""

    @property
    def spread(self) -> float:
        """The deviation as a share of the median."""
        return self.mad / self.median if self.median > 0 else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Absent:
    """A quantity that could not be measured here, and why."""

    kind: Kind
    dtype: str
    device: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What a measurement was made with, beside the hardware.

    Attributes:
        time_us: wall time, microseconds since 1970.
        torch, build: of the engine's interpreter. `threads`: of OpenMP, as the engine is given.
        method: version of the micro-benchmark. `seconds`: how long it measured.
        engine_running: an engine of this machine's node was up: it holds memory, and may have had prompts.
        foreign_cpu: share of the machine's CPU that others had meanwhile; None where that cannot be seen.
        sm_clocks_mhz: each GPU's highest clock seen at work.
    """

    time_us: int
    torch: str
    build: Build
    threads: int
    method: int
    seconds: float
    engine_running: bool = False
    foreign_cpu: float | None = None
    sm_clocks_mhz: tuple[int, ...] = ()

    @property
    def disturbed(self) -> bool:
        """Whether something else was at work beside the measurement."""
        return self.engine_running or (self.foreign_cpu is not None and self.foreign_cpu > BUSY_SHARE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What the micro-benchmark found."""

    conditions: Conditions
    figures: tuple[Figure, ...]
    absent: tuple[Absent, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """The machine and, where it was measured, what it can do. `hardware` is as it was at the measurement."""

    hardware: Hardware
    measurement: Measurement | None = None
    version: int = SCHEMA_VERSION

    def figure(self, kind: Kind, dtype: str | None = None) -> Figure | None:
        """Return the first figure of that kind: of that dtype, or of any."""
        if self.measurement is None:
            return None
        wanted = (each for each in self.measurement.figures if each.kind == kind and dtype in {None, each.dtype})
        return next(wanted, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What a measurement would be made with now."""

    torch: str
    build: Build
    threads: int
    engine_running: bool = False


# Readings of the moment, which differ from one look to the next and make no other machine.
_MOMENTARY: Final = frozenset(
    {"sm_clock_mhz", "memory_clock_mhz", "temperature_c", "processes", "processes_memory_bytes"}
)


def differences(a: Profile, b: Profile) -> tuple[str, ...]:
    """Say in words in what lasting conditions two measurements differ; what either does not know is no difference."""
    found = [*_hardware_differences(a.hardware, b.hardware)]
    if a.measurement is not None and b.measurement is not None:
        one, other = a.measurement.conditions, b.measurement.conditions
        found += _unlike("", one, other, ("torch", "build", "threads", "method"))
    return tuple(found)


def same_conditions(a: Profile, b: Profile) -> bool:
    """Whether figures of the two may be compared as of one machine: hardware, driver, limits, software, threads."""
    return not differences(a, b)


def reason_to_measure(kept: Profile | None, hardware: Hardware, tools: Tools, *, now_us: int) -> str:
    """Say why to measure (again); empty where the kept figures still hold.

    Args:
        kept: from the last time, None where there was none.
        hardware, tools: as they are now.
    """
    if kept is None or kept.measurement is None:
        return "nothing was measured on this machine yet"
    conditions = kept.measurement.conditions
    if conditions.method != METHOD:
        return "this version measures in another way"
    changed = [
        *_hardware_differences(kept.hardware, hardware),
        *_unlike("", conditions, tools, ("torch", "build", "threads")),
    ]
    if changed:
        return f"changed since: {'; '.join(changed)}"
    age_us = now_us - conditions.time_us
    if not 0 <= age_us <= OLD_US:  # a measurement of the future is one from before the clock was set
        return "the last measurement is old"
    if conditions.engine_running and not tools.engine_running:
        return "the last measurement was made while an engine ran here"
    if conditions.disturbed and not tools.engine_running and age_us > DISTURBED_OLD_US:
        return "the last measurement was disturbed by other programs"
    return ""


def _hardware_differences(a: Hardware, b: Hardware) -> Iterator[str]:
    yield from _unlike("", a, b, ("driver", "cuda"))
    yield from _unlike("CPU ", a.cpu, b.cpu, _lasting(a.cpu))
    if [gpu.name for gpu in a.gpus] != [gpu.name for gpu in b.gpus]:
        yield f"GPUs: {_names(a.gpus)} -> {_names(b.gpus)}"
        return
    for index, (one, other) in enumerate(zip(a.gpus, b.gpus, strict=True)):
        yield from _unlike(f"GPU {index} ", one, other, _lasting(one))


def _lasting(facts: Gpu | Cpu) -> tuple[str, ...]:
    return tuple(field.name for field in fields(facts) if field.name not in _MOMENTARY)


def _unlike(subject: str, a: object, b: object, names: tuple[str, ...]) -> Iterator[str]:
    for name in names:
        one, other = getattr(a, name), getattr(b, name)
        if one in (None, "", ()) or other in (None, "", ()) or one == other:
            continue
        if name == "memory_bytes" and abs(one - other) <= MEMORY_TOLERANCE * max(one, other):
            continue
        yield f"{subject}{name}: {_word(one)} -> {_word(other)}"


def _word(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)  # pyright: ignore[reportUnknownArgumentType] -- any tuple's parts can be printed


def _names(gpus: tuple[Gpu, ...]) -> str:
    return ", ".join(gpu.name for gpu in gpus) or "none"


def hardware_summary(profile: Profile) -> advert.Hardware:
    """Return the machine as adverts say it: equal GPUs together, within the wire's bounds, names as it allows them."""
    cpu = profile.hardware.cpu
    labelled = ((device_label(gpu.name), gpu.memory_bytes) for gpu in profile.hardware.gpus)
    kinds = Counter((name, memory) for name, memory in labelled if name is not None)
    return advert.Hardware(
        accelerators=tuple(
            advert.Accelerator(name=name, count=min(count, limits.DEVICES), memory_bytes=memory)
            for (name, memory), count in kinds.most_common(limits.ACCELERATORS)
        ),
        cpu_name=device_label(cpu.name) if cpu.name else None,
        cpu_cores=min(max(cpu.cores, 1), limits.DEVICES * limits.DEVICES),
        memory_bytes=min(cpu.memory_bytes, limits.COUNT_MAX),
    )
