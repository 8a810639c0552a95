"""Which web pages' scripts may use the API, in the browser's protocol for asking (CORS).

Knows no keys; what may be asked is decided elsewhere. Off unless origins are named.
"""

from node.http.asgi import HeaderList, Scope, header

_METHODS = b"GET, POST, OPTIONS"
_EXPOSED = (
    b"x-request-id, retry-after, x-metainf-node, x-metainf-model, x-metainf-strategy, x-metainf-attempts, "
    b"x-metainf-overhead-ms, x-metainf-route-reason, x-metainf-predicted-ttft-ms, x-metainf-predicted-total-ms"
)
_PREFLIGHT_SECONDS = b"600"  # Chromium's ceiling is 7200; a changed setting should be felt sooner


def allowed_origin(scope: Scope, origins: tuple[str, ...]) -> bytes | None:
    """Return the origin to allow for a request: its own where it is named, "*" where all are; None otherwise."""
    origin = header(scope, b"origin")
    if origin is None or not origins:
        return None
    if "*" in origins:
        return b"*"
    return origin if origin.decode("latin-1") in origins else None


def response_headers(origin: bytes | None) -> HeaderList:
    """Write what lets a script read an answer."""
    if origin is None:
        return []
    return [
        (b"access-control-allow-origin", origin),
        (b"access-control-expose-headers", _EXPOSED),
        (b"vary", b"origin"),
    ]


def is_preflight(scope: Scope) -> bool:
    """Tell whether a browser asks before a request that a form could not have made."""
    return scope["method"] == "OPTIONS" and header(scope, b"access-control-request-method") is not None


def preflight_headers(scope: Scope, origin: bytes) -> HeaderList:
    """Write the permission; the headers asked for are all allowed, as the bearer key is what protects."""
    wanted = header(scope, b"access-control-request-headers") or b"authorization, content-type"
    return [
        *response_headers(origin),
        (b"access-control-allow-methods", _METHODS),
        (b"access-control-allow-headers", wanted),
        (b"access-control-max-age", _PREFLIGHT_SECONDS),
    ]
