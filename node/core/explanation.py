"""Why a prompt went where it went: the last decisions, made into words only when somebody asks.

Knows no choice and no clock. A decision's figures are kept as the arrays that they were made of, some kilobytes each;
how many are kept is bounded by their candidates, so that a large swarm remembers fewer.
"""

from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from math import exp, inf, isnan
from typing import Any, Final

import numpy as np

from node.core.corrections import TPOT_NOISE, TTFT_NOISE, Z90
from node.core.forecast import FIRST, TOKEN, Forecast
from node.core.router import Choice, Route
from node.core.standings import Column
from protocol.ids import PeerId

CANDIDATES: Final = 50_000  # of all decisions that are kept: some 12 MB
DECISIONS: Final = 1000
EARLIER: Final = 8  # attempts under the same id that an account remembers: a stream that broke off goes on under it
OUTRUN: Final = "outrun"  # the outcome of an attempt while which another one brought a first byte
REFUSED: Final = "refused"  # counts where there was nobody to ask
NAMED: Final = 32  # candidates of one decision that are told of, those chosen and then the best


@dataclass(slots=True, kw_only=True)
class Attempt:
    """One replica that was asked. Seconds; None where it never came to that."""

    replica: PeerId
    reason: str
    asked_at: float
    ttft: float | None = None
    tpot: float | None = None
    latency: float | None = None
    output_tokens: int | None = None
    outcome: str = "running"  # or `answered`, `refused`, `unreachable`, `broken`, `abandoned`, `outrun`


@dataclass(slots=True, kw_only=True)
class Account:
    """What became of one prompt. `earlier`: the latest attempts of prompts that came under its id before it."""

    request_id: str
    asked_at: float
    route: Route | None = None
    attempts: list[Attempt] = field(default_factory=list[Attempt])
    earlier: tuple[Attempt, ...] = ()

    @property
    def last(self) -> Attempt | None:
        """The latest attempt that was not outrun by another: who answers, or failed to; None where nobody was asked."""
        return next((each for each in reversed(self.attempts) if each.outcome != OUTRUN), None)

    def close(self) -> None:
        """Note that the prompt is over: what is not accounted for was given up."""
        for attempt in self.attempts:
            if attempt.outcome == "running":
                attempt.outcome = "abandoned"

    @property
    def size(self) -> int:
        """How many candidates it holds figures of."""
        forecast = self.route.forecast if self.route is not None else None
        return 1 if forecast is None else len(forecast.candidates)


class Accounts:
    """The last of them, by request id; of two with one id the later.

    Attributes:
        forgotten: how many were given up for room.
        decisions: prompts that were decided about, by the reason of their first choice, or `REFUSED`.
    """

    def __init__(self) -> None:
        self.forgotten = 0
        self.decisions: Counter[str] = Counter()
        self._held: OrderedDict[str, Account] = OrderedDict()
        self._size = 0

    def __len__(self) -> int:
        return len(self._held)

    def open(self, request_id: str, now: float) -> Account:
        """Begin an account. `decided` says whom the prompt goes to."""
        before = self._drop(request_id)
        earlier = () if before is None else (*before.earlier, *before.attempts)[-EARLIER:]
        account = self._held[request_id] = Account(request_id=request_id, asked_at=now, earlier=earlier)
        self._size += account.size
        self._trim()
        return account

    def decided(self, account: Account, route: Route) -> None:
        """Note a decision; of a prompt that was decided about twice, the latest is kept."""
        if account.route is None:
            self.decisions[route.choices[0].reason if route.choices else REFUSED] += 1
        if self._held.get(account.request_id) is account:
            self._size -= account.size
            account.route = route
            self._size += account.size
            self._trim()

    def get(self, request_id: str) -> Account | None:
        """Return what is known of a prompt; None where it is not, or no longer."""
        return self._held.get(request_id)

    def last(self, most: int) -> list[Account]:
        """Return at most so many, the latest first."""
        return list(islice(reversed(self._held.values()), most))

    def _trim(self) -> None:
        while len(self._held) > DECISIONS or (self._size > CANDIDATES and len(self._held) > 1):
            self._drop(next(iter(self._held)))
            self.forgotten += 1

    def _drop(self, request_id: str) -> Account | None:
        account = self._held.pop(request_id, None)
        if account is not None:
            self._size -= account.size
        return account


def explain(account: Account) -> dict[str, Any]:
    """Return an account as plain values, what was foretold beside what came. Seconds and tokens."""
    route = account.route
    forecast = route.forecast if route is not None else None
    return {
        "request_id": account.request_id,
        "choices": [{"replica": str(each.replica), "reason": each.reason} for each in (route.choices if route else ())],
        "refused": (route.reason or None) if route is not None else None,
        "wanted": None if forecast is None else _wanted(forecast),
        "candidates": [] if forecast is None or route is None else _candidates(forecast, route.choices),
        "attempts": [_attempt(each) for each in account.attempts],
        "earlier": [_attempt(each) for each in account.earlier],
    }


def _attempt(attempt: Attempt) -> dict[str, Any]:
    return {
        "replica": str(attempt.replica),
        "reason": attempt.reason,
        "outcome": attempt.outcome,
        "ttft_s": _round(attempt.ttft),
        "tpot_s": _round(attempt.tpot),
        "latency_s": _round(attempt.latency),
        "output_tokens": attempt.output_tokens,
    }


def _wanted(forecast: Forecast) -> Mapping[str, Any]:
    wanted = forecast.wanted
    return {
        "model": wanted.model,
        "prompt_tokens": round(wanted.prompt_tokens),
        "output_tokens": round(wanted.output_tokens),
        "body_bytes": wanted.body_bytes,
        "objective": ",".join(f"{word}:{weight:g}" for word, weight in wanted.aims.weights),
        "slo_ttft_s": wanted.aims.ttft_s,
        "slo_tpot_s": wanted.aims.tpot_s,
    }


def _candidates(forecast: Forecast, choices: Sequence[Choice]) -> list[dict[str, Any]]:
    index = forecast.candidates.index
    chosen = [index[each.replica] for each in choices if each.replica in index]
    others = [int(at) for at in np.argsort(forecast.total) if at not in set(chosen)]
    return [_candidate(forecast, at) for at in (*chosen, *others)[:NAMED]]


def _candidate(forecast: Forecast, at: int) -> dict[str, Any]:
    candidates, columns = forecast.candidates, forecast.columns
    slots = float(columns[Column.SLOTS, at])
    price = float(candidates.price[at])
    turn = forecast.turn[at] if isinstance(forecast.turn, np.ndarray) else forecast.turn
    return {
        "replica": str(candidates.replicas[at]),
        "local": at == candidates.local,
        "connected": bool(candidates.connected[at]),
        "closed": bool(forecast.closed[at]),
        "source": forecast.curves.source(int(forecast.curve_rows[at])),
        "net_s": _round(float(forecast.net[at])),
        "turn_s": _round(float(turn)),
        "ttft_s": _round(exp(float(forecast.logs[FIRST, at]))),
        "ttft_factor_90": _factor(float(forecast.variances[FIRST, at]) + TTFT_NOISE),
        "ttft_correction": _round(exp(float(forecast.added[FIRST, at]))),
        "tpot_s": _round(exp(float(forecast.logs[TOKEN, at]))),
        "tpot_factor_90": _factor(float(forecast.variances[TOKEN, at]) + TPOT_NOISE),
        "tpot_correction": _round(exp(float(forecast.added[TOKEN, at]))),
        "total_s": _round(float(forecast.total[at])),
        "spread": _round(float(forecast.spread[at])),
        "load": _round(float(forecast.load[at])),
        "load_known": bool(forecast.known[at]),
        "slots": None if slots == inf else round(slots),
        "cached_tokens": 0 if forecast.cached is None else round(float(forecast.cached[at])),
        "price": None if isnan(price) else price,
        "devices": float(candidates.devices[at]),
    }


def _factor(variance: float) -> float | None:
    """Return the factor, either way, within which nine of ten answers are foretold to be."""
    return _round(exp(Z90 * variance**0.5))


def _round(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")
