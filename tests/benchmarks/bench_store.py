"""What it costs to take in a history: rate against bare verification, the loop's lag, memory, and what opening takes.

100,000 performance records of 100 authors come in batches of 64, as fast as the store takes them, while a task on the
same loop wakes every 5 ms and notes how late it was. Bare verification is the Ed25519 signature alone, over as many
bytes on the same machine, before and after; ratios are of processor time, which other work on the machine leaves alone.

Run as `python -m tests.benchmarks.bench_store [--records 100000] [--json FILE]`; about two minutes, half of it signing.
"""

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from node.adapters.store.history import open_history
from node.adapters.store.rules import Rules
from node.core.retention import Quota
from node.record_ports import Standing
from protocol import limits, records
from protocol.ids import PUBLIC_SWARM
from protocol.performance import PERFORMANCE
from protocol.records import Signed
from tests.protocol import samples
from tests.protocol.performance_samples import performance

AUTHORS: Final = 100
TICK_S: Final = 0.005
SAMPLE: Final = 2000  # records that verification is timed with
QUOTA: Final = Quota(author=10**6, total=10**7)


def keys() -> list[Ed25519PrivateKey]:
    return [Ed25519PrivateKey.from_private_bytes(sha256(b"%d" % index).digest()) for index in range(AUTHORS)]


def write_records(file: Path, count: int) -> None:
    """Write so many sealed records, each after its length in 4 bytes. In memory they would hide what is measured."""
    signers = keys()
    with file.open("wb") as out:
        for index in range(count):
            sealed = performance(signers[index % AUTHORS], seq=index // AUTHORS).sealed
            out.write(len(sealed).to_bytes(4, "big") + sealed)


def read_records(file: Path) -> Iterator[bytes]:
    with file.open("rb") as source:
        while size := source.read(4):
            yield source.read(int.from_bytes(size, "big"))


def batches(file: Path) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    for sealed in read_records(file):
        batch.append(sealed)
        if len(batch) == limits.BATCH_RECORDS:
            yield batch
            batch = []
    if batch:
        yield batch


def verification(file: Path) -> tuple[float, float]:
    """Return processor seconds per record: of the signature alone, and of opening the record with it."""
    some = [sealed for sealed, _ in zip(read_records(file), range(SAMPLE), strict=False)]
    begin = time.thread_time()
    opened = [records.verify_archived(each, PERFORMANCE, swarm=PUBLIC_SWARM) for each in some]
    whole = (time.thread_time() - begin) / len(some)
    key = keys()[0]
    public, message = key.public_key(), PERFORMANCE.prefix + bytes(len(opened[0].sealed) - 100)
    signature = key.sign(message)
    begin = time.thread_time()
    for _ in range(SAMPLE):
        public.verify(signature, message)
    return (time.thread_time() - begin) / SAMPLE, whole


def memory_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


async def lag(ticks: list[float]) -> None:
    while True:
        due = trio.current_time() + TICK_S
        await trio.sleep_until(due)
        ticks.append(trio.current_time() - due)


def cell(signed: Signed[Any]) -> bytes:
    return b"%d" % signed.name.seq


async def measure(folder: Path, count: int) -> dict[str, float]:
    source, file = folder / "records", folder / "history.sqlite3"
    await trio.to_thread.run_sync(write_records, source, count)
    before = verification(source)
    rules = Rules(kind=PERFORMANCE, swarm=PUBLIC_SWARM, cell=cell, quota=QUOTA)

    def now_us() -> int:
        return samples.NOW

    idle: list[float] = []
    busy: list[float] = []
    async with open_history(file, rules, now_us=now_us) as history, trio.open_nursery() as nursery:
        with trio.move_on_after(1):
            await lag(idle)
        start_mib, peak_mib, admitting, working = memory_mib(), 0.0, 0.0, 0.0
        nursery.start_soon(lag, busy)
        coming = batches(source)
        while batch := await trio.to_thread.run_sync(next, coming, None):  # this disk is not the loop's to wait for
            begin, began = time.perf_counter(), time.process_time()
            verdicts = await history.admit(batch, via=None)
            admitting += time.perf_counter() - begin
            working += time.process_time() - began
            peak_mib = max(peak_mib, memory_mib())
            if any(each.standing is not Standing.NEW for each in verdicts):
                raise RuntimeError(f"not admitted: {verdicts[0]}")
        begin = time.perf_counter()
        held = await history.holdings()
        telling = time.perf_counter() - begin
        nursery.cancel_scope.cancel()
    begin = time.perf_counter()
    async with open_history(file, rules, now_us=now_us) as history:
        opening = time.perf_counter() - begin
        if history.facts().records != count or sum(each.count for each in held) != count:
            raise RuntimeError("not all there")
    after = verification(source)
    alone, opened = ((one + other) / 2 for one, other in zip(before, after, strict=True))
    return {
        "records": count,
        "bytes per record": source.stat().st_size / count - 4,
        "records admitted per second": count / admitting,
        "signature alone, µs of processor": 1e6 * alone,
        "record opened, µs of processor": 1e6 * opened,
        "record admitted, µs of processor": 1e6 * working / count,
        "rate / signatures alone": alone * count / working,
        "rate / records opened": opened * count / working,
        "loop lag idle p99 ms": 1e3 * percentile(idle, 0.99),
        "loop lag busy p50 ms": 1e3 * percentile(busy, 0.5),
        "loop lag busy p99 ms": 1e3 * percentile(busy, 0.99),
        "loop lag busy max ms": 1e3 * max(busy),
        "memory grown MiB": peak_mib - start_mib,
        "file MiB": file.stat().st_size / 2**20,
        "first holdings s": telling,
        "opening with all checks s": opening,
    }


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[int(share * (len(values) - 1))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = trio.run(measure, Path(folder), chosen.records)
    for key, value in figures.items():
        print(f"{key:36}{value:>12.2f}")
    if chosen.json:
        chosen.json.write_text(json.dumps(figures))


if __name__ == "__main__":
    main()
