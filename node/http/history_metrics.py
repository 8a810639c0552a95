"""The shared history's metrics: what is held, what was refused and why, what went to and from peers.

Knows neither store nor peer: figures are asked for when they are scraped. Reasons are bounded by whoever counts them.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from node.record_ports import HistoryFacts

# What peers' exchange counts, by the name of the figure: (metric, what it is).
EXCHANGED: Final[Mapping[str, tuple[str, str]]] = {
    "new": ("metainf_history_received_new", "Records that peers brought and that were not here."),
    "known": ("metainf_history_received_known", "Records that peers brought and that were here already."),
    "said": ("metainf_history_said", "Own records that went out by gossip."),
    "sent": ("metainf_history_sent", "Records that neighbours pulled from here."),
    "bytes_in": ("metainf_history_received_bytes", "Bytes of neighbours' answers."),
    "bytes_out": ("metainf_history_sent_bytes", "Bytes of answers to neighbours."),
    "bytes_gossip": ("metainf_history_gossip_bytes", "Bytes of gossip about records."),
}


class HistoryMetrics:
    """A collector: `register` it once."""

    def __init__(
        self,
        *,
        facts: Callable[[], HistoryFacts],
        exchanged: Callable[[], Mapping[str, int]],
        rejected: Callable[[], Mapping[str, int]],
    ) -> None:
        """Prepare.

        Args:
            exchanged: figures named as in `EXCHANGED`; empty on a node by itself.
            rejected: records that were not believed, by reason.
        """
        self._facts = facts
        self._exchanged = exchanged
        self._rejected = rejected

    def register(self, registry: CollectorRegistry) -> None:
        """Have the figures scraped with a registry's others."""
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """Yield the figures as they are now."""
        facts = self._facts()
        yield GaugeMetricFamily("metainf_history_records", "Performance records held.", value=facts.records)
        yield GaugeMetricFamily("metainf_history_authors", "Authors of records held.", value=facts.authors)
        yield GaugeMetricFamily("metainf_history_bytes", "Bytes of records held.", value=facts.bytes)
        yield GaugeMetricFamily("metainf_history_quarantined", "Authors with a proven fork.", value=facts.quarantined)
        refused = CounterMetricFamily("metainf_history_rejected", "Records not believed.", labels=("reason",))
        for reason, count in self._rejected().items():
            refused.add_metric((reason,), count)
        yield refused
        exchanged = self._exchanged()
        for name, (metric, meaning) in EXCHANGED.items():
            if name in exchanged:
                yield CounterMetricFamily(metric, meaning, value=exchanged[name])
