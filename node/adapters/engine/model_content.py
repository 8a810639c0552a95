"""What performance records say of the model that an engine is given, read from its files on this machine.

Knows where models lie (a folder, the unpacked embedded one, the hub's local cache) and which few bytes of them to read;
asks no hub. A model that is not here, or not in a form that is known, has a name and nothing else.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import structlog

from node.adapters.engine import embedded_model, model_folder
from node.core.model_digest import WeightFile, model_digest
from node.core.model_facts import model_on_wire
from node.errors import EngineUnavailable
from node.ports import LaunchPlan
from protocol.ids import ContentDigest, InvalidId, ModelName
from protocol.performance import DUMMY, REAL, Model

log = structlog.get_logger(__name__)

INDEX: Final = "model.safetensors.index.json"
INDEX_LIMIT: Final = 64 << 20  # bytes; of a model with a thousand experts some 10 MB
HEAD_LIMIT: Final = 100 << 20  # bytes, what safetensors itself allows a header; real ones have some 100 KB
LENGTH_BYTES: Final = 8  # of the header's length, at the beginning of the file
FILES: Final = 1024  # weight files of one model


def model_of(plan: LaunchPlan, *, cache: Path, environment: Mapping[str, str]) -> Model:
    """Return the model's facts. Blocks for the disk.

    Args:
        cache: folder that the embedded model is unpacked into.
        environment: says where the hub's cache is.
    """
    name, dummy = _name(plan.served_name), load_format(plan.extra_arguments) == "dummy"
    folder = folder_of(plan, cache=cache, environment=environment)
    if folder is None:
        return Model(weights=DUMMY if dummy else REAL, name=name)
    try:
        config = model_folder.check(folder)
        digest, size = _weights(folder, config)
    except (EngineUnavailable, OSError, ValueError, RecursionError) as error:
        log.warning("model.not_read", reason=type(error).__name__)
        return Model(weights=DUMMY if dummy else REAL, name=name)
    whole = None if "quantization_config" in config else size
    return model_on_wire(config, name=name, digest=digest, weight_bytes=whole, dummy=dummy)


def load_format(arguments: tuple[str, ...]) -> str | None:
    """Return what the operator's own flags say of how weights are loaded; None where they do not."""
    return _flag(arguments, "load-format")


def local_folder(plan: LaunchPlan, cache: Path) -> Path | None:
    """Return where the operator's own or the embedded model lies; None for one that a hub has."""
    if plan.model == embedded_model.EMBEDDED:
        return embedded_model.folder_in(cache)
    local = plan.model.startswith(("/", "./", "../", "~")) or Path(plan.model).is_dir()
    return Path(plan.model).expanduser().absolute() if local else None


def folder_of(plan: LaunchPlan, *, cache: Path, environment: Mapping[str, str]) -> Path | None:
    """Return where the model's files are; None where they are not on this machine."""
    if (folder := local_folder(plan, cache)) is not None:
        return folder
    repository = _hub(environment) / f"models--{plan.model.replace('/', '--')}"
    revision = _flag(plan.extra_arguments, "revision") or "main"
    if "/" in revision or revision.startswith("."):
        return None
    with suppress(OSError):  # where there is no such branch or tag: it may be a commit's name itself
        revision = (repository / "refs" / revision).read_text().strip()[:64]
    snapshot = repository / "snapshots" / revision
    return snapshot if revision and (snapshot / "config.json").exists() else None


def _hub(environment: Mapping[str, str]) -> Path:
    """Return the hub's local cache, where huggingface_hub looks for it."""
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if environment.get(variable):
            return Path(environment[variable])
    home = Path(environment.get("HOME", "/"))
    base = environment.get("XDG_CACHE_HOME") or str(home / ".cache")
    return Path(environment.get("HF_HOME") or f"{base}/huggingface") / "hub"


def _weights(folder: Path, config: Mapping[str, Any]) -> tuple[ContentDigest | None, int | None]:
    """Return the content digest and the size of all weights in bytes; None of what the files do not tell."""
    files = sorted(folder.glob("*.safetensors"))[:FILES]
    size = sum(file.stat().st_size for file in files) or None
    index = _index(folder)
    if index is not None:
        said = index.get("metadata")
        total = said.get("total_size") if isinstance(said, dict) else None
        return model_digest(config, index), size or (total if isinstance(total, int) and total > 0 else None)
    return (model_digest(config, list(_heads(files))) if files else None), size


def _index(folder: Path) -> dict[str, Any] | None:
    try:
        with (folder / INDEX).open("rb") as file:
            index = json.loads(file.read(INDEX_LIMIT))
    except FileNotFoundError:
        return None
    if not isinstance(index, dict):
        raise ValueError("the weights index is no map")  # noqa: TRY004 -- of content, not of a Python type
    return index


def _heads(files: list[Path]) -> Iterator[WeightFile]:
    for each in files:
        with each.open("rb") as file:
            length = int.from_bytes(file.read(LENGTH_BYTES), "little")
            if length > HEAD_LIMIT:
                raise ValueError("a weight file's header is too long")
            yield WeightFile(name=each.name, size=each.stat().st_size, head=file.read(length))


def _flag(arguments: tuple[str, ...], name: str) -> str | None:
    """Return a flag's value, in whichever of vLLM's spellings; the last one counts."""
    found: str | None = None
    for position, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        if flag.removeprefix("--").replace("_", "-") == name and flag.startswith("--"):
            found = value if equals else next(iter(arguments[position + 1 :]), None)
    return found


def _name(served: str) -> str | None:
    try:
        return ModelName(served).name
    except InvalidId:
        return None
