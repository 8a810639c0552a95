"""How others reach this node, and it them: the services for that, wired to each other; what they add to what is told.

A part of the composition root, for a node among others whose hands know relays. Decides one thing: that a node which
the world reaches lends itself as a relay, where its owner lets it.
"""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import trio

from node.core.peerbook import Peerbook
from node.core.reachability import Verdict
from node.core.self_advert import Description
from node.hands import SwarmHands
from node.policies import SwarmPolicies
from node.ports import Streams, Swarm
from node.relay_ports import Ways
from node.services.announce import Announcer
from node.services.greet import Greeter
from node.services.reach import Reacher
from node.services.reserve import Reserver
from node.services.straighten import Straightener
from protocol.advert import RELAY, Advert
from protocol.hello import Settled
from protocol.ids import PeerId


@dataclass(frozen=True, slots=True, kw_only=True)
class Around:
    """What is asked of the rest of the node.

    Attributes:
        members: who is in the swarm, and may lend circuits.
        advert: what one says of itself. settled: what one that has greeted speaks.
        met: whether one has greeted; waits for it.
        announce: called when what is told of this node may have changed.
    """

    members: Callable[[], Iterable[PeerId]]
    advert: Callable[[PeerId], Advert | None]
    settled: Callable[[PeerId], Settled | None]
    met: Callable[[PeerId], Awaitable[bool]]
    announce: Callable[[], None]
    luck: Callable[[], float]


class NoReaching:
    """In place of them, where nothing is known of relays: in a simulation's network."""

    async def run(self) -> None:
        """Return never."""
        await trio.sleep_forever()

    def told(self, description: Description) -> Description:
        """Return what is told of this node as it is."""
        return description

    def via(self, peer: PeerId) -> str | None:
        """Return nothing."""
        del peer

    def facts(self) -> dict[str, Any] | None:
        """Return nothing."""


class Reaching:
    """The services. `run` is their one long-lived task."""

    def __init__(
        self, swarm: Swarm, streams: Streams, ways: Ways, company: Around, *, willing: bool, announced: bool
    ) -> None:
        """Prepare.

        Args:
            willing: whether the owner lets others be called through this node.
            announced: whether the owner says himself how others reach it; nothing is added to that.
        """
        self._swarm = swarm
        self._ways = ways
        self._company = company
        self._willing = willing
        self._announced = announced
        self._ports = tuple(dict.fromkeys(each.port for each in swarm.addresses()))
        self._reacher = Reacher(
            swarm,
            streams,
            ways,
            ports=self._ports,
            speaks=self._speaks,
            met=company.met,
            changed=self._look_again,
        )
        self._reserver = Reserver(
            swarm,
            ways,
            members=company.members,
            advert=company.advert,
            needed=lambda: self._verdict() is Verdict.PRIVATE,
            luck=company.luck,
            changed=company.announce,
        )
        self._straightener = Straightener(swarm, ways)

    async def run(self) -> None:
        """Find out, reserve, lend, straighten; return never."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._reacher.run)
            nursery.start_soon(self._reserver.run)
            nursery.start_soon(self._straightener.run)

    def told(self, description: Description) -> Description:
        """Return what is told of this node, with the ways to it that it cannot know of by itself."""
        external = self._reacher.known.external(trio.current_time())
        added = () if self._announced else tuple(each.of(self._swarm.me) for each in external)
        # What others have reached goes first: what an interface says, a router may hide.
        addresses = tuple(dict.fromkeys((*added, *description.addresses)))
        roles = description.roles + ((RELAY,) if self._lends() else ())
        return replace(description, addresses=addresses, circuits=self._reserver.circuits(), roles=roles)

    def via(self, peer: PeerId) -> str | None:
        """Return `direct`, or the relay by which a peer is connected; None where it is not."""
        if peer not in self._swarm.connected():
            return None
        relay = self._ways.via(peer)
        return "direct" if relay is None else str(relay)

    def facts(self) -> dict[str, Any] | None:
        """Return the block `reachability` of `metainf status --json`."""
        known, now, lent = self._reacher.known, trio.current_time(), self._ways.lent()
        return {
            "verdict": known.verdict(now).value,
            "seen_from": [str(peer) for peer in known.seen_from(now)],
            "not_seen_from": [str(peer) for peer in known.unseen_from(now)],
            "external": [str(each.of(self._swarm.me)) for each in known.external(now)],
            "appears_as": sorted({each.host for each in known.guessed((1,), now)}),
            "ports": list(self._ports),
            "relays": [
                {"peer_id": str(relay), "seconds_left": round(left)} for relay, left in self._reserver.relays().items()
            ],
            "circuits": [str(each) for each in self._reserver.circuits()],
            "lends": self._lends(),
            "lent": {
                "reservations": lent.reservations,
                "circuits": lent.circuits,
                "circuits_total": lent.circuits_total,
                "bytes_total": lent.bytes_total,
            },
            "straightened": {"met": self._straightener.met, "failed": self._straightener.failed},
        }

    def _verdict(self) -> Verdict:
        return self._reacher.known.verdict(trio.current_time())

    def _lends(self) -> bool:
        known = self._reacher.known
        reached = known.verdict(trio.current_time()) is Verdict.PUBLIC and known.worldwide(trio.current_time())
        return self._willing and reached

    def _speaks(self, peer: PeerId) -> bool:
        settled = self._company.settled(peer)
        return settled is not None and "reach" in settled.versions

    def _look_again(self) -> None:
        self._ways.lend(self._lends())
        self._ways.believe(self._reacher.known.guessed(self._ports, trio.current_time()))
        self._company.announce()


def reaching_of(  # noqa: PLR0913 -- each is one capability
    hands: SwarmHands,
    among: SwarmPolicies,
    *,
    book: Peerbook,
    greeter: Greeter,
    announcer: Announcer,
    may_relay: Callable[[PeerId], bool],
    luck: Callable[[], float],
) -> Reaching | NoReaching:
    """Return the services of a node among others, as far as its hands know of relays.

    Args:
        may_relay: who, this node included, may lend circuits: in a private swarm a certificate says so.
    """
    if hands.ways is None:
        return NoReaching()

    def advert(peer: PeerId) -> Advert | None:
        signed = book.advert_of(peer, trio.current_time())
        return None if signed is None else signed.body

    around = Around(
        members=lambda: filter(may_relay, book.members(trio.current_time())),
        advert=advert,
        settled=greeter.settled,
        met=greeter.met,
        announce=announcer.look_again,
        luck=luck,
    )
    network = hands.network
    willing = among.relay and may_relay(network.me)
    return Reaching(network, network, hands.ways, around, willing=willing, announced=bool(among.announce))
