"""What is to be made small: the objectives of the contracts and mixes of them, as logarithms of costs.

Knows the names of outcomes and what a choice costs in their terms; knows no prediction and no candidate. An objective
works on columns by name, measured or foretold alike. Where a column lacks the answer is unknown (NaN), never a guess.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from node.learner.table import Table

Floats: TypeAlias = NDArray[np.float64]
Numbers: TypeAlias = Callable[[str], Floats]  # a column by its name: shape (rows,), NaN where unknown

LATENCY: Final = "outcome.latency_mean_s"
LATENCY_P95: Final = "outcome.latency_p95_s"
STALL: Final = "outcome.stall_p95_s"
TTFT: Final = "outcome.ttft_mean_s"
TPOT: Final = "outcome.tpot_mean_s"
THROUGHPUT: Final = "outcome.output_tokens_per_s"
ENERGY: Final = "outcome.energy_j"
DEVICE_SECONDS: Final = "outcome.device_seconds_per_request"

ENERGY_WORD: Final = "energy"  # the objective

SECONDS_PER_HOUR: Final = 3600.0
# Watts of a processor's core where no meter and no limit tells: server parts are sold with 3.5 to 6 a core (an EPYC
# 7763 with 280 W for 64). It is the same for all strategies of a machine, so that no choice hangs on it.
WATTS_PER_CORE: Final = 5.0
SOME_WATTS: Final = 100.0  # of a device of which nothing is known; likewise
# A promise broken by e costs as much as a latency e**10 times as long: promises come first, latency parts the rest.
SLO_PENALTY: Final = 10.0


class InvalidObjective(ValueError):
    """The words are no objective. The message says what would be one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Promises:
    """Service level objectives; None where nothing is promised. Seconds."""

    ttft_s: float | None = None
    tpot_s: float | None = None
    latency_s: float | None = None


NO_PROMISE: Final = Promises()


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """A weighted mix.

    Attributes:
        weights: objective (or the column of an outcome) to its weight; they sum to one.
        promises: what `slo` is judged by.
    """

    weights: Mapping[str, float]
    promises: Promises = NO_PROMISE

    @property
    def name(self) -> str:
        """The words that `parse` reads."""
        if len(self.weights) == 1:
            return next(iter(self.weights))
        return ",".join(f"{word}:{weight:g}" for word, weight in self.weights.items())

    @property
    def is_choice(self) -> bool:
        """Whether choices are made by it; False for a single outcome."""
        return all(word in _COSTS for word in self.weights)

    def log_cost(self, numbers: Numbers) -> Floats:
        """Return what each row costs, as a logarithm: differences are relative. NaN where a column lacks.

        Args:
            numbers: columns by name, in the tables' units.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            parts = [weight * _cost_of(word)(numbers, self.promises) for word, weight in self.weights.items()]
        cost = np.sum(parts, axis=0)
        return np.where(np.isfinite(cost), cost, np.nan)

    def of(self, table: Table) -> Floats:
        """Return the measured log-cost of a table's rows."""
        return self.log_cost(table.numbers)

    def targets(self, available: Callable[[str], bool]) -> tuple[str, ...]:
        """Return the outcomes that must be foretold for it; empty where the table does not support it."""
        needed: list[str] = []
        for word in self.weights:
            choices = (way for way in _NEEDS.get(word, ((word,),)) if all(map(available, way)))
            if (way := next(choices, None)) is None:
                return ()
            needed += way
        return tuple(dict.fromkeys(needed))


def parse(words: str, promises: Promises = NO_PROMISE) -> Objective:
    """Read `latency` or `latency:0.5,cost:0.5`; weights are made to sum to one.

    Raises:
        InvalidObjective: an unknown word, twice the same one, or a weight that is no positive number.
    """
    pairs = list(_pairs(words))
    weights = dict(pairs)
    total = sum(weights.values())
    if len(weights) != len(pairs) or not weights or not np.isfinite(total):
        raise InvalidObjective(f"{words!r} names an objective twice, or none")
    return Objective(weights={word: weight / total for word, weight in weights.items()}, promises=promises)


def outcome(column: str) -> Objective:
    """Return what makes one outcome small, as it stands: for forecasts that are no choice (time to first token ...)."""
    return Objective(weights={column: 1.0})


def _pairs(words: str) -> Iterator[tuple[str, float]]:
    for part in words.split(","):
        word, _, weight = part.strip().partition(":")
        if word not in _COSTS:
            raise InvalidObjective(f"{word!r} is no objective; there are {', '.join(_COSTS)}")
        try:
            value = float(weight or 1)
        except ValueError:
            raise InvalidObjective(f"{part!r}: the weight is no number") from None
        if not value > 0:
            raise InvalidObjective(f"{part!r}: a weight is greater than nothing")
        yield word, value


def device_seconds(numbers: Numbers) -> Floats:
    """Return the device-seconds that one request takes, shape (rows,).

    As measured where a table says it. Else devices x seconds / concurrency (a request shares its devices with the
    others in flight; Little's law), and under open load, where concurrency is not set, devices / requests finished
    per second, which is output tokens per second over output tokens per request.
    """
    devices = _first(
        numbers("strategy.devices"),
        numbers("strategy.tensor_parallel") * _first(numbers("strategy.pipeline_parallel"), np.array(1.0)),
        numbers("hardware.count"),
        np.array(1.0),
    )
    closed = devices * numbers(LATENCY) / numbers("workload.concurrency")
    opened = devices * numbers("workload.output_tokens") / numbers(THROUGHPUT)
    return _first(numbers(DEVICE_SECONDS), closed, opened)


def by_power(numbers: Numbers) -> Numbers:
    """Return columns in which energy is estimated, measured or not: device-seconds of a request x watts of a device.

    The watts are the limit that the device is set to; of a processor so many a core. A strategy that makes the device
    draw less than its limit is not seen to: whoever shows such figures says that they are estimated.
    """

    def estimated(name: str) -> Floats:
        return device_seconds(numbers) * watts(numbers) if name == ENERGY else numbers(name)

    return estimated


def watts(numbers: Numbers) -> Floats:
    """Return what a device draws at most, as far as anybody knows."""
    cores = WATTS_PER_CORE * numbers("hardware.cpu_cores")
    return _first(
        numbers("hardware.power_limit_watts"), numbers("hardware.tdp_watts"), cores, np.full(cores.shape, SOME_WATTS)
    )


def price(numbers: Numbers) -> Floats:
    """Return what a device-second costs; 1 where the hour has no price."""
    return _first(numbers("hardware.price_per_hour") / SECONDS_PER_HOUR, np.array(1.0))


def _first(*choices: Floats) -> Floats:
    """Return the first that is known, row by row."""
    found = choices[0]
    for choice in choices[1:]:
        found = np.where(np.isnan(found), choice, found)
    return found


def _latency(numbers: Numbers, _: Promises) -> Floats:
    return np.log(numbers(LATENCY))


def _tail(numbers: Numbers, _: Promises) -> Floats:
    """Geometric mean of the 95th percentile end to end and the worst stall: neither can be sold for the other cheaply.

    A request of one token cannot stall; a zero is read as a microsecond.
    """
    return (np.log(numbers(LATENCY_P95)) + np.log(np.maximum(numbers(STALL), 1e-6))) / 2


def _throughput(numbers: Numbers, _: Promises) -> Floats:
    return -np.log(numbers(THROUGHPUT))


def _cost(numbers: Numbers, _: Promises) -> Floats:
    """Price of a request where the hour has a price, else its device-seconds."""
    return np.log(device_seconds(numbers) * price(numbers))


def _energy(numbers: Numbers, _: Promises) -> Floats:
    return np.log(numbers(ENERGY))


def _slo(numbers: Numbers, promises: Promises) -> Floats:
    cost = np.log(numbers(LATENCY))
    limits = ((TTFT, promises.ttft_s), (TPOT, promises.tpot_s), (LATENCY, promises.latency_s))
    for column, limit in limits:
        if limit is not None:
            cost = cost + SLO_PENALTY * np.maximum(np.log(numbers(column) / limit), 0.0)
    return cost


def _cost_of(word: str) -> Callable[[Numbers, Promises], Floats]:
    return _COSTS.get(word, lambda numbers, _: np.log(numbers(word)))


_COSTS: Final[Mapping[str, Callable[[Numbers, Promises], Floats]]] = {
    "latency": _latency,
    "tail": _tail,
    "throughput": _throughput,
    "cost": _cost,
    "energy": _energy,
    "slo": _slo,
}
# What must be foretold: the first way of which the table has every column.
_NEEDS: Final[Mapping[str, tuple[tuple[str, ...], ...]]] = {
    "latency": ((LATENCY,),),
    "tail": ((LATENCY_P95, STALL),),
    "throughput": ((THROUGHPUT,),),
    "cost": ((DEVICE_SECONDS,), (LATENCY,), (THROUGHPUT,)),
    "energy": ((ENERGY,),),
    "slo": ((LATENCY, TTFT, TPOT), (LATENCY,)),
}
OBJECTIVES: Final = tuple(_COSTS)
