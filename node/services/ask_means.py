"""Whom a prompt may go to without passing the limits of what this node spends; a part of choosing.

Knows no account: what may be spent is asked of a purse. Only peers that tell a price are held against it: this node's
own engine costs nobody anything here, and nobody owes what nobody asked for.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import numpy as np

from node.core.candidates import Candidates, Floats
from node.core.forecast import Forecast
from node.core.router import Choice, Route
from node.core.worth import amounts
from node.errors import Refusal, Refused
from protocol.ids import PeerId


class Purse(Protocol):
    """What this node may spend. Amounts are in the unit that the swarm reckons in."""

    def allowance(self) -> float | None:
        """Return what one more answer may cost, at least 0; None where there is no limit."""
        ...

    def pledge(self, replica: PeerId, amount: float, seconds: float) -> None:
        """Note that an answer is about to be asked of somebody, foretold to cost so much and to take so long."""
        ...

    def refusal(self, least: float) -> Refusal:
        """Return what a client is told whose answer would cost at least so much; infinite where that is not known."""
        ...


def within_means(purse: Purse, candidates: Candidates, route: Route, again: Callable[[Candidates], Route]) -> Route:
    """Return a route of those whose answer the purse allows; `route` itself where there is no limit.

    Where nothing was foretold, whoever asks for money is asked for as long as anything is left.

    Args:
        route: among the candidates. again: decides anew, among some of them.

    Raises:
        Refused: nobody who is left takes the prompt.
    """
    allowed = purse.allowance()
    if allowed is None or not candidates.priced or not route.choices:
        return route
    owed = _unforetold(candidates, allowed) if route.forecast is None else amounts(route.forecast)
    fits = owed <= allowed
    kept = tuple(each for each in route.choices if fits[candidates.index[each.replica]])
    if not kept:
        # The best few are beyond the limit; somebody else need not be.
        route = again(candidates.only(fits))
        kept = route.choices
    if not kept:
        raise Refused(purse.refusal(float(owed[~fits].min())))
    return replace(route, choices=kept)


def may_owe(purse: Purse | None, price: float) -> bool:
    """Whether somebody at a price (NaN: none) may be asked by name, where nothing is foretold."""
    allowed = purse.allowance() if purse is not None and price > 0.0 else None
    return allowed is None or allowed > 0.0


def _unforetold(candidates: Candidates, allowed: float) -> Floats:
    """Return what answers may cost where nothing says how long they take: anything, once nothing is left."""
    owed = np.where(candidates.price > 0.0, np.inf if allowed <= 0.0 else 0.0, 0.0)
    if candidates.local is not None:
        owed[candidates.local] = 0.0
    return owed


def pledge(purse: Purse, forecast: Forecast, choice: Choice) -> None:
    """Have what an answer is foretold to cost counted from its asking on, where there is a limit."""
    at = forecast.candidates.index.get(choice.replica)
    if at is None or not forecast.candidates.priced or purse.allowance() is None:
        return
    amount = float(amounts(forecast)[at])
    if amount > 0.0:
        purse.pledge(choice.replica, amount, float(forecast.total[at]))
