"""The API as one ASGI application: which request goes where, and what is said to those that go nowhere.

Knows no server: any that speaks ASGI 3 under trio can stand below. Paths are matched as they stood in the request
line, nothing decoded, so that there is one spelling of each.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime

import trio

from node.core.endpoints import Dialect, dialect_of, find
from node.errors import Refusal
from node.http.asgi import App, Receive, Scope, Send, reply
from node.http.auth import KeyRing
from node.http.config import HttpLimits, NodeIdentity
from node.http.cors import allowed_origin, is_preflight, preflight_headers, response_headers
from node.http.errors import envelope, not_found, wrong_method
from node.http.gateway import Gateway
from node.http.intake import Offence, request_id
from node.http.metrics import HttpMetrics
from node.http.models import ModelList
from node.http.operator import EngineMetrics, Operator
from node.ports import EngineBoard, Replica
from protocol.advert import ModelOffer

_READ_METHODS = frozenset({"GET", "HEAD"})


def http_app(  # noqa: PLR0913  # the capabilities of the surface, each by itself
    *,
    replica: Replica,
    board: EngineBoard,
    engine_metrics: EngineMetrics,
    identity: NodeIdentity,
    keys: KeyRing,
    metrics: HttpMetrics,
    offence: Offence,
    limits: HttpLimits | None = None,
    models: Callable[[], Sequence[ModelOffer]] = tuple,
    serving: Callable[[], bool] = bool,
    clock: Callable[[], float] = trio.current_time,
) -> App:
    """Build the application of the API.

    Args:
        replica: who answers prompts: `SwarmReplica`, or `LocalReplica` on a node that is alone.
        board: read for readiness, for what is told while a model loads, and for headers.
        engine_metrics: returns the engine's exposition, b"" without one (`LocalReplica.engine_metrics`).
        keys: who may ask. `KeyRing()` lets in this machine alone, as the owner.
        offence: told of everything that no honest client sends, by kind: it counts and logs. The server underneath
            should report to the same.
        models: what the swarm serves; nothing, on a node that is alone.
        serving: whether any peer would answer: a node without an engine is then ready too.
        clock: the loop's time, in seconds, in which deadlines of prompts are given.
    """
    limits = limits or HttpLimits()
    listing = ModelList(
        replica=replica,
        board=board,
        peer_id=identity.peer_id,
        offers=models,
        created=int(datetime.now(UTC).timestamp()),
    )
    gateway = Gateway(
        replica=replica,
        models=listing,
        board=board,
        identity=identity,
        keys=keys,
        metrics=metrics,
        offence=offence,
        limits=limits,
        clock=clock,
    )
    operator = Operator(
        board=board,
        serving=serving,
        identity=identity,
        metrics=metrics,
        offence=offence,
        engine_metrics=engine_metrics,
        keys=keys,
        limits=limits,
    )

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            # By ASGI's rules this is how an application says that it has no use for lifespan events or websockets.
            raise NotImplementedError(f"There is no {scope['type']} here.")
        path = scope["raw_path"].decode("latin-1")
        if is_preflight(scope) and limits.origins:
            await _preflight(scope, send, limits.origins)
            return
        route = find(path)
        allowed = route.methods if route is not None else _READ_METHODS if operator.answers(path) else None
        if allowed is None:
            offence("unknown_path")
            await _refuse(scope, send, not_found(path), limits.origins)
        elif scope["method"] not in allowed:
            offence("wrong_method")
            refusal = wrong_method(scope["method"], allowed)
            await _refuse(scope, send, refusal, limits.origins, allow=allowed)
        elif route is not None:
            await gateway.answer(route, scope, receive, send)
        else:
            await operator.answer(scope, receive, send)

    return app


async def _preflight(scope: Scope, send: Send, origins: tuple[str, ...]) -> None:
    origin = allowed_origin(scope, origins)
    if origin is None:
        await reply(send, 403, json.dumps({"error": {"message": "Not from this origin."}}).encode("ascii"))
    else:
        await reply(send, 204, b"", preflight_headers(scope, origin))


async def _refuse(
    scope: Scope, send: Send, refusal: Refusal, origins: tuple[str, ...], *, allow: Iterable[str] = ()
) -> None:
    dialect: Dialect = dialect_of(scope["raw_path"].decode("latin-1"))
    headers = [
        (b"content-type", b"application/json"),
        (b"x-request-id", request_id(scope).encode("ascii")),
        *response_headers(allowed_origin(scope, origins)),
    ]
    if allow:
        headers.append((b"allow", ", ".join(sorted(allow)).encode("ascii")))
    await reply(send, refusal.status, envelope(dialect, refusal), headers)
