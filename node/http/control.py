"""The control socket's pages: status and commands for `metainf`'s other verbs, and the API as its owner.

A unix socket that only this user may open: whoever reaches it owns the node. Knows no socket itself.
"""

from collections.abc import Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route, Router

from node.http.asgi import App


def control_app(
    *,
    api: App,
    status: Callable[[], Mapping[str, Any]],
    peers: Callable[[], Mapping[str, Any]],
    stop: Callable[[str], None],
    restart_engine: Callable[[str], None],
) -> App:
    """Return the application of the control socket.

    Args:
        api: answers every path that is not a command, on behalf of the node's owner.
        status: the document of `metainf status --json`.
        peers: the document of `metainf peers --json`.
        stop: asks the node to stop, with the reason.
        restart_engine: asks the engine to drain and start again, with the reason.
    """

    async def get_status(_: Request) -> JSONResponse:
        return JSONResponse(dict(status()))

    async def get_peers(_: Request) -> JSONResponse:
        return JSONResponse(dict(peers()))

    async def post_stop(_: Request) -> JSONResponse:
        stop("asked for over the control socket")
        return JSONResponse({"stopping": True}, status_code=202)

    async def post_restart(_: Request) -> JSONResponse:
        restart_engine("asked for over the control socket")
        return JSONResponse({"restarting": True}, status_code=202)

    return Router(
        [
            Route("/status", get_status, methods=["GET"]),
            Route("/peers", get_peers, methods=["GET"]),
            Route("/stop", post_stop, methods=["POST"]),
            Route("/engine/restart", post_restart, methods=["POST"]),
        ],
        default=api,
    )
