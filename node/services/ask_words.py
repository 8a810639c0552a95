"""A prompt and a refusal in the words of the inference exchange, and back.

Knows no stream and no peer: values in, values out.
"""

import re
import secrets
from urllib.parse import quote

from node.core.prompt import Prompt
from node.errors import Refusal, Refused
from protocol import headers, limits
from protocol.ids import ModelName
from protocol.inference_events import Ask, Refuse

LONGEST_RETRY = 60  # s of Retry-After that a peer may put a client off for
# What a peer may refuse with so that clients understand it right. Any other status would speak of their request or
# their key, which no peer can judge.
REFUSAL_STATUSES = frozenset({403, 404, 413, 429, 503})
_REQUEST_ID = re.compile(rf"[!-~]{{1,{limits.REQUEST_ID_CHARS}}}")
_TARGET_SAFE = "!$%&'()*+,-./:;=?@[]_~"  # what docs/protocol/inference.md lets a target hold besides letters and digits


def ask_of(prompt: Prompt, attempt: int) -> Ask:
    """Return what is said of a prompt, its body and its remaining time apart.

    Raises:
        Refused: it is larger than what may travel.
    """
    target = quote(prompt.target, safe=_TARGET_SAFE)
    if len(target) > limits.TARGET_CHARS:
        raise _too_large(414, f"Path and query exceed {limits.TARGET_CHARS} characters, which peers take at most.")
    if len(prompt.body) > limits.BODY_BYTES:
        raise _too_large(413, f"The request's body exceeds {limits.BODY_BYTES} bytes, which peers take at most.")
    known = _REQUEST_ID.fullmatch(prompt.request_id) is not None
    return Ask(
        request_id=prompt.request_id if known else secrets.token_hex(16),
        method=prompt.method,
        target=target,
        headers=headers.travelling(prompt.headers, headers.REQUEST),
        body_size=len(prompt.body),
        attempt=attempt,
    )


def _too_large(status: int, message: str) -> Refused:
    return Refused(Refusal(status=status, type="invalid_request_error", code="request_too_large", message=message))


def refusal_of(said: Refuse) -> Refusal:
    """Return a peer's refusal as a client may hear it from this node."""
    status = said.status if said.status in REFUSAL_STATUSES else 503
    # "model_loading" would be explained with the state of this node's own engine.
    kind = said.type if status == said.status and said.type != "model_loading" else "engine_unavailable"
    return Refusal(
        status=status,
        type=kind,
        code=said.code,
        param=said.param,
        message=said.message,
        retry_after=None if said.retry_after is None else min(said.retry_after, LONGEST_RETRY),
    )


def without_pin(body: bytes, wanted: ModelName) -> bytes:
    """Return the body with `name@digest` made `name`, which is what engines know the pinned content by.

    Nothing else of the body changes. Inside a JSON string quotes are escaped, so text of the prompt is never meant.
    """
    if wanted.pin is None:
        return body
    key = rb'("model"\s*:\s*"' + re.escape(wanted.name.encode("ascii")) + rb")@"
    return re.sub(key + re.escape(str(wanted.pin).encode("ascii")) + rb'(?=")', rb"\1", body)
