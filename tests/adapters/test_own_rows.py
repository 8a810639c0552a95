"""Own records as rows, out of a real history: whose, of which model, newest first, and no more than asked for."""

from dataclasses import replace
from pathlib import Path

import pytest

from node.adapters.store.database import Database
from node.adapters.store.history import StoredHistory, open_history
from node.adapters.store.own import PAGE, OwnRecords
from node.adapters.store.rules import Rules
from node.adapters.store.schema import STEPS
from node.errors import Unavailable
from node.record_ports import OwnRows
from protocol import limits, records
from protocol.ids import PUBLIC_SWARM, ContentDigest, Epoch, PeerId
from protocol.performance import PERFORMANCE, Performance
from protocol.records import SigningKey
from tests.fakes.history import FakeHistory
from tests.protocol.performance_samples import EPOCH, MODEL, body
from tests.protocol.samples import AUTHOR, KEY, NOW, OTHER_KEY

RULES = Rules(kind=PERFORMANCE, swarm=PUBLIC_SWARM)
OTHER = PeerId.from_public_key(OTHER_KEY.public_key().public_bytes_raw())
LATER = Epoch(EPOCH.start_us + 1000)
OTHER_MODEL = replace(MODEL, digest=ContentDigest(bytes(32)))


def sealed(count: int, *, key: SigningKey = KEY, epoch: Epoch = EPOCH, model: object = MODEL) -> list[bytes]:
    author = PeerId.from_public_key(key.public_key().public_bytes_raw())
    return [
        records.sign(PERFORMANCE, body(author=author, epoch=epoch, seq=seq, time=NOW + seq, model=model), key).sealed
        for seq in range(count)
    ]


async def admit(history: StoredHistory[Performance] | FakeHistory, raw: list[bytes]) -> None:
    for at in range(0, len(raw), limits.BATCH_RECORDS):
        await history.admit(raw[at : at + limits.BATCH_RECORDS], via=None)


@pytest.fixture
def everything() -> list[bytes]:
    """Two runs of ours, one of them of another model, and somebody else's."""
    return [
        *sealed(PAGE + 5),
        *sealed(10, epoch=LATER),
        *sealed(5, epoch=Epoch(LATER.start_us + 1), model=OTHER_MODEL),
        *sealed(20, key=OTHER_KEY),
    ]


async def check(own: OwnRows) -> None:
    rows = await own.own_rows(MODEL.digest)
    names = [(row["record.epoch_us"], row["record.seq"]) for row in rows]
    assert names == [(LATER.start_us, seq) for seq in range(9, -1, -1)] + [
        (EPOCH.start_us, seq) for seq in range(PAGE + 4, -1, -1)
    ]
    assert {row["record.author"] for row in rows} == {str(AUTHOR)}
    assert all("outcome.latency_mean_s" in row and "record.sealed" not in row for row in rows)
    assert [row["record.seq"] for row in await own.own_rows(MODEL.digest, most=3)] == [9, 8, 7]
    assert len(await own.own_rows(None)) == len(rows) + 5
    assert not await own.own_rows(ContentDigest(bytes([9]) * 32))


async def test_the_stored_history_and_the_fake_tell_the_same(tmp_path: Path, everything: list[bytes]) -> None:
    file = tmp_path / "public.sqlite"
    async with open_history(file, RULES, now_us=lambda: NOW) as history:
        await admit(history, everything)
        await check(OwnRecords(file, AUTHOR))
    fake = FakeHistory(PERFORMANCE, now_us=lambda: NOW, key=KEY)
    await admit(fake, everything)
    await check(fake)


async def test_a_history_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        await OwnRecords(tmp_path / "none.sqlite", AUTHOR).own_rows(None)


async def test_what_the_disk_has_changed_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "public.sqlite"
    async with open_history(file, RULES, now_us=lambda: NOW) as history:
        await admit(history, sealed(4))
    with Database(file, steps=STEPS) as database:
        database.rows("UPDATE records SET sealed = x'00' WHERE seq = 2")
    assert [row["record.seq"] for row in await OwnRecords(file, AUTHOR).own_rows(None)] == [3, 1, 0]
