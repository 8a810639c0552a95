"""What is told of one peer, and of the door for all of them: `metainf peers --json`.

Knows values, and puts them into words that scripts rely on.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

from node.core.standings import FAILED, HUNG, PROBING, REFUSED, Standing
from node.edge_ports import Edge
from protocol.addresses import Address
from protocol.advert import SERVE, Advert
from protocol.hello import Settled
from protocol.ids import PeerId
from protocol.records import Signed

_BARRED: Final[Mapping[str, tuple[str, str]]] = {
    HUNG: ("hung", "it fell silent in an answer, and does not say that it lives"),
    FAILED: ("failed", "an answer of it broke off or never came"),
    REFUSED: ("barred", "it refused a prompt"),
    PROBING: ("probing", "a first prompt tries whether it is well again"),
}


def peer_facts(  # noqa: PLR0913 -- one value for each word
    peer: PeerId,
    signed: Signed[Advert] | None,
    *,
    standing: Standing,
    settled: Settled | None,
    rtt: float | None,
    addresses: Iterable[Address],
    connected: bool,
    behaved: float,
    offences: Mapping[str, int],
    quarantined: bool,
    ahead_s: float | None,
    now: float,
    via: str | None,
) -> dict[str, Any]:
    """Return one entry of the document.

    Args:
        signed: its advert, where it has one that counts.
        rtt: seconds.
        via: `direct`, or the relay that carries the connection; None where that is not known, or there is none.
        behaved: 1 of whom nothing bad is known, 0 of an outcast.
        ahead_s: seconds that its clock is ahead of ours; None where it never said.
        now: seconds, by the clock of `standing`.
    """
    state, why = _state(standing, connected=connected, quarantined=quarantined, now=now)
    advert = signed.body if signed is not None else None
    serves = advert is not None and SERVE in advert.roles
    return {
        "peer_id": str(peer),
        "name": advert.name if advert else None,
        "connected": connected,
        "via": via,
        "rtt_ms": round(rtt * 1000, 3) if rtt is not None else None,
        "addresses": [str(address) for address in addresses],
        "models": _offers(advert) if serves else [],
        "loading": [] if serves else _offers(advert),
        "roles": list(advert.roles) if advert else [],
        "software": advert.software if advert else settled.software if settled else None,
        "load": {"work": round(standing.work, 2), "slots": standing.slots, "ours": standing.in_flight}
        if standing.known
        else None,
        "closed": standing.closed or None,
        "state": state,
        "why": why,
        "clock_ahead_s": ahead_s,
        "standing": round(behaved, 3),
        "offences": dict(offences),
        "quarantined": quarantined,
    }


def edge_facts(edge: Edge) -> dict[str, Any]:
    """Return what is told of the door for peers; for how long who is refused in whole seconds."""
    return {
        "inbound": edge.inbound,
        "handshaking": edge.handshaking,
        "accepted": edge.accepted,
        "refused": dict(edge.refused),
        "banned_addresses": {who: math.ceil(seconds) for who, seconds in edge.banned_addresses.items()},
        "banned_peers": {who: math.ceil(seconds) for who, seconds in edge.banned_peers.items()},
    }


def _state(standing: Standing, *, connected: bool, quarantined: bool, now: float) -> tuple[str, str | None]:
    """Return how a peer stands with this node, in a word that scripts rely on, and why, in words for a person."""
    wait = f"; asked again in {max(standing.closed_until - now, 0.0):.0f} s"
    if quarantined:
        return "quarantined", "its key signed two records of one name"
    if not connected:
        return "absent", "known by its advert, and not connected"
    if standing.closed in _BARRED:
        state, why = _BARRED[standing.closed]
        return state, why + (wait if standing.closed != PROBING else "")
    if standing.closed:
        return "closed", f"takes no prompts now: {standing.closed.replace('_', ' ')}"
    if not standing.known:
        return "unread", "nobody has wanted to know its load"
    return ("fresh", None) if standing.fresh else ("stale", "its load was not read for some seconds")


def _offers(advert: Advert | None) -> list[dict[str, Any]]:
    offers = () if advert is None else advert.models
    return [{"name": offer.name, "max_length": offer.max_length} for offer in offers]
