"""A node that decides, with all that it decides by: for tests of the router and of what it learns from."""

from collections.abc import Callable, Sequence
from random import Random

import numpy as np

from node.core.answer_meter import MICRO, Measured
from node.core.candidates import Candidates, Offering
from node.core.curves import LOADS, PROMPTS, Curve, Shelf
from node.core.experience import Experience
from node.core.forecast import Forecast
from node.core.predictive import Predictive
from node.core.round_trips import RoundTrips
from node.core.router import EXPLORE, Route
from node.core.standings import Standings
from node.core.wanted import Wanted
from protocol.ids import PeerId
from protocol.load import Load
from tests.fakes.wish import Plain

PEERS = [PeerId((8 * number + 9).to_bytes(32, "little")) for number in range(1200)]
MODEL = "m"
KEY = bytes(range(32))
NEVER = 0.999  # luck that explores nothing


def curve(
    ttft: float = 0.2, tpot: float = 0.02, *, width: float = 0.3, per_token: float = 1e-4, crowding: float = 0.1
) -> Curve:
    """Return the curve of a machine: `ttft` of an empty prompt alone, and so much more for each token and request."""
    prompts, loads = np.array(PROMPTS, dtype=np.float64), np.array(LOADS, dtype=np.float64)
    crowded = 1.0 + crowding * (loads - 1.0)
    first = (ttft + per_token * prompts)[:, None] * crowded[None, :]
    return Curve(
        prompts=prompts,
        loads=loads,
        log_ttft=np.log(first),
        ttft_width=np.full(first.shape, width),
        log_tpot=np.log(tpot * crowded),
        tpot_width=np.full(loads.shape, width),
        queued_token_s=per_token,
        source="learner",
    )


class Stage:
    """A node whose peers have these curves."""

    def __init__(self, curves: Sequence[Curve | None], *, explore: float = 0.0, seed: int = 1) -> None:
        self.peers = PEERS[: len(curves)]
        self.standings = Standings()
        self.shelf = Shelf()
        self.experience = Experience(key=KEY)
        self.trips = RoundTrips(PEERS[-1])
        self.router = Predictive(curves=self.shelf, trips=self.trips, experience=self.experience, explore=explore)
        self.random = Random(seed)  # noqa: S311 -- seeded: the same every time
        for peer, each in zip(self.peers, curves, strict=True):
            if each is not None:
                self.shelf.put(peer, MODEL, each)
            self.trips.note(peer, 0.02)
        self.offerings = {peer: Offering(replica=peer) for peer in self.peers}
        self.local: PeerId | None = None

    def candidates(self) -> Candidates:
        return Candidates(list(self.offerings.values()), model=MODEL, standings=self.standings, local=self.local)

    def idle(self, now: float, *, but: Sequence[PeerId] = (), slots: int = 64) -> None:
        for peer in self.peers:
            if peer not in but:
                self.standings.read(peer, Load(running=0, waiting=0, slots=slots), now)

    def route(
        self, wanted: Wanted | None = None, *, now: float = 0.0, luck: Callable[[], float] | None = None
    ) -> Route:
        wish = Plain(wanted or Wanted(model=MODEL))
        return self.router.choose(self.candidates(), wish, now=now, luck=luck or self.random.random)

    def first(self, wanted: Wanted | None = None, *, now: float = 0.0, luck: Callable[[], float] | None = None) -> int:
        return self.peers.index(self.route(wanted, now=now, luck=luck).choices[0].replica)

    def forecast(self, wanted: Wanted | None = None, *, now: float = 0.0) -> Forecast:
        found = self.route(wanted, now=now).forecast
        assert found is not None
        return found

    def answer(self, route: Route, now: float, *, slower: float = 1.0, tokens: int = 100) -> float:
        """Have the first choice answer, so many times slower than its curve alone says; return how long it took."""
        assert route.forecast is not None
        guess = route.forecast.guess(route.choices[0].replica)
        assert guess is not None
        first = guess.net + np.exp(guess.ttft - guess.ttft_added) * slower
        tpot = float(np.exp(guess.tpot - guess.tpot_added)) * slower
        took = float(first) + tpot * tokens
        self.experience.began(guess, float(first), now + float(first))
        measured = Measured(
            streamed=True,
            latency=round(took * MICRO),
            ttft=round(float(first) * MICRO),
            tpot=round(tpot * MICRO),
            output_tokens=tokens,
            told=True,
        )
        self.experience.ended(guess, measured, now + took)
        return took


__all__ = ["EXPLORE", "KEY", "MODEL", "NEVER", "PEERS", "Stage", "curve"]
