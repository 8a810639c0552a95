"""`metainf up`: start a node in the foreground."""

from pathlib import Path
from typing import Any

import click

from node.cli.options import config_option, data_dir_option, places_of


@click.command()
@click.option("--model", help='A folder, a hub id, or "embedded" (the default): SmolLM2-135M-Instruct, no hub needed.')
@click.option("--no-engine", is_flag=True, help="Run no engine.")
@click.option("--engine-url", help="Speak for the OpenAI server at this URL instead of running an engine.")
@click.option("--http", "bind", metavar="HOST:PORT", help="Where the API listens; port 0 takes any. [127.0.0.1:8470]")
@click.option("--join", multiple=True, metavar="MULTIADDR", help="Join the swarm through this node; may be repeated.")
@click.option("--listen", multiple=True, metavar="HOST:PORT", help="Where peers reach this node. [0.0.0.0:47470]")
@click.option("--bootstrap-only", is_flag=True, help="No engine, no learner: be a node that others join through.")
@click.option("--name", help="What people call this node.")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Any setting, as in `config show`.")
@click.option("--yes", is_flag=True, help="Agree to what the first start would ask.")
@click.option("--json-events", is_flag=True, help="Lifecycle as JSON lines on standard output.")
@config_option
@data_dir_option
def up(
    model: str | None,
    no_engine: bool,
    engine_url: str | None,
    bind: str | None,
    join: tuple[str, ...],
    listen: tuple[str, ...],
    bootstrap_only: bool,
    name: str | None,
    assignments: tuple[str, ...],
    yes: bool,
    json_events: bool,
    config_file: Path | None,
    data_dir: Path | None,
) -> int:
    """Start a node in the foreground. Ctrl-C finishes what runs and stops it; twice, at once."""
    if sum((model is not None, no_engine, engine_url is not None, bootstrap_only)) > 1:
        raise click.UsageError("--model, --no-engine, --engine-url and --bootstrap-only exclude each other")
    command_line: dict[str, object] = {
        "engine.model": model,
        "engine.enabled": False if no_engine or bootstrap_only else None,
        "engine.url": engine_url,
        "api.bind": bind,
        "p2p.join": join,
        "p2p.listen": listen,
        "p2p.bootstrap": True if bootstrap_only else None,
        # Who only brings others together has nothing to choose: no learner's process, which takes 0.4 GB.
        "learner.enabled": False if bootstrap_only else None,
        "node.name": name,
        **dict(_assignment(text) for text in assignments),
    }
    from node.cli.start import start  # the quick verbs must not pay for it

    return start(places_of(data_dir), config_file, command_line, yes=yes, json_events=json_events)


def _assignment(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals:
        raise click.UsageError(f"--set wants KEY=VALUE, not {text!r}")
    return key.strip(), value
