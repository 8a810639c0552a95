"""What `metainf doctor` finds: facts in, findings with remedies out.

Knows no disk, driver or socket: the facts are gathered by the command and judged here, so that each planted
cause can be tested without planting it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

ENGINE_DISK_BYTES = 2 << 30  # room for the unpacked model, logs and the engine's scratch files
NODE_DISK_BYTES = 256 << 20  # room for the history, logs and what is written anew before the old is removed
LOW_MEMORY_BYTES = 4 << 30  # vLLM on CPU with the embedded model: 2.2 GB measured, and the node's own 0.3


class Verdict(Enum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    FAILURE = "failure"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing looked at. `remedy` says what to do, and is empty where all is well."""

    subject: str
    verdict: Verdict
    finding: str
    remedy: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFacts:
    """What could be learnt of the engine without starting it.

    Attributes:
        wanted: whether this node is to run one.
        python: its interpreter. `vllm`: the version found there, None where it is missing.
        model_trouble: why the model cannot be read; empty where it can, or where it is a hub id.
        running_state, running_reason: of the node that runs, None where none does.
    """

    wanted: bool
    python: str
    vllm: str | None
    model_trouble: str
    running_state: str | None
    running_reason: str | None


def judge_engine(facts: EngineFacts) -> Finding:
    """Judge whether the engine can run."""

    def found(verdict: Verdict, finding: str, remedy: str = "") -> Finding:
        return Finding(subject="engine", verdict=verdict, finding=finding, remedy=remedy)

    if not facts.wanted:
        return found(Verdict.OK, "this node runs no engine of its own")
    if facts.vllm is None:
        remedy = "deploy/run installs it; or set engine.python to the interpreter of an environment that has it"
        return found(Verdict.FAILURE, f"vLLM is not installed for {facts.python}", remedy)
    if facts.model_trouble:
        return found(Verdict.FAILURE, facts.model_trouble, "check engine.model, or the --model of `metainf up`")
    if facts.running_state in ("failed", "backoff"):
        return found(Verdict.FAILURE, f"{facts.running_state}: {facts.running_reason}", "see the engine's log")
    if facts.running_state is not None:
        return found(Verdict.OK, f"vLLM {facts.vllm}, {facts.running_state}: {facts.running_reason}")
    return found(Verdict.OK, f"vLLM {facts.vllm} for {facts.python}")


def judge_gpu(*, gpus: tuple[str, ...], driver: str, trouble: str, built_in: int = 0, loaded: bool = False) -> Finding:
    """Judge the GPU. A machine without one serves on its CPU: no failure.

    Args:
        gpus: as the driver shows them. trouble: what the driver said against showing any.
        built_in: NVIDIA's GPUs that the machine's bus shows, whether or not there is a driver.
        loaded: whether the kernel has the driver: then only its libraries are missing, as in a container.
    """
    if gpus:
        finding = f"{', '.join(gpus)} (driver {driver})"
        return Finding(subject="gpu", verdict=Verdict.OK, finding=finding)
    if trouble.startswith("no NVIDIA driver") and (built_in or loaded):
        what = f"{built_in} NVIDIA GPU{'' if built_in == 1 else 's'} built in" if built_in else "the kernel's driver"
        finding = f"the GPU driver is missing: {what}, and no driver that answers; the engine would use the CPU"
        remedy = (
            "the kernel has the driver and this system not its libraries: in a container, start it with the NVIDIA "
            "container toolkit (--gpus all); else install the driver's libraries of the same version"
            if loaded
            else "install NVIDIA's driver (580 or later, for CUDA 13) and restart; `nvidia-smi` must show the GPU"
        )
        return Finding(subject="gpu", verdict=Verdict.FAILURE, finding=finding, remedy=remedy)
    if trouble.startswith("no NVIDIA driver"):
        return Finding(subject="gpu", verdict=Verdict.OK, finding=f"{trouble}: the engine uses the CPU")
    remedy = "run nvidia-smi; after an update of the driver, restart the machine"
    return Finding(
        subject="gpu", verdict=Verdict.WARNING, finding=trouble or "the driver answers but shows no GPU", remedy=remedy
    )


def judge_disk(*, free: int, place: str, engine: bool = True) -> Finding:
    """Judge the room on the disk that holds the node's files.

    Args:
        engine: whether an engine's files are to be there, too.
    """
    wanted = ENGINE_DISK_BYTES if engine else NODE_DISK_BYTES
    finding = f"{free / 1e9:.1f} GB free at {place}"
    if free >= wanted:
        return Finding(subject="disk", verdict=Verdict.OK, finding=finding)
    return Finding(
        subject="disk",
        verdict=Verdict.FAILURE,
        finding=f"the disk is full: {finding}, and {wanted / 1e9:.1f} GB are wanted",
        remedy=f"free some space (`du -sh {place}/*` shows what takes it), or use another --data-dir",
    )


def judge_memory(*, total: int, available: int, engine_running: bool) -> Finding:
    """Judge the room in RAM for an engine that is still to be started."""
    finding = f"{available / 1e9:.1f} of {total / 1e9:.1f} GB available"
    if engine_running or available >= LOW_MEMORY_BYTES:
        return Finding(subject="memory", verdict=Verdict.OK, finding=finding)
    return Finding(
        subject="memory", verdict=Verdict.WARNING, finding=finding, remedy="close programs, or use a smaller model"
    )


def judge_clock(*, synchronised: bool | None, now: float, built: float) -> Finding:
    """Judge the clock. Signed records are dated: a swarm refuses those from far in the past or future.

    Args:
        synchronised: whether the kernel says so; None where it cannot be seen.
        now: wall time. built: a moment that certainly lies in the past. Both in seconds since 1970.
    """
    if now < built:
        remedy = "set the clock: timedatectl set-ntp true"
        return Finding(subject="clock", verdict=Verdict.FAILURE, finding="the clock is in the past", remedy=remedy)
    if synchronised is False:
        remedy = "timedatectl set-ntp true (in a container or virtual machine: on its host)"
        finding = "the kernel does not say that the clock is synchronised"
        return Finding(subject="clock", verdict=Verdict.WARNING, finding=finding, remedy=remedy)
    known = "synchronised" if synchronised else "cannot be checked here"
    return Finding(subject="clock", verdict=Verdict.OK, finding=known)


def judge_forecasts(routing: Mapping[str, Any] | None) -> Finding:
    """Judge whether what the running node foretells of its peers still comes.

    Args:
        routing: the block `routing` of `metainf status --json`: empty on a node by itself; None where no node runs.
    """
    if not routing:
        why = "no node runs here" if routing is None else "this node is in no swarm"
        return Finding(subject="forecasts", verdict=Verdict.OK, finding=f"nothing to hold against them: {why}")
    drifts: Mapping[str, Mapping[str, Any]] = routing.get("drift", {})
    if not drifts:
        finding = f"no drift: {routing['ttft']['answers']} answers were held against them"
        return Finding(subject="forecasts", verdict=Verdict.OK, finding=finding)
    said = [
        f"{name.upper()} is {each['factor']:.3g} times what is foretold, {each['coverage_90']:.0%} in 90 % intervals, "
        f"for {each['for_s'] / 60:.0f} min"
        for name, each in drifts.items()
    ]
    remedy = "; ".join(dict.fromkeys(str(each["remedy"]) for each in drifts.values()))
    return Finding(subject="forecasts", verdict=Verdict.WARNING, finding="; ".join(said), remedy=remedy)


def judge_port(*, address: str, free: bool, owner: str | None, ours: bool) -> Finding:
    """Judge the API's port. `ours`: the node that runs here listens on it."""
    if ours:
        return Finding(subject="port", verdict=Verdict.OK, finding=f"this node listens on {address}")
    if free:
        return Finding(subject="port", verdict=Verdict.OK, finding=f"{address} is free")
    by = f" by {owner}" if owner else ""
    remedy = "stop that program, or choose another port: metainf up --http 127.0.0.1:0"
    return Finding(subject="port", verdict=Verdict.FAILURE, finding=f"{address} is taken{by}", remedy=remedy)
