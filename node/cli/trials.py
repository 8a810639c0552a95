"""`metainf profile --trials`: has the real engine measured, and shows what came of it, as a table or as JSON.

Beside a running node it is that node that measures, and signs what it measured; without one it is done here. Knows
neither vLLM nor how trials are planned. Progress goes to standard error, results to standard output.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import trio
from rich.console import Console

from node.adapters.keystore import load_or_create
from node.adapters.system import node_lock
from node.cli import control_client
from node.cli.options import VERSION
from node.cli.trial_table import MS, WIDTH, show
from node.clock import wall_us
from node.core.trial_request import TrialRequest, to_plain
from node.errors import ConfigError, ExitCode, NodeError, Unavailable
from node.history import begin_epoch, open_own_history
from node.places import Places
from node.policies import policies_of
from node.services.sign_trials import TrialSigner, nothing_left
from node.services.trial_report import plain, plain_facts
from node.services.trial_runs import wish_of
from node.services.trials import run_trials
from node.services.write_records import Scribe
from node.settings import Settings
from node.trial_hands import trial_hands
from protocol.ids import PeerId, SwarmId

LINE_BYTES = 16 << 20  # the report of a hundred cells has some 200 KB
SILENCE = 1800.0  # s without a word from the node: an engine may be built for a quarter of an hour


def profile_trials(where: Places, settings: Settings, request: TrialRequest, *, as_json: bool) -> int:
    """Run what is not in the book yet, and show everything that is. Returns the exit code.

    Raises:
        NodeError: this node runs no engine of its own, or something that trials need is not to be had.
    """
    if not settings.engine.enabled or settings.engine.url is not None or settings.engine.command:
        raise ConfigError(
            "trials need an engine of this node's own", remedy="leave out engine.url, engine.command and --no-engine"
        )
    teller = Teller()
    try:
        report = _report(where, settings, request, teller)
    except KeyboardInterrupt:
        teller.close()
        click.echo("broken off; what was measured is kept, and the same command goes on from there", err=True)
        return ExitCode.INTERRUPTED
    finally:
        teller.close()
    if as_json:
        click.echo(json.dumps(report, indent=2))
    else:
        show(report, Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH))
    return ExitCode.OK


def _report(where: Places, settings: Settings, request: TrialRequest, teller: "Teller") -> Mapping[str, Any]:
    if _node_runs(where):
        return ask_node(where.control_socket, request, teller)
    # Held all along: a node that started meanwhile would measure with us, and write into the same history.
    with node_lock(where.lock_file, holder="a run of trials"):
        return trio.run(_run, where, settings, request, teller)


def _node_runs(where: Places) -> bool:
    try:
        control_client.get_json(where.control_socket, "/status")
    except NodeError:
        return False
    return True


def ask_node(socket: Path, request: TrialRequest, teller: "Teller") -> Mapping[str, Any]:
    """Have the running node try, and return its report. Ctrl-C closes the connection, by which the node breaks off.

    Raises:
        NodeError: what the node said against it.
    """
    teller.say("asking the node that runs here; its engine is away until the trials end")
    with control_client.request(socket, "POST", "/trials", to_plain(request), timeout=SILENCE) as response:
        if response.status != 200:
            raise control_client.error_in(_json(response.read(LINE_BYTES)), response.status)
        while line := response.readline(LINE_BYTES):
            told = _json(line)
            match told.pop("event", None):
                case "report":
                    return told["report"]
                case "error":
                    raise Unavailable(str(told.get("message")), remedy=str(told.get("remedy", "")))
                case str() as event:
                    teller(event, told)
    raise Unavailable("the node ended while the trials ran", remedy="the same command goes on from what was measured")


def _json(line: bytes) -> dict[str, Any]:
    try:
        told = json.loads(line)
    except ValueError as error:
        raise Unavailable("the node said something that is not JSON") from error
    return told if isinstance(told, dict) else {}


async def _run(where: Places, settings: Settings, request: TrialRequest, teller: "Teller") -> Mapping[str, Any]:
    plan = policies_of(settings, where, version=VERSION).plan
    hands = trial_hands(python=Path(settings.engine.python or sys.executable), plan=plan, where=where)
    began = trio.current_time()
    identity, _ = load_or_create(where.identity_file)
    author = str(PeerId.from_public_key(identity.public_key))
    epoch = await begin_epoch(where)
    async with open_own_history(where, SwarmId(settings.p2p.swarm), identity, epoch) as history:
        scribe = Scribe(history, publish=_to_nobody, wall=wall_us)
        workshop = await hands.prepare(teller.say)
        wish = wish_of(request, workshop, request.budget * 60)
        if report := nothing_left(await workshop.book.read(), wish, model=workshop.model):
            return plain(report, author=author)
        signer = TrialSigner(workshop.book, await workshop.setting(), scribe.write)
        teller.say("importing vLLM")
        async with workshop.open() as bench:
            report = await run_trials(
                bench,
                workshop.book,
                replace(wish, budget=began + request.budget * 60 - trio.current_time()),
                clock=trio.current_time,
                mint=hands.mint,
                tell=lambda event, facts: teller(event, plain_facts(facts)),
                keep=signer,
            )
    return plain(report, signed=signer.signed, author=author, trouble=signer.trouble)


def _to_nobody(_: Sequence[bytes]) -> None:
    """Say records where nobody listens: they are in the history, where the next node's neighbours will find them."""


class Teller:
    """Says on standard error how far it is: a line that moves on a terminal, one for each trial elsewhere."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._status = self._console.status("") if self._console.is_terminal else None
        self._doing = ""
        self._said = ""
        if self._status is not None:
            self._status.start()

    def say(self, text: str) -> None:
        """Say what is being done."""
        if self._status is not None:
            self._status.update(text)
        elif text != self._said:
            self._console.print(text, markup=False)
        self._said = text

    def __call__(self, event: str, facts: Mapping[str, Any]) -> None:
        """Tell one event of the trials; facts are plain values, as in `node.services.trial_report`."""
        match event:
            case "doing":
                self.say(facts["text"])
            case "scale":
                how = "going on with" if facts["resumed"] else "a new run, with"
                self._line(f"{how} prompts of {facts['prefill']} and answers of {facts['decode']} tokens as units")
            case "session":
                tally = facts["tally"]
                self._doing = (
                    f"[{tally['complete']}/{tally['cells']} cells, {facts['left']:.0f} s left] {facts['strategy']}"
                )
                self.say(self._doing)
            case "answered":
                if self._status is not None:
                    self._status.update(f"{self._doing}: {facts['load']} {facts['answered']}/{facts['of']}")
            case "failed":
                self._line(f"  {facts['strategy']} {facts['load'] or ''} {facts['kind']}: {facts['reason']}")
            case "trial" | "discarded":
                latency = facts["outcome"]["latency"]
                what = f"mean {latency['mean'] / MS:.0f} ms" if latency else "nothing answered"
                self._line(
                    f"  {facts['load']}: {what}" + (f" (discarded: {facts['reason']})" if facts["reason"] else "")
                )

    def _line(self, text: str) -> None:
        self._console.print(text, markup=False)

    def close(self) -> None:
        """Leave the terminal as it was. Safe to repeat."""
        if self._status is not None:
            self._status.stop()
