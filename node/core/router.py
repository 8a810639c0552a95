"""Which replica a prompt goes to, and to which next if that one fails before its first byte.

Knows no network and learns nothing: replicas with their standings go in, an order comes out. `Router` is the
interface; `LeastOutstanding` is the policy behind it that predicts nothing. `node.core.predictive` has the other one.

The rules of `LeastOutstanding`:
1. What is closed (draining, loading, barred after a refusal, a failure or a hang) is not asked.
2. This node's own engine comes first while a prompt would run there at once: no way, no stranger who reads it. One
   that would have to wait there is compared like all others.
3. Where a prompt would run at once comes before where it would wait; then the least work.
4. Among near-equals luck decides, the lighter the likelier: nodes that all take the best one by the same figures
   bury it together. One prompt in a hundred goes anywhere, so that nobody is judged for ever by an old reading.
5. Those whom we know to be there come before those of whom we only have an advert, which costs nothing to make up. Of
   the latter one is tried first where everybody else's slots are taken: an honest one would serve at once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from node.core.candidates import Candidates
from node.core.forecast import Forecast
from node.core.standings import Standing
from node.core.wanted import Wish
from protocol.ids import PeerId

NEAR = 1.0  # prompts by which two replicas may differ and still be near-equal: less is noise of two seconds
NEAR_SHARE = 0.25  # or by this share of the lesser work, where both are busy
EXPLORE = 0.01  # of the prompts
CHOICES = 8  # of a route: who has been turned away by eight has heard the swarm's answer
SOONEST_RETRY, LATEST_RETRY = 1, 60  # whole seconds of Retry-After where nobody can be asked


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """A replica that serves the model, and its standing. `connected`: without a dial (our own engine is)."""

    replica: PeerId
    standing: Standing
    local: bool = False
    connected: bool = True


@dataclass(frozen=True, slots=True)
class Choice:
    """A replica to try, and why it stands where it stands.

    `local`, `near_equal`, `explore`, `next`; of one policy `least_work`, of the other `best`, `fits`,
    `likeliest`, `stranger`; `hedge` of a second beside who is late; `via`, `stored` and `knock` where there was
    no choice.
    """

    replica: PeerId
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Whom to try, in order; each once, at most `CHOICES`.

    Where it is empty, `reason` says why (`no_replica` or what most of them are closed for) and `retry_after` when
    that may have changed. `forecast` is what the choice, or the lack of one, came from, where anything was foretold.
    """

    choices: tuple[Choice, ...]
    reason: str = ""
    retry_after: int | None = None
    forecast: Forecast | None = field(default=None, compare=False, repr=False)


class Router(Protocol):
    """A policy."""

    @property
    def wide(self) -> bool:
        """Whether it weighs thousands as fast as few: nobody needs to be left out beforehand."""
        ...

    def choose(self, candidates: Candidates, wish: Wish, *, now: float, luck: Callable[[], float]) -> Route:
        """Return whom to try. `luck` returns numbers from [0, 1)."""
        ...


class LeastOutstanding:
    """See the module. `prefer_local`: rule 2."""

    wide = False

    def __init__(self, *, prefer_local: bool = True) -> None:
        self._prefer_local = prefer_local

    def choose(self, candidates: Candidates, wish: Wish, *, now: float, luck: Callable[[], float]) -> Route:
        """See `Router`; rule 5, and the others among those whom it leaves together. What is wanted changes nothing."""
        options = options_of(candidates, now)
        familiar = [each for each in options if each.connected or each.standing.known]
        route = self.order(familiar, now=now, luck=luck)
        if len(familiar) == len(options):
            return route
        if not route.choices:
            return self.order(options, now=now, luck=luck)
        unknown = [each for each in options if not (each.connected or each.standing.known)]
        strangers = self.order(unknown, now=now, luck=luck).choices
        first = next(each for each in familiar if each.replica == route.choices[0].replica)
        dared = int(not first.local and first.standing.full)
        return Route(choices=(*strangers[:dared], *route.choices, *strangers[dared:])[:CHOICES])

    def order(self, options: Sequence[Option], *, now: float, luck: Callable[[], float]) -> Route:
        """Return whom to try among these, by rules 1 to 4."""
        left = [option for option in options if not option.standing.closed]
        if not left:
            return nobody(options, now)
        choices: list[Choice] = []
        home = next((option for option in left if option.local and not option.standing.full), None)
        if self._prefer_local and home is not None:
            left.remove(home)
            choices.append(Choice(home.replica, "local"))
        elif luck() < EXPLORE:
            chosen = left.pop(min(int(luck() * len(left)), len(left) - 1))
            choices.append(Choice(chosen.replica, "explore"))
        left.sort(key=_order)
        while left and len(choices) < CHOICES:
            near = _near_best(left)
            chosen = left.pop(_draw(near, luck()) if len(near) > 1 else 0)
            reason = "next" if choices else ("near_equal" if len(near) > 1 else "least_work")
            choices.append(Choice(chosen.replica, reason))
        return Route(choices=tuple(choices))


def _order(option: Option) -> tuple[bool, float, bool]:
    return option.standing.full, option.standing.work, not option.connected


def _near_best(ordered: Sequence[Option]) -> Sequence[Option]:
    """Return the first few between which the figures cannot tell. One that must be dialled first is no equal."""
    best = ordered[0]
    most = best.standing.work + max(NEAR, NEAR_SHARE * best.standing.work)
    near = 0
    for option in ordered:
        equal = option.standing.full == best.standing.full and option.connected == best.connected
        if not equal or option.standing.work > most:
            break
        near += 1
    return ordered[:near]


def _draw(near: Sequence[Option], luck: float) -> int:
    weights = [1.0 / (1.0 + option.standing.work) for option in near]
    at = luck * sum(weights)
    for index, weight in enumerate(weights):
        at -= weight
        if at < 0:
            return index
    return len(near) - 1


def options_of(candidates: Candidates, now: float) -> list[Option]:
    """Return the candidates with their standings, one by one."""
    standings = candidates.standings
    return [
        Option(
            replica=replica,
            standing=standings.standing(replica, now),
            local=at == candidates.local,
            connected=bool(candidates.connected[at]),
        )
        for at, replica in enumerate(candidates.replicas)
    ]


def nobody(options: Sequence[Option], now: float) -> Route:
    """Return why none of these takes a prompt, and when that may have changed."""
    if not options:
        return Route(choices=(), reason="no_replica")
    soonest = min(options, key=lambda option: (option.standing.closed_until, option.replica))
    wait = -int(-(soonest.standing.closed_until - now) // 1)  # rounded up
    return Route(
        choices=(),
        reason=soonest.standing.closed,
        retry_after=min(max(wait, SOONEST_RETRY), LATEST_RETRY),
    )
