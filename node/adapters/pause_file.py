"""The owner's pause in a small JSON file, so that it holds over a restart of the node.

Knows nothing of what is paused. A file that cannot be read is as good as none: the engine runs, and a warning says so.
"""

from pathlib import Path

import msgspec
import structlog

from node import files
from node.core.operator_limits import Pause

log = structlog.get_logger(__name__)

NAME = "pause.json"  # in the data folder
FILE_BYTES = 4096  # one has some 60
_decoder = msgspec.json.Decoder(Pause)


def save(file: Path, pause: Pause | None) -> None:
    """Keep this pause, or that there is none. Failing is logged and no more. Blocks for the disk."""
    try:
        if pause is None:
            file.unlink(missing_ok=True)
        else:
            file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            files.replace(file, msgspec.json.encode(pause) + b"\n")
    except OSError as error:
        log.warning("pause.not_saved", file=str(file), reason=str(error))


def load(file: Path) -> Pause | None:
    """Return what was kept; None where the file is missing or damaged. Blocks for the disk."""
    try:
        if file.stat().st_size > FILE_BYTES:
            log.warning("pause.not_loaded", file=str(file), reason="too large")
            return None
        return _decoder.decode(file.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError, RecursionError) as error:
        log.warning("pause.not_loaded", file=str(file), reason=type(error).__name__)
        return None
