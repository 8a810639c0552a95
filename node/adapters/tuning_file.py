"""The tuner's ledger in a small JSON file, whole or not at all. One that cannot be read is put aside, and begun anew.

Knows nothing of what its entries mean. The file lies with the node's data: what is lost with it is what was learnt the
hard way, by strategies that failed.
"""

from pathlib import Path

import msgspec
import structlog
import trio

from node import files
from node.core.strategy import InvalidStrategy
from node.core.tuning_ledger import BANS, HISTORY, VERSION, Ledger

log = structlog.get_logger(__name__)

NAME = "tuning.json"  # in the data folder
FILE_BYTES = 4 << 20  # 1,000 entries of history with long reasons are 1 MB
ASIDE = ".damaged"


class TuningFile:
    """Keeps one ledger. Disk work is done in threads, one at a time; the latest wins."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._turn = trio.Lock()

    async def load(self) -> Ledger | None:
        """Return what was kept; None where nothing was, or nothing that can be read."""
        return await trio.to_thread.run_sync(load, self._file)

    async def save(self, ledger: Ledger) -> None:
        """Keep this ledger in place of the one before. Failing is logged and no more."""
        async with self._turn:
            await trio.to_thread.run_sync(save, self._file, ledger)


def save(file: Path, ledger: Ledger) -> None:
    """Keep it. Blocks for the disk."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        files.replace(file, msgspec.json.encode(ledger) + b"\n")
    except OSError as error:
        log.warning("tuning.not_saved", file=str(file), reason=str(error))


def load(file: Path) -> Ledger | None:
    """Return what was kept. Blocks for the disk."""
    try:
        if file.stat().st_size > FILE_BYTES:
            return _put_aside(file, "too large")
        ledger = msgspec.json.decode(file.read_bytes(), type=Ledger)
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, InvalidStrategy, RecursionError) as error:
        return _put_aside(file, str(error))
    except OSError as error:
        log.warning("tuning.not_loaded", file=str(file), reason=str(error))
        return None
    if ledger.version != VERSION or len(ledger.history) > HISTORY or len(ledger.bans) > BANS:
        return _put_aside(file, "of another version")
    return ledger


def _put_aside(file: Path, reason: str) -> None:
    aside = file.with_name(file.name + ASIDE)
    log.warning("tuning.begun_anew", file=str(file), kept=str(aside), reason=reason)
    try:
        file.replace(aside)
    except OSError as error:
        log.warning("tuning.not_put_aside", file=str(file), reason=str(error))
