"""A node started as a user starts it, `python -m node up`, and what its JSON events say.

Knows the command line and the names of the events (docs: contracts), nothing of the node's inside.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from tests.e2e.children import Child, eventually, started, tails
from tests.fakes.stub_launch import MODEL, STUB

# Of the clients of the suite's nodes; long enough not to be refused as a key that everybody knows.
NODE_KEY = "key-of-the-node-in-the-suite"
CHECKOUT = Path(__file__).parents[2]
API_S = 60.0  # from the start to `ready`, which waits for no engine: imports on a busy machine
STATUS_S = 30.0  # for `status`: a fresh interpreter and one question


@dataclass(frozen=True, slots=True, kw_only=True)
class Daemon:
    """A running node."""

    child: Child
    url: str  # the API's root, without /v1
    data: Path

    def events(self, name: str) -> list[dict[str, Any]]:
        """The events of one name so far, oldest first."""
        return [event for event in _events(self.child) if event["event"] == name]

    def engine_states(self) -> list[str]:
        """The states that its engine has been in, in order."""
        return [event["state"] for event in self.events("engine_state")]

    def wait_for_engine(self, *, within: float, starts: int = 1) -> None:
        """Wait until the engine has become ready for the `starts`-th time."""
        eventually(
            lambda: self.engine_states().count("ready") >= starts,
            within=within,
            what=f"engine ready ({starts}.)",
            children=[self.child],
        )

    def status(self) -> dict[str, Any]:
        """What `metainf status --json` says."""
        return json.loads(metainf(self, "status", "--json"))

    def peers(self) -> dict[str, dict[str, Any]]:
        """What `metainf peers --json` says, by peer id."""
        return {peer["peer_id"]: peer for peer in json.loads(metainf(self, "peers", "--json"))["peers"]}

    @property
    def peer_id(self) -> str:
        """Its peer id."""
        return str(self.events("ready")[0]["peer_id"])

    @property
    def address(self) -> str:
        """The address that others join by."""
        return str(self.events("ready")[0]["addresses"][0])

    def metrics(self, *, key: str | None = None) -> str:
        """Its metrics page, the engine's own metrics on it."""
        headers = {"authorization": f"Bearer {key}"} if key else {}
        answer = httpx2.get(f"{self.url}/metrics", headers=headers, timeout=STATUS_S)
        assert answer.status_code == 200, f"{answer.status_code}: {answer.text}"
        return answer.text

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the node alone, as a service manager's `kill` would."""
        os.kill(self.child.pid, number)


@contextmanager
def running_node(
    folder: Path,
    *options: str,
    config: str = "",
    name: str = "node",
    extra_environment: dict[str, str] | None = None,
    wrapper: Sequence[str] = (),
) -> Iterator[Daemon]:
    """Start a node; enter when its API answers (its engine may still be loading).

    Args:
        folder: for its logs and its data.
        options: of `up`, beside those for places and events.
        config: TOML, after its line `version = 1`.
        wrapper: what its command is given to; it becomes that command, as `ip netns exec NAME` does.
    """
    data = folder / f"{name}-data"
    file = folder / f"{name}.toml"
    file.write_text(f"version = 1\n{config}")
    places = ["--config", str(file), "--data-dir", str(data), "--http", "127.0.0.1:0"]
    command = [*wrapper, sys.executable, "-m", "node", "up", "--yes", "--json-events", *places, *options]
    variables = environment() | (extra_environment or {})
    with started(name, command, folder=folder, environment=variables, cwd=CHECKOUT) as child:
        ready = eventually(lambda: _first(child, "ready"), within=API_S, what="`ready`", children=[child])
        yield Daemon(child=child, url=_root(ready["api_url"]), data=data)


@contextmanager
def node_over_stub(
    folder: Path,
    *options: str,
    config: str = "",
    engine: str = "",
    name: str = "node",
    wrapper: Sequence[str] = (),
    **wrong: Any,
) -> Iterator[Daemon]:
    """Start a node whose engine is the stub, doing `wrong`. `engine` adds lines to its [engine] table."""
    model = folder / "model"
    model.mkdir(exist_ok=True)
    (model / "config.json").write_text("{}")
    command = [sys.executable, "-I", str(STUB), "--stub", json.dumps(wrong)]
    text = f'[engine]\nmodel = "{model}"\nserved_name = "{MODEL}"\ncommand = {json.dumps(command)}\n{engine}\n{config}'
    with running_node(folder, *options, config=text, name=name, wrapper=wrapper) as daemon:
        yield daemon


def metainf(daemon: Daemon, *arguments: str, within: float = STATUS_S) -> str:
    """Run one of the command line's verbs on a running node; return what it printed."""
    command = [sys.executable, "-m", "node", *arguments, "--data-dir", str(daemon.data)]
    done = subprocess.run(
        command, cwd=CHECKOUT, env=environment(), capture_output=True, text=True, timeout=within, check=False
    )
    assert done.returncode == 0, f"metainf {' '.join(arguments)} failed: {done.stderr}\n{tails(daemon.child)}"
    return done.stdout


def environment() -> dict[str, str]:
    """Return an environment without settings of a node that the tester may run himself, and without the LAN's nodes."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("METAINF_")}
    quiet = {"METAINF_P2P_LAN": "false", "METAINF_LEARNER_ENABLED": "false"}  # what a node learns costs a core for long
    return ours | quiet | {"METAINF_P2P_LISTEN": "127.0.0.1:0"}


def _events(child: Child) -> list[dict[str, Any]]:
    """Parse the whole lines written so far; anything on standard output that is no event fails here."""
    whole = child.stdout.read_text().rpartition("\n")[0]
    return [json.loads(line) for line in whole.splitlines()]


def _first(child: Child, name: str) -> dict[str, Any] | None:
    return next((event for event in _events(child) if event["event"] == name), None)


def _root(api_url: str) -> str:
    return api_url.rstrip("/").removesuffix("/v1")


def key_section(name: str, key: str, **limits: int) -> str:
    """Return the part of a configuration that lets the holder of `key` in; a node keeps its digest alone."""
    digest = hashlib.sha256(key.encode()).hexdigest()
    rows = [f"{limit} = {value}" for limit, value in limits.items()]
    return "\n".join(["[[api.keys]]", f'name = "{name}"', f'sha256 = "{digest}"', *rows, ""])
