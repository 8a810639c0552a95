"""Gateways that can stand before the instant engine: how each is started, and why one may be missing.

Knows their command lines and configuration; measures nothing. `direct` stands for no gateway at all.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from tests.benchmarks.instant_engine import MODEL

CHECKOUT = Path(__file__).parents[2]
START_S = 120.0  # LiteLLM imports for half a minute on a busy machine
INSTALL_S = 900.0  # LiteLLM brings a hundred packages
STOP_S = 10.0
POLL_S = 0.1
AT_ENGINE = 256  # prompts that the node lets through at once: nobody is to wait for a turn here, as nowhere else
KEEP_CONNECTIONS = 128  # idle ones to the engine: more than the highest concurrency, so that none is opened twice


class Missing(Exception):
    """A gateway cannot run here; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a gateway is to listen, what it stands before, and a folder of its own."""

    port: int
    engine_port: int
    folder: Path
    installs: Path  # throw-away environments of other people's gateways, kept between runs
    join: str = ""  # the address of the node behind this one, for one that has no engine

    @property
    def engine_url(self) -> str:
        """The engine's root."""
        return f"http://127.0.0.1:{self.engine_port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Front:
    """A gateway.

    Attributes:
        command: makes its command line, and writes what configuration it needs into the place's folder.
        behind: makes the command line of a node that is started before it, and answers for it.
        package: name at the package registry, for those that are installed for the occasion.
        health: path that answers 200 once it can be measured.
        api_key: what its clients send.
    """

    name: str
    command: Callable[[Place], list[str]]
    behind: Callable[[Place], list[str]] | None = None
    package: str | None = None
    health: str = "/v1/models"
    api_key: str = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningFront:
    """A started gateway. `pids`: its processes, without their children; none for `direct`."""

    name: str
    url: str
    pids: tuple[int, ...] = ()
    api_key: str = "none"

    def cpu_seconds(self) -> float:
        """CPU time of its processes so far, user and system; 0 for `direct`."""
        return sum(map(cpu_seconds, self.pids))


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process and its descendants so far.

    By the kernel's clock of the process: it counts the same as utime + stime in /proc/PID/stat, in nanoseconds
    in place of ticks of 10 ms, a hundred requests' worth.
    """
    total = 0.0
    for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
        with contextlib.suppress(OSError):  # it ended this moment
            total += time.clock_gettime((~process.pid << 3) | 2)  # CPUCLOCK_SCHED: see clock_getcpuclockid(3)
    return total


def _node(place: Place) -> list[str]:
    return [*_up(place, "data", port=place.port), *_engine(place)]


def _behind(place: Place) -> list[str]:
    return [*_up(place, "behind", port=0), *_engine(place)]


def _entry(place: Place) -> list[str]:
    return [*_up(place, "data", port=place.port), "--no-engine", "--join", place.join]


def _engine(place: Place) -> list[str]:
    return ["--engine-url", place.engine_url, "--set", f"engine.max_running={AT_ENGINE}"]


def _up(place: Place, data: str, *, port: int) -> list[str]:
    return [
        *(sys.executable, "-m", "node", "up", "--yes", "--json-events", "--data-dir", str(place.folder / data)),
        *("--http", f"127.0.0.1:{port}", "--listen", "127.0.0.1:0"),
    ]


def _nginx(place: Place) -> list[str]:
    binary = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if binary is None:
        raise Missing("nginx is not installed (apt install nginx-light)")
    file = place.folder / "nginx.conf"
    file.write_text(NGINX.format(folder=place.folder, port=place.port, engine=place.engine_port, keep=KEEP_CONNECTIONS))
    return [binary, "-e", str(place.folder / "errors.log"), "-p", str(place.folder), "-c", str(file)]


NGINX = """\
daemon off; master_process off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/errors.log;
events {{ worker_connections 1024; }}
http {{
  access_log off; keepalive_requests 1000000000; tcp_nodelay on;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  upstream engine {{ server 127.0.0.1:{engine}; keepalive {keep}; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://engine; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
    }}
  }}
}}
"""


def _vllm_router(place: Place) -> list[str]:
    return [
        str(place.installs / "vllm-router" / "bin" / "vllm-router"),
        *("--host", "127.0.0.1", "--port", str(place.port), "--worker-urls", place.engine_url),
        *("--policy", "round_robin", "--prometheus-port", str(free_port()), "--log-level", "error"),
    ]


def _bytes(place: Place) -> list[str]:
    return _bare(place, "bytes")


def _requests(place: Place) -> list[str]:
    return _bare(place, "requests")


def _bare(place: Place, way: str) -> list[str]:
    ports = ["--port", str(place.port), "--engine-port", str(place.engine_port)]
    return [sys.executable, "-m", "tests.benchmarks.bare_front", "--way", way, *ports]


def _litellm(place: Place) -> list[str]:
    file = place.folder / "litellm.yaml"
    file.write_text(LITELLM.format(model=MODEL, url=place.engine_url, key=LITELLM_KEY))
    binary = str(place.installs / "litellm" / "bin" / "litellm")
    return [binary, "--host", "127.0.0.1", "--port", str(place.port), "--config", str(file), "--telemetry", "False"]


LITELLM_KEY = "sk-benchmark-on-loopback-only"  # it does not start without one
LITELLM = """\
model_list:
  - model_name: {model}
    litellm_params: {{model: "openai/{model}", api_base: "{url}/v1", api_key: "none"}}
general_settings: {{master_key: "{key}"}}
litellm_settings: {{telemetry: false, num_retries: 0}}
"""

NODE = Front(name="node", command=_node, health="/health/ready")
PEER = Front(name="peer", command=_entry, behind=_behind, health="/health/ready")
FRONTS = {
    front.name: front
    for front in (
        NODE,
        PEER,
        Front(name="bytes", command=_bytes),
        Front(name="requests", command=_requests),
        Front(name="nginx", command=_nginx),
        Front(name="vllm-router", command=_vllm_router, package="vllm-router", health="/health"),
        Front(
            name="litellm",
            command=_litellm,
            package="litellm[proxy]",
            health="/health/liveliness",
            api_key=LITELLM_KEY,
        ),
    )
}
DIRECT = "direct"


def free_port() -> int:
    """Return a loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def instant_engine(gap_ms: float) -> Iterator[tuple[int, int]]:
    """Run the instant engine; yield its port and its process id."""
    program = Path(__file__).with_name("instant_engine.py")
    command = [sys.executable, str(program), "--gap-ms", str(gap_ms), "--until-eof"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line:
            raise Missing("the instant engine did not start")
        yield int(line), process.pid
    finally:
        process.stdin.close()
        _end(process)
        process.stdout.close()


@contextlib.contextmanager
def standing(front: Front, place: Place, *, install: bool) -> Iterator[RunningFront]:
    """Start a gateway, and what is to stand behind it; enter once it answers.

    Raises:
        Missing: it is not installed and may not be, or it does not come up; with the last lines of its log.
    """
    if front.package is not None:
        _installed(front.name, front.package, place.installs, install=install)
    url = f"http://127.0.0.1:{place.port}"
    with contextlib.ExitStack() as stack:
        pids: list[int] = []
        if front.behind is not None:
            log = place.folder / "behind.log"
            process = stack.enter_context(_started(front.behind(place), place.folder, log))
            place = replace(place, join=_address(process, log))
            pids.append(process.pid)
        log = place.folder / f"{front.name}.log"
        process = stack.enter_context(_started(front.command(place), place.folder, log))
        pids.insert(0, process.pid)
        _wait_until(process, lambda: _answers(url + front.health), log)
        yield RunningFront(name=front.name, url=url, pids=tuple(pids), api_key=front.api_key)


@contextlib.contextmanager
def _started(command: list[str], folder: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=CHECKOUT if "-m" in command else folder,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        _end(process)


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    """Wait for a node to be ready; return the address by which others join."""
    found: list[str] = []

    def ready() -> bool:
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.startswith("{")]
        found.extend(event["addresses"][0] for event in map(json.loads, lines) if event.get("event") == "ready")
        return bool(found)

    _wait_until(process, ready, log)
    return found[0]


def _installed(name: str, package: str, installs: Path, *, install: bool) -> None:
    """Make sure of an environment with the package in it."""
    environment = installs / name
    if (environment / ".whole").exists():
        return
    if not install:
        raise Missing(f"{package} is not installed in {installs} (--install puts it there)")
    shutil.rmtree(environment, ignore_errors=True)
    commands: list[list[str]] = [
        [sys.executable, "-m", "venv", str(environment)],
        [str(environment / "bin" / "python"), "-m", "pip", "install", "-q", package],
    ]
    for command in commands:
        try:
            subprocess.run(command, check=True, timeout=INSTALL_S, capture_output=True, text=True)
        except subprocess.CalledProcessError as error:
            raise Missing(f"{package} cannot be installed: {str(error.stderr).strip()[-300:]}") from error
        except subprocess.TimeoutExpired as error:
            raise Missing(f"{package} was not installed within {INSTALL_S:.0f} s") from error
    (environment / ".whole").touch()


def _environment() -> Mapping[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("METAINF_")}
    # What a node learns costs a core for seconds, now and then, and other nodes nearby would join in.
    ours = {"METAINF_P2P_LAN": "false", "METAINF_LEARNER_ENABLED": "false"}
    return kept | ours | {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}  # else LiteLLM fetches a price list at every start


def _wait_until(process: subprocess.Popen[bytes], up: Callable[[], bool], log: Path) -> None:
    until = time.monotonic() + START_S
    while not up():
        if process.poll() is not None or time.monotonic() > until:
            words = log.read_text(errors="replace")[-600:]
            raise Missing(f"it did not come up (exit code {process.poll()}): {words}")
        time.sleep(POLL_S)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=STOP_S) as answer:  # noqa: S310 -- loopback, made here
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and its group."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=STOP_S)
            if number is signal.SIGTERM and not _group_left(process.pid):
                return


def _group_left(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
