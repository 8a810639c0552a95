"""What authors' records were measured on, out of a real history: whose, each once, newest first."""

from dataclasses import replace
from pathlib import Path

import pytest
import trio

from node.adapters.store.history import open_history
from node.adapters.store.rules import Rules
from node.adapters.store.told import NEWEST, ToldSettings
from node.core.own_records import Setting
from node.errors import Unavailable
from protocol import records
from protocol.ids import PUBLIC_SWARM, ContentDigest, PeerId
from protocol.performance import PERFORMANCE, Model
from protocol.records import SigningKey
from tests.protocol.performance_samples import BENCHMARK, ENGINE, HARDWARE, MODEL, body
from tests.protocol.samples import AUTHOR, KEY, NOW, OTHER_KEY

RULES = Rules(kind=PERFORMANCE, swarm=PUBLIC_SWARM)
OTHER = PeerId.from_public_key(OTHER_KEY.public_key().public_bytes_raw())
OTHER_MODEL = replace(MODEL, name="other", digest=ContentDigest(bytes(32)))


def sealed(seq: int, model: Model = MODEL, key: SigningKey = KEY, **changes: object) -> bytes:
    author = PeerId.from_public_key(key.public_key().public_bytes_raw())
    said = body(author=author, seq=seq, time=NOW + seq, model=model, **changes)
    return records.sign(PERFORMANCE, said, key).sealed


def setting(model: Model = MODEL) -> Setting:
    return Setting(model=model, hardware=HARDWARE, benchmark=BENCHMARK, engine=ENGINE)


async def test_each_setting_comes_once_the_newest_first_and_only_the_author_s_own(tmp_path: Path) -> None:
    file = tmp_path / "history.db"
    async with open_history(file, RULES, now_us=lambda: NOW) as history:
        mine = [sealed(0), sealed(1, OTHER_MODEL), sealed(2), sealed(3, OTHER_MODEL)]
        await history.admit([*mine, sealed(0, key=OTHER_KEY)], via=None)
        told = ToldSettings(file)
        assert await told.settings_of(AUTHOR) == (setting(OTHER_MODEL), setting())
        assert await told.settings_of(OTHER) == (setting(),)
        await history.admit([sealed(4 + number) for number in range(NEWEST)], via=None)
        assert await told.settings_of(AUTHOR) == (setting(),)  # of the newest, and no more


async def test_of_whom_nothing_is_known_nothing_comes_nor_of_whom_a_fork_was_found(tmp_path: Path) -> None:
    file = tmp_path / "history.db"
    async with open_history(file, RULES, now_us=lambda: NOW) as history:
        told = ToldSettings(file)
        assert await told.settings_of(OTHER) == ()
        await history.admit([sealed(0), sealed(0, OTHER_MODEL)], via=None)
        assert await told.settings_of(AUTHOR) == ()


async def test_without_a_history_it_says_so(tmp_path: Path) -> None:
    with trio.fail_after(5), pytest.raises(Unavailable):
        await ToldSettings(tmp_path / "none.db").settings_of(AUTHOR)
