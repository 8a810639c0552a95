"""Starting a node from the command line: settings made, the owner asked, the log opened, the node run.

Imported when a node is started and not before: it brings the whole daemon along.
"""

import os
import shlex
import sys
from pathlib import Path

from node import app
from node.adapters import system
from node.cli.api_keys import read_keys
from node.cli.consent import Intent, obtain
from node.cli.options import VERSION, places_of, settings_of
from node.cli.progress import Narrator
from node.errors import ConfigError, ExitCode
from node.places import Places
from node.policies import Policies, policies_of
from node.settings import Effective, LogSection, Settings
from node.telemetry import Events, configure_log, stdout_events


def start(
    where: Places, config_file: Path | None, command_line: dict[str, object], *, yes: bool, json_events: bool
) -> int:
    """Run a node until it is told to stop; return the exit code.

    Raises:
        NodeError: it could not be started.
        click.Abort: the owner said no.
    """
    settings = _with_kept_keys(settings_of(where, config_file, command_line), where)
    policies = policies_of(settings, where, version=VERSION)
    obtain(where.consent_file, _intent(settings, policies), yes=yes, terminal=_terminal())
    # The narrator tells the story; the log's own lines would tell it twice. Whoever sets the log gets the log.
    told = not json_events and settings.log == LogSection()
    with system.node_lock(where.lock_file):
        configure_log(
            level="warning" if told else settings.log.level,
            file_level=settings.log.level,
            form=settings.log.format,
            stream=sys.stderr,
            file=where.logs / "node.log",
            max_bytes=settings.log.max_file_bytes,
            keep=settings.log.keep_files,
            requests=settings.log.requests,
        )
        events = stdout_events() if json_events else Events(None)
        narrator = Narrator(None if json_events else sys.stderr, try_out=_try_out(settings, where))
        interrupted = app.main(settings, policies, where, events=events, narrate=narrator)
    return ExitCode.INTERRUPTED if interrupted else ExitCode.OK


def _try_out(settings: Settings, where: Places) -> str:
    elsewhere = "" if where == places_of(None) else f" --data-dir {shlex.quote(str(where.data))}"
    return f'metainf ask "What is the capital of France?"{elsewhere}' if settings.engine.enabled else ""


def _terminal() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()


def _with_kept_keys(in_force: Effective, where: Places) -> Settings:
    """Add the keys of `metainf api-key` to those of the configuration."""
    settings = in_force.settings
    keys = (*settings.api.keys, *read_keys(where.api_keys_file))
    names = [key.name for key in keys]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"there are two API keys called {twice!r}", remedy="rename or revoke one")
    return settings.with_api_keys(keys)


def _intent(settings: Settings, policies: Policies) -> Intent:
    engine, bind = settings.engine, policies.api
    if not engine.enabled:
        what = "no engine"
    elif engine.url:
        what = f"no engine of its own, but speak for the server at {engine.url}"
    else:
        what = f"vLLM with the model {engine.model!r} on this machine's GPU, or on its {os.cpu_count()} CPU cores"
    local_model = engine.model == "embedded" or engine.model.startswith((".", "/", "~"))
    access = policies.swarm.access if policies.swarm is not None else None
    return Intent(
        engine=what,
        bind=str(bind),
        beyond_loopback=not bind.loopback,
        keys=len(settings.api.keys),
        downloads=engine.enabled and engine.url is None and not local_model,
        swarm=str(policies.swarm.swarm) if policies.swarm is not None else None,
        serves=engine.enabled and access is not None and not access.serve.empty,
        asks=access is not None and not access.ask.empty,
        tells=engine.own and policies.swarm is not None and settings.records.traffic,
    )
