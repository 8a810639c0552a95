"""`metainf doctor`: looks at everything that the node stands on, and says what to do about what is wrong."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from node.adapters import membership_file, nvml, system
from node.adapters.keystore import load
from node.cli import control_client, doctor_engine, doctor_network
from node.cli.options import common_options, places_of, settings_of
from node.core.findings import (
    Finding,
    Verdict,
    judge_clock,
    judge_disk,
    judge_engine,
    judge_forecasts,
    judge_gpu,
    judge_memory,
)
from node.errors import ConfigError, ExitCode, NodeError
from node.places import Places
from node.settings import Settings

BUILT = datetime(2026, 11, 1, tzinfo=UTC).timestamp()  # this code is younger than that
MARKS = {Verdict.OK: ("ok", "green"), Verdict.WARNING: ("warn", "yellow"), Verdict.FAILURE: ("FAIL", "red")}


@click.command()
@click.option("--join", multiple=True, metavar="MULTIADDR", help="Look at this bootstrap too; may be repeated.")
@click.option("--offline", is_flag=True, help="Dial nobody.")
@common_options
def doctor(join: tuple[str, ...], offline: bool, data_dir: Path | None, config_file: Path | None, as_json: bool) -> int:
    """Look for what is wrong, and say what to do: with the node that runs here, or without one.

    Configuration, identity, engine, GPU, memory, disk, clock, ports, routes, bootstraps, how others reach this node.
    Exit code 0 if all is well, 1 if something was found.
    """
    findings = list(examine(places_of(data_dir), config_file, join=join, offline=offline))
    found = [finding for finding in findings if finding.verdict is not Verdict.OK]
    if as_json:
        click.echo(json.dumps(document(findings), indent=2))
    else:
        for finding in findings:
            mark, colour = MARKS[finding.verdict]
            click.echo(f"{click.style(f'{mark:<5}', fg=colour)} {finding.subject:<9} {finding.finding}")
            if finding.remedy:
                click.echo(f"{'':<16}do: {finding.remedy}")
        click.echo(f"\n{_summary(found)}")
    return ExitCode.FAILURE if found else ExitCode.OK


def _summary(found: list[Finding]) -> str:
    if not found:
        return "nothing is wrong"
    failures = sum(finding.verdict is Verdict.FAILURE for finding in found)
    return f"{failures} failures, {len(found) - failures} warnings; `metainf bundle` packs a report for who is to help"


def document(findings: list[Finding]) -> dict[str, Any]:
    """Return the document of `metainf doctor --json`."""
    return {
        "ok": all(finding.verdict is Verdict.OK for finding in findings),
        "failed": any(finding.verdict is Verdict.FAILURE for finding in findings),
        "findings": [{**asdict(finding), "verdict": finding.verdict.value} for finding in findings],
    }


def examine(
    where: Places, config_file: Path | None, *, join: tuple[str, ...] = (), offline: bool = False
) -> Iterator[Finding]:
    """Yield what is found, in the order in which causes come before their consequences.

    Args:
        join: bootstraps beside those of the configuration.
        offline: dial nobody.
    """
    try:
        settings = settings_of(where, config_file).settings
        membership = membership_file.load(where.membership_file)
        yield Finding(subject="config", verdict=Verdict.OK, finding="valid")
    except ConfigError as error:
        yield Finding(subject="config", verdict=Verdict.FAILURE, finding=error.message, remedy=error.remedy)
        settings, membership = Settings(), None
    running, node = _running(where)
    yield node
    machine = system.LocalMachine()
    engine = doctor_engine.facts(settings.engine, running)
    gpu = nvml.survey()
    yield identity(where.identity_file)
    yield judge_engine(engine)
    built_in, loaded = system.nvidia_hardware()
    yield judge_gpu(gpus=gpu.gpus, driver=gpu.driver, trouble=gpu.trouble, built_in=built_in, loaded=loaded)
    yield judge_memory(
        total=machine.memory_total(), available=machine.memory_available(), engine_running=running is not None
    )
    yield judge_disk(free=machine.disk_free(str(where.data)), place=str(where.data), engine=engine.wanted)
    yield _clock(running)
    yield from doctor_network.ports(settings, running)
    if settings.p2p.enabled:
        yield from doctor_network.network(settings, running, join=join, offline=offline, membership=membership)
    yield judge_forecasts(running.get("routing", {}) if running else None)


def _running(where: Places) -> tuple[dict[str, Any] | None, Finding]:
    """Return what the running node says of itself, and whether it runs and answers."""
    try:
        status = control_client.get_json(where.control_socket, "/status")
    except NodeError as error:
        pid = system.lock_holder(where.lock_file)
        if pid is None:
            return None, Finding(subject="node", verdict=Verdict.OK, finding="none runs here; it would find this")
        finding = f"a node runs here (pid {pid}) and does not answer: {error.message}"
        remedy = f"look into {where.logs / 'node.log'}; where it hangs, end it and start it again: kill {pid}"
        return None, Finding(subject="node", verdict=Verdict.FAILURE, finding=finding, remedy=remedy)
    return status, Finding(subject="node", verdict=Verdict.OK, finding=f"up for {status['uptime_s']:.0f} s")


def _clock(running: dict[str, Any] | None) -> Finding:
    """Judge the clock: where peers can be asked, they know; else the kernel may."""
    now = datetime.now(UTC).timestamp()
    by_peers = doctor_network.peer_clocks(running)
    return by_peers or judge_clock(synchronised=system.clock_synchronised(), now=now, built=BUILT)


def identity(file: Path) -> Finding:
    """Judge the file of the node's private key."""
    if not file.exists():
        return Finding(subject="identity", verdict=Verdict.OK, finding="none yet: the first start makes one")
    try:
        load(file)
    except ConfigError as error:
        return Finding(subject="identity", verdict=Verdict.FAILURE, finding=error.message, remedy=error.remedy)
    except OSError as error:
        finding = f"{file} cannot be read: {error.strerror}"
        remedy = "run as the user who owns it, or choose another --data-dir"
        return Finding(subject="identity", verdict=Verdict.FAILURE, finding=finding, remedy=remedy)
    return Finding(subject="identity", verdict=Verdict.OK, finding=str(file))
