"""Is anything lost or done twice while a node changes its strategy? Forced switches under streams that never stop.

    python -m tests.benchmarks.bench_switches --quick                 # seconds: a stand-in for the engine; what CI runs
    python -m tests.benchmarks.bench_switches --engine vllm           # twenty switches of a real vLLM, a lone node
    python -m tests.benchmarks.bench_switches --engine vllm --nodes 3 # the same in a swarm, asked at one node

Eight clients ask one node, each again as soon as it is answered, while its owner sets one strategy after another. A
request counts as lost when it is refused, breaks off or has not exactly the tokens that were asked for, and as done
twice when an engine's own log names it twice. Nobody retries. `--way restart` forbids two engines at once.
"""

import argparse
import http.client
import json
import re
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from tests.e2e.children import eventually
from tests.e2e.daemon import Daemon, metainf, node_over_stub, running_node
from tests.e2e.engine import MODEL_NAME
from tests.e2e.tiny_model import CONTEXT, tiny_model
from tests.fakes.stub_launch import MODEL as STUB_MODEL

ANSWER_WITHIN_S = 300.0  # longer than any switch: whoever is not answered by then is lost
START_S = 180.0  # for an engine to come up beside two others on two cores
MEET_S = 60.0
SWITCH_WITHIN_S = 600.0
STRATEGIES = ("budget:1024", "seqs:16+budget:512")  # taken in turns; each needs another engine than the other
STUB_START_S = 0.6
NAMED = re.compile(r"bench-\d+-\d+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is done.

    Attributes:
        nodes: 1, or a swarm of so many that all serve the model; the first is asked and switched in turns with the
            others.
        rest: seconds between the end of a switch and the next.
        first: whether the new engine may start beside the old one.
    """

    engine: str = "vllm"
    nodes: int = 1
    switches: int = 20
    streams: int = 8
    tokens: int = 96
    rest: float = 2.0
    first: bool = True


QUICK = Plan(engine="stub", switches=3, streams=4, tokens=24, rest=0.3)


@dataclass(slots=True)
class Seen:
    """What the clients saw. Times are seconds; `first` to the first token, `gap` the longest between two pieces."""

    asked: int = 0
    lost: list[str] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    gap: list[float] = field(default_factory=list)
    ends: list[tuple[float, float]] = field(default_factory=list)  # (when it began, what it waited)
    by: Counter[str] = field(default_factory=Counter)  # answers, by the node that gave them


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What it came to. Waits in seconds; `usual_wait_s` is the median over all requests."""

    switches: int
    switches_failed: int
    asked: int
    lost: int
    twice: int
    unnamed: int
    usual_wait_s: float
    longest_wait_s: float
    longest_gap_s: float
    switch_s: float
    nodes_answering: int
    reasons: tuple[str, ...]


class Client(threading.Thread):
    """One of those who ask, until told to stop."""

    def __init__(self, number: int, url: str, plan: Plan, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self._number = number
        self._url = url
        self._plan = plan
        self._stop_asking = stop
        self.seen = Seen()

    def run(self) -> None:
        """Ask, again and again."""
        turn = 0
        while not self._stop_asking.is_set():
            name = f"bench-{self._number}-{turn}"
            turn += 1
            self.seen.asked += 1
            try:
                self._ask(name)
            except (OSError, http.client.HTTPException, ValueError) as error:
                self.seen.lost.append(f"{name}: {type(error).__name__}: {error}")

    def _ask(self, name: str) -> None:
        place = urlsplit(self._url)
        connection = http.client.HTTPConnection(place.netloc, timeout=ANSWER_WITHIN_S)
        body = {
            "model": MODEL_NAME if self._plan.engine == "vllm" else STUB_MODEL,
            "messages": [{"role": "user", "content": f"{name} tell me something"}],
            "max_tokens": self._plan.tokens,
            "ignore_eos": True,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        headers = {"content-type": "application/json", "x-request-id": name}
        began = latest = time.monotonic()
        first, gap, usage, done = None, 0.0, None, False
        try:
            connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
            answer = connection.getresponse()
            if answer.status != 200:
                raise ValueError(f"{answer.status}: {answer.read(500)!r}")
            self.seen.by[answer.headers.get("x-metainf-node", "")] += 1
            while line := answer.readline():
                if not line.startswith(b"data: "):
                    continue
                if line.startswith(b"data: [DONE]"):
                    done = True
                    break
                event = json.loads(line.removeprefix(b"data: "))
                if "error" in event:
                    raise ValueError(f"broke off: {event['error']}")
                usage = event.get("usage") or usage
                if any(choice.get("delta", {}).get("content") for choice in event.get("choices", ())):
                    now = time.monotonic()
                    gap = max(gap, now - latest) if first is not None else gap
                    first = now - began if first is None else first
                    latest = now
        finally:
            connection.close()
        told = (usage or {}).get("completion_tokens")
        if not done or told != self._plan.tokens or first is None:
            raise ValueError(f"{told} tokens of {self._plan.tokens}, {'ended' if done else 'not ended'}")
        self.seen.first.append(first)
        self.seen.gap.append(gap)
        self.seen.ends.append((began, first))


@contextmanager
def nodes(plan: Plan, folder: Path) -> Iterator[list[Daemon]]:
    """Start the nodes; enter when each has its engine and knows the others."""
    tuner = f'[tuner]\nstart_first = "{"auto" if plan.first else "never"}"\nswitches_per_day = 1000\n'
    quiet = "[trials]\nidle = false\n"
    with ExitStack() as stack:
        started: list[Daemon] = []
        for number in range(plan.nodes):
            joining = ("--join", started[0].address) if started else ()
            name = f"node{number}"
            if plan.engine == "stub":
                daemon = stack.enter_context(
                    node_over_stub(
                        folder, *joining, config=tuner + quiet, name=name, slow_start=STUB_START_S, token_delay=0.01,
                        journal=str(folder / f"{name}.journal"),
                    )
                )  # fmt: skip
            else:
                config = (
                    f'[engine]\nserved_name = "{MODEL_NAME}"\nmax_model_len = {CONTEXT}\n'
                    f'kv_cache_bytes = {256 << 20}\nextra_arguments = ["--enable-log-requests"]\n{tuner}{quiet}'
                )
                options = ("--model", str(tiny_model()), *joining)
                daemon = stack.enter_context(running_node(folder, *options, config=config, name=name))
            started.append(daemon)
        for daemon in started:
            daemon.wait_for_engine(within=START_S)
        for daemon in started[1:]:
            _wait_until_known(started[0], daemon)
        yield started


def _wait_until_known(at: Daemon, other: Daemon) -> None:
    def known() -> bool:
        return bool(at.peers().get(other.peer_id, {}).get("models"))

    eventually(known, within=MEET_S, what="each other", children=[at.child, other.child])


def switched(daemon: Daemon, strategy: str) -> tuple[float, str]:
    """Have a node change its strategy; return the seconds that it took, and what went wrong, if anything did."""
    began = time.monotonic()
    try:
        metainf(daemon, "strategy", "set", strategy, "--json", within=SWITCH_WITHIN_S)
    except AssertionError as error:
        return time.monotonic() - began, str(error)
    runs = daemon.status()["engine"]["strategy"]
    return time.monotonic() - began, "" if runs == strategy else f"it runs {runs}"


def run(plan: Plan) -> Report:
    """Do all of it."""
    with tempfile.TemporaryDirectory(prefix="bench-switches-") as name:
        folder = Path(name)
        with nodes(plan, folder) as started:
            stop = threading.Event()
            clients = [Client(number, started[0].url, plan, stop) for number in range(plan.streams)]
            for client in clients:
                client.start()
            took, wrong = [], []
            for number in range(plan.switches):
                time.sleep(plan.rest)
                daemon = started[number % plan.nodes]
                strategy = STRATEGIES[(number // plan.nodes) % len(STRATEGIES)]
                seconds, trouble = switched(daemon, strategy)
                took.append(seconds)
                if trouble:
                    wrong.append(trouble)
                print(
                    f"switch {number + 1}: {daemon.child.name} to {strategy} in {seconds:.1f} s {trouble}", flush=True
                )
            time.sleep(plan.rest)
            stop.set()
            for client in clients:
                client.join(ANSWER_WITHIN_S)
        worked = _worked(plan, folder)
    return _report(plan, [client.seen for client in clients], worked, took, wrong)


def _worked(plan: Plan, folder: Path) -> Counter[str]:
    """Count how often each request was begun, by the engines' own logs."""
    if plan.engine == "stub":
        files = list(folder.glob("*.journal"))
        return Counter(name for file in files for name in NAMED.findall(file.read_text()))
    logs = [file for file in folder.glob("*-data/**/engine*.log*") if file.is_file()]
    lines = (line for file in logs for line in file.read_text(errors="replace").splitlines())
    return Counter(found.group() for line in lines if "Received request" in line and (found := NAMED.search(line)))


def _report(
    plan: Plan, seen: Sequence[Seen], worked: Counter[str], took: Sequence[float], wrong: Sequence[str]
) -> Report:
    first = [each for one in seen for each in one.first]
    lost = [each for one in seen for each in one.lost]
    asked = sum(one.asked for one in seen)
    return Report(
        switches=plan.switches,
        switches_failed=len(wrong),
        asked=asked,
        lost=len(lost),
        twice=sum(count > 1 for count in worked.values()),
        unnamed=max(asked - len(lost) - len(worked), 0),
        usual_wait_s=statistics.median(first) if first else float("nan"),
        longest_wait_s=max(first, default=float("nan")),
        longest_gap_s=max((each for one in seen for each in one.gap), default=float("nan")),
        switch_s=statistics.median(took) if took else float("nan"),
        nodes_answering=len({name for one in seen for name in one.by}),
        reasons=tuple([*lost, *wrong][:5]),
    )


def show(plan: Plan, report: Report) -> str:
    """Return the report in words."""
    way = "beside the old engine where memory allows" if plan.first else "after the old engine's end"
    lines = [
        f"{report.switches} switches ({way}; {report.switches_failed} failed), median {report.switch_s:.1f} s, "
        f"{plan.streams} streams of {plan.tokens} tokens, {plan.nodes} node(s), engine {plan.engine}",
        f"{report.asked} requests: {report.lost} lost, {report.twice} done twice, "
        f"{report.unnamed} not found in the engines' logs, answered by {report.nodes_answering} node(s)",
        f"wait for the first token: usually {report.usual_wait_s:.2f} s, longest {report.longest_wait_s:.2f} s "
        f"(added {report.longest_wait_s - report.usual_wait_s:.2f} s); "
        f"longest gap in a stream {report.longest_gap_s:.2f} s",
    ]
    return "\n".join([*lines, *report.reasons])


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return the exit code: 0 where nothing was lost and nothing done twice."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--engine", choices=("vllm", "stub"))
    parser.add_argument("--nodes", type=int)
    parser.add_argument("--switches", type=int)
    parser.add_argument("--streams", type=int)
    parser.add_argument("--way", choices=("auto", "restart"), default="auto")
    options = parser.parse_args(arguments)
    chosen = asdict(QUICK if options.quick else Plan())
    named = {name: getattr(options, name) for name in ("engine", "nodes", "switches", "streams")}
    chosen |= {name: value for name, value in named.items() if value is not None}
    plan = Plan(**(chosen | {"first": options.way == "auto"}))
    report = run(plan)
    print(show(plan, report))
    print(json.dumps(asdict(report)))
    return int(bool(report.lost or report.twice or report.switches_failed))


if __name__ == "__main__":
    # Ended like an interrupt, so that no daemon stays behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main(sys.argv[1:]))
