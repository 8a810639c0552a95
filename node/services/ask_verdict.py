"""What a client is told where nobody answers its prompt.

Asks nobody: what came of the attempts goes in, or what is known of those who might have been asked; what helps most
comes out, in terms of the API.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from math import ceil, inf
from typing import Final

from node.core.candidates import Candidates
from node.core.router import LATEST_RETRY, SOONEST_RETRY, Route
from node.core.worth import between_endings
from node.errors import Broken, Refusal, Refused

LOST_ENGINES = 3  # that one prompt may break off at: beyond that it is likelier the prompt that breaks engines
BUSY = frozenset({429, 503})  # refusals that pass
SOON: Final = 5  # s of Retry-After where nothing says when: how long an engine that loads puts its askers off
# What standings say of those who have all the prompts that they take, and of those whose engines come back.
NOT_ACCEPTING: Final = "not_accepting"
FULL: Final = ("refused", NOT_ACCEPTING)
LOADING: Final = ("loading", "draining")
LOOKED_AT: Final = 256  # candidates that a refusal speaks of: it is written while everybody is busy
_STATES: Final[Mapping[str, str]] = {
    "refused": "declined a prompt a moment ago",
    "not_accepting": "has all the prompts that it takes",
    "loading": "is loading it",
    "draining": "is starting its engine anew",
    "away": "has no engine at the moment",
    "failed": "broke off a moment ago",
    "hung": "is silent",
    "probing": "is being tried out after a fault",
}


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
    retry_after=SOON,
)


class TooLong(Refused):
    """A replica's engine holds no such prompt, and there is somebody with a longer context: of more than `context`."""

    def __init__(self, refusal: Refusal, context: float) -> None:
        super().__init__(refusal)
        self.context = context


def away(code: str, retry_after: int | None) -> Refusal:
    """Refuse because none of those who serves the model is there."""
    return Refusal(
        status=503,
        type="engine_unavailable",
        code=code,
        message="No node that serves this model can be asked at the moment.",
        retry_after=retry_after,
    )


def all_closed(candidates: Candidates, route: Route, now: float) -> Refusal:
    """Refuse because none of the candidates takes a prompt now; says why not, and when the soonest is expected to."""
    states: Counter[str] = Counter()
    soonest = inf
    forecast = route.forecast
    endings = None if forecast is None else between_endings(forecast)
    for replica in candidates.replicas[:LOOKED_AT]:
        standing = candidates.standings.standing(replica, now)
        if not standing.closed:
            continue
        states[standing.closed] += 1
        wait = standing.closed_until - now
        if standing.closed in LOADING:
            wait = SOON
        elif standing.closed == NOT_ACCEPTING and forecast is not None and endings is not None:
            wait = float(endings[forecast.candidates.index[replica]])
        soonest = min(soonest, wait)
    return _refused_by(states, whole_seconds(soonest))


def _refused_by(states: Counter[str], retry_after: int) -> Refusal:
    """Return the refusal that fits states of standings, and how many are in each."""
    full = max(FULL, key=lambda state: states[state])
    loading = max(LOADING, key=lambda state: states[state])
    if states[full]:
        message = "Every node that serves this model has all the prompts that it takes."
        refusal = Refusal(status=429, type="overloaded", code=full, message=message, retry_after=retry_after)
    elif states[loading]:
        message = "The engines of the nodes that serve this model are being started."
        refusal = Refusal(status=503, type="engine_unavailable", code=loading, message=message, retry_after=retry_after)
    else:
        refusal = away(max(states, key=lambda state: states[state], default="no_replica"), retry_after)
    told = "; ".join(f"{count} {_STATES.get(state, state)}" for state, count in states.most_common())
    return replace(refusal, message=f"{refusal.message.rstrip('.')}: {told}." if told else refusal.message)


def being_loaded(model: str, nodes: int) -> Refusal:
    """Refuse a model whose every node is still loading it."""
    who = "one node is" if nodes == 1 else f"{nodes} nodes are"
    return Refusal(
        status=503,
        type="engine_unavailable",
        code="loading",
        param="model",
        message=f"The model `{model}` is known, and {who} loading it; nobody serves it yet.",
        retry_after=SOON,
    )


def whole_seconds(seconds: float) -> int:
    """Return what `Retry-After` says of so many seconds: whole ones, neither none nor more than a client waits for."""
    return ceil(min(max(seconds, SOONEST_RETRY), LATEST_RETRY))


class Tried:
    """What came of the attempts at one prompt so far.

    Attributes:
        beyond: the longest context that did not hold the prompt, in tokens; 0 where none was tried in vain.
    """

    def __init__(self) -> None:
        self.attempts = 0
        self.refusals: list[Refusal] = []
        self.broken: list[Broken] = []
        self.lost = 0  # engines that broke off at it
        self.beyond = 0.0
        self._anew = False

    @property
    def hopeless(self) -> bool:
        """Whether so many engines broke off that the prompt itself must be suspected."""
        return self.lost >= LOST_ENGINES

    def refused(self, refused: Refused) -> None:
        """Note that a replica would not."""
        self.refusals.append(refused.refusal)
        if isinstance(refused, TooLong):
            self.beyond = max(self.beyond, refused.context)
            self._anew = True

    def anew(self) -> bool:
        """Tell, once, whether to decide anew at once, among those with a longer context than those tried had."""
        found, self._anew = self._anew, False
        return found

    def after(self, gone: Refusal | None) -> Refused | Broken:
        """Return what helps most; `gone` says why nobody was left to try in the end, where it was so."""
        if gone is not None and (not self.attempts or (self.beyond and gone.status in BUSY)):
            return Refused(gone)
        return self.verdict()

    def verdict(self) -> Refused | Broken:
        """Return what helps the client most: when to come back, else what broke, else why nobody may."""
        passing = [each for each in self.refusals if each.status in BUSY]
        if self.broken and (self.hopeless or not passing):
            return self.broken[-1]
        best = min(passing or self.refusals, key=_how_soon)
        if best.status == 429 and best.retry_after is None:
            best = replace(best, retry_after=SOON)  # whoever is full takes prompts again, though it did not say when
        return Refused(best)


def _how_soon(refusal: Refusal) -> tuple[bool, float]:
    return refusal.status == 403, inf if refusal.retry_after is None else refusal.retry_after
