"""What a conversation with a peer costs: two processes on loopback, one asks, one answers.

    python -m tests.benchmarks.bench_p2p --quick
    python -m tests.benchmarks.bench_p2p --without WINDOW_CREDIT
    python -m tests.benchmarks.bench_p2p --lattica PYTHON

CPU is user and system time of both processes, by the kernel's clock. With `--lattica` the same payloads go through
lattica too (a libp2p in Rust, called from Python), each round right after ours. See README.md.
"""

import argparse
import json
import logging
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import trio

with warnings.catch_warnings():  # libp2p 0.8.1 imports a part of websockets that announces its end
    warnings.simplefilter("ignore", DeprecationWarning)
    from node.adapters.p2p.host import P2pHost, open_host
from node.adapters.p2p.workarounds import Workaround
from node.ports import PeerStream
from protocol.addresses import Address, parse_address

HERE = Address("ip4", "127.0.0.1", 0)
ECHO, PUMP = "/metainf/bench-echo/1", "/metainf/bench-pump/1"
CHUNK = 100  # bytes: about a token with its frame
ASK = 1024  # bytes: a short prompt
BULK = 256 * 1024
PATIENCE = 60.0
WARM_UP = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much is measured."""

    rounds: int = 2000
    streams: int = 300
    chunks: int = 20_000
    bulk: int = 256  # frames of BULK bytes
    concurrent: int = 64


QUICK = Size(rounds=100, streams=20, chunks=500, bulk=8, concurrent=8)


async def echo(stream: PeerStream) -> None:
    while (payload := await stream.receive()) is not None:
        await stream.send(payload)


async def pump(stream: PeerStream) -> None:
    """Send as many frames of a size as the question says; end with the CPU seconds of this process."""
    while (question := await stream.receive()) is not None:
        count, size = (int(each) for each in question.split())
        payload = bytes(size)
        for _ in range(count):
            await stream.send(payload)
        await stream.send(b"%d" % time.process_time_ns())


async def serve() -> None:
    """Answer until standard input ends; print the address first."""
    async with open_host(os.urandom(32), [HERE]) as host:
        host.serve(ECHO, echo)
        host.serve(PUMP, pump)
        print(host.addresses()[0], flush=True)
        await trio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)


async def round_trips(stream: PeerStream, count: int, size: int = CHUNK) -> list[float]:
    times = []
    for _ in range(count):
        began = time.perf_counter()
        await stream.send(b"x" * size)
        await stream.receive()
        times.append(time.perf_counter() - began)
    return times


async def pumped(stream: PeerStream, count: int, size: int) -> tuple[float, float, float]:
    """Return seconds, and CPU seconds here and there."""
    await stream.send(b"0 1")
    there = int(await stream.receive() or b"0")
    here, began = time.process_time(), time.perf_counter()
    await stream.send(b"%d %d" % (count, size))
    for _ in range(count):
        await stream.receive()
    seconds, spent = time.perf_counter() - began, time.process_time() - here
    return seconds, spent, (int(await stream.receive() or b"0") - there) / 1e9


async def measure(address: Address, size: Size, disabled: frozenset[Workaround]) -> dict[str, float]:
    peer = address.peer
    assert peer is not None
    row: dict[str, float] = {}
    async with open_host(os.urandom(32), [HERE], disabled=disabled) as host:
        host.learn(peer, [address])
        began = time.perf_counter()
        await host.connect(peer)
        row["connect ms"] = 1e3 * (time.perf_counter() - began)
        async with host.open(peer, ECHO, patience=PATIENCE) as stream:
            for name, payload in (("100 B", CHUNK), ("1 KiB", ASK)):
                await round_trips(stream, WARM_UP, payload)
                times = await round_trips(stream, size.rounds, payload)
                row[f"round trip {name} p50 ms"] = 1e3 * statistics.median(times)
                row[f"round trip {name} p99 ms"] = 1e3 * sorted(times)[int(0.99 * len(times))]
        row["new stream p50 ms"] = 1e3 * statistics.median(
            [await new_stream(host, address) for _ in range(size.streams)]
        )
        async with host.open(peer, PUMP, patience=PATIENCE) as stream:
            await pumped(stream, WARM_UP, CHUNK)
            seconds, here, there = await pumped(stream, size.chunks, CHUNK)
            row["chunk CPU server us"] = 1e6 * there / size.chunks
            row["chunk CPU client us"] = 1e6 * here / size.chunks
            row["chunks per s"] = size.chunks / seconds
            seconds, here, there = await pumped(stream, size.bulk, BULK)
            row["bulk MB per s"] = size.bulk * BULK / seconds / 1e6
            row["bulk CPU s per GB"] = 1e9 * (here + there) / (size.bulk * BULK)
        row["concurrent round trips per s"] = await concurrently(host, address, size)
    return row


async def new_stream(host: P2pHost, address: Address) -> float:
    assert address.peer is not None
    began = time.perf_counter()
    async with host.open(address.peer, ECHO, patience=PATIENCE) as stream:
        await stream.send(b"x" * CHUNK)
        await stream.receive()
        await stream.finish()
        await stream.receive()
    return time.perf_counter() - began


async def concurrently(host: P2pHost, address: Address, size: Size) -> float:
    """Many streams at once, each asking again as soon as it is answered."""
    peer, each = address.peer, max(1, size.rounds // size.concurrent)
    assert peer is not None

    async def ask() -> None:
        async with host.open(peer, ECHO, patience=PATIENCE) as stream:
            await round_trips(stream, each)

    began = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(size.concurrent):
            nursery.start_soon(ask)
    return size.concurrent * each / (time.perf_counter() - began)


def run(size: Size, disabled: frozenset[Workaround] = frozenset()) -> dict[str, float]:
    """Measure once against a fresh server process."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.benchmarks.bench_p2p", "--serve"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            address = parse_address(server.stdout.readline().strip())
            assert address is not None
            return trio.run(measure, address, size, disabled)
        finally:
            server.stdin.close()
            server.wait(10)


def run_lattica(python: str, size: Size) -> dict[str, float]:
    """Measure lattica once, both ends in fresh processes of its own environment."""
    script = [python, "-W", "ignore", str(Path(__file__).with_name("lattica_pair.py"))]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]  # lattica tells no port that the system chose
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(
            [*script, "serve", str(port), folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as server,
    ):
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            address = server.stdout.readline().strip()
            command = [*script, "measure", address, folder, json.dumps(asdict(size))]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=600, check=True)
            return json.loads(done.stdout.strip().rpartition("\n")[2])
        finally:
            server.stdin.close()
            try:
                server.wait(10)
            except subprocess.TimeoutExpired:
                server.kill()


def compared(rows: list[dict[str, float]], others: list[dict[str, float]]) -> None:
    """Print both and the median of the ratios of each round."""
    print(f"{'':32} {'the node':>10} {'lattica':>10} {'ratio':>8}")
    for key in others[0]:
        ours, theirs = ([each[key] for each in side] for side in (rows, others))
        ratio = statistics.median(one / other for one, other in zip(ours, theirs, strict=True))
        print(f"{key:32} {statistics.median(ours):10.3f} {statistics.median(theirs):10.3f} {ratio:8.2f}")


def main() -> None:
    logging.getLogger("libp2p").setLevel(logging.CRITICAL)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--without", nargs="*", default=[], choices=[each.name for each in Workaround], metavar="NAME")
    parser.add_argument("--rounds", type=int, default=3, help="the median of this many is shown")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--lattica", metavar="PYTHON", help="of an environment that has lattica; not the project's")
    chosen = parser.parse_args()
    if chosen.serve:
        serving: Callable[[], Awaitable[None]] = serve
        trio.run(serving)
        return
    size = QUICK if chosen.quick else Size()
    rows, others = [], []
    for _ in range(chosen.rounds):
        rows.append(run(size, frozenset(Workaround[name] for name in chosen.without)))
        if chosen.lattica:
            others.append(run_lattica(chosen.lattica, size))
    if others:
        compared(rows, others)
        return
    row = {key: statistics.median(each[key] for each in rows) for key in rows[0]}
    if chosen.json:
        print(json.dumps(row))
        return
    for key, value in row.items():
        print(f"{key:32} {value:10.2f}")


if __name__ == "__main__":
    main()
