"""Lessons out of a real history: who is in them and in which order, and what lies on the disk."""

import json
from base64 import b64decode
from collections import Counter
from pathlib import Path

import pytest
import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from node.adapters.store.history import StoredHistory, open_history
from node.adapters.store.lesson import LessonFile
from node.adapters.store.rules import Rules
from node.errors import Unavailable
from node.learner_ports import Authors, Lesson
from protocol import limits, records
from protocol.ids import PUBLIC_SWARM, PeerId
from protocol.records import open_unverified
from tests.protocol import samples
from tests.protocol.samples import NOTE, NOW, Note

RULES = Rules(kind=NOTE, swarm=PUBLIC_SWARM)
KEYS = [Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number in range(1, 16)]
OWN, FRIEND, OUTCAST, FORKED, *STRANGERS = (PeerId.from_public_key(key.public_key().public_bytes_raw()) for key in KEYS)


async def fill(history: StoredHistory[Note], author: PeerId, count: int, *, beginning: int = 0) -> None:
    key = KEYS[(OWN, FRIEND, OUTCAST, FORKED, *STRANGERS).index(author)]
    notes = [
        records.sign(NOTE, samples.note(f"{seq}", author=author, seq=seq, time=NOW - 10_000 + seq), key).sealed
        for seq in range(beginning, beginning + count)
    ]
    for at in range(0, len(notes), limits.BATCH_RECORDS):
        await history.admit(notes[at : at + limits.BATCH_RECORDS], via=None)


def read(lesson: Lesson) -> list[Note]:
    lines = lesson.path.read_text().splitlines()
    return [open_unverified(b64decode(json.loads(line)["record.sealed"]), NOTE) for line in lines]


def by_author(notes: list[Note]) -> Counter[PeerId]:
    return Counter(note.stamp.author for note in notes)


def left(folder: Path) -> list[str]:
    """Return the names of what lessons left behind."""
    return [each.name for each in folder.iterdir() if "lesson" in each.name]


async def test_own_records_come_first_then_known_ones_and_no_stranger_has_more_than_a_share(tmp_path: Path) -> None:
    file = tmp_path / "public.sqlite"
    async with open_history(file, RULES, now_us=lambda: NOW) as history:
        await fill(history, OWN, 30)
        await fill(history, FRIEND, 300)
        await fill(history, OUTCAST, 50)
        await fill(history, FORKED, 50)
        twin = records.sign(NOTE, samples.note("other", author=FORKED, seq=3, time=NOW - 9_997), KEYS[3])
        await history.admit([twin.sealed], via=None)
        for stranger in STRANGERS:
            await fill(history, stranger, 20)
        await fill(history, STRANGERS[0], 150, beginning=20)  # newer than the others'
        authors = Authors(own=OWN, known=frozenset({FRIEND, OUTCAST}), shunned=frozenset({OUTCAST}))
        lesson = await LessonFile(file).write(authors, most=200)
        notes = read(lesson)
        counts = by_author(notes)
        assert (lesson.records, lesson.own, lesson.authors) == (len(notes), 30, len(counts))
        assert lesson.path.stat().st_mode & 0o777 == 0o600
        assert {note.stamp.author for note in notes[:30]} == {OWN}
        assert counts[FRIEND] == 26  # two shares of fifteen authors
        assert [note.stamp.seq for note in notes if note.stamp.author == FRIEND] == list(range(299, 273, -1))
        assert not {OUTCAST, FORKED} & set(counts)
        assert counts[STRANGERS[0]] == 26
        assert lesson.records == 200
        few = await LessonFile(file).write(authors, most=10)
        assert by_author(read(few)) == {OWN: 10}
        await LessonFile(file).remove()
        assert left(tmp_path) == []


async def test_a_lesson_is_written_while_the_history_is_written_and_a_broken_off_one_leaves_nothing(
    tmp_path: Path,
) -> None:
    file = tmp_path / "public.sqlite"
    async with open_history(file, RULES, now_us=lambda: NOW) as history, trio.open_nursery() as nursery:
        await fill(history, FRIEND, 500)
        nursery.start_soon(fill, history, OWN, 200)
        lesson = await LessonFile(file).write(Authors(own=OWN, known=frozenset({FRIEND})), most=1000)
        assert len(read(lesson)) == lesson.records >= 500
        await LessonFile(file).remove()
        with trio.move_on_after(0.002) as brief:
            await LessonFile(file).write(Authors(own=OWN), most=1000)
        assert brief.cancelled_caught
        assert left(tmp_path) == []


async def test_what_a_run_that_was_killed_left_is_removed_half_written_or_whole(tmp_path: Path) -> None:
    for name in (".public.lesson.jsonl", ".public.lesson.partial"):
        (tmp_path / name).write_bytes(b"{}\n")
    await LessonFile(tmp_path / "public.sqlite").remove()
    assert left(tmp_path) == []


async def test_a_history_that_is_gone_damaged_or_in_a_folder_that_refuses_is_unavailable(tmp_path: Path) -> None:
    authors = Authors(own=OWN)
    with pytest.raises(Unavailable):
        await LessonFile(tmp_path / "nothing" / "public.sqlite").write(authors, most=100)
    with pytest.raises(Unavailable):
        await LessonFile(tmp_path / "public.sqlite").write(authors, most=100)
    (tmp_path / "public.sqlite").write_bytes(b"no database" * 1000)
    with pytest.raises(Unavailable):
        await LessonFile(tmp_path / "public.sqlite").write(authors, most=100)
    assert left(tmp_path) == []
