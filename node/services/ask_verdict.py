"""What a client is told where nobody answers its prompt.

Knows no replica: what came of the attempts goes in, the most helpful of them comes out, in terms of the API.
"""

from math import inf

from node.core.router import Route
from node.errors import Broken, Refusal, Refused

LOST_ENGINES = 3  # that one prompt may break off at: beyond that it is likelier the prompt that breaks engines
BUSY = frozenset({429, 503})  # refusals that pass


NOT_ASKED = Refusal(
    status=403,
    type="permission_denied",
    code="not_asked",
    message="This node's list of peers that may see its prompts holds none that would answer this one.",
)
UNKNOWN_PEER = Refusal(
    status=404,
    type="invalid_request_error",
    code="unknown_peer",
    param="x-metainf-via",
    message="No peer of this id is in the swarm now.",
)


NOTHING_SERVED = Refusal(
    status=503,
    type="engine_unavailable",
    code="no_replica",
    message="This node runs no engine, and no node that it knows serves any model at the moment.",
    retry_after=5,
)


def away(code: str, retry_after: int | None) -> Refusal:
    """Refuse because none of those who serve the model is there."""
    return Refusal(
        status=503,
        type="engine_unavailable",
        code=code,
        message="No node that serves this model can be asked at the moment.",
        retry_after=retry_after,
    )


def all_closed(route: Route) -> Refusal:
    """Refuse because nobody takes a prompt now."""
    if route.reason not in {"refused", "not_accepting"}:
        return away(route.reason, route.retry_after)
    return Refusal(
        status=429,
        type="overloaded",
        code=route.reason,
        message="Every node that serves this model has all the prompts that it takes.",
        retry_after=route.retry_after,
    )


class Tried:
    """What came of the attempts at one prompt so far."""

    def __init__(self) -> None:
        self.attempts = 0
        self.refusals: list[Refusal] = []
        self.broken: list[Broken] = []
        self.lost = 0  # engines that broke off at it

    @property
    def hopeless(self) -> bool:
        """Whether so many engines broke off that the prompt itself must be suspected."""
        return self.lost >= LOST_ENGINES

    def after(self, gone: Refusal | None) -> Refused | Broken:
        """Return what helps most; `gone` says why nobody was left to try in the end, where it was so."""
        return self.verdict() if gone is None or self.attempts else Refused(gone)

    def verdict(self) -> Refused | Broken:
        """Return what helps the client most: when to come back, else what broke, else why nobody may."""
        passing = [each for each in self.refusals if each.status in BUSY]
        if self.broken and (self.hopeless or not passing):
            return self.broken[-1]
        return Refused(min(passing or self.refusals, key=_how_soon))


def _how_soon(refusal: Refusal) -> tuple[bool, float]:
    return refusal.status == 403, inf if refusal.retry_after is None else refusal.retry_after
