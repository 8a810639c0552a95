"""The tuner's metrics, and those of the owner's limits: what runs, what was foretold and observed, what it cost.

Knows neither: figures are asked for when they are scraped. Labels are fixed words, but for the strategy's name, which
is cut, and of which there is one at a time.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from node.core.operator_limits import Action
from node.core.strategy import DRAFT_MODEL
from node.core.tuning import Phase

LABEL_CHARS: Final = 128
PAUSED: Final = "paused"
# By the key of the tuner's facts: (metric, what it is).
GAUGES: Final[Mapping[str, tuple[str, str]]] = {
    "predicted": (
        "metainf_tuner_predicted_gain",
        "Log-cost saved by the last switch as foretold; 90 % interval from _low to _high.",
    ),
    "observed": (
        "metainf_tuner_observed_gain",
        "Log-cost saved by the last switch as observed; 90 % interval from _low to _high.",
    ),
}
RESULTS: Final[Mapping[str, str]] = {"switches": "done", "failed_starts": "failed"}
Facts = Callable[[], Mapping[str, Any]]


class TunerMetrics:
    """A collector: `register` it once."""

    def __init__(self, tuner: Facts, owner: Facts) -> None:
        """`tuner`, `owner`: these blocks of `metainf status --json`; what is not known yet is None or left out."""
        self._tuner = tuner
        self._owner = owner

    def register(self, registry: CollectorRegistry) -> None:
        """Have the figures scraped with a registry's others."""
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """Yield the figures as they are now; what is not known yet is left out."""
        yield from _of_tuner(self._tuner())
        yield from _of_owner(self._owner())


def _label(name: str) -> str:
    """Return the name as a label: without draft models, which may be paths of this machine, and cut."""
    parts = [part for part in name.split("+") if not part.startswith(f"{DRAFT_MODEL}=")]
    return "+".join(parts)[:LABEL_CHARS]


def _of_tuner(facts: Mapping[str, Any]) -> Iterator[Metric]:
    if (name := facts.get("strategy")) is not None:
        info = GaugeMetricFamily("metainf_strategy_info", "The strategy that the engine runs.", labels=("strategy",))
        info.add_metric((_label(str(name)),), 1)
        yield info
    phases = GaugeMetricFamily("metainf_tuner_phase", "What the tuner is doing: 1 of these.", labels=("phase",))
    for phase in Phase:
        phases.add_metric((phase.value,), float(facts.get("phase") == phase.value))
    yield phases
    switches = CounterMetricFamily("metainf_tuner_switches", "Switches, by what came of them.", labels=("result",))
    for key, result in RESULTS.items():
        switches.add_metric((result,), facts.get(key) or 0)
    yield switches
    yield CounterMetricFamily(
        "metainf_tuner_rollbacks", "Strategies taken back, since reality contradicted them.",
        value=facts.get("rollbacks") or 0,
    )  # fmt: skip
    yield CounterMetricFamily(
        "metainf_tuning_lost_seconds", "Seconds in which nobody was served, for tuning's sake.",
        value=facts.get("lost_s") or 0.0,
    )  # fmt: skip
    yield from _gains(facts)
    if facts.get("regret_estimate") is not None:
        yield GaugeMetricFamily(
            "metainf_tuner_regret", "Log-cost above the best that is foretold, mean over time.",
            value=facts["regret_estimate"],
        )  # fmt: skip
    yield GaugeMetricFamily(
        "metainf_tuner_banned", "Strategies not to be chosen.", value=len(facts.get("banned") or ())
    )


def _gains(facts: Mapping[str, Any]) -> Iterator[Metric]:
    """Yield each gain that is known, and the ends of its interval."""
    for key, (metric, meaning) in GAUGES.items():
        found = facts.get(key) or {}
        for end, suffix in (("gain", ""), ("low", "_low"), ("high", "_high")):
            if found.get(end) is not None:
                yield GaugeMetricFamily(f"{metric}{suffix}", meaning, value=found[end])


def _of_owner(facts: Mapping[str, Any]) -> Iterator[Metric]:
    states = GaugeMetricFamily(
        "metainf_owner_state", "What the owner lets the engine do: 1 of these.", labels=("state",)
    )
    for state in (*(action.value for action in Action), PAUSED):
        states.add_metric((state,), float(facts.get("state") == state))
    yield states
    yield CounterMetricFamily("metainf_owner_yields", "Times that the engine gave way.", value=facts.get("yields") or 0)
    yield CounterMetricFamily(
        "metainf_owner_yielded_seconds", "Seconds that it was away for it.", value=facts.get("yielded_s") or 0.0
    )
    for key, metric in (
        ("watts", "metainf_device_power_watts"),
        ("temperature_c", "metainf_device_temperature_celsius"),
    ):
        if facts.get(key) is not None:
            yield GaugeMetricFamily(metric, "As its limit saw it last.", value=facts[key])
