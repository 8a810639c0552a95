"""How true is what a node foretells? A swarm of real vLLMs under live traffic, asked at one node.

    python -m tests.benchmarks.bench_calibration                          # six minutes: three vLLMs, four of traffic
    python -m tests.benchmarks.bench_calibration --rate 0.8 --seconds 120

Prompts and answers of mixed lengths come at random moments to a node without an engine, whose peers have one each. What
was foretold of whoever answered, and how far off it may be in one of ten cases, is read from the node's own account of
each prompt (`metainf explain ID`); beside it stands what came. The errors are of logarithms: 0.1 is 10 %. The engines
share one machine, so each is slower or faster by what the others do, which nobody tells the node.
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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from node.cli import control_client
from node.cli.options import places_of
from node.core.calibration import DRIFTED
from tests.benchmarks.bench_overhead import MODEL, QUIET, START_S, embedded_model
from tests.benchmarks.timed_client import AskFailed, ask, words
from tests.e2e.children import eventually
from tests.e2e.daemon import Daemon, running_node

MEET_S = 90.0
CACHE = 256 << 20  # bytes of KV cache of each: several stand side by side
FIRST = 20  # answers that are told of apart: the node has seen nothing of its peers before
LEAST_COVERED = DRIFTED  # of the later answers within the 90 % interval: below it the node itself raises an alarm
LARGEST_ERROR = math.log(1.5)  # median of the later answers
TTFT, TPOT = "TTFT", "TPOT"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is done. `nodes`: with an engine. `rate`: prompts a second. Lengths are even by their logarithm."""

    nodes: int = 3
    seconds: float = 240.0
    rate: float = 0.5
    prompt: tuple[int, int] = (16, 400)
    tokens: tuple[int, int] = (8, 96)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One quantity of one answer. `off`: log(observed / foretold); `within`: of the factor foretold for nine of ten."""

    number: int
    quantity: str
    off: float
    within: bool
    source: str


def rows_of(number: int, told: Mapping[str, Any]) -> list[Row]:
    """Return what one account comes to: a row for each quantity that was foretold and seen."""
    if not told["attempts"]:
        return []
    last = told["attempts"][-1]
    who = next((each for each in told["candidates"] if each["replica"] == last["replica"]), None)
    if who is None:
        return []
    found: list[Row] = []
    if last["ttft_s"]:
        engine = max(last["ttft_s"] - who["net_s"], 0.1 * last["ttft_s"])
        off = math.log(engine / (who["turn_s"] + who["ttft_s"]))
        found.append(_row(number, TTFT, off, who["ttft_factor_90"], who))
    if last["tpot_s"]:
        found.append(_row(number, TPOT, math.log(last["tpot_s"] / who["tpot_s"]), who["tpot_factor_90"], who))
    return found


def _row(number: int, quantity: str, off: float, factor: float, who: Mapping[str, Any]) -> Row:
    within = abs(off) <= math.log(factor)
    return Row(number=number, quantity=quantity, off=off, within=within, source=str(who["source"]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """How true forecasts of one quantity were. `error`: median of |off|; `bias`: median of off."""

    answers: int
    error: float
    bias: float
    covered: float


def summary(rows: Sequence[Row]) -> Summary:
    """Return what rows come to; of none, NaNs."""
    if not rows:
        return Summary(answers=0, error=math.nan, bias=math.nan, covered=math.nan)
    return Summary(
        answers=len(rows),
        error=statistics.median(abs(row.off) for row in rows),
        bias=statistics.median(row.off for row in rows),
        covered=statistics.fmean(row.within for row in rows),
    )


def parts(rows: Sequence[Row]) -> Iterator[tuple[str, str, Summary]]:
    """Yield quantity, part and summary: of the first answers, of those after them."""
    for quantity in (TTFT, TPOT):
        own = [row for row in rows if row.quantity == quantity]
        yield quantity, f"first {FIRST}", summary([row for row in own if row.number < FIRST])
        yield quantity, "later", summary([row for row in own if row.number >= FIRST])


def show(rows: Sequence[Row]) -> str:
    """Return the table."""
    lines = [f"{'':6}{'answers':>18}{'median error':>14}{'median bias':>13}{'within 90 %':>13}"]
    for quantity, part, each in parts(rows):
        lines.append(
            f"{quantity:6}{part:>10}{each.answers:8}{each.error:14.3f}{each.bias:+13.3f}{each.covered:13.0%}"
            if each.answers
            else f"{quantity:6}{part:>10}{0:8}"
        )
    sources = sorted({row.source for row in rows})
    lines.append(f"foretold by: {', '.join(sources)}")
    return "\n".join(lines)


def holds(rows: Sequence[Row]) -> bool:
    """Whether the later forecasts are as true as is claimed."""
    later = [each for _, part, each in parts(rows) if part == "later"]
    return all(each.covered >= LEAST_COVERED and each.error <= LARGEST_ERROR for each in later)


@contextmanager
def swarm(plan: Plan, folder: Path) -> Iterator[list[Daemon]]:
    """Start the nodes; enter, with the entry first, when all others have their engines and it knows them."""
    config = f'[engine]\nserved_name = "{MODEL}"\nkv_cache_bytes = {CACHE}\n{QUIET}'
    with ExitStack() as stack:
        nodes: list[Daemon] = []
        for number in range(plan.nodes):
            joining = ("--join", nodes[0].address) if nodes else ()
            options = ("--model", embedded_model(), *joining)
            nodes.append(stack.enter_context(running_node(folder, *options, config=config, name=f"node{number}")))
            nodes[-1].wait_for_engine(within=START_S)  # one after the other: each start takes both cores
        options = ("--no-engine", "--join", nodes[0].address)
        learns = {"METAINF_LEARNER_ENABLED": "true"}
        entry = stack.enter_context(
            running_node(folder, *options, config=QUIET, name="entry", extra_environment=learns)
        )
        wanted = {each.peer_id for each in nodes}

        def known() -> bool:
            return wanted <= {peer for peer, facts in entry.peers().items() if facts["models"]}

        eventually(known, within=MEET_S, what="each other", children=[entry.child, *(each.child for each in nodes)])
        yield [entry, *nodes]


async def live(plan: Plan, url: str, seed: int) -> tuple[list[str], list[float], list[str]]:
    """Let prompts come; return the names of those that were answered, in the order of their coming.

    With them log(observed / foretold) of TTFT as clients see it, by the headers, and what failed.
    """
    rng = random.Random(seed)  # noqa: S311 -- traffic, no secret
    names: list[str] = []
    seen: list[float] = []
    lost: list[str] = []

    async def one(name: str, prompt: int, tokens: int) -> None:
        try:
            got = await ask(url, model=MODEL, prompt=words(prompt, rng), tokens=tokens, headers={"x-request-id": name})
        except AskFailed as failed:
            lost.append(f"{name}: {failed}")
            return
        names.append(name)
        if foretold := got.headers.get("x-metainf-predicted-ttft-ms"):
            seen.append(math.log(got.first / (float(foretold) / 1e3)))

    until, number = time.monotonic() + plan.seconds, 0
    async with asyncio.TaskGroup() as group:
        while time.monotonic() < until:
            prompt, tokens = (round(math.exp(rng.uniform(*map(math.log, ends)))) for ends in (plan.prompt, plan.tokens))
            group.create_task(one(f"live-{number:04}", prompt, tokens))
            number += 1
            await asyncio.sleep(rng.expovariate(plan.rate))
    return sorted(names), seen, lost


def run(plan: Plan, seed: int, out: Path | None) -> tuple[list[Row], list[str]]:
    """Do all of it; return the rows, and what failed."""
    with tempfile.TemporaryDirectory(prefix="bench-calibration-") as folder, swarm(plan, Path(folder)) as nodes:
        entry = nodes[0]
        names, seen, lost = asyncio.run(live(plan, entry.url, seed))
        socket = places_of(entry.data).control_socket
        rows: list[Row] = []
        answered = dict.fromkeys((each.peer_id for each in nodes), 0)
        for number, name in enumerate(names):
            told = control_client.get_json(socket, f"/explain/{quote(name, safe='')}")
            rows += rows_of(number, told)
            if told["attempts"]:
                answered[told["attempts"][-1]["replica"]] += 1
        status = entry.status()["routing"]
    print(f"{len(names)} answers, by node: {', '.join(map(str, answered.values()))}; {len(lost)} failed")
    if seen:
        print(
            f"TTFT by the header, as clients see it: median error {statistics.median(map(abs, seen)):.3f} ({len(seen)})"
        )
    print(f"by status: {json.dumps({key: status.get(key) for key in ('ttft', 'tpot', 'drifted', 'decisions')})}")
    if out is not None:
        out.write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows))
    return rows, lost


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return the exit code: 0 where forecasts are as true as is claimed and nothing failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=Plan().nodes)
    parser.add_argument("--seconds", type=float, default=Plan().seconds)
    parser.add_argument("--rate", type=float, default=Plan().rate)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON Lines of every forecast and what came")
    options = parser.parse_args(arguments)
    plan = Plan(nodes=options.nodes, seconds=options.seconds, rate=options.rate)
    rows, lost = run(plan, options.seed, options.out)
    print(show(rows))
    for each in lost[:5]:
        print(f"failed: {each}")
    return int(bool(lost) or not holds(rows))


if __name__ == "__main__":
    # Ended like an interrupt, so that no daemon stays behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main(sys.argv[1:]))
