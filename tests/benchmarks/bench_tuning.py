"""Does a node that tunes itself get what exhaustive trials would? Real vLLM, a node that starts with an empty history.

    python -m tests.benchmarks.bench_tuning --out FOLDER                       # hours; broken off, it goes on
    python -m tests.benchmarks.bench_tuning --out FOLDER --kinds copy,bursty --goals latency,tail

For each workload every strategy is tried on a bench of its own (`metainf profile --trials`). Then a node that knows
nothing starts on vLLM's default, gets that workload from a load generator, has some quiet minutes, and the workload
again. What it runs at the end is measured at the client against the default and the best of the trials by each
objective: nodes with one of them each stand side by side and are asked in turns, prompts that nobody had before, equal
ones in each round. The best of all these at the client is what could be had.
"""

import argparse
import json
import math
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from http.client import HTTPConnection
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from node.core.strategy import to_plain
from node.core.strategy_names import parse_name
from node.core.workloads import BURST_US, Load, Request, Scale, loads
from tests.e2e.daemon import CHECKOUT, Daemon, environment, metainf, running_node

MODEL = "SmolLM2-135M-Instruct"
KINDS = ("copy", "bursty", "long_prompt", "shared_prefix")
GOALS = ("latency", "tail", "throughput")
SCALES = tuple(Scale(prefill=64 << prefill, decode=8 << decode) for prefill, decode in product(range(5), range(5)))
STRATEGIES = 9
CACHE = 512 << 20  # bytes of KV cache where nodes stand side by side: three times what a load fills
START_S = 300.0
ANSWER_S = 180.0
LEAST_GAIN = 0.15  # log-cost over the default from which a cell counts as one where something can be gained
WORSE = 0.02
IDLE_AFTER_S = 70.0  # by then it is known what the engine takes, and the tuner has said what it wants tried
LOOKED_AT_S = 2.0
CHAINED = 3  # loads of bursts in one replay: forty-five requests
LOAD_US = 3 * BURST_US  # from one such load's first burst to the next one's


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is done. `feed`: replays until the node has seen enough; `rounds` of the last measurement."""

    kinds: tuple[str, ...] = KINDS
    goals: tuple[str, ...] = GOALS
    feed: int = 8
    rounds: int = 12
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
class Could:
    """What trials of a kind of workload came to: the best strategy by objective, and how large the requests were."""

    best: Mapping[str, str]
    scale: Scale


@dataclass(frozen=True, slots=True, kw_only=True)
class Did:
    """What a node did by itself.

    Attributes:
        decided_s: from the first prompt to the strategy that was kept.
    """

    kind: str
    goal: str
    chosen: str
    decided_s: float
    switches: int
    rollbacks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """What came of one workload and objective. Costs are log-costs, lower is better.

    The default's is a median of rounds, the others' that plus the median of how they differed from it in each round.
    """

    did: Did
    default: float
    chosen: float
    best: float
    best_name: str

    @property
    def open(self) -> float:
        """What could be gained over the default."""
        return self.default - self.best

    @property
    def closed(self) -> float:
        """The part of it that was; NaN where nothing could."""
        return (self.default - self.chosen) / self.open if self.open > 0 else float("nan")


# --- the load generator


def replay(url: str, requests: Sequence[Request]) -> Figures:
    """Send requests at their times; return what it came to.

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

    threads = [threading.Thread(target=ask, args=(request,), daemon=True) for request in requests]
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


def fresh(kind: str, scale: Scale, seed: int) -> Load:
    """Return a load of that kind whose words nobody had before, so that no cache knows it."""
    return loads(scale, kinds=(kind,), seed=seed)[0]


def traffic(kind: str, scale: Scale, seed: int) -> tuple[Request, ...]:
    """Return the requests of one replay. Bursts go on at their own pace, whether the last were answered or not.

    Were each load's end waited for, an engine that cannot keep up would be given time to.
    """
    repeats = CHAINED if kind == "bursty" else 1
    return tuple(
        replace(request, at_us=request.at_us + number * LOAD_US)
        for number in range(repeats)
        for request in fresh(kind, scale, repeats * seed + number).requests
    )


# --- what could be had


def exhaustive(plan: Plan, kind: str, out: Path) -> Could:
    """Try every strategy on a bench."""
    kept = out / f"trials-{kind}.json"
    if not kept.exists():
        command = [sys.executable, "-m", "node", "profile", "--trials", "--json", "--data-dir", str(out / f"t-{kind}")]
        asked = ["--strategies", str(STRATEGIES), "--repetitions", str(plan.repetitions), "--workload", kind]
        budget = ["--budget", str(plan.trial_minutes)]
        done = subprocess.run(
            [*command, *asked, *budget], cwd=CHECKOUT, env=environment(), stdout=subprocess.PIPE, check=True
        )
        kept.write_bytes(done.stdout)
    report = json.loads(kept.read_text())
    cells = [cell for cell in report["cells"] if cell["figures"]]

    def median(cell: Mapping[str, Any], name: str) -> float:
        return float(cell["figures"][name]["median"])

    costs: dict[str, Callable[[Mapping[str, Any]], float]] = {
        "latency": lambda cell: math.log(median(cell, "latency.mean")),
        "tail": lambda cell: (math.log(median(cell, "latency.p95")) + math.log(median(cell, "stall.p95"))) / 2,
        "throughput": lambda cell: -math.log(median(cell, "throughput")),
    }
    best = {goal: min(cells, key=costs[goal])["strategy"]["name"] for goal in plan.goals}
    for cell in sorted(cells, key=costs[plan.goals[0]]):
        found = "  ".join(f"{goal} {math.exp(costs[goal](cell)):.4g}" for goal in plan.goals)
        print(f"  trials of {kind}: {cell['strategy']['name']}: {found}", flush=True)
    (tried,) = report["workloads"]
    return Could(best=best, scale=next(each for each in SCALES if asdict(fresh(kind, each, 1).workload) == tried))


# --- what the node does


def tuned(plan: Plan, kind: str, goal: str, out: Path, scale: Scale) -> Did:
    """Have a node that knows nothing tune itself to a workload."""
    config = (
        f'[tuner]\nobjective = "{goal}"\n[learner]\nobjectives = ["{goal}"]\nwarm_start = false\n'
        f"[trials]\nidle_after_s = {IDLE_AFTER_S}\nbudget_minutes = 9.0\n"
    )
    variables = {"METAINF_LEARNER_ENABLED": "true"}
    folder = _with_model(out, kind, f"node-{kind}-{goal}")
    with running_node(folder, config=config, extra_environment=variables) as daemon:
        daemon.wait_for_engine(within=START_S)
        began, seed = time.monotonic(), 1000
        for _ in range(plan.feed):
            replay(daemon.url, traffic(kind, scale, seed := seed + 1))
        _until_settled(daemon, plan)
        # What was switched to is held against what was before while prompts come.
        for _ in range(2 * plan.feed):
            if _tuner(daemon)["phase"] != "verifying":
                break
            replay(daemon.url, traffic(kind, scale, seed := seed + 1))
        _until_settled(daemon, plan)  # it may be on its way back
        decided = time.monotonic() - began
        facts = _tuner(daemon)
        for words in ("history", "show"):
            (folder / f"{words}.json").write_text(metainf(daemon, "strategy", words, "--json"))
    chosen = str(facts["strategy"])
    print(f"  {kind}/{goal}: runs {chosen} after {decided:.0f} s ({facts['reason']})", flush=True)
    return Did(
        kind=kind, goal=goal, chosen=chosen, decided_s=decided, switches=facts["switches"], rollbacks=facts["rollbacks"]
    )


def _with_model(out: Path, kind: str, name: str) -> Path:
    """Return a new folder for a node, with the embedded model unpacked."""
    folder = out / name
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(out / f"t-{kind}" / "cache" / "models", folder / "node-data" / "cache" / "models")
    return folder


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


# --- what it came to


def side_by_side(plan: Plan, kind: str, out: Path, scale: Scale, strategies: Sequence[str]) -> dict[str, list[Figures]]:
    """Measure strategies on nodes of one each, in turns; return by strategy the figures of each round."""
    found: dict[str, list[Figures]] = {name: [] for name in strategies}
    config = f"[learner]\nenabled = false\n[trials]\nidle = false\n[engine]\nkv_cache_bytes = {CACHE}\n"
    with ExitStack() as stack:
        urls: dict[str, str] = {}
        for number, name in enumerate(strategies):
            folder = _with_model(out, kind, f"beside-{kind}-{number}")
            daemon = stack.enter_context(running_node(folder, config=config + _fixed(name)))
            daemon.wait_for_engine(within=START_S)
            urls[name] = daemon.url
        # What a first answer pays for is not counted.
        for number in range(-1, plan.rounds):
            requests, turn = traffic(kind, scale, 9000 + number), number % len(strategies)
            for name in (*strategies[turn:], *strategies[:turn]):
                figures = replay(urls[name], requests)
                if number >= 0:
                    found[name].append(figures)
    return found


def _fixed(name: str) -> str:
    """Return the settings that fix a strategy."""
    strategy = parse_name(name)
    assert not strategy.engine_extra, f"{name}: the settings have no word for a part of it"
    plain = to_plain(strategy)
    if strategy.speculation is not None:
        del plain["speculation"]
        plain |= {f"speculation_{part}": value for part, value in asdict(strategy.speculation).items()}
    # Numbers, booleans and words are written in TOML as in JSON.
    return "\n".join(["[engine.strategy]", *(f"{field} = {json.dumps(value)}" for field, value in plain.items()), ""])


def cell_of(did: Did, found: Mapping[str, Sequence[Figures]]) -> Cell:
    """Return what a node's choice came to, round by round against the default."""
    default = [each.cost(did.goal) for each in found["default"]]

    def level(name: str) -> float:
        apart = (each.cost(did.goal) - beside for each, beside in zip(found[name], default, strict=True))
        return statistics.median(default) + statistics.median(apart)

    best = min(found, key=level)
    return Cell(did=did, default=level("default"), chosen=level(did.chosen), best=level(best), best_name=best)


def show(cells: Sequence[Cell]) -> str:
    """Return the table."""
    lines = [
        f"{'workload':14}{'objective':12}{'default':>9}{'chosen':>9}{'best':>9}{'could':>8}{'closed':>8}"
        f"{'decided':>9}{'switches':>9}  chosen | best"
    ]
    for cell in cells:
        could, closed = 1 - math.exp(-cell.open), f"{cell.closed:.0%}" if cell.open > 0 else "-"
        lines.append(
            f"{cell.did.kind:14}{cell.did.goal:12}{math.exp(cell.default):9.3f}{math.exp(cell.chosen):9.3f}"
            f"{math.exp(cell.best):9.3f}{could:8.0%}{closed:>8}{cell.did.decided_s:8.0f}s{cell.did.switches:9}"
            f"  {cell.did.chosen} | {cell.best_name}"
        )
    gains = [cell for cell in cells if cell.open >= LEAST_GAIN]
    rest = [cell for cell in cells if cell.open < LEAST_GAIN]
    good = sum(cell.closed >= 0.7 for cell in gains)
    bad = sum(cell.chosen - cell.default > WORSE for cell in rest)
    lines.append(
        f"{len(gains)} cells with 15 % to gain: {good} closed 70 % of it; {bad} of {len(rest)} others got worse by 2 %"
    )
    return "\n".join(lines)


def _kept(out: Path, plan: Plan, kind: str, goal: str, scale: Scale) -> Did:
    """Have a node tune itself, unless it did in a run before."""
    kept = out / f"did-{kind}-{goal}.json"
    if not kept.exists():
        did = tuned(plan, kind, goal, out, scale)
        kept.write_text(json.dumps(asdict(did)))
    return Did(**json.loads(kept.read_text()))


def main(arguments: Sequence[str]) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--goals", default=",".join(GOALS))
    parser.add_argument("--rounds", type=int, default=Plan().rounds)
    options = parser.parse_args(arguments)
    plan = Plan(kinds=tuple(options.kinds.split(",")), goals=tuple(options.goals.split(",")), rounds=options.rounds)
    options.out.mkdir(parents=True, exist_ok=True)
    cells: list[Cell] = []
    for kind in plan.kinds:
        could = exhaustive(plan, kind, options.out)
        print(f"{kind}: best by trials: {dict(could.best)}", flush=True)
        did = [_kept(options.out, plan, kind, goal, could.scale) for goal in plan.goals]
        every = dict.fromkeys(("default", *could.best.values(), *(each.chosen for each in did)))
        kept = options.out / f"rounds-{kind}.json"
        rounds = json.loads(kept.read_text()) if kept.exists() else {}
        if not set(every) <= set(rounds):
            made = side_by_side(plan, kind, options.out, could.scale, tuple(every))
            rounds = {name: [asdict(each) for each in figures] for name, figures in made.items()}
            kept.write_text(json.dumps(rounds))
        found = {name: [Figures(**each) for each in figures] for name, figures in rounds.items()}
        cells += [cell_of(each, found) for each in did]
        print(show(cells), flush=True)
    return 0


if __name__ == "__main__":
    # Ended like an interrupt, so that no daemon stays behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main(sys.argv[1:]))
