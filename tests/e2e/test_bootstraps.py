"""Daemons that join through bootstraps of which most are of no use. Real processes, real sockets; times are printed."""

import json
import os
import socket
import sys
import threading
import time
from datetime import datetime
from pathlib import Path

import psutil
import pytest

from tests.contracts.test_streams import a_peer
from tests.e2e import namespaces
from tests.e2e.bootstraps import dead_port, garbage, hanging
from tests.e2e.children import eventually, started
from tests.e2e.daemon import CHECKOUT, Daemon, metainf, running_node

pytestmark = [pytest.mark.slow, pytest.mark.daemons]

NAME_SERVER = CHECKOUT / "tests" / "fakes" / "name_server.py"
JOINED_S = 5.0  # from `ready`, at which the API answers, to the first peer
BACK_S = 25.0  # from a bootstrap's start until a node that was alone has found it: the longest pause is 20 s
PORT_FREE_S = 6.0  # until a connection gives the port back: a node on a busy machine has looked for it by then
ALONE_S = 15.0  # until a node that finds nobody says so


def join(port: int, peer: object = None) -> tuple[str, str]:
    return "--join", f"/ip4/127.0.0.1/tcp/{port}/p2p/{peer or a_peer()}"


def connected(daemon: Daemon) -> int:
    return daemon.status()["peers"]["connected"]


def joined(daemon: Daemon, *, within: float) -> float:
    """Wait until a daemon has told of a peer; return the seconds between its `ready` and that, by its own clock."""
    first = eventually(lambda: daemon.events("peer_joined"), within=within, what="a peer", children=[daemon.child])[0]
    (ready,) = daemon.events("ready")
    return _seconds(first) - _seconds(ready)


def _seconds(event: dict[str, str]) -> float:
    return datetime.fromisoformat(event["time"]).timestamp()


def test_one_good_bootstrap_of_four_is_enough_and_each_other_has_its_error(tmp_path: Path) -> None:
    with (
        running_node(tmp_path, "--bootstrap-only", name="good") as good,
        hanging() as mute,
        garbage() as nonsense,
    ):
        useless = [*join(dead_port()), *join(mute), *join(nonsense)]
        with running_node(tmp_path, "--no-engine", *useless, "--join", good.address, name="node") as node:
            took = joined(node, within=JOINED_S)
            print(f"joined {took:.2f} s after `ready` with one dead, one hanging, one garbage, one good bootstrap")
            assert took < JOINED_S

            def all_tried() -> list[dict[str, str]] | None:
                rows = node.status()["bootstraps"]
                return rows if all(row["tried_s_ago"] is not None for row in rows) else None

            rows = eventually(all_tried, within=ALONE_S, what="four bootstraps tried", children=[node.child])
            assert [row["why"] for row in rows] == ["refused", "hanging", "garbage", None]
            assert [row["state"] for row in rows] == ["failing", "failing", "failing", "connected"]
            assert node.status()["alone"] is False
            assert not node.events("alone")


def test_who_only_brings_others_together_runs_no_learner(tmp_path: Path) -> None:
    with running_node(
        tmp_path, "--bootstrap-only", extra_environment={"METAINF_LEARNER_ENABLED": "true"}
    ) as light:  # as everywhere but in this suite
        assert light.status()["learner"]["state"] == "off"
        assert psutil.Process(light.child.pid).children(recursive=True) == []


def test_a_port_that_a_connection_uses_is_waited_for_and_then_told_of(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        outgoing = socket.create_connection(server.getsockname())
        port = outgoing.getsockname()[1]
        accepted, _ = server.accept()

        def let_go() -> None:
            accepted.close()  # first: the end that closes first lingers, and this one has another port
            outgoing.close()

        later = threading.Timer(PORT_FREE_S, let_go)
        later.start()
        with running_node(tmp_path, "--no-engine", "--listen", f"127.0.0.1:{port}") as node:
            assert node.address.startswith(f"/ip4/127.0.0.1/tcp/{port}/")
            assert "port.waiting" in (node.data / "state/logs/node.log").read_text()
        later.join()


def test_a_name_stands_for_bootstraps_and_whom_it_names_is_joined(tmp_path: Path) -> None:
    """With a name server of our own, in a namespace in which every program asks it and nobody else."""
    reason = namespaces.why_not()
    if reason is not None:
        pytest.skip(reason)
    with (
        namespaces.cut_off(name_server="127.0.0.1") as place,
        running_node(tmp_path, "--bootstrap-only", name="good", wrapper=place.wrapper) as good,
        hanging() as mute,
    ):
        texts = [f"dnsaddr=/ip4/127.0.0.1/tcp/{mute}/p2p/{a_peer()}", "dnsaddr=/dnsaddr/more.example"]
        records = {"_dnsaddr.boot.example.": texts, "_dnsaddr.more.example.": [f"dnsaddr={good.address}"]}
        command = [*place.wrapper, sys.executable, str(NAME_SERVER), json.dumps(records)]
        options = ("--no-engine", "--join", "/dnsaddr/boot.example", "--join", "/dnsaddr/nobody.example")
        with started("names", command, folder=tmp_path, environment=os.environ, cwd=CHECKOUT) as names:
            eventually(names.stdout.read_text, within=ALONE_S, what="a name server", children=[names])
            with running_node(tmp_path, *options, name="node", wrapper=place.wrapper) as node:
                took = joined(node, within=JOINED_S)
                print(f"joined {took:.2f} s after `ready` through a name that refers to another")
                assert took < JOINED_S
                rows = {row["address"]: row for row in node.status()["bootstraps"]}
        assert rows["/dnsaddr/boot.example"]["state"] == "resolved"
        assert (rows[good.address]["state"], rows[good.address]["by"]) == ("connected", "/dnsaddr/boot.example")
        assert rows["/dnsaddr/nobody.example"]["why"] == "no_name"
        assert rows["/dnsaddr/nobody.example"]["error"] == "the name _dnsaddr.nobody.example does not exist"


def test_with_all_bootstraps_dead_the_peers_of_the_last_run_are_found(tmp_path: Path) -> None:
    with running_node(tmp_path, "--no-engine", name="friend") as friend:
        with running_node(tmp_path, "--no-engine", "--join", friend.address, name="node") as node:
            joined(node, within=JOINED_S)
            remembered = node.data / "peers.json"
            eventually(remembered.exists, within=ALONE_S, what="a remembered peer", children=[node.child])
        with (
            hanging() as mute,
            running_node(tmp_path, "--no-engine", *join(dead_port()), *join(mute), name="node") as again,
        ):
            took = joined(again, within=JOINED_S)
            print(f"joined {took:.2f} s after `ready` by a remembered peer, all bootstraps dead")
            assert took < JOINED_S
            status = again.status()
            assert status["remembered"] == 1
            assert status["alone"] is False
            assert list(again.peers()) == [friend.peer_id]


def test_a_node_that_finds_nobody_is_up_says_so_and_joins_by_itself_when_one_appears(tmp_path: Path) -> None:
    port = dead_port()
    listen = ("--listen", f"127.0.0.1:{port}")
    with running_node(tmp_path, "--bootstrap-only", *listen, name="late") as late:
        address = late.address
    with running_node(tmp_path, "--no-engine", "--join", address, *join(dead_port()), name="node") as node:
        (alone,) = eventually(lambda: node.events("alone"), within=ALONE_S, what="`alone`", children=[node.child])
        assert alone["alone"] is True
        assert alone["reason"].count("refused: the machine is there, and nothing listens at this port") == 2
        words = metainf(node, "status")
        assert "nobody answers yet" in words
        assert f"/ip4/127.0.0.1/tcp/{port}" in words
        assert "nothing listens at this port" in words
        logged = [json.loads(line) for line in (node.data / "state/logs/node.log").read_text().splitlines()]
        (line,) = [each for each in logged if each["event"] == "join.alone"]
        assert all("nothing listens" in reason for reason in line["bootstraps"].values())
        with running_node(tmp_path, "--bootstrap-only", *listen, name="late"):
            began = time.monotonic()
            eventually(lambda: connected(node) == 1, within=BACK_S, what="the late bootstrap", children=[node.child])
            print(f"joined {time.monotonic() - began:.2f} s after the bootstrap was up")
            assert [event["alone"] for event in node.events("alone")] == [True, False]
