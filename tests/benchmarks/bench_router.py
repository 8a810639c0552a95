"""What a routing decision costs: from a prompt's body to whom to try, over few and over many candidates.

    python -m tests.benchmarks.bench_router [--candidates 3,50,1000] [--seconds 2] [--json]

For each number of candidates, in medians of interleaved rounds: `decision` is what the router does with what is wanted
known (standings, curves, corrections and ways gathered, the order made), `wanted` reading the body and hashing its
beginnings, `least outstanding` the policy that predicts nothing over the same candidates. Curves differ, every other
replica has a correction, all have readings, one in seven has a prompt of ours that waits for its first byte, a tenth
were sent the prompt's beginning. Run it with nothing else running.
"""

import argparse
import json
import time
from collections.abc import Callable
from random import Random
from statistics import median
from typing import Any

import numpy as np

from node.core.affinity import marks_of
from node.core.candidates import Candidates, Offering
from node.core.corrections import Seen
from node.core.curves import LOADS, PROMPTS, Curve, Shelf
from node.core.experience import Experience
from node.core.predictive import Predictive
from node.core.prompt import OWNER, Prompt
from node.core.round_trips import RoundTrips
from node.core.router import LeastOutstanding
from node.core.standings import Standings
from node.core.wanted import FASTEST
from protocol.ids import PeerId
from protocol.load import Load
from tests.fakes.wish import Plain

MODEL = "model"
KEY = bytes(range(32))
ME = PeerId((8 * 100_000 + 9).to_bytes(32, "little"))
TURNS = "What stands in the book of the seven seas, and who wrote it down? " * 60
BODY = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": TURNS}], "max_tokens": 200}).encode()
ROUND = 20  # decisions timed together


def curve(luck: Random) -> Curve:
    """Return the curve of some machine, up to ten times faster or slower than another."""
    prompts, loads = np.array(PROMPTS, dtype=np.float64), np.array(LOADS, dtype=np.float64)
    speed = 10 ** luck.uniform(-0.5, 0.5)
    first = (0.05 + prompts / 4000)[:, None] * (1 + 0.2 * (loads - 1))[None, :] * speed
    return Curve(
        prompts=prompts,
        loads=loads,
        log_ttft=np.log(first),
        ttft_width=np.full(first.shape, 0.5),
        log_tpot=np.log(0.02 * speed * (1 + loads / 32)),
        tpot_width=np.full(loads.shape, 0.3),
        queued_token_s=1 / 4000,
        source="learner",
    )


class World:
    """A node with so many candidates and all that it decides by."""

    def __init__(self, candidates: int) -> None:
        luck = Random(1)  # noqa: S311 -- seeded: the same every time
        replicas = [PeerId((8 * number + 9).to_bytes(32, "little")) for number in range(candidates)]
        standings, shelf, trips = Standings(), Shelf(), RoundTrips(ME)
        self.experience = Experience(key=KEY)
        marks = marks_of(BODY, MODEL, KEY)
        for at, replica in enumerate(replicas):
            standings.read(replica, Load(running=luck.randrange(12), waiting=0, slots=64), 0.0)
            shelf.put(replica, MODEL, curve(luck))
            trips.note(replica, luck.uniform(0.005, 0.2))
            if at % 2:
                seen = Seen(ttft=luck.gauss(0, 0.3), tpot=luck.gauss(0, 0.2), ttft_width=0.5, tpot_width=0.3)
                self.experience.corrections.observe(replica, MODEL, seen, run=standings.run(replica), now=0.0)
            if at % 7 == 0:
                standings.began(replica, 0.5)
                standings.expect(replica, 0.5, 5.0, 1000.0)
            if at % 10 == 0:
                self.experience.affinity.sent(replica, marks, 1000.0, run=standings.run(replica), now=0.0)
        self.candidates = Candidates(
            [Offering(replica=replica) for replica in replicas], model=MODEL, standings=standings
        )
        self.predictive = Predictive(curves=shelf, trips=trips, experience=self.experience)
        self.least = LeastOutstanding()
        self.luck = luck.random
        self.prompt = Prompt(
            request_id="r", method="POST", target="/v1/chat/completions", headers=(), body=BODY, model=MODEL,
            stream=True, requester=OWNER,
        )  # fmt: skip
        self.wish = Plain(self.experience.wanted(self.prompt, FASTEST))

    def decide(self) -> None:
        """Decide by forecasts."""
        self.predictive.choose(self.candidates, self.wish, now=1.0, luck=self.luck)

    def want(self) -> None:
        """Find out what the prompt wants."""
        self.experience.wanted(self.prompt, FASTEST)

    def guess(self) -> None:
        """Decide by what is outstanding."""
        self.least.choose(self.candidates, self.wish, now=1.0, luck=self.luck)


def measure(world: World, seconds: float) -> dict[str, float]:
    """Return the median µs of each, of rounds that take turns."""
    jobs: dict[str, Callable[[], None]] = {
        "decision": world.decide, "wanted": world.want, "least outstanding": world.guess
    }  # fmt: skip
    took: dict[str, list[float]] = {name: [] for name in jobs}
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or not took["decision"]:
        for name, job in jobs.items():
            for _ in range(ROUND):
                begin = time.perf_counter()
                job()
                took[name].append(time.perf_counter() - begin)
    return {name: round(median(values) * 1e6, 1) for name, values in took.items()}


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    """Measure and print; return what was printed."""
    parser = argparse.ArgumentParser(description="What a routing decision costs.")
    parser.add_argument("--candidates", default="3,50,1000")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each number of candidates")
    parser.add_argument("--json", action="store_true")
    wish = parser.parse_args(arguments)
    lines: list[dict[str, Any]] = []
    for number in map(int, wish.candidates.split(",")):
        lines.append({"candidates": number} | measure(World(number), wish.seconds))
        if wish.json:
            print(json.dumps(lines[-1]))
    if not wish.json:
        print(f"{'candidates':>10} {'decision µs':>12} {'wanted µs':>10} {'least outstanding µs':>21}")
        for line in lines:
            print(
                f"{line['candidates']:>10} {line['decision']:>12} {line['wanted']:>10} {line['least outstanding']:>21}"
            )
    return lines


if __name__ == "__main__":
    main()
