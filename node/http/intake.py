"""Reading a request for an engine: its body within bounds, its id, the headers that travel on, what it may not name.

Knows neither replicas nor answers. What is wrong with a prompt as such is the engine's to say; here is only what the
node must not let through.
"""

import secrets
from collections.abc import Callable

import trio

from node.core.endpoints import Dialect
from node.core.prompt import Headers
from node.errors import Refusal
from node.http.asgi import Receive, Scope, header
from node.http.errors import invalid, too_large
from node.http.media import TooIntricate, names_remote_media, not_utf8

# Bodies from here on are looked through in a thread: a loop that stands still for 10 ms is felt in every stream.
THREAD_BYTES = 256 * 1024
ID_LENGTH = 128
OBJECTIVE = b"x-metainf-objective"
# Of this hop, secret, about the client's connection, or the engine's own business (which rank of it is to serve).
_STAYS_HERE = frozenset(
    {
        b"accept-encoding", b"authorization", b"connection", b"content-length", b"cookie", b"expect", b"forwarded",
        b"host", b"keep-alive", b"origin", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection",
        b"referer", b"te", b"trailer", b"transfer-encoding", b"upgrade", b"via", b"x-api-key",
        b"x-data-parallel-rank", b"x-real-ip", b"x-request-id",
    }
)  # fmt: skip
_STAYS_HERE_PREFIXES = (b"x-forwarded-", b"sec-", b"access-control-")
_OURS = b"x-metainf-"

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
    if not_utf8(body):
        offence("not_utf8")
        return invalid("JSON is sent in UTF-8.")
    try:
        if len(body) < THREAD_BYTES:
            remote = names_remote_media(body)
        else:
            remote = await trio.to_thread.run_sync(names_remote_media, body)
    except TooIntricate:
        offence("intricate_body")
        return invalid("The request's JSON has more parts than any prompt needs.")
    if not remote:
        return None
    offence("remote_media")
    place = "source" if dialect is Dialect.MESSAGES else "url"
    return Refusal(
        status=400,
        type="invalid_request_error",
        code="remote_media_refused",
        param=place,
        message="This node fetches no media from elsewhere: send it inside the request, as a data: URL or in base64.",
    )


def request_id(scope: Scope) -> str:
    """Take the client's id where it is 1 to 128 visible ASCII characters, else mint one."""
    given = header(scope, b"x-request-id")
    if given is not None and 0 < len(given) <= ID_LENGTH and all(0x21 <= byte <= 0x7E for byte in given):
        return given.decode("ascii")
    return secrets.token_hex(16)


def travelling(scope: Scope, own_id: str) -> Headers:
    """Choose the headers that go on to a replica; the request's id is among them."""
    named = {token.strip().lower() for token in (header(scope, b"connection") or b"").split(b",")}
    kept = [(name, value) for name, value in scope["headers"] if name not in named and _travels(name)]
    return (*kept, (b"x-request-id", own_id.encode("ascii")))


def _travels(name: bytes) -> bool:
    if name.startswith(_OURS):
        return name == OBJECTIVE
    return name not in _STAYS_HERE and not name.startswith(_STAYS_HERE_PREFIXES)
