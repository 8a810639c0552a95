"""Reading a request for an engine: its body within bounds, its id, the headers that travel on, what it may not name.

Knows neither replicas nor answers. What is wrong with a prompt as such is the engine's to say; here is only what the
node must not let through.
"""

import re
import secrets
from collections.abc import Callable

import trio

from node.core.endpoints import Dialect
from node.core.media import THREAD_BYTES, screen
from node.core.prompt import Headers
from node.errors import Refusal
from node.http.asgi import Receive, Scope, header
from node.http.errors import invalid, too_large

ID_LENGTH = 128
OBJECTIVE = b"x-metainf-objective"
VIA = b"x-metainf-via"
SESSION = b"x-session-token"
VIA_LENGTH = 64  # a peer id has 52 characters
# Of this hop, secret, about the client's connection, or the engine's own business (which rank of it is to serve).
_STAYS_HERE = frozenset(
    {
        b"accept-encoding", b"authorization", b"connection", b"content-length", b"cookie", b"expect", b"forwarded",
        b"host", b"keep-alive", b"origin", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection",
        b"referer", b"te", b"trailer", b"transfer-encoding", b"upgrade", b"via", b"x-api-key",
        b"x-data-parallel-rank", b"x-real-ip", b"x-request-id", SESSION,
    }
)  # fmt: skip
# The last are ours: of them one travels.
_STAYS_HERE_PREFIXES = (b"x-forwarded-", b"sec-", b"access-control-", b"x-metainf-")

_VISIBLE = re.compile(rb"[!-~]+")

Offence = Callable[[str], None]


class ClientGone(Exception):
    """The client left before its request was whole."""


async def read_body(scope: Scope, receive: Receive, limit: int) -> bytes | Refusal:
    """Read a request's body whole; the time that it may take is the server's to bound.

    Raises:
        ClientGone: it is not coming.
    """
    declared = header(scope, b"content-length")
    if declared is not None and int(declared) > limit:
        return too_large(limit)
    pieces: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        pieces.append(message.get("body", b""))
        size += len(pieces[-1])
        if size > limit:
            return too_large(limit)
        if not message.get("more_body", False):
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)


async def forbidden(body: bytes, dialect: Dialect, *, allow_remote_media: bool, offence: Offence) -> Refusal | None:
    """Say why a body must not reach an engine; None where it may."""
    if allow_remote_media or not body:
        return None
    large = len(body) >= THREAD_BYTES
    found = await trio.to_thread.run_sync(screen, body, dialect) if large else screen(body, dialect)
    if found is None:
        return None
    offence(found.offence)
    return found.refusal


def request_id(scope: Scope) -> str:
    """Take the client's id where it is 1 to 128 visible ASCII characters, else mint one."""
    given = header(scope, b"x-request-id")
    if given is not None and len(given) <= ID_LENGTH and _VISIBLE.fullmatch(given):
        return given.decode("ascii")
    return secrets.token_hex(16)


def via(scope: Scope) -> str | Refusal | None:
    """Return the node that alone may answer, as the client names it; None where it names none."""
    given = header(scope, VIA)
    if given is None:
        return None
    if len(given) > VIA_LENGTH or not _VISIBLE.fullmatch(given):
        return invalid(f"x-metainf-via is a peer id: 1 to {VIA_LENGTH} visible characters.", code="invalid_via")
    return given.decode("ascii")


def travelling(scope: Scope, own_id: str) -> Headers:
    """Choose the headers that go on to a replica; the request's id is among them."""
    named = header(scope, b"connection")
    kept = [
        each
        for each in scope["headers"]
        if each[0] not in _STAYS_HERE and (not each[0].startswith(_STAYS_HERE_PREFIXES) or each[0] == OBJECTIVE)
    ]
    if named is not None:
        hop = {token.strip().lower() for token in named.split(b",")}
        kept = [each for each in kept if each[0] not in hop]
    kept.append((b"x-request-id", own_id.encode("ascii")))
    return tuple(kept)
