"""The policies that ours must beat, and the oracle: each the choice of one entry node of a simulated swarm.

Knows what an entry knows (load adverts, its own requests) and virtual time; the oracle alone knows the run itself.
`LeastOutstanding` is the daemon's own; the others are what their authors describe, with each freedom as a parameter
that `GRIDS` tunes on other seeds than they are judged on. Where a baseline's authors leave it without what our policy
has (that a peer is barred after a failure, that requests of one's own count at once, what it sent where), it has that
too: compared is how peers are chosen, not how failures are handled.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from node.core.candidates import Candidates, Offering
from node.core.router import LeastOutstanding
from node.core.standings import Standings
from node.core.wanted import Wanted
from protocol.load import Load
from tests.benchmarks.routing_cells import Floats
from tests.benchmarks.routing_known import GONE_S, Known, peers
from tests.benchmarks.routing_run import Advert, Ask, Policy, Run
from tests.benchmarks.routing_world import CLIENTS
from tests.fakes.wish import Plain

SHORTLIST: Final = 32  # candidates that the daemon weighs, of more


class RoundRobin(Known):
    """One after the other."""

    def __init__(self, run: Run, entry: int, seed: int) -> None:
        super().__init__(run.world, entry, seed)
        self._next = int(self.rng.integers(run.world.nodes))

    def pick(self, ask: Ask, there: NDArray[np.intp], now: float) -> int:
        at = int(np.searchsorted(there, self._next)) % len(there)
        self._next = int(there[at]) + 1
        return int(there[at])


class Random(Known):
    """Any."""

    def __init__(self, run: Run, entry: int, seed: int) -> None:
        super().__init__(run.world, entry, seed)

    def pick(self, ask: Ask, there: NDArray[np.intp], now: float) -> int:
        return int(there[self.rng.integers(len(there))])


class PowerOfTwo(Known):
    """The less busy of a few drawn ones; a full one loses."""

    def __init__(self, run: Run, entry: int, seed: int, *, drawn: int = 2) -> None:
        super().__init__(run.world, entry, seed)
        self._drawn = drawn

    def pick(self, ask: Ask, there: NDArray[np.intp], now: float) -> int:
        some = there[self.rng.integers(len(there), size=self._drawn)]
        work = self.work()[some]
        return int(some[np.argmin(work + 1e6 * (work >= self.slots[some]))])


class LatencyAverage(Known):
    """Parallax's: the least moving average of the latency that was seen, raised by the work that is there now.

    Attributes are its freedoms: the weight of the newest, the share of exploration, how much each request there adds.
    """

    def __init__(
        self, run: Run, entry: int, seed: int, *, newest: float = 0.2, explore: float = 0.02, each: float = 0.0
    ) -> None:
        super().__init__(run.world, entry, seed)
        self._newest, self._explore, self._each = newest, explore, each
        self._mean = np.zeros(run.world.nodes)  # nothing seen: looks best, and is tried

    def pick(self, ask: Ask, there: NDArray[np.intp], now: float) -> int:
        if self.rng.random() < self._explore:
            return int(there[self.rng.integers(len(there))])
        untried = (self._mean[there] == 0) * self.in_flight[there]  # one at a time, until its first answer
        score = (self.rtt[there] + self._mean[there]) * (1 + self._each * self.work()[there]) + 10.0 * untried
        return self.least(score, there)

    def done(self, ask: Ask, node: int, ttft: float, tpot: float, now: float) -> None:
        super().done(ask, node, ttft, tpot, now)
        latency = ttft + tpot * (ask.output - 1) - self.rtt[node]
        before = self._mean[node]
        self._mean[node] = latency if before == 0 else before + self._newest * (latency - before)


class StaticSpeeds(Known):
    """Petals's: the shortest way by RTT and the throughput that each announces, with a penalty for who is full.

    What honest nodes announce is their true speed alone, as a benchmark at their start would find it.
    """

    def __init__(self, run: Run, entry: int, seed: int, *, full: float = 10.0, temperature: float = 0.0) -> None:
        super().__init__(run.world, entry, seed)
        cells = [run.world.cells[cell] for cell in run.world.says]
        self._first = np.array([cell.first[1] for cell in cells])
        self._token = np.array([cell.token[1] for cell in cells])
        self._tpot = np.array([cell.tpot[1] for cell in cells])
        self._full, self._temperature = full, temperature

    def pick(self, ask: Ask, there: NDArray[np.intp], now: float) -> int:
        length = self.length[int(ask.client >= CLIENTS)]
        score = self.rtt[there] + self._first[there] + self._token[there] * ask.prompt + self._tpot[there] * length
        return self.least(score + self._full * (self.work()[there] >= self.slots[there]), there, self._temperature)


class Homogeneous(Known):
    """llm-d's: the least latency that one predictor, the same for all nodes, foretells from load, queue and prompt.

    It learns from the answers of all entries together, as llm-d's centre does, and knows which node holds the
    conversation. Its predictor is linear in what it is told, with products, fitted anew every few hundred answers.
    """

    def __init__(self, run: Run, entry: int, seed: int, *, shared: "Predictor", temperature: float = 0.0) -> None:
        super().__init__(run.world, entry, seed)
        self._shared, self._temperature = shared, temperature
        self._asked: dict[int, tuple[float, float, float]] = {}

    def pick(self, ask: Ask, there: NDArray[np.intp], now: float) -> int:
        work, queued = self.load + self.in_flight - np.minimum(self.ours_then, self.load), self.queued
        uncached = np.full(len(work), float(ask.prompt))
        cached, holder = self.uncached(ask)
        if holder >= 0:
            uncached[holder] -= cached
        ttft, tpot = self._shared.foretell(work[there], queued[there], uncached[there])
        length = self.length[int(ask.client >= CLIENTS)]
        node = self.least(self.rtt[there] + ttft + tpot * length, there, self._temperature)
        self._asked[ask.number] = (float(work[node]), float(queued[node]), float(uncached[node]))
        return node

    def done(self, ask: Ask, node: int, ttft: float, tpot: float, now: float) -> None:
        super().done(ask, node, ttft, tpot, now)
        self._shared.learn((*self._asked.pop(ask.number), ttft - float(self.rtt[node]), tpot))

    def lost(self, ask: Ask, node: int, now: float, *, hung: bool) -> None:
        super().lost(ask, node, now, hung=hung)
        self._asked.pop(ask.number, None)


class Predictor:
    """Times to the first token and per token, of work, queued tokens and uncached tokens; for all nodes alike."""

    EVERY: Final = 250  # answers between two fits
    KEPT: Final = 5000

    def __init__(self) -> None:
        self._seen: deque[tuple[float, ...]] = deque(maxlen=self.KEPT)
        self._since = 0
        self._ttft = np.array([0.05, 0.005, 1e-4, 1e-4, 0.0])
        self._tpot = np.array([0.01, 0.0005, 0.0])

    def learn(self, answer: tuple[float, ...]) -> None:
        """Take in work, queued, uncached, TTFT, TPOT (0: none)."""
        self._seen.append(answer)
        self._since += 1
        if self._since >= self.EVERY:
            self._since = 0
            work, queued, uncached, ttft, tpot = np.array(self._seen).T
            self._ttft = _fit(_of_first(work, queued, uncached), np.maximum(ttft, 1e-3))
            later = tpot > 0
            self._tpot = _fit(_of_each(work[later]), tpot[later])

    def foretell(self, work: Floats, queued: Floats, uncached: Floats) -> tuple[Floats, Floats]:
        """Return TTFT and TPOT of nodes, in seconds."""
        ttft = _of_first(work, queued, uncached) @ self._ttft
        return np.maximum(ttft, 1e-3), np.maximum(_of_each(work) @ self._tpot, 1e-4)


def _of_first(work: Floats, queued: Floats, uncached: Floats) -> Floats:
    return np.stack([np.ones_like(work), work, queued, uncached, uncached * work], axis=1)


def _of_each(work: Floats) -> Floats:
    return np.stack([np.ones_like(work), work, work**2], axis=1)


def _fit(features: Floats, seconds: Floats) -> Floats:
    """Fit so that relative errors count: nodes and prompts differ by powers of ten."""
    weight = 1.0 / seconds
    found = np.linalg.lstsq(features * weight[:, None], np.ones_like(seconds), rcond=None)[0]
    return np.asarray(found, dtype=np.float64)


class Daemon:
    """The daemon's `LeastOutstanding` over its own `Standings`, weighing as many candidates as `shortlist` says."""

    def __init__(self, run: Run, entry: int, seed: int, *, shortlist: int = SHORTLIST) -> None:
        self._rng = np.random.default_rng([seed, entry])
        self._peers = peers(run.world.nodes)
        self._number = {peer: number for number, peer in enumerate(self._peers)}
        self._standings = Standings()
        self._router = LeastOutstanding(prefer_local=False)
        self._offerings = [Offering(replica=peer) for peer in self._peers]
        self._heard = np.full(run.world.nodes, -np.inf)
        self._shortlist = shortlist

    def hear(self, adverts: Sequence[Advert], now: float) -> None:
        for each in adverts:
            load = Load(running=each.running, waiting=each.waiting, queued_tokens=each.queued_tokens, slots=each.slots)
            self._standings.read(self._peers[each.node], load, now)
            self._heard[each.node] = now

    def choose(self, ask: Ask, now: float) -> int | None:
        there = np.flatnonzero(self._heard > now - GONE_S)
        if len(there) > self._shortlist:
            there = self._rng.choice(there, size=self._shortlist, replace=False)
        offerings = [self._offerings[node] for node in there.tolist()]
        candidates = Candidates(offerings, model="", standings=self._standings)
        choices = self._router.choose(candidates, Plain(Wanted()), now=now, luck=self._rng.random).choices
        return self._number[choices[0].replica] if choices else None

    def sent(self, ask: Ask, node: int, now: float) -> None:
        self._standings.began(self._peers[node], now)

    def first(self, ask: Ask, node: int, ttft: float, now: float) -> None:
        self._standings.answered(self._peers[node], now)

    def done(self, ask: Ask, node: int, ttft: float, tpot: float, now: float) -> None:
        self._standings.ended(self._peers[node])

    def lost(self, ask: Ask, node: int, now: float, *, hung: bool) -> None:
        self._standings.ended(self._peers[node])
        self._standings.failed(self._peers[node], now, hung=hung)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Truth:
    """What nodes would make of a prompt; shapes (n,).

    Attributes:
        seats: requests that each answers together; n: requests there with this one; seated: of these, with a seat.
        speed: the factor on its times now. tpot, before: seconds per token with this request and without; both
            without `speed`. turn: of prefill, with it; takes: seconds to the first token from there on, likewise.
    """

    seats: NDArray[np.int64]
    n: NDArray[np.int64]
    seated: NDArray[np.int64]
    speed: Floats
    tpot: Floats
    before: Floats
    turn: Floats
    takes: Floats


class Oracle(Known):
    """Knows every true speed, queue, cache and answer's length, and who is alive; sends to who adds least to the sum.

    What it adds is its own latency, and what the others there lose by it, `others` times; and `later` times what those
    lose who come while its prefill keeps the engine.
    """

    def __init__(self, run: Run, entry: int, seed: int, *, others: float = 1.0, later: float = 0.0) -> None:
        super().__init__(run.world, entry, seed)
        self._run, self._entry = run, entry
        self._others, self._later = others, later
        self._upload = float(run.world.upload[entry])
        cells = run.world.cells
        self._first = np.array([cell.first for cell in cells])
        self._token = np.array([cell.token for cell in cells])
        self._turn = np.array([cell.turn for cell in cells])[run.world.is_a]
        self._is_a = run.world.is_a
        self._pace = 0.0  # requests per second and node that come, from the trace
        if len(run.asks) > 1:
            self._pace = len(run.asks) / max(run.asks[-1].at, 1e-9) / run.world.nodes

    def choose(self, ask: Ask, now: float) -> int | None:
        there = np.flatnonzero(self._run.alive)
        return self.least(self.score(ask, there, now), there) if len(there) else None

    def truth(self, ask: Ask, there: NDArray[np.intp], now: float) -> "Truth":
        """Return what so many nodes would make of a prompt."""
        run, world = self._run, self._run.world
        cell, seats = self._is_a[there], run.seats[there]
        speed = world.speed[there, min(int(now / 20.0), world.speed.shape[1] - 1)]
        n = run.outstanding[there] + 1
        seated = np.minimum(n, seats)
        cached = np.zeros(world.nodes)
        for node in (holders := run.holders.get(ask.session, {})):
            cached[node] = min(holders[node], ask.prefix)
        uncached = np.maximum(ask.prompt - cached[there], 1.0)
        turn = uncached * self._turn[there] * speed
        return Truth(
            seats=seats,
            n=n,
            seated=seated,
            speed=speed,
            tpot=run.tpot[cell, seated],
            before=run.tpot[cell, np.maximum(seated - 1, 1)],
            turn=turn,
            takes=np.maximum((self._first[cell, seated] + self._token[cell, seated] * uncached) * speed, turn),
        )

    def score(self, ask: Ask, there: NDArray[np.intp], now: float) -> Floats:
        """Return what the prompt would add to the sum of latencies at each."""
        it = self.truth(ask, there, now)
        way = self.rtt[there] + ask.prompt * self._upload
        queue = np.maximum(self._run.free_at[there] - now - 0.5 * way, 0.0)
        waiting = np.maximum(it.n - it.seats, 0)
        seat = waiting * self.length[0] * it.tpot * it.speed / it.seats
        own = way + queue + seat + it.takes + ask.output * it.tpot * it.speed
        slower = np.maximum(it.tpot - it.before, 0.0) * it.speed
        theirs = np.maximum(it.n - 1, 0) * min(ask.output, self.length[0]) * slower
        behind = it.turn * waiting / it.seats + self._pace * it.turn * (queue + it.turn)
        return own + self._others * theirs + self._later * behind


Make = Callable[[Run, int], Policy]
Chosen = Mapping[str, Any]

GRIDS: Final[Mapping[str, Sequence[Chosen]]] = {
    "round_robin": [{}],
    "random": [{}],
    "least_outstanding": [{"shortlist": shortlist} for shortlist in (SHORTLIST, 4 * SHORTLIST)],
    "power_of_two": [{"drawn": drawn} for drawn in (2, 3)],
    "latency_average": [
        {"newest": newest, "explore": explore, "each": each}
        for newest in (0.1, 0.3)
        for explore in (0.01, 0.05)
        for each in (0.0, 0.1, 0.5)
    ],
    "static_speeds": [
        {"full": full, "temperature": temperature} for full in (1.0, 10.0) for temperature in (0.0, 0.1, 0.3, 1.0)
    ],
    "homogeneous": [{"temperature": temperature} for temperature in (0.0, 0.05, 0.2)],
    "oracle": [{"others": others, "later": later} for others in (0.0, 0.5, 1.0) for later in (0.0, 0.5)],
}


def maker(name: str, chosen: Chosen, seed: int) -> Make:
    """Return what makes the policies of a run: one for each entry."""
    if name == "homogeneous":
        shared = Predictor()
        return lambda run, entry: Homogeneous(run, entry, seed, shared=shared, **chosen)
    sorts: Mapping[str, Callable[..., Policy]] = {
        "round_robin": RoundRobin,
        "random": Random,
        "least_outstanding": Daemon,
        "power_of_two": PowerOfTwo,
        "latency_average": LatencyAverage,
        "static_speeds": StaticSpeeds,
        "oracle": Oracle,
    }
    return lambda run, entry: sorts[name](run, entry, seed, **chosen)
