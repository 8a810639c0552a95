"""A prompt on its way through the node: what routing and admission need to know of it, and the untouched bytes.

Knows nothing of HTTP servers, engines or peers. The node reads the few fields below and passes the rest on as
it came: a field that vLLM learns tomorrow works here today.
"""

from dataclasses import dataclass
from enum import Enum

Headers = tuple[tuple[bytes, bytes], ...]


class RequesterKind(Enum):
    """On whose behalf a prompt is asked."""

    OWNER = "owner"  # the node's operator: loopback without a key, or the control socket
    KEY = "key"  # the holder of one of the node's API keys
    PEER = "peer"  # another node of the swarm


@dataclass(frozen=True, slots=True)
class Requester:
    """Who asks. `name` is the key's name or the peer's id; fairness and quotas count by the whole value."""

    kind: RequesterKind
    name: str


OWNER = Requester(RequesterKind.OWNER, "owner")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One request to an inference endpoint, read whole.

    Attributes:
        request_id: the client's `x-request-id` where it sent an acceptable one, else minted here.
        method, target: as they stood in the request line; `target` keeps the query.
        headers: those that travel on (no hop-by-hop ones, no credentials), names in lower case.
        body: the exact bytes of the request's body.
        model: the `model` field, None where the endpoint has none (`GET /v1/models`).
        stream: whether the client asked for server-sent events.
        deadline: the loop's time (seconds) after which an answer is of no use; None for no limit.
        via: the peer id of the only node that may answer, where the client names one (`x-metainf-via`).
        session: what the client calls the conversation (`x-session-token`); b"" where it does not. Never travels on.
    """

    request_id: str
    method: str
    target: str
    headers: Headers
    body: bytes
    model: str | None
    stream: bool
    requester: Requester
    deadline: float | None = None
    via: str | None = None
    session: bytes = b""

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]
