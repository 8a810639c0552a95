"""What a candidate's answer is worth: a forecast in the terms of what the asker wants, as one number each.

Knows no choice and no time. All values are logarithms of costs, so that differences are relative, mixes are weighted
sums, and the least is the best. A promise is a probability of being kept.
"""

from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from node.core.corrections import TPOT_NOISE, TTFT_NOISE
from node.core.forecast import FIRST, TOKEN, Forecast
from node.core.standings import HALF_LIFE, Column

Floats: TypeAlias = NDArray[np.float64]

# A replica without a history is taken to fail one prompt in a hundred; four prompts' worth of that, so that one fault
# after fifty answers is a fault in fifty and not a character.
PRIOR_PROMPTS: Final = 4.0
PRIOR_FAULTS: Final = 0.04
FAULT_SECONDS: Final = 4.0  # until a silent peer is found hung: two polls of two seconds
Z95: Final = 1.645  # of the 95th percentile
SECONDS_PER_HOUR: Final = 3600.0
IDLE_POWER: Final = 0.54  # share of its watts that an accelerator draws at a batch of one, and what each doubling adds
POWER_STEP: Final = 0.04  # (fitted to published power of A100 and H100 serving; the learner's prior, too)
LOGISTIC: Final = 1.702  # by which a logistic curve is a normal distribution to within 0.01
KEPT: Final = 0.9  # probability from which on a promise counts as kept


def seconds(forecast: Forecast, now: float) -> Floats:
    """Return the seconds to expect, with those that failures would cost: what was lost, and the answer once more."""
    if not np.count_nonzero(forecast.columns[Column.BAD]):
        return forecast.total  # nobody failed: who is known for longer is a hundredth better at most
    return forecast.total + retries(forecast, now) * (FAULT_SECONDS + forecast.total)


def retries(forecast: Forecast, now: float) -> Floats:
    """Return how many failed attempts to expect of each candidate, from what it did lately."""
    columns = forecast.columns
    held = np.exp2((columns[Column.JUDGED_AT] - now) / HALF_LIFE)
    bad = columns[Column.BAD] * held
    good = columns[Column.GOOD] * held
    bad += PRIOR_FAULTS
    good += PRIOR_PROMPTS - PRIOR_FAULTS
    bad /= good  # odds: what is expected before the first success
    return bad


def costs(forecast: Forecast, now: float) -> Floats:
    """Return the logarithm of what each candidate's answer costs by the asker's objective, shape (n,)."""
    weights = forecast.wanted.aims.weights
    expected = seconds(forecast, now)
    if len(weights) == 1:
        return _COSTS[weights[0][0]](forecast, expected)
    found = np.zeros(len(expected))
    for word, weight in weights:
        found += weight * _COSTS[word](forecast, expected)
    return found


def device_cost(forecast: Forecast, expected: Floats) -> Floats:
    """Return the logarithm of the price of an answer, or of the device-seconds that it takes.

    A device that decodes many together costs each of them its share. Where some tell a price, the others are taken to
    cost what those do in the middle: to say nothing is not to be free.
    """
    candidates = forecast.candidates
    cost = _throughput(forecast, expected)
    told = ~np.isnan(candidates.price)
    if told.any():
        usual = float(np.median(candidates.price[told]))
        price = np.where(told, candidates.price, usual) / SECONDS_PER_HOUR
        cost += np.log(np.maximum(price, 1e-12))
    return cost


def amounts(forecast: Forecast) -> Floats:
    """Return what each candidate's answer is foretold to be owed for, in the swarm's unit, shape (n,).

    Its share of the devices while it is there, at the price that is told. The own engine is owed nothing, and so is who
    tells no price: nobody owes what nobody asked for (unlike in `device_cost`, which weighs what is likely).
    """
    candidates = forecast.candidates
    price = np.nan_to_num(candidates.price, nan=0.0)
    if candidates.local is not None:
        price[candidates.local] = 0.0
    stay = np.maximum(forecast.total - forecast.net, 0.0)
    return price / SECONDS_PER_HOUR * candidates.devices * stay / forecast.load


def between_endings(forecast: Forecast) -> Floats:
    """Return the seconds from one answer's end to the next one's at each candidate, shape (n,).

    That is when one that has all the prompts that it takes will take another.
    """
    together = np.minimum(forecast.load, forecast.columns[Column.SLOTS])
    return (forecast.parts[FIRST] + forecast.parts[TOKEN]) / np.maximum(together, 1.0)


def kept(forecast: Forecast) -> Floats:
    """Return how likely each candidate keeps what was promised to the asker, shape (n,); 1 where nothing was."""
    aims = forecast.wanted.aims
    likely = np.ones(len(forecast.candidates))
    if aims.ttft_s is not None:
        left = np.maximum(aims.ttft_s - forecast.net - forecast.turn, 1e-9)
        likely *= _below(np.log(left), forecast.logs[FIRST], forecast.variances[FIRST] + TTFT_NOISE)
    if aims.tpot_s is not None:
        likely *= _below(float(np.log(aims.tpot_s)), forecast.logs[TOKEN], forecast.variances[TOKEN] + TPOT_NOISE)
    return likely


def normal_below(z: Floats) -> Floats:
    """Return the normal distribution function, to within 0.01: numpy has none, and no more is needed."""
    return 1.0 / (1.0 + np.exp(-LOGISTIC * np.clip(z, -30.0, 30.0)))


def _below(limit: Floats | float, mean: Floats, variance: Floats) -> Floats:
    return normal_below((limit - mean) / np.sqrt(variance))


def _latency(forecast: Forecast, expected: Floats) -> Floats:
    return np.log(expected)


def _tail(forecast: Forecast, expected: Floats) -> Floats:
    """Return the 95th percentile of the whole, taken for log-normal, single answers' own noise included."""
    share = (forecast.parts[FIRST] / forecast.total) ** 2
    variance = np.log1p(forecast.spread**2 + share * TTFT_NOISE + TPOT_NOISE)
    return np.log(expected) - 0.5 * variance + Z95 * np.sqrt(variance)


def _throughput(forecast: Forecast, expected: Floats) -> Floats:
    """Return device-seconds: what is least of them leaves the swarm most for others."""
    return np.log(_stay(forecast, expected)) + np.log(forecast.candidates.devices) - np.log(_sharing(forecast))


def _energy(forecast: Forecast, expected: Floats) -> Floats:
    sharing = _sharing(forecast)
    together = np.log2(sharing)
    power = IDLE_POWER + POWER_STEP * np.minimum(together, (1.0 - IDLE_POWER) / POWER_STEP)
    watts = forecast.candidates.watts * power
    return np.log(_stay(forecast, expected)) + np.log(watts) - np.log(sharing)


def _sharing(forecast: Forecast) -> Floats:
    """Return among how many a candidate's devices are shared: who waits for a slot has no part in them."""
    return np.maximum(np.minimum(forecast.load, forecast.columns[Column.SLOTS]), 1.0)


def _stay(forecast: Forecast, expected: Floats) -> Floats:
    """Return the seconds from a prompt's coming to its answer's end, not on the way. Waiting counts like work.

    Without that the longest queue would be the cheapest, and whoever looks at prices would stand in it for ever.
    """
    return np.maximum(expected - forecast.net, 1e-6)


_COSTS: Final[Mapping[str, Callable[[Forecast, Floats], Floats]]] = {
    "latency": _latency,
    "tail": _tail,
    "throughput": _throughput,
    "cost": device_cost,
    "energy": _energy,
    "slo": _latency,
}
