"""What tuning is done with: the ledger's file, what the engine on this machine takes, its memory, own records.

Knows the adapters and no service. Built before the engine starts: what it starts with stands in the ledger.
"""

import hashlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import trio

from node.adapters import nvml, tuning_file
from node.adapters.engine.install import describe
from node.adapters.engine.room import EngineRoom
from node.adapters.engine.vllm import VllmSetup
from node.adapters.store.own import OwnRecords
from node.adapters.system import LocalMachine
from node.adapters.tuning_file import TuningFile
from node.core.capabilities import UNKNOWN, Capabilities
from node.core.tuning_ledger import Ledger
from node.errors import EngineUnavailable
from node.machine_profile import find_capabilities, hardware_now
from node.places import Places
from node.ports import LaunchPlan
from node.record_ports import OwnRows
from node.tuner_ports import LedgerFile
from protocol.ids import PeerId

KEY_CHARS: Final = 32  # of a digest: no two engines of one machine share it by chance


@dataclass(frozen=True, slots=True, kw_only=True)
class TunerTools:
    """What a node can do about its own tuning.

    Attributes:
        key: names model, engine and machine: what was learnt the hard way holds for these alone.
        kept: the ledger as the last run left it; None where there is none.
        room: whether the memory allows a second engine by a plan beside the one that runs.
        capabilities: what the engine's version takes. Asks it the first time, for some 15 s of a core.
        own_rows: this node's own records.
        gpus: of this machine. memory: of one of them in bytes, of the machine where there is none; None if not known.
    """

    key: str
    kept: Ledger | None
    file: LedgerFile
    room: Callable[[LaunchPlan], Awaitable[bool]]
    capabilities: Callable[[], Awaitable[Capabilities]]
    own_rows: OwnRows
    gpus: int
    memory: int | None


async def tuner_tools(setup: VllmSetup, plan: LaunchPlan, where: Places, *, history: Path, me: PeerId) -> TunerTools:
    """Return them for the engine that the plan means. Reads small files; raises nothing where one is missing."""
    hardware = await trio.to_thread.run_sync(hardware_now)
    file = TuningFile(where.data / tuning_file.NAME)
    version = None if setup.command else await _version(setup.python)
    devices = [gpu.name for gpu in hardware.gpus] or [hardware.cpu.name, hardware.cpu.cores]
    means = [plan.model, plan.served_name, plan.max_model_len, plan.dtype, *plan.extra_arguments]
    named = json.dumps([means, setup.command, version, devices], default=str)
    return TunerTools(
        key=hashlib.sha256(named.encode()).hexdigest()[:KEY_CHARS],
        kept=await file.load(),
        file=file,
        room=EngineRoom(setup, LocalMachine(), gpu_free=nvml.free_bytes),
        capabilities=_unknown if setup.command else partial(find_capabilities, where.cache, setup.python),
        own_rows=OwnRecords(history, me),
        gpus=len(hardware.gpus),
        memory=hardware.gpus[0].memory_bytes if hardware.gpus else LocalMachine().memory_total(),
    )


async def _version(python: Path) -> str | None:
    try:
        return (await describe(python)).vllm
    except EngineUnavailable:
        return None  # the launcher says what is wrong with it


async def _unknown() -> Capabilities:
    return UNKNOWN  # a command of the owner's own: nobody can be asked
