"""What the HTTP surface is told at the start: who this node is, and what it bears.

Knows no settings file; the composition root fills these in.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeIdentity:
    """Who answers. `name` and `peer_id` are told to clients only where `HttpLimits.show_node` says so."""

    peer_id: str
    name: str
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpLimits:
    """What the API accepts.

    Attributes:
        body_bytes: of one request. 32 MiB holds a dozen photographs in base64; vLLM itself has no limit.
        answer_seconds: from a prompt's arrival to the last byte of a peer's answer, and to its turn at this node's own
            engine. Whoever waits less long leaves, which is noticed; a small machine may well write for half an hour.
        allow_remote_media: whether prompts may name media by URL. The engine would fetch them from inside the
            volunteer's network, so it is off by default.
        show_node: whether answers say which node and strategy gave them.
        origins: of web pages whose scripts may use the API (CORS); "*" for any. None by default.
        hosts: names besides loopback ones under which a request without a key may address this node. A web page can
            make any name it owns resolve to 127.0.0.1, but it cannot make the browser send another Host.
        public_metrics: whether /metrics answers to everybody; by default to this machine and to holders of a key.
    """

    body_bytes: int = 32 * 1024 * 1024
    answer_seconds: float = 3600.0
    allow_remote_media: bool = False
    show_node: bool = True
    origins: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    public_metrics: bool = False
