"""The daemon's own router in a simulated swarm: the real decision, standings, curves, corrections, lengths, affinity.

Knows the simulation and the decision's parts, and does what the daemon's services do between them: `hear` is what
watching loads brings, `sent` to `done` what an answer's course tells. Bodies are not made: what is known of them is
their length, four bytes a token, and that a conversation's turns begin alike.

`GRIDS` names ways to run it. `ours` is as it is shipped; `ours_cost` and `ours_both` are told by their clients to look
at the price, alone or as much as at the time. Each other one has one thing known that ours must guess, or
something of ours taken away: what that is worth. `ours_true_means` knows how long answers are in the mean for chat and
for code, which is the most that a guess by what was seen before can come to; `ours_true_lengths` each one's length.
"""

from collections.abc import Mapping, Sequence
from math import inf
from typing import Any, Final

import numpy as np

from node.core.affinity import LENGTHS, NO_MARKS, Marks
from node.core.answer_meter import MICRO, Measured
from node.core.candidates import Candidates, Offering
from node.core.corrections import Corrections, Seen
from node.core.curves import LOADS, PROMPTS, Curve, Shelf, read_curve
from node.core.experience import Experience
from node.core.forecast import Guess
from node.core.predictive import Predictive
from node.core.prompt import Requester, RequesterKind
from node.core.round_trips import RoundTrips
from node.core.router import EXPLORE, Route
from node.core.standings import Standings
from node.core.wanted import LATENCY, Aims, Wanted, Weights
from protocol.ids import PeerId
from protocol.load import Load
from tests.benchmarks.routing_cells import Cell
from tests.benchmarks.routing_known import GONE_S, peers
from tests.benchmarks.routing_policies import Chosen, Make
from tests.benchmarks.routing_run import Advert, Ask, Policy, Run
from tests.benchmarks.routing_world import BYTES_PER_TOKEN, CLIENTS, World
from tests.fakes.wish import Plain

MODEL: Final = "model"
SURE: Final = 0.05  # half width of a curve that is the truth

GRIDS: Final[Mapping[str, Sequence[Chosen]]] = {
    "ours": [{"explore": explore} for explore in (EXPLORE, 0.0, 0.03)],
    "ours_cost": [{"aims": (("cost", 1.0),)}],
    "ours_both": [{"aims": (("latency", 0.5), ("cost", 0.5))}],
    "ours_true_curves": [{"curves": "true"}],
    "ours_true_lengths": [{"lengths": "true"}],
    "ours_true_means": [{"lengths": "means"}],
    "ours_all_true": [{"curves": "true", "lengths": "true"}],
    "ours_no_curves": [{"curves": "none"}],
    "ours_no_corrections": [{"corrections": False}],
    "ours_no_affinity": [{"affinity": False}],
}


class _Deaf(Corrections):
    """Learns nothing."""

    def observe(self, replica: PeerId, model: str, seen: Seen, *, run: int, now: float) -> None:
        """Learn nothing."""


class Ours:
    """See the module."""

    def __init__(
        self,
        run: Run,
        entry: int,
        seed: int,
        *,
        shelf: Shelf,
        explore: float = EXPLORE,
        lengths: str = "foretold",
        corrections: bool = True,
        affinity: bool = True,
        aims: Weights = LATENCY,
    ) -> None:
        world = run.world
        self._rng = np.random.default_rng([seed, entry])
        self._world, self._rtt = world, world.rtt[entry].tolist()
        *self._peers, me = peers(world.nodes + 1)
        self._number = {peer: number for number, peer in enumerate(self._peers)}
        self._standings, self._trips = Standings(), RoundTrips(me)
        self._experience = Experience(key=bytes(16))
        if not corrections:
            self._experience.corrections = _Deaf()
        self._router = Predictive(curves=shelf, trips=self._trips, experience=self._experience, explore=explore)
        self._lengths, self._remembers, self._aims = lengths, affinity, Aims(weights=aims)
        self._offerings = [
            Offering(replica=peer, devices=float(world.cells[says].devices), price=price)
            for peer, says, price in zip(self._peers, world.says.tolist(), world.price.tolist(), strict=True)
        ]
        requests = world.requests
        codes = requests.client >= CLIENTS
        self._means = [
            float(requests.output[codes == sort].mean()) if (codes == sort).any() else 1.0 for sort in (0, 1)
        ]
        self._heard = [-GONE_S] * world.nodes
        self._there: Candidates | None = None
        self._until = 0.0  # when somebody may have to be left out of the candidates
        self._route = Route(choices=())
        self._asked: dict[int, tuple[Guess, int, float]] = {}  # what was foretold, the ticket, when it was sent

    def hear(self, adverts: Sequence[Advert], now: float) -> None:
        for each in adverts:
            peer = self._peers[each.node]
            load = Load(running=each.running, waiting=each.waiting, queued_tokens=each.queued_tokens, slots=each.slots)
            self._standings.read(peer, load, now)
            if self._heard[each.node] <= now - GONE_S:
                self._trips.note(peer, self._rtt[each.node])
                self._there = None
            self._heard[each.node] = now

    def choose(self, ask: Ask, now: float) -> int | None:
        candidates = self._candidates(now)
        asker = Requester(RequesterKind.KEY, str(ask.client))
        tokens = float(ask.output)
        if self._lengths == "means":
            tokens = self._means[ask.client >= CLIENTS]
        elif self._lengths != "true":
            tokens = self._experience.lengths.answer_tokens(asker, MODEL, None)
        wanted = Wanted(
            model=MODEL,
            requester=asker,
            prompt_tokens=float(ask.prompt),
            output_tokens=tokens,
            body_bytes=int(BYTES_PER_TOKEN * ask.prompt),
            aims=self._aims,
            marks=_marks(ask) if self._remembers else NO_MARKS,
        )
        self._route = self._router.choose(candidates, Plain(wanted), now=now, luck=self._rng.random)
        return self._number[self._route.choices[0].replica] if self._route.choices else None

    def sent(self, ask: Ask, node: int, now: float) -> None:
        peer = self._peers[node]
        self._standings.began(peer, now)
        guess = self._route.forecast.guess(peer) if self._route.forecast is not None else None
        if guess is not None:
            self._asked[ask.number] = guess, self._standings.expect(peer, now, guess.first_byte, guess.uncached), now

    def first(self, ask: Ask, node: int, ttft: float, now: float) -> None:
        self._standings.answered(self._peers[node], now)
        if (asked := self._asked.get(ask.number)) is not None:
            self._standings.heard(self._peers[node], asked[1])
            self._experience.began(asked[0], ttft, now)
            self._asked[ask.number] = *asked[:2], inf  # nobody waits for it any more

    def done(self, ask: Ask, node: int, ttft: float, tpot: float, now: float) -> None:
        peer = self._peers[node]
        self._standings.ended(peer)
        self._standings.helped(peer)
        if (asked := self._asked.pop(ask.number, None)) is not None:
            measured = Measured(
                streamed=True,
                latency=round((ttft + tpot * (ask.output - 1)) * MICRO),
                ttft=round(ttft * MICRO),
                tpot=round(tpot * MICRO) if ask.output > 1 else None,
                prompt_tokens=ask.prompt,
                output_tokens=ask.output,
                told=True,
            )
            self._experience.ended(asked[0], measured, now)

    def lost(self, ask: Ask, node: int, now: float, *, hung: bool) -> None:
        peer = self._peers[node]
        if (asked := self._asked.pop(ask.number, None)) is not None:
            self._standings.heard(peer, asked[1])
            self._experience.waited(asked[0], now - asked[2], now)
        self._standings.ended(peer)
        self._standings.failed(peer, now, hung=hung)

    def _candidates(self, now: float) -> Candidates:
        if self._there is None or now >= self._until:
            there = [node for node, heard in enumerate(self._heard) if heard > now - GONE_S]
            self._until = min((self._heard[node] for node in there), default=now) + GONE_S
            offerings = [self._offerings[node] for node in there]
            self._there = Candidates(offerings, model=MODEL, standings=self._standings)
        return self._there


def _marks(ask: Ask) -> Marks:
    size = int(BYTES_PER_TOKEN * ask.prompt)
    # What a body of this conversation begins with is the same in every turn, as far as it goes.
    return Marks(size, tuple((length, b"%d:%d" % (ask.session, length)) for length in LENGTHS if length <= size))


def foretold(name: str) -> bool:
    """Tell whether a policy is ours with curves that the learner foretold."""
    return name in GRIDS and GRIDS[name][0].get("curves", "foretold") == "foretold"


def maker(name: str, chosen: Chosen, seed: int, said: Sequence[Mapping[str, Any]]) -> Make:
    """Return what makes the policies of a run. `said`: what the learner says of each of the world's cells."""
    some = {**GRIDS[name][0], **chosen}
    of = str(some.pop("curves", "foretold"))
    shelves: dict[int, Shelf] = {}

    def make(run: Run, entry: int) -> Policy:
        shelf = shelves.setdefault(id(run), Shelf())
        if not len(shelf) and of != "none":
            _fill(shelf, run.world, said, of)
        return Ours(run, entry, seed, shelf=shelf, **some)

    return make


def _fill(shelf: Shelf, world: World, said: Sequence[Mapping[str, Any]], of: str) -> None:
    """Put every node's curve on the shelf: what is foretold of what it claims to be, or the truth."""
    if of == "true":
        each, whose = [true_curve(cell) for cell in world.cells], world.is_a
    else:
        each, whose = [read_curve(one) for one in said], world.says
    for peer, cell in zip(peers(world.nodes), whose.tolist(), strict=True):
        shelf.put(peer, MODEL, each[cell])


def true_curve(cell: Cell) -> Curve:
    """Return what a learner would say of a cell that knew it."""
    prompts, loads = np.array(PROMPTS, dtype=np.float64), np.array(LOADS)
    ttft = cell.first[loads][None, :] + cell.token[loads][None, :] * prompts[:, None]
    return Curve(
        prompts=prompts,
        loads=loads.astype(np.float64),
        log_ttft=np.log(ttft),
        ttft_width=np.full(ttft.shape, SURE),
        log_tpot=np.log(cell.tpot[loads]),
        tpot_width=np.full(len(loads), SURE),
        queued_token_s=cell.turn,
        source="learner",
    )
