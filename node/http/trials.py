"""The control socket's page of trials: asked for with JSON, answered with JSON Lines while they go on.

Knows no trial: what is asked and what is told are handed through. The last line has the report or says what was wrong;
a client that leaves breaks the trials off.
"""

import json
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

import trio

from node.core.endpoints import Dialect
from node.errors import NodeError, Refusal
from node.http.asgi import Receive, Scope, Send, reply
from node.http.errors import envelope
from node.http.intake import ClientGone, read_body

Trials = Callable[[object, Callable[[Mapping[str, Any]], None]], Awaitable[Mapping[str, Any]]]

BODY_BYTES = 64 * 1024  # a request has some hundred
LINES = 1024  # that wait for a client that reads slowly; beyond, lines are left out, but never the last
JSON = (b"content-type", b"application/json")
JSON_LINES = (b"content-type", b"application/jsonl")


class TrialsPage:
    """An ASGI application. An instance and no function, because a `Route` hands functions something else."""

    def __init__(self, trials: Trials | None) -> None:
        """Prepare. `trials` runs what is asked for, tells on its way and returns the report; None where none can be."""
        self._trials = trials

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        try:
            body = await read_body(scope, receive, BODY_BYTES)
        except ClientGone:
            return
        asked = body if isinstance(body, Refusal) else _json(body)
        if isinstance(asked, Refusal):
            await reply(send, asked.status, envelope(Dialect.OPENAI, asked), [JSON])
            return
        await send({"type": "http.response.start", "status": 200, "headers": [JSON_LINES]})
        lines, heard = trio.open_memory_channel[Mapping[str, Any]](LINES)

        def tell(line: Mapping[str, Any]) -> None:
            with suppress(trio.WouldBlock):  # progress is for whoever watches
                lines.send_nowait(line)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(_until_gone, receive, nursery.cancel_scope)
            nursery.start_soon(_pass_on, heard, send, nursery.cancel_scope)
            async with lines:
                await lines.send(await self._run(asked, tell))

    async def _run(self, asked: object, tell: Callable[[Mapping[str, Any]], None]) -> Mapping[str, Any]:
        """Return the last line."""
        if self._trials is None:
            remedy = "trials want one: `metainf up --model ...`"
            return {"event": "error", "message": "this node runs no engine of its own", "remedy": remedy}
        try:
            return {"event": "report", "report": await self._trials(asked, tell)}
        except NodeError as error:
            return {"event": "error", "message": error.message, "remedy": error.remedy}


def _json(body: bytes) -> object:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return Refusal(status=400, type="invalid_request_error", message="The body is no JSON.")


async def _until_gone(receive: Receive, work: trio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    work.cancel()


async def _pass_on(lines: trio.MemoryReceiveChannel[Mapping[str, Any]], send: Send, work: trio.CancelScope) -> None:
    async for line in lines:
        await send({"type": "http.response.body", "body": json.dumps(line).encode() + b"\n", "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})
    work.cancel()
