"""The profile of this machine: the kept one where it still holds, a new measurement where not.

Looks at hardware and driver, at the engine's interpreter and at the kept file, and runs the micro-benchmark; knows no
settings and no screen. The one place where these adapters come together.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import trio

from node.adapters import cpu, nvml, profile_file, system
from node.adapters.engine.measure import SECONDS, Interpreter, engine_threads, inspect, measure
from node.clock import wall_us
from node.core.profile import METHOD, Conditions, Hardware, Measurement, Profile, Tools, differences, reason_to_measure

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
