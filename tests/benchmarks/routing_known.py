"""What an entry node of a simulated swarm knows, as columns by node: what policies that are not the daemon's stand on.

Knows adverts of load, its own requests and virtual time; chooses nobody. The rules are those of `node.core.standings`:
what others had at the last reading and what is ours now; a bar after each failure, for twice as long each time.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from node.core.standings import FIRST_FAULT_BAR, LONGEST_FAULT_BAR, TOKENS_PER_PROMPT, UNKNOWN_WORK
from protocol.ids import PeerId
from tests.benchmarks.routing_cells import MOST_TOGETHER, Floats
from tests.benchmarks.routing_run import Advert, Ask
from tests.benchmarks.routing_world import CLIENTS, World

GONE_S: Final = 60.0  # a node that was not heard of for so long is taken to have left
SESSIONS: Final = 20_000  # that an entry remembers


def peers(nodes: int) -> list[PeerId]:
    """Return ids for nodes by number."""
    found: list[PeerId] = []
    number = 0
    while len(found) < nodes:
        number += 1
        found.append(PeerId((8 * number + 9).to_bytes(32, "little")))
    return found


class Known:
    """What every entry knows, as columns by node: the rules of `node.core.standings`, for policies of this module."""

    def __init__(self, world: World, entry: int, seed: int) -> None:
        n = world.nodes
        self.rng = np.random.default_rng([seed, entry])
        self.rtt = world.rtt[entry]
        self.load, self.queued, self.ours_then = np.full(n, UNKNOWN_WORK), np.zeros(n), np.zeros(n)
        self.in_flight, self.slots = np.zeros(n), np.full(n, MOST_TOGETHER, dtype=np.float64)
        self.heard, self.barred = np.full(n, -np.inf), np.full(n, -np.inf)
        self.faults = np.zeros(n)
        self.where: OrderedDict[int, int] = OrderedDict()  # session to node, used longest ago first
        self.length = {0: 1.0, 1: 1.0}  # mean answer of chats and of code
        self._lengths = {0: 1, 1: 1}

    def hear(self, adverts: Sequence[Advert], now: float) -> None:
        for advert in adverts:
            node = advert.node
            self.load[node] = advert.running + advert.waiting
            self.queued[node] = advert.queued_tokens
            self.ours_then[node] = self.in_flight[node]
            self.slots[node] = advert.slots
            self.heard[node] = now

    def open(self, now: float) -> NDArray[np.intp]:
        """Return the nodes that may be asked."""
        return np.flatnonzero((self.heard > now - GONE_S) & (self.barred <= now))

    def work(self) -> Floats:
        """Return prompts outstanding, by node, as far as is known."""
        others = np.maximum(self.load - self.ours_then, 0.0) + self.queued / TOKENS_PER_PROMPT
        return others + self.in_flight

    def uncached(self, ask: Ask) -> tuple[float, int]:
        """Return how many tokens a node that had the turn before would not read again, and which node (or -1)."""
        return float(ask.prefix), self.where.get(ask.session, -1)

    def choose(self, ask: Ask, now: float) -> int | None:
        there = self.open(now)
        return self.pick(ask, there, now) if len(there) else None

    def pick(self, ask: Ask, there: NDArray[np.intp], now: float) -> int:
        """Return one of the open ones."""
        raise NotImplementedError

    def sent(self, ask: Ask, node: int, now: float) -> None:
        self.in_flight[node] += 1
        self.where.pop(ask.session, None)
        self.where[ask.session] = node
        if len(self.where) > SESSIONS:
            self.where.popitem(last=False)

    def first(self, ask: Ask, node: int, ttft: float, now: float) -> None:
        self.faults[node] = 0

    def done(self, ask: Ask, node: int, ttft: float, tpot: float, now: float) -> None:
        self.in_flight[node] -= 1
        sort = int(ask.client >= CLIENTS)
        self._lengths[sort] += 1
        self.length[sort] += (ask.output - self.length[sort]) / min(self._lengths[sort], 1000)

    def lost(self, ask: Ask, node: int, now: float, *, hung: bool) -> None:
        self.in_flight[node] -= 1
        self.barred[node] = now + min(FIRST_FAULT_BAR * 2.0 ** self.faults[node], LONGEST_FAULT_BAR)
        self.faults[node] += 1

    def least(self, scores: Floats, there: NDArray[np.intp], temperature: float = 0.0) -> int:
        """Return the least of the scores, or one near it: e times less likely for each `temperature` x the least."""
        if temperature <= 0:
            near = np.flatnonzero(scores <= scores.min() * (1 + 1e-9))
            return int(there[near[self.rng.integers(len(near))]])
        worse = (scores - scores.min()) / (temperature * scores.min())
        weight = np.exp(-np.minimum(worse, 50.0))
        return int(there[np.searchsorted(np.cumsum(weight), self.rng.random() * weight.sum())])
