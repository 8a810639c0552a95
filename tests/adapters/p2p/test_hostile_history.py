"""What hostile peers bring to a node's history over real sockets: nothing of it stays, and honest ones lose nothing.

Variety in virtual time is tests/sim's and tests/services'; here are whole nodes, libp2p on loopback, and sqlite files.
"""

import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from libp2p.abc import INetStream
from libp2p.custom_types import TProtocol
from libp2p.peer.id import ID

from node.clock import wall_us
from node.core.cells import cell_of
from node.core.retention import Entry, Quota, retained
from node.errors import NodeError
from node.record_ports import Standing
from node.services import replicate_serve
from protocol import limits, wire
from protocol.framing import frame
from protocol.history import PROTOCOL_ID, SCRIPT, Buckets, Compare, Fetch, Point, Want
from protocol.ids import PUBLIC_SWARM, SwarmId
from protocol.performance import PERFORMANCE, REAL, Benchmark, Hardware, Model, Outcome, Strategy
from protocol.records import verify_archived
from tests.adapters.p2p.hostile import (
    BEGAN,
    EPOCH,
    Mallory,
    WholeNode,
    a_key,
    a_page,
    a_record,
    a_stranger,
    a_whole_node,
    in_touch,
    page_of,
)
from tests.adapters.p2p.hosts import PATIENCE, eventually, introduce
from tests.fakes.stranger import id_of
from tests.protocol.performance_samples import outcome

pytestmark = [pytest.mark.slow, pytest.mark.libp2p]

HONEST = 40  # records that are there before anybody comes
SECONDS = 10.0  # in which a new honest record is at the neighbour, on a busy machine
AUTHORS = 3000  # made up
AGAIN = 100  # times that one record is said: fewer than gossip takes of a neighbour in a second
AT_ONCE = 8  # strangers: one address may have sixteen connections that have not shown yet who they are
DAY = limits.DAY_US
TOO_FAST = outcome(tpot_mean_us=500, tpot_p50_us=500, tpot_p95_us=600, latency_mean_us=274_000, latency_p50_us=260_000)
WARP = replace(TOO_FAST, latency_p95_us=500_000, stall_mean_us=None, stall_p50_us=None, stall_p95_us=None)

# A record that says as little as one may: each of its bytes is changed in turn.
SHORT = {
    "model": Model(weights=REAL),
    "hardware": Hardware(name="x", count=1),
    "benchmark": Benchmark(),
    "strategy": Strategy(),
    "outcome": Outcome(requests=0, failures=0, failure="out_of_memory"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A node that is attacked, and one that keeps its company."""

    victim: WholeNode
    honest: WholeNode

    async def goes_on(self) -> None:
        """Hold the honest neighbour to be what it was, and a new record of it to arrive."""
        assert await self.victim.standing(self.honest.host.me) == 1.0
        await self.victim.has(await self.honest.writes(), within=SECONDS)

    async def parted_from(self, mallory: Mallory) -> None:
        """Wait until the victim has nothing to do with it any more."""
        await eventually(lambda: mallory.me not in self.victim.host.connected())
        assert str(mallory.me) in {each["peer_id"] for each in (await self.victim.told())["outcasts"]}


@asynccontextmanager
async def a_stage(folder: Path, *, quota: Quota | None = None, records: tuple[bytes, ...] = ()) -> AsyncIterator[Stage]:
    key = a_key()
    records = records or tuple(a_record(key, seq) for seq in range(HONEST))
    async with (
        a_whole_node(folder / "victim.sqlite", quota=quota, records=records) as victim,
        a_whole_node(folder / "honest.sqlite", quota=quota, records=records) as honest,
    ):
        await introduce(honest.host, victim.host)
        stage = Stage(victim=victim, honest=honest)
        await victim.node.until("ready", within=PATIENCE)
        with trio.fail_after(PATIENCE):
            while not (await victim.told())["peers"]:  # noqa: ASYNC110 -- no event tells
                await trio.sleep(0.05)
        await stage.goes_on()
        yield stage


# -- one record each

Bring = Callable[[Ed25519PrivateKey], bytes]  # a record, made by whoever brings it


def unsigned(key: Ed25519PrivateKey) -> bytes:
    seal: Any = wire.decode(a_record(key), limits.RECORD)
    return wire.encode(seal | {"signature": a_key().sign(b"something else")}, limits.RECORD)


def of_another_swarm(key: Ed25519PrivateKey) -> bytes:
    return a_record(key, swarm=SwarmId("elsewhere"))


def oversize(key: Ed25519PrivateKey) -> bytes:
    return a_record(key).ljust(limits.RECORD_BYTES + 1, b"\0")


def faster_than_light(key: Ed25519PrivateKey) -> bytes:
    return a_record(key, outcome=WARP)


def contradictory(key: Ed25519PrivateKey) -> bytes:
    return a_record(key, outcome=outcome(ttft_p50_us=900_000))


def garbage(key: Ed25519PrivateKey) -> bytes:
    del key
    return os.urandom(1000)


# What no honest node passes on: the record, and what it is called when a page brings it.
OFFENCES: dict[str, tuple[Bring, str]] = {
    "bad signature": (unsigned, "bad_signature"),
    "another swarm's": (of_another_swarm, "wrong_swarm"),
    "oversize": (oversize, "too_large"),
    "faster than light": (faster_than_light, "speed_of_light"),
    "contradictory": (contradictory, "contradiction"),
    "garbage": (garbage, ""),
}


async def bring_thrice(stage: Stage, name: str) -> None:
    """Bring such a record in a page, then in two messages of gossip; be parted from."""
    bring, reason = OFFENCES[name]
    async with a_stranger(stage.victim, page=lambda key: a_page(bring(key))) as mallory:
        found = await stage.victim.blames(mallory.me)
        assert sum(found.values()) == 1, name
        assert not reason or reason in found, (name, found)
        assert await stage.victim.standing(mallory.me) == pytest.approx(0.5, abs=0.05)
        await in_touch(mallory, stage.victim)
        bad = bring(mallory.key)
        await mallory.say(bad)
        await mallory.say(a_record(mallory.key, 1), bad)  # a good one beside it changes nothing
        await stage.parted_from(mallory)
        found = await stage.victim.offences(mallory.me)
        assert found["bad_gossip"] == 2, (name, found)
        assert not await comes_back(mallory, stage.victim), name


async def comes_back(mallory: Mallory, victim: WholeNode) -> bool:
    """Dial and greet again; whether it was let in."""
    with suppress(NodeError), trio.move_on_after(PATIENCE):
        await mallory.host.connect(victim.host.me)
        return await mallory.stranger.greet()
    return False


async def test_whoever_brings_what_no_honest_node_passes_on_is_parted_from_and_the_history_is_as_it_was(
    tmp_path: Path,
) -> None:
    async with a_stage(tmp_path) as stage:
        before = stage.victim.rows()
        async with trio.open_nursery() as nursery:
            for name in OFFENCES:
                nursery.start_soon(bring_thrice, stage, name)
        assert stage.victim.rows() == before
        rejected, page = await stage.victim.rejected(), await stage.victim.metrics()
        for reason in ("bad_signature", "wrong_swarm", "speed_of_light", "contradiction"):
            assert rejected[reason] == 3, reason
            assert f'metainf_history_rejected_total{{reason="{reason}"}} 3.0' in page
        assert (await stage.victim.told())["outcasts"][0]["offences"]
        await stage.goes_on()


# -- pages that are none


def too_many(key: Ed25519PrivateKey) -> bytes:
    return page_of(*(a_record(key, seq) for seq in range(65)))


def of_others(_: Ed25519PrivateKey) -> bytes:
    return page_of(a_record(a_key()))


def goes_on_elsewhere(key: Ed25519PrivateKey) -> bytes:
    point = Point(author=id_of(a_key()), epoch=EPOCH, seq=3)
    page: Any = wire.decode(page_of(a_record(key)), limits.HISTORY)
    next_one = {"author": point.author.to_bytes(), "epoch": point.epoch.start_us, "seq": point.seq}
    return wire.encode(page | {"next": next_one}, limits.HISTORY)


PAGES: dict[str, tuple[Bring, str]] = {
    "more than was asked for": (too_many, "too_many"),
    "records that were not asked for": (of_others, "unasked"),
    "a next that nobody wants": (goes_on_elsewhere, "out_of_bounds"),
    "no page": (lambda _: b"\x81\xa4kind\xa4page", "missing_field"),
    "no message": (lambda _: os.urandom(500), ""),
    "an answer out of turn": (lambda _: SCRIPT.vocabulary.encode(Fetch(wants=())), ""),
}


async def test_a_page_that_is_none_costs_its_giver_standing_and_nothing_else(tmp_path: Path) -> None:
    async with a_stage(tmp_path) as stage:
        before = stage.victim.rows()
        authors = {row[0] for row in before}

        async def give(name: str) -> None:
            make, reason = PAGES[name]
            async with a_stranger(stage.victim, page=make) as mallory:
                found = await stage.victim.blames(mallory.me)
                assert sum(found.values()) == 1, name
                assert not reason or reason in found, (name, found)
                assert await stage.victim.standing(mallory.me) < 1
                await trio.sleep(1.5)  # it is met, and compared with no more
                assert mallory.asked == 1, name

        async with trio.open_nursery() as nursery:
            for name in PAGES:
                nursery.start_soon(give, name)
        rows = stage.victim.rows()
        assert before <= rows
        # What was sent unasked was signed and good: it may stay. Nothing else does.
        assert len(rows - before) == 1
        assert not {row[0] for row in rows - before} & authors
        await stage.goes_on()


# -- what an honest node may bring, its clock being another


async def test_what_a_clock_or_the_network_explains_is_not_kept_and_not_held_against_anybody(tmp_path: Path) -> None:
    def from_the_future(key: Ed25519PrivateKey) -> bytes:
        return a_record(key, 0, time=BEGAN + DAY, expiry=BEGAN + 2 * DAY)

    def expired(key: Ed25519PrivateKey) -> bytes:
        return a_record(key, 1, time=BEGAN - 1000, expiry=BEGAN - 1)

    async with a_stage(tmp_path) as stage:
        before = stage.victim.rows()
        page = lambda key: page_of(from_the_future(key), expired(key))  # noqa: E731
        async with a_stranger(stage.victim, page=page) as mallory:
            with trio.fail_after(PATIENCE):
                await mallory.done.wait()
            await in_touch(mallory, stage.victim)
            await mallory.say(from_the_future(mallory.key))
            await mallory.say(expired(mallory.key))
            with trio.fail_after(PATIENCE):
                while (await stage.victim.rejected()).total() < 4:  # noqa: ASYNC110 -- likewise
                    await trio.sleep(0.02)
            assert await stage.victim.rejected() == {"from_the_future": 2, "expired": 2}
            assert stage.victim.rows() == before
            # The same again and again, in messages that are not the same, so that libp2p cannot know.
            again, others = a_record(mallory.key, 2), [a_record(a_key(), seq) for seq in range(AGAIN)]
            heard = stage.victim.history.facts().rejected
            for other in others:
                await mallory.say(again, other)
            wanted = len(before) + 1 + len(others)
            await eventually(lambda: len(stage.victim.rows()) == wanted)
            await stage.honest.has([verify_archived(again, PERFORMANCE, swarm=PUBLIC_SWARM)], within=SECONDS)
            assert stage.victim.history.facts().rejected == heard
            assert await stage.victim.standing(mallory.me) == 1.0
        await stage.goes_on()


# -- forks


async def test_who_gives_one_name_to_two_records_is_quarantined_everywhere_and_the_first_stays(tmp_path: Path) -> None:
    async with a_stage(tmp_path) as stage:
        before = stage.victim.rows()
        key = a_key()
        first, second = a_record(key), a_record(key, context=2)
        async with a_stranger(stage.victim, page=page_of(first, second), key=key) as mallory:
            await eventually(lambda: stage.victim.history.facts().quarantined == 1)
            kept = stage.victim.rows()
            assert before < kept
            assert len(kept - before) == 1  # what came first was good when it came
            (fork,) = await stage.victim.history.forks()
            assert {fork.first, fork.second} == {first, second}
            await in_touch(mallory, stage.victim)
            await mallory.say(a_record(key, 5))
            # The proof goes to all, so that they take nothing of it either. Nobody is to blame for it as a peer, not
            # even its author: the key may be stolen, and the bodies are replayed by whoever likes.
            await eventually(lambda: stage.honest.history.facts().quarantined == 1)
            listed = {each["peer_id"]: each["quarantined"] for each in (await stage.victim.told())["peers"]}
            assert [peer for peer, quarantined in listed.items() if quarantined] == [str(mallory.me)]
            assert stage.victim.rows() == kept
            assert await stage.victim.offences(mallory.me) == await stage.honest.offences(mallory.me) == {}
        assert await stage.honest.standing(stage.victim.host.me) == 1.0
        await stage.goes_on()
        assert "metainf_history_quarantined 1.0" in await stage.victim.metrics()


# -- every byte


async def test_with_any_byte_of_a_record_or_a_question_changed_nothing_is_taken_in_and_a_slow_reader_is_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replicate_serve, "SEND", 3.0)  # in place of 15 s that a reader may take nothing
    luck = random.Random(5)  # noqa: S311 -- the same attack every time
    async with a_stage(tmp_path) as stage:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_nothing, stage)
            doors = trio.CapacityLimiter(AT_ONCE)
            right = a_record(a_key(), **SHORT)
            assert (await stage.victim.history.admit([right], via=None))[0].standing is Standing.NEW
            before = stage.victim.rows()
            wrong = [changed(right, at, luck) for at in range(len(right))]
            rejected = (await stage.victim.rejected()).total()
            # All of a batch is judged, then its bringer is left alone: so each batch has another.
            for at in range(0, len(wrong), limits.BATCH_RECORDS):
                nursery.start_soon(give_in_a_page, stage, wrong[at : at + limits.BATCH_RECORDS], doors)
            nursery.start_soon(ask_wrongly, stage, luck)
        assert (await stage.victim.rejected()).total() == rejected + len(wrong)
        assert stage.victim.rows() == before
        await stage.goes_on()


def changed(data: bytes, at: int, luck: random.Random) -> bytes:
    return data[:at] + bytes([data[at] ^ luck.randrange(1, 256)]) + data[at + 1 :]


async def give_in_a_page(stage: Stage, records: list[bytes], doors: trio.CapacityLimiter) -> None:
    async with doors, a_stranger(stage.victim, page=a_page(*records)) as mallory:
        await stage.victim.blames(mallory.me)


async def ask_wrongly(stage: Stage, luck: random.Random) -> None:
    """Ask with one byte changed, every byte in turn; who is parted from for it comes again as somebody else."""
    want = Want(author=stage.honest.host.me, epoch=EPOCH, ranges=((0, 5),))
    right = frame(SCRIPT.vocabulary.encode(Fetch(wants=(want,))))
    left = [changed(right, at, luck) for at in range(len(right))]
    while left:
        async with a_stranger(stage.victim) as mallory:
            while left and await is_noticed(stage, mallory, left[-1]):
                left.pop()


async def is_noticed(stage: Stage, mallory: Mallory, data: bytes) -> bool:
    """Send this as a question; whether it was answered, or its sender blamed for it."""
    blamed = sum((await stage.victim.offences(mallory.me)).values())
    noticed = trio.Event()

    async def listen(stream: INetStream) -> None:
        with suppress(Exception):  # libp2p's own errors are many: what counts is what the victim makes of it
            if await stream.read(1):
                noticed.set()

    with suppress(Exception), trio.move_on_after(PATIENCE):
        there = ID(stage.victim.host.me.to_bytes())
        stream = await mallory.host.foreign.new_stream(there, [TProtocol(PROTOCOL_ID)])
        await stream.write(data)
        await stream.close()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen, stream)
            with trio.move_on_after(2):
                while not noticed.is_set():
                    if sum((await stage.victim.offences(mallory.me)).values()) > blamed:
                        noticed.set()
                    await trio.sleep(0.005)
            nursery.cancel_scope.cancel()
    return noticed.is_set()


async def read_nothing(stage: Stage) -> None:
    """Ask for much and take none of it: it holds one answer for a time, and is asked for nothing in return."""
    async with a_stranger(stage.victim) as mallory:
        authors = {(each.author, each.epoch) for each in await stage.victim.history.holdings()}
        wants = tuple(Want(author=who, epoch=when, ranges=((0, 63),)) for who, when in sorted(authors, key=str))
        question = SCRIPT.vocabulary.encode(Fetch(wants=wants))
        async with mallory.host.open(stage.victim.host.me, PROTOCOL_ID, patience=PATIENCE) as stream:
            with trio.fail_after(3 * PATIENCE), suppress(NodeError):
                while True:  # until the victim resets the stream
                    await stream.send(question)
                    await trio.sleep(0.01)
        async with mallory.host.open(stage.victim.host.me, PROTOCOL_ID, patience=PATIENCE) as stream:
            await stream.send(SCRIPT.vocabulary.encode(Compare(digest=bytes(limits.DIGEST_BYTES))))
            with trio.fail_after(PATIENCE):
                assert isinstance(SCRIPT.vocabulary.decode(await stream.receive() or b""), Buckets)
        assert await stage.victim.offences(mallory.me) == {}  # slow it may be


# -- identities without end


async def test_three_thousand_authors_fill_what_is_left_and_take_nobody_more_than_an_equal_share(
    tmp_path: Path,
) -> None:
    """The caps are lowered: of 262,144 records by a million authors the same would be said, after an hour."""
    assert Quota() == Quota(author=1024, total=262_144)
    quota = Quota(author=1024, total=AUTHORS + 200)
    keys = [a_key() for _ in range(2)]
    honest = tuple(a_record(key, seq, time=BEGAN - 1000 + seq) for key in keys for seq in range(150))
    flood = [a_record(a_key()) for _ in range(AUTHORS)]
    async with a_stage(tmp_path, quota=quota, records=honest) as stage:
        (new,) = [row for row in stage.victim.rows() if row[0] == stage.honest.host.me.key]
        async with a_whole_node(tmp_path / "flood.sqlite", records=flood) as flooder:
            await introduce(flooder.host, stage.victim.host)
            most = 0
            with trio.fail_after(2 * PATIENCE):
                while len({row[0] for row in stage.victim.rows()}) < AUTHORS + 3:
                    most = max(most, stage.victim.history.facts().records)
                    await trio.sleep(0.1)
            assert most <= quota.total
            await stage.goes_on()
        signed = [verify_archived(each, PERFORMANCE, swarm=PUBLIC_SWARM) for each in (*honest, *flood)]
        entries = [
            Entry(name=each.name, cell=cell_of(each), time=each.body.stamp.time, expiry=each.body.stamp.expiry)
            for each in signed
        ]
        rows = Counter(row[0] for row in stage.victim.rows())
        share = Counter(name.author.key for name in retained(entries, now_us=wall_us(), quota=quota))
        assert rows.total() == quota.total
        for key in keys:  # of each the newest, as many as the rule says, but for the two that the honest node wrote
            assert share[id_of(key).key] - 2 <= rows[id_of(key).key] <= share[id_of(key).key]
        assert new in stage.victim.rows()
