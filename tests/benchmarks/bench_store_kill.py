"""SIGKILL while the store writes: what was acknowledged is there, whole, and nothing is there by halves.

One process writes: batches of strangers' records and records of its own, through the history as a node uses it. It
says what was acknowledged into a pipe; this process reads the pipe and keeps the log. Every second writer kills itself
in the middle of a transaction (from within the rule that the store asks about each record it inserts), at a record
drawn by lot; the others are killed from outside at a moment drawn by lot, which hits verification, commits and waits
for the disk. Then the history is opened anew and held against the log of all kills so far: after each of the first ten
kills, then after every tenth.

Run as `python -m tests.benchmarks.bench_store_kill [--kills 200] [--json FILE]`; seconds for the 10 that CI does.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from node.adapters.store.history import open_history
from node.adapters.store.pen import Pen
from node.adapters.store.rules import Rules
from node.adapters.store.salvage import open_shelf
from node.core.retention import Quota
from node.record_ports import Standing
from protocol import records
from protocol.ids import PUBLIC_SWARM, PeerId
from protocol.records import Signed, Stamp
from tests.protocol import samples

BATCH = 32  # records of a stranger, admitted together
AT_MOST = 40  # batches that one writer would write, were it not killed
INSIDE_AT_MOST = 150  # records until a writer kills itself
OUTSIDE_AT_MOST_S = 0.3  # until it is killed
QUOTA = Quota(author=10**6, total=10**7)  # nothing is dropped: whatever is missing was lost


def now_us() -> int:
    return samples.NOW


@dataclass
class Log:
    """What was acknowledged, by name: the SHA-256 of the record; and which names came in one batch."""

    acknowledged: dict[str, str] = field(default_factory=dict)
    kills: int = 0
    inside: int = 0
    lost: int = 0
    halves: int = 0
    renamed: int = 0
    unacknowledged: int = 0  # there all the same: the kill came between the disk and the word


def writer(file: Path, run: int, die_at: int | None, say: Callable[[str], None]) -> None:
    """Write until killed. Record number `die_at` is the one within whose transaction it kills itself."""
    inserted = 0

    def cell(signed: Signed[Any]) -> bytes:
        nonlocal inserted
        inserted += 1
        if inserted == die_at:
            say("inside")
            os.kill(os.getpid(), signal.SIGKILL)
        return b""

    rules = Rules(kind=samples.NOTE, swarm=PUBLIC_SWARM, cell=cell, quota=QUOTA)
    pen = Pen(samples.KEY, rules, run_us=samples.NOW - 10**6 + run)
    key = Ed25519PrivateKey.from_private_bytes(sha256(b"%d" % run).digest())
    author = PeerId.from_public_key(key.public_key().public_bytes_raw())

    def compose(stamp: Stamp) -> samples.Note:
        return replace(samples.note(f"run {run}"), stamp=stamp)

    async def write() -> None:
        async with open_history(file, rules, now_us=now_us, pen=pen) as history:
            say("open")
            for batch in range(AT_MOST):
                sealed = [
                    records.sign(samples.NOTE, samples.note("x" * 500, author=author, seq=seq), key).sealed
                    for seq in range(batch * BATCH, (batch + 1) * BATCH)
                ]
                verdicts = await history.admit(sealed, via=None)
                assert all(each.standing is Standing.NEW for each in verdicts)
                for each, raw in zip(verdicts, sealed, strict=True):
                    say(f"{each.name} {sha256(raw).hexdigest()}")
                own = await history.append(compose, lifetime_us=samples.HOUR)
                say(f"{own.name} {sha256(own.sealed).hexdigest()}")

    trio.run(write)


def kill_one(file: Path, run: int, luck: Random, log: Log) -> None:
    """Start a writer, have it killed, and add what it acknowledged to the log."""
    die_at = luck.randint(1, INSIDE_AT_MOST) if run % 2 == 0 else None
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(reading)
            writer(file, run, die_at, lambda line: _all_written(writing, f"{line}\n".encode()))
        finally:
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        if die_at is None:
            pipe.readline()  # it is open
            time.sleep(luck.uniform(0, OUTSIDE_AT_MOST_S))
            os.kill(child, signal.SIGKILL)
        said = pipe.read().decode().splitlines()
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status) or os.WTERMSIG(status) != signal.SIGKILL:
        raise RuntimeError(f"writer {run} was to be killed, and ended with {status}")
    log.kills += 1
    log.inside += "inside" in said
    for line in said:
        name, _, digest = line.partition(" ")
        if digest:
            log.renamed += name in log.acknowledged  # never: whatever it says now
            log.acknowledged[name] = digest


def _all_written(pipe: int, line: bytes) -> None:
    if os.write(pipe, line) != len(line):  # below PIPE_BUF a pipe takes all or waits
        raise RuntimeError("a torn line")


def compare(file: Path, log: Log) -> None:
    """Open the history anew and hold it against the log."""
    rules = Rules(kind=samples.NOTE, swarm=PUBLIC_SWARM, quota=QUOTA)
    shelf = open_shelf(file, rules, now_us=now_us)
    held: dict[str, str] = {}
    for holding in shelf.holdings(None):
        head = holding.author.key, holding.epoch.start_us
        for sealed in shelf.page(head, holding.ranges, records=10**6, size=2**30):
            name = records.verify_archived(sealed, samples.NOTE, swarm=PUBLIC_SWARM).name
            held[str(name)] = sha256(sealed).hexdigest()
        if holding.author != samples.AUTHOR:
            log.halves += holding.count % BATCH != 0
    log.lost = sum(held.get(name) != digest for name, digest in log.acknowledged.items())
    log.unacknowledged = len(held.keys() - log.acknowledged.keys())
    if any(file.parent.glob("*.damaged-*")) or shelf.facts.records != len(held):
        raise RuntimeError("a kill left damage")
    shelf.close()


def run(kills: int, *, seed: int = 1) -> dict[str, int]:
    """Kill so many writers of one history; return what was found."""
    luck, log = Random(seed), Log()  # noqa: S311 -- the same every time
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "history.sqlite3")
        for number in range(kills):
            kill_one(file, number, luck, log)
            if number < 10 or number % 10 == 9 or number == kills - 1:
                compare(file, log)
            if sys.stderr.isatty():
                print(f"\r{number + 1} of {kills}", end="", file=sys.stderr)
    return {
        "kills": log.kills,
        "inside a transaction": log.inside,
        "acknowledged": len(log.acknowledged),
        "acknowledged and lost": log.lost,
        "batches by halves": log.halves,
        "names given twice": log.renamed,
        "on the disk, not yet acknowledged": log.unacknowledged,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    chosen = parser.parse_args()
    figures = run(chosen.kills)
    for key, value in figures.items():
        print(f"{key:36}{value:>10}")
    if chosen.json:
        chosen.json.write_text(json.dumps(figures))


if __name__ == "__main__":
    main()
