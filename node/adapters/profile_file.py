"""The profile of this machine in a small JSON file. One that cannot be read is as good as none: it is measured anew.

Knows nothing of what the figures mean. The file lies in the cache: nothing is lost with it but some seconds.
"""

from pathlib import Path

import msgspec
import structlog

from node import files
from node.core.profile import SCHEMA_VERSION, Profile

log = structlog.get_logger(__name__)

NAME = "profile.json"  # in the cache folder
FILE_BYTES = 1 << 20  # a machine of eight GPUs has 20 KB


def save(file: Path, profile: Profile) -> None:
    """Keep this profile in place of the one before. Failing is logged and no more. Blocks for the disk."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        files.replace(file, msgspec.json.format(msgspec.json.encode(profile), indent=1) + b"\n")
    except OSError as error:
        log.warning("profile.not_saved", file=str(file), reason=str(error))


def load(file: Path) -> Profile | None:
    """Return what was kept; None where the file is missing, damaged or of another version. Blocks for the disk."""
    try:
        if file.stat().st_size > FILE_BYTES:
            log.warning("profile.not_loaded", file=str(file), reason="too large")
            return None
        profile = msgspec.json.decode(file.read_bytes(), type=Profile)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError, RecursionError) as error:
        log.warning("profile.not_loaded", file=str(file), reason=type(error).__name__)
        return None
    return profile if profile.version == SCHEMA_VERSION else None
