"""What a node adds before a real vLLM: throughput and TTFT through it, against its engine asked directly.

    python -m tests.benchmarks.bench_overhead                     # ten minutes: 24 rounds of both ways
    python -m tests.benchmarks.bench_overhead --rounds 8 --out rows.jsonl

A node runs the embedded model as it does for anybody. In each round both ways get the same work, in turns which one
first: eight clients, each with so many completions one after the other, of prompts that no cache knows. What counts is
the ratio within a round; its 95 % interval is Student's, over the logarithms of all rounds.
"""

import argparse
import asyncio
import json
import math
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import NormalDist

import psutil

from tests.benchmarks.timed_client import AskFailed, ask, words
from tests.e2e.daemon import Daemon, running_node

MODEL = "SmolLM2-135M-Instruct"
START_S = 300.0
QUIET = "[trials]\nidle = false\n[tuner]\nenabled = false\n"
MOST = 1.05  # of the interval's upper end
DIRECT, NODE = "direct", "node"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is measured. `each`: completions of each client in a round, one after the other."""

    rounds: int = 24
    clients: int = 8
    each: int = 2
    prompt: int = 64
    tokens: int = 48


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One way in one round: tokens a second of all clients, and seconds to the first token (mean, median)."""

    way: str
    round: int
    throughput: float
    ttft: float
    ttft_p50: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """How many times worse the node is, in the middle, and the ends of a 95 % interval."""

    low: float
    middle: float
    high: float


def ratio(pairs: Sequence[tuple[float, float]]) -> Ratio:
    """Return the ratio of pairs (node, direct), larger being worse; NaN ends where there are fewer than three."""
    logs = [math.log(node / direct) for node, direct in pairs]
    middle = statistics.fmean(logs)
    if len(logs) < 3:
        return Ratio(low=math.nan, middle=math.exp(middle), high=math.nan)
    wide = student(len(logs) - 1) * statistics.stdev(logs) / math.sqrt(len(logs))
    return Ratio(low=math.exp(middle - wide), middle=math.exp(middle), high=math.exp(middle + wide))


def student(freedom: int) -> float:
    """Return Student's 97.5 % point, by Cornish and Fisher's expansion: within 1 % from 3 degrees of freedom on."""
    z = NormalDist().inv_cdf(0.975)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + sum(term / freedom ** (power + 1) for power, term in enumerate(terms))


def ratios(rows: Sequence[Row]) -> dict[str, Ratio]:
    """Return how the node compares in what counts, over the rounds that have both ways."""
    by = {(row.way, row.round): row for row in rows}
    both = [(by[NODE, row.round], row) for row in rows if row.way == DIRECT and (NODE, row.round) in by]
    return {
        "time per token (1 / throughput)": ratio(
            [(1 / node.throughput, 1 / direct.throughput) for node, direct in both]
        ),
        "TTFT, mean": ratio([(node.ttft, direct.ttft) for node, direct in both]),
        "TTFT, median": ratio([(node.ttft_p50, direct.ttft_p50) for node, direct in both]),
    }


def show(rows: Sequence[Row], plan: Plan) -> str:
    """Return the table."""
    lines = [f"{plan.clients} at once, {plan.prompt} tokens in, {plan.tokens} out, {len(rows) // 2} rounds"]
    for way in (DIRECT, NODE):
        own = [row for row in rows if row.way == way]
        lines.append(
            f"{way:8} {statistics.median(row.throughput for row in own):7.1f} tokens/s, "
            f"TTFT {1e3 * statistics.median(row.ttft for row in own):.0f} ms (mean of a round, median of rounds)"
        )
    for name, each in ratios(rows).items():
        lines.append(f"node / direct, {name:32} {each.middle:.3f}, 95 % interval {each.low:.3f} to {each.high:.3f}")
    return "\n".join(lines)


def holds(rows: Sequence[Row]) -> bool:
    """Whether all that counts stays within what is claimed. Of no rounds, or few, nothing is claimed."""
    return bool(rows) and all(each.high <= MOST for each in ratios(rows).values())


async def loaded(url: str, key: str, plan: Plan, number: int, way: str) -> Row:
    """Do a round's work on one way.

    Raises:
        AskFailed: an answer was wrong.
    """
    firsts: list[float] = []

    async def client(which: int) -> None:
        rng = random.Random(f"{number}/{way}/{which}")  # noqa: S311 -- prompts, no secret
        for _ in range(plan.each):
            got = await ask(url, model=MODEL, prompt=words(plan.prompt, rng), tokens=plan.tokens, key=key)
            firsts.append(got.first)

    began = time.perf_counter()
    try:
        async with asyncio.TaskGroup() as group:
            for which in range(plan.clients):
                group.create_task(client(which))
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    took = time.perf_counter() - began
    return Row(
        way=way,
        round=number,
        throughput=plan.clients * plan.each * plan.tokens / took,
        ttft=statistics.fmean(firsts),
        ttft_p50=statistics.median(firsts),
    )


def engine_of(daemon: Daemon) -> tuple[str, str]:
    """Return where a node's own engine listens, and its key: read off the processes below the node.

    Raises:
        AssertionError: there is none.
    """
    for process in psutil.Process(daemon.child.pid).children(recursive=True):
        line, key = process.cmdline(), process.environ().get("VLLM_API_KEY")
        if key and "--port" in line:
            return f"http://127.0.0.1:{line[line.index('--port') + 1]}", key
    raise AssertionError("no engine with a port and a key runs below the node")


def embedded_model() -> str:
    """Return the embedded model's folder where it is unpacked already, else the word for it."""
    found = sorted(Path("~/.cache/metainf/models").expanduser().glob("SmolLM2-135M-Instruct-*/config.json"))
    return str(found[-1].parent) if found else "embedded"


def benchmark(plan: Plan, *, out: Path | None) -> list[Row]:
    """Start a node, measure, and return all rows, those of an earlier run in `out` included."""
    rows = [Row(**json.loads(line)) for line in out.read_text().splitlines()] if out and out.exists() else []
    done = {(row.way, row.round) for row in rows}
    config = f'[engine]\nserved_name = "{MODEL}"\n{QUIET}'
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-overhead-")))
        daemon = stack.enter_context(running_node(folder, "--model", embedded_model(), config=config))
        daemon.wait_for_engine(within=START_S)
        engine, key = engine_of(daemon)
        ways = {DIRECT: (engine, key), NODE: (daemon.url, "none")}
        for way, (url, own) in ways.items():
            asyncio.run(loaded(url, own, plan, -1, way))  # what a first answer pays for is not counted
        for number in range(plan.rounds):
            for way in (DIRECT, NODE) if number % 2 else (NODE, DIRECT):
                if (way, number) in done:
                    continue
                row = asyncio.run(loaded(*ways[way], plan, number, way))
                rows.append(row)
                if out is not None:
                    with out.open("a") as file:
                        file.write(json.dumps(asdict(row)) + "\n")
                print(
                    f"round {number}: {way:6} {row.throughput:6.1f} tokens/s, TTFT {1e3 * row.ttft:.0f} ms", flush=True
                )
    return rows


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return the exit code: 0 where the intervals end below what is claimed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=Plan().rounds)
    parser.add_argument("--clients", type=int, default=Plan().clients)
    parser.add_argument("--each", type=int, default=Plan().each)
    parser.add_argument("--tokens", type=int, default=Plan().tokens)
    parser.add_argument("--out", type=Path, help="JSON Lines; a second call measures what is missing in it")
    options = parser.parse_args(arguments)
    plan = Plan(rounds=options.rounds, clients=options.clients, each=options.each, tokens=options.tokens)
    try:
        rows = benchmark(plan, out=options.out)
    except (AskFailed, AssertionError) as failure:
        print(f"failed: {failure}")
        return 1
    print(show(rows, plan))
    return int(not holds(rows))


if __name__ == "__main__":
    # Ended like an interrupt, so that no daemon stays behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main(sys.argv[1:]))
