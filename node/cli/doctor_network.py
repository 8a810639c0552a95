"""What `metainf doctor` learns of the network: from the node that runs, or, where none does, by looking itself.

Without a node it dials the bootstraps as a node would, under an identity of the moment, so that what it is told by them
is what a node would be told.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from node.adapters import system
from node.core.address import BindAddress
from node.core.bootstraps import Row
from node.core.findings import Finding, Verdict, judge_port
from node.core.membership import Membership
from node.core.network_findings import (
    PEER_PORT,
    judge_bootstraps,
    judge_peer_clocks,
    judge_peer_port,
    judge_reachability,
    judge_route,
    port_remedy,
)
from node.settings import Settings
from protocol.addresses import Reach, parse_address

Running = dict[str, Any] | None


def ports(settings: Settings, running: Running) -> Iterator[Finding]:
    """Judge the ports of the API and of the swarm."""
    yield _api_port(running["api_url"] if running else settings.api.bind, ours=running is not None)
    if not settings.p2p.enabled:
        return
    if running:
        for address in running["addresses"][:1]:
            where = address.partition("/p2p/")[0]
            yield judge_peer_port(address=where, ours=True, holder=None, listens=False, remedy="")
        return
    for text in settings.p2p.listen:
        yield _peer_port(text)


def _api_port(where: str, *, ours: bool) -> Finding:
    if ours:
        return judge_port(address=where, free=False, owner=None, ours=True)
    try:
        address = BindAddress.parse(where)
        free = address.port == 0 or system.port_free(address.host, address.port)
    except (ValueError, OSError) as error:
        return Finding(subject="port", verdict=Verdict.FAILURE, finding=f"{where}: {error}", remedy="mend api.bind")
    holder = None if free else system.port_holder(address.port)
    return judge_port(address=str(address), free=free, owner=holder.words if holder else None, ours=False)


def _peer_port(text: str) -> Finding:
    try:
        address = BindAddress.parse(text)
        free = address.port == 0 or system.port_free(address.host, address.port)
    except (ValueError, OSError) as error:
        return Finding(subject=PEER_PORT, verdict=Verdict.FAILURE, finding=f"{text}: {error}", remedy="mend p2p.listen")
    if free:
        return judge_peer_port(address=str(address), ours=False, holder=None, listens=False, remedy="")
    holder = system.port_holder(address.port) or system.Holder("somebody whom this user may not see", listens=True)
    return judge_peer_port(
        address=str(address),
        ours=False,
        holder=holder.words,
        listens=holder.listens,
        remedy=port_remedy(address.port, listens=holder.listens),
    )


def peer_clocks(running: Running) -> Finding | None:
    """Judge the clock by what peers say; None where there is nobody to ask."""
    return judge_peer_clocks(running.get("clock")) if running else None


def network(
    settings: Settings,
    running: Running,
    *,
    join: Sequence[str],
    offline: bool,
    membership: Membership | None = None,
) -> Iterator[Finding]:
    """Judge the routes, the bootstraps, and who sees this node; as one of its private swarm where it is in one."""
    ipv4, ipv6 = system.routes()
    peers = running["peers"]["connected"] if running else None
    yield judge_route(ipv4=ipv4, ipv6=ipv6, peers=peers or 0, local=_local(settings, running, join))
    rows: list[Row] = list(running.get("bootstraps", ())) if running else []
    told = {row["address"] for row in rows}
    members = () if membership is None else membership.addresses
    asked = [*join] if running else [*settings.p2p.join, *map(str, members), *join]
    if not offline:
        rows += look_at([text for text in asked if text not in told], membership)
    yield from judge_bootstraps(rows, peers=peers)
    yield from judge_reachability(running.get("reachability") if running else None)


def _local(settings: Settings, running: Running, join: Sequence[str]) -> bool:
    """Tell whether nothing beyond this machine is wanted: it listens on loopback, and joins through loopback."""
    named = [parse_address(text) for text in (*settings.p2p.join, *join)]
    named += [parse_address(row["address"]) for row in (running or {}).get("bootstraps", ())]
    loopback = all(address is not None and address.reach is Reach.LOOPBACK for address in named)
    return loopback and all(_at_loopback(text) for text in settings.p2p.listen)


def _at_loopback(text: str) -> bool:
    try:
        return BindAddress.parse(text).loopback
    except ValueError:
        return False  # which is told of as a port


def look_at(texts: Sequence[str], membership: Membership | None = None) -> list[Row]:
    """Dial each of these as a node would; return a row for each, as a node's status has."""
    if not texts:
        return []
    from node.cli.doctor_dial import dial_all  # noqa: PLC0415 -- a second of imports that a running node saves

    return dial_all(texts, membership)
