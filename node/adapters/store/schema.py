"""The shape of the history's tables, and how each version of it becomes the next.

Knows no Python value. A step that has been released is never changed: files in the world have taken it.
"""

from typing import Final

# Records. `hash` is SHA-256 of `sealed`; `cell` is what the retention rule compares within an author. `authors` has the
# sums that quotas are judged by, and `digest`, SHA-256 of the key, by which the rule decides between equals. Triggers
# keep the sums, so that no way of deleting can forget them; `authors` is entered where a record is. The highest row is
# kept apart by AUTOINCREMENT, at the beginning of the file: salvage must know how far to look.
_FIRST: Final = (
    """CREATE TABLE records (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        author BLOB NOT NULL,
        epoch INTEGER NOT NULL,
        seq INTEGER NOT NULL,
        time INTEGER NOT NULL,
        expiry INTEGER NOT NULL,
        cell BLOB NOT NULL,
        hash BLOB NOT NULL,
        sealed BLOB NOT NULL
    ) STRICT""",
    "CREATE UNIQUE INDEX records_by_name ON records (author, epoch, seq)",
    "CREATE UNIQUE INDEX records_by_hash ON records (hash)",
    "CREATE INDEX records_by_expiry ON records (expiry)",
    "CREATE INDEX records_by_time ON records (time)",
    """CREATE TABLE authors (
        author BLOB PRIMARY KEY,
        digest BLOB NOT NULL,
        records INTEGER NOT NULL,
        bytes INTEGER NOT NULL
    ) STRICT""",
    "CREATE INDEX authors_by_records ON authors (records, digest)",
    "CREATE TABLE totals (records INTEGER NOT NULL, authors INTEGER NOT NULL, bytes INTEGER NOT NULL) STRICT",
    "INSERT INTO totals VALUES (0, 0, 0)",
    # The proof that an author gave one name to two bodies. One proof is enough to be done with it.
    """CREATE TABLE forks (
        author BLOB PRIMARY KEY,
        epoch INTEGER NOT NULL,
        seq INTEGER NOT NULL,
        first BLOB NOT NULL,
        second BLOB NOT NULL,
        found INTEGER NOT NULL
    ) STRICT""",
    """CREATE TRIGGER record_goes AFTER DELETE ON records BEGIN
        UPDATE authors SET records = records - 1, bytes = bytes - length(old.sealed) WHERE author = old.author;
        DELETE FROM authors WHERE author = old.author AND records = 0;
    END""",
    """CREATE TRIGGER author_comes AFTER INSERT ON authors BEGIN
        UPDATE totals SET authors = authors + 1, records = records + new.records, bytes = bytes + new.bytes;
    END""",
    """CREATE TRIGGER author_changes AFTER UPDATE ON authors BEGIN
        UPDATE totals SET records = records + new.records - old.records, bytes = bytes + new.bytes - old.bytes;
    END""",
    """CREATE TRIGGER author_goes AFTER DELETE ON authors BEGIN
        UPDATE totals SET authors = authors - 1, records = records - old.records, bytes = bytes - old.bytes;
    END""",
)

STEPS: Final = (_FIRST,)
