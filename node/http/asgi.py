"""The shape of ASGI as types, and a few words in it. Knows no server and no endpoint."""

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
HeaderList = list[tuple[bytes, bytes]]


async def reply(send: Send, status: int, body: bytes, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
    """Send a whole answer, its length declared."""
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [*headers, (b"content-length", b"%d" % len(body))],
        }
    )
    await send({"type": "http.response.body", "body": body})


def header(scope: Scope, name: bytes) -> bytes | None:
    """Return the value of a request's header, the last one where it is repeated; None without it."""
    found = None
    for key, value in scope["headers"]:
        if key == name:
            found = value
    return found


def is_local(scope: Scope) -> bool:
    """Tell whether the request comes from this machine: over loopback, or over a unix socket."""
    client = scope.get("client")
    return client is None or client[0] == "::1" or client[0].startswith(("127.", "::ffff:127."))
