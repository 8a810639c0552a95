"""The first start: what this node will do with this machine and who may use it, said plainly; the answer is kept.

Asks on a terminal. Without one (a service, a script) it says the same, goes on, and notes that nobody was asked.
It asks again when the node is to do more than was agreed to.
"""

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import click

from node import files
from node.errors import Unavailable

CONSENT_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """What the node is about to do, in the terms that its owner decides by."""

    engine: str  # "vLLM with MODEL on this machine's 2 CPU cores" | "none" | "the server at URL"
    bind: str
    beyond_loopback: bool
    keys: int
    downloads: bool  # whether the engine may fetch a model from a hub
    swarm: str | None = None  # the swarm that it takes part in
    serves: bool = False  # whether it answers prompts of other nodes
    asks: bool = False  # whether other nodes may answer, and so read, the owner's prompts
    tells: bool = False  # whether records of its traffic go to other nodes


def words(intent: Intent, data: Path) -> str:
    """Return what is said at the first start."""
    reach = (
        f"programs on any machine that reaches {intent.bind}, with one of its {intent.keys} API key(s)"
        if intent.beyond_loopback
        else "programs on this machine alone" + (f", with one of its {intent.keys} API key(s)" if intent.keys else "")
    )
    return (
        f"This is a first start. metainf keeps this node's files in {data}.\n"
        f"  What it will do   run {intent.engine}; answer at http://{intent.bind}/v1 until you stop it\n"
        f"  Who may use it    {reach}\n"
        f"  Network           {_network(intent)}\n"
    )


def _network(intent: Intent) -> str:
    lines = ["The engine may download the model from its hub."] if intent.downloads else []
    if intent.swarm is None:
        lines.append("Nothing else leaves this machine." if lines else "Nothing leaves this machine.")
        return " ".join(lines)
    lines.append(f"It joins the swarm {intent.swarm!r}, and tells its nodes this one's addresses, model and load.")
    if intent.serves:
        lines.append("Other nodes' prompts are answered by this machine (p2p.serve).")
    if intent.asks:
        lines.append(
            "Prompts that this machine does not answer itself go to other nodes,\n"
            "                    whose owners can read them (p2p.ask; keep to yourself with p2p.enabled = false)."
        )
    if intent.tells:
        lines.append(
            "How fast its engine answers how many prompts, and in rough figures how long they are, is told to\n"
            "                    everybody in signed records, nothing of what they say (records.traffic)."
        )
    return "\n                    ".join(lines)


def agreed(file: Path, intent: Intent) -> bool:
    """Whether the owner has already agreed to at least this much."""
    try:
        kept = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return False
    if not isinstance(kept, dict) or kept.get("version") != CONSENT_VERSION or kept.get("accepted") is not True:
        return False
    more = {
        "beyond_loopback": intent.beyond_loopback,
        "swarm": intent.swarm is not None,
        "serves": intent.serves,
        "asks": intent.asks,
        "tells": intent.tells,
    }
    return all(bool(kept.get(what)) for what, wanted in more.items() if wanted)


def obtain(file: Path, intent: Intent, *, yes: bool, terminal: bool) -> None:
    """Say what the node will do and ask, unless that was done before.

    Raises:
        click.Abort: the owner said no; nothing was started.
    """
    if agreed(file, intent):
        return
    click.echo(words(intent, file.parent), err=True)
    how = "--yes" if yes else "asked" if terminal else "nobody to ask"
    if how == "asked" and not click.confirm("Go on?", default=True, err=True):
        raise click.Abort
    answer = {
        "version": CONSENT_VERSION,
        "accepted": True,
        "how": how,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        **asdict(intent),
    }
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        files.replace(file, json.dumps(answer, indent=2).encode() + b"\n")
    except OSError as error:
        raise Unavailable(f"cannot write {file}: {error.strerror}", remedy="choose another --data-dir") from error
