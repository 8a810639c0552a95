"""Lessons with what metainf ships with: beside the history, never in it, and behind whatever is fresh."""

from base64 import b64decode
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from node.adapters.store.history import StoredHistory, open_history
from node.adapters.store.lesson import LessonFile
from node.core.observation import from_line
from node.core.snapshot import Snapshot, digest_of, open_snapshot, write_snapshot
from node.history import record_rules
from node.learner.worker import read_records
from node.learner_ports import Authors
from node.record_ports import Standing
from protocol import limits
from protocol.ids import PUBLIC_SWARM, Epoch, PeerId
from protocol.performance import PERFORMANCE, Performance
from protocol.records import Signed, open_unverified
from tests.protocol.performance_samples import STRATEGY, performance
from tests.protocol.samples import NOW

OURS, OWN, FRIEND = (Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number in (1, 2, 3))
LATER = NOW + 3 * limits.LIFETIME_MAX_US
STRATEGIES = [replace(STRATEGY, max_num_seqs=seqs) for seqs in (1, 2, 4, 8, 16, 32)]
OLD = [
    performance(OURS, seq=seq, strategy=strategy, time=NOW + seq) for seq, strategy in enumerate(STRATEGIES, start=1)
]


def peer(key: Ed25519PrivateKey) -> PeerId:
    return PeerId.from_public_key(key.public_key().public_bytes_raw())


def shipped(records: Sequence[Signed[Performance]] = OLD) -> Snapshot:
    raw = write_snapshot(each.sealed for each in records)
    return open_snapshot(raw, digest=digest_of(raw))


def fresh(key: Ed25519PrivateKey, count: int) -> list[bytes]:
    epoch = Epoch(LATER - 1000)
    return [
        performance(
            key, seq=seq, epoch=epoch, time=LATER - 1, strategy=replace(STRATEGY, max_num_seqs=100 + seq)
        ).sealed
        for seq in range(count)
    ]


@asynccontextmanager
async def history_at(file: Path, now_us: int) -> AsyncIterator[StoredHistory[Performance]]:
    rules = record_rules(PUBLIC_SWARM, lambda: now_us)
    async with open_history(file, rules, now_us=lambda: now_us) as history:
        yield history


async def lesson_of(file: Path, *, most: int = 1000, records: Sequence[Signed[Performance]] = OLD) -> list[Performance]:
    lessons = LessonFile(file, shipped=shipped(records))
    lesson = await lessons.write(Authors(own=peer(OWN), known=frozenset({peer(FRIEND), peer(OURS)})), most=most)
    rows = [from_line(line) for line in lesson.path.read_bytes().splitlines()]
    bodies = [open_unverified(b64decode(str(row["record.sealed"])), PERFORMANCE) for row in rows]
    assert lesson.records == len(bodies)
    assert len(list(read_records(lesson.path, "vllm"))) == len(bodies)  # and the learner takes each
    await lessons.remove()
    return bodies


def numbers(bodies: Sequence[Performance], key: Ed25519PrivateKey = OURS) -> list[int]:
    return [body.stamp.seq for body in bodies if body.stamp.author == peer(key)]


async def test_what_expired_long_ago_is_learnt_from_and_no_peer_may_bring_it(tmp_path: Path) -> None:
    file = tmp_path / "public.sqlite"
    async with history_at(file, LATER) as history:
        brought = await history.admit([each.sealed for each in OLD], via=peer(FRIEND))
        assert {(each.standing, each.reason) for each in brought} == {(Standing.REJECTED, "expired")}
        for _ in range(2):  # it is the same each time: nothing was taken in
            assert numbers(await lesson_of(file)) == [6, 5, 4, 3, 2, 1]
        assert history.facts().records == 0
        assert await history.holdings() == ()
        everything = [(1, 1000)]
        assert await history.page(peer(OURS), OLD[0].body.stamp.epoch, everything, records=10, size=10**6) == ()


async def test_what_the_history_has_too_is_learnt_from_once(tmp_path: Path) -> None:
    file = tmp_path / "public.sqlite"
    async with history_at(file, NOW + 1000) as history:
        await history.admit([OLD[0].sealed, OLD[3].sealed], via=peer(FRIEND))
        found = await lesson_of(file)
    assert sorted(numbers(found)) == [1, 2, 3, 4, 5, 6]
    assert numbers(found)[:2] == [4, 1]  # the history's own come first


async def test_it_comes_last_and_gets_no_more_than_the_history_leaves(tmp_path: Path) -> None:
    file = tmp_path / "public.sqlite"
    async with history_at(file, LATER) as history:
        await history.admit(fresh(OWN, 20), via=None)
        found = await lesson_of(file, most=24)
        assert numbers(found[:20], OWN) == list(range(19, -1, -1))
        assert numbers(found[20:]) == [6, 5, 4, 3]
        assert numbers(await lesson_of(file, most=20)) == []
        assert numbers(await lesson_of(file, most=10)) == []


async def test_where_this_node_measured_the_very_same_the_shipped_record_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "public.sqlite"
    again = performance(OWN, seq=1, epoch=Epoch(LATER - 1000), time=LATER - 1, strategy=STRATEGIES[2]).sealed
    told = performance(FRIEND, seq=1, epoch=Epoch(LATER - 1000), time=LATER - 1, strategy=STRATEGIES[4]).sealed
    async with history_at(file, LATER) as history:
        await history.admit([again, told], via=None)
        found = await lesson_of(file)
    assert numbers(found) == [6, 5, 4, 2, 1]  # what others say of it takes nothing away
    assert numbers(found, OWN) == numbers(found, FRIEND) == [1]


@pytest.mark.parametrize("most", [1, 3, 100])
async def test_the_room_of_a_lesson_is_never_exceeded(tmp_path: Path, most: int) -> None:
    file = tmp_path / "public.sqlite"
    async with history_at(file, LATER) as history:
        await history.admit(fresh(FRIEND, 2), via=peer(FRIEND))
        assert len(await lesson_of(file, most=most)) == min(most, 2 + len(OLD))
