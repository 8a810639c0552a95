"""When this run of the node began, later than every run before it even where the clock was set back.

Knows no record; peers tell runs of one node apart by this number alone. One small file holds the last.
"""

import json
from pathlib import Path

import structlog

from node import files
from protocol import limits

log = structlog.get_logger(__name__)

FILE_BYTES = 4096


def begin_run(file: Path, now_us: int) -> int:
    """Return the epoch of this run, microseconds since 1970, and keep it in `file`. Blocks for the disk.

    A file that cannot be read or written is logged and no more: the clock alone is right nearly always.
    """
    last = _last(file)
    epoch = max(now_us, last + 1)
    if epoch > now_us:
        log.warning("epoch.clock_set_back", last_us=last, now_us=now_us)
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        files.replace(file, json.dumps({"version": 1, "epoch_us": epoch}).encode() + b"\n")
    except OSError as error:
        log.warning("epoch.not_saved", file=str(file), reason=str(error))
    return epoch


def _last(file: Path) -> int:
    try:
        raw = file.read_bytes() if file.stat().st_size <= FILE_BYTES else b""
        last = json.loads(raw)["epoch_us"]
    except FileNotFoundError:
        return 0
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        log.warning("epoch.not_loaded", file=str(file), reason=type(error).__name__)
        return 0
    return last if type(last) is int and 0 <= last < limits.EXACT_INT_MAX else 0
