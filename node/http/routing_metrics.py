"""The metrics of decisions: how well answers are foretold, why prompts went where they went, what was resumed.

Knows no router: figures are asked for when they are scraped. Labels are fixed words; a reason that is none of them
counts as another.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

QUANTITIES: Final = ("ttft", "tpot")
# By the key of a quantity's facts: (metric, what it is).
GAUGES: Final[Mapping[str, tuple[str, str]]] = {
    "error": ("metainf_forecast_error", "Mean of |log(observed / foretold)| over the last 200 answers; 0.1 is 10 %."),
    "bias": ("metainf_forecast_bias", "Mean of log(observed / foretold): above 0 where answers are slower."),
    "coverage_90": ("metainf_forecast_coverage", "Share within the 90 % interval that was foretold; 0.9 is right."),
    "drifted": ("metainf_forecast_drifted", "1 where what comes is no longer what is foretold: an alarm."),
}
# As `node.core.router.Choice` says them, and `refused`: nobody could be asked.
REASONS: Final = (
    "best", "explore", "fits", "knock", "least_work", "likeliest", "local", "near_equal", "refused", "stored",
    "stranger", "via",
)  # fmt: skip
OTHER: Final = "other"
COUNTS: Final[Mapping[str, str]] = {
    "resumed": "Prompts whose answers broke off and went on elsewhere.",
    "hedged": "Prompts whose first byte was late, and which somebody else was asked as well.",
    "hedges_won": "Prompts that the one answered who was asked as well.",
}


class RoutingMetrics:
    """A collector: `register` it once."""

    def __init__(self, facts: Callable[[], Mapping[str, Any]]) -> None:
        """`facts`: the block `routing` of `metainf status --json`; empty on a node by itself."""
        self._facts = facts

    def register(self, registry: CollectorRegistry) -> None:
        """Have the figures scraped with a registry's others."""
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """Yield the figures as they are now; before the first answer, nothing of how well it was foretold."""
        facts = self._facts()
        if not facts:
            return
        answers = CounterMetricFamily(
            "metainf_forecast_answers", "Answers that were held against what was foretold.", labels=("quantity",)
        )
        for quantity in QUANTITIES:
            answers.add_metric((quantity,), facts[quantity]["answers"])
        yield answers
        for key, (metric, meaning) in GAUGES.items():
            gauge = GaugeMetricFamily(metric, meaning, labels=("quantity",))
            for quantity in QUANTITIES:
                if facts[quantity]["answers"]:
                    gauge.add_metric((quantity,), float(facts[quantity][key]))
            yield gauge
        yield _decisions(facts["decisions"])
        for key, meaning in COUNTS.items():
            yield CounterMetricFamily(f"metainf_route_{key}", meaning, value=facts[key])


def _decisions(counts: Mapping[str, int]) -> Metric:
    decisions = CounterMetricFamily(
        "metainf_route_decisions", "Prompts, by the reason of their first choice.", labels=("reason",)
    )
    for reason in REASONS:
        decisions.add_metric((reason,), counts.get(reason, 0))
    decisions.add_metric((OTHER,), sum(count for reason, count in counts.items() if reason not in REASONS))
    return decisions
