"""Why this node's engine gets no prompt now, in terms of the API; and what the swarm is told of its state.

Knows neither queue nor engine: a snapshot or a decision goes in, words come out.
"""

from node.core.admission import Decline, Declined
from node.core.engine_state import LENT, EngineSnapshot, EngineState
from node.core.operator_limits import PAUSED
from node.errors import Refusal, Refused, Unreached
from protocol.load import Serving

LOADING_RETRY = 5  # seconds: an engine takes 16 s and more to start, so an answer in five is soon enough
PAUSED_RETRY = 60  # seconds: its owner plays, or sleeps
LOADING = frozenset({EngineState.PREPARING, EngineState.STARTING})
AWAY = {
    EngineState.OFF: "This node runs no engine.",
    EngineState.FAILED: "The engine cannot be started; the node's status says why.",
    EngineState.STOPPED: "The engine is stopped at present; the node's status says why.",
}
SERVING = {
    EngineState.PREPARING: Serving.LOADING,
    EngineState.STARTING: Serving.LOADING,
    EngineState.READY: Serving.READY,
    EngineState.DRAINING: Serving.DRAINING,
}
DECLINES = {
    Decline.QUEUE_FULL: "This node has more prompts waiting than it takes.",
    Decline.QUEUE_TIMEOUT: "No turn came up in the time that prompts may wait here.",
    Decline.DISPLACED: "The queue is full, and a requester with fewer prompts waiting has taken this place.",
}


def serving(snapshot: EngineSnapshot) -> Serving:
    """Return what peers are told: an engine that is away for a moment drains, from its last prompt to its return."""
    if snapshot.returning and snapshot.state is not EngineState.READY:
        return Serving.DRAINING
    return SERVING.get(snapshot.state, Serving.AWAY)


def refusal(snapshot: EngineSnapshot) -> Refusal:
    """Say why there is no engine to ask."""
    if snapshot.state in LOADING:
        return Refusal(
            status=503,
            type="model_loading",
            message=f"The model is being loaded: {snapshot.progress or snapshot.reason}.",
            retry_after=LOADING_RETRY,
        )
    if snapshot.reason.startswith(PAUSED):
        return Refusal(
            status=503,
            type="engine_unavailable",
            code="paused",
            message="This node is paused by its owner.",
            retry_after=PAUSED_RETRY,
        )
    if snapshot.reason == LENT:
        message = f"The engine is {LENT}; it will be back."
    else:
        message = AWAY.get(snapshot.state, f"The engine is {snapshot.state.value}; it will be back.")
    return Refusal(status=503, type="engine_unavailable", message=message, retry_after=LOADING_RETRY)


def unreached(error: Unreached) -> Refusal:
    """Say that it has just gone, or is overrun."""
    return Refusal(status=503, type="engine_unavailable", message=error.message, retry_after=LOADING_RETRY)


def declined(decision: Declined) -> Refused:
    """Say why a prompt gets no turn."""
    return Refused(
        Refusal(
            status=429,
            type="overloaded",
            code=decision.reason.value,
            message=DECLINES[decision.reason],
            retry_after=decision.retry_after,
        )
    )
