"""What a person at the terminal sees of a node that runs: the ready block, and each change of the engine.

On a terminal, work that goes on has a spinner with its seconds; elsewhere each change is one plain line.
"""

from collections.abc import Mapping
from typing import Any, TextIO

from rich.console import Console
from rich.status import Status

BUSY = ("preparing", "starting")


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

    def __call__(self, event: str, facts: Mapping[str, Any]) -> None:
        """Tell one event of `--json-events`."""
        if self._console is None:
            return
        if event == "ready":
            self._say_ready(facts)
        elif event == "engine_state":
            self._say_engine(facts)
        elif event == "stopping":
            self._rest()
            self._console.print(f"stopping ({facts['reason']}): what runs may finish; Ctrl-C again stops at once")
        elif event == "stopped":
            self._rest()
            self._console.print("stopped")

    def _say_ready(self, facts: Mapping[str, Any]) -> None:
        assert self._console is not None  # noqa: S101 -- checked by the caller; narrows the type
        who = "any machine that has an API key" if facts["keys"] else "programs on this machine, without a key"
        self._rest()
        self._console.print(f"\n[bold]metainf {facts['version']} is up[/bold]")
        self._console.print(f"  peer id   {facts['peer_id']}")
        self._console.print(f"  API       {facts['api_url']}   (OpenAI-compatible; for {who})")
        if self._try_out:
            self._console.print(f"  try       {self._try_out}   in another terminal", markup=False)
        self._console.print()

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
