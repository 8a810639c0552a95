"""Nodes of a swarm as far as membership goes: the real services on the fake network, wired as the daemon wires them."""

import random
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from node.core.addressbook import AddressBook, Source
from node.core.peerbook import Change, Peerbook
from node.core.self_advert import Description, OwnAdverts, our_hello
from node.core.standings import Standings
from node.services.announce import Announcer
from node.services.discover import TARGET, Discovery
from node.services.greet import Greeter
from node.services.join import Joining
from protocol import dht
from protocol.addresses import Address
from protocol.advert import SERVE, ModelOffer
from protocol.errors import RemoteProtocolError
from protocol.hello import Judge, welcome_all
from protocol.ids import PUBLIC_SWARM, Epoch, ModelName, PeerId, SwarmId
from tests.fakes.network import FakeNetwork, FakeNode, Weather
from tests.fakes.network_talk import FakeAir, FakeGossip, FakeTable

START_US = 1_763_640_000_000_000  # wall time when the loop's time was 0
VERSION = "0.1.0"
MODEL = ModelName("tiny")


def wall() -> int:
    return START_US + int(trio.current_time() * 1e6)


def a_key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


def peer_of(key: Ed25519PrivateKey) -> PeerId:
    return PeerId.from_public_key(key.public_key().public_bytes_raw())


@dataclass
class CountingGossip(FakeGossip):
    """Remembers when something was published."""

    said: list[tuple[float, bytes]] = field(default_factory=list)

    async def publish(self, topic: str, data: bytes) -> None:
        self.said.append((trio.current_time(), data))
        await super().publish(topic, data)


@dataclass(frozen=True)
class DirectoryRules:
    """What the daemon tells the directory of the swarm's keys."""

    swarm: SwarmId

    def valid(self, key: str, value: bytes) -> bool:
        try:
            dht.validate(key, value, swarm=self.swarm, now_us=wall())
        except RemoteProtocolError:
            return False
        return True

    def best(self, key: str, values: Sequence[bytes]) -> int:
        try:
            return dht.select(key, values, swarm=self.swarm, now_us=wall())
        except RemoteProtocolError:
            return 0


@dataclass
class World:
    """A network with the gossip and the directory of one swarm on it."""

    network: FakeNetwork = field(default_factory=lambda: FakeNetwork(Weather(latency=0.03, jitter=0.02)))
    loss: float = 0.0
    swarm: SwarmId = PUBLIC_SWARM

    def __post_init__(self) -> None:
        self.luck = random.Random(7)  # noqa: S311 -- luck, not secrets
        self.air = FakeAir(self.network, lambda: self.luck.random() < self.loss)
        self.table = FakeTable(self.network, {dht.Namespace.PEER.value: DirectoryRules(self.swarm)})


@dataclass
class Member:
    """One node."""

    node: FakeNode
    gossip: CountingGossip
    book: Peerbook
    addresses: AddressBook
    standings: Standings
    greeter: Greeter
    discovery: Discovery
    announcer: Announcer
    joining: Joining
    description: list[Description]
    events: list[tuple[str, Mapping[str, Any]]]
    changes: list[Change]
    outcasts: set[PeerId]

    @property
    def me(self) -> PeerId:
        return self.node.me

    def known(self) -> set[PeerId]:
        """Whose adverts count here."""
        return {each.peer for each in self.book.candidates(MODEL, trio.current_time())}

    def told(self, event: str, peer: PeerId) -> list[Mapping[str, Any]]:
        return [facts for name, facts in self.events if name == event and facts["peer"] == str(peer)]

    def hears(self, data: bytes, via: PeerId | None = None) -> bool:
        """Hand an advert to whatever judges gossip here; whether it would be passed on."""
        (judge,) = (judge for (peer, _), (judge, _) in self.gossip.air.ears.items() if peer == self.me)
        return judge(data, via)


@asynccontextmanager
async def member(
    world: World,
    *bootstraps: Address,
    key: Ed25519PrivateKey | None = None,
    swarm: SwarmId = PUBLIC_SWARM,
    judge: Judge = welcome_all,
    target: int = TARGET,
    clock: Callable[[], int] = wall,
) -> AsyncIterator[Member]:
    """Run a node until left; it does not say good-bye unless the test has it do so."""
    key = key or a_key()
    me, epoch = peer_of(key), Epoch(clock())
    async with world.network.node(me) as node:
        book, addresses, standings = Peerbook(me), AddressBook(me), Standings()
        addresses.learn(bootstraps, Source.CONFIGURED)
        events: list[tuple[str, Mapping[str, Any]]] = []
        changes: list[Change] = []
        outcasts: set[PeerId] = set()
        offer = ModelOffer(name=MODEL.name)
        description = [Description(addresses=node.addresses(), models=(offer,), roles=(SERVE,), name="n")]
        gossip = CountingGossip(world.air, node)

        def apply(some: Iterable[Change]) -> None:
            changes.extend(some := tuple(some))
            discovery.apply(some)

        def greeted(peer: PeerId) -> None:
            discovery.greeted(peer)
            announcer.met(peer)

        announcer = Announcer(
            gossip,
            world.table.at(node),
            book=book,
            own=OwnAdverts(me=me, swarm=swarm, epoch=epoch, version=VERSION),
            key=key,
            describe=lambda: description[0],
            wall=clock,
            luck=world.luck.random,
        )
        discovery = Discovery(
            node,
            gossip,
            world.table.at(node),
            swarm_id=swarm,
            book=book,
            addresses=addresses,
            standings=standings,
            wall=clock,
            luck=world.luck.random,
            outcast=outcasts.__contains__,
            look_again=lambda: joining.look_again(),  # noqa: PLW0108 -- it is made below
            newcomer=announcer.newcomer,
            tell=lambda event, facts: events.append((event, facts)),
            target=target,
        )
        joining = Joining(node, addresses, wanted=discovery.wanted, luck=world.luck.random, tell=lambda _: None)
        greeter = Greeter(
            node,
            node,
            ours=our_hello(me=me, swarm=swarm, epoch=epoch, version=VERSION),
            book=book,
            addresses=addresses,
            wall=clock,
            apply=apply,
            greeted=greeted,
            judge=judge,
        )
        # Of the node's own nursery: a node that is killed stops doing anything.
        await node.nursery.start(discovery.run)
        node.nursery.start_soon(greeter.run)
        node.nursery.start_soon(announcer.run)
        node.nursery.start_soon(joining.run)
        yield Member(
            node=node,
            gossip=gossip,
            book=book,
            addresses=addresses,
            standings=standings,
            greeter=greeter,
            discovery=discovery,
            announcer=announcer,
            joining=joining,
            description=description,
            events=events,
            changes=changes,
            outcasts=outcasts,
        )
        assert not node.failures


async def until(true: Callable[[], bool], within: float) -> float:
    """Wait for something; return how long it took."""
    began = trio.current_time()
    with trio.move_on_after(within):
        while not true():  # noqa: ASYNC110 -- what is waited for is not ours to make an event of
            await trio.sleep(0.05)
    assert true(), f"not within {within:g} s"
    return trio.current_time() - began


def all_know_each_other(members: Sequence[Member]) -> bool:
    return all(one.known() == {each.me for each in members} - {one.me} for one in members)
