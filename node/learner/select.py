"""Which strategy to take, which to try, and whether a restart pays: decisions from forecasts that know their error.

Knows log-costs of candidates with the uncertainty of their differences; knows no predictor, no engine and no clock.
All costs are natural logarithms (see `objective`): a difference of 0.02 is two percent. Uncertainty is that of the
difference to the default in the same context, which is far smaller than that of either alone.
"""

from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from node.core.strategy import LOSSY_KV
from node.learner.table import Floats, Table

Mask: TypeAlias = NDArray[np.bool_]
Why: TypeAlias = Literal["best", "only_default_fits", "abstained", "not_sure_enough", "default_is_best", "nothing_fits"]

HARM: Final = 0.02  # log-cost by which a choice must be worse than the default to count as harm (learner.md: 2 %)
# Probability of harm that is taken for a gain. The aim is harm in under 3 % of contexts; as most choices are far
# safer than the limit allows, a limit of 15 % for each keeps the sum of all well below that.
RISK: Final = 0.15
NORMAL_90: Final = float(stats.norm.ppf(0.95))  # half-width of a 90 % interval, in standard deviations
LEAST_SIGMA: Final = 1e-4
# Half-width of a gain where none was ever checked: physics tells strategies apart far better than it tells times.
UNCHECKED: Final = 0.25
FAILURES_ALLOWED: Final = 0.05  # share of requests, or probability that the engine does not come up
FULL_PRECISION: Final = frozenset({"bf16", "bfloat16", "fp16", "float16", "fp32", "float32", "auto", "unk"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What is foretold of the candidates of one context.

    Attributes:
        cost: log-cost, shape (candidates,); NaN where nothing is foretold.
        half_width: half of the 90 % interval of the difference to the default, of those that look best; shape
            (candidates,).
        abstains: the whole context lies beyond what was learnt, or times in it are foretold too unsurely.
    """

    cost: Floats
    half_width: Floats
    abstains: bool = False

    @property
    def sigma(self) -> Floats:
        """Standard deviations, shape (candidates,)."""
        return _sigma(self.half_width)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a choice must keep; what is None or left out is no limit. Arrays are of shape (candidates,).

    Attributes:
        memory_share: of the devices' memory that each needs.
        failure: foretold probability of a failure. failure_limit: beyond it a candidate is not taken; the default is,
            and whatever is no likelier to fail than the default.
        promised: pairs of (log of what is foretold, log of what is promised) for each promise.
        lossy: which candidates change answers.
        lossy_allowed: whether they may.
        banned: which are not to be taken whatever they promise.
    """

    memory_share: Floats | None = None
    failure: Floats | None = None
    failure_limit: float = FAILURES_ALLOWED
    promised: tuple[tuple[Floats, float], ...] = ()
    lossy: Mask | None = None
    lossy_allowed: bool = False
    banned: Mask | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What is taken, and why.

    Attributes:
        index: of the candidate; None where nothing fits and there is no default.
        gain: log-cost saved against the default, as foretold; 0 for the default itself.
        gain_low: its lower bound, 95 % certain.
        harm_probability: that it is worse than the default by HARM.
        considered: best alternative that was not taken for want of certainty; None if there is none.
    """

    index: int | None
    why: Why
    gain: float = 0.0
    gain_low: float = 0.0
    harm_probability: float = 0.0
    considered: int | None = None


def choose(forecast: Forecast, default: int | None, limits: Limits | None = None, risk: float = RISK) -> Choice:
    """Take the cheapest candidate that fits the limits and is unlikely to be worse than the default.

    Without a default the cheapest is taken. Where promises cannot be kept by anyone, those who break them least are
    compared. Abstaining means the default; where it does not fit, the cheapest that does.
    """
    fits = feasible(limits, len(forecast.cost), default) & np.isfinite(forecast.cost)
    if default is not None and not fits[default]:
        default = None
    if not fits.any():
        return Choice(index=default, why="nothing_fits")
    cost = np.where(fits, forecast.cost, np.inf)
    best = int(np.argmin(cost))
    if default is None:
        return Choice(index=best, why="best")
    if int(fits.sum()) == 1:
        return Choice(index=default, why="only_default_fits")
    if forecast.abstains:
        return Choice(index=default, why="abstained", considered=best if best != default else None)
    return _guarded(forecast, cost, default, risk)


def _guarded(forecast: Forecast, cost: Floats, default: int, risk: float) -> Choice:
    gain = cost[default] - cost
    best = int(np.argmin(cost))
    if best == default:
        return Choice(index=default, why="default_is_best")
    sure = np.where((gain >= least_gain(forecast.half_width, risk)) & (gain > 0), cost, np.inf)
    if not np.isfinite(sure).any():
        return Choice(index=default, why="not_sure_enough", considered=best)
    taken = int(np.argmin(sure))
    return Choice(
        index=taken,
        why="best",
        gain=float(gain[taken]),
        gain_low=float(gain[taken] - forecast.half_width[taken]),
        harm_probability=harm_probability(float(gain[taken]), float(forecast.half_width[taken])),
        considered=best if taken != best else None,
    )


def harm_probability(gain: float, half_width: float) -> float:
    """Return how likely what gains so much, give or take, is worse by HARM."""
    return float(stats.norm.cdf((-HARM - gain) / max(half_width / NORMAL_90, LEAST_SIGMA)))


def least_gain(half_width: Floats, risk: float = RISK) -> Floats:
    """Return the foretold gain (log-cost) over the default from which harm is unlikelier than `risk`; at least 0."""
    return np.maximum(_sigma(half_width) * stats.norm.ppf(1 - risk) - HARM, 0.0)


def _sigma(half_width: Floats) -> Floats:
    return np.maximum(half_width / NORMAL_90, LEAST_SIGMA)


def feasible(limits: Limits | None, count: int, default: int | None = None) -> Mask:
    """Return which candidates keep the limits, shape (count,). The unknown (NaN) is held against nobody."""
    fits = np.ones(count, dtype=bool)
    if limits is None:
        return fits
    if limits.banned is not None:
        fits &= ~limits.banned
    if limits.memory_share is not None:
        fits &= ~(limits.memory_share > 1)
    if limits.failure is not None:
        usual = limits.failure_limit if default is None else np.fmax(limits.failure_limit, limits.failure[default])
        fits &= ~(limits.failure > usual)
    if limits.lossy is not None and not limits.lossy_allowed:
        fits &= ~limits.lossy
    broken = np.zeros(count)
    for foretold, promised in limits.promised:
        broken += np.maximum(np.nan_to_num(foretold - promised), 0.0)
    if not fits.any():
        return fits
    return fits & (broken <= broken[fits].min() + HARM)


def lossy(table: Table) -> Mask:
    """Return which strategies change answers beyond rounding: a rounded cache, quantised or low-precision weights."""
    cache = np.array([str(word or "").startswith(LOSSY_KV) for word in table.words("strategy.kv_cache_dtype")])
    quantised = np.array([word is not None for word in table.words("strategy.weight_quantization")])
    precision, own = table.words("strategy.precision"), table.words("model.weight_dtype")
    lowered = np.array(
        [
            word is not None and word not in FULL_PRECISION and word != native
            for word, native in zip(precision, own, strict=True)
        ]
    )
    return (cache | quantised | lowered).astype(bool)


# --- trials


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A candidate worth trying. `value`: log-cost that the trial is expected to save, for each second it takes."""

    index: int
    value: float
    saves: float
    seconds: float


def trials(forecast: Forecast, current: int, seconds: Floats, limits: Limits | None = None) -> tuple[Trial, ...]:
    """Return candidates by what a trial of them would teach for each second that it costs, best first.

    The value of knowing X exactly: the expected improvement E[max(0, best - X)], where best is the cheapest as
    foretold (Jones et al., 1998; the knowledge gradient of an independent normal). For the cheapest itself it is the
    loss that is averted if it is worse than the runner-up. What is certain teaches nothing.

    Args:
        current: the candidate in use; trying it costs no restart, which `seconds` should say.
        seconds: that a trial of each takes, restart included, shape (candidates,); positive.
    """
    fits = feasible(limits, len(forecast.cost), current) & np.isfinite(forecast.cost)
    fits[current] = fits[current] or bool(np.isfinite(forecast.cost[current]))
    if int(fits.sum()) < 2:
        return ()
    cost = np.where(fits, forecast.cost, np.inf)
    best = int(np.argmin(cost))
    others = np.where(np.arange(len(cost)) == best, np.inf, cost)
    against = np.where(np.arange(len(cost)) == best, others.min(), cost[best])
    # The rival's distance seen from X: below it X would be taken, or, for the best, above it be left.
    distance = np.abs(against - np.where(fits, cost, 0.0)) / forecast.sigma
    saves = forecast.sigma * (stats.norm.pdf(distance) - distance * stats.norm.sf(distance))
    found = [
        Trial(index=int(at), value=float(saves[at] / seconds[at]), saves=float(saves[at]), seconds=float(seconds[at]))
        for at in np.flatnonzero(fits)
    ]
    return tuple(sorted(found, key=lambda trial: -trial.value))


def sample(forecast: Forecast, rng: np.random.Generator, limits: Limits | None = None) -> int | None:
    """Return a candidate with the probability that it is the best (Thompson): for choices that need no restart."""
    fits = feasible(limits, len(forecast.cost)) & np.isfinite(forecast.cost)
    if not fits.any():
        return None
    drawn = forecast.cost + forecast.sigma * rng.standard_normal(len(forecast.cost))
    return int(np.argmin(np.where(fits, drawn, np.inf)))


# --- the switch

HYSTERESIS: Final = 1.5  # a switch must save so many times what it costs: forecasts of near equals take turns
LEAST_GAIN: Final = 0.01  # log-cost; below it any switch is noise


@dataclass(frozen=True, slots=True, kw_only=True)
class Switch:
    """Whether to switch, and the figures that decided.

    Attributes:
        saved_s: seconds of work that the gain's lower bound saves over the horizon. cost_s: that the switch takes.
        pays_after_s: how long it must last; infinite where nothing is gained for certain.
    """

    worth: bool
    saved_s: float
    cost_s: float
    pays_after_s: float = field(default=float("inf"))


def worth_switching(gain_low: float, *, busy_s: float, restart_s: float, lost_share: float = 1.0) -> Switch:
    """Weigh a switch: what its gain saves, at least, over a horizon, against the work lost while it restarts.

    Args:
        gain_low: lower bound of the log-cost saved against what runs now.
        busy_s: seconds of work expected until conditions change (the horizon times the utilisation).
        restart_s: until the engine serves again, drain included.
        lost_share: of that time that is lost; less than 1 where peers take the prompts meanwhile, 0 where it is warm.
    """
    saved_rate = -np.expm1(-max(gain_low, 0.0))
    cost = restart_s * lost_share
    saved = float(saved_rate * busy_s)
    pays_after = float(cost * HYSTERESIS / saved_rate) if saved_rate > 0 else float("inf")
    worth = gain_low >= LEAST_GAIN and saved > HYSTERESIS * cost
    return Switch(worth=bool(worth), saved_s=saved, cost_s=cost, pays_after_s=pays_after)
