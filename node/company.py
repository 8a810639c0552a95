"""A node among others: the services of the swarm, built on their hands and wired to each other.

The part of the composition that a node by itself does without. Decides nothing: who is told of what, and no more.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import structlog
import trio

from node.answering import among_peers
from node.core.engine_state import EngineState
from node.core.own_addresses import own_addresses
from node.core.peerbook import Peerbook
from node.core.self_advert import Description, OwnAdverts, our_hello
from node.core.standings import Standings
from node.describing import describe
from node.errors import NodeError
from node.finding import Finding
from node.foretelling import Foretelling
from node.hands import SwarmHands
from node.history import doubt_of
from node.home import Home
from node.http.history_metrics import EXCHANGED
from node.peer_facts import edge_facts, peer_facts
from node.policies import Policies, SwarmPolicies
from node.private_swarm import Circle
from node.reaching import reaching_of
from node.reckoning import Reckoning
from node.services.announce import Announcer
from node.services.ask import SwarmReplica
from node.services.discover import TARGET, Discovery
from node.services.greet import Greeter
from node.services.part import Parter
from node.services.replicate import Replication, Us
from node.services.serve_peers import PeerServer
from node.services.take_turns import Turns
from node.services.watch_drift import DriftWatch
from node.services.watch_load import LoadWatch
from protocol import inference, load
from protocol.advert import ModelOffer
from protocol.hello import Part, PartCode, Settled
from protocol.ids import ContentDigest, PeerId
from protocol.membership import MemberRole
from protocol.performance import PERFORMANCE

log = structlog.get_logger(__name__)

DIGEST = 60.0  # s for reading a model's configuration and index
FAULTLESS = 0.75  # standing: the last offence was 40 minutes ago
LAST_FRAMES = 2.0  # s for the ends of answers to be sent, once the engine has given them


class Company:
    """The services among peers. `run` is their one long-lived task."""

    def __init__(self, hands: SwarmHands, policies: Policies, among: SwarmPolicies, home: Home) -> None:
        self._hands = hands
        self._policies = policies
        self.circle = Circle(hands.private, hands.network, me=home.me, wall=home.wall)
        among = replace(among, access=self.circle.access(among.access))
        self._among = among
        self._home = home
        self.addresses = own_addresses(
            home.me, hands.network.addresses(), hands.interfaces(), among.announce
        )  # where others reach this node, its peer id included
        self.book = Peerbook(home.me)
        self.finding = Finding(
            hands,
            among,
            home.me,
            wanted=self._wanted,
            met=self.book.connections,
            wall=home.wall,
            luck=home.luck,
            tell=home.tell,
        )
        self._addresses = self.finding.addresses
        self._standings = Standings()
        self._parter = Parter(hands.network, self._addresses)
        if hands.weigh is not None:
            hands.weigh(lambda peer: self._parter.conduct.standing(peer, trio.current_time()))
        self._digest: ContentDigest | None = None  # of the engine's model
        self.foretelling = Foretelling(home.me, swarm=hands.network, book=self.book)
        self._watch = LoadWatch(
            streams=hands.network,
            swarm=hands.network,
            standings=self._standings,
            round_trip=self.foretelling.trips.note,
        )
        self._announcer = self._make_announcer()
        self.turns = self._make_turns()
        self._discovery = self._make_discovery()
        self._greeter = self._make_greeter()
        self.circle.connect(
            book=self.book, addresses=self._addresses, met=self._greeter.met, apply=self._discovery.apply
        )
        self.reckoning = Reckoning(home, hands, policies, among, book=self.book, standings=self._standings)
        self.replica = self._make_replica()
        self._server = PeerServer(
            engine=home.replica,
            access=among.access,
            met=self._greeter.met,
            offence=home.offence,
            limits=among.limits,
            lent=self.reckoning.account.lent,
        )
        self.replication = self._make_replication()
        self.reaching = reaching_of(
            hands,
            among,
            book=self.book,
            greeter=self._greeter,
            announcer=self._announcer,
            may_relay=lambda peer: self.circle.may(peer, MemberRole.RELAY),
            luck=home.luck,
        )

    async def run(self) -> None:
        """Find the swarm, take part in it, serve and ask; return never."""
        network = self._hands.network
        network.serve(inference.PROTOCOL_ID, self._server.infer)
        network.serve(load.PROTOCOL_ID, self._server.load, frame_bytes=load.SCRIPT.limit)
        async with trio.open_nursery() as nursery:
            await nursery.start(self._discovery.run)
            await nursery.start(self.replication.run)
            nursery.start_soon(self._greeter.run)
            nursery.start_soon(self._announcer.run)
            nursery.start_soon(self.finding.run)
            nursery.start_soon(self._watch.run)
            nursery.start_soon(self.replica.run)
            experience = self.replica.experience
            nursery.start_soon(DriftWatch({"ttft": experience.ttft, "tpot": experience.tpot}).run)
            nursery.start_soon(self._follow_engine)
            nursery.start_soon(self._parter.run)
            nursery.start_soon(self.reaching.run)
            nursery.start_soon(self.circle.run)

    async def leave(self) -> None:
        """Tell the others that this node is going; takes two seconds at most. What runs goes on."""
        self._greeter.stop()
        await self._announcer.leave()

    async def settle(self) -> None:
        """Wait until what was answered is on its way to the peers, and not for long."""
        with trio.move_on_after(LAST_FRAMES):
            while self._server.counts().running:  # noqa: ASYNC110 -- once in the life of a node
                await trio.sleep(0.05)

    # -- what is told of it

    def numbers(self) -> dict[str, int]:
        """Return how many peers are connected and known."""
        return {"connected": len(self.book.connections()), "known": len(self.book.members(trio.current_time()))}

    def outcasts(self) -> tuple[PeerId, ...]:
        """Return those parted from for what they brought, the latest last."""
        return self._parter.conduct.outcasts(trio.current_time())

    def proven(self) -> tuple[PeerId, ...]:
        """Return those who answered prompts of this node, and have done nothing lately that no honest node does."""
        conduct, now = self._parter.conduct, trio.current_time()
        return tuple(peer for peer in self._standings.helpers() if conduct.standing(peer, now) > FAULTLESS)

    def peers(self) -> dict[str, Any]:
        """Return the document of `metainf peers --json`."""
        now = trio.current_time()
        return {
            "peers": [self._facts(peer) for peer in self.book.members(now)],
            "outcasts": [
                {"peer_id": str(peer), "offences": dict(self._parter.conduct.offences(peer))}
                for peer in self.outcasts()
            ],
            "rejected_records": dict(self.replication.counts().rejected),
            "edge": edge_facts(self._hands.network.edge()),
        }

    def exchanged(self) -> dict[str, int]:
        """Count what of the history went to and from peers: see `node.services.replicate.Counts`."""
        counts = self.replication.counts()
        return {name: getattr(counts, name) for name in EXCHANGED}

    def models(self) -> tuple[ModelOffer, ...]:
        """Return what other nodes serve now."""
        return self.book.models(trio.current_time())

    def blame(self, node: str) -> None:
        """Note that what a node gave for an answer was none, which nobody could tell but who read it."""
        self._standings.failed(PeerId.from_string(node), trio.current_time())

    def served(self) -> dict[str, int]:
        """Count the prompts of peers: `served`, `refused`, `failed`, `abandoned`, `running`."""
        counts = self._server.counts()
        return {
            "running": counts.running,
            "served": counts.served,
            "failed": counts.failed,
            "refused": counts.refused,
            "abandoned": counts.abandoned,
        }

    def _facts(self, peer: PeerId) -> dict[str, Any]:
        now = trio.current_time()
        return peer_facts(
            peer,
            self.book.advert_of(peer, now),
            standing=self._standings.standing(peer, now),
            settled=self._greeter.settled(peer),
            rtt=self._hands.network.round_trip(peer),
            addresses=self._addresses.addresses(peer),
            connected=peer in self.book.connections(),
            behaved=self._parter.conduct.standing(peer, now),
            offences=self._parter.conduct.offences(peer),
            quarantined=peer in self.replication.quarantined,
            ahead_s=self.finding.ahead_s(peer),
            now=now,
            via=self.reaching.via(peer),
        )

    # -- what the services are built of

    def _make_announcer(self) -> Announcer:
        hands = self._hands
        return Announcer(
            hands.gossip,
            hands.directory,
            book=self.book,
            own=OwnAdverts(**self._named(), certificate=self.circle.certificate),
            key=hands.key,
            describe=self._describe,
            wall=self._home.wall,
            luck=self._home.luck,
        )

    def _make_turns(self) -> Turns:
        home = self._home
        return Turns(
            me=home.me,
            book=self.book,
            standings=self._standings,
            watch=self._watch,
            running=lambda: home.replica.counts().running,
            announce=self._announcer.look_again,
            luck=home.luck,
        )

    def _make_discovery(self) -> Discovery:
        hands = self._hands
        return Discovery(
            hands.network,
            hands.gossip,
            hands.directory,
            swarm_id=self._among.swarm,
            book=self.book,
            addresses=self._addresses,
            standings=self._standings,
            wall=self._home.wall,
            luck=self._home.luck,
            outcast=self._parter.outcast,
            look_again=self._look_again,
            newcomer=self._announcer.newcomer,
            tell=self._home.tell,
            belongs=self.circle.belongs,
        )

    def _make_greeter(self) -> Greeter:
        hands = self._hands
        return Greeter(
            hands.network,
            hands.network,
            ours=our_hello(**self._named(), certificate=self.circle.certificate),
            book=self.book,
            addresses=self._addresses,
            wall=self._home.wall,
            apply=self._discovery.apply,
            greeted=self._greeted,
            judge=self._judge,
            complain=hands.network.complain,
            parted=self.finding.parted,
        )

    def _named(self) -> dict[str, Any]:
        """Return what every word of this run names."""
        swarm, version = self._among.swarm, self._policies.version
        return {"me": self._home.me, "swarm": swarm, "epoch": self._hands.epoch, "version": version}

    def _make_replica(self) -> SwarmReplica:
        hands, home = self._hands, self._home
        return among_peers(
            me=home.me,
            local=home.replica,
            own_digest=lambda: self._digest,
            reckoning=self.reckoning,
            network=hands.network,
            book=self.book,
            standings=self._standings,
            access=self._among.access,
            foretelling=self.foretelling,
            watch=self._watch,
            luck=home.luck,
            on_change=self._discovery.apply,
            policies=self._policies,
        )

    def _make_replication(self) -> Replication:
        hands, home = self._hands, self._home
        return Replication(
            hands.network,
            hands.gossip,
            hands.directory,
            home.history,
            us=Us(me=home.me, swarm=self._among.swarm, epoch=hands.epoch, key=hands.key),
            kind=PERFORMANCE,
            check=doubt_of(home.wall),
            neighbours=self.book.connections,
            met=self._greeter.met,
            welcome=self._welcome,
            members=lambda: self.book.members(trio.current_time()),
            blame=self._parter.blame,
            wall=home.wall,
            luck=home.luck,
        )

    # -- who is told of what

    def _look_again(self) -> None:
        self.finding.joining.look_again()
        self.foretelling.look_again()

    def _wanted(self) -> Iterable[PeerId]:
        if len(self._hands.network.connected()) >= TARGET:
            return ()
        return (*self._discovery.wanted(), *self._addresses.introduced())

    def _greeted(self, peer: PeerId) -> None:
        if (settled := self._greeter.settled(peer)) is not None:
            self.finding.greeted(settled)
        self._discovery.greeted(peer)
        self._announcer.met(peer)
        self.replication.greeted(peer)
        self.circle.met(peer)

    def _welcome(self, peer: PeerId) -> bool:
        return self._greeter.settled(peer) is not None and not self._parter.outcast(peer)

    def _judge(self, settled: Settled) -> Part | None:
        """Part from outcasts, and from those whom the operator excludes by name: neither served nor asked."""
        access = self._among.access
        if (part := self.circle.judge(settled)) is not None:
            return part
        if self._parter.outcast(settled.peer):
            return Part(code=PartCode.NOT_WELCOME.value, message="This node was brought what no honest node brings.")
        if settled.peer in access.serve.but and settled.peer in access.ask.but:
            return Part(code=PartCode.NOT_WELCOME.value, message="This node's owner wants nothing to do with that one.")
        return None

    def _describe(self) -> Description:
        """Say what this node is and serves now."""
        home = self._home
        said = describe(
            home.engine.snapshot(),
            home.engine.models(),
            policies=self._policies,
            among=self._among,
            addresses=self.addresses,
            hardware=self._hands.hardware,
            strategy=home.strategy(),
            digest=self._digest,
            running=home.replica.load().slots,
            intends=self.turns.intends(),
        )
        return self.reaching.told(said)

    async def _follow_engine(self) -> None:
        snapshot = self._home.engine.snapshot()
        while True:
            if snapshot.state is EngineState.READY and self._digest is None:
                await self._find_digest()
            self._announcer.look_again()
            self.foretelling.look_again()
            snapshot = await self._home.engine.changed(snapshot)

    async def _find_digest(self) -> None:
        """Find out which content the engine serves: names alone do not tell, and clients may pin it."""
        with trio.move_on_after(DIGEST):
            try:
                setting = await self._home.setting() if self._home.setting is not None else None
            except NodeError as error:
                log.warning("model.digest_unknown", reason=str(error))
                return
            self._digest = setting.model.digest if setting is not None else None
