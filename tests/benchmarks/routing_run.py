"""A simulated swarm at work: requests, engines and deaths as a queue of events in virtual time.

Knows a world and one policy for each entry node; knows no socket and no real clock. What a policy is told is what its
node would know: load adverts when they come, its own requests' fates; a policy that may know more (the oracle) is given
the truth at its making.

An engine here: a request that finds a seat (`Cell.cap`) takes its turn for prefill, one after the other, each `turn`
seconds per uncached token; from there to its first token it is what was measured at that many requests, and its further
tokens come at the TPOT measured at as many as there are at each moment. Without a seat it waits, first come first
served. The prefix cache forgets the conversation that was used longest ago. What a request costs is the device-seconds
of its prefill's turn and of its share in every decode step; what is spent on it is these at their nodes' prices.
"""

import heapq
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Final, Protocol

import numpy as np

from tests.benchmarks.routing_world import ADVERT_S, DRIFT_S, NEVER, STALE_S, World

HANG_S: Final = 5.0  # until an entry gives a silent node up; resets are told after a round trip
MOST_TRIES: Final = 30  # of one request: the world is broken beyond that
AGAIN_S: Final = 0.5  # between decisions where nobody is open
ARRIVE, REACH, FIRST, SEEN, STEP, DONE, ADVERT, DIE, RISE, LOST = range(10)


@dataclass(slots=True)
class Ask:
    """A request as its entry knows it. `output` is for the oracle's eyes."""

    number: int
    at: float
    prompt: int
    prefix: int
    session: int
    client: int
    output: int


@dataclass(frozen=True, slots=True)
class Advert:
    """A node's word about its load, at a time."""

    at: float
    node: int
    running: int
    waiting: int
    queued_tokens: int
    slots: int


class Policy(Protocol):
    """One entry node's choice. Nodes have numbers; times are virtual seconds."""

    def hear(self, adverts: Sequence[Advert], now: float) -> None:
        """Take in load adverts, the oldest first."""
        ...

    def choose(self, ask: Ask, now: float) -> int | None:
        """Return a node, or None where all are closed."""
        ...

    def sent(self, ask: Ask, node: int, now: float) -> None:
        """Note that it went there."""
        ...

    def first(self, ask: Ask, node: int, ttft: float, now: float) -> None:
        """Note the first token, so many seconds after it was sent."""
        ...

    def done(self, ask: Ask, node: int, ttft: float, tpot: float, now: float) -> None:
        """Note the last one; `tpot` is 0 for an answer of one token."""
        ...

    def lost(self, ask: Ask, node: int, now: float, *, hung: bool) -> None:
        """Note that the answer will never come."""
        ...


class Engine:
    """One node's engine: see the module."""

    __slots__ = (
        "ahead", "alive", "cache", "cached", "cell", "clock", "decoding", "factor", "free_at", "here", "prefilling",
        "shared", "since", "version", "waiting",
    )  # fmt: skip

    def __init__(self, cell: int) -> None:
        self.cell = cell
        self.version = 0  # of what was said about its next end; lives on, so that nothing old is believed
        self.clear()
        self.alive = False

    def clear(self) -> None:
        """Begin anew."""
        self.alive = True
        self.here: dict[int, None] = {}  # requests with a seat
        self.waiting: deque[int] = deque()
        self.decoding: list[tuple[float, int]] = []  # heap: clock at which it ends, request
        self.clock = 0.0  # tokens that a request decoding since the beginning would have
        self.shared = 0.0  # device-time over requests: what one of them has used of one device set
        self.since = 0.0
        self.factor = 1.0
        self.free_at = 0.0  # when prefill takes the next
        self.prefilling: dict[int, int] = {}  # uncached tokens by request
        self.ahead = 0  # of all of them
        self.cache: OrderedDict[int, int] = OrderedDict()  # session to tokens, used longest ago first
        self.cached = 0


class Run:
    """One policy in one world. Each request ends once: `ended` counts."""

    def __init__(self, world: World, make: Callable[["Run", int], Policy]) -> None:
        """`make` gets this run (for what may know the truth) and the number of an entry."""
        self.world = world
        requests = world.requests
        self.now = 0.0
        self.engines = [Engine(int(cell)) for cell in world.is_a]
        self.tpot = np.array([cell.tpot for cell in world.cells])  # by cell and number together
        self._tpot = [cell.tpot.tolist() for cell in world.cells]  # plain floats are faster one by one
        self._first = [cell.first.tolist() for cell in world.cells]
        self._token = [cell.token.tolist() for cell in world.cells]
        self.seats = np.array([world.cells[cell].cap for cell in world.is_a])
        # What the oracle sees: requests there or on their way, when prefill is free, who holds which conversation.
        self.outstanding = np.zeros(world.nodes, dtype=np.int64)
        self.free_at = np.zeros(world.nodes)
        self.alive = np.zeros(world.nodes, dtype=np.bool_)
        self.holders: dict[int, dict[int, int]] = {}
        columns = [
            values.tolist()
            for values in (
                requests.at, requests.prompt, requests.prefix, requests.session, requests.client, requests.output
            )
        ]  # fmt: skip
        self.asks = [Ask(number, *values) for number, values in enumerate(zip(*columns, strict=True))]
        self.entry = requests.entry.tolist()
        n = len(requests)
        self.latency = np.full(n, np.nan)
        self.cost, self.spent = np.zeros(n), np.zeros(n)
        self._devices = [world.cells[cell].devices for cell in world.is_a.tolist()]
        self._price = (world.price / 3600.0).tolist()  # of a device-second
        self.tries = np.zeros(n, dtype=np.int64)
        self.ended = np.zeros(n, dtype=np.int64)
        self.served_by = np.full(n, -1)
        self.sent_at, self.ttft = [0.0] * n, [0.0] * n
        self._begun = [0.0] * n  # the engine's shared clock when decoding began
        self._first_at = [0.0] * n
        self._rides: dict[int, Advert] = {}  # what a node said of its load with an answer that is on its way
        self._lives = [0] * world.nodes
        self._log: list[Advert] = []
        self._heard = [0] * len(world.upload)
        self._queue: list[tuple[float, int, int, int, int]] = []
        self._count = count()
        self._steps = world.speed.shape[1] - 1
        self.policies = [make(self, entry) for entry in range(len(world.upload))]

    def run(self) -> None:
        """Let every request come to its end."""
        world, queue = self.world, self._queue
        for node in range(world.nodes):
            self._push(float(world.joins[node]), RISE, node, 0)
            for kind, at in ((DIE, world.dies[node]), (RISE, world.returns[node])):
                if at < NEVER:
                    self._push(float(at), kind, node, 0)
        for ask in self.asks:
            self._push(ask.at, ARRIVE, ask.number, 0)
        left = len(self.asks)
        handlers = (
            self._arrive, self._reach, self._first_token, self._seen, self._step, self._done, self._advertise,
            self._die, self._rise, self._lose,
        )  # fmt: skip
        while left:
            self.now, _, kind, one, two = heapq.heappop(queue)
            handlers[kind](one, two)
            left -= kind == DONE and self.tries[one] == two

    def policy(self, number: int) -> Policy:
        """Return its entry's policy, up to date."""
        entry = self.entry[number]
        found = self.policies[entry]
        if self._heard[entry] < len(self._log):
            found.hear(self._log[self._heard[entry] :], self.now)
            self._heard[entry] = len(self._log)
        return found

    def _push(self, at: float, kind: int, one: int, two: int) -> None:
        heapq.heappush(self._queue, (at, next(self._count), kind, one, two))

    def _arrive(self, number: int, _: int) -> None:
        ask, policy = self.asks[number], self.policy(number)
        node = policy.choose(ask, self.now)
        if node is None:
            self._push(self.now + AGAIN_S, ARRIVE, number, 0)
            return
        self.tries[number] += 1
        attempt = int(self.tries[number])
        if attempt > MOST_TRIES:
            raise RuntimeError(f"request {number} was lost {MOST_TRIES} times")
        policy.sent(ask, node, self.now)
        self.sent_at[number] = self.now
        self.served_by[number] = node
        self.outstanding[node] += 1
        entry = self.entry[number]
        way = 0.5 * float(self.world.rtt[entry, node]) + ask.prompt * float(self.world.upload[entry])
        self._push(self.now + way, REACH, number, attempt)

    def _reach(self, number: int, attempt: int) -> None:
        node = int(self.served_by[number])
        engine = self.engines[node]
        if not engine.alive:
            self._lost(number, node, attempt)
            return
        self._advance(engine)
        if len(engine.here) < self.seats[node]:
            self._seat(engine, node, number)
            self._next_step(engine, node)
        else:
            engine.waiting.append(number)
            engine.ahead += self.asks[number].prompt

    def _seat(self, engine: Engine, node: int, number: int) -> None:
        """Give a seat: its prefill's turn comes after those before it."""
        ask = self.asks[number]
        engine.here[number] = None
        cached = min(engine.cache.get(ask.session, 0), ask.prefix)
        uncached = max(ask.prompt - cached, 1)
        n = len(engine.here)
        begin = max(self.now, engine.free_at)
        factor = engine.factor
        turn = uncached * self.world.cells[engine.cell].turn * factor
        engine.free_at = begin + turn
        self.free_at[node] = engine.free_at
        self._pay(number, node, turn)
        takes = max((self._first[engine.cell][n] + self._token[engine.cell][n] * uncached) * factor, turn)
        engine.prefilling[number] = uncached
        engine.ahead += uncached
        self._push(begin + takes, FIRST, number, int(self.tries[number]))

    def _pay(self, number: int, node: int, seconds: float) -> None:
        cost = seconds * self._devices[node]
        self.cost[number] += cost
        self.spent[number] += cost * self._price[node]

    def _first_token(self, number: int, attempt: int) -> None:
        if self.tries[number] != attempt:
            return
        node = int(self.served_by[number])
        engine = self.engines[node]
        if number not in engine.here:
            return  # the node died meanwhile
        self._advance(engine)
        engine.ahead -= engine.prefilling.pop(number)
        ask = self.asks[number]
        self._begun[number] = engine.shared
        heapq.heappush(engine.decoding, (engine.clock + ask.output - 1, number))
        self._first_at[number] = self.now
        back = 0.5 * float(self.world.rtt[self.entry[number], node])
        self.ttft[number] = self.now + back - self.sent_at[number]
        self._ride(number, engine, node)
        self._push(self.now + back, SEEN, number, attempt)
        self._next_step(engine, node)

    def _seen(self, number: int, attempt: int) -> None:
        if self.tries[number] == attempt:
            policy = self.policy(number)
            policy.first(self.asks[number], int(self.served_by[number]), self.ttft[number], self.now)
            self._ridden(number, policy)

    def _ride(self, number: int, engine: Engine, node: int) -> None:
        """Send a node's load along with an answer's head or end, as the wire does; not where its figures are stuck."""
        if self.world.advert[node] < STALE_S:
            self._rides[number] = self._load(engine, node)

    def _ridden(self, number: int, policy: Policy) -> None:
        if (ride := self._rides.pop(number, None)) is not None:
            policy.hear((ride,), self.now)

    def _advance(self, engine: Engine) -> None:
        """Bring what is decoded up to now."""
        n = len(engine.here)
        passed = self.now - engine.since
        if n and passed > 0:
            engine.clock += passed / (self._tpot[engine.cell][n] * engine.factor)
            engine.shared += passed / n
        engine.since = self.now

    def _next_step(self, engine: Engine, node: int) -> None:
        """Say when the next request ends, as things are; what was said before holds no more."""
        engine.version += 1
        engine.factor = float(self.world.speed[node, min(int(self.now / DRIFT_S), self._steps)])
        if engine.decoding:
            n = len(engine.here)
            left = max(engine.decoding[0][0] - engine.clock, 0.0)
            self._push(self.now + left * self._tpot[engine.cell][n] * engine.factor, STEP, node, engine.version)

    def _step(self, node: int, version: int) -> None:
        engine = self.engines[node]
        if engine.version != version or not engine.alive:
            return
        self._advance(engine)
        while engine.decoding and engine.decoding[0][0] <= engine.clock + 1e-6:
            _, number = heapq.heappop(engine.decoding)
            del engine.here[number]
            ask = self.asks[number]
            self._pay(number, node, engine.shared - self._begun[number])
            self._remember(engine, node, ask)
            self.outstanding[node] -= 1
            self._ride(number, engine, node)
            back = 0.5 * float(self.world.rtt[self.entry[number], node])
            self._push(self.now + back, DONE, number, int(self.tries[number]))
            if engine.waiting:
                following = engine.waiting.popleft()
                engine.ahead -= self.asks[following].prompt
                self._seat(engine, node, following)
        self._next_step(engine, node)

    def _remember(self, engine: Engine, node: int, ask: Ask) -> None:
        engine.cached -= engine.cache.pop(ask.session, 0)
        engine.cache[ask.session] = ask.prompt + ask.output
        engine.cached += ask.prompt + ask.output
        self.holders.setdefault(ask.session, {})[node] = ask.prompt + ask.output
        while engine.cached > self.world.cells[engine.cell].cache and len(engine.cache) > 1:
            session, tokens = engine.cache.popitem(last=False)
            engine.cached -= tokens
            self.holders[session].pop(node, None)

    def _done(self, number: int, attempt: int) -> None:
        if self.tries[number] != attempt:
            return
        ask = self.asks[number]
        self.ended[number] += 1
        self.latency[number] = self.now - ask.at
        whole = self.now - self.sent_at[number]
        tpot = (whole - self.ttft[number]) / (ask.output - 1) if ask.output > 1 else 0.0
        policy = self.policy(number)
        policy.done(ask, int(self.served_by[number]), self.ttft[number], tpot, self.now)
        self._ridden(number, policy)

    def _load(self, engine: Engine, node: int) -> Advert:
        return Advert(
            self.now, node, len(engine.here), len(engine.waiting), max(engine.ahead, 0), int(self.seats[node])
        )

    def _advertise(self, node: int, life: int) -> None:
        engine = self.engines[node]
        if engine.alive and self._lives[node] == life:
            self._log.append(self._load(engine, node))
            self._push(self.now + float(self.world.advert[node]), ADVERT, node, life)

    def _rise(self, node: int, _: int) -> None:
        engine = self.engines[node]
        engine.clear()
        engine.since = self.now
        engine.free_at = self.free_at[node] = self.now
        self.alive[node] = True
        self._next_step(engine, node)
        self._lives[node] += 1
        soon = float(self.world.phase[node] * min(self.world.advert[node], ADVERT_S))
        self._push(self.now + soon, ADVERT, node, self._lives[node])

    def _die(self, node: int, _: int) -> None:
        engine = self.engines[node]
        engine.alive = False
        engine.version += 1
        self.alive[node] = False
        gone = [*engine.here, *engine.waiting]
        for session in engine.cache:
            self.holders[session].pop(node, None)
        for number in gone:
            self._lost(number, node, int(self.tries[number]))
        engine.clear()
        engine.alive = False

    def _lost(self, number: int, node: int, attempt: int) -> None:
        """A request that will not be answered there: told after a round trip, or when its entry's patience ends."""
        self.outstanding[node] -= 1
        wait = HANG_S if self.world.hangs[node] else 0.5 * float(self.world.rtt[self.entry[number], node])
        self._push(self.now + wait, LOST, number, attempt)

    def _lose(self, number: int, attempt: int) -> None:
        if self.tries[number] != attempt:
            return
        node = int(self.served_by[number])
        self.policy(number).lost(self.asks[number], node, self.now, hung=bool(self.world.hangs[node]))
        self._arrive(number, 0)
