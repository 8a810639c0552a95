"""What a prompt through a peer costs, beside the same prompt at a node with an engine and at the engine alone.

    python -m tests.benchmarks.bench_swarm --quick               seconds; what CI runs
    python -m tests.benchmarks.bench_swarm --out rows.jsonl      minutes; goes on where it was stopped

Four daemons stand on loopback: B and C before the instant engine, A and a second A without one; the first A may ask
B alone, the second both. Rounds are interleaved: each measures every way in a new order. Figures: docs/benchmarks.md.
"""

import argparse
import asyncio
import importlib
import json
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.benchmarks.fronts import cpu_seconds, instant_engine
from tests.benchmarks.instant_engine import MODEL
from tests.benchmarks.load import LoadFailed, Samples, Work, load
from tests.benchmarks.swarm_table import DIRECT, NODE, PEER, PEERS, Row, table
from tests.e2e.children import eventually
from tests.e2e.daemon import Daemon, running_node

TOKENS = 128  # events in a stream
SHORT = 4  # events of one whose first byte is what counts
BULK_BYTES = 8 << 20
PROMPT_BYTES = 4 << 20
MEET_S = 60.0  # for daemons to start and to know each other, on a busy machine
REST = "rest"
WARM_SECONDS = 0.4  # connections opened, code paths warm; not counted


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of work.

    Attributes:
        tokens: events of each stream; None for whole answers.
        gap_ms: between two events; 0 for as fast as the engine can.
        concurrencies: those that it is measured at.
        answer_bytes, prompt_bytes: of large ones; None for short ones.
    """

    concurrencies: tuple[int, ...]
    tokens: int | None = None
    gap_ms: float = 0.0
    answer_bytes: int | None = None
    prompt_bytes: int | None = None


KINDS: Mapping[str, Kind] = {
    "short answer": Kind(concurrencies=(1, 16, 64)),
    "first byte": Kind(concurrencies=(1,), tokens=SHORT),
    "stream of 50/s": Kind(concurrencies=(1, 16, 64), tokens=TOKENS, gap_ms=20.0),
    "stream of 200/s": Kind(concurrencies=(1, 16), tokens=TOKENS, gap_ms=5.0),
    "stream unpaced": Kind(concurrencies=(1, 16, 64), tokens=TOKENS),
    "bulk answer": Kind(concurrencies=(1,), answer_bytes=BULK_BYTES),
    "long prompt": Kind(concurrencies=(1,), prompt_bytes=PROMPT_BYTES),
}
PEERS_FROM = 16  # two serving peers are measured from this concurrency on


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is measured."""

    kinds: tuple[str, ...] = tuple(KINDS)
    most: int = 64  # concurrency
    rounds: int = 5
    seconds: float = 2.0  # of load for each figure; streams that have begun are waited for


QUICK = Plan(kinds=("short answer", "stream unpaced", "bulk answer"), most=16, rounds=1, seconds=0.3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """A way to the engine: where it begins, and the processes of those who are asked and who serve."""

    name: str
    url: str
    asked: tuple[int, ...] = ()
    serving: tuple[int, ...] = ()


@contextmanager
def ways(folder: Path) -> Iterator[list[Way]]:
    """Start the engine and the daemons; enter when they know each other.

    Raises:
        AssertionError: a daemon did not come up, or they did not find each other; with the last lines of their logs.
    """
    with ExitStack() as stack:
        port, _ = stack.enter_context(instant_engine(gap_ms=10.0))
        engine = f"http://127.0.0.1:{port}"
        serves = ("--engine-url", engine)
        b = stack.enter_context(running_node(folder, *serves, name="b"))
        join = ("--join", b.address)
        c = stack.enter_context(running_node(folder, *serves, *join, name="c"))
        asks_one = ("--no-engine", *join, "--set", f"p2p.ask={b.peer_id}")
        a = stack.enter_context(running_node(folder, *asks_one, name="a"))
        a_of_both = stack.enter_context(running_node(folder, "--no-engine", *join, name="a-of-both"))
        for daemon in (b, c):
            daemon.wait_for_engine(within=MEET_S)
        _wait_until_known(a, b)
        _wait_until_known(a_of_both, b, c)
        pids = {daemon.url: daemon.child.pid for daemon in (a, a_of_both, b, c)}
        yield [
            Way(name=DIRECT, url=engine),
            Way(name=NODE, url=b.url, serving=(pids[b.url],)),
            Way(name=PEER, url=a.url, asked=(pids[a.url],), serving=(pids[b.url],)),
            Way(name=PEERS, url=a_of_both.url, asked=(pids[a_of_both.url],), serving=(pids[b.url], pids[c.url])),
        ]


def _wait_until_known(at: Daemon, *servers: Daemon) -> None:
    wanted = {daemon.peer_id for daemon in servers}

    def known() -> bool:
        peers = at.peers().items()
        return wanted <= {name for name, peer in peers if any(offer["name"] == MODEL for offer in peer["models"])}

    children = [at.child, *(daemon.child for daemon in servers)]
    eventually(known, within=MEET_S, what="each other", children=children)


def measure(way: Way, name: str, concurrency: int, number: int, seconds: float) -> Row:
    """Put one kind of work on one way.

    Raises:
        LoadFailed: an answer was wrong, not whole or late.
    """
    kind = KINDS[name]
    if kind.tokens is None or not kind.gap_ms:  # paced streams take so long that they need no warming up
        _loaded(_work(way, kind, concurrency, min(WARM_SECONDS, seconds)))
    before = _cpu(way)
    samples = _loaded(_work(way, kind, concurrency, seconds))
    asked, serving = (after - earlier for after, earlier in zip(_cpu(way), before, strict=True))
    figures = _figures(kind, samples)
    per, unit = (samples.events, "event") if kind.tokens else (len(samples.whole), "request")
    if way.asked:
        figures[f"CPU asked us/{unit}"] = 1e6 * asked / per
    if way.serving:
        figures[f"CPU serving us/{unit}"] = 1e6 * serving / per
    return Row(way=way.name, kind=name, concurrency=concurrency, round=number, figures=figures)


def at_rest(way: Way, number: int, seconds: float) -> Row:
    """Measure nodes that are asked nothing: what being one of a swarm of four costs."""
    before = _cpu(way)
    time.sleep(seconds)
    asked, serving = (after - earlier for after, earlier in zip(_cpu(way), before, strict=True))
    figures = {"CPU asked ms/s": 1e3 * asked / seconds, "CPU serving ms/s": 1e3 * serving / seconds}
    return Row(way=way.name, kind=REST, concurrency=0, round=number, figures=figures)


def _cpu(way: Way) -> tuple[float, float]:
    return sum(map(cpu_seconds, way.asked)), sum(map(cpu_seconds, way.serving))


def _work(way: Way, kind: Kind, concurrency: int, seconds: float) -> Work:
    fields: tuple[tuple[str, float], ...] = (("gap_ms", kind.gap_ms),) if kind.tokens else ()
    if kind.answer_bytes is not None:
        fields += (("answer_bytes", kind.answer_bytes),)
    return Work(
        url=way.url,
        model=MODEL,
        tokens=kind.tokens,
        concurrency=concurrency,
        seconds=seconds,
        prompt_bytes=kind.prompt_bytes,
        fields=fields,
    )


def _loaded(work: Work) -> Samples:
    try:
        fast = importlib.import_module("uvloop")
    except ImportError:
        return asyncio.run(load(work))
    return fast.run(load(work))


def _figures(kind: Kind, samples: Samples) -> dict[str, float]:
    answers, elapsed = len(samples.whole), samples.elapsed
    if kind.answer_bytes is not None:
        return {"MB/s": samples.body_bytes / elapsed / 1e6}
    if kind.prompt_bytes is not None:
        return {"MB/s": answers * kind.prompt_bytes / elapsed / 1e6, "p50 ms": 1e3 * statistics.median(samples.whole)}
    if kind.tokens is None:
        return {"p50 ms": _ms(samples.whole, 0.5), "p95 ms": _ms(samples.whole, 0.95), "answers/s": answers / elapsed}
    first = {"first byte p50 ms": _ms(samples.first_byte, 0.5), "first byte p95 ms": _ms(samples.first_byte, 0.95)}
    if kind.tokens == SHORT:
        return first
    return {
        "completed": float(answers),
        "events/s": samples.events / elapsed,
        **first,
        "gap p95 ms": _ms(samples.gaps, 0.95),
        "pieces/event": samples.pieces / samples.events,
    }


def _ms(seconds: Sequence[float], share: float) -> float:
    return 1e3 * sorted(seconds)[min(len(seconds) - 1, int(share * len(seconds)))]


def measured(plan: Plan, chosen: Sequence[Way], done: Sequence[Row], rng: random.Random) -> Iterator[Row]:
    """Yield the rows that are not done yet, ways shuffled within each round.

    Raises:
        LoadFailed: as `measure` does.
    """
    finished = {(row.way, row.kind, row.concurrency, row.round) for row in done}
    for number in range(plan.rounds):
        for name, concurrency, take in _parts(plan):
            for way in rng.sample(list(chosen), k=len(chosen)):
                if (way.name, name, concurrency, number) not in finished and _belongs(way, name, concurrency):
                    yield take(way, number)


def _parts(plan: Plan) -> Iterator[tuple[str, int, Callable[[Way, int], Row]]]:
    for name in plan.kinds:
        for concurrency in KINDS[name].concurrencies:
            if concurrency <= plan.most:
                yield (
                    name,
                    concurrency,
                    lambda way, number, c=concurrency, k=name: measure(way, k, c, number, plan.seconds),
                )
    yield REST, 0, lambda way, number: at_rest(way, number, plan.seconds)


def _belongs(way: Way, name: str, concurrency: int) -> bool:
    if name == REST:
        return way.name == PEER
    return way.name != PEERS or (KINDS[name].tokens == TOKENS and concurrency >= PEERS_FROM)


def benchmark(plan: Plan, *, out: Path | None, seed: int) -> list[Row]:
    """Start everything, measure, and return all rows, those of an earlier run in `out` included.

    Raises:
        LoadFailed: as `measure` does.
        AssertionError: as `ways` does.
    """
    rows = [Row(**json.loads(line)) for line in out.read_text().splitlines()] if out and out.exists() else []
    with tempfile.TemporaryDirectory(prefix="bench-swarm-") as folder, ways(Path(folder)) as chosen:
        for row in measured(plan, chosen, rows, random.Random(seed)):  # noqa: S311 -- an order, no secret
            rows.append(row)
            if out is not None:
                with out.open("a") as file:
                    file.write(json.dumps(asdict(row)) + "\n")
            told = ", ".join(f"{name} {value:.4g}" for name, value in row.figures.items())
            print(f"round {row.round}: {row.way}, {row.kind} at {row.concurrency}: {told}", flush=True)
    return rows


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short round of a few kinds")
    parser.add_argument("--kinds", help=f"comma-separated, of {', '.join(KINDS)}")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=float, help="of load for each figure")
    parser.add_argument("--out", type=Path, help="JSON Lines; a second call measures what is missing in it")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    base = QUICK if options.quick else Plan()
    kinds = tuple(options.kinds.split(",")) if options.kinds else base.kinds
    if unknown := set(kinds) - set(KINDS):
        parser.error(f"no such kind: {', '.join(unknown)}")
    plan = Plan(
        kinds=kinds, most=base.most, rounds=options.rounds or base.rounds, seconds=options.seconds or base.seconds
    )
    try:
        rows = benchmark(plan, out=options.out, seed=options.seed)
    except (LoadFailed, AssertionError) as failure:
        print(f"failed: {failure}")
        return 1
    print()
    print(table(rows))
    return 0


if __name__ == "__main__":
    # Ended like an interrupt, so that no daemon stays behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main(sys.argv[1:]))
