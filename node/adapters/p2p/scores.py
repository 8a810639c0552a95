"""What gossip thinks of its neighbours, and what follows: whom it passes messages to, and takes them of.

One of the twelve files that import libp2p. Every figure is for the worst alone: an honest neighbour that is late,
starts anew, or shares its address with a class room loses nothing but, at most, its place in a mesh that is full.
"""

import math
from collections.abc import Callable
from itertools import islice
from typing import Any

import trio
from libp2p.peer.id import ID
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.mcache import CacheEntry, MessageCache
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub
from libp2p.pubsub.score import PeerScorer, ScoreParams, TopicScoreParams
from libp2p.pubsub.utils import safe_bytes_from_hex

from node.adapters.p2p.connections import peer_of
from node.adapters.p2p.host import P2pHost
from node.core.pace import Allowance, Pace
from protocol import limits
from protocol.ids import PeerId

WANTED = 256  # messages looked for at one question: what is said in some seconds
# Bytes that a neighbour is given again, having missed them: two of the largest messages at once.
GIVEN = Allowance(rate=256 * 1024.0, burst=2.0 * limits.GOSSIP_BYTES)
FADED = 0.01  # of a point, and below it: nothing
# What a neighbour's conduct comes to: an offence (a forged record, say) counts 10, forgotten by halves in half an hour.
OFFENCE = 10.0
# Floods of messages, GRAFTs, IHAVEs and IWANTs: 5 or 10 each, forgotten by halves in seven seconds. What a node sends
# that was stalled for ten seconds is borne.
FLOOD_BORNE, FLOOD, FLOOD_DECAY = 50.0, 0.5, 0.9
NEIGHBOURS_BORNE = 8  # of one address, before the excess squared counts: a class room is no attack
NEIGHBOURS, NEIGHBOURS_MOST = 0.1, 10.0  # so it makes them the first to be pruned, and never does more
FIRST, FIRST_MOST, FIRST_DECAY = 0.1, 50.0, 0.97  # for messages that it brought first: five points at most
NO_GOSSIP, NO_MESSAGES, NO_MESH = -15.0, -20.0, -25.0  # two offences; three, or a flood; an outcast has -27


class Scorer(PeerScorer):
    """libp2p's scores of neighbours, mended where they would harm honest ones or never apply.

    What a judge does not take may only be late, or said too often: it is no offence. What is one, `standing` tells.
    """

    def __init__(self) -> None:
        super().__init__(
            ScoreParams(
                p2_first_message_deliveries=TopicScoreParams(FIRST, FIRST_MOST, FIRST_DECAY),
                p5_behavior_penalty_weight=FLOOD,
                p5_behavior_penalty_decay=FLOOD_DECAY,
                p5_behavior_penalty_threshold=FLOOD_BORNE,
                p7_ip_colocation_weight=NEIGHBOURS,
                p7_ip_colocation_threshold=NEIGHBOURS_BORNE,
                publish_threshold=NO_MESSAGES,
                gossip_threshold=NO_GOSSIP,
                graylist_threshold=NO_MESH,
                accept_px_threshold=math.inf,  # whom to dial is not told by who prunes us
            )
        )
        self.standing: Callable[[PeerId], float] = lambda _: 1.0

    def on_invalid_message(self, peer: ID, topic: str) -> None:
        """Count nothing: see above."""

    def score(self, peer: ID, topics: list[str]) -> float:
        """Return what a neighbour is worth; 0 is neither good nor bad."""
        ours = peer_of(peer)
        standing = 1.0 if ours is None else self.standing(ours)
        return super().score(peer, topics) + OFFENCE * math.log2(max(standing, 1e-6))

    def ip_colocation_penalty(self, peer: ID) -> float:
        """Return what counts against those of a crowded address, within bounds."""
        return min(super().ip_colocation_penalty(peer), NEIGHBOURS_MOST)

    def allow_publish(self, peer: ID, topics: list[str]) -> bool:
        """Tell whether messages go to it and are taken of it; libp2p looks at a part of the score only."""
        return bool(topics) and self.score(peer, topics) >= NO_MESSAGES

    def allow_gossip(self, peer: ID, topics: list[str]) -> bool:
        """Tell whether it is told what there is."""
        return bool(topics) and self.score(peer, topics) >= NO_GOSSIP

    def on_heartbeat(self, dt_seconds: float = 1.0) -> None:
        """Let time pass, and forget what has faded: looking at a score makes entries for whoever is looked at."""
        super().on_heartbeat(dt_seconds)
        floods = (self.behavior_penalty, self.graft_flood_penalties, self.iwant_spam_penalties)
        for table in (*floods, self.ihave_spam_penalties, self.equivocation_penalties):
            for peer in [peer for peer, value in table.items() if value < FADED]:
                del table[peer]
        for topics in (self.first_message_deliveries, self.time_in_mesh, self.mesh_message_deliveries):
            for peer in [peer for peer, values in topics.items() if all(each < FADED for each in values.values())]:
                del topics[peer]
        self.invalid_messages.clear()
        self.app_specific_scores.clear()


class Router(GossipSub):
    """Gossipsub that knows its neighbours' addresses; libp2p's looks for them where its connections have none."""

    def __init__(self, host: P2pHost, **options: Any) -> None:  # noqa: ANN401 -- GossipSub's own
        super().__init__(**options)
        self.scorer = self.scores = Scorer()
        self._host = host
        self._given = Pace(GIVEN)

    def attach(self, pubsub: Pubsub) -> None:
        """Meet the rest of gossip, and call messages what it calls them."""
        super().attach(pubsub)
        self.mcache = _Cache(self.mcache, pubsub.get_message_id)

    async def handle_iwant(self, iwant_msg: rpc_pb2.ControlIWant, sender_peer_id: ID) -> None:
        """Give a neighbour messages that it lacks: each once, however often it names it, and so many bytes a second.

        libp2p gives as many copies as are asked for in one packet: 1 MiB of question for gigabytes of answer.
        """
        given: list[bytes] = []
        for each in islice(dict.fromkeys(iwant_msg.messageIDs), WANTED):
            name = safe_bytes_from_hex(each)
            message = self.mcache.get(name) if name is not None else None
            if message is not None and self._given.take(sender_peer_id, message.ByteSize(), trio.current_time()):
                given.append(each)
        del iwant_msg.messageIDs[:]
        iwant_msg.messageIDs.extend(given)
        await super().handle_iwant(iwant_msg, sender_peer_id)

    def _check_equivocation(self, msg: rpc_pb2.Message) -> bool:
        """Take every message for what it is; libp2p keeps the last 1,000 whole, some MB, to compare their numbers.

        What an author may not say twice is named inside of what it signs, and found there (docs/protocol/records.md).
        """
        return True

    def _track_peer_ip(self, peer_id: ID) -> None:
        origin = self._host.origin_of(peer_id)
        if origin is not None and origin.subnet is not None and not origin.spared:  # of the public network
            self.scores.add_peer_ip(peer_id, origin.party)


class _Cache(MessageCache):
    """What was said lately, by the names that neighbours know it by.

    libp2p's goes by author and number whatever names were agreed on: so nobody finds what it is told of among what it
    has seen, and asks for all of it again.
    """

    def __init__(self, stock: MessageCache, name: Callable[[rpc_pb2.Message], bytes]) -> None:
        super().__init__(stock.window_size, stock.history_size)
        self._name = name

    def put(self, msg: rpc_pb2.Message) -> None:
        """Keep a message for a few seconds."""
        name = self._name(msg)
        if name not in self.msgs:
            self.msgs[name] = msg
            self.history[0].append(CacheEntry(name, msg.topicIDs))
