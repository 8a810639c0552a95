"""What a person at the terminal sees of a node that runs: the ready block, each change of the engine, the company.

On a terminal, work that goes on has a spinner with its seconds; elsewhere each change is one plain line.
"""

from collections.abc import Mapping
from typing import Any, TextIO

from rich.console import Console
from rich.status import Status

BUSY = ("preparing", "starting")
NAMED_PEERS = 8  # comings and goings told one by one; in a larger company they are no news


class Narrator:
    """Tells lifecycle events as they come. Without a stream, nothing.

    Args:
        try_out: a command line that asks this node something; empty where it could not answer.
    """

    def __init__(self, stream: TextIO | None, *, try_out: str = "") -> None:
        self._try_out = try_out
        self._console = Console(file=stream, highlight=False, soft_wrap=True) if stream else None
        self._status: Status | None = None
        self._last = ""
        self._peers: set[str] = set()

    def __call__(self, event: str, facts: Mapping[str, Any]) -> None:
        """Tell one event of `--json-events`."""
        if self._console is None:
            return
        if event == "ready":
            self._say_ready(facts)
        elif event == "engine_state":
            self._say_engine(facts)
        elif event in ("peer_joined", "peer_left"):
            self._say_peer(event, facts)
        elif event == "alone" and facts["alone"]:
            self._say_alone(facts)
        elif (line := _plain(event, facts)) is not None:
            self._rest()
            self._console.print(line, markup=False)

    def _say_ready(self, facts: Mapping[str, Any]) -> None:
        assert self._console is not None  # noqa: S101 -- checked by the caller; narrows the type
        who = "any machine that has an API key" if facts["keys"] else "programs on this machine, without a key"
        self._rest()
        self._console.print(f"\n[bold]metainf {facts['version']} is up[/bold]")
        self._console.print(f"  peer id   {facts['peer_id']}")
        self._console.print(f"  API       {facts['api_url']}   (OpenAI-compatible; for {who})")
        if facts["addresses"]:
            self._console.print(f"  join by   metainf up --join {facts['addresses'][0]}", markup=False)
        if self._try_out:
            self._console.print(f"  try       {self._try_out}   in another terminal", markup=False)
        self._console.print()

    def _say_peer(self, event: str, facts: Mapping[str, Any]) -> None:
        assert self._console is not None  # noqa: S101 -- checked by the caller; narrows the type
        few = len(self._peers) < NAMED_PEERS
        (self._peers.add if event == "peer_joined" else self._peers.discard)(facts["peer"])
        if not few:
            return
        self._rest()
        who = f"{facts.get('name') or 'a node'} ({facts['peer'][-8:]})"
        if event == "peer_joined":
            models = ", ".join(facts["models"])
            self._console.print(f"swarm: {who} is here" + (f", serves {models}" if models else ""), markup=False)
        else:
            self._console.print(f"swarm: {who} is gone ({facts['reason']})", markup=False)

    def _say_alone(self, facts: Mapping[str, Any]) -> None:
        assert self._console is not None  # noqa: S101 -- checked by the caller; narrows the type
        self._rest()
        self._console.print("swarm: nobody answers yet; this node goes on alone and keeps trying")
        for words in filter(None, facts.get("reason", "").split("; ")):
            self._console.print(f"  {words}", markup=False)

    def _say_engine(self, facts: Mapping[str, Any]) -> None:
        assert self._console is not None  # noqa: S101 -- checked by the caller; narrows the type
        doing = facts.get("progress") or facts["reason"]
        line = f"engine {facts['state']}: {doing}"
        if line == self._last:
            return
        self._last = line
        if facts["state"] in BUSY and self._console.is_terminal:
            if self._status is None:
                self._status = self._console.status(line)
                self._status.start()
            self._status.update(line)
            return
        self._rest()
        self._console.print(line, markup=False)
        for log_line in facts.get("log_tail", ()):
            self._console.print(f"  | {log_line}", markup=False)

    def _rest(self) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None


def _plain(event: str, facts: Mapping[str, Any]) -> str | None:
    """Return the line that is all of an event; None of others."""
    if event == "other_swarm":
        return f"swarm: {facts['address']}: {facts['likely_cause']}"
    if event == "stopping":
        return f"stopping ({facts['reason']}): what runs may finish; Ctrl-C again stops at once"
    return "stopped" if event == "stopped" else None
