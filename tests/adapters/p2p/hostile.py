"""Whole nodes on real libp2p with their histories on a disk, and peers that bring them what no honest node brings.

What such a peer says is bytes that a test chooses; everything around them (the transport, the greeting, gossip) is in
order, so that it is the bytes that are judged.
"""

import os
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from node.adapters.p2p.host import P2pHost
from node.adapters.p2p.routing import P2pGossip, open_gossip
from node.adapters.store.history import StoredHistory, open_history
from node.adapters.store.pen import Pen
from node.clock import wall_us
from node.core.own_records import LIFETIME_US
from node.core.pull import SLICE
from node.core.retention import Quota
from node.history import record_rules
from node.ports import PeerStream
from protocol import limits, wire
from protocol.gossip import Subject, Topic, message_id, pack_records
from protocol.history import PROTOCOL_ID, SCRIPT, Buckets, Compare, Held, Holdings, List, Page, is_in
from protocol.ids import PUBLIC_SWARM, Epoch, PeerId
from protocol.performance import Performance
from protocol.records import Signed
from protocol.wire import Value
from tests.adapters.p2p.hosts import PATIENCE, a_host, eventually, introduce
from tests.adapters.p2p.whole import TOPICS, a_place
from tests.fakes.stranger import Stranger, id_of
from tests.protocol.performance_samples import body, performance
from tests.sim.node import SimNode

TOPIC = str(Topic(PUBLIC_SWARM, Subject.RECORDS))
BEGAN = wall_us()
EPOCH = Epoch(BEGAN - 3600 * limits.SECOND_US)


def a_record(key: Ed25519PrivateKey, seq: int = 0, **changes: Any) -> bytes:
    """Return a sealed record that is good now, but for the changes; see `tests.protocol.performance_samples`."""
    stamp = {"epoch": EPOCH, "time": BEGAN, "expiry": BEGAN + LIFETIME_US}
    return performance(key, seq=seq, **(stamp | changes)).sealed


def a_key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(os.urandom(32))


# -- honest nodes


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeNode:
    """The daemon over an engine that is not there, on real sockets and a real disk."""

    node: SimNode
    host: P2pHost
    gossip: P2pGossip
    history: StoredHistory[Performance]
    file: Path

    async def writes(self, count: int = 1) -> list[Signed[Performance]]:
        """Write records of its own and say them, as the daemon does."""
        own = [
            await self.history.append(lambda stamp: replace(body(), stamp=stamp), lifetime_us=LIFETIME_US)
            for _ in range(count)
        ]
        for data in pack_records([signed.sealed for signed in own]):
            await self.gossip.publish(TOPIC, data)
        return own

    def rows(self) -> frozenset[tuple[bytes, int, int, bytes]]:
        """Return (author, epoch, seq, digest) of every record on its disk."""
        with closing(sqlite3.connect(f"{self.file.as_uri()}?mode=ro", uri=True)) as file:
            return frozenset(file.execute("SELECT author, epoch, seq, hash FROM records"))

    async def has(self, records: Sequence[Signed[Performance]], *, within: float) -> None:
        """Wait until these are on its disk."""
        wanted = {(each.name.author.key, each.name.epoch.start_us, each.name.seq) for each in records}
        await eventually(lambda: wanted <= {row[:3] for row in self.rows()}, patience=within)

    async def told(self) -> dict[str, Any]:
        """Return what `metainf peers --json` says."""
        _, document = await self.node.call("GET", "/peers", on="control")
        return document

    async def blames(self, peer: PeerId) -> dict[str, int]:
        """Wait until it says that a peer did something; return what."""
        with trio.fail_after(2 * PATIENCE):
            while not (found := await self.offences(peer)):  # noqa: ASYNC110 -- no event tells
                await trio.sleep(0.05)
        return found

    async def offences(self, peer: PeerId) -> dict[str, int]:
        """Return what it says that a peer did: one that is there, or one that was parted from."""
        document = await self.told()
        for each in (*document["outcasts"], *document["peers"]):
            if each["peer_id"] == str(peer):
                return each["offences"]
        return {}

    async def standing(self, peer: PeerId) -> float:
        """Return what a peer that is there is taken for."""
        return next(each["standing"] for each in (await self.told())["peers"] if each["peer_id"] == str(peer))

    async def rejected(self) -> Counter[str]:
        """Count the records that it did not believe, by reason."""
        return Counter((await self.told())["rejected_records"])

    async def metrics(self) -> str:
        """Return its metrics page."""
        return (await self.node.ask("GET", "/metrics")).body.decode()


@asynccontextmanager
async def a_whole_node(
    file: Path, *, quota: Quota | None = None, records: Sequence[bytes] = ()
) -> AsyncIterator[WholeNode]:
    """Run the daemon with these records on its disk. It is not patient: it compares soon with whom it has met."""
    seed = os.urandom(32)
    key = Ed25519PrivateKey.from_private_bytes(seed)
    rules = record_rules(PUBLIC_SWARM)
    rules = rules if quota is None else replace(rules, quota=quota)
    async with AsyncExitStack() as stack:
        history = await stack.enter_async_context(
            open_history(file, rules, now_us=wall_us, pen=Pen(key, rules, run_us=wall_us()))
        )
        for at in range(0, len(records), limits.BATCH_RECORDS):
            await history.admit(records[at : at + limits.BATCH_RECORDS], via=None)
        place = await stack.enter_async_context(a_place(seed))
        node = SimNode(
            None,
            public_key=key.public_key().public_bytes_raw(),
            among=place.among,
            luck=lambda: 0.0,
            history=history,  # type: ignore[arg-type]  # on a disk in place of in memory
            clock=wall_us,
        )
        nursery = await stack.enter_async_context(trio.open_nursery())
        nursery.start_soon(node.live)
        await node.until("ready", within=PATIENCE)
        yield WholeNode(node=node, host=place.host, gossip=place.gossip, history=history, file=file)
        nursery.cancel_scope.cancel()


# -- the others


@dataclass
class Mallory:
    """A peer that has greeted a victim, and says what it likes.

    Attributes:
        key: of its identity.
        page: the payload of its answer when it is asked for what it says to hold: records of its own, as many as a
            batch has. Once that was given, it says to have nothing.
        asked: how often it was asked for a page.
    """

    stranger: Stranger
    host: P2pHost
    gossip: P2pGossip
    key: Ed25519PrivateKey
    page: bytes = b""
    asked: int = 0
    done: trio.Event = field(default_factory=trio.Event)

    @property
    def me(self) -> PeerId:
        return self.host.me

    async def answer(self, stream: PeerStream) -> None:
        """Answer the victim's questions."""
        while (payload := await stream.receive()) is not None:
            question = SCRIPT.vocabulary.decode(payload)
            if isinstance(question, Compare):
                await stream.send(SCRIPT.vocabulary.encode(Buckets(digests=os.urandom(limits.HISTORY_BUCKETS * 32))))
            elif isinstance(question, List):
                held = tuple(
                    Held(author=self.me, epoch=epoch, ranges=((0, SLICE - 1),), digest=os.urandom(32))
                    for epoch in (Epoch(EPOCH.start_us + 1), EPOCH)
                )
                some = held if self.page and not self.asked and is_in(question.buckets, self.me) else ()
                await stream.send(SCRIPT.vocabulary.encode(Holdings(held=some, more=False)))
            else:
                self.asked += 1
                await stream.send(self.page)
                self.done.set()

    async def say(self, *records: bytes) -> None:
        """Say a message of gossip with these in it, whatever they are."""
        data = wire.encode({"records": list[Value](records)}, limits.MESSAGE)
        await self.gossip.publish(TOPIC, data)


def a_page(*records: bytes) -> bytes:
    """Return the payload of a page with these in it, whatever they are."""
    return wire.encode({"kind": "page", "records": list[Value](records)}, limits.MESSAGE)


@asynccontextmanager
async def a_stranger(
    victim: WholeNode, *, page: bytes | Callable[[Ed25519PrivateKey], bytes] = b"", key: Ed25519PrivateKey | None = None
) -> AsyncIterator[Mallory]:
    """Enter with a peer that the victim has met and gossips with.

    Args:
        page: what it answers when it is asked for records; where it depends on who it is, made of its key.
    """
    key = key or a_key()
    async with AsyncExitStack() as stack:
        host = await stack.enter_async_context(a_host(seed=key.private_bytes_raw()))
        assert host.me == id_of(key)
        gossip = await stack.enter_async_context(open_gossip(host, topics=TOPICS, message_id=message_id))
        await stack.enter_async_context(gossip.subscribe(TOPIC, lambda *_: False))
        stranger = Stranger(host, victim.host.me, clock=wall_us)
        mallory = Mallory(stranger, host, gossip, key, page=page if isinstance(page, bytes) else page(key))
        host.serve(PROTOCOL_ID, mallory.answer)
        await introduce(host, victim.host)
        with trio.fail_after(PATIENCE):
            assert await stranger.greet()
        yield mallory


async def in_touch(mallory: Mallory, victim: WholeNode) -> None:
    """Wait until what the stranger says by gossip goes to the victim."""
    there = str(victim.host.me)
    await eventually(lambda: any(str(peer) == there for peer in mallory.gossip.pubsub.router.mesh.get(TOPIC, ())))


def page_of(*records: bytes) -> bytes:
    """Return the payload of an orderly page."""
    return SCRIPT.vocabulary.encode(Page(records=records))
