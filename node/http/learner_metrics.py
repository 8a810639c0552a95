"""The learner's metrics: what it learnt, how well, and what that cost.

Knows no learner: figures are asked for when they are scraped.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

# By the name of the figure: (metric, what it is).
COUNTERS: Final[Mapping[str, tuple[str, str]]] = {
    "train_s_total": ("metainf_learner_training_seconds", "Seconds of training, of lessons that ended well."),
    "predictions": ("metainf_learner_predictions", "Questions that the learner answered with a forecast."),
    "predict_s_total": ("metainf_learner_prediction_seconds", "Seconds that it took over them."),
    "unanswered": ("metainf_learner_unanswered", "Questions that it did not answer."),
    "restarts": ("metainf_learner_restarts", "Times that it was started again."),
}
GAUGES: Final[Mapping[str, tuple[str, str]]] = {
    "records_used": ("metainf_learner_records", "Records that it has learnt from."),
    "train_s": ("metainf_learner_last_training_seconds", "Seconds that the last training took."),
    "error_median": ("metainf_learner_error", "Median of |log error| on contexts left out, first objective."),
    "coverage_90": ("metainf_learner_coverage", "Share of them within their 90 % interval; 0.9 is right."),
    "memory_bytes": ("metainf_learner_memory_bytes", "Memory of its process, at the peak."),
}


class LearnerMetrics:
    """A collector: `register` it once."""

    def __init__(self, facts: Callable[[], Mapping[str, Any]]) -> None:
        """`facts`: the block `learner` of `metainf status --json`."""
        self._facts = facts

    def register(self, registry: CollectorRegistry) -> None:
        """Have the figures scraped with a registry's others."""
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """Yield the figures as they are now; what is not known yet is left out."""
        facts = self._facts()
        ended = CounterMetricFamily("metainf_learner_trainings", "Lessons, by how they ended.", labels=("outcome",))
        ended.add_metric(("learnt",), facts["trainings"])
        ended.add_metric(("failed",), facts["trainings_failed"])
        yield ended
        for name, (metric, meaning) in COUNTERS.items():
            yield CounterMetricFamily(metric, meaning, value=facts[name])
        for name, (metric, meaning) in GAUGES.items():
            if facts[name] is not None:
                yield GaugeMetricFamily(metric, meaning, value=facts[name])
