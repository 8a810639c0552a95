"""What a relay costs: the same conversation directly and through a relay, three processes on loopback.

    python -m tests.benchmarks.bench_relay            # some 20 s
    python -m tests.benchmarks.bench_relay --quick

CPU is user and system time, by the kernel's clock; the relay's own is told apart. Bulk through a relay is measured with
the default bound of bytes per second, and without one. See README.md.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import replace

import trio

with warnings.catch_warnings():  # libp2p 0.8.1 imports a part of websockets that announces its end
    warnings.simplefilter("ignore", DeprecationWarning)
    from node.adapters.p2p.circuits import P2pWays, open_ways
    from node.adapters.p2p.host import P2pHost, open_host
from node.adapters.p2p.limits import DEFAULT_RELAY_LIMITS
from node.ports import PeerStream
from protocol.addresses import Address, parse_address
from protocol.ids import PeerId
from tests.benchmarks.bench_p2p import BULK, CHUNK, ECHO, HERE, PATIENCE, PUMP, QUICK, WARM_UP, Size, echo, pump

CPU = "/metainf/bench-cpu/1"
NO_BOUND = 1e12  # bytes per second


async def cpu(stream: PeerStream) -> None:
    """Say what this process has used, in nanoseconds."""
    while await stream.receive() is not None:
        await stream.send(b"%d" % time.process_time_ns())


@asynccontextmanager
async def an_end(rate: float) -> AsyncIterator[tuple[P2pHost, P2pWays]]:
    limits = replace(DEFAULT_RELAY_LIMITS, bytes_per_second=rate)
    async with open_host(os.urandom(32), [HERE]) as host, open_ways(host, time.time, limits) as ways:  # noqa: TID251
        for protocol, handler in ((ECHO, echo), (PUMP, pump), (CPU, cpu)):
            host.serve(protocol, handler)
        yield host, ways


async def lend(rate: float) -> None:
    """Be a relay until standard input ends; print the address first."""
    async with an_end(rate) as (host, ways):
        ways.lend(True)
        print(host.addresses()[0], flush=True)
        await trio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)


async def be_called(relay: str) -> None:
    """Be called through a relay until standard input ends; print the own address once it has granted that."""
    at = parse_address(relay)
    assert at is not None
    assert at.peer is not None
    async with an_end(NO_BOUND) as (host, ways):
        await host.dial(at)
        await ways.reserve(at.peer)
        print(host.addresses()[0], flush=True)
        await trio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)


@contextmanager
def process(*words: str) -> Iterator[Address]:
    """Run one of the other two; enter with the address that it prints."""
    command = [sys.executable, "-m", "tests.benchmarks.bench_relay", *words]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            address = parse_address(child.stdout.readline().strip())
            assert address is not None
            yield address
        finally:
            child.terminate()


async def round_trip(host: P2pHost, peer: PeerId, size: Size) -> float:
    """Return the milliseconds of a small message there and back: the median."""
    took: list[float] = []
    async with host.open(peer, ECHO, patience=PATIENCE) as stream:
        for number in range(WARM_UP + size.rounds):
            began = time.perf_counter()
            await stream.send(bytes(CHUNK))
            await stream.receive()
            if number >= WARM_UP:
                took.append((time.perf_counter() - began) * 1e3)
    return statistics.median(took)


async def bulk(host: P2pHost, peer: PeerId, frames: int) -> float:
    """Return megabytes per second of one stream."""
    async with host.open(peer, PUMP, patience=PATIENCE) as stream:
        began = time.perf_counter()
        await stream.send(b"%d %d" % (frames, BULK))
        for _ in range(frames + 1):
            await stream.receive()
        return frames * BULK / (time.perf_counter() - began) / 1e6


async def used(host: P2pHost, peer: PeerId) -> float:
    """Return the CPU seconds that a process has used."""
    async with host.open(peer, CPU, patience=PATIENCE) as stream:
        await stream.send(b"?")
        answer = await stream.receive()
    assert answer is not None
    return int(answer) / 1e9


async def measure(relay: Address, called: Address, size: Size, *, direct: bool) -> dict[str, float]:
    """Measure through a relay, then directly where that is wanted."""
    assert called.peer is not None
    assert relay.peer is not None
    async with an_end(NO_BOUND) as (host, ways):
        await host.dial(relay.through(called.peer))
        assert ways.via(called.peer) == relay.peer
        row = {"relayed_round_trip_ms": await round_trip(host, called.peer, size)}
        before = await used(host, relay.peer)
        row["relayed_mb_s"] = await bulk(host, called.peer, size.bulk)
        spent = await used(host, relay.peer) - before
        row["relay_cpu_s_per_gb"] = spent / (size.bulk * BULK / 1e9)
        if direct:
            await host.dial(called)
            assert ways.via(called.peer) is None
            row["direct_round_trip_ms"] = await round_trip(host, called.peer, size)
            row["direct_mb_s"] = await bulk(host, called.peer, size.bulk)
    return row


def run(size: Size) -> dict[str, float]:
    """Take every figure once."""
    with ExitStack() as running:
        relay = running.enter_context(process("relay", str(NO_BOUND)))
        called = running.enter_context(process("called", str(relay)))
        row = trio.run(lambda: measure(relay, called, size, direct=True))
    with ExitStack() as running:
        relay = running.enter_context(process("relay", str(DEFAULT_RELAY_LIMITS.bytes_per_second)))
        called = running.enter_context(process("called", str(relay)))
        bounded = trio.run(lambda: measure(relay, called, size, direct=False))
    return row | {"bounded_mb_s": bounded["relayed_mb_s"]}


def main() -> None:
    """Measure, and print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", nargs="*", default=[])
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    if options.role[:1] == ["relay"]:
        trio.run(lend, float(options.role[1]))
    elif options.role[:1] == ["called"]:
        trio.run(be_called, options.role[1])
    else:
        print(json.dumps({name: round(value, 3) for name, value in run(QUICK if options.quick else Size()).items()}))


if __name__ == "__main__":
    main()
