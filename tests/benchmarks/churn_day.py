"""A day of churn in virtual time: whole nodes by the real composition root, which join, leave, die and come back.

Every node that comes back has another address, as the network in memory gives each a new one. Nothing here is random
but by its seed. Looks at what each node says of the others, as `metainf peers` does, and at this process.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import psutil
import trio
from trio.testing import MockClock

from tests.fakes.network import Weather
from tests.sim.swarm import SimSwarm, engine, sim_swarm

HOME = "n00"  # never leaves: whom the others join by
AWAY = 3  # of so many nodes at most one is away
LOOK = 30.0  # virtual s between two looks at everybody
SAMPLE = 600.0  # virtual s between two samples of this process
WEATHER = Weather(latency=0.04, jitter=0.02)


@dataclass
class Day:
    """What was seen.

    Attributes:
        events: how often each kind of thing happened.
        ghost: the longest time, in virtual s, that a node listed another after its end.
        tasks, memory: over virtual time: tasks for each living node; bytes of this process.
        apart: looks at which somebody did not know a living node that had been up for a lease.
    """

    events: dict[str, int] = field(default_factory=dict)
    ghost: float = 0.0
    looks: int = 0
    apart: int = 0
    tasks: list[tuple[float, float]] = field(default_factory=list)
    memory: list[tuple[float, float]] = field(default_factory=list)


@dataclass
class _Life:
    swarm: SimSwarm
    names: list[str]
    luck: random.Random
    day: Day
    lease: float
    ended: dict[str, float] = field(default_factory=dict)  # peer id: when it was last alive
    since: dict[str, float] = field(default_factory=dict)  # name: when it came up
    ids: dict[str, str] = field(default_factory=dict)

    async def come(self, name: str) -> None:
        node = await self.swarm.start(name, engine=engine() if self.luck.random() < 0.3 else None, join=self._join())
        self.ids[name] = node.peer_id
        self.ended.pop(node.peer_id, None)
        self.since[name] = trio.current_time()

    def _join(self) -> list[str]:
        return [HOME] if HOME in self.since else []

    async def step(self) -> None:
        """Have one thing happen."""
        here = [name for name in self.names if name in self.since and name != HOME]
        away = [name for name in self.names if name not in self.since]
        what = self.luck.choice(["join", "leave", "kill", "vanish", "move"])
        if what == "join" and not away:
            what = "move"
        if what in {"leave", "kill", "vanish"} and len(away) >= len(self.names) // AWAY:
            what = "join" if away else "move"
        self.day.events[what] = self.day.events.get(what, 0) + 1
        if what == "join":
            await self.come(self.luck.choice(away))
            return
        name = self.luck.choice(here)
        self.ended[self.ids[name]] = trio.current_time()
        del self.since[name]
        if what == "leave":
            await self.swarm.stop(name)
        else:
            await self.swarm.kill(name, silently=what == "vanish")
        if what == "move":
            await self.come(name)

    async def look(self) -> None:
        """Ask everybody who there is."""
        now = trio.current_time()
        settled = {self.ids[name] for name, since in self.since.items() if now - since > self.lease}
        for name in list(self.since):
            _, document = await self.swarm.nodes[name].call("GET", "/peers", on="control")
            listed = {peer["peer_id"] for peer in document["peers"]}
            for peer in listed & self.ended.keys():
                self.day.ghost = max(self.day.ghost, now - self.ended[peer])
            self.day.looks += 1
            if self.ids[name] in settled and settled - {self.ids[name]} - listed:
                self.day.apart += 1

    def sample(self) -> None:
        now = trio.current_time()
        self.day.tasks.append((now, trio.lowlevel.current_statistics().tasks_living / len(self.since)))
        self.day.memory.append((now, float(psutil.Process().memory_info().rss)))


async def _live(
    nodes: int, hours: float, every: float, seed: int, lease: float, told: Callable[[float, Day], None]
) -> Day:
    day = Day()
    async with sim_swarm(WEATHER, seed=seed) as swarm:
        names = [f"n{number:02}" for number in range(nodes)]
        life = _Life(swarm, names, random.Random(seed), day, lease)  # noqa: S311 -- the same day every time
        for name in names:
            await life.come(name)
        end, step, look, sample = trio.current_time() + hours * 3600, 0.0, 0.0, trio.current_time() + SAMPLE
        while (now := trio.current_time()) < end:
            if now >= step:
                await life.step()
                step = now + life.luck.expovariate(1 / every)
            if now >= look:
                await life.look()
                look = now + LOOK
            if now >= sample:
                life.sample()
                told(now, day)
                sample = now + SAMPLE
            await trio.sleep_until(min(step, look, sample))
        swarm.nursery.cancel_scope.cancel()
    return day


def live(
    *,
    nodes: int = 12,
    hours: float = 24.0,
    every: float = 120.0,
    seed: int = 0,
    lease: float = 180.0,
    told: Callable[[float, Day], None] = lambda _now, _day: None,
) -> Day:
    """Live through it; a thing happens each `every` virtual s on average. `told` is called after each sample."""
    return trio.run(_live, nodes, hours, every, seed, lease, told, clock=MockClock(autojump_threshold=0))
