"""The profile of this machine and what its engine takes: as kept where that still holds, found out anew where not.

Looks at hardware and driver, at the engine's interpreter and at the kept file, and runs the micro-benchmark; knows no
settings and no screen. The one place where these adapters come together.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog
import trio

from node.adapters import cpu, nvml, profile_file, system
from node.adapters.engine.capabilities import probe
from node.adapters.engine.measure import SECONDS, Interpreter, engine_threads, inspect, measure
from node.clock import wall_us
from node.core.capabilities import UNKNOWN, Capabilities
from node.core.profile import METHOD, Conditions, Hardware, Measurement, Profile, Tools, differences, reason_to_measure
from node.errors import EngineUnavailable

log = structlog.get_logger(__name__)

Tell = Callable[[str, float], None]  # what is being done, and how far it is from 0 to 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A profile, and why it was measured now; `reused` where it was not."""

    profile: Profile
    reused: bool = False
    note: str = ""


def hardware_now() -> Hardware:
    """Return what this machine is. Blocks: some ms, a second where NVIDIA's driver was not loaded."""
    machine = system.LocalMachine()
    gpus = nvml.survey()
    return Hardware(
        cpu=cpu.survey(cores=machine.cpu_cores(), memory_bytes=machine.memory_total()),
        gpus=gpus.devices,
        driver=gpus.driver,
        cuda=gpus.cuda,
        gpu_trouble=gpus.trouble,
    )


async def find_profile(  # noqa: PLR0913 -- each is a wish of its own
    cache: Path,
    python: Path,
    *,
    engine_running: bool,
    announce: Callable[[str], None],
    tell: Tell,
    again: bool = False,
    seconds: float = SECONDS,
) -> Found:
    """Return the kept profile, or measure for `seconds` and keep that.

    Args:
        cache: folder that profiles are kept in.
        python: the engine's interpreter.
        engine_running: whether an engine of a node here has the machine's memory and perhaps its cores.
        announce: is told why, before anything is measured.
        again: measure though the kept one holds.

    Raises:
        EngineUnavailable: it cannot be measured.
    """
    file = cache / profile_file.NAME
    kept, hardware = await trio.to_thread.run_sync(lambda: (profile_file.load(file), hardware_now()))
    engine = await inspect(python)
    tools = Tools(
        torch=engine.torch,
        build=engine.install.build,
        threads=engine_threads(hardware.cpu.cores),
        engine_running=engine_running,
    )
    reason = reason_to_measure(kept, hardware, tools, now_us=wall_us())
    if kept is not None and not reason and not again:
        return Found(profile=kept, reused=True)
    note = reason or "asked for"
    announce(note)
    measured = await _measure(engine, hardware, tools, seconds, tell)
    profile = Profile(hardware=hardware, measurement=measured)
    await trio.to_thread.run_sync(profile_file.save, file, profile)
    return Found(profile=profile, note=note)


def kept_profile(cache: Path) -> Profile:
    """Return what is known of this machine without measuring: figures only where they are of this very hardware."""
    now = Profile(hardware=hardware_now())
    kept = profile_file.load(cache / profile_file.NAME)
    return now if kept is None or differences(kept, now) else kept


async def find_capabilities(cache: Path, python: Path, *, again: bool = False) -> Capabilities:
    """Return what the engine under that interpreter takes: as kept, or asked now, which takes some 15 s of a core.

    Asked once for each interpreter, version of vLLM and torch, and driver. A failure means "unknown" (what every
    version has is assumed) and is logged; the next call asks again.
    """
    file = cache / profile_file.CAPABILITIES_NAME
    try:
        engine = await inspect(python)
        asked = _asked(engine, await trio.to_thread.run_sync(nvml.survey))
        kept = await trio.to_thread.run_sync(profile_file.load_capabilities, file)
        if kept is not None and kept[0] == asked and not again:
            return kept[1]
        cores = system.LocalMachine().cpu_cores()
        found = await probe(engine, threads=engine_threads(cores))
    except EngineUnavailable as error:
        log.warning("capabilities.unknown", reason=error.message, assumed="flags that every vLLM has")
        return UNKNOWN
    for each in found.missing:
        log.warning("capabilities.partly_unknown", part=each.part, reason=each.why)
    await trio.to_thread.run_sync(profile_file.save_capabilities, file, asked, found)
    return found


def kept_capabilities(cache: Path, python: Path, vllm: str) -> Capabilities:
    """Return what is known of that interpreter's vLLM of that version without asking it; UNKNOWN where nothing is.

    Blocks for the disk, some ms. Another driver's are taken: what its flags are called does not turn on that.
    """
    kept = profile_file.load_capabilities(cache / profile_file.CAPABILITIES_NAME)
    return kept[1] if kept is not None and (kept[0].python, kept[0].vllm) == (str(python), vllm) else UNKNOWN


def _asked(engine: Interpreter, gpus: nvml.GpuSurvey) -> profile_file.Asked:
    return profile_file.Asked(
        python=str(engine.python), vllm=engine.install.vllm, torch=engine.torch, driver=gpus.driver
    )


async def _measure(engine: Interpreter, hardware: Hardware, tools: Tools, seconds: float, tell: Tell) -> Measurement:
    clocks = [gpu.sm_clock_mhz or 0 for gpu in hardware.gpus]

    def heard(doing: str, share: float) -> None:
        tell(doing, share)
        if tools.build == "cuda":  # idle GPUs clock down: only a look while they work says anything
            seen = [gpu.sm_clock_mhz or 0 for gpu in nvml.survey().devices]
            clocks[:] = [max(pair) for pair in zip(clocks, seen, strict=False)]

    found = await measure(engine, threads=tools.threads, tell=heard, seconds=seconds)
    conditions = Conditions(
        time_us=wall_us(),
        torch=tools.torch,
        build=tools.build,
        threads=tools.threads,
        method=METHOD,
        seconds=found.seconds,
        engine_running=tools.engine_running,
        foreign_cpu=found.foreign_cpu,
        sm_clocks_mhz=tuple(clocks) if tools.build == "cuda" else (),
    )
    return Measurement(conditions=conditions, figures=found.figures, absent=found.absent)
