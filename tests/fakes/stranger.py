"""A peer that greets as it should, and then says what a test has it say: any bytes, at any time."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from node.core.self_advert import our_hello
from node.ports import PeerStream, Streams, Swarm
from protocol import hello, inference, load
from protocol.dialogue import Dialogue
from protocol.dialogue import Role as Side
from protocol.hello import Greeting, Settled
from protocol.ids import PUBLIC_SWARM, Epoch, PeerId
from protocol.inference import Exchange, Role
from protocol.inference_events import Ask, Body, Event
from tests.fakes.network import FakeNetwork
from tests.sim.swarm import wall

PATIENCE = 5.0


def key_of(name: str) -> Ed25519PrivateKey:
    """Return the key of a name: the same on every run."""
    return Ed25519PrivateKey.from_private_bytes(name.encode().ljust(32, b"\1"))


def id_of(key: Ed25519PrivateKey) -> PeerId:
    """Return the peer id of a key."""
    return PeerId.from_public_key(key.public_key().public_bytes_raw())


class Node(Streams, Swarm, Protocol):
    """What it needs of a network, in memory or not."""


@dataclass
class Stranger:
    """One such peer. It answers nothing that others open, and dials `victim` alone."""

    node: Node
    victim: PeerId
    clock: Callable[[], int] = wall

    @property
    def me(self) -> PeerId:
        """Who it is."""
        return self.node.me

    def greeting(self, *, incarnation: int | None = None) -> Greeting:
        """Return a greeting as an honest node begins it."""
        epoch = Epoch(self.clock() if incarnation is None else incarnation)
        ours = our_hello(me=self.me, swarm=PUBLIC_SWARM, epoch=epoch, version="0")
        return Greeting(Side.OPENER, ours, self.victim)

    async def greet(self) -> bool:
        """Greet; whether that went well."""
        greeting = self.greeting()
        async with self.node.open(self.victim, hello.PROTOCOL_ID, patience=PATIENCE) as stream:
            await stream.send(greeting.begin(self.clock()))
            while (payload := await stream.receive()) is not None:
                greeting.take(payload, self.clock())
                await stream.finish()
        return isinstance(greeting.outcome, Settled)

    async def ask(self, body: bytes, *, target: str = "/v1/completions", **more: object) -> list[Event]:
        """Ask one prompt as an honest peer does; return all that is answered."""
        async with self.node.open(self.victim, inference.PROTOCOL_ID, patience=PATIENCE) as stream:
            exchange = Exchange(Role.ASKER)
            for event in (an_ask(len(body), target=target, **more), *([Body(data=body)] if body else [])):
                await stream.send(exchange.say(event))
            heard: list[Event] = []
            while not exchange.is_free:
                payload = await stream.receive()
                assert payload is not None
                heard.append(exchange.hear(payload))
            stream.keep()
            return heard

    async def poll(self) -> load.Load:
        """Ask how busy the victim is."""
        async with self.node.open(self.victim, load.PROTOCOL_ID, patience=PATIENCE) as stream:
            figures = await Poller(stream).poll()
            stream.keep()
            return figures


class Poller:
    """Asks on one stream, again and again, how busy a node is."""

    def __init__(self, stream: PeerStream) -> None:
        self.stream = stream
        self.dialogue = Dialogue(load.SCRIPT, Side.OPENER)

    async def poll(self) -> load.Load:
        """Ask once."""
        await self.stream.send(self.dialogue.say(load.Poll()))
        payload = await self.stream.receive()
        assert payload is not None
        report = self.dialogue.hear(payload)
        assert isinstance(report, load.Report)
        return load.read_figures(report.load)


def an_ask(size: int, **other: object) -> Ask:
    """Return an ask for a completion whose body has so many bytes."""
    fields: dict[str, object] = {
        "request_id": "r-1",
        "method": "POST",
        "target": "/v1/completions",
        "headers": ((b"content-type", b"application/json"),),
        "body_size": size,
        "attempt": 1,
    }
    return Ask(**(fields | other))  # type: ignore[arg-type]


@asynccontextmanager
async def stranger(network: FakeNetwork, victim: PeerId, name: str) -> AsyncIterator[Stranger]:
    """Enter with a stranger who knows where the victim is, and has said nothing yet."""
    async with network.node(id_of(key_of(name))) as node:
        there = network.find(victim)
        assert there is not None
        node.learn(victim, there.addresses())
        yield Stranger(node, victim)


@asynccontextmanager
async def greeted(network: FakeNetwork, victim: PeerId, name: str) -> AsyncIterator[Stranger]:
    """Enter with a stranger who has greeted."""
    async with stranger(network, victim, name) as one:
        with trio.fail_after(PATIENCE):
            assert await one.greet()
        yield one
