"""A peer's prompt in the node's terms, and what is answered to it in the wire's terms.

Knows no stream and no engine. What the wire's rules would refuse is cut or left out here, so that an odd engine or a
long message cannot make this node say what its peers must hold against it.
"""

import re

from node.core.peek import peek
from node.core.prompt import Headers, Prompt, Requester
from node.errors import Refusal
from protocol import headers, limits
from protocol.inference_events import Ask, Head, Refuse

# Said here, whatever an engine says of them.
_OURS = frozenset({b"x-metainf-model", b"x-metainf-strategy", b"x-request-id"})
_MESSAGE_CHARS = limits.MESSAGE_BYTES // 4  # as many fit in any script
_CODE = re.compile(rf"[A-Za-z0-9_.:/\[\]-]{{0,{limits.CODE_CHARS}}}")
_STATUS = range(200, 600)


def prompt_of(ask: Ask, body: bytes, requester: Requester, *, now: float, longest: float) -> Prompt:
    """Return the prompt that a peer sent; of use for as long as it says, at most `longest` seconds from `now`."""
    seen = peek(body)
    seconds = longest if ask.time_left_us is None else min(ask.time_left_us / limits.SECOND_US, longest)
    own_id = (b"x-request-id", ask.request_id.encode("ascii"))
    return Prompt(
        request_id=ask.request_id,
        method=ask.method,
        target=ask.target,
        headers=(*headers.travelling(ask.headers, headers.REQUEST - _OURS), own_id),
        body=body,
        model=seen.model,
        stream=seen.stream,
        requester=requester,
        deadline=now + seconds,
    )


def head_of(status: int, given: Headers, *, request_id: str, model: str | None, strategy: str | None) -> Head | None:
    """Return the head that says an engine's `status` and headers, and who it is; None for a status that is none."""
    if status not in _STATUS:
        return None
    own = {b"x-metainf-model": model, b"x-metainf-strategy": strategy, b"x-request-id": request_id}
    ours = tuple((name, _header_text(text)) for name, text in own.items() if text is not None)
    kept = headers.travelling(given, headers.ANSWER - _OURS)
    return Head(status=status, headers=headers.travelling((*ours, *kept), headers.ANSWER))


def refuse_of(refusal: Refusal) -> Refuse:
    """Return what tells a peer of a refusal."""
    retry = refusal.retry_after
    return Refuse(
        status=refusal.status,
        type=_code(refusal.type) or "",
        message=message_of(refusal.message),
        code=_code(refusal.code),
        param=_code(refusal.param),
        retry_after=None if retry is None else min(max(retry, 0), limits.RETRY_AFTER_MAX_S),
    )


def message_of(text: str) -> str:
    """Return as much of a text for a person as a message holds."""
    return text[:_MESSAGE_CHARS].encode("utf-8", "replace").decode()


def _code(text: str | int | None) -> str | None:
    return str(text) if text is not None and _CODE.fullmatch(str(text)) else None


def _header_text(text: str) -> bytes:
    return text.encode("ascii", "backslashreplace")  # a model's name may be in any script


def _invalid(status: int, code: str, message: str) -> Refusal:
    return Refusal(status=status, type="invalid_request_error", code=code, message=message)


NOT_FOUND = _invalid(404, "not_found", "There is nothing of that method and path here.")
LATE = _invalid(408, "timeout", "The request's body did not come in time.")
NOT_GREETED = Refusal(
    status=403,
    type="permission_denied",
    code="not_greeted",
    message="This node answers peers that have greeted it.",
    retry_after=1,
)


def too_large(limit: int) -> Refusal:
    """Refuse a body by its size, in bytes."""
    return _invalid(413, "request_too_large", f"The request's body exceeds {limit} bytes.")
