"""Each planted cause in the network is named, and comes with something to do; a healthy network is told so."""

from typing import Any

import pytest

from node.core.findings import Finding, Verdict, judge_disk, judge_gpu
from node.core.network_findings import (
    REMEDIES,
    judge_bootstraps,
    judge_peer_clocks,
    judge_peer_port,
    judge_reachability,
    judge_route,
    port_remedy,
)
from node.errors import WhyNot


def row(state: str, why: WhyNot | None = None, error: str | None = None, address: str = "a") -> dict[str, Any]:
    address = f"/dns/{address}.example/tcp/47470/p2p/12D3"
    return {"address": address, "state": state, "why": None if why is None else why.value, "error": error}


def bad(findings: list[Finding]) -> list[tuple[str, Verdict]]:
    assert all(bool(finding.remedy) == (finding.verdict is not Verdict.OK) for finding in findings)
    return [(finding.subject, finding.verdict) for finding in findings if finding.verdict is not Verdict.OK]


def seen(by: str, not_by: str) -> dict[str, Any]:
    """Return what a node tells of who came through to it; a letter is a peer."""
    return {"seen_from": list(by), "not_seen_from": list(not_by)}


GOOD, HANGING = row("connected"), row("failing", WhyNot.HANGING, "it hangs", "b")
DEAD = row("failing", WhyNot.REFUSED, "refused", "c")


def test_a_healthy_network_has_nothing_to_do() -> None:
    findings = [
        judge_route(ipv4=True, ipv6=False, peers=0, local=False),
        judge_route(ipv4=False, ipv6=False, peers=0, local=True),
        judge_route(ipv4=False, ipv6=False, peers=3, local=False),
        *judge_bootstraps([GOOD, row("ourselves"), row("waiting")], peers=1),
        *judge_bootstraps([row("waiting")], peers=0),
        *judge_bootstraps([], peers=None),
        *judge_bootstraps([row("ourselves")], peers=2),
        *judge_reachability(None),
        *judge_reachability({"verdict": "unknown", "seen_from": [], "not_seen_from": []}),
        *judge_reachability({"seen_from": [], "not_seen_from": ["A"]}),
        *judge_reachability({**seen("ABC", "DE"), "udp": seen("A", "BCDE")}),
        judge_peer_port(address="0.0.0.0:47470", ours=True, holder=None, listens=False, remedy=""),
        judge_peer_port(address="0.0.0.0:47470", ours=False, holder=None, listens=False, remedy=""),
    ]
    clock = judge_peer_clocks({"peers": 2, "ahead_s": -3.0, "disagreeing": 0, "tolerated_s": 300.0})
    assert clock is not None
    assert bad([*findings, clock]) == []
    assert judge_peer_clocks(None) is None
    assert judge_peer_clocks({"peers": 0, "ahead_s": None, "disagreeing": 0, "tolerated_s": 300.0}) is None


def test_no_route_is_the_cause_and_the_bootstraps_its_consequence() -> None:
    route = judge_route(ipv4=False, ipv6=False, peers=0, local=False)
    assert route.verdict is Verdict.FAILURE
    assert "no route" in route.finding
    rows = [row("failing", WhyNot.NO_ROUTE, "no route"), row("failing", WhyNot.NO_NAME, "stands for no address")]
    assert (
        bad(list(judge_bootstraps(rows, peers=0))) == [("join", Verdict.FAILURE)] + [("bootstrap", Verdict.FAILURE)] * 2
    )


def test_one_hanging_bootstrap_is_named_although_the_node_has_joined() -> None:
    findings = list(judge_bootstraps([GOOD, HANGING], peers=4))
    assert bad(findings) == [("bootstrap", Verdict.WARNING)]
    assert findings[0].finding == "1 of 2 bootstraps answers"
    assert findings[1].finding == "/dns/b.example/tcp/47470: it hangs"
    assert findings[1].remedy == REMEDIES[WhyNot.HANGING]


def test_all_bootstraps_dead_is_a_failure_and_less_than_one_while_there_is_company() -> None:
    assert bad(list(judge_bootstraps([DEAD, HANGING], peers=0)))[0] == ("join", Verdict.FAILURE)
    assert bad(list(judge_bootstraps([DEAD, HANGING], peers=None)))[0] == ("join", Verdict.FAILURE)
    assert {verdict for _, verdict in bad(list(judge_bootstraps([DEAD], peers=2)))} == {Verdict.WARNING}
    assert bad(list(judge_bootstraps([], peers=0))) == [("join", Verdict.WARNING)]


@pytest.mark.parametrize(
    ("why", "cause"), [(WhyNot.WRONG_KEY, "the key of your private swarm"), (WhyNot.WRONG_SWARM, "of another swarm")]
)
def test_a_wrong_key_is_told_as_the_likely_cause(why: WhyNot, cause: str) -> None:
    findings = list(judge_bootstraps([row("failing", why, "parted"), DEAD], peers=0))
    (swarm,) = [finding for finding in findings if finding.subject == "swarm"]
    assert swarm.verdict is Verdict.FAILURE
    assert "likely cause" in swarm.finding
    assert cause in swarm.finding
    assert swarm.remedy == REMEDIES[why]


def test_every_reason_has_its_remedy() -> None:
    assert set(REMEDIES) == set(WhyNot)


@pytest.mark.parametrize(
    ("peers", "ahead", "words"),
    [
        (5, 600.0, "this machine's clock is 10 minutes behind, as 5 peers see it"),
        (3, -36_000.0, "10 hours ahead"),
        (1, -600.0, "1 peers are 10 minutes apart; this one is ahead"),
    ],
)
def test_a_clock_that_peers_see_apart_is_named(peers: int, ahead: float, words: str) -> None:
    facts = {"peers": peers, "ahead_s": ahead, "disagreeing": peers, "tolerated_s": 300.0}
    finding = judge_peer_clocks(facts)
    assert finding is not None
    assert finding.verdict is Verdict.FAILURE
    assert words in finding.finding
    assert "set" in finding.remedy


def test_blocked_inbound_is_named_by_protocol_and_weighs_less_where_there_is_another_way() -> None:
    tcp, udp = judge_reachability({**seen("", "ABCD"), "udp": seen("", "ABCD")})
    assert "inbound TCP is blocked: 4 peers" in tcp.finding
    assert "inbound UDP is blocked" in udp.finding
    assert bad([tcp, udp]) == [("reach", Verdict.FAILURE)] * 2
    (relayed,) = judge_reachability({**seen("", "ABCD"), "relays": [{"peer_id": "R"}], "mapped": None})
    assert relayed.verdict is Verdict.WARNING
    assert "over 1 relays" in relayed.finding


def test_who_has_the_port_decides_what_to_do() -> None:
    listener = judge_peer_port(
        address=":1", ours=False, holder="nginx, pid 8", listens=True, remedy=port_remedy(1, listens=True)
    )
    passing = judge_peer_port(
        address=":1", ours=False, holder="a connection", listens=False, remedy=port_remedy(1, listens=False)
    )
    assert (listener.verdict, passing.verdict) == (Verdict.FAILURE, Verdict.WARNING)
    assert "nginx, pid 8" in listener.finding
    assert "ip_local_reserved_ports=1" in passing.remedy


def test_a_gpu_without_its_driver_is_no_machine_without_a_gpu() -> None:
    trouble = "no NVIDIA driver on this machine"
    missing = judge_gpu(gpus=(), driver="", trouble=trouble, built_in=2)
    container = judge_gpu(gpus=(), driver="", trouble=trouble, built_in=1, loaded=True)
    assert (missing.verdict, container.verdict) == (Verdict.FAILURE, Verdict.FAILURE)
    assert "2 NVIDIA GPUs built in" in missing.finding
    assert "--gpus all" in container.remedy


def test_a_node_without_an_engine_wants_less_disk() -> None:
    assert judge_disk(free=1 << 30, place="/d", engine=False).verdict is Verdict.OK
    assert judge_disk(free=1 << 30, place="/d").verdict is Verdict.FAILURE
    assert "the disk is full" in judge_disk(free=1 << 20, place="/d", engine=False).finding
