"""Whether the machine has memory for a second engine beside the one that runs.

Knows `/proc`, the marks of engine processes and a model's folder; knows no strategy but by its plan. Says no where it
cannot know: a switch then takes the engine away for a moment, where a guess too many would take the machine down.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

import trio

from node.adapters.engine import embedded_model, leftovers, model_folder
from node.adapters.engine.install import describe
from node.adapters.engine.leftovers import Mark
from node.adapters.engine.vllm import VllmSetup
from node.errors import EngineUnavailable
from node.ports import LaunchPlan, Machine

MARGIN = 1.25  # what the second may want more than the first ever had: other buffers, other graphs
CUDA_OVERHEAD = 2 << 30  # bytes of a GPU beside weights and cache: context, workspaces, activations of a small batch
WEIGHT_FILES = ("*.safetensors", "*.bin", "*.pt")


class EngineRoom:
    """The memory that is left beside the engine.

    Capabilities:
        machine: tells what RAM can be had.
        gpu_free: bytes free on the GPU that engines use; None where that is not known. May block for milliseconds.
    """

    def __init__(self, setup: VllmSetup, machine: Machine, *, gpu_free: Callable[[], int | None]) -> None:
        self._setup = setup
        self._machine = machine
        self._gpu_free = gpu_free

    async def __call__(self, plan: LaunchPlan) -> bool:
        """Tell whether a second engine by this plan fits. Looks at the machine anew each time."""
        if self._setup.port:
            return False  # two cannot listen there
        try:
            build = "cpu" if self._setup.command else (await describe(self._setup.python)).build
        except EngineUnavailable:
            return False
        # Without abandon_on_cancel: it reads some files, for milliseconds.
        return await trio.to_thread.run_sync(self._cpu if build == "cpu" else self._cuda, plan)

    def _cpu(self, plan: LaunchPlan) -> bool:
        present = peak_memory(leftovers.find(Mark(tag=self._setup.tag, folder=self._setup.work)))
        if not present:
            return False
        # The cache is memory that is taken as it fills: the present engine's peak may not have it yet. Where nobody
        # says how large it is, the launcher takes so much of what is free at most.
        free = self._machine.memory_available()
        cache = plan.kv_cache_bytes or free // model_folder.LARGEST_KV_SHARE
        return free >= (present + cache) * MARGIN

    def _cuda(self, plan: LaunchPlan) -> bool:
        if plan.kv_cache_bytes is None or plan.strategy.devices > 1:
            return False  # vLLM takes nine tenths of the GPU then, or more GPUs than one are asked for
        folder = embedded_model.folder_in(self._setup.cache) if plan.model == embedded_model.EMBEDDED else None
        weights = weight_bytes(folder or Path(plan.model).expanduser())
        free = self._gpu_free()
        if not weights or free is None:
            return False
        return free >= (weights + plan.kv_cache_bytes) * MARGIN + CUDA_OVERHEAD


def peak_memory(pids: Iterable[int]) -> int:
    """Return the sum of the most bytes of RAM that each of the processes ever held; shared pages count for each."""
    return sum(_peak_of(pid) for pid in pids)


def _peak_of(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0  # ended since it was found
    for line in lines:
        name, _, value = line.partition(":")
        if name == "VmHWM":
            return int(value.split()[0]) << 10
    return 0


def weight_bytes(folder: Path) -> int:
    """Return the bytes of a model's weights on disk, in the first format of which there are any; 0 where none are."""
    for pattern in WEIGHT_FILES:
        if size := sum(file.stat().st_size for file in folder.glob(pattern)):
            return size
    return 0
