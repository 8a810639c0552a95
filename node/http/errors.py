"""Errors in the words of the API that a client speaks: as a body before anything was sent, as an event in a stream.

Knows no request. The envelopes are OpenAI's and Anthropic's; `type` and `code` are what their SDKs switch on.
"""

import json
import re
from collections.abc import Iterable
from http import HTTPStatus

from node.core.endpoints import Dialect
from node.core.engine_state import EngineSnapshot
from node.errors import Refusal

_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}
_SEQUENCE = re.compile(rb'"sequence_number":\s*(\d{1,15})')
LOADING = "model_loading"


def envelope(dialect: Dialect, refusal: Refusal, *, loading: EngineSnapshot | None = None) -> bytes:
    """Write a refusal as a body. `loading` adds what the engine is doing, where the refusal is about that."""
    if dialect is Dialect.MESSAGES:
        error: dict[str, object] = {"type": _anthropic_type(refusal), "message": refusal.message}
        whole: dict[str, object] = {"type": "error", "error": error}
    else:
        error = {
            "message": refusal.message,
            "type": refusal.type,
            "param": refusal.param,
            "code": refusal.status if refusal.as_engine else refusal.code,
        }
        whole = {"error": error}
    if loading is not None and refusal.type == LOADING:
        error["loading"] = {"state": loading.state.value, "progress": loading.progress or loading.reason}
    return json.dumps(whole).encode("ascii")


def retry_header(refusal: Refusal) -> list[tuple[bytes, bytes]]:
    """Write Retry-After, where asking again can help."""
    return [] if refusal.retry_after is None else [(b"retry-after", b"%d" % refusal.retry_after)]


def stream_error(dialect: Dialect, message: str, *, before: bytes) -> bytes:
    """Write the event that ends a broken stream.

    Args:
        before: the last bytes that were sent: Responses events are numbered, and this one is the next.
    """
    if dialect is Dialect.MESSAGES:
        event = {"type": "error", "error": {"type": "api_error", "message": message}}
        return b"event: error\ndata: " + json.dumps(event).encode("ascii") + b"\n\n"
    if dialect is Dialect.RESPONSES:
        numbers = _SEQUENCE.findall(before)
        number = int(numbers[-1]) + 1 if numbers else 0
        event = {
            "type": "error",
            "code": "server_error",
            "message": message,
            "param": None,
            "sequence_number": number,
        }
        return b"event: error\ndata: " + json.dumps(event).encode("ascii") + b"\n\n"
    error = {"message": message, "type": "server_error", "param": None, "code": "engine_lost"}
    return b"data: " + json.dumps({"error": error}).encode("ascii") + b"\n\n"


def _anthropic_type(refusal: Refusal) -> str:
    return _ANTHROPIC_TYPES.get(refusal.status, "api_error")


def invalid(message: str, *, status: int = HTTPStatus.BAD_REQUEST, code: str | None = None) -> Refusal:
    """Refuse what the client could have known to be wrong."""
    return Refusal(status=status, type="invalid_request_error", code=code, message=message)


def not_found(path: str) -> Refusal:
    """Refuse a path that is none of this API's. Long ones are cut: they are the client's, and come back to it."""
    return invalid(f"There is nothing at {path[:200]} here.", status=HTTPStatus.NOT_FOUND, code="not_found")


def wrong_method(method: str, allowed: Iterable[str]) -> Refusal:
    """Refuse a method; the caller sends Allow."""
    wanted = " or ".join(sorted(allowed))
    return invalid(f"{method} is not possible here; use {wanted}.", status=HTTPStatus.METHOD_NOT_ALLOWED)


def too_large(limit: int) -> Refusal:
    """Refuse a body by its size."""
    return invalid(
        f"The request's body exceeds {limit} bytes.",
        status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        code="request_too_large",
    )


def no_answer(message: str) -> Refusal:
    """Tell that the engine broke off before a byte of its answer had been sent on."""
    return Refusal(status=HTTPStatus.BAD_GATEWAY, type="server_error", code="engine_lost", message=message)
