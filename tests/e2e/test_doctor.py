"""`metainf doctor` beside real daemons in which a cause was planted for real: it names that cause, and what to do."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.contracts.test_streams import a_peer
from tests.e2e import namespaces, routers
from tests.e2e.bootstraps import dead_port, hanging
from tests.e2e.children import eventually
from tests.e2e.daemon import CHECKOUT, Daemon, environment, running_node

pytestmark = [pytest.mark.slow, pytest.mark.daemons]

SEEN_S = 20.0  # until a daemon knows what is wrong: a dial takes 5 s at most, a greeting as long
TEN_MINUTES = 600


def doctor(data: Path, *options: str, wrapper: Sequence[str] = ()) -> dict[str, list[dict[str, Any]]]:
    """Run it as a person does; return its findings by subject."""
    command = [*wrapper, sys.executable, "-m", "node", "doctor", "--json", "--data-dir", str(data), *options]
    done = subprocess.run(
        command, cwd=CHECKOUT, env=environment(), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode in (0, 1), done.stderr
    found: dict[str, list[dict[str, Any]]] = {}
    for each in json.loads(done.stdout)["findings"]:
        assert bool(each["remedy"]) == (each["verdict"] != "ok")
        found.setdefault(each["subject"], []).append(each)
    return found


def join(port: int) -> tuple[str, str]:
    return "--join", f"/ip4/127.0.0.1/tcp/{port}/p2p/{a_peer()}"


def until_tried(node: Daemon) -> None:
    """Wait until something is known of every bootstrap."""

    def tried() -> bool:
        rows = node.status()["bootstraps"]
        return all(row["state"] in ("connected", "failing") for row in rows)

    eventually(tried, within=SEEN_S, what="every bootstrap tried", children=[node.child])


def test_all_bootstraps_dead(tmp_path: Path) -> None:
    with running_node(tmp_path, "--no-engine", *join(dead_port()), *join(dead_port()), name="node") as node:
        until_tried(node)
        found = doctor(node.data)
        assert found["join"][0]["verdict"] == "failure"
        assert "none of 2 bootstraps answers, and nobody else is connected" in found["join"][0]["finding"]
        assert len(found["bootstrap"]) == 2
        assert all("refused" in each["finding"] for each in found["bootstrap"])


def test_one_bootstrap_hanging(tmp_path: Path) -> None:
    with (
        hanging() as mute,
        running_node(tmp_path, "--bootstrap-only", name="good") as good,
        running_node(tmp_path, "--no-engine", *join(mute), "--join", good.address, name="node") as node,
    ):
        until_tried(node)
        found = doctor(node.data)
        assert found["join"][0]["verdict"] == "ok"
        (named,) = found["bootstrap"]
        assert named["finding"].startswith(f"/ip4/127.0.0.1/tcp/{mute}: it hangs")
        assert "restart it" in named["remedy"]


def test_a_bootstrap_of_another_swarm(tmp_path: Path) -> None:
    with (
        running_node(tmp_path, "--bootstrap-only", name="theirs", config='[p2p]\nswarm = "theirs"\n') as theirs,
        running_node(tmp_path, "--no-engine", "--join", theirs.address, name="node") as node,
    ):
        until_tried(node)
        eventually(lambda: node.status()["alone"], within=SEEN_S, what="a node that is alone", children=[node.child])
        (swarm,) = doctor(node.data)["swarm"]
        assert swarm["verdict"] == "failure"
        assert "of another swarm" in swarm["finding"]


@contextmanager
def skewed_node(folder: Path, seconds: int, *options: str) -> Iterator[Daemon]:
    """Start a node whose clock is so far ahead."""
    script = str(Path(__file__).parent / "skewed.py")
    # It becomes the command that it is given to, without the interpreter's own "-m node".
    wrapper = ("sh", "-c", f'exec "$0" {script} {seconds} "${{@:3}}"')
    with running_node(folder, *options, name="skewed", wrapper=("bash", *wrapper[1:])) as daemon:
        yield daemon


def test_a_clock_ten_minutes_off_is_told_by_the_peers(tmp_path: Path) -> None:
    with ExitStack() as running:
        first = running.enter_context(running_node(tmp_path, "--bootstrap-only", name="a"))
        others = [
            running.enter_context(running_node(tmp_path, "--no-engine", "--join", first.address, name=name))
            for name in "bc"
        ]
        joins = [word for each in (first, *others) for word in ("--join", each.address)]
        wrong = running.enter_context(skewed_node(tmp_path, TEN_MINUTES, "--no-engine", *joins))
        eventually(
            lambda: wrong.status()["clock"]["peers"] == 3, within=SEEN_S, what="three peers", children=[wrong.child]
        )
        (clock,) = doctor(wrong.data)["clock"]
        assert clock["verdict"] == "failure"
        assert clock["finding"] == "this machine's clock is 10 minutes ahead, as 3 peers see it (the median)"
        assert "timedatectl" in clock["remedy"]
        # Of those whose clocks are right, none blames its own: most of its peers agree with it.
        (right,) = doctor(first.data)["clock"]
        assert right["verdict"] == "ok"


def test_a_node_that_hangs(tmp_path: Path) -> None:
    with running_node(tmp_path, "--no-engine", name="node") as node:
        assert doctor(node.data)["node"][0]["verdict"] == "ok"
        node.signal(signal.SIGSTOP)
        try:
            (named,) = doctor(node.data)["node"]
        finally:
            node.signal(signal.SIGCONT)
        assert named["verdict"] == "failure"
        assert f"pid {node.child.pid}) and does not answer" in named["finding"]


def test_inbound_blocked(tmp_path: Path) -> None:
    """A firewall of the kernel's that lets nothing in but answers: whoever dials the node is not heard."""
    reason = namespaces.why_not() or routers.why_not()
    if reason is not None:
        pytest.skip(reason)
    rules = """
        table inet wall {
          chain in {
            type filter hook input priority 0; policy drop;
            iif lo accept; ct state established,related accept;
          }
        }
    """
    with namespaces.two_halves(3, 1) as network, ExitStack() as running:
        (walled,) = network.west
        command = [*walled.wrapper, "nft", "-f", "-"]
        subprocess.run(command, input=rules, text=True, timeout=10, check=True)
        friends = [
            running.enter_context(
                running_node(
                    tmp_path,
                    *("--bootstrap-only", "--listen", f"{place.ip}:47470"),
                    name=f"friend{number}",
                    wrapper=place.wrapper,
                )
            )
            for number, place in enumerate(network.east)
        ]
        joins = [word for friend in friends for word in ("--join", friend.address)]
        options = ("--no-engine", "--listen", f"{walled.ip}:47470", *joins)
        node = running.enter_context(running_node(tmp_path, *options, name="walled", wrapper=walled.wrapper))

        def told() -> bool:
            return len(node.status()["reachability"]["not_seen_from"]) == len(friends)

        eventually(told, within=3 * SEEN_S, what="what three peers saw", children=[node.child])
        (named,) = doctor(node.data, wrapper=walled.wrapper)["reach"]
        assert "inbound TCP is blocked: 3 peers dialled this node, none came through" in named["finding"]
        assert "UDP is not needed" in named["finding"]
        assert "forward the port" in named["remedy"]
        (open_one,) = doctor(friends[0].data, wrapper=network.east[0].wrapper)["reach"]
        assert open_one["verdict"] == "ok"


def test_no_route(tmp_path: Path) -> None:
    """A namespace with nothing but its own loopback: a machine whose cable was pulled."""
    reason = namespaces.why_not()
    if reason is not None:
        pytest.skip(reason)
    with namespaces.cut_off() as place:
        address = f"/ip4/192.0.2.1/tcp/47470/p2p/{a_peer()}"
        options = ("--no-engine", "--join", address, "--listen", "0.0.0.0:0")
        with running_node(tmp_path, *options, name="node", wrapper=place.wrapper) as node:
            until_tried(node)
            found = doctor(node.data, wrapper=place.wrapper)
        assert found["route"][0]["verdict"] == "failure"
        assert "no route" in found["route"][0]["finding"]
        assert "ip route" in found["route"][0]["remedy"]
        (named,) = found["bootstrap"]
        assert "no route" in named["finding"]
        without = doctor(tmp_path / "nobody", "--join", address, wrapper=place.wrapper)  # and where no node runs
        assert without["route"][0]["verdict"] == "failure"
        assert "no route" in without["bootstrap"][0]["finding"]
