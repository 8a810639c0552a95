"""The policy that sends each prompt where its answer is foretold to be best: `Predictive`.

Knows neither network nor model: forecasts and their worth in, an order out. Its rules:
1. What is closed is not asked. Those of whom there is but an advert, which costs nothing to make up, come after those
   we know to be there; one of them goes first where the best of the others has no slot free.
2. With a promise (SLO): among those that keep it with nine in ten the cheapest for the swarm, which is the busiest that
   still fits; where nobody does, the likeliest. Without: the best by the asker's objective.
3. Near-equals share: a draw by the difference in units of its uncertainty, so that nodes which see the same figures do
   not bury one peer together. This node's own engine goes first among them: nobody else reads the prompt.
4. One prompt in a hundred goes where something may be found out: to whoever is likeliest to turn out best after all.
   Where there is a promise, only among those that keep it.

Where there is only this node's own engine, nothing is weighed.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from math import inf, log, pi
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from node.core.candidates import Candidates
from node.core.curves import Shelf
from node.core.experience import Experience
from node.core.forecast import Forecast, Foreteller
from node.core.round_trips import RoundTrips
from node.core.router import CHOICES, EXPLORE, Choice, Route, nobody, options_of
from node.core.wanted import LATENCY, Wish
from node.core.worth import KEPT, costs, device_cost, kept, normal_below, seconds
from protocol.ids import PeerId

Floats: TypeAlias = NDArray[np.float64]

DRAWN: Final = 12  # best candidates that luck decides between; who stands lower is not near
SHARE: Final = 0.2  # of the standard deviation of a difference is what near-equals differ by at random
NARROWEST, WIDEST = 0.02, 0.30  # bounds of that, log-units
CROWDED: Final = 0.10  # the lower bound where all others' prompts and hardly any of ours are under way
HOME: Final = 0.10  # log-units that the own engine may be behind and still be a near-equal
FAR: Final = 30.0  # units behind the best beyond which luck changes nothing
UNKEPT, UNLIKELY = 200.0, 100.0  # log-units of who will not keep a promise, and what likelihood takes off them
HOPELESS: Final = 0.1  # of its cost counts beside the likelihood: it decides where that is nothing for all
STRANGER: Final = 1e4  # log-units that put strangers behind everybody else; no other cost is so large
NEVER: Final = 1e6  # beyond this stands who is closed
ROOT_TWO_PI: Final = (2.0 * pi) ** 0.5


class Predictive:
    """See the module."""

    wide = True  # see `Router`

    def __init__(self, *, curves: Shelf, trips: RoundTrips, experience: Experience, explore: float = EXPLORE) -> None:
        """`explore`: the share of prompts of rule 4."""
        self._foreteller = Foreteller(curves, trips, experience.corrections, experience.affinity)
        self._explore = explore

    def choose(self, candidates: Candidates, wish: Wish, *, now: float, luck: Callable[[], float]) -> Route:
        """See `node.core.router.Router`."""
        if not len(candidates) or (len(candidates) == 1 and candidates.local == 0):
            return _only(candidates, now)
        forecast = self._foreteller.foretell(candidates, wish.wanted, now)
        cost, reason = _ranked(forecast, now)
        first = cost.argpartition(DRAWN)[:DRAWN] if len(cost) > DRAWN else np.arange(len(cost))
        first = first[cost[first].argsort()]
        few = [each for each in cost[first].tolist() if each < NEVER]
        if not few:
            return replace(nobody(options_of(candidates, now), now), forecast=forecast)
        order, spread = first.tolist(), forecast.spread[first].tolist()
        drawn = _drawn(few, spread, _narrowest(forecast.crowd), luck)
        if drawn[0]:
            reason = "near_equal"
        chosen = [order[place] for place in drawn]
        home = candidates.local
        if home is not None and home in chosen and cost[home] - few[0] <= HOME and not forecast.full[home]:
            chosen, reason = _put_first(home, chosen), "local"
        elif luck() < self._explore:
            chosen, reason = _put_first(_least_known(forecast, cost, luck()), chosen), "explore"
        elif forecast.full[chosen[0]] and (dared := _stranger(cost)) is not None:
            chosen, reason = _put_first(dared, chosen), "stranger"
        names = candidates.replicas
        return Route(
            choices=tuple(Choice(names[at], "next" if place else reason) for place, at in enumerate(chosen[:CHOICES])),
            forecast=forecast,
        )


def _only(candidates: Candidates, now: float) -> Route:
    """Return the way to the only candidate there is, or why there is none."""
    if not len(candidates) or candidates.standings.closed(candidates.replicas[0], now):
        return nobody(options_of(candidates, now), now)
    return _ours(candidates.replicas[0])


@lru_cache(maxsize=1)
def _ours(me: PeerId) -> Route:
    return Route(choices=(Choice(me, "local"),))


def _ranked(forecast: Forecast, now: float) -> tuple[Floats, str]:
    """Return what each candidate costs by rules 1 and 2, logarithms, and what the best of them is best for."""
    aims, reason = forecast.wanted.aims, "best"
    if aims.promised:
        likely = kept(forecast)
        fits = likely >= KEPT
        cheapest = aims.weights is LATENCY  # nobody asked for anything else: then a promise is all that is wanted
        cost: Floats = device_cost(forecast, seconds(forecast, now)) if cheapest else costs(forecast, now)
        reason = "fits" if bool(np.any(fits & ~forecast.closed)) else "likeliest"
        cost = np.where(fits, cost, UNKEPT - UNLIKELY * likely + HOPELESS * cost)
    else:
        cost = costs(forecast, now)
    if not forecast.candidates.all_connected:
        cost = cost + np.where(forecast.known | forecast.candidates.connected, 0.0, STRANGER)
    if np.count_nonzero(forecast.closed):
        cost = np.where(forecast.closed, inf, cost)
    return cost, reason


def _narrowest(crowd: float) -> float:
    """Return by how much near-equals differ at least, where others send so many prompts for each of ours.

    Who is alone takes the best. Many that take the same best at once, by the same figures, make it the worst.
    """
    return NARROWEST + (CROWDED - NARROWEST) * crowd / (1.0 + crowd)


def _drawn(few: list[float], spread: list[float], narrowest: float, luck: Callable[[], float]) -> list[int]:
    """Return the places of the best few in the order in which luck has them tried.

    Each place gets the difference in units of its uncertainty and a number from Gumbel's distribution; their order is
    that of draws without replacement, by weights that fall exponentially with the difference.
    """
    best, surest = few[0], spread[0] ** 2
    marks: list[tuple[float, int]] = []
    for place, cost in enumerate(few):
        unit = min(max(SHARE * (spread[place] ** 2 + surest) ** 0.5, narrowest), WIDEST)
        behind = (cost - best) / unit
        marks.append((behind if behind > FAR else behind + log(-log(min(max(luck(), 1e-12), 1 - 1e-12))), place))
    marks.sort()
    return [place for _, place in marks]


def _least_known(forecast: Forecast, cost: Floats, luck: float) -> int:
    """Draw a candidate by how much better than the best it may be expected to turn out, taking costs for normal."""
    best = int(cost.argmin())
    spread = np.sqrt(forecast.spread**2 + forecast.spread[best] ** 2)
    behind = np.minimum((cost - cost[best]) / spread, FAR)
    gain = spread * np.maximum(np.exp(-0.5 * behind * behind) / ROOT_TWO_PI - behind * normal_below(-behind), 0.0)
    gain[(cost >= STRANGER / 2)] = 0.0
    gain[best] = 0.0
    so_far: Floats = gain.cumsum()
    if so_far[-1] <= 0.0:
        return best
    return min(int((so_far <= luck * so_far[-1]).sum()), len(cost) - 1)


def _stranger(cost: Floats) -> int | None:
    """Return the best of those of whom there is but an advert; None where there is none that is open."""
    strangers = np.where(cost >= STRANGER / 2, cost, inf)
    best = int(strangers.argmin())
    return best if strangers[best] < NEVER else None


def _put_first(one: int, chosen: list[int]) -> list[int]:
    return [one, *(each for each in chosen if each != one)]
