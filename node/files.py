"""Small private files, written whole or not at all.

Standard library only; knows nothing of what is in them.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PRIVATE = 0o600


def write_new(file: Path, content: bytes) -> None:
    """Write a new file that only its owner may read.

    Raises:
        FileExistsError: there is one already; it is left as it is.
        OSError: as the file system says; nothing is left behind.
    """
    with _partial(file, content) as partial:
        os.link(partial, file)  # unlike a rename, refuses to replace


def replace(file: Path, content: bytes) -> None:
    """Put `content` in the file's place, readable by its owner alone; until then the old content stands.

    Raises:
        OSError: as the file system says.
    """
    with _partial(file, content) as partial:
        partial.replace(file)


@contextmanager
def _partial(file: Path, content: bytes) -> Iterator[Path]:
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, PRIVATE), "wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        yield partial
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def exclusive(file: Path) -> Iterator[None]:
    """Hold an advisory lock beside `file`, so that two commands do not both read, change and write it."""
    with file.with_name(f".{file.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
