"""The profile of this machine and what its engine takes, each in a small JSON file.

One that cannot be read is as good as none: it is found out anew. Knows nothing of what the figures mean. The files lie
in the cache: nothing is lost with them but some seconds.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec
import structlog

from node import files
from node.core.capabilities import SCHEMA_VERSION as CAPABILITIES_VERSION
from node.core.capabilities import Capabilities
from node.core.profile import SCHEMA_VERSION, Profile

log = structlog.get_logger(__name__)

NAME = "profile.json"  # in the cache folder
CAPABILITIES_NAME = "capabilities.json"
FILE_BYTES = 1 << 20  # a machine of eight GPUs has 20 KB, and so have the options of vLLM

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Whom capabilities are of: another interpreter, version or driver is asked anew."""

    python: str
    vllm: str
    torch: str
    driver: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    asked: Asked
    capabilities: Capabilities
    version: int = CAPABILITIES_VERSION


def save(file: Path, profile: Profile) -> None:
    """Keep this profile in place of the one before. Failing is logged and no more. Blocks for the disk."""
    _save(file, profile)


def load(file: Path) -> Profile | None:
    """Return what was kept; None where the file is missing, damaged or of another version. Blocks for the disk."""
    profile = _load(file, Profile)
    return profile if profile is not None and profile.version == SCHEMA_VERSION else None


def save_capabilities(file: Path, asked: Asked, found: Capabilities) -> None:
    """Keep what that engine takes in place of what was kept before. Failing is logged and no more. Blocks."""
    _save(file, _Kept(asked=asked, capabilities=found))


def load_capabilities(file: Path) -> tuple[Asked, Capabilities] | None:
    """Return whose capabilities were kept, and them; None where there are none that can be read. Blocks."""
    kept = _load(file, _Kept)
    if kept is None or kept.version != CAPABILITIES_VERSION:
        return None
    return kept.asked, kept.capabilities


def _save(file: Path, value: object) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        files.replace(file, msgspec.json.format(msgspec.json.encode(value), indent=1) + b"\n")
    except OSError as error:
        log.warning("profile.not_saved", file=str(file), reason=str(error))


def _load(file: Path, kind: type[Value]) -> Value | None:
    try:
        if file.stat().st_size > FILE_BYTES:
            log.warning("profile.not_loaded", file=str(file), reason="too large")
            return None
        return msgspec.json.decode(file.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError, RecursionError) as error:
        log.warning("profile.not_loaded", file=str(file), reason=type(error).__name__)
        return None
