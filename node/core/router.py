"""Which replica a prompt goes to, and to which next if that one fails before its first byte.

Knows no network and learns nothing: replicas with their standings go in, an order comes out. `Router` is the
interface; `LeastOutstanding` is the first policy behind it, for as long as nothing predicts better.

The rules of `LeastOutstanding`:
1. What is closed (draining, loading, barred after a refusal, a failure or a hang) is not asked.
2. This node's own engine comes first while a prompt would run there at once: no way, no stranger who reads it. One
   that would have to wait there is compared like all others.
3. Where a prompt would run at once comes before where it would wait; then the least work.
4. Among near-equals luck decides, the lighter the likelier: nodes that all take the best one by the same figures
   bury it together. One prompt in a hundred goes anywhere, so that nobody is judged for ever by an old reading.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from node.core.standings import Standing
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
    """A replica to try, and why it stands where it stands: `local`, `least_work`, `near_equal`, `explore`, `next`."""

    replica: PeerId
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Whom to try, in order; each once, at most `CHOICES`.

    Where it is empty, `reason` says why (`no_replica` or what most of them are closed for) and `retry_after` when
    that may have changed.
    """

    choices: tuple[Choice, ...]
    reason: str = ""
    retry_after: int | None = None


class Router(Protocol):
    """A policy."""

    def order(self, options: Sequence[Option], *, now: float, luck: Callable[[], float]) -> Route:
        """Return whom to try. `luck` returns numbers from [0, 1)."""
        ...


class LeastOutstanding:
    """See the module. `prefer_local`: rule 2."""

    def __init__(self, *, prefer_local: bool = True) -> None:
        self._prefer_local = prefer_local

    def order(self, options: Sequence[Option], *, now: float, luck: Callable[[], float]) -> Route:
        """See `Router`."""
        left = [option for option in options if not option.standing.closed]
        if not left:
            return _nobody(options, now)
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


def _nobody(options: Sequence[Option], now: float) -> Route:
    if not options:
        return Route(choices=(), reason="no_replica")
    soonest = min(options, key=lambda option: (option.standing.closed_until, option.replica))
    wait = -int(-(soonest.standing.closed_until - now) // 1)  # rounded up
    return Route(
        choices=(),
        reason=soonest.standing.closed,
        retry_after=min(max(wait, SOONEST_RETRY), LATEST_RETRY),
    )
