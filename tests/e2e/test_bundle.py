"""`metainf bundle` of a real node that has been used: whatever is secret or was said is in none of its files."""

import json
import re
import subprocess
import sys
import tarfile
from ipaddress import ip_address
from pathlib import Path

import httpx2
import pytest

from tests.contracts.test_streams import a_peer
from tests.e2e.children import eventually
from tests.e2e.daemon import CHECKOUT, NODE_KEY, Daemon, environment, key_section, metainf, node_over_stub
from tests.fakes.stub_launch import MODEL

pytestmark = [pytest.mark.slow, pytest.mark.daemons]

PROMPT = "the-diary-of-a-person-nobody-else-may-read"
URL_KEY = "key-of-an-upstream-server"
TOKEN = "hub-token-from-the-environment"  # noqa: S105 -- planted, to be looked for
SWARM_KEY = "swarm-key-of-a-few-words"
HOST, NAME = "198.51.100.7", "private-name.example.org"


def packed(daemon: Daemon, folder: Path, *options: str) -> dict[str, str]:
    """Pack a report of a node; return its files by name."""
    file = folder / f"report{len(options)}.tar.gz"
    command = [sys.executable, "-m", "node", "bundle", "--out", str(file), "--data-dir", str(daemon.data), *options]
    done = subprocess.run(
        [*command, "--config", str(folder / "node.toml"), "--offline"],
        cwd=CHECKOUT,
        env=environment() | {"HF_TOKEN": TOKEN},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert str(file) in done.stdout
    assert file.stat().st_mode & 0o777 == 0o600
    with tarfile.open(file) as archive:
        found = {member.name.partition("/")[2]: archive.extractfile(member) for member in archive.getmembers()}
        texts = {name: content.read().decode() for name, content in found.items() if content is not None}
    assert all(name in done.stdout for name in texts if name != "README.txt")  # it says what is in it
    assert all(name in texts["README.txt"] for name in texts if name != "README.txt")
    return texts


def test_a_report_helps_and_tells_nothing_that_is_nobody_s_business(tmp_path: Path) -> None:
    config = f'[p2p]\njoin = ["/ip4/{HOST}/tcp/1/p2p/{a_peer()}", "/dns/{NAME}/tcp/1/p2p/{a_peer()}"]\n'
    config += f'[log]\nlevel = "debug"\nrequests = true\n{key_section("suite", NODE_KEY)}'
    with node_over_stub(tmp_path, config=config, engine=f'url_key = "{URL_KEY}"\n') as node:
        node.wait_for_engine(within=60)
        key = metainf(node, "api-key", "add", "phone").strip()
        answer = httpx2.post(
            f"{node.url}/v1/completions",
            json={"model": MODEL, "prompt": PROMPT, "max_tokens": 2},
            headers={"authorization": f"Bearer {NODE_KEY}"},
            timeout=60,
        )
        assert answer.status_code == 200
        eventually(lambda: node.status()["requests"]["served"] >= 1, within=10, what="a served prompt")
        (node.data / "swarm").mkdir()  # what a private swarm's files may look like
        (node.data / "swarm" / "lab.administrator.pem").write_text(json.dumps({"key": SWARM_KEY, "of": node.peer_id}))
        identity = (node.data / "identity.pem").read_text().splitlines()[1]
        # What no log should ever hold, in case one does.
        log = node.data / "state" / "logs" / "node.log"
        with log.open("a") as opened:
            said = {
                "event": "planted",
                "prompt": PROMPT,
                "reason": f"{identity} {key} {TOKEN} {SWARM_KEY} Bearer {NODE_KEY}",
            }
            opened.write(json.dumps(said | {"exception": f"ValueError: {PROMPT}"}) + "\n")
            opened.write(f"no event at all: {PROMPT}\n")
        (node.data / "state" / "logs" / "engine.log").write_text(f"prompt: {PROMPT} key {URL_KEY}\n")
        texts = packed(node, tmp_path)
        with_addresses = packed(node, tmp_path, "--addresses", "--engine-log")
    names = {"README.txt", "versions.json", "doctor.json", "config.json", "status.json", "peers.json", "node.log"}
    assert set(texts) == names
    assert set(with_addresses) == names | {"engine.log"}
    for name, text in texts.items():
        for secret in (PROMPT, identity, key, TOKEN, SWARM_KEY, NODE_KEY, URL_KEY, HOST, NAME):
            assert secret not in text, f"{secret} is in {name}"
        assert "PRIVATE KEY" not in text
        for found in re.findall(r"\d+\.\d+\.\d+\.\d+", text):
            assert ip_address(found).is_loopback or ip_address(found).is_unspecified, f"{found} is in {name}"
    everything = "".join(with_addresses.values())
    assert HOST in everything
    assert NAME in everything
    for secret in (identity, key, TOKEN, SWARM_KEY, NODE_KEY, URL_KEY):
        assert secret not in everything
    # And what helps is there.
    assert json.loads(texts["status.json"])["peer_id"] == node.peer_id
    assert json.loads(texts["config.json"])["engine.served_name"]["value"] == MODEL
    assert json.loads(texts["versions.json"])["packages"]["libp2p"]
    assert {each["subject"] for each in json.loads(texts["doctor.json"])["findings"]} >= {"join", "disk", "clock"}
    events = [json.loads(line) for line in texts["node.log"].splitlines()]
    assert any(event["event"] == "identity.made" for event in events)
    assert events[-1]["event"] == "planted"


def test_a_report_is_packed_where_no_node_runs_and_never_over_another_file(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "node", "bundle", "--offline", "--data-dir", str(tmp_path / "none")]
    file = tmp_path / "report.tar.gz"
    for code in (0, 69):
        done = subprocess.run(
            [*command, "--out", str(file), "--json"],
            cwd=CHECKOUT,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == code, done.stderr
    assert "is there already" in done.stderr
    with tarfile.open(file) as archive:
        assert "metainf-bundle/doctor.json" in archive.getnames()
