"""What churn leaves behind: nodes that join, leave, are killed and come back elsewhere.

    python -m tests.benchmarks.bench_churn                          a day in virtual time, then an hour of 12 daemons
    python -m tests.benchmarks.bench_churn --parts day --hours 1
    python -m tests.benchmarks.bench_churn --parts real --minutes 60 --out samples.jsonl      goes on where it stopped
    python -m tests.benchmarks.bench_churn --quick                  what CI runs

Two things are held against bounds: for how long a node lists another that is gone (its lease), and whether tasks,
descriptors or memory grow: the slope in common of all nodes that stay, with its 95 % interval. It fails where a ghost
is older than its lease, where a living node that everybody should know is not known, or where a slope is shown to be
beyond its bound. `undecided` says that the run was too short to tell.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import psutil
import structlog

from node.cli.control_client import get_json
from node.errors import NodeError
from node.places import places
from tests.benchmarks.churn_day import Day, live
from tests.benchmarks.slopes import Slope, slope, without
from tests.e2e.daemon import Daemon, running_node

LEASE_S = 180.0  # of an advert in a swarm of this size: three intervals of a minute
# Per hour, of each node: what would take weeks to harm. A node has some 100 tasks, 30 descriptors and 110 MB.
BOUNDS = {"tasks": 4.0, "descriptors": 2.0, "memory MB": 4.0}
PEERS = "connected peers"
DAY_BOUNDS = {"tasks of each node": 0.5, "memory MB, all nodes": 4.0}
MEET_S = 60.0  # for a node that came up to be known everywhere, on a busy machine
WARM_S = 120.0  # of each run: what is loaded and cached once is no leak
SETTLE_S = 10.0  # after the last: all are still there, and everybody has had the time to hear of it


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is done.

    Attributes:
        stay: of the nodes, never touched: what grows is seen in them.
        every: s between two events.
        hours: virtual ones, of the day.
    """

    nodes: int = 12
    stay: int = 4
    minutes: float = 60.0
    every: float = 10.0
    hours: float = 24.0
    warm: float = WARM_S


QUICK = Plan(nodes=4, stay=2, minutes=0.25, every=2.0, hours=1.0, warm=0.0)


@dataclass
class Seen:
    """What a run of daemons has shown: of this one, and of those before that were broken off.

    Attributes:
        samples: by measure and by node of a run: seconds and value.
        ghost: seconds; the longest that a node was listed after its end.
        strangers: who was not known although it had been up for longer than a lease.
    """

    samples: dict[str, dict[str, list[tuple[float, float]]]] = field(
        default_factory=lambda: {measure: {} for measure in (*BOUNDS, PEERS)}
    )
    events: dict[str, int] = field(default_factory=dict)
    ghost: float = 0.0
    strangers: list[str] = field(default_factory=list)
    seconds: float = 0.0
    runs: int = 0

    def take(self, row: Mapping[str, Any]) -> None:
        """Add one row of the file."""
        self.seconds = max(self.seconds, row["total"])
        self.runs = max(self.runs, row["run"] + 1)
        self.ghost = max(self.ghost, row["ghost"])
        self.strangers += row["strangers"]
        if row["event"]:
            self.events[row["event"]] = self.events.get(row["event"], 0) + 1
        for node, values in row["nodes"].items():
            for measure, value in values.items():
                self.samples[measure].setdefault(f"{row['run']}/{node}", []).append((row["at"], value))


class Churn:
    """Daemons on loopback, each life at an address of its own."""

    def __init__(self, folder: Path, plan: Plan, luck: random.Random) -> None:
        """Prepare; nothing runs yet."""
        self._folder = folder
        self._plan = plan
        self._luck = luck
        self._lives = 0
        self._running: dict[str, ExitStack] = {}
        self.daemons: dict[str, Daemon] = {}
        self.since: dict[str, float] = {}
        self.ended: dict[str, float] = {}  # by peer id
        self.names = [f"n{number:02}" for number in range(plan.nodes)]

    def come(self, name: str) -> None:
        """Start a node at a new address; one that was there before is the same identity again."""
        self._lives += 1
        host = f"127.{self._lives >> 8 & 255}.{self._lives & 255}.7"
        stayers = [self.daemons[each].address for each in self.names[: self._plan.stay] if each in self.daemons]
        join = [option for address in stayers[:2] for option in ("--join", address)]
        running = ExitStack()
        self.daemons[name] = running.enter_context(
            running_node(
                self._folder,
                *("--no-engine", *join),
                name=name,
                extra_environment={"METAINF_P2P_LISTEN": f"{host}:0"},
            )
        )
        self._running[name] = running
        self.since[name] = time.monotonic()
        self.ended.pop(self.daemons[name].peer_id, None)

    def go(self, name: str, number: signal.Signals) -> None:
        """End a node."""
        daemon = self.daemons.pop(name)
        del self.since[name]
        self.ended[daemon.peer_id] = time.monotonic()
        daemon.signal(number)
        if number != signal.SIGKILL:
            daemon.child.wait(within=MEET_S)
            self.ended[daemon.peer_id] = time.monotonic()  # it was there until it had said good-bye
        self._running.pop(name).close()

    def step(self) -> str:
        """Have one thing happen; return what."""
        here = [name for name in self.names[self._plan.stay :] if name in self.daemons]
        away = [name for name in self.names if name not in self.daemons]
        what = self._luck.choice(["join", "leave", "kill", "move"])
        if (what == "join" and not away) or not here:
            what = "move" if here else "join"
        if what in {"leave", "kill"} and len(away) >= self._plan.nodes // 3:
            what = "join"
        if what == "join":
            self.come(self._luck.choice(away))
            return what
        name = self._luck.choice(here)
        self.go(name, signal.SIGKILL if what == "kill" else signal.SIGTERM)
        if what == "move":
            self.come(name)
        return what

    def look(self) -> tuple[float, list[str], dict[str, dict[str, float]]]:
        """Return the oldest ghost, who is not known that should be, and what each node that stays uses."""
        ghost, strangers, used = 0.0, list[str](), dict[str, dict[str, float]]()
        ids = {name: daemon.peer_id for name, daemon in self.daemons.items()}
        for name, daemon in self.daemons.items():
            listed = {peer["peer_id"] for peer in self._ask(daemon, "/peers")["peers"]}
            now = time.monotonic()
            ghost = max([ghost, *(now - self.ended[peer] for peer in listed & self.ended.keys())])
            old = {each for each, since in self.since.items() if now - since > LEASE_S}
            if name in old:
                strangers += [f"{each} at {name}" for each in old - {name} if ids[each] not in listed]
            if name in self.names[: self._plan.stay]:
                process = psutil.Process(daemon.child.pid)
                status = self._ask(daemon, "/status")
                used[name] = {
                    PEERS: float(status["peers"]["connected"]),
                    "tasks": float(status["tasks"]),
                    "descriptors": float(process.num_fds()),
                    "memory MB": process.memory_info().rss / 1e6,
                }
        return ghost, strangers, used

    def close(self) -> None:
        """End everybody: told all at once, because each takes its time to say good-bye."""
        for daemon in self.daemons.values():
            if daemon.child.running():
                daemon.signal(signal.SIGTERM)
        with ExitStack() as all_of_them:
            for running in self._running.values():
                all_of_them.push(running)

    @staticmethod
    def _ask(daemon: Daemon, page: str) -> Any:
        where = places(os.environ, uid=os.getuid(), data_dir=daemon.data)
        try:
            return get_json(where.control_socket, page)
        except NodeError as error:
            raise AssertionError(f"{daemon.child.name} does not answer: {error.message}") from error


@contextmanager
def daemons(plan: Plan, luck: random.Random) -> Iterator[Churn]:
    """Start all of them."""
    with tempfile.TemporaryDirectory(prefix="bench-churn-") as folder:
        churn = Churn(Path(folder), plan, luck)
        try:
            for name in churn.names:
                churn.come(name)
            yield churn
        finally:
            churn.close()


def real(plan: Plan, *, out: Path | None, seed: int) -> Seen:
    """Have daemons come and go until all minutes are over, those of earlier runs in `out` included.

    Raises:
        AssertionError: a daemon does not come up, or does not answer.
    """
    seen = Seen()
    for line in out.read_text().splitlines() if out is not None and out.exists() else ():
        seen.take(json.loads(line))
    run, before = seen.runs, seen.seconds
    if before >= plan.minutes * 60:
        return seen
    with daemons(plan, random.Random(seed + run)) as churn:  # noqa: S311 -- whom it hits, no secret
        began = time.monotonic()
        event, next_step = "", began
        while True:
            ghost, strangers, used = churn.look()
            at = time.monotonic() - began
            row = {
                "run": run,
                "at": at,
                "total": before + at,
                "event": event,
                "ghost": ghost,
                "strangers": strangers,
                "nodes": used if at >= plan.warm else {},
            }
            seen.take(row)
            if out is not None:
                with out.open("a") as file:
                    file.write(json.dumps(row) + "\n")
            if row["total"] >= plan.minutes * 60:
                break
            next_step += plan.every
            time.sleep(max(0.0, next_step - time.monotonic()))
            event = churn.step()
            next_step = max(next_step, time.monotonic())
        time.sleep(min(SETTLE_S, plan.every))
        ghost, strangers, _ = churn.look()
        seen.ghost = max(seen.ghost, ghost)
    return seen


def together(series: Mapping[str, Sequence[tuple[float, float]]]) -> dict[str, list[tuple[float, float]]]:
    """Return one series for each run, the mean of its nodes: what happens in a swarm happens to all of them at once."""
    runs: dict[str, list[Sequence[tuple[float, float]]]] = {}
    for name, samples in series.items():
        runs.setdefault(name.partition("/")[0], []).append(samples)
    return {
        run: [(row[0][0], fmean(value for _, value in row)) for row in zip(*nodes, strict=True)]
        for run, nodes in runs.items()
    }


def line(name: str, found: Slope, bound: float) -> str:
    """Return what is told of one slope."""
    interval = f"[{found.low:+.2f}, {found.high:+.2f}]"
    return f"  {name:24}{found.value:+9.2f} /h  95 % {interval:22} bound {bound:+.1f}  {found.against(bound)}"


def told_of_day(day: Day, plan: Plan) -> tuple[list[str], bool]:
    """Return the lines about a day, and whether it failed."""
    series = {
        "tasks of each node": day.tasks,
        "memory MB, all nodes": [(at, value / 1e6) for at, value in day.memory],
    }
    found = {name: slope({"": [each for each in samples if each[0] > 3600]}) for name, samples in series.items()}
    lines = [
        f"{plan.hours:g} h in virtual time, {plan.nodes} nodes, events: {dict(sorted(day.events.items()))}",
        f"  oldest ghost {day.ghost:.0f} s, lease {LEASE_S:.0f} s;"
        f" looks with a living node unknown: {day.apart} of {day.looks}",
        *(line(name, each, DAY_BOUNDS[name]) for name, each in found.items()),
    ]
    beyond = any(each.against(DAY_BOUNDS[name]) == "beyond" for name, each in found.items())
    return lines, beyond or day.ghost > LEASE_S or day.apart > 0


def told_of_daemons(seen: Seen, plan: Plan) -> tuple[list[str], bool]:
    """Return the lines about the daemons, and whether they failed."""
    # Each neighbour is a descriptor and some tasks: that there are more of them now is no leak.
    peers = together(seen.samples[PEERS])
    found = {name: slope(without(together(seen.samples[name]), peers)) for name in BOUNDS}
    lines = [
        f"{seen.seconds / 60:.1f} minutes in {seen.runs} runs, {plan.nodes} daemons, {plan.stay} of them stay,"
        f" events: {dict(sorted(seen.events.items()))}",
        f"  oldest ghost {seen.ghost:.1f} s, lease {LEASE_S:.0f} s;"
        f" not known when they should be: {seen.strangers or 'none'}",
        *(line(name, each, BOUNDS[name]) for name, each in found.items()),
    ]
    beyond = any(each.against(BOUNDS[name]) == "beyond" for name, each in found.items())
    return lines, beyond or seen.ghost > LEASE_S or bool(seen.strangers)


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="an hour and a quarter of a minute, few nodes")
    parser.add_argument("--parts", default="day,real")
    parser.add_argument("--hours", type=float, help="virtual ones, of the day")
    parser.add_argument("--minutes", type=float, help="of the daemons, those of earlier runs in --out included")
    parser.add_argument("--nodes", type=int)
    parser.add_argument("--out", type=Path, help="JSON Lines of the daemons; a second call goes on")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    parts = options.parts.split(",")
    if unknown := set(parts) - {"day", "real"}:
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    plan = QUICK if options.quick else Plan()
    plan = replace(
        plan,
        nodes=options.nodes or plan.nodes,
        hours=options.hours or plan.hours,
        minutes=options.minutes or plan.minutes,
    )
    failed = False
    if "day" in parts:
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
        day = live(nodes=plan.nodes, hours=plan.hours, seed=options.seed, lease=LEASE_S)
        lines, bad = told_of_day(day, plan)
        print("\n".join(lines), flush=True)
        failed |= bad
    if "real" in parts:
        try:
            seen = real(plan, out=options.out, seed=options.seed)
        except AssertionError as failure:
            print(f"failed: {failure}")
            return 1
        lines, bad = told_of_daemons(seen, plan)
        print("\n".join(lines), flush=True)
        failed |= bad
    return int(failed)


if __name__ == "__main__":
    # Ended like an interrupt, so that no daemon stays behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main(sys.argv[1:]))
