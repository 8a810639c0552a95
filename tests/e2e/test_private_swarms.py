"""Private swarms of whole daemons on one machine: made, joined and parted from as a user does it.

Real processes, real sockets, the command line's own verbs. Everybody is given everybody's address, which is more than
a network would tell them.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.children import eventually
from tests.e2e.daemon import CHECKOUT, STATUS_S, Daemon, environment, metainf, node_over_stub, running_node
from tests.e2e.test_swarm import MEET_S, post, served_by, serving_peers, wait_until_known

pytestmark = [pytest.mark.slow, pytest.mark.daemons]

OUT_S = 30.0  # from a revocation's being published until nobody has anything to do with the member
APART_S = 20.0  # that those who must not meet are watched


def verb(data: Path, *arguments: str, said: str | None = None) -> dict[str, Any]:
    """Run one of `metainf swarm`'s verbs on a data folder; return what it said as JSON."""
    command = [sys.executable, "-m", "node", "swarm", *arguments, "--json", "--data-dir", str(data)]
    done = subprocess.run(
        command,
        cwd=CHECKOUT,
        env=environment(),
        input=said,
        capture_output=True,
        text=True,
        timeout=STATUS_S,
        check=False,
    )
    assert done.returncode == 0, f"metainf swarm {arguments[0]} failed: {done.stderr}"
    return json.loads(done.stdout)


@dataclass(frozen=True, slots=True, kw_only=True)
class Towns:
    """Two private swarms and the public one, each of an asker and a server; and a third of red's, to be put out."""

    red: Daemon
    red_server: Daemon
    red_third: Daemon
    blue: Daemon
    blue_server: Daemon
    public: Daemon
    public_server: Daemon

    def parts(self) -> list[set[Daemon]]:
        return [
            {self.red, self.red_server, self.red_third},
            {self.blue, self.blue_server},
            {self.public, self.public_server},
        ]


@pytest.fixture(scope="module")
def towns(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Towns]:
    folder = tmp_path_factory.mktemp("towns")
    with ExitStack() as running:
        known: list[str] = []

        def start(name: str, *, serves: bool) -> Daemon:
            joins = [word for address in known for word in ("--join", address)]
            node = (
                node_over_stub(folder, *joins, name=name)
                if serves
                else running_node(folder, "--no-engine", *joins, name=name)
            )
            daemon = running.enter_context(node)
            known.append(daemon.address)
            return daemon

        started: dict[str, Daemon] = {}
        for swarm, third in (("red", True), ("blue", False)):
            verb(folder / f"{swarm}-data", "create", swarm)
            started[swarm] = start(swarm, serves=False)
            names = [f"{swarm}_server", *([f"{swarm}_third"] if third else [])]
            for name in names:
                invited = verb(folder / f"{swarm}-data", "invite")  # the addresses are the running node's own
                verb(folder / f"{name}-data", "join", "-", said=invited["token"])
                started[name] = start(name, serves=True)
        started["public"] = start("public", serves=False)
        started["public_server"] = start("public_server", serves=True)
        yield Towns(**started)


def test_each_swarm_answers_its_own_prompts_and_hears_of_no_other(towns: Towns) -> None:
    for asker, servers in (
        (towns.red, {towns.red_server, towns.red_third}),
        (towns.blue, {towns.blue_server}),
        (towns.public, {towns.public_server}),
    ):
        wait_until_known(asker, *servers)
        assert served_by(post(asker)) in {each.peer_id for each in servers}
    deadline = time.monotonic() + APART_S
    while time.monotonic() < deadline:
        for part in towns.parts():
            ids = {each.peer_id for each in part}
            for daemon in part:
                assert set(daemon.peers()) <= ids - {daemon.peer_id}
    for part in towns.parts():
        for daemon in part:
            status = daemon.status()
            assert status["peers"] == {"connected": len(part) - 1, "known": len(part) - 1}


def test_another_key_is_told_as_the_likely_cause_once_and_in_the_status(towns: Towns) -> None:
    told = {event["address"]: event["likely_cause"] for event in towns.blue.events("other_swarm")}
    assert "its key is another one" in told[towns.red.address]
    told = {event["address"]: event["likely_cause"] for event in towns.public.events("other_swarm")}
    assert "belongs to a private one" in told[towns.red.address]
    assert "belongs to a private one" in told[towns.blue.address]
    for daemon in (towns.blue, towns.public):
        addresses = [event["address"] for event in daemon.events("other_swarm")]
        assert len(addresses) == len(set(addresses))
    assert "its key is another one" in towns.blue.status()["other_swarms"]["dialled"][towns.red.address]
    assert "its key is another one" in metainf(towns.blue, "status")
    eventually(
        lambda: towns.red.status()["other_swarms"]["strangers"] > 0, within=MEET_S, what="strangers", children=[]
    )


def test_nothing_secret_is_in_any_log(towns: Towns) -> None:
    for part in towns.parts():
        for daemon in part:
            file = daemon.data / "swarm" / "membership.json"
            if not file.exists():
                continue
            key = json.loads(file.read_text())["key"]
            texts = [each.read_text(errors="replace") for each in (daemon.data / "state" / "logs").glob("*.log")]
            texts += [daemon.child.stdout.read_text(), metainf(daemon, "config", "show"), metainf(daemon, "status")]
            assert texts
            assert not any(key in text or "metainf-join-" in text for text in texts)


def test_a_revoked_member_is_out_within_thirty_seconds(
    towns: Towns, record_property: Callable[[str, object], None]
) -> None:
    third = towns.red_third
    wait_until_known(towns.red, towns.red_server, third)
    wait_until_known(third, towns.red_server)  # it asks, too
    document = verb(towns.red.data, "members")
    assert {each["peer_id"] for each in document["members"]} == {each.peer_id for each in towns.parts()[0]}
    began = time.monotonic()
    answer = verb(towns.red.data, "revoke", third.peer_id)
    published = time.monotonic()
    assert answer["published"]
    assert third.peer_id in answer["revoked"]
    assert len(answer["revoked"]) == 2  # the invitation that it came by, too

    def out() -> bool:
        return all(third.peer_id not in daemon.peers() for daemon in (towns.red, towns.red_server))

    eventually(out, within=OUT_S, what="the revoked member gone", children=[towns.red.child])
    took = time.monotonic() - published
    record_property("seconds_to_be_out", round(took, 3))
    print(f"revoked: {published - began:.2f} s for the command, {took:.2f} s until it was seen out everywhere")
    assert took < OUT_S
    # It has nobody to ask but itself, and is asked by nobody; and it comes not back.
    assert serving_peers(towns.red) == {towns.red_server.peer_id}
    assert {served_by(post(towns.red)) for _ in range(4)} == {towns.red_server.peer_id}
    assert served_by(post(third)) == third.peer_id
    time.sleep(APART_S / 2)
    assert out()
    assert third.status()["peers"]["connected"] == 0
    # What the others were told is on their disks: they need nobody to tell them again.
    for daemon in (towns.red, towns.red_server):
        assert list((daemon.data / "swarm").glob("*.revocations"))
