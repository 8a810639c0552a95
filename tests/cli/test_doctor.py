"""`metainf doctor`, with a node and without: each planted cause is named, with what to do about it."""

import json
import os
import socket
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from node.adapters import system
from node.adapters.keystore import load_or_create
from node.core.calibration import SLOWER
from node.core.experience import Experience
from node.http.routing import routing_facts
from tests.cli.conftest import CannedNode
from tests.cli.test_talk import STATUS
from tests.contracts.test_streams import a_peer
from tests.e2e.bootstraps import dead_port, garbage, hanging
from tests.e2e.daemon import CHECKOUT, environment, running_node
from tests.fakes.account_book import FakeAccounts

Metainf = Callable[..., tuple[int, str, str]]


def test_forecasts_that_have_drifted_are_a_warning_with_something_to_do(
    canned_node: CannedNode, metainf: Metainf
) -> None:
    experience = Experience(key=bytes(16))

    def found() -> dict[str, Any]:
        facts = routing_facts(experience, FakeAccounts(), resumed=0, clock=lambda: 300.0)
        canned_node.answer("GET", "/status", STATUS | {"routing": facts})
        findings = json.loads(metainf("doctor", "--json")[1])["findings"]
        return next(each for each in findings if each["subject"] == "forecasts")

    assert found()["verdict"] == "ok"
    for _ in range(60):
        experience.ttft.add(0.5, 0.001, 0.0)
    drifted = found()
    assert (drifted["verdict"], drifted["remedy"]) == ("warning", SLOWER)
    assert drifted["finding"] == "TTFT is 1.65 times what is foretold, 0% in 90 % intervals, for 5 min"


def test_without_a_swarm_there_is_nothing_to_find(canned_node: CannedNode, metainf: Metainf) -> None:
    canned_node.answer("GET", "/status", STATUS)  # no block of routing
    findings = json.loads(metainf("doctor", "--json")[1])["findings"]
    assert [each["verdict"] for each in findings if each["subject"] == "forecasts"] == ["ok"]


def findings_of(metainf: Metainf, *arguments: str) -> tuple[int, dict[str, list[dict[str, str]]]]:
    code, out, err = metainf("doctor", "--json", *arguments)
    assert err == ""
    document = json.loads(out)
    assert document["ok"] == (code == 0) == all(each["verdict"] == "ok" for each in document["findings"])
    by_subject: dict[str, list[dict[str, str]]] = {}
    for each in document["findings"]:
        assert bool(each["remedy"]) == (each["verdict"] != "ok")
        by_subject.setdefault(each["subject"], []).append(each)
    return code, by_subject


@pytest.mark.slow
def test_taken_ports_are_named_with_who_has_them(metainf: Metainf, data_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as api, socket.create_server(("127.0.0.1", 0)) as swarm:
        ports = [each.getsockname()[1] for each in (api, swarm)]
        data_dir.mkdir()
        (data_dir / "config.toml").write_text(
            f'version = 1\n[api]\nbind = "127.0.0.1:{ports[0]}"\n[p2p]\nlisten = ["127.0.0.1:{ports[1]}"]\n'
        )
        code, found = findings_of(metainf)
    assert code == 1
    for subject, option in (("port", "--http"), ("peer port", "--listen")):
        (taken,) = found[subject]
        assert taken["verdict"] == "failure"
        assert f"pid {os.getpid()}" in taken["finding"]
        assert option in taken["remedy"]


@pytest.mark.slow
def test_a_port_that_a_connection_uses_is_told_from_one_that_is_listened_at(metainf: Metainf, data_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as outgoing:
        port = outgoing.getsockname()[1]
        data_dir.mkdir()
        (data_dir / "config.toml").write_text(f'version = 1\n[p2p]\nlisten = ["0.0.0.0:{port}"]\n')
        _, found = findings_of(metainf)
    (taken,) = found["peer port"]
    assert taken["verdict"] == "warning"
    assert "not by a listener" in taken["finding"]
    assert "ip_local_reserved_ports" in taken["remedy"]


def test_a_port_that_is_none_is_a_finding_and_no_traceback(metainf: Metainf, data_dir: Path) -> None:
    data_dir.mkdir()
    (data_dir / "config.toml").write_text('version = 1\n[p2p]\nlisten = ["0.0.0.0:99999"]\n')
    _, found = findings_of(metainf, "--offline")
    assert "no TCP port" in found["peer port"][0]["finding"]


def test_a_folder_that_holds_no_model_and_one_that_is_not_there(metainf: Metainf, data_dir: Path) -> None:
    data_dir.mkdir()
    for model, words in ((data_dir / "none", "there is no folder"), (data_dir, "holds no config.json")):
        (data_dir / "config.toml").write_text(f'version = 1\n[engine]\nmodel = "{model}"\n')
        _, found = findings_of(metainf, "--offline")
        assert found["engine"][0]["verdict"] == "failure"
        assert words in found["engine"][0]["finding"]
        assert "--model" in found["engine"][0]["remedy"]


def test_an_engine_s_environment_without_vllm_is_named(metainf: Metainf, data_dir: Path, tmp_path: Path) -> None:
    python = tmp_path / "venv" / "bin" / "python"
    venv.create(tmp_path / "venv", with_pip=False)  # a real interpreter, and nothing installed for it
    data_dir.mkdir()
    (data_dir / "config.toml").write_text(f'version = 1\n[engine]\npython = "{python}"\n')
    _, found = findings_of(metainf, "--offline")
    assert found["engine"][0]["finding"] == f"vLLM is not installed for {python}"
    assert "deploy/run" in found["engine"][0]["remedy"]


@pytest.mark.slow
def test_a_full_disk_is_named(metainf: Metainf, data_dir: Path) -> None:
    data_dir.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(data_dir)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no small disk can be had here: {mounted.stderr.strip()}")
    try:
        _, found = findings_of(metainf, "--offline")
        assert found["disk"][0]["verdict"] == "failure"
        assert f"the disk is full: 0.0 GB free at {data_dir}" in found["disk"][0]["finding"]
        assert "--data-dir" in found["disk"][0]["remedy"]
        (data_dir / "config.toml").write_text("version = 1\n[engine]\nenabled = false\n")
        _, found = findings_of(metainf, "--offline")
        assert "0.3 GB are wanted" in found["disk"][0]["finding"]
    finally:
        subprocess.run(["umount", str(data_dir)], check=True)


def test_a_gpu_whose_driver_is_missing_is_named(
    metainf: Metainf, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A folder in the form of /sys stands in for a machine with such a card: there is none to be had for every run."""
    for name, vendor, kind in (("gpu", "0x10de", "0x030200"), ("audio", "0x10de", "0x040300"), ("nic", "0x15b3", "0x")):
        device = tmp_path / "sys/bus/pci/devices" / name
        device.mkdir(parents=True)
        (device / "vendor").write_text(f"{vendor}\n")
        (device / "class").write_text(f"{kind}\n")
    assert system.nvidia_hardware(tmp_path) == (1, False)
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    (tmp_path / "proc/driver/nvidia/version").write_text("NVRM version\n")
    assert system.nvidia_hardware(tmp_path) == (1, True)
    if system.nvidia_hardware() != (0, False):
        pytest.skip("this machine has such a card itself")
    monkeypatch.setattr(system, "nvidia_hardware", lambda: (1, False))
    _, found = findings_of(metainf, "--offline")
    assert found["gpu"][0]["verdict"] == "failure"
    assert "driver is missing: 1 NVIDIA GPU built in" in found["gpu"][0]["finding"]


def test_an_identity_that_others_may_read_is_named_and_mended_as_is_said(metainf: Metainf, data_dir: Path) -> None:
    file = data_dir / "identity.pem"
    load_or_create(file)
    file.chmod(0o640)
    code, found = findings_of(metainf, "--offline")
    assert code == 1
    assert "other users of this machine can read" in found["identity"][0]["finding"]
    command = found["identity"][0]["remedy"].partition(";")[0]
    subprocess.run(command.split(), check=True)
    assert findings_of(metainf, "--offline")[1]["identity"][0]["verdict"] == "ok"


@pytest.mark.slow
@pytest.mark.libp2p
def test_without_a_node_the_bootstraps_are_dialled_and_each_is_named(data_dir: Path, tmp_path: Path) -> None:
    """In a process of its own, as a person runs it: it starts a loop and a transport."""

    def doctor(*addresses: str) -> tuple[int, list[dict[str, str]]]:
        joins = [argument for address in addresses for argument in ("--join", address)]
        command = [sys.executable, "-m", "node", "doctor", "--json", "--data-dir", str(data_dir), *joins]
        done = subprocess.run(
            command, cwd=CHECKOUT, env=environment(), capture_output=True, text=True, timeout=60, check=False
        )
        return done.returncode, json.loads(done.stdout)["findings"]

    def at(port: int) -> str:
        return f"/ip4/127.0.0.1/tcp/{port}/p2p/{a_peer()}"

    with hanging() as mute, garbage() as nonsense, running_node(tmp_path, "--bootstrap-only", name="good") as good:
        code, found = doctor(at(dead_port()), at(mute), at(nonsense), good.address)
        assert code == 1
        assert [each["finding"] for each in found if each["subject"] == "join"] == ["1 of 4 bootstraps answers"]
        named = [each["finding"] for each in found if each["subject"] == "bootstrap"]
        assert [words.partition(": ")[2].split(":")[0] for words in named] == [
            "refused",
            "it hangs",
            "what answers is no node",
        ]
        code, found = doctor(at(dead_port()), at(mute))
        (join,) = [each for each in found if each["subject"] == "join"]
        assert join["verdict"] == "failure"
        assert "none of 2 bootstraps answers" in join["finding"]


def test_blocked_inbound_and_a_wrong_key_are_named_from_what_the_node_tells(
    canned_node: CannedNode, metainf: Metainf
) -> None:
    failing = {"state": "failing", "by": None, "failures": 3, "tried_s_ago": 1.0, "well_s_ago": None}
    rows = [{"address": "/ip4/192.0.2.1/tcp/1/p2p/12D3", "why": "wrong_key", "error": "the handshake fails", **failing}]
    blocked = {"seen_from": [], "not_seen_from": ["A", "B", "C"]}
    reach = {"verdict": "private", **blocked, "udp": blocked}
    canned_node.answer("GET", "/status", STATUS | {"bootstraps": rows, "reachability": reach, "alone": True})
    _, found = findings_of(metainf)
    assert [each["verdict"] for each in found["reach"]] == ["failure", "failure"]
    assert "inbound TCP is blocked" in found["reach"][0]["finding"]
    assert "key of your private swarm is not theirs" in found["swarm"][0]["finding"]
