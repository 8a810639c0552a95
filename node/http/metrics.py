"""The HTTP surface's metrics, in the names of the conventions, in a registry of the caller's.

Knows no request: it is told what happened. Labels come from fixed sets (routes of the table, status classes, kinds of
offence), so a hostile client cannot make them many.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

# Seconds. From a cached first token on a fast GPU to a long answer on a slow CPU.
_TTFT_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_DURATION_BUCKETS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
# Lateness of the loop: from a turn of it to a stop that people notice.
_LAG_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 2.0)
OTHER = "other"


class HttpMetrics:
    """Counts what the API does. `offence` also serves the server underneath."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._now_running = 0
        # Each label's child by its label: finding it costs more than counting does. As few as the labels are.
        self._durations: dict[tuple[str, int], Histogram] = {}
        self._ttfts: dict[str, Histogram] = {}
        self._outcomes: dict[str, Counter] = {}
        self._duration = Histogram(
            "metainf_request_duration_seconds",
            "From a request's arrival to the end of its answer.",
            ("endpoint", "status"),
            buckets=_DURATION_BUCKETS,
            registry=registry,
        )
        self._ttft = Histogram(
            "metainf_request_ttft_seconds",
            "From a request's arrival to the first byte of a streamed answer.",
            ("endpoint",),
            buckets=_TTFT_BUCKETS,
            registry=registry,
        )
        running = Gauge("metainf_running_requests", "Requests that are being answered.", registry=registry)
        running.set_function(lambda: self._now_running)
        self._attempts = Counter(
            "metainf_route_attempts", "Attempts to have a prompt answered.", ("outcome",), registry=registry
        )
        self._offences = Counter("metainf_http_offences", "What clients did wrong.", ("kind",), registry=registry)
        self._lag = Histogram(
            "metainf_loop_lag_seconds", "How late the event loop was.", buckets=_LAG_BUCKETS, registry=registry
        )

    def begin(self) -> None:
        """Note that a request to an engine's endpoint has come."""
        self._now_running += 1

    def end(self, *, endpoint: str, status: int, seconds: float) -> None:
        """Note that it is over; `status` 0 where the client left before there was one."""
        self._now_running -= 1
        kind = status // 100
        child = self._durations.get((endpoint, kind))
        if child is None:
            child = self._duration.labels(endpoint, f"{kind}xx" if kind else "none")
            self._durations[endpoint, kind] = child
        child.observe(seconds)

    def first_byte(self, *, endpoint: str, seconds: float) -> None:
        """Note that the first byte of a stream has been sent."""
        child = self._ttfts.get(endpoint)
        if child is None:
            child = self._ttfts[endpoint] = self._ttft.labels(endpoint)
        child.observe(seconds)

    def attempt(self, outcome: str) -> None:
        """Note how it went with a replica: `answered`, `refused`, `broken` or `abandoned`."""
        child = self._outcomes.get(outcome)
        if child is None:
            child = self._outcomes[outcome] = self._attempts.labels(outcome)
        child.inc()

    def offence(self, kind: str) -> None:
        """Count one thing that a client did wrong; `kind` is one of a fixed, small set."""
        self._offences.labels(kind).inc()

    def late(self, seconds: float) -> None:
        """Note how late the loop was at one moment."""
        self._lag.observe(seconds)

    def render(self) -> bytes:
        """Write the registry as Prometheus reads it."""
        return generate_latest(self._registry)
