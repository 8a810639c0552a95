"""A simulated swarm and what it is asked: machines, network, requests, deaths, all drawn beforehand.

Knows cells, traces and luck; knows no policy and no event. Equal seeds give equal worlds, so that every policy meets
the same weather.

What is drawn, and from what:
- A node is a cell; its speed is off by a log-normal factor of its own, and drifts by another (heat, its owner's games).
  One in ten says that it is the fastest machine of the swarm, whatever it is.
- RTT between entry and node: log-normal, median 108 ms, 95th percentile 300 ms. Between Bitcoin's nodes 46 % of
  latencies are under 100 ms, which this meets (Gencer et al., Decentralization in Bitcoin and Ethereum Networks, 2018).
  Uploads: log-normal about 20 Mbit/s, between the peaks at 10 and 100 that the same group measured.
- Arrivals, prompt and answer lengths: the two Azure traces, merged in time, from a random place on, the gaps scaled to
  the load; three bursts beside, in which three times as much comes.
- Conversations: the trace names none. Half of its chat requests are taken for a turn that follows an earlier one, where
  there is one 10 to 120 s before whose prompt and answer together are not longer than this prompt, and not shorter than
  half of it; both are the common prefix. Code requests share nothing.
- Prices: an hour of a device costs in proportion to its memory's bandwidth, times what its owner makes of that (a
  log-normal factor); drawn apart, so that who looks at no price meets the same world as before there were any.
- Each client is of one sort (chat or code) and enters at one node.
"""

from collections.abc import Mapping, Sequence
from csv import reader
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tests.benchmarks.routing_cells import Cell, Floats

Ints = NDArray[np.int64]

NODE_SD: Final = 0.10  # log-time: how one machine differs from another of its sort
DRIFT_SD: Final = 0.15  # log-time, about that; the step is DRIFT_S and four fifths of it are kept from step to step
DRIFT_S: Final = 20.0
DRIFT_KEPT: Final = 0.8
LIARS: Final = 0.1
RTT_MEDIAN_S, RTT_P95_S = 0.108, 0.300
UPLOAD_MEDIAN, UPLOAD_SD = 20e6, 0.8  # bit/s
PRICE_SD: Final = 0.4  # log-price: how owners of equal machines differ
BYTES_PER_TOKEN: Final = 4.0
ADVERT_S, STALE_S, STALE = 2.0, 30.0, 0.05  # s between load adverts; of one node in twenty
DYING: Final = 0.06  # of the nodes die once in a run; half of those come back, half hang instead of resetting
AWAY_S: Final = (10.0, 40.0)
JOINING: Final = 0.05  # of the nodes are there only from some time in the first half on
BURSTS, BURST_S, BURST = 3, 2.0, 3.0
TURN_GAP_S: Final = (10.0, 120.0)
FOLLOWS: Final = 0.5
TRACES: Final = ("azure_llm_trace_2023_conversation.csv", "azure_llm_trace_2023_code.csv")
CHAT, CODE = 0, 1
CLIENTS: Final = 64  # of each sort
ENTRIES: Final = 8
NEVER: Final = float("inf")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Requests:
    """What is asked, by number, in the order of time; shapes (requests,).

    Attributes:
        at: seconds. prompt, output: tokens. prefix: of the prompt, shared with the session's turn before.
        session: number of the conversation. client: who asks; `entry`: the node at which.
    """

    at: Floats
    prompt: Ints
    output: Ints
    prefix: Ints
    session: Ints
    client: Ints
    entry: Ints

    def __len__(self) -> int:
        return len(self.at)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class World:
    """One swarm and one stretch of time.

    Attributes:
        cells: the sorts of machines. is_a, says: of each node, the cell that it is, and that it claims to be.
        speed: factors on times by drift step, shape (nodes, steps).
        rtt: seconds, shape (entries, nodes). upload: seconds per prompt token, shape (entries,).
        advert: seconds between the load adverts of each node; phase: of the first one.
        joins, dies, returns: when; NEVER for what does not happen. hangs: whether its death resets nothing.
        price: of an hour of one device of each node, as it asks; shape (nodes,).
        warm: seconds at the beginning whose requests are not counted.
    """

    cells: tuple[Cell, ...]
    is_a: Ints
    says: Ints
    speed: Floats
    rtt: Floats
    upload: Floats
    advert: Floats
    phase: Floats
    joins: Floats
    dies: Floats
    returns: Floats
    hangs: NDArray[np.bool_]
    requests: Requests
    price: Floats
    warm: float

    @property
    def nodes(self) -> int:
        """How many there are."""
        return len(self.is_a)


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """What may go wrong; all of it by default. Without any, a world is fit for laws."""

    unequal: bool = True
    liars: float = LIARS
    dying: float = DYING
    joining: float = JOINING
    stale: float = STALE
    advert_s: float = ADVERT_S
    bursts: int = BURSTS
    rtt_s: float = RTT_MEDIAN_S
    rtt_p95: float = RTT_P95_S / RTT_MEDIAN_S  # of the median
    upload: float = UPLOAD_MEDIAN
    node_sd: float = NODE_SD
    drift_sd: float = DRIFT_SD
    entries: int = ENTRIES


# By mix, where it is not the swarm's: a fleet of one owner, in one building, cooled alike and with nobody else on it.
WEATHERS: Final[Mapping[str, Weather]] = {
    "datacentre": Weather(
        liars=0.0,
        dying=0.02,
        joining=0.0,
        stale=0.0,
        rtt_s=0.0005,
        rtt_p95=2.0,
        upload=10e9,
        node_sd=0.02,
        drift_sd=0.03,
    ),
}


def world(
    cells: Sequence[Cell],
    trace: "Trace",
    *,
    nodes: int,
    load: float,
    seconds: float,
    most: int,
    seed: int,
    weather: Weather | None = None,
) -> World:
    """Draw a world.

    Args:
        load: of what the swarm can do in the steady state, without its prefix caches.
        seconds: that requests come for; fewer where they would be more than `most`.
    """
    weather = weather or Weather()
    rng = np.random.default_rng([seed, nodes, round(100 * load)])
    is_a = rng.permutation(np.arange(nodes) % len(cells))
    prompt, output = trace.means()
    can = np.array([cell.capacity(prompt, output) for cell in cells])
    says = np.where(rng.random(nodes) < weather.liars, int(np.argmax(can)), is_a)
    rate = load * float(can[is_a].sum())
    seconds = min(seconds, most / rate)
    steps = int(seconds * 4 / DRIFT_S) + 2  # what is late is answered too
    own = rng.normal(0.0, weather.node_sd, (nodes, 1)) + _drift(rng, nodes, steps, weather.drift_sd)
    dies = np.where(rng.random(nodes) < weather.dying, rng.uniform(0.1, 0.9, nodes) * seconds, NEVER)
    again = np.where(rng.random(nodes) < 0.5, dies + rng.uniform(*AWAY_S, nodes), NEVER)
    joins = np.where(rng.random(nodes) < weather.joining, rng.uniform(0.0, 0.5, nodes) * seconds, 0.0)
    joins[np.argmax(can[is_a])] = 0.0  # somebody is there from the beginning
    dies[np.argmax(can[is_a])] = NEVER
    rtt_sd = np.log(weather.rtt_p95) / 1.645
    asked = np.random.default_rng([seed, nodes, round(100 * load), 1]).normal(0.0, PRICE_SD, nodes)
    return World(
        cells=tuple(cells),
        is_a=is_a,
        says=says,
        speed=np.exp(own) if weather.unequal else np.ones((nodes, steps)),
        rtt=weather.rtt_s * np.exp(rng.normal(0.0, rtt_sd, (weather.entries, nodes))),
        upload=8 * BYTES_PER_TOKEN / (weather.upload * np.exp(rng.normal(0.0, UPLOAD_SD, weather.entries))),
        advert=np.where(rng.random(nodes) < weather.stale, STALE_S, weather.advert_s),
        phase=rng.random(nodes),
        joins=joins,
        dies=np.where(dies > joins, dies, NEVER),
        returns=np.where((dies > joins) & (dies < NEVER), again, NEVER),  # who never dies does not come back either
        hangs=rng.random(nodes) < 0.5,
        requests=trace.replay(rate, seconds, weather.bursts, weather.entries, rng),
        price=np.array([cell.hour for cell in cells])[is_a] * np.exp(asked),
        warm=0.15 * seconds,
    )


def _drift(rng: np.random.Generator, nodes: int, steps: int, sd: float) -> Floats:
    found = np.empty((nodes, steps))
    found[:, 0] = rng.normal(0.0, sd, nodes)
    fresh = sd * np.sqrt(1 - DRIFT_KEPT**2)
    for step in range(1, steps):
        found[:, step] = DRIFT_KEPT * found[:, step - 1] + rng.normal(0.0, fresh, nodes)
    return found


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trace:
    """One hour of two services, merged: shapes (requests,). `sort`: CHAT or CODE; `at`: seconds from the first."""

    at: Floats
    prompt: Ints
    output: Ints
    sort: Ints

    def means(self) -> tuple[float, float]:
        """Return the mean lengths of prompts and answers."""
        return float(self.prompt.mean()), float(self.output.mean())

    def replay(self, rate: float, seconds: float, bursts: int, entries: int, rng: np.random.Generator) -> Requests:
        """Return requests at this mean rate for so long, from a random place of the trace on, round and round."""
        count = max(int(rate * seconds), 1)
        which = (int(rng.integers(len(self.at))) + np.arange(count)) % len(self.at)
        gaps = np.diff(self.at, append=self.at[-1] + self.at[-1] / len(self.at))[which]
        at = np.cumsum(gaps)
        at = (at - at[0]) * (seconds / max(at[-1] - at[0], 1e-9))
        for start in (0.2 + 0.7 * (np.arange(bursts) + 0.5 * rng.random(bursts)) / max(bursts, 1)) * seconds:
            # What would come in three times as long comes at once; the time after it is quieter for that.
            inside = (at >= start) & (at < start + BURST * BURST_S)
            at[inside] = start + (at[inside] - start) / BURST
        order = np.argsort(at, kind="stable")
        at, which = at[order], which[order]
        prompt, output, sort = self.prompt[which], np.maximum(self.output[which], 1), self.sort[which]
        session, prefix, client = _conversations(at, prompt, output, sort, rng)
        return Requests(
            at=at,
            prompt=prompt,
            output=output,
            prefix=prefix,
            session=session,
            client=client,
            entry=client % entries,
        )


def read_trace(folder: Path) -> Trace:
    """Read both traces of a folder."""
    found: list[tuple[float, int, int, int]] = []
    for sort, name in enumerate(TRACES):
        with (folder / name).open(encoding="utf-8") as file:
            rows = reader(file)
            next(rows)
            for when, prompt, output in rows:
                # Seven digits of a second: one more than Python reads.
                at = datetime.fromisoformat(when[:26]).replace(tzinfo=None)
                found.append((at.timestamp(), max(int(prompt), 1), int(output), sort))
    found.sort()
    at, prompt, output, sort = (np.array(column) for column in zip(*found, strict=True))
    return Trace(at=at - at[0], prompt=prompt, output=output, sort=sort)


def _conversations(
    at: Floats, prompt: Ints, output: Ints, sort: Ints, rng: np.random.Generator
) -> tuple[Ints, Ints, Ints]:
    """Return session, shared prefix and client of each request; see the module."""
    count = len(at)
    session, prefix = np.arange(count), np.zeros(count, dtype=np.int64)
    client = np.where(sort == CHAT, 0, CLIENTS) + rng.integers(CLIENTS, size=count)
    taken = np.zeros(count, dtype=np.bool_)
    follows = rng.random(count) < FOLLOWS
    luck = rng.random(count)
    whole = prompt + output
    first, last = np.searchsorted(at, at - TURN_GAP_S[1]), np.searchsorted(at, at - TURN_GAP_S[0])
    for number in np.flatnonzero(follows & (sort == CHAT)):
        begin, end = int(first[number]), int(last[number])
        if end <= begin:
            continue
        begin = max(begin, end - 512)  # enough to choose from
        near = slice(begin, end)
        fits = np.flatnonzero(
            ~taken[near] & (sort[near] == CHAT) & (whole[near] <= prompt[number]) & (2 * whole[near] >= prompt[number])
        )
        if len(fits):
            before = begin + int(fits[int(luck[number] * len(fits))])
            taken[before] = True
            session[number], prefix[number], client[number] = session[before], whole[before], client[before]
    return session, prefix, client
