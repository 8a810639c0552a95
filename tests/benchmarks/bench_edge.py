"""What an attack on a node's port for peers costs it, and the honest peers whose prompts it answers.

    python -m tests.benchmarks.bench_edge             two minutes, as root: 5,000 sockets, 500 handshakes a second
    python -m tests.benchmarks.bench_edge --quick     what CI runs

Two daemons in network namespaces: one serves before the instant engine, the other has none, so its prompts go through
the first one's port for peers. The attacker has three addresses; a third daemon joins in the middle of the attack. It
fails where an honest prompt fails, the newcomer does not come in, or a bound is broken. Loopback will not do: a node
neither paces nor bans its own machine.
"""

import argparse
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.benchmarks.fronts import cpu_seconds
from tests.benchmarks.instant_engine import MODEL
from tests.e2e.children import eventually, started
from tests.e2e.daemon import CHECKOUT, Daemon, environment, running_node
from tests.e2e.namespaces import Place, add_address, two_halves, why_not

ATTACKERS = ("10.77.0.101", "10.77.0.102", "10.77.0.103")
MEET_S = 60.0
JOIN_S = 10.0  # from a newcomer's start, beside its own imports, until it knows the others; each look takes a second
LOOK_S = 0.2
# Bounds of what the attack may cost the node, over what it used before.
CPU_MORE = 0.5  # of a core
MEMORY_MORE = 40e6  # bytes
DESCRIPTORS_MORE = 64 + 36  # handshakes at once, and a margin for sockets that are on their way out
SLOWER, SLOWER_S = (
    3.0,
    0.1,
)  # the middle prompt may take so many times as long, and so much: whoever attacks uses cores too


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is done; seconds of each phase."""

    sockets: int = 5000
    garbage: float = 500.0
    seconds: float = 20.0


QUICK = Plan(sockets=300, garbage=100.0, seconds=4.0)


@dataclass
class Used:
    """What the attacked daemon used in one phase."""

    cpu: float = 0.0  # cores
    memory: float = 0.0  # bytes, at most
    descriptors: int = 0  # at most


@dataclass
class Phase:
    """One phase: what honest prompts took, and what the daemon used."""

    name: str
    prompts: int = 0
    median: float = 0.0
    p95: float = 0.0
    failed: str = ""
    used: Used = field(default_factory=Used)
    facts: dict[str, Any] = field(default_factory=dict)


class Watch(threading.Thread):
    """Looks at a process until told to stop."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._process = psutil.Process(pid)
        self._over = threading.Event()
        self._cpu, self._began = cpu_seconds(pid), time.monotonic()
        self.used = Used()

    def run(self) -> None:
        """Keep the peaks."""
        while not self._over.wait(LOOK_S):
            self.used.memory = max(self.used.memory, float(self._process.memory_info().rss))
            self.used.descriptors = max(self.used.descriptors, self._process.num_fds())

    def stop(self) -> Used:
        """Return what was used."""
        self._over.set()
        self.join()
        self.used.cpu = (cpu_seconds(self._process.pid) - self._cpu) / (time.monotonic() - self._began)
        return self.used


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Who is there."""

    folder: Path
    server: Daemon
    honest: Daemon
    at_honest: Place
    at_newcomer: Place
    at_attacker: Place

    @property
    def port(self) -> str:
        """Where the server is reached by peers: host and port."""
        _, _, host, _, port, *_ = self.server.address.split("/")
        return f"{host}:{port}"


@contextmanager
def stage() -> Iterator[Stage]:
    """Start everybody but the attacker.

    Raises:
        OSError: no namespaces are to be had.
        AssertionError: a daemon does not come up, or they do not meet.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-edge-")))
        halves = stack.enter_context(two_halves(4, 0))
        at_server, at_honest, at_newcomer, at_attacker = halves.east
        for each in ATTACKERS:
            add_address(at_attacker, each)
        program = str(Path(__file__).with_name("instant_engine.py"))
        engine = stack.enter_context(
            started(
                "engine",
                [*at_server.wrapper, sys.executable, program, "--gap-ms", "5"],
                folder=folder,
                environment=environment(),
                cwd=CHECKOUT,
            )
        )
        port = eventually(lambda: engine.stdout.read_text().strip(), within=MEET_S, what="port", children=[engine])
        server = stack.enter_context(_daemon(folder, "server", at_server, "--engine-url", f"http://127.0.0.1:{port}"))
        server.wait_for_engine(within=MEET_S)
        honest = stack.enter_context(_daemon(folder, "honest", at_honest, "--no-engine", "--join", server.address))
        _until_served(honest)
        yield Stage(
            folder=folder,
            server=server,
            honest=honest,
            at_honest=at_honest,
            at_newcomer=at_newcomer,
            at_attacker=at_attacker,
        )


def _daemon(folder: Path, name: str, place: Place, *options: str) -> Any:
    listen = {"METAINF_P2P_LISTEN": f"{place.ip}:0"}
    return running_node(folder, *options, name=name, wrapper=place.wrapper, extra_environment=listen)


def _until_served(daemon: Daemon) -> None:
    def served() -> bool:
        return any(offer["name"] == MODEL for peer in daemon.peers().values() for offer in peer["models"])

    eventually(served, within=MEET_S, what="a server", children=[daemon.child])


def measure(at: Stage, name: str, seconds: float) -> Phase:
    """Ask honest prompts for a time, and watch what the server uses meanwhile."""
    watch = Watch(at.server.child.pid)
    watch.start()
    command = [*at.at_honest.wrapper, sys.executable, "-m", "tests.benchmarks.edge_client", at.honest.url]
    done = subprocess.run(
        [*command, "--seconds", str(seconds)], cwd=CHECKOUT, capture_output=True, text=True, check=False
    )
    phase = Phase(name, used=watch.stop())
    told: dict[str, Any] = json.loads(done.stdout) if done.stdout else {"failed": done.stderr[-500:]}
    if "failed" in told:
        phase.failed = told["failed"]
        return phase
    whole: list[float] = sorted(told["whole"], key=float)
    phase.prompts, phase.median = len(whole), statistics.median(whole)
    phase.p95 = whole[min(len(whole) - 1, int(0.95 * len(whole)))]
    return phase


@contextmanager
def attacked(at: Stage, plan: Plan, seconds: float, facts: dict[str, Any]) -> Iterator[None]:
    """Attack for a time; what the attacker did comes into `facts` afterwards."""
    program = str(Path(__file__).with_name("edge_attacker.py"))
    attack = ["--sockets", str(plan.sockets), "--garbage", str(plan.garbage), "--seconds", str(seconds)]
    with started(
        "attacker",
        [*at.at_attacker.wrapper, sys.executable, program, "--to", at.port, *attack, "--from", *ATTACKERS],
        folder=at.folder,
        environment=environment(),
        cwd=CHECKOUT,
    ) as child:
        yield
        child.wait(within=seconds + MEET_S)
        facts.update(json.loads(child.stdout.read_text()))


def newcomer_joins(at: Stage) -> float:
    """Start a node and wait until it knows both others; return the seconds from `ready` until it does."""
    with _daemon(at.folder, "newcomer", at.at_newcomer, "--no-engine", "--join", at.server.address) as daemon:
        began = time.monotonic()
        wanted = {at.server.peer_id, at.honest.peer_id}
        eventually(lambda: wanted <= daemon.peers().keys(), within=MEET_S, what="the others", children=[daemon.child])
        return time.monotonic() - began


def benchmark(plan: Plan) -> list[Phase]:
    """Measure before, during and after.

    Raises:
        OSError, AssertionError: as `stage`; or the newcomer did not come in.
    """
    with stage() as at:
        measure(at, "warm", min(2.0, plan.seconds))
        before = measure(at, "before", plan.seconds)
        joined: list[float] = []
        facts: dict[str, Any] = {}
        attack_s = plan.seconds + 2.0
        with attacked(at, plan, attack_s, facts):
            time.sleep(1.0)
            during = measure(at, "during", plan.seconds)
        facts["server"] = _edge(at)
        with attacked(at, plan, 8.0, {}):
            time.sleep(1.0)
            joined.append(newcomer_joins(at))
        facts["newcomer joined after s"] = joined[0]
        during.facts = facts
        after = measure(at, "after", plan.seconds)
        return [before, during, after]


def _edge(at: Stage) -> dict[str, Any]:
    told = subprocess.run(
        [sys.executable, "-m", "node", "peers", "--json", "--data-dir", str(at.server.data)],
        cwd=CHECKOUT,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(told.stdout).get("edge", {})


def broken(phases: Sequence[Phase]) -> list[str]:
    """Return which bounds do not hold."""
    before, during, after = phases
    found = [f"a prompt failed {each.name} the attack: {each.failed}" for each in phases if each.failed]
    if during.used.cpu > before.used.cpu + CPU_MORE:
        found.append(f"CPU {during.used.cpu:.2f} of a core, {before.used.cpu:.2f} before, {CPU_MORE} more are allowed")
    if max(during.used.memory, after.used.memory) > before.used.memory + MEMORY_MORE:
        found.append(f"memory {during.used.memory / 1e6:.0f} MB, {before.used.memory / 1e6:.0f} before")
    if during.used.descriptors > before.used.descriptors + DESCRIPTORS_MORE:
        found.append(f"{during.used.descriptors} descriptors, {before.used.descriptors} before")
    if during.median > SLOWER * before.median + SLOWER_S:
        found.append(f"prompts take {during.median * 1e3:.0f} ms, {before.median * 1e3:.0f} before")
    if during.facts["newcomer joined after s"] > JOIN_S:
        found.append(f"the newcomer came in after {during.facts['newcomer joined after s']:.1f} s")
    return found


def table(phases: Sequence[Phase]) -> str:
    """Return what is told."""
    lines = [f"{'':8}{'prompts':>9}{'median ms':>11}{'p95 ms':>9}{'CPU':>7}{'memory MB':>11}{'descriptors':>13}"]
    lines += [
        f"{each.name:8}{each.prompts:9}{each.median * 1e3:11.1f}{each.p95 * 1e3:9.1f}{each.used.cpu:7.2f}"
        f"{each.used.memory / 1e6:11.1f}{each.used.descriptors:13}"
        for each in phases
    ]
    lines += [f"  {name}: {value}" for each in phases for name, value in each.facts.items()]
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few sockets, a few seconds")
    parser.add_argument("--sockets", type=int)
    parser.add_argument("--garbage", type=float, help="handshakes a second")
    parser.add_argument("--seconds", type=float, help="of each phase")
    options = parser.parse_args(arguments)
    base = QUICK if options.quick else Plan()
    plan = Plan(
        sockets=base.sockets if options.sockets is None else options.sockets,
        garbage=base.garbage if options.garbage is None else options.garbage,
        seconds=options.seconds or base.seconds,
    )
    if (reason := why_not()) is not None:
        print(f"skipped: {reason}")
        return 0
    try:
        phases = benchmark(plan)
    except AssertionError as failure:
        print(f"failed: {failure}")
        return 1
    print(table(phases))
    for each in (found := broken(phases)):
        print(f"broken: {each}")
    return int(bool(found))


if __name__ == "__main__":
    # Ended like an interrupt, so that no daemon and no namespace stays behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main(sys.argv[1:]))
