"""A whole history into a fresh node from one neighbour: how fast, in how much memory, and who waits meanwhile.

Two daemons on loopback over real libp2p: a neighbour whose disk has all records, and a node that has none and serves
prompts over the stub engine. The neighbour joins; from then on the fresh node's records, memory, processor time and
loop lag are read once a second, and it is asked a prompt once a second. Bare verification is the Ed25519 signature
alone, over as many bytes on the same machine, before and after.

    python -m tests.benchmarks.bench_fresh_node --records 2000                  half a minute
    python -m tests.benchmarks.bench_fresh_node --out FOLDER [--json FILE]      100,000 records; the folder keeps them

An author may keep 1,024 records, so 100,000 are of a hundred authors.
"""

import argparse
import json
import math
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import httpx2
import psutil
import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from node.adapters.store.history import open_history
from node.cli.control_client import get_json
from node.clock import wall_us
from node.core.own_records import LIFETIME_US
from node.history import record_rules
from node.places import places
from protocol import limits
from protocol.ids import PUBLIC_SWARM, Epoch
from protocol.performance import PERFORMANCE
from tests.benchmarks.fronts import cpu_seconds
from tests.e2e.children import eventually
from tests.e2e.daemon import Daemon, node_over_stub, running_node
from tests.fakes.stub_launch import MODEL
from tests.protocol.performance_samples import STRATEGY, performance

OF_ONE: Final = 1000  # records of one author, less than are retained
BARE: Final = 3000  # signatures that bare verification is timed with
IDLE_S: Final = 5.0  # of the fresh node by itself, to compare with
START_S: Final = 120.0
SLOWEST: Final = 100.0  # records a second: slower than that, something is wrong
LATE_S: Final = 0.05
MIB: Final = 2**20


# -- the neighbour's history


def key_of(number: int) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(sha256(b"author %d" % number).digest())


async def make_history(file: Path, count: int) -> None:
    """Sign so many records and keep them as a node does."""
    now, authors = wall_us(), math.ceil(count / OF_ONE)
    epoch, keys = Epoch(now - limits.DAY_US), [key_of(number) for number in range(authors)]

    def sealed(index: int) -> bytes:
        seq = index // authors
        # Of some cells, as an author's trials are; measured over hours.
        strategy, time_us = replace(STRATEGY, max_num_seqs=1 + seq % 250), epoch.start_us + seq * limits.SECOND_US
        stamp = {"seq": seq, "epoch": epoch, "time": time_us, "expiry": time_us + LIFETIME_US}
        return performance(keys[index % authors], strategy=strategy, **stamp).sealed

    async with open_history(file, record_rules(PUBLIC_SWARM), now_us=wall_us) as history:
        for at in range(0, count, limits.BATCH_RECORDS):
            batch = [sealed(index) for index in range(at, min(at + limits.BATCH_RECORDS, count))]
            await history.admit(batch, via=None)
            if sys.stderr.isatty():
                print(f"\r{at} of {count} records signed", end="", file=sys.stderr)
        if history.facts().records != count:
            raise RuntimeError(f"{count} records were to be kept: {history.facts()}")


def history_of(count: int, folder: Path) -> Path:
    """Return the file of a history of so many records; made where it is not there."""
    file = folder / f"history-{count}.sqlite"
    if not file.exists():
        making = folder / f"making-{os.getpid()}.sqlite"
        trio.run(make_history, making, count)
        making.rename(file)
    return file


def bare() -> tuple[float, float]:
    """Return signatures verified in a second, by the wall and by the processor."""
    key = key_of(0)
    public = key.public_key()
    size = len(performance(key).sealed) - 100
    messages = [PERFORMANCE.prefix + bytes(size) + b"%d" % number for number in range(BARE)]
    signatures = [key.sign(each) for each in messages]
    wall, cpu = time.perf_counter(), time.thread_time()
    for message, signature in zip(messages, signatures, strict=True):
        public.verify(signature, message)
    return BARE / (time.perf_counter() - wall), BARE / (time.thread_time() - cpu)


# -- the fresh node, seen from outside


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """The fresh node at one moment. Lags are of the last minute, milliseconds."""

    at: float
    records: int
    rss: int
    cpu: float
    lag: dict[str, float]


@dataclass
class Prompts:
    """What a client saw who asked once a second: seconds to the first token, and when."""

    first: list[tuple[float, float]] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


def look(daemon: Daemon) -> Look:
    where = places(os.environ, uid=os.getuid(), data_dir=daemon.data)
    status = get_json(where.control_socket, "/status")
    process = psutil.Process(daemon.child.pid)
    times = process.cpu_times()
    return Look(
        at=time.monotonic(),
        records=status["records"]["total"],
        rss=process.memory_info().rss,
        cpu=times.user + times.system,
        lag=status["loop_lag_ms"],
    )


@contextmanager
def asking(daemon: Daemon) -> Iterator[Prompts]:
    """Ask a prompt once a second until left."""
    prompts, ended = Prompts(), threading.Event()

    def ask() -> None:
        body = {"model": MODEL, "prompt": "a b", "max_tokens": 4, "stream": True}
        with httpx2.Client(timeout=30.0) as client:
            while not ended.wait(1.0):
                began = time.monotonic()
                try:
                    with client.stream("POST", f"{daemon.url}/v1/completions", json=body) as response:
                        first = next(line for line in response.iter_lines() if line.startswith("data: "))
                        prompts.first.append((began, time.monotonic() - began))
                        if "error" in first or response.status_code != 200:
                            prompts.failed.append(first)
                except (httpx2.HTTPError, StopIteration) as error:
                    prompts.failed.append(repr(error))

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield prompts
    finally:
        ended.set()
        thread.join()


def late_looks(page: str) -> tuple[float, float]:
    """Return how often the loop was looked at, and how often it was more than `LATE_S` late."""
    name = "metainf_loop_lag_seconds"
    figures = dict(line.rsplit(" ", 1) for line in page.splitlines() if line.startswith(name))
    total = float(figures[f"{name}_count"])
    return total, total - float(figures[f'{name}_bucket{{le="{LATE_S}"}}'])


def pulled(fresh: Daemon, count: int) -> list[Look]:
    """Look once a second until all records are there."""
    looks, until = [look(fresh)], time.monotonic() + START_S + count / SLOWEST
    while looks[-1].records < count:
        time.sleep(1.0)
        looks.append(look(fresh))
        one = looks[-1]
        print(
            f"{one.at - looks[0].at:6.1f} s  {one.records:7} records  RSS {one.rss / MIB:6.1f} MiB  lag p50 "
            f"{one.lag['p50']:.1f}, p99 {one.lag['p99']:.1f}, max {one.lag['max']:.1f} ms",
            file=sys.stderr,
        )
        if one.at > until:
            raise RuntimeError(f"only {one.records} of {count} records came")
    return looks


def measure(count: int, histories: Path, folder: Path) -> dict[str, float]:
    file = history_of(count, histories)
    before = bare()
    there = folder / "neighbour-data" / "history" / f"{PUBLIC_SWARM}.sqlite"
    there.parent.mkdir(parents=True)
    shutil.copy(file, there)
    with node_over_stub(folder, name="fresh", token_delay=0.01) as fresh:
        fresh.wait_for_engine(within=START_S)
        with asking(fresh) as prompts:
            alone_from = look(fresh)
            time.sleep(IDLE_S)
            alone = look(fresh)
            looked = late_looks(fresh.metrics())
            with running_node(folder, "--no-engine", "--join", fresh.address, name="neighbour") as neighbour:
                met = lambda: neighbour.peer_id in fresh.peers()  # noqa: E731
                eventually(met, within=START_S, what="each other", children=[fresh.child, neighbour.child])
                served = cpu_seconds(neighbour.child.pid)
                looks = pulled(fresh, count)
                served = cpu_seconds(neighbour.child.pid) - served
                looked = [now - then for now, then in zip(late_looks(fresh.metrics()), looked, strict=True)]
                status = fresh.status()
    after = bare()
    wall, cpu = ((one + other) / 2 for one, other in zip(before, after, strict=True))
    begun = next(index for index, one in enumerate(looks) if one.records) - 1
    first, last = looks[max(0, begun)], looks[-1]
    seconds, came = last.at - first.at, count - first.records
    # The last minute's p99 at every moment of the pull; of the whole pull there is the share of late looks.
    working = came / (last.cpu - first.cpu)
    asked = [took for began, took in prompts.first if began >= first.at]
    idle = [took for began, took in prompts.first if began < alone.at]
    return {
        "records": count,
        "seconds": seconds,
        "records per second": came / seconds,
        "bare signatures per second": wall,
        "rate / bare signatures": came / seconds / wall,
        "rate / bare signatures, of processor time": working / cpu,
        "CPU of the fresh node, µs per record": 1e6 / working,
        "CPU of the neighbour, µs per record": 1e6 * served / came,
        "bytes per record pulled": status["records"]["exchanged"]["bytes_in"] / count,
        "RSS before MiB": first.rss / MIB,
        "RSS max MiB": max(one.rss for one in looks) / MIB,
        "RSS at the end MiB": last.rss / MIB,
        "lag idle p99 ms": alone.lag["p99"],
        "lag p50 ms (last minute)": last.lag["p50"],
        "lag p99 ms (worst minute)": max(one.lag["p99"] for one in looks),
        "lag max ms": max(one.lag["max"] for one in looks),
        "looks at the loop": looked[0],
        "of them later than 50 ms, %": 100 * looked[1] / looked[0],
        "prompts": len(asked),
        "prompts that failed": len(prompts.failed),
        "first token idle p50 ms": 1e3 * percentile(idle, 0.5),
        "first token p50 ms": 1e3 * percentile(asked, 0.5),
        "first token p95 ms": 1e3 * percentile(asked, 0.95),
        "first token max ms": 1e3 * percentile(asked, 1.0),
        "CPU idle, % of a core": 100 * (alone.cpu - alone_from.cpu) / (alone.at - alone_from.at),
    }


def percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[int(share * (len(values) - 1))] if values else math.nan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--out", type=Path, help="keeps the neighbour's history for the next time")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-fresh-") as name:
        histories: Path = chosen.out or Path(name)
        histories.mkdir(parents=True, exist_ok=True)
        figures: dict[str, Any] = measure(chosen.records, histories, Path(name))
    for key, value in figures.items():
        print(f"{key:44}{value:>12.2f}")
    if chosen.json:
        chosen.json.write_text(json.dumps(figures))


if __name__ == "__main__":
    # Ended like an interrupt, so that no daemon stays behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    main()
