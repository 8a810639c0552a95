"""The shape of ASGI as types, and a few words in it. Knows no server and no endpoint.

Two keys of a scope are our own. `FIELDS` is made here, upon the first question for a header: the headers by name. The
extension `CANCEL_WHEN_GONE` is a server's offer to cancel the application where it stands once its client has left;
where there is none, the application has to wait in `receive` to hear of that.
"""

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, Final

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
HeaderList = list[tuple[bytes, bytes]]

FIELDS: Final = "metainf.fields"
CANCEL_WHEN_GONE: Final = "metainf.cancel_when_gone"


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
    fields: dict[bytes, bytes] | None = scope.get(FIELDS)
    if fields is None:
        fields = scope[FIELDS] = dict(scope["headers"])
    return fields.get(name)


def cancels_when_gone(scope: Scope) -> bool:
    """Have the application cancelled where it stands once its client has left; False where the server cannot do it."""
    cancel: Callable[[], None] | None = scope.get("extensions", {}).get(CANCEL_WHEN_GONE)
    if cancel is None:
        return False
    cancel()
    return True


def is_local(scope: Scope) -> bool:
    """Tell whether the request comes from this machine: over loopback, or over a unix socket."""
    client = scope.get("client")
    return client is None or client[0] == "::1" or client[0].startswith(("127.", "::ffff:127."))
