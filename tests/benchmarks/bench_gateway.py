"""What a gateway costs: added latency, CPU per request and per streamed event, before an engine that answers at once.

    python -m tests.benchmarks.bench_gateway --quick                    seconds; what CI runs
    python -m tests.benchmarks.bench_gateway --install --out rows.jsonl   minutes; goes on where it was stopped

Rounds are interleaved: each measures every gateway in a new order, and what is compared stands in one round.
See README.md for how to read the table.
"""

import argparse
import asyncio
import importlib
import json
import random
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from tests.benchmarks.fronts import (
    DIRECT,
    FRONTS,
    Missing,
    Place,
    RunningFront,
    cpu_seconds,
    free_port,
    instant_engine,
    standing,
)
from tests.benchmarks.gateway_table import Row, table
from tests.benchmarks.instant_engine import MODEL
from tests.benchmarks.load import LoadFailed, Samples, Work, load

GAP_MS = 10.0  # between events: 100 tokens a second and stream, as a good GPU gives them
TOKENS = 32  # events in a stream: enough that its beginning and end weigh little
PACE = 50  # tokens a second of each stream, where streams are not as many as go through
PACED_TOKENS = 100  # events of such a stream: two seconds
FULL_SECONDS = 2.0  # of load for each figure
OURS = frozenset({DIRECT, "node"})  # a wrong answer of these ends the run
WARM_SECONDS = 0.3  # connections opened, code paths warm; not counted


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is measured. `streams`: how many at once, at `PACE` tokens a second each."""

    fronts: tuple[str, ...]
    concurrencies: tuple[int, ...] = (1, 16, 64)
    streams: tuple[int, ...] = (32, 128)
    rounds: int = 5
    seconds: float = FULL_SECONDS
    tokens: int = TOKENS


QUICK = Plan(fronts=("node", "nginx"), concurrencies=(1, 8), streams=(), rounds=1, seconds=0.3, tokens=8)
FULL = Plan(fronts=tuple(FRONTS))


def measure(front: RunningFront, concurrency: int, number: int, plan: Plan) -> Row:
    """Put load on one gateway: whole answers, then streams.

    Raises:
        LoadFailed: it answered wrongly, or not in time.
    """

    def run(tokens: int | None, seconds: float) -> tuple[Samples, float]:
        work = Work(
            url=front.url,
            model=MODEL,
            tokens=tokens,
            concurrency=concurrency,
            seconds=seconds,
            api_key=front.api_key,
        )
        before = front.cpu_seconds()
        samples = _on_a_loop(work)
        return samples, front.cpu_seconds() - before

    run(None, min(WARM_SECONDS, plan.seconds))
    whole, cpu_whole = run(None, plan.seconds)
    streams, cpu_streams = run(plan.tokens, plan.seconds)
    cpu = cpu_whole / len(whole.whole)
    return Row(
        front=front.name,
        concurrency=concurrency,
        round=number,
        p50=median(whole.whole),
        stream_p50=median(streams.first_byte),
        cpu=cpu,
        cpu_event=max(0.0, cpu_streams - cpu * len(streams.whole)) / streams.events,
        rate=len(whole.whole) / plan.seconds,
    )


def measure_paced(front: RunningFront, streams: int, number: int, plan: Plan) -> Row:
    """Put so many streams on one gateway, each at its pace; CPU is what an event costs, the stream's own share in it.

    Raises:
        LoadFailed: as `measure` does.
    """
    tokens = min(PACED_TOKENS, max(2, round(PACE * plan.seconds)))
    work = Work(
        url=front.url,
        model=MODEL,
        tokens=tokens,
        concurrency=streams,
        seconds=2 * plan.seconds,
        api_key=front.api_key,
        fields=(("gap_ms", 1000 / PACE),),
        spread=tokens / PACE,
    )
    before = front.cpu_seconds()
    samples = _on_a_loop(work)
    cpu = front.cpu_seconds() - before
    return Row(
        front=front.name,
        concurrency=streams,
        round=number,
        p50=median(samples.whole),
        stream_p50=median(samples.first_byte),
        cpu=cpu / len(samples.whole),
        cpu_event=cpu / samples.events,
        rate=samples.events / samples.elapsed,
        pace=PACE,
    )


def _on_a_loop(work: Work) -> Samples:
    try:
        fast = importlib.import_module("uvloop")
    except ImportError:
        return asyncio.run(load(work))
    return fast.run(load(work))


def measured(plan: Plan, fronts: Sequence[RunningFront], done: Sequence[Row], rng: random.Random) -> Iterator[Row]:
    """Yield the rows that are not done yet, gateways shuffled within each round.

    Raises:
        LoadFailed: the node (or the engine itself) answered wrongly. Others are left out from then on.
    """
    finished = {(row.front, row.pace, row.concurrency, row.round) for row in done}
    standing_ones = list(fronts)
    loads = [*((0, many) for many in plan.concurrencies), *((PACE, many) for many in plan.streams)]
    for number in range(plan.rounds):
        for pace, concurrency in loads:
            for front in rng.sample(standing_ones, k=len(standing_ones)):
                if (front.name, pace, concurrency, number) in finished:
                    continue
                try:
                    yield (measure_paced if pace else measure)(front, concurrency, number, plan)
                except LoadFailed as failure:
                    if front.name in OURS:
                        raise
                    print(f"{front.name} is left out from here on: {failure}", flush=True)
                    standing_ones.remove(front)


def benchmark(plan: Plan, *, out: Path | None, install: bool, installs: Path, seed: int) -> list[Row]:
    """Start everything, measure, and return all rows, those of an earlier run in `out` included.

    A gateway that cannot run here is left out, and said to be.

    Raises:
        Missing: the node itself cannot run.
        LoadFailed: as `measured` does.
    """
    rows = _read(out)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-gateway-")))
        engine_port, engine_pid = stack.enter_context(instant_engine(GAP_MS))
        fronts = [RunningFront(name=DIRECT, url=f"http://127.0.0.1:{engine_port}")]
        for name in plan.fronts:
            own = folder / name
            own.mkdir()
            place = Place(port=free_port(), engine_port=engine_port, folder=own, installs=installs)
            try:
                fronts.append(stack.enter_context(standing(FRONTS[name], place, install=install)))
            except Missing as reason:
                if name in OURS:
                    raise
                print(f"{name} is left out: {reason}", flush=True)
        engine_before = cpu_seconds(engine_pid)
        for row in measured(plan, fronts, rows, random.Random(seed)):  # noqa: S311 -- an order, no secret
            rows.append(row)
            _append(out, row)
            print(f"round {row.round}: {row.front} at {row.concurrency}: p50 {row.p50 * 1e6:.0f} µs", flush=True)
        print(f"the instant engine itself used {cpu_seconds(engine_pid) - engine_before:.1f} s of CPU")
    return rows


def _read(out: Path | None) -> list[Row]:
    if out is None or not out.exists():
        return []
    return [Row(**json.loads(line)) for line in out.read_text().splitlines()]


def _append(out: Path | None, row: Row) -> None:
    if out is not None:
        with out.open("a") as file:
            file.write(json.dumps(asdict(row)) + "\n")


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short round of the node and nginx")
    parser.add_argument("--fronts", help=f"comma-separated, of {', '.join(FRONTS)}")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=float, help="of load for each figure")
    parser.add_argument("--out", type=Path, help="JSON Lines; a second call measures what is missing in it")
    parser.add_argument("--install", action="store_true", help="install other people's gateways (throw-away)")
    parser.add_argument("--installs", type=Path, default=Path("~/.cache/metainf/benchmarks").expanduser())
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    base = QUICK if options.quick else FULL
    plan = Plan(
        fronts=tuple(options.fronts.split(",")) if options.fronts else base.fronts,
        concurrencies=base.concurrencies,
        streams=base.streams,
        rounds=options.rounds or base.rounds,
        seconds=options.seconds or base.seconds,
        tokens=base.tokens,
    )
    try:
        rows = benchmark(plan, out=options.out, install=options.install, installs=options.installs, seed=options.seed)
    except (LoadFailed, Missing) as failure:
        print(f"failed: {failure}")
        return 1
    print()
    print(table(rows))
    return 0


if __name__ == "__main__":
    # Ended like an interrupt, so that no gateway stays behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main(sys.argv[1:]))
