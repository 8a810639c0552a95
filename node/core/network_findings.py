"""What `metainf doctor` finds of the network: routes, bootstraps, who sees this node, whose clock is wrong, its ports.

Knows no socket: the facts are gathered by the command, from the node that runs or by looking, and judged here. What is
wrong in one place shows in several (without a route no bootstrap answers), so the cause comes before its consequences.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from node.core.bootstraps import Row
from node.core.findings import Finding, Verdict
from node.errors import WhyNot

JUDGES: Final = 3  # peers whose clocks agree that ours is wrong; one alone may be wrong himself
ASKED: Final = 2  # peers that tried to reach this node, before their failing says something

PEER_PORT: Final = "peer port"
ANOTHER_PORT: Final = "give another with --listen 0.0.0.0:PORT (0 takes any), or stop the other program"

# What to do, by why nothing came of a bootstrap.
REMEDIES: Final[Mapping[str, str]] = {
    WhyNot.NO_ROUTE: "connect this machine to a network: `ip route` must show a default route",
    WhyNot.NO_NAME: "check the name's spelling and this machine's name server: `getent hosts NAME`, /etc/resolv.conf",
    WhyNot.REFUSED: "the node there is stopped or listens elsewhere: ask its owner, or join through another",
    WhyNot.SILENT: "it is off, or a firewall stands between: try from another network, or join through another",
    WhyNot.HANGING: "it is overloaded or frozen: its owner should restart it; others are dialled meanwhile",
    WhyNot.HUNG_UP: "it has no room, has banned this address, or is of a private swarm whose key is not yours",
    WhyNot.GARBAGE: "another program answers at that port: check the address, above all the port",
    WhyNot.OTHER_PEER: "that node has a new identity or the address is another's: ask its owner for the address anew",
    WhyNot.WRONG_KEY: "your key of the private swarm is not theirs: ask for a new invitation",
    WhyNot.WRONG_SWARM: "set p2p.swarm to the swarm's name, or join the swarm anew by an invitation",
    WhyNot.PARTED: "it says itself why; join through another",
    WhyNot.OTHER: "look into the log of the node there, or join through another",
}
_WRONG_SWARM: Final = frozenset({WhyNot.WRONG_KEY.value, WhyNot.WRONG_SWARM.value})


def judge_route(*, ipv4: bool, ipv6: bool, peers: int, local: bool) -> Finding:
    """Judge whether this machine knows a way into the world.

    Args:
        ipv4, ipv6: whether the kernel has a route to addresses of the internet.
        peers: connected now.
        local: the node listens on this machine alone, and wants no other.
    """
    kinds = " and ".join(name for name, there in (("IPv4", ipv4), ("IPv6", ipv6)) if there)
    if kinds:
        return Finding(subject="route", verdict=Verdict.OK, finding=f"a route to the internet by {kinds}")
    finding = "no route: this machine knows no way to the internet"
    if local or peers:
        return Finding(subject="route", verdict=Verdict.OK, finding=f"{finding}, and needs none")
    remedy = "plug in the cable or join the Wi-Fi; `ip route` must show a default route (in a container: its network)"
    return Finding(subject="route", verdict=Verdict.FAILURE, finding=finding, remedy=remedy)


def judge_bootstraps(rows: Sequence[Row], *, peers: int | None) -> Iterator[Finding]:
    """Judge the nodes to join through: one finding for all of them, and one for each of which nothing comes.

    Args:
        rows: as `Bootstraps.facts` tells them.
        peers: connected now; None where no node runs, and the rows come from dialling just now.
    """
    rows = [row for row in rows if row["state"] != "ourselves"]
    if not rows:
        yield _nobody_named(peers)
        return
    places = [row for row in rows if not str(row["address"]).startswith("/dnsaddr/")]
    good = sum(row["state"] == "connected" for row in places)
    failing = [row for row in rows if row["state"] == "failing"]
    here = f"{good} of {len(places)} bootstraps {'answers' if good == 1 else 'answer'}"
    if good:
        yield Finding(subject="join", verdict=Verdict.OK, finding=here)
    elif not failing:
        yield Finding(subject="join", verdict=Verdict.OK, finding=f"{len(rows)} bootstraps, none of them tried yet")
    elif peers:
        words = f"none of {len(rows)} bootstraps answers; {peers} peers are connected all the same"
        remedy = "this node goes on; give bootstraps that live, for the day on which it knows nobody"
        yield Finding(subject="join", verdict=Verdict.WARNING, finding=words, remedy=remedy)
    else:
        words = f"none of {len(rows)} bootstraps answers, and nobody else is connected"
        remedy = "mend what is said of each below, or give another with --join; a running node keeps trying by itself"
        yield Finding(subject="join", verdict=Verdict.FAILURE, finding=words, remedy=remedy)
    if any(row["why"] in _WRONG_SWARM for row in failing):
        yield _wrong_swarm(failing)
    for row in failing:
        where = str(row["address"]).partition("/p2p/")[0]
        yield Finding(
            subject="bootstrap",
            verdict=Verdict.WARNING if good or peers else Verdict.FAILURE,
            finding=f"{where}: {row['error']}",
            remedy=REMEDIES.get(str(row["why"]), REMEDIES[WhyNot.OTHER]),
        )


def _nobody_named(peers: int | None) -> Finding:
    if peers == 0:
        remedy = "give the address that another node printed: metainf up --join ADDRESS"
        finding = "no bootstrap is named, and nobody was found on this network"
        return Finding(subject="join", verdict=Verdict.WARNING, finding=finding, remedy=remedy)
    named = "no bootstrap is named"
    finding = f"{named}; {peers} peers are connected" if peers else f"{named}: only nodes of this network are found"
    return Finding(subject="join", verdict=Verdict.OK, finding=finding)


def _wrong_swarm(failing: Sequence[Row]) -> Finding:
    key = any(row["why"] == WhyNot.WRONG_KEY for row in failing)
    what = "the key of your private swarm is not theirs" if key else "they are of another swarm than this node"
    remedy = REMEDIES[WhyNot.WRONG_KEY if key else WhyNot.WRONG_SWARM]
    return Finding(subject="swarm", verdict=Verdict.FAILURE, finding=f"the likely cause: {what}", remedy=remedy)


def judge_peer_clocks(clock: Mapping[str, Any] | None) -> Finding | None:
    """Judge this machine's clock by those of its peers; None where there is nothing to hold it against.

    Args:
        clock: the block `clock` of `metainf status --json`; None where no node runs.
    """
    if not clock or clock.get("ahead_s") is None:
        return None
    peers, ahead, tolerated = int(clock["peers"]), float(clock["ahead_s"]), float(clock["tolerated_s"])
    if abs(ahead) <= tolerated:
        finding = f"agrees with {peers} peers' to {abs(ahead):.0f} s"
        return Finding(subject="clock", verdict=Verdict.OK, finding=finding)
    way = "behind" if ahead > 0 else "ahead"
    finding = f"this machine's clock is {_span(abs(ahead))} {way}, as {peers} peers see it (the median)"
    remedy = "set the clock: timedatectl set-ntp true (in a container or virtual machine: on its host)"
    if peers < JUDGES:
        finding = f"this machine's clock and those of {peers} peers are {_span(abs(ahead))} apart; this one is {way}"
        remedy = f"compare with a watch, and set the one that is wrong; if it is this one, {remedy}"
    return Finding(subject="clock", verdict=Verdict.FAILURE, finding=finding, remedy=remedy)


def _span(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.0f} hours"


def judge_reachability(reach: Mapping[str, Any] | None) -> Iterator[Finding]:
    """Judge whether others can dial this node.

    Args:
        reach: the block `reachability` of `metainf status --json`, as far as the node tells of it: which peers came
            through when they dialled back (`seen_from`) and which did not (`not_seen_from`), by TCP; the same under
            `udp`; `mapped` and `relays` say by which other ways it is reached. None where it does not know.
    """
    if not reach:
        return
    other = _other_ways(reach)
    voices: Sequence[tuple[str, Mapping[str, Any]]] = (("TCP", reach), ("UDP", reach.get("udp") or {}))
    for name, each in voices:
        if each.get("seen_from") is None:
            continue
        through = len(each["seen_from"])
        asked = through + len(each.get("not_seen_from") or ())
        # What a node does not tell of UDP it has no use for: peers speak TCP.
        ways = other + ("" if "udp" in reach else "; UDP is not needed")
        if through:
            finding = f"seen from {through} of {asked} peers by {name}"
            yield Finding(subject="reach", verdict=Verdict.OK, finding=finding)
        elif asked < ASKED:
            yield Finding(subject="reach", verdict=Verdict.OK, finding=f"{name}: too few peers have tried to say")
        else:
            yield Finding(
                subject="reach",
                verdict=Verdict.WARNING if other else Verdict.FAILURE,
                finding=f"inbound {name} is blocked: {asked} peers dialled this node, none came through{ways}",
                remedy="forward the port at the router and open it in the firewall; p2p.announce tells a forwarded one",
            )


def _other_ways(reach: Mapping[str, Any]) -> str:
    relays: Sequence[object] = reach.get("relays") or ()
    ways = [f"mapped as {reach['mapped']}"] if reach.get("mapped") else []
    ways += [f"reached over {len(relays)} relays"] if relays else []
    return f" ({', '.join(ways)})" if ways else ""


def port_remedy(port: int, *, listens: bool) -> str:
    """Return what to do about whoever has a port for peers; `listens`: a program, not one end of a connection."""
    if listens:
        return ANOTHER_PORT
    return (
        f"start again in a minute, or end that connection; `sysctl -w net.ipv4.ip_local_reserved_ports={port}` "
        "keeps the port for listeners from then on; or give another with --listen 0.0.0.0:PORT"
    )


def judge_peer_port(*, address: str, ours: bool, holder: str | None, listens: bool, remedy: str) -> Finding:
    """Judge a port for peers.

    Args:
        ours: the node that runs here has it.
        holder: who else has it, in words; None where it is free.
        listens: whether that is a program that listens there.
        remedy: what to do about the holder.
    """
    if ours or holder is None:
        finding = f"this node listens for peers on {address}" if ours else f"{address} is free for peers"
        return Finding(subject=PEER_PORT, verdict=Verdict.OK, finding=finding)
    # One end of somebody's connection: a node that starts waits for it, so it is no more than a warning.
    verdict = Verdict.FAILURE if listens else Verdict.WARNING
    finding = f"{address}, for peers, is taken by {holder}"
    return Finding(subject=PEER_PORT, verdict=verdict, finding=finding, remedy=remedy)
