"""What an operator's tools ask of a node: is it alive, is it ready, which version, its metrics.

Knows no prompts. The engine's own metrics (`vllm:…`) are passed through under their names, never imitated.
"""

import json
from collections.abc import Awaitable, Callable

from node.core.engine_state import EngineState
from node.errors import Refusal
from node.http.asgi import Receive, Scope, Send, is_local, reply
from node.http.auth import KeyRing
from node.http.config import HttpLimits, NodeIdentity
from node.http.errors import retry_header
from node.http.intake import Offence
from node.http.metrics import HttpMetrics
from node.ports import EngineBoard

EngineMetrics = Callable[[], Awaitable[bytes]]
READY_RETRY = 5  # seconds until asking again makes sense
_JSON = (b"content-type", b"application/json")
_PROMETHEUS = (b"content-type", b"text/plain; version=0.0.4; charset=utf-8")
_ENGINES_OWN = (b"vllm:", b"# HELP vllm:", b"# TYPE vllm:")


class Operator:
    """Answers /health, /health/ready, /version and /metrics."""

    def __init__(  # noqa: PLR0913 -- the capabilities of the pages, each by itself
        self,
        *,
        board: EngineBoard,
        serving: Callable[[], bool],
        identity: NodeIdentity,
        metrics: HttpMetrics,
        offence: Offence,
        engine_metrics: EngineMetrics,
        keys: KeyRing,
        limits: HttpLimits,
    ) -> None:
        self._board = board
        self._serving = serving
        self._identity = identity
        self._metrics = metrics
        self._offence = offence
        self._engine_metrics = engine_metrics
        self._keys = keys
        self._limits = limits
        self._pages = {
            "/health": self._health,
            "/health/ready": self._ready,
            "/version": self._version,
            "/metrics": self._render,
        }

    def answers(self, path: str) -> bool:
        """Tell whether a path is one of these."""
        return path in self._pages

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a GET or HEAD of one of these paths."""
        del receive
        await self._pages[scope["path"]](scope, send)

    async def _health(self, scope: Scope, send: Send) -> None:
        del scope
        await reply(send, 200, b'{"status": "alive"}', [_JSON])

    async def _ready(self, scope: Scope, send: Send) -> None:
        del scope
        snapshot = self._board.snapshot()
        by_peers = snapshot.state is EngineState.OFF and self._serving()
        ready = snapshot.state is EngineState.READY or by_peers
        body = {"status": "ready" if ready else "not ready", "engine": snapshot.state.value}
        if not ready:
            body["reason"] = snapshot.progress or snapshot.reason
        elif by_peers:
            body["reason"] = "peers of the swarm answer"
        headers = [_JSON] if ready else [_JSON, (b"retry-after", b"%d" % READY_RETRY)]
        await reply(send, 200 if ready else 503, json.dumps(body).encode("ascii"), headers)

    async def _version(self, scope: Scope, send: Send) -> None:
        del scope
        body = {"version": self._identity.version, "name": "metainf"}
        await reply(send, 200, json.dumps(body).encode("ascii"), [_JSON])

    async def _render(self, scope: Scope, send: Send) -> None:
        if not (self._limits.public_metrics or is_local(scope)):
            caller = self._keys.identify(scope)
            if isinstance(caller, Refusal):
                self._offence("unauthorized")
                body = json.dumps({"error": {"message": caller.message, "type": caller.type}}).encode("ascii")
                headers = [_JSON, (b"www-authenticate", b"Bearer"), *retry_header(caller)]
                await reply(send, caller.status, body, headers)
                return
        own = self._metrics.render()
        engines = engines_own(await self._engine_metrics())
        await reply(send, 200, own + engines, [_PROMETHEUS])


def engines_own(exposition: bytes) -> bytes:
    """Keep the lines of the engine's own families: its process and HTTP metrics would collide with the node's."""
    lines = [line for line in exposition.splitlines(keepends=True) if line.startswith(_ENGINES_OWN)]
    return b"".join(lines)
