"""Does a node that tunes itself get what exhaustive trials would? Real vLLM, a node that starts with an empty history.

    python -m tests.benchmarks.bench_tuning --out FOLDER                       # hours; broken off, it goes on
    python -m tests.benchmarks.bench_tuning --out FOLDER --kinds copy,bursty --goals latency,tail

For each workload every strategy is tried on a bench of its own (`metainf profile --trials`): the best of them, by each
objective, is what could be had. Then a node that knows nothing starts on vLLM's default, gets that workload from a load
generator, has some quiet minutes, and the workload again. What it runs at the end is measured at the client beside the
default and the best of the trials, in turns, on prompts that nobody had before.
"""

import argparse
import json
import math
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from node.core.workloads import Load, Request, Scale, loads
from tests.e2e.daemon import CHECKOUT, Daemon, environment, metainf, running_node

MODEL = "SmolLM2-135M-Instruct"
KINDS = ("copy", "bursty", "long_prompt", "shared_prefix")
GOALS = ("latency", "tail", "throughput")
SCALE = Scale(prefill=256, decode=32)  # what `scale_for` finds on two cores
STRATEGIES = 9
START_S = 300.0
ANSWER_S = 180.0
SWITCH_S = 600.0
LEAST_GAIN = 0.15  # log-cost over the default from which a cell counts as one where something can be gained
WORSE = 0.02
IDLE_AFTER_S = 8.0
LOOKED_AT_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is done. `feed`: replays until the node has seen enough; `rounds` of the last measurement."""

    kinds: tuple[str, ...] = KINDS
    goals: tuple[str, ...] = GOALS
    feed: int = 8
    rounds: int = 4
    quiet_s: float = 900.0  # that a node may take to try, to decide and to switch
    repetitions: int = 3
    trial_minutes: float = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One replay as the client saw it. Seconds; throughput in tokens a second."""

    latency: float
    latency_p95: float
    stall_p95: float
    throughput: float

    def cost(self, goal: str) -> float:
        """Return the log-cost by an objective, as `node.learner.objective` has it."""
        match goal:
            case "latency":
                return math.log(self.latency)
            case "tail":
                return (math.log(self.latency_p95) + math.log(max(self.stall_p95, 1e-6))) / 2
            case _:
                return -math.log(self.throughput)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """What came of one workload and objective. Costs are log-costs, lower is better, medians of rounds.

    Attributes:
        decided_s: from the first prompt to the strategy that was kept.
    """

    kind: str
    goal: str
    default: float
    chosen: float
    best: float
    chosen_name: str
    best_name: str
    decided_s: float
    switches: int
    rollbacks: int

    @property
    def open(self) -> float:
        """What could be gained over the default."""
        return self.default - self.best

    @property
    def closed(self) -> float:
        """The part of it that was; NaN where nothing could."""
        return (self.default - self.chosen) / self.open if self.open > 0 else float("nan")


# --- the load generator


def replay(url: str, load: Load) -> Figures:
    """Send one load's requests at their times; return what it came to.

    Raises:
        AssertionError: an answer failed.
    """
    results: list[tuple[float, float, int]] = []
    trouble: list[str] = []
    began = time.monotonic()

    def ask(request: Request) -> None:
        time.sleep(max(began + request.at_us / 1e6 - time.monotonic(), 0.0))
        try:
            results.append(_asked(url, request))
        except (OSError, ValueError) as error:
            trouble.append(str(error))

    threads = [threading.Thread(target=ask, args=(request,), daemon=True) for request in load.requests]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(ANSWER_S)
    took = time.monotonic() - began
    assert not trouble, trouble[:3]
    assert len(results) == len(threads), f"{len(results)} of {len(threads)} answered"
    latencies = sorted(each for each, _, _ in results)
    stalls = sorted(each for _, each, _ in results)
    at = max(math.ceil(0.95 * len(results)) - 1, 0)
    return Figures(
        latency=statistics.fmean(latencies),
        latency_p95=latencies[at],
        stall_p95=stalls[at],
        throughput=sum(tokens for _, _, tokens in results) / took,
    )


def _asked(url: str, request: Request) -> tuple[float, float, int]:
    """Ask; return latency, the longest gap between two pieces, and the answer's tokens."""
    # A word of the workloads' list is one token of most vocabularies.
    text = " ".join(" ".join(part.text.split()[: part.tokens]) for part in request.parts)
    body = {
        "model": MODEL, "prompt": text, "max_tokens": request.max_tokens, "temperature": 0, "ignore_eos": True,
        "stream": True, "stream_options": {"include_usage": True},
    }  # fmt: skip
    connection = HTTPConnection(urlsplit(url).netloc, timeout=ANSWER_S)
    began = latest = time.monotonic()
    stall, tokens, seen = 0.0, 0, False
    try:
        connection.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"})
        answer = connection.getresponse()
        if answer.status != 200:
            raise ValueError(f"{answer.status}: {answer.read(300)!r}")
        while line := answer.readline():
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line.removeprefix(b"data: "))
            tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
            if event.get("choices"):
                now = time.monotonic()
                stall = max(stall, now - latest) if seen else stall
                latest, seen = now, True
    finally:
        connection.close()
    return time.monotonic() - began, stall, tokens


def fresh(kind: str, seed: int) -> Load:
    """Return a load of that kind whose words nobody had before, so that no cache knows it."""
    return loads(SCALE, kinds=(kind,), seed=seed)[0]


# --- what could be had


def exhaustive(plan: Plan, kind: str, out: Path) -> Mapping[str, str]:
    """Return, by objective, the best strategy of those tried on a bench."""
    kept = out / f"trials-{kind}.json"
    if not kept.exists():
        command = [sys.executable, "-m", "node", "profile", "--trials", "--json", "--data-dir", str(out / f"t-{kind}")]
        asked = ["--strategies", str(STRATEGIES), "--repetitions", str(plan.repetitions), "--workloads", kind]
        budget = ["--budget", str(plan.trial_minutes)]
        done = subprocess.run(
            [*command, *asked, *budget], cwd=CHECKOUT, env=environment(), stdout=subprocess.PIPE, check=True
        )
        kept.write_bytes(done.stdout)
    cells = [cell for cell in json.loads(kept.read_text())["cells"] if cell["figures"]]

    def median(cell: Mapping[str, Any], name: str) -> float:
        return float(cell["figures"][name]["median"])

    costs: dict[str, Callable[[Mapping[str, Any]], float]] = {
        "latency": lambda cell: math.log(median(cell, "latency.mean")),
        "tail": lambda cell: (math.log(median(cell, "latency.p95")) + math.log(median(cell, "stall.p95"))) / 2,
        "throughput": lambda cell: -math.log(median(cell, "throughput")),
    }
    return {goal: min(cells, key=costs[goal])["strategy"]["name"] for goal in plan.goals}


# --- what the node does


def tuned(plan: Plan, kind: str, goal: str, out: Path, best: str) -> Cell:
    """Have a node that knows nothing tune itself to a workload, and measure what it came to."""
    config = (
        f'[tuner]\nobjective = "{goal}"\n[learner]\nobjectives = ["{goal}"]\nwarm_start = false\n'
        f"[trials]\nidle_after_s = {IDLE_AFTER_S}\nbudget_minutes = 120.0\n"
    )
    variables = {"METAINF_LEARNER_ENABLED": "true"}
    folder = out / f"node-{kind}-{goal}"
    folder.mkdir(exist_ok=True)
    with running_node(folder, config=config, extra_environment=variables) as daemon:
        daemon.wait_for_engine(within=START_S)
        began, seed = time.monotonic(), 1000
        for _ in range(plan.feed):
            replay(daemon.url, fresh(kind, seed := seed + 1))
        _until_settled(daemon, plan)
        # What was switched to is held against what was before while prompts come.
        for _ in range(2 * plan.feed):
            if _tuner(daemon)["phase"] != "verifying":
                break
            replay(daemon.url, fresh(kind, seed := seed + 1))
        decided = time.monotonic() - began
        facts = _tuner(daemon)
        chosen = str(facts["strategy"])
        print(f"  {kind}/{goal}: runs {chosen} after {decided:.0f} s ({facts['reason']})", flush=True)
        figures = _side_by_side(daemon, plan, kind, list(dict.fromkeys(("default", chosen, best))), seed)
    cost = {name: statistics.median(each.cost(goal) for each in found) for name, found in figures.items()}
    return Cell(
        kind=kind, goal=goal, default=cost["default"], chosen=cost[chosen], best=cost[best], chosen_name=chosen,
        best_name=best, decided_s=decided, switches=facts["switches"], rollbacks=facts["rollbacks"],
    )  # fmt: skip


def _tuner(daemon: Daemon) -> dict[str, Any]:
    return daemon.status()["tuner"]


def _until_settled(daemon: Daemon, plan: Plan) -> None:
    """Wait, without a prompt, until nothing is left to be tried or decided."""
    until, still = time.monotonic() + plan.quiet_s, 0
    while time.monotonic() < until and still < 5:
        time.sleep(LOOKED_AT_S)
        status = daemon.status()
        tuner, trials = status["tuner"], status["trials"]
        if tuner["phase"] == "verifying":
            return
        tried = trials["state"] != "running" and (trials["cells"] or 0) > 0
        still = still + 1 if tuner["phase"] == "steady" and tried and status["engine"]["state"] == "ready" else 0


def _side_by_side(
    daemon: Daemon, plan: Plan, kind: str, strategies: Sequence[str], seed: int
) -> dict[str, list[Figures]]:
    found: dict[str, list[Figures]] = {name: [] for name in strategies}
    for number in range(plan.rounds):
        turn = number % len(strategies)
        for name in (*strategies[turn:], *strategies[:turn]):
            metainf(daemon, "strategy", "set", name, "--json", within=SWITCH_S)
            replay(daemon.url, fresh(kind, seed := seed + 1))  # what the first one pays for is not counted
            found[name] += [replay(daemon.url, fresh(kind, seed := seed + 1)) for _ in range(2)]
    return found


def show(cells: Sequence[Cell]) -> str:
    """Return the table."""
    lines = [
        f"{'workload':14}{'objective':12}{'default':>9}{'chosen':>9}{'best':>9}{'could':>8}{'closed':>8}"
        f"{'decided':>9}{'switches':>9}  chosen | best by trials"
    ]
    for cell in cells:
        could, closed = 1 - math.exp(-cell.open), f"{cell.closed:.0%}" if cell.open > 0 else "-"
        lines.append(
            f"{cell.kind:14}{cell.goal:12}{math.exp(cell.default):9.3f}{math.exp(cell.chosen):9.3f}"
            f"{math.exp(cell.best):9.3f}{could:8.0%}{closed:>8}{cell.decided_s:8.0f}s{cell.switches:9}"
            f"  {cell.chosen_name} | {cell.best_name}"
        )
    gains = [cell for cell in cells if cell.open >= LEAST_GAIN]
    rest = [cell for cell in cells if cell.open < LEAST_GAIN]
    good = sum(cell.closed >= 0.7 for cell in gains)
    bad = sum(cell.chosen - cell.default > WORSE for cell in rest)
    lines.append(
        f"{len(gains)} cells with 15 % to gain: {good} closed 70 % of it; {bad} of {len(rest)} others got worse by 2 %"
    )
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--goals", default=",".join(GOALS))
    parser.add_argument("--rounds", type=int, default=Plan.rounds)
    options = parser.parse_args(arguments)
    plan = Plan(kinds=tuple(options.kinds.split(",")), goals=tuple(options.goals.split(",")), rounds=options.rounds)
    options.out.mkdir(parents=True, exist_ok=True)
    kept = options.out / "cells.jsonl"
    cells = [Cell(**json.loads(line)) for line in kept.read_text().splitlines()] if kept.exists() else []
    for kind in plan.kinds:
        best = exhaustive(plan, kind, options.out)
        print(f"{kind}: best by trials: {dict(best)}", flush=True)
        for goal in plan.goals:
            if any((cell.kind, cell.goal) == (kind, goal) for cell in cells):
                continue
            cells.append(tuned(plan, kind, goal, options.out, best[goal]))
            with kept.open("a") as file:
                file.write(json.dumps(asdict(cells[-1])) + "\n")
            print(show(cells), flush=True)
    print(show(cells))
    return 0


if __name__ == "__main__":
    # Ended like an interrupt, so that no daemon stays behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main(sys.argv[1:]))
