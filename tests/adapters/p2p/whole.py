"""What a whole node needs to run on real libp2p on loopback: its hands among peers, and policies that welcome all."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from node.adapters.p2p.host import P2pHost
from node.adapters.p2p.routing import Namespace, P2pGossip, open_directory, open_gossip
from node.clock import wall_us
from node.core.access import Access
from node.directory_rules import dht_rules
from node.hands import SwarmHands
from node.policies import SwarmPolicies
from node.services.serve_peers import PeerLimits
from protocol.addresses import Reach
from protocol.gossip import Subject, Topic, message_id
from protocol.ids import PUBLIC_SWARM, Epoch
from tests.adapters.p2p.hosts import a_host

TOPICS = {str(Topic(PUBLIC_SWARM, subject)) for subject in Subject}


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A node's place in a swarm of sockets. `among` is what `SimNode` takes."""

    host: P2pHost
    gossip: P2pGossip
    among: tuple[SwarmHands, SwarmPolicies]


@asynccontextmanager
async def a_place(seed: bytes, clock: Callable[[], int] = wall_us) -> AsyncIterator[Place]:
    """Open one for the node whose private key has that seed. `clock` is the wall's, in microseconds."""
    rules = dht_rules(PUBLIC_SWARM, clock)
    table = {name: Namespace(valid=valid, best=best) for name, (valid, best) in rules.items()}
    async with AsyncExitStack() as stack:
        host = await stack.enter_async_context(a_host(seed=seed))
        gossip = await stack.enter_async_context(open_gossip(host, topics=TOPICS, message_id=message_id))
        hands = SwarmHands(
            network=host,
            gossip=gossip,
            directory=await stack.enter_async_context(open_directory(host, table)),
            key=Ed25519PrivateKey.from_private_bytes(seed),
            epoch=Epoch(clock()),
            interfaces=lambda: ("127.0.0.1",),
            nearby=None,
            remembered=(),
            remember=_forget,
        )
        policies = SwarmPolicies(
            swarm=PUBLIC_SWARM,
            listen=(),
            join=(),
            announce=(),
            lan=False,
            bootstrap=False,
            access=Access(),
            nearest=Reach.LOOPBACK,
            limits=PeerLimits(),
        )
        yield Place(host=host, gossip=gossip, among=(hands, policies))


async def _forget(_: object) -> None:
    await trio.lowlevel.checkpoint()
