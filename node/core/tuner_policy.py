"""What the operator lets the tuner do, and to what end.

Knows no settings file and no tuner: values that both agree on.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class TunerPolicy:
    """How the engine may be tuned. Money in whatever currency the operator thinks in.

    Attributes:
        enabled: False leaves the engine as it is configured.
        objective: what "best" means: `latency`, `tail:0.5,cost:0.5`.
        lossy: whether strategies that change answers may be chosen.
        horizon_s: for so long a workload is taken to last, until it is known how long they last here.
        hold_s: prompts wait for so long while the engine is away for a switch.
        start_first: the new engine is started beside the old one where memory allows; False: never.
        switches_per_day: at most so many that the tuner makes by itself; what goes back is not counted.
        promises: what `slo` is judged by: `ttft_s`, `tpot_s` to seconds.
        memory_bytes: of the engine, at most. memory_share: of the device's (or machine's) memory. None: no limit.
        price_per_hour: of this machine, for `cost`; None where no price is known.
        energy_price_per_kwh: on top of it, for what the machine draws.
    """

    enabled: bool = True
    objective: str = "latency"
    lossy: bool = False
    horizon_s: float = 6 * 3600.0
    hold_s: float = 120.0
    start_first: bool = True
    switches_per_day: int = 24
    promises: Mapping[str, float] = field(default_factory=dict[str, float])
    memory_bytes: int | None = None
    memory_share: float | None = None
    price_per_hour: float | None = None
    energy_price_per_kwh: float | None = None

    @property
    def goal(self) -> str:
        """What the learner is asked for, and so learns as well."""
        return by_littles_law(self.objective)

    def memory_limit(self, total: int | None) -> int | None:
        """Return how many bytes the engine may take, of `total` that there are; None without a limit that is known."""
        share = None if self.memory_share is None or total is None else int(self.memory_share * total)
        known = [limit for limit in (self.memory_bytes, share) if limit is not None]
        return min(known) if known else None

    def hourly_cost(self, watts: float | None) -> float | None:
        """Return what an hour of this machine costs while it draws so much; None where nothing has a price.

        Args:
            watts: what it draws under load; None where nobody knows, and energy is then left out.
        """
        if self.price_per_hour is None and (self.energy_price_per_kwh is None or watts is None):
            return None
        energy = (self.energy_price_per_kwh or 0.0) * (watts or 0.0) / 1000.0
        return (self.price_per_hour or 0.0) + energy


def by_littles_law(objective: str) -> str:
    """Return the objective by which a node chooses for its own traffic: that, with latency for throughput.

    How many tokens a second are written for people is decided by how many ask: traffic comes at its own pace, and so
    does a load that is made like it. But so many prompts at once as there are now are answered at a rate that is
    inverse to their latency (Little 1961): a share of the one saved is that share of the other gained.
    """
    if "throughput" not in objective:
        return objective
    weights: dict[str, float] = {}
    for part in objective.split(","):
        word, _, weight = part.strip().partition(":")
        kept = "latency" if word == "throughput" else word
        weights[kept] = weights.get(kept, 0.0) + float(weight or 1.0)
    return next(iter(weights)) if len(weights) == 1 else ",".join(f"{word}:{each:g}" for word, each in weights.items())
