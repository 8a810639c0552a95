"""How a swarm of daemons comes to one history, and what that costs each of them.

    python -m tests.benchmarks.bench_history_swarm                    four minutes, as root: ten nodes, 200 records each
    python -m tests.benchmarks.bench_history_swarm --quick            half a minute: three nodes, a few records

Every node is a process of its own and speaks libp2p; each has a network namespace, so that the kernel counts its bytes
and the halves of the swarm can be cut apart. Where that is not permitted all run on loopback, and nothing is cut.
What was acknowledged is written down in this process. A run in which anything of it is missing fails.
"""

import argparse
import json
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.fronts import cpu_seconds
from tests.e2e.histories import Swarm, lacking
from tests.e2e.namespaces import Halves, carried, two_halves, why_not

EVERYWHERE_S = 180.0  # after which a run has failed; what is wanted is 60
SETTLED_S = 2.0  # after the last node has all: copies that are still on their way are counted too
LATE = ("down", "fresh")  # one that was up once before anything was written, one that never was
SMALL_BATCH = 4  # records given together to nodes that are killed meanwhile: more moments to die at

Figures = dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is done.

    Attributes:
        records: of each node. cut_records: of each node while the halves are apart.
        cut_s: that they are apart at the least: to be given up, a connection must be silent for some time.
    """

    nodes: int = 10
    records: int = 200
    cut_records: int = 100
    cut_s: float = 60.0


QUICK = Plan(nodes=3, records=16, cut_records=8, cut_s=1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What a node has used since it came up."""

    cpu: float  # s
    wire: int | None  # bytes in and out, headers included
    exchanged: Mapping[str, int]


@contextmanager
def network(plan: Plan, spare: Sequence[str] = ()) -> Iterator[tuple[Swarm, list[str], Halves | None]]:
    """Give a swarm without nodes, their names, the first half in the east, and the network if it can be cut."""
    names = [f"n{number:02}" for number in range(plan.nodes)]
    east = (plan.nodes + 1) // 2
    with tempfile.TemporaryDirectory(prefix="bench-history-") as folder:
        if why_not():
            with Swarm(Path(folder)) as swarm:
                yield swarm, names, None
            return
        with two_halves(east + len(spare), plan.nodes - east) as halves:
            order = (*names[:east], *spare, *names[east:])
            with Swarm(Path(folder), dict(zip(order, halves.east + halves.west, strict=True))) as swarm:
                yield swarm, names, halves


def spent(swarm: Swarm, names: Iterable[str]) -> dict[str, Spent]:
    """Ask what each has used so far."""
    found = {}
    for name in names:
        pid = swarm.daemons[name].child.pid
        exchanged = swarm.status(name)["records"]["exchanged"]
        found[name] = Spent(cpu=cpu_seconds(pid), wire=carried(pid), exchanged=exchanged)
    return found


def everywhere(swarm: Swarm, names: Collection[str]) -> list[float]:
    """Wait until these hold all that was acknowledged, compare every byte, and return when each held it."""
    log = swarm.acknowledged()
    reached = swarm.wait_until_held(names, len(log), within=EVERYWHERE_S)
    swarm.compare(names, log)
    return list(reached.values())


def everybody_writes(plan: Plan, _luck: random.Random) -> Iterator[tuple[str, Figures]]:
    """All write at once; then come one that was away meanwhile, and one that is new."""
    with network(plan, LATE) as (swarm, names, _):
        swarm.start(*names, LATE[0])
        swarm.end(LATE[0])
        before, began = spent(swarm, names), time.monotonic()
        swarm.write(names, plan.records)
        last = swarm.last()
        reached = everywhere(swarm, names)
        time.sleep(SETTLED_S)
        after = spent(swarm, names)
        figures = {
            "acknowledged, records/s": f"{plan.nodes * plan.records / (last - began):.0f}",
            "everywhere after the last, s": f"{max(reached) - last:.1f}",
            "at half of the nodes, s": f"{max(statistics.median(reached) - last, 0.0):.1f}",
            **costs(before, after),
        }
        facts = swarm.status(names[0])["records"]
        figures["the records themselves, KB"] = f"{facts['bytes'] / 1e3:.0f}"
        yield f"{plan.nodes} nodes, {plan.records} records each", figures
        for name in LATE:
            began = time.monotonic()
            swarm.start(name, meet=False)
            ready = time.monotonic()
            (reached_at,) = everywhere(swarm, [name])
            came = {
                "has all after its start, s": f"{reached_at - began:.1f}",
                "after it was ready, s": f"{max(reached_at - ready, 0.0):.1f}",
                "CPU, s": f"{cpu_seconds(swarm.daemons[name].child.pid):.2f}",
            }
            yield f"one that was {'down meanwhile' if name == 'down' else 'never up'}", came


def costs(before: Mapping[str, Spent], after: Mapping[str, Spent]) -> Figures:
    """Return what each node has used between, as least, median and most."""

    def over(what: Callable[[Spent], float], scale: float = 1.0, form: str = ".0f") -> str:
        each = [(what(after[name]) - what(before[name])) / scale for name in after]
        return " / ".join(f"{of(each):{form}}" for of in (min, statistics.median, max))

    def count(name: str) -> Callable[[Spent], float]:
        return lambda one: one.exchanged[name]

    figures = {
        "new records": over(count("new")),
        "duplicates received (`known`)": over(count("known")),
        "heard by gossip, KB": over(count("bytes_gossip"), 1e3),
        "answers of neighbours, KB": over(count("bytes_in"), 1e3),
        "answers to neighbours, KB": over(count("bytes_out"), 1e3),
        "CPU, s": over(lambda one: one.cpu, form=".2f"),
    }
    if all(one.wire is not None for one in after.values()):
        figures["bytes on the wire, in and out, KB"] = over(lambda one: one.wire or 0, 1e3)
    return figures


def halves_apart(plan: Plan, _luck: random.Random) -> Iterator[tuple[str, Figures]]:
    """Two halves write while they cannot reach each other."""
    with network(plan) as (swarm, names, halves):
        if halves is None:
            yield "two halves: left out", {"because": why_not() or ""}
            return
        swarm.start(*names)
        halves.cut()
        cut = time.monotonic()
        swarm.write(names, plan.cut_records)
        last = swarm.last()
        parts = names[: len(halves.east)], names[len(halves.east) :]
        reached = [
            at
            for part in parts
            for at in swarm.wait_until_held(part, plan.cut_records * len(part), within=EVERYWHERE_S).values()
        ]
        time.sleep(max(0.0, cut + plan.cut_s - time.monotonic()))
        for part in parts:
            assert {swarm.status(name)["records"]["total"] for name in part} == {plan.cut_records * len(part)}, "leaks"
        connected = [swarm.status(name)["peers"]["connected"] for name in names]
        halves.heal()
        healed = time.monotonic()
        figures = {
            "apart, s": f"{healed - cut:.0f}",
            "everywhere in each half after the last, s": f"{max(reached) - last:.1f}",
            "connections that seemed alive when it healed": f"{statistics.median(connected):.0f}",
            "everywhere after healing, s": f"{max(everywhere(swarm, names)) - healed:.1f}",
        }
        yield f"two halves cut apart, {plan.cut_records} records each", figures


def some_are_killed(plan: Plan, luck: random.Random) -> Iterator[tuple[str, Figures]]:
    """One third dies while it writes, and comes back."""
    with network(plan) as (swarm, names, _):
        swarm.start(*names)
        victims = luck.sample(names[1:], k=max(1, plan.nodes // 3))
        for name in names:
            swarm.writers[name].sign(plan.records)
        with ThreadPoolExecutor(len(names)) as pool:
            writing = [
                pool.submit(
                    swarm.kill_while_it_writes, name, left=int(luck.uniform(0.3, 0.7) * plan.records), batch=SMALL_BATCH
                )
                if name in victims
                else pool.submit(swarm.writers[name].write, batch=SMALL_BATCH)
                for name in names
            ]
            for each in writing:
                each.result()
        before = sum(len(swarm.writers[name].acknowledged) for name in victims)
        lost = sum(len(lacking(swarm.writers[name].data, swarm.writers[name].acknowledged)) for name in victims)
        assert not lost, f"{lost} records were acknowledged and are not in their node's file"
        came = time.monotonic()
        swarm.start(*victims, meet=False)
        for name in victims:
            swarm.writers[name].write()
        last = swarm.last()
        figures = {
            "killed": str(len(victims)),
            "acknowledged by them before, lost": f"{before}, {lost}",
            "on the disk, not yet acknowledged": str(sum(swarm.writers[name].known for name in victims)),
            "up again, and the rest written, after, s": f"{last - came:.1f}",
            "everywhere after the last, s": f"{max(everywhere(swarm, names)) - last:.1f}",
            "acknowledged and missing anywhere": "0",  # or `everywhere` had failed
        }
        yield f"one third killed in the middle of {plan.records} records each", figures


PARTS: Mapping[str, Callable[[Plan, random.Random], Iterator[tuple[str, Figures]]]] = {
    "all": everybody_writes,
    "halves": halves_apart,
    "kills": some_are_killed,
}


def benchmark(plan: Plan, parts: Iterable[str], seed: int) -> Iterator[tuple[str, Figures]]:
    """Yield titles and figures as they come.

    Raises:
        AssertionError: something that was acknowledged is missing somewhere, or came too late.
    """
    for name in parts:
        yield from PARTS[name](plan, random.Random(seed))  # noqa: S311 -- whom it hits and when, no secret


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three nodes, a few records")
    parser.add_argument("--parts", default=",".join(PARTS), help="comma-separated; all of them unless said")
    parser.add_argument("--nodes", type=int)
    parser.add_argument("--records", type=int, help="of each node")
    parser.add_argument("--cut", type=float, help="seconds that the halves are apart at the least")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    options = parser.parse_args(arguments)
    parts = options.parts.split(",")
    if unknown := set(parts) - PARTS.keys():
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    base = QUICK if options.quick else Plan()
    plan = Plan(
        nodes=options.nodes or base.nodes,
        records=options.records or base.records,
        cut_records=max(1, (options.records or base.records) // 2),
        cut_s=base.cut_s if options.cut is None else options.cut,
    )
    told: dict[str, Figures] = {}
    try:
        for title, figures in benchmark(plan, parts, options.seed):
            told[title] = figures
            print(title)
            for name, value in figures.items():
                print(f"  {name:48}{value:>28}")
            print(flush=True)
    except AssertionError as failure:
        print(f"failed: {failure}")
        return 1
    if options.json:
        options.json.write_text(json.dumps(told))
    return 0


if __name__ == "__main__":
    # Ended like an interrupt, so that no daemon and no namespace stays behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main(sys.argv[1:]))
