"""Looking into a history without a node: for the command line, beside a running node or without one.

Knows no loop and never writes. It says what is in the file; whether that is true is the reader's to verify
(`protocol.records.verify_archived`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from node.adapters.store.database import Database
from node.adapters.store.schema import STEPS
from node.adapters.store.tables import Tables


@contextmanager
def read_history(file: Path) -> Iterator[Tables]:
    """Open a history for reading: `browse`, `under`, `forks`, `totals` and what else `Tables` answers.

    Raises:
        node.errors.Unavailable: there is none, it is damaged, or of another version.
    """
    with Database(file, steps=STEPS, reading=True) as database:
        yield Tables(database)
