"""What every `History` promises: the store on the disk, and the fake in memory that stands in for it."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import reduce
from hashlib import sha256, sha512
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from node.adapters.store.history import open_history
from node.adapters.store.rules import Rules
from node.core.retention import Entry, Quota, retained
from node.record_ports import Admitted, History, Holding, Standing
from protocol import limits, records
from protocol.errors import LocalProtocolError
from protocol.ids import PUBLIC_SWARM, Epoch, PeerId, SwarmId
from protocol.records import Signed
from tests.fakes.history import FakeHistory
from tests.protocol import samples
from tests.protocol.samples import AUTHOR, HOUR, NOW

pytestmark = pytest.mark.slow

EPOCH = Epoch(NOW - HOUR)
OTHER = PeerId.from_public_key(samples.OTHER_KEY.public_key().public_bytes_raw())


@dataclass
class Clock:
    now: int = NOW

    def __call__(self) -> int:
        return self.now


@dataclass
class Stage:
    """An empty history of notes. It does not believe a note that says "lie"; notes of equal text are of one cell."""

    history: History
    clock: Clock


Staging = Callable[..., AbstractAsyncContextManager[Stage]]


def check(signed: Signed[Any]) -> str | None:
    return "a_lie" if signed.body.text == "lie" else None


def cell(signed: Signed[Any]) -> bytes:
    return signed.body.text.encode()[:32]


@asynccontextmanager
async def in_memory(quota: Quota | None = None) -> AsyncIterator[Stage]:
    clock = Clock()
    yield Stage(FakeHistory(samples.NOTE, now_us=clock, check=check, cell=cell, quota=quota), clock)


@asynccontextmanager
async def on_disk(quota: Quota | None = None) -> AsyncIterator[Stage]:
    clock = Clock()
    rules = Rules(kind=samples.NOTE, swarm=PUBLIC_SWARM, check=check, cell=cell, quota=quota or Quota())
    with TemporaryDirectory() as folder:
        async with open_history(Path(folder, "history.sqlite3"), rules, now_us=clock) as history:
            yield Stage(history, clock)


both = pytest.mark.parametrize("staging", [in_memory, on_disk])


def note(seq: int, text: str = "hello", *, key: Any = samples.KEY, **changes: object) -> bytes:
    author = PeerId.from_public_key(key.public_key().public_bytes_raw())
    body = samples.note(text, author=author, seq=seq, **changes)
    return records.sign(samples.NOTE, body, key).sealed


def standings(verdicts: tuple[Admitted, ...]) -> list[Standing]:
    return [each.standing for each in verdicts]


def digest_of(*sealed: bytes) -> bytes:
    hashes = (int.from_bytes(sha256(each).digest(), "big") for each in sealed)
    return reduce(int.__xor__, hashes).to_bytes(32, "big")


@both
async def test_what_is_admitted_is_held_and_handed_on_as_it_came(staging: Staging) -> None:
    mine = [note(seq) for seq in (1, 2, 3, 7)]
    theirs = note(5, key=samples.OTHER_KEY)
    async with staging() as stage:
        verdicts = await stage.history.admit([*mine, theirs], via=OTHER)
        assert standings(verdicts) == [Standing.NEW] * 5
        assert [str(each.name).rsplit("/", 1)[1] for each in verdicts] == ["1", "2", "3", "7", "5"]
        assert standings(await stage.history.admit(mine, via=None)) == [Standing.KNOWN] * 4

        one = Holding(author=AUTHOR, epoch=EPOCH, ranges=((1, 3), (7, 7)), count=4, digest=digest_of(*mine))
        other = Holding(author=OTHER, epoch=EPOCH, ranges=((5, 5),), count=1, digest=digest_of(theirs))
        assert await stage.history.holdings() == tuple(sorted((one, other), key=lambda each: each.author))
        assert await stage.history.holdings([OTHER]) == (other,)
        assert await stage.history.page(OTHER, EPOCH, [(0, 9)], records=9, size=9_999) == (theirs,)
        facts = stage.history.facts()
        assert (facts.records, facts.authors) == (5, 2)
        assert facts.bytes == sum(map(len, [*mine, theirs]))


@both
async def test_holdings_follow_what_comes_later_and_tell_the_newest_epoch_first(staging: Staging) -> None:
    late = Epoch(NOW - 5)
    async with staging() as stage:
        await stage.history.admit([note(1), note(3)], via=None)
        await stage.history.holdings()
        await stage.history.admit([note(2), note(0, epoch=late)], via=None)
        held = await stage.history.holdings([AUTHOR])
        assert [(each.epoch, each.ranges, each.count) for each in held] == [(late, ((0, 0),), 1), (EPOCH, ((1, 3),), 3)]


@both
async def test_a_page_has_the_newest_first_and_keeps_both_bounds(staging: Staging) -> None:
    sealed = [note(seq) for seq in range(10)]
    size = len(sealed[0])
    async with staging() as stage:
        await stage.history.admit(sealed, via=None)

        async def page(*ranges: tuple[int, int], count: int = 99, room: int = 99_999) -> list[int]:
            got = await stage.history.page(AUTHOR, EPOCH, ranges, records=count, size=room)
            return [sealed.index(each) for each in got]

        assert await page((1, 3), (6, 20)) == [9, 8, 7, 6, 3, 2, 1]
        assert await page((0, 9), count=3) == [9, 8, 7]
        assert await page((0, 2), (5, 6), count=3) == [6, 5, 2]
        assert await page((0, 9), room=2 * size + 1) == [9, 8]
        assert await page((0, 9), count=0) == []
        assert await page() == []
        assert await stage.history.page(OTHER, EPOCH, [(0, 9)], records=9, size=9_999) == ()


BAD = {
    "bad_signature": note(1)[:-40] + bytes([note(1)[-40] ^ 1]) + note(1)[-39:],
    "wrong_swarm": note(2, swarm=SwarmId("elsewhere")),
    "expired": note(3, time=NOW - HOUR, expiry=NOW),
    "from_the_future": note(4, time=NOW + HOUR, expiry=NOW + 2 * HOUR),
    "too_large": bytes(limits.RECORD_BYTES + 1),
    "wrong_kind": records.sign(samples.LETTER, samples.note(), samples.KEY).sealed,
    "truncated": note(5)[:-1],
    "a_lie": note(6, "lie"),
}


@both
async def test_what_is_bad_is_rejected_with_its_reason_and_leaves_no_trace(staging: Staging) -> None:
    good = note(9)
    async with staging() as stage:
        verdicts = await stage.history.admit([*BAD.values(), good], via=OTHER)
        assert [each.reason for each in verdicts] == [*BAD, ""]
        assert standings(verdicts) == [Standing.REJECTED] * len(BAD) + [Standing.NEW]
        assert [each.ranges for each in await stage.history.holdings()] == [((9, 9),)]
        assert dict(stage.history.facts().rejected) == dict.fromkeys(BAD, 1)


@both
async def test_a_fork_is_proven_and_its_author_is_heard_no_more(staging: Staging) -> None:
    one, other = note(1, "one"), note(1, "other")
    async with staging() as stage:
        verdicts = await stage.history.admit([one, other, note(2), note(2, key=samples.OTHER_KEY)], via=OTHER)
        assert standings(verdicts) == [Standing.NEW, Standing.FORK, Standing.REJECTED, Standing.NEW]
        assert verdicts[2].reason == "quarantined"
        assert await stage.history.page(AUTHOR, EPOCH, [(0, 9)], records=9, size=9_999) == (one,)
        assert standings(await stage.history.admit([other, one], via=OTHER)) == [Standing.FORK, Standing.KNOWN]
        assert stage.history.facts().quarantined == 1


@both
async def test_what_expires_is_held_no_more(staging: Staging) -> None:
    async with staging() as stage:
        await stage.history.admit([note(1, expiry=NOW + 1), note(2)], via=None)
        stage.clock.now += 1
        assert await stage.history.page(AUTHOR, EPOCH, [(0, 9)], records=9, size=9_999) == (note(2),)
        assert [each.ranges for each in await stage.history.holdings()] == [((2, 2),)]
        assert stage.history.facts().records == 1
        (verdict,) = await stage.history.admit([note(1, expiry=NOW + 1)], via=None)
        assert verdict.reason == "expired"


@both
async def test_of_two_signatures_of_one_body_everybody_keeps_the_same(staging: Staging) -> None:
    one, other = sorted([note(1), resigned(1)])
    for order in ([one, other], [other, one]):
        async with staging() as stage:
            assert standings(await stage.history.admit(order, via=None)) == [Standing.NEW, Standing.KNOWN]
            assert await stage.history.page(AUTHOR, EPOCH, [(1, 1)], records=9, size=9_999) == (one,)
            assert (await stage.history.holdings())[0].digest == digest_of(one)
            assert stage.history.facts().bytes == len(one)


@both
async def test_what_is_retained_is_what_the_rule_says_whatever_came_when(staging: Staging) -> None:
    luck = Random(4)  # noqa: S311 - the same every time
    keys = [
        samples.KEY,
        samples.OTHER_KEY,
        *(samples.Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in range(3)),
    ]
    quota = Quota(author=6, total=17)
    everything = [
        records.verify_archived(
            note(
                seq,
                luck.choice("abc"),
                key=luck.choice(keys),
                time=NOW - luck.randrange(HOUR),
                expiry=NOW + 50 + 9 * seq,
            ),
            samples.NOTE,
            swarm=PUBLIC_SWARM,
        )
        for seq in range(60)
    ]
    entries = [
        Entry(name=each.name, cell=cell(each), time=each.body.stamp.time, expiry=each.body.stamp.expiry)
        for each in everything
    ]
    expected = retained(entries, now_us=NOW + 100, quota=quota)
    for _ in range(3):
        luck.shuffle(everything)
        async with staging(quota) as stage:
            for stage.clock.now in (NOW, NOW + 100):  # what expires makes room, and neighbours offer all again
                for begin in range(0, 60, 7):
                    batch = [each.sealed for each in everything[begin : begin + 7]]
                    verdicts = await stage.history.admit(batch, via=None)
                    assert {each.reason for each in verdicts} <= {"", "not_retained", "expired"}
            got = {
                (each.author, each.epoch, seq)
                for each in await stage.history.holdings()
                for first, last in each.ranges
                for seq in range(first, last + 1)
            }
            assert got == {(name.author, name.epoch, name.seq) for name in expected}
            assert stage.history.facts().records == len(expected)


@both
async def test_more_than_a_batch_is_our_own_fault(staging: Staging) -> None:
    async with staging() as stage:
        with pytest.raises(LocalProtocolError, match="at once"):
            await stage.history.admit([b""] * (limits.BATCH_RECORDS + 1), via=None)


def resigned(seq: int) -> bytes:
    """Return the note of this number under another valid signature, as only its author can make one."""
    sealed = note(seq)
    signature = sealed.index(b"\xa9signature\xc4\x40") + 12
    body = sealed[sealed.index(b"\xa4body\xc4") + 7 : sealed.index(b"\xa4kind")]
    again = ed25519_signature(bytes(range(32)), b"metainf/note/1\0" + body, b"another nonce")
    return sealed[:signature] + again + sealed[signature + 64 :]


def ed25519_signature(seed: bytes, message: bytes, luck: bytes) -> bytes:
    """Sign as RFC 8032 does, but with a nonce of one's own."""
    prime, order = 2**255 - 19, 2**252 + 27742317777372353535851937790883648493
    curve = -121665 * pow(121666, -1, prime) % prime
    base_y = 4 * pow(5, -1, prime) % prime
    square = (base_y**2 - 1) * pow(curve * base_y**2 + 1, -1, prime) % prime
    base_x = pow(square, (prime + 3) // 8, prime)
    if (base_x**2 - square) % prime:
        base_x = base_x * pow(2, (prime - 1) // 4, prime) % prime
    base = (base_x if base_x % 2 == 0 else prime - base_x, base_y)

    def add(one: tuple[int, int], two: tuple[int, int]) -> tuple[int, int]:
        cross = curve * one[0] * two[0] * one[1] * two[1] % prime
        x = (one[0] * two[1] + two[0] * one[1]) * pow(1 + cross, -1, prime)
        y = (one[1] * two[1] + one[0] * two[0]) * pow(1 - cross, -1, prime)
        return x % prime, y % prime

    def times(number: int) -> bytes:
        total, power = (0, 1), base
        while number:
            if number & 1:
                total = add(total, power)
            power, number = add(power, power), number >> 1
        return (total[1] | (total[0] & 1) << 255).to_bytes(32, "little")

    digest = sha512(seed).digest()
    secret = int.from_bytes(digest[:32], "little") & (1 << 254) - 8 | 1 << 254
    nonce = int.from_bytes(sha512(luck + message).digest(), "little") % order
    point = times(nonce)
    challenge = int.from_bytes(sha512(point + times(secret) + message).digest(), "little") % order
    return point + ((nonce + challenge * secret) % order).to_bytes(32, "little")
