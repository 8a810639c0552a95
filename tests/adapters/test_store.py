"""The store beyond its port: own names, damage, full disks, versions of the tables, and readers beside it."""

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from node.adapters.store.database import Damaged, Database
from node.adapters.store.history import StoredHistory, open_history
from node.adapters.store.pen import Pen
from node.adapters.store.reader import read_history
from node.adapters.store.rules import Rules
from node.adapters.store.salvage import open_shelf
from node.adapters.store.schema import STEPS
from node.adapters.store.shelf import Shelf
from node.adapters.store.tables import Query
from node.errors import Unavailable
from node.record_ports import Standing
from protocol import limits, records
from protocol.errors import LocalProtocolError
from protocol.ids import PUBLIC_SWARM, Epoch, RecordName
from protocol.records import Stamp
from tests.protocol import samples
from tests.protocol.samples import AUTHOR, HOUR, NOTE, NOW, Note

pytestmark = pytest.mark.slow

RULES = Rules(kind=NOTE, swarm=PUBLIC_SWARM)
EPOCH = Epoch(NOW - HOUR)
MANY = [records.sign(NOTE, samples.note("x" * 900, seq=seq), samples.KEY).sealed for seq in range(300)]


def now() -> int:
    return NOW


def shelf_in(file: Path, *, pen: Pen[Note] | None = None) -> Shelf[Note]:
    return open_shelf(file, RULES, now_us=now, pen=pen)


def theirs(text: str) -> bytes:
    return records.sign(NOTE, samples.note(text, author=author_of(samples.OTHER_KEY)), samples.OTHER_KEY).sealed


def fill(shelf: Shelf[Note], sealed: list[bytes] = MANY) -> None:
    for begin in range(0, len(sealed), limits.BATCH_RECORDS):
        verdicts = shelf.admit(sealed[begin : begin + limits.BATCH_RECORDS], via=None)
        assert {each.standing for each in verdicts} <= {Standing.NEW, Standing.KNOWN}


def all_of(shelf: Shelf[Note]) -> set[bytes]:
    (holding,) = shelf.holdings([AUTHOR]) or (None,)
    if holding is None:
        return set()
    return set(shelf.page((AUTHOR.key, EPOCH.start_us), holding.ranges, records=1000, size=2**30))


@pytest.fixture(scope="module")
def full_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with all of MANY, another author's note and the proof of its fork, closed in good order."""
    file = tmp_path_factory.mktemp("full") / "history.sqlite3"
    shelf = shelf_in(file)
    fill(shelf)
    shelf.admit([theirs("one"), theirs("other")], via=None)
    shelf.close()
    return file


@pytest.fixture
def file(full_file: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(full_file, tmp_path / "history.sqlite3"))


def asides(file: Path) -> list[Path]:
    return sorted(each for each in file.parent.glob(f"{file.name}.damaged-*") if each.suffix[-4:] != "-wal")


# -- what stays


def test_what_was_held_is_held_by_the_next_run(file: Path) -> None:
    shelf = shelf_in(file)
    assert all_of(shelf) == set(MANY)
    assert (shelf.facts.records, shelf.facts.authors, shelf.facts.quarantined) == (301, 2, 1)
    assert shelf.facts.bytes == sum(map(len, [*MANY, theirs("one")]))
    assert not asides(file)
    (fork,) = shelf.forks(most=9)
    opened = [records.verify_archived(each, NOTE, swarm=PUBLIC_SWARM) for each in (fork.first, fork.second)]
    assert records.find_fork(*opened) == fork
    shelf.close()


def test_the_file_is_private(file: Path) -> None:
    shelf = shelf_in(file.with_name("new.sqlite3"))
    shelf.admit(MANY[:1], via=None)
    modes = {each.stat().st_mode & 0o077 for each in file.parent.glob("new.sqlite3*")}
    assert modes == {0}
    shelf.close()


async def test_records_are_listed_newest_first_page_by_page_while_somebody_writes(tmp_path: Path) -> None:
    file = tmp_path / "history.sqlite3"
    notes = [
        records.sign(NOTE, samples.note(seq=seq, time=NOW - at), samples.KEY).sealed
        for seq, at in enumerate([5, 3, 9, 3, 1, 7])
    ]
    other = records.sign(
        NOTE, samples.note(author=author_of(samples.OTHER_KEY), time=NOW - 4), samples.OTHER_KEY
    ).sealed
    async with open_history(file, RULES, now_us=now) as history:
        await history.admit([*notes, other], via=None)
        with read_history(file) as beside:
            for ask in (history.browse, beside.browse):
                seen: list[bytes] = []
                query = Query(since_us=NOW - 8, until_us=NOW - 2)
                while page := await listed(ask, query):
                    seen += [each.sealed for each in page]
                    query = replace(query, after=page[-1].place)
                assert seen == [notes[3], notes[1], other, notes[0], notes[5]]
            (only,) = beside.browse(Query(author=author_of(samples.OTHER_KEY)), most=9)
            assert only.sealed == other
            assert beside.under(only.name) == other
            with pytest.raises(Unavailable):
                Database(file, steps=STEPS, reading=True).rows("DELETE FROM records")


async def listed(ask: Callable, query: Query) -> list:
    page = ask(query, most=2)
    return list(page if isinstance(page, list) else await page)


def author_of(key: records.SigningKey) -> samples.PeerId:
    return samples.PeerId.from_public_key(key.public_key().public_bytes_raw())


# -- our own


def compose(stamp: Stamp) -> Note:
    return replace(samples.note(), stamp=stamp)


def pen(run_us: int = NOW - 5) -> Pen[Note]:
    return Pen(samples.KEY, RULES, run_us=run_us)


def write(shelf: Shelf[Note]) -> RecordName:
    return shelf.append(compose, lifetime_us=HOUR).name


def test_our_own_records_are_numbered_and_kept(tmp_path: Path) -> None:
    shelf = shelf_in(tmp_path / "h", pen=pen())
    names = [write(shelf) for _ in range(3)]
    assert [(each.epoch.start_us, each.seq) for each in names] == [(NOW - 5, 0), (NOW - 5, 1), (NOW - 5, 2)]
    assert [each.ranges for each in shelf.holdings(None)] == [((0, 2),)]
    shelf.close()
    with pytest.raises(LocalProtocolError, match="without a pen"):
        shelf_in(tmp_path / "h").append(compose, lifetime_us=HOUR)


def test_a_restored_backup_gives_no_name_twice(tmp_path: Path) -> None:
    file = tmp_path / "h"
    shelf = shelf_in(file, pen=pen(NOW - 5))
    names = [write(shelf)]
    shelf.close()
    backup = file.read_bytes()
    shelf = shelf_in(file, pen=pen(NOW - 4))
    names += [write(shelf), write(shelf)]
    shelf.close()
    file.write_bytes(backup)
    shelf = shelf_in(file, pen=pen(NOW - 3))
    names += [write(shelf), write(shelf)]
    assert len(set(names)) == 5
    shelf.close()


def test_a_run_that_claims_an_earlier_start_begins_after_what_is_there(tmp_path: Path) -> None:
    file = tmp_path / "h"
    names = []
    for run in (NOW - 5, NOW - 5, NOW - 99):
        shelf = shelf_in(file, pen=pen(run))
        names += [write(shelf), write(shelf)]
        shelf.close()
    assert [each.epoch.start_us for each in names[::2]] == [NOW - 5, NOW - 4, NOW - 3]


def test_a_copy_of_this_very_run_that_writes_elsewhere_is_left_its_epoch(tmp_path: Path) -> None:
    here, there = shelf_in(tmp_path / "a", pen=pen()), shelf_in(tmp_path / "b", pen=pen())
    first = write(here)
    theirs = [there.append(compose, lifetime_us=HOUR - 1).sealed for _ in range(3)][1:]
    here.admit(theirs, via=None)
    assert write(here).epoch > first.epoch
    assert not here.facts.quarantined
    here.close()
    there.close()


def test_a_clock_that_was_set_back_is_lifted_to_the_epoch(tmp_path: Path) -> None:
    shelf = shelf_in(tmp_path / "h", pen=pen(NOW + 1000))
    stamp = shelf.append(compose, lifetime_us=HOUR).body.stamp
    assert (stamp.epoch.start_us, stamp.time, stamp.expiry) == (NOW + 1000, NOW + 1000, NOW + 1000 + HOUR)
    shelf.close()


# -- damage


def test_flipped_bits_never_reach_anybody_and_the_rest_is_served(file: Path) -> None:
    whole, luck = file.read_bytes(), Random(5)  # noqa: S311 - the same every time
    saved = []
    for round_ in range(40):
        torn = bytearray(whole)
        for _ in range(luck.choice([1, 1, 4])):
            torn[luck.randrange(8192 if round_ < 5 else 0, len(torn))] ^= 1 << luck.randrange(8)
        fresh_start(file, bytes(torn))
        shelf = shelf_in(file)
        held = all_of(shelf)
        assert held <= set(MANY)
        assert len(held) <= shelf.facts.records <= len(held) + 1
        fill(shelf)  # what is missing comes again from peers
        assert all_of(shelf) == set(MANY)
        shelf.close()
        saved.append(len(held))
    assert min(saved) > 250, saved  # a leaf of a table has seven records


def test_a_file_that_was_cut_off_is_set_aside_and_what_can_be_read_is_kept(file: Path) -> None:
    whole = file.read_bytes()
    kept = {}
    for share in (0.0, 0.001, 0.1, 0.5, 0.9, 0.999):
        fresh_start(file, whole[: int(share * len(whole))])
        shelf = shelf_in(file)
        held = all_of(shelf)
        assert held <= set(MANY)
        assert asides(file) or not share or len(held) >= 293  # an empty file is new; of a cut page, records are dropped
        kept[share] = len(held)
        shelf.close()
    assert kept[0.999] > 280
    assert kept[0.9] > 200, kept
    assert kept[0.5] > 50, kept


@pytest.mark.parametrize("content", [b"garbage" * 999, b"SQLite format 3\0" + bytes(9999)])
def test_what_is_no_history_is_set_aside(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "history.sqlite3"
    file.write_bytes(content)
    shelf = shelf_in(file)
    fill(shelf)
    assert [each.read_bytes() for each in asides(file)] == [content]
    shelf.close()


def test_the_proof_of_a_fork_survives_damage(file: Path) -> None:
    torn = file.read_bytes()[:-8192]
    fresh_start(file, torn)
    shelf = shelf_in(file)
    assert asides(file)
    assert shelf.facts.quarantined == 1
    shelf.close()


def test_damaged_files_do_not_pile_up(file: Path) -> None:
    whole = file.read_bytes()
    for round_ in range(5):
        file.write_bytes(whole[:-9000])
        open_shelf(file, RULES, now_us=lambda at=round_: NOW + at).close()
    assert [each.name.rsplit("-", 1)[1] for each in asides(file)] == [str(NOW + at) for at in (2, 3, 4)]


def test_a_crash_while_the_mended_file_is_put_in_place_is_made_good(file: Path) -> None:
    mended = file.with_name(f"{file.name}.mended")
    for left in (["history.sqlite3", "history.sqlite3-wal"], ["history.sqlite3"], []):
        whole = file.read_bytes()
        mended.write_bytes(whole)
        file.unlink()
        for each in left:
            file.with_name(each).write_bytes(b"damaged")
        shelf = shelf_in(file)
        assert all_of(shelf) == set(MANY)
        assert not mended.exists()
        shelf.close()


def test_a_record_that_the_disk_changes_while_the_node_runs_is_dropped_not_served(file: Path) -> None:
    torn = file.read_bytes()
    at = torn.index(MANY[100]) + 300
    shelf = shelf_in(file)
    with file.open("r+b") as raw:
        raw.seek(at)
        raw.write(b"\xff\xff")
    forget_pages(shelf)
    assert all_of(shelf) == set(MANY) - {MANY[100]}
    assert shelf.facts.records == 300
    fill(shelf)
    assert all_of(shelf) == set(MANY)
    shelf.close()


async def test_damage_found_while_the_node_runs_is_mended_without_a_restart(file: Path) -> None:
    async with open_history(file, RULES, now_us=now, pen=pen()) as history:
        before = await history.append(compose, lifetime_us=HOUR)
        tear(file, keep=0.6)
        seen = await pages_of(history)
        assert seen
        assert seen <= {*MANY, before.sealed}
        assert asides(file)
        after = await history.append(compose, lifetime_us=HOUR)
        assert after.name > before.name


async def pages_of(history: StoredHistory[Note]) -> set[bytes]:
    return {
        sealed
        for each in await history.holdings()
        for sealed in await history.page(each.author, each.epoch, each.ranges, records=999, size=2**30)
    }


def tear(file: Path, *, keep: float) -> None:
    """Cut the open file off, as a failing disk might; the log beside it is emptied first, by another connection."""
    beside = sqlite3.connect(file)
    beside.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    beside.close()
    size = file.stat().st_size
    os.truncate(file, int(size * keep) // 8192 * 8192)


def forget_pages(shelf: Shelf[Note]) -> None:
    shelf.database.rows("PRAGMA shrink_memory")


def fresh_start(file: Path, content: bytes) -> None:
    for each in file.parent.glob(f"{file.name}*"):
        each.unlink()
    file.write_bytes(content)


# -- versions of the tables


def test_a_newer_version_is_left_alone(file: Path) -> None:
    with Database(file, steps=[*STEPS, ("CREATE TABLE later (x INTEGER) STRICT",)]) as newer:
        assert newer.rows("SELECT * FROM later") == []
    content = file.read_bytes()
    with pytest.raises(Unavailable, match="newer version"):
        shelf_in(file)
    assert file.read_bytes() == content
    assert not asides(file)


def test_an_older_version_is_brought_up_to_date_or_left_as_it_is(file: Path) -> None:
    step = ("ALTER TABLE records ADD COLUMN seen INTEGER", "CREATE TABLE later (x INTEGER) STRICT")
    with pytest.raises(sqlite3.OperationalError):
        Database(file, steps=[*STEPS, (*step, "CREATE NONSENSE")])
    with pytest.raises(Unavailable, match="older version"):
        Database(file, steps=[*STEPS, step], reading=True)
    with Database(file, steps=[*STEPS, step]) as migrated:
        assert migrated.rows("SELECT count(*), max(seen) FROM records") == [(301, None)]
    with Database(file, steps=[*STEPS, step], reading=True) as again:
        again.check()


def test_tables_that_are_not_those_of_their_version_are_damage(file: Path) -> None:
    beside = sqlite3.connect(file)
    beside.execute("DROP INDEX records_by_time")
    beside.close()
    with pytest.raises(Damaged):
        Database(file, steps=STEPS)


# -- a disk that refuses


FULL = """
import resource, signal, sys
from pathlib import Path
from tests.adapters.test_store import MANY, shelf_in
from node.errors import Unavailable

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
file = Path(sys.argv[1])
shelf = shelf_in(file)
resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, resource.RLIM_INFINITY))
refused = []
for begin in range(0, 300, 20):
    batch = MANY[begin : begin + 20]
    before = shelf.facts.records
    try:
        shelf.admit(batch, via=None)
    except Unavailable as error:
        assert error.remedy
        assert shelf.facts.records == before
        refused.append(begin)
    else:
        print(begin, flush=True)
assert refused, "the disk never filled"
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
shelf.admit(MANY[refused[0] : refused[0] + 20], via=None)
print(refused[0], flush=True)
"""


def test_a_full_disk_refuses_whole_batches_loses_nothing_and_recovers(tmp_path: Path) -> None:
    file = tmp_path / "history.sqlite3"
    child = subprocess.run(
        [sys.executable, "-c", FULL, str(file)], capture_output=True, text=True, timeout=60, check=False
    )
    assert child.returncode == 0, child.stderr[-2000:]
    acknowledged = [int(line) for line in child.stdout.split()]
    assert 1 < len(acknowledged) < 15
    shelf = shelf_in(file)
    assert all_of(shelf) == {each for begin in acknowledged for each in MANY[begin : begin + 20]}
    assert not asides(file)
    shelf.close()


def test_a_history_that_is_not_there_is_said_to_a_person(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="cannot be read"), read_history(tmp_path / "history.sqlite3"):
        pass
    assert not (tmp_path / "history.sqlite3").exists()


def test_a_folder_that_cannot_be_is_said_to_a_person(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match="cannot make or read"):
        shelf_in(tmp_path / "file" / "history.sqlite3")
