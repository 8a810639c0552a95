"""The records that metainf ships with, read from the file beside the code.

Knows which file, and by which digest; what may be in it is `node.core.snapshot`'s. A snapshot that is not the one that
the code knows is not used, whole: a node serves as well without, and learns from what its peers bring.
"""

from pathlib import Path
from typing import Final

import structlog

import node.warm_start
from node.core.snapshot import BYTES, InvalidSnapshot, Snapshot, open_snapshot

log = structlog.get_logger(__name__)

SHIPPED: Final = Path(node.warm_start.__file__).with_name("snapshot.jsonl")


def read_shipped(file: Path = SHIPPED, digest: str = node.warm_start.DIGEST) -> Snapshot | None:
    """Return what is shipped; None, with a line in the log, where it cannot be used.

    Blocks for the disk and for the signatures, 0.3 ms each: call it in a thread.
    """
    try:
        with file.open("rb") as opened:
            raw = opened.read(BYTES + 1)
        return open_snapshot(raw, digest=digest)
    except OSError as error:
        reason = error.strerror or str(error)
    except InvalidSnapshot as error:
        reason = str(error)
    log.warning(
        "snapshot.not_used", file=str(file), reason=reason,
        remedy="install metainf again; until then this node begins without shipped records",
    )  # fmt: skip
    return None
