"""The metrics of the swarm and of its shared history: peers, what is held, refused, exchanged, and what is written.

Knows neither store nor peer: figures are asked for when they are scraped. Reasons are bounded by whoever counts them.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from node.record_ports import HistoryFacts

# What peers' exchange counts, by the name of the figure: (metric, what it is).
EXCHANGED: Final[Mapping[str, tuple[str, str]]] = {
    "new": ("metainf_history_received_new", "Records that peers brought and that were not here."),
    "known": ("metainf_history_received_known", "Records that peers brought and that were here already."),
    "pulled": ("metainf_history_pulled", "Of the new ones, those that comparing with neighbours brought."),
    "found": ("metainf_history_found", "Of the new ones, those that lay in the directory."),
    "heard": ("metainf_history_heard_messages", "Messages of gossip about records, well-formed or not."),
    "said": ("metainf_history_said", "Own records that went out by gossip."),
    "sent": ("metainf_history_sent", "Records that neighbours pulled from here."),
    "bytes_in": ("metainf_history_received_bytes", "Bytes of neighbours' answers."),
    "bytes_out": ("metainf_history_sent_bytes", "Bytes of answers to neighbours."),
    "bytes_gossip": ("metainf_history_gossip_bytes", "Bytes of gossip about records."),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Among:
    """A node among peers in figures.

    Attributes:
        known: peers whose adverts hold, connected or not. outcast: those parted from for what they brought.
        exchanged: named as in `EXCHANGED`. ends: comparisons with neighbours, by how they ended.
        since_whole: seconds since the last that ended whole; since the node came up where none has.
    """

    connected: int
    known: int
    outcast: int
    exchanged: Mapping[str, int]
    ends: Mapping[str, int]
    since_whole: float


class HistoryMetrics:
    """A collector: `register` it once."""

    def __init__(
        self,
        *,
        facts: Callable[[], HistoryFacts],
        rejected: Callable[[], Mapping[str, int]],
        among: Callable[[], Among] | None,
        trials: Callable[[], Mapping[str, Any]],
        traffic: Callable[[], Mapping[str, int]] | None,
    ) -> None:
        """Prepare.

        Args:
            rejected: records that were not believed, by reason.
            among: None on a node by itself.
            trials: how far they are: `cells` settled `of` all, and `state`; without `cells` where none are made.
            traffic: how many windows became `records`, and how many were `dropped`; None where none are recorded.
        """
        self._facts = facts
        self._rejected = rejected
        self._among = among
        self._trials = trials
        self._traffic = traffic

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
        if self._among is not None:
            yield from _peers(self._among())
        yield from _trials(self._trials())
        if self._traffic is not None:
            yield from _traffic(self._traffic())


def _peers(among: Among) -> Iterator[Metric]:
    peers = GaugeMetricFamily("metainf_peers", "Peers: connected, and known by their adverts.", labels=("state",))
    peers.add_metric(("connected",), among.connected)
    peers.add_metric(("known",), among.known)
    yield peers
    yield GaugeMetricFamily("metainf_peers_outcast", "Peers parted from for what they brought.", value=among.outcast)
    for name, (metric, meaning) in EXCHANGED.items():
        yield CounterMetricFamily(metric, meaning, value=among.exchanged[name])
    ends = CounterMetricFamily("metainf_history_exchanges", "Comparisons with neighbours.", labels=("end",))
    for end, count in among.ends.items():
        ends.add_metric((end,), count)
    yield ends
    yield GaugeMetricFamily(
        "metainf_history_since_whole_exchange_seconds",
        "Since a comparison with a neighbour last ended whole, or since the node came up: how old the history may be.",
        value=among.since_whole,
    )


def _trials(facts: Mapping[str, Any]) -> Iterator[Metric]:
    if "cells" not in facts:
        return
    yield GaugeMetricFamily("metainf_trials_cells", "Strategies under workloads, settled.", value=facts["cells"])
    yield GaugeMetricFamily("metainf_trials_cells_all", "Strategies under workloads, in all.", value=facts["of"])
    complete = facts["state"] == "complete"
    yield GaugeMetricFamily("metainf_trials_complete", "1 once nothing is left to try.", value=complete)
    running = facts["state"] == "running"
    yield GaugeMetricFamily("metainf_trials_running", "1 while the engine is lent to trials.", value=running)


def _traffic(facts: Mapping[str, int]) -> Iterator[Metric]:
    written = "Windows of traffic that became records."
    yield CounterMetricFamily("metainf_traffic_records", written, value=facts["records"])
    dropped = "Windows of traffic with too few answers, or that could not be written."
    yield CounterMetricFamily("metainf_traffic_dropped", dropped, value=facts["dropped"])
