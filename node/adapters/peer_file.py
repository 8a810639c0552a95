"""The peers of the last run, in a small file: how a node finds the swarm again when every bootstrap is gone.

Knows no network. A file that cannot be read is as good as none: nothing in it is needed, and nothing is believed.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import structlog

from node import files
from protocol.addresses import Address, parse_address

log = structlog.get_logger(__name__)

ADDRESSES = 256  # remembered: of as many, some will answer tomorrow
FILE_BYTES = 1024 * 1024  # 256 addresses have at most 100 KB


def save(file: Path, addresses: Sequence[Address]) -> None:
    """Remember these addresses, the likeliest first, in place of those before. Failing is logged and no more.

    Blocks for the disk; call it in a thread.
    """
    content = {"version": 1, "peers": [str(each) for each in addresses[:ADDRESSES]]}
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        files.replace(file, json.dumps(content, indent=1).encode())
    except OSError as error:
        log.warning("peers.not_saved", file=str(file), reason=str(error))


def load(file: Path) -> tuple[Address, ...]:
    """Return what was remembered; nothing where the file is missing, broken or too large. Blocks for the disk."""
    try:
        raw = file.read_bytes() if file.stat().st_size <= FILE_BYTES else b""
        listed = [parse_address(str(each)) for each in json.loads(raw)["peers"][:ADDRESSES]]
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        log.warning("peers.not_loaded", file=str(file), reason=type(error).__name__)
        return ()
    return tuple(each for each in listed if each is not None)
