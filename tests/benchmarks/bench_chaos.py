"""Is any answer lost where most of a swarm dies, hangs or loses its senses? Real daemons, sockets and streams.

    python -m tests.benchmarks.bench_chaos --quick            # a minute
    python -m tests.benchmarks.bench_chaos                    # four: 64 streams for three, eight nodes
    python -m tests.benchmarks.bench_chaos --kill engine      # SIGKILL for the engines alone, which come up again

Everybody asks one node without an engine. Of those who serve, a third of all is killed while it streams, one is stopped
(SIGSTOP), the engine of one sends garbage and that of one a byte a second; one survives. A request is lost when it is
refused, breaks off, or has not to the letter the tokens that were asked for. Nobody asks twice.
"""

import argparse
import asyncio
import json
import random
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.benchmarks.chaos_client import MODEL, Heard, Wrong, ask
from tests.e2e.children import eventually
from tests.e2e.daemon import Daemon, metainf, running_node

ENGINE = Path(__file__).with_name("chaos_engine.py")
CONFIG = "[trials]\nidle = false\n[tuner]\nenabled = false\n"
MEET_S = 120.0  # for eight daemons to start and to know each other, on two busy cores
WORDS = ("tell", "me", "of", "the", "sea", "and", "what", "the", "wind", "says", "to", "it", "at", "night")
SHOWN = 5  # failures that are told of
SLOW_S = 10.0  # from which stall on the longest is explained too

ENTRY, SURVIVOR, HUNG, GARBAGE, TRICKLE = "entry", "survivor", "hung", "garbage", "trickle"
KILL, STOP = "kill", "stop"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is done.

    Attributes:
        nodes: with the entry, the survivor, and the three that fall ill; a third of all is killed.
        kill: "node": the daemon with its engine, once each; "engine": its engine alone, three times each.
        tokens: of an answer, least and most. pace: seconds between two of them.
        window: parts of the time within which everything happens: before and after, all is as usual.
    """

    seconds: float = 180.0
    streams: int = 64
    nodes: int = 8
    kill: str = "node"
    tokens: tuple[int, int] = (24, 160)
    pace: float = 0.05
    window: tuple[float, float] = (0.1, 0.7)

    @property
    def victims(self) -> tuple[str, ...]:
        """Those who are killed."""
        return tuple(f"victim{number}" for number in range(round(self.nodes / 3)))

    @property
    def serving(self) -> tuple[str, ...]:
        """Those who serve."""
        return (SURVIVOR, *self.victims, HUNG, GARBAGE, TRICKLE)


QUICK = Plan(seconds=25.0, streams=16, tokens=(16, 64), pace=0.03)
KILLS = {"node": 1, "engine": 3}  # of each victim


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Blow:
    """What happens to whom; `at` seconds from the first request."""

    at: float
    who: str
    what: str


def blows(plan: Plan, rng: random.Random) -> list[Blow]:
    """Draw what signals go to whom, in order."""
    first, last = (part * plan.seconds for part in plan.window)
    kills = [Blow(at=rng.uniform(first, last), who=who, what=KILL) for who in plan.victims * KILLS[plan.kill]]
    return sorted([*kills, Blow(at=rng.uniform(first, last), who=HUNG, what=STOP)])


def senses(plan: Plan, rng: random.Random) -> dict[str, str]:
    """Draw after how many tokens whose engine loses its senses: about within the window, if all serve alike."""
    a_second = plan.streams / len(plan.serving) / plan.pace
    first, last = (part * plan.seconds for part in plan.window)
    return {who: f"{who}:{round(rng.uniform(first, (first + last) / 2) * a_second)}" for who in (GARBAGE, TRICKLE)}


# --- the clients


@dataclass(slots=True)
class Seen:
    """What all clients saw. `lost`: the name of each request that was, and why."""

    asked: int = 0
    heard: list[Heard] = field(default_factory=list[Heard])
    lost: dict[str, str] = field(default_factory=dict[str, str])


async def keep_asking(url: str, plan: Plan, number: int, seen: Seen, until: float, seed: int) -> None:
    """Be one client: ask again as soon as there is an answer, until the time is up."""
    rng, turn = random.Random(f"{seed}/{number}"), 0  # noqa: S311 -- prompts, no secret
    while time.monotonic() < until:
        name = f"chaos-{number}-{turn}"
        turn += 1
        prompt = " ".join([name, *rng.choices(WORDS, k=rng.randint(4, 200))])
        seen.asked += 1
        try:
            seen.heard.append(await ask(url, name, prompt, rng.randint(*plan.tokens)))
        except (Wrong, OSError) as error:
            seen.lost[name] = str(error) or type(error).__name__


# --- the swarm, and what happens to it


@contextmanager
def swarm(plan: Plan, folder: Path, ill: dict[str, str]) -> Iterator[dict[str, Daemon]]:
    """Start the nodes, by name; enter when the entry knows all the others."""
    model = folder / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    stub = json.dumps({"token_delay": plan.pace})
    with ExitStack() as stack:
        nodes: dict[str, Daemon] = {}
        for name in plan.serving:
            command = [sys.executable, str(ENGINE), "--stub", stub, "--then", ill.get(name, "")]
            engine = f'[engine]\nmodel = "{model}"\nserved_name = "{MODEL}"\ncommand = {json.dumps(command)}\n'
            joining = ("--join", nodes[SURVIVOR].address) if nodes else ()
            nodes[name] = stack.enter_context(running_node(folder, *joining, config=engine + CONFIG, name=name))
        joining = ("--no-engine", "--join", nodes[SURVIVOR].address)
        nodes[ENTRY] = stack.enter_context(running_node(folder, *joining, config=CONFIG, name=ENTRY))
        wanted = {nodes[name].peer_id for name in plan.serving}

        def known() -> bool:
            return wanted <= {peer for peer, facts in nodes[ENTRY].peers().items() if facts["models"]}

        eventually(known, within=MEET_S, what="each other", children=[each.child for each in nodes.values()])
        try:
            yield nodes
        finally:
            for daemon in nodes.values():
                with suppress(ProcessLookupError):
                    daemon.signal(signal.SIGCONT)  # one that is stopped could not end


def strike(daemon: Daemon, what: str, *, whole: bool) -> str:
    """Do to a node what is due; return it in words. `whole`: kill the daemon too, not its engine alone."""
    if what == STOP:
        daemon.signal(signal.SIGSTOP)
        return "stopped"
    try:
        below = psutil.Process(daemon.child.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return "was dead already"
    engines = [each for each in below if ENGINE.name in " ".join(_command(each))]
    hit = [psutil.Process(daemon.child.pid), *below] if whole else engines
    for each in hit:
        with suppress(psutil.NoSuchProcess):
            each.kill()
    return f"killed ({len(hit)} processes)"


def _command(process: psutil.Process) -> Sequence[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return ()


async def happen(plan: Plan, nodes: dict[str, Daemon], due: Sequence[Blow], began: float) -> None:
    """Strike at the moments that were drawn."""
    for blow in due:
        await asyncio.sleep(max(began + blow.at - time.monotonic(), 0.0))
        words = await asyncio.to_thread(strike, nodes[blow.who], blow.what, whole=plan.kill == "node")
        print(f"{time.monotonic() - began:6.1f} s: {blow.who} {words}", flush=True)


async def live(plan: Plan, nodes: dict[str, Daemon], due: Sequence[Blow], seed: int) -> Seen:
    """Let all clients ask until the time is up and each has its answer."""
    seen, began = Seen(), time.monotonic()
    async with asyncio.TaskGroup() as group:
        group.create_task(happen(plan, nodes, due, began))
        for number in range(plan.streams):
            group.create_task(keep_asking(nodes[ENTRY].url, plan, number, seen, began + plan.seconds, seed))
    return seen


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What it came to. Seconds; `resumed`, `retried` and `hedged` as the entry's status counts prompts and attempts."""

    asked: int
    lost: int
    resumed: int
    resumed_twice: int
    retried: int
    hedged: int | None
    usual_first_s: float
    longest_first_s: float
    longest_stall_s: float
    reasons: dict[str, str]

    @property
    def holds(self) -> bool:
        """Whether nothing was lost, although streams did break off."""
        return bool(self.asked) and not self.lost and bool(self.resumed)


def report(seen: Seen, requests: dict[str, Any]) -> Report:
    """Return what it came to. `requests`: that block of the entry's status."""
    firsts = [each.first for each in seen.heard if each.first is not None]
    return Report(
        asked=seen.asked,
        lost=len(seen.lost),
        resumed=requests.get("resumed", 0),
        resumed_twice=sum(each.resumed > 1 for each in seen.heard),
        retried=requests.get("retried", 0),
        hedged=requests.get("hedged"),
        usual_first_s=statistics.median(firsts) if firsts else float("nan"),
        longest_first_s=max(firsts, default=float("nan")),
        longest_stall_s=max((each.stall for each in seen.heard), default=float("nan")),
        reasons=dict(list(seen.lost.items())[:SHOWN]),
    )


def show(plan: Plan, found: Report) -> str:
    """Return the report in words."""
    hedged = "not counted" if found.hedged is None else found.hedged
    killed = "nodes with their engines" if plan.kill == "node" else "engines, three times each"
    lines = [
        f"{plan.nodes} nodes, {plan.streams} streams for {plan.seconds:.0f} s; {len(plan.victims)} {killed} killed, "
        "one stopped, one sent garbage, one a byte a second",
        f"{found.asked} requests: {found.lost} lost; {found.resumed} resumed ({found.resumed_twice} more than once), "
        f"{found.retried} attempts retried, hedged: {hedged}",
        f"wait for the first token: usually {found.usual_first_s:.2f} s, longest {found.longest_first_s:.2f} s; "
        f"longest stall {found.longest_stall_s:.2f} s",
    ]
    return "\n".join([*lines, *(f"lost {name}: {why}" for name, why in found.reasons.items())])


def run(plan: Plan, seed: int, folder: Path) -> Report:
    """Do all of it."""
    rng = random.Random(seed)  # noqa: S311 -- moments, no secret
    ill = senses(plan, rng)
    print(f"seed {seed}; engines lose their senses after so many tokens: {', '.join(ill.values())}", flush=True)
    with swarm(plan, folder, ill) as nodes:
        seen = asyncio.run(live(plan, nodes, blows(plan, rng), seed))
        found = report(seen, nodes[ENTRY].status()["requests"])
        slow = max(seen.heard, key=lambda each: each.stall, default=None)
        for name in [*found.reasons, *([slow.name] if slow is not None and slow.stall > SLOW_S else [])]:
            with suppress(AssertionError):  # what is known of it is a help, no claim
                print(metainf(nodes[ENTRY], "explain", name))
        told = Counter(line.split()[0] for line in seen.lost.values() if line)
        print(f"lost, by the first word of why: {dict(told)}" if told else "nothing was lost", flush=True)
    return found


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return the exit code: 0 where nothing was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--streams", type=int)
    parser.add_argument("--kill", choices=tuple(KILLS))
    parser.add_argument("--pace", type=float, help="seconds between two tokens of a stream")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="a folder for logs and data, which stays")
    options = parser.parse_args(arguments)
    chosen = asdict(QUICK if options.quick else Plan())
    named = {name: getattr(options, name) for name in ("seconds", "streams", "kill", "pace")}
    plan = Plan(**(chosen | {name: value for name, value in named.items() if value is not None}))
    with ExitStack() as stack:
        if options.keep is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-chaos-")))
        else:
            folder = options.keep
            folder.mkdir(parents=True)
        found = run(plan, options.seed, folder)
    print(show(plan, found))
    print(json.dumps(asdict(found)))
    return int(not found.holds)


if __name__ == "__main__":
    # Ended like an interrupt, so that no daemon stays behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main(sys.argv[1:]))
