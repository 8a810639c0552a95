"""The control socket's page of the account, and its metrics: what was used of peers and by them, owed and due.

Knows no account: documents and figures are asked for when somebody wants them.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

PATH: Final = "/account"
NO_SWARM: Final = "this node is in no swarm: it asks nobody and answers no peer, so there is nothing to account for"
SWARM_REMEDY: Final = "let it be one of a swarm: p2p.enabled = true, and `metainf up --join ADDRESS`"
WINDOWS: Final = ("today", "days_30")
# By side and key of a window's sums: (metric, what it is).
GAUGES: Final[Mapping[tuple[str, str], tuple[str, str]]] = {
    ("used", "requests"): ("metainf_account_used_requests", "Prompts of ours that peers answered."),
    ("used", "device_s"): ("metainf_account_used_device_seconds", "Time of peers' devices for them, our share of it."),
    ("used", "owed"): ("metainf_account_owed", "That at the prices that peers told, in the swarm's unit."),
    ("lent", "requests"): ("metainf_account_lent_requests", "Prompts of peers that we answered."),
    ("lent", "device_s"): ("metainf_account_lent_device_seconds", "Time of our devices for them, their share of it."),
    ("lent", "due"): ("metainf_account_due", "That at our own price, in the swarm's unit."),
}
Facts = Callable[[], Mapping[str, Any]]


def account_routes(page: Facts | None) -> list[Route]:
    """Return the page. Without an account (a node by itself) it says so."""

    async def get_account(_: Request) -> Response:
        if page is None:
            error = {"message": NO_SWARM, "type": "invalid_request_error", "param": None, "code": None}
            return JSONResponse({"error": error | {"remedy": SWARM_REMEDY}}, status_code=409)
        return JSONResponse(dict(page()))

    return [Route(PATH, get_account, methods=["GET"])]


class AccountMetrics:
    """A collector: `register` it once."""

    def __init__(self, facts: Facts) -> None:
        """`facts`: the block `account` of `metainf status --json`; empty on a node by itself."""
        self._facts = facts

    def register(self, registry: CollectorRegistry) -> None:
        """Have the figures scraped with a registry's others."""
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """Yield the figures as they are now."""
        facts = self._facts()
        if not facts:
            return
        for (side, key), (metric, meaning) in GAUGES.items():
            gauge = GaugeMetricFamily(metric, meaning, labels=("window",))
            for window in WINDOWS:
                gauge.add_metric((window,), float(facts[window][side][key]))
            yield gauge
        limits = GaugeMetricFamily(
            "metainf_account_limit", "What routing.spend_per_day and spend_per_request allow.", labels=("limit",)
        )
        for name, value in facts["limits"].items():
            if value is not None:
                limits.add_metric((name,), float(value))
        yield limits
        yield CounterMetricFamily(
            "metainf_account_refused", "Prompts that a limit of spending left nobody for.", value=facts["refused"]
        )
