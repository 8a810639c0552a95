"""The control socket's pages: status and commands for `metainf`'s other verbs, and the API as its owner.

A unix socket that only this user may open: whoever reaches it owns the node. Knows no socket itself.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Annotated, Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, Router

from node.core.endpoints import Dialect
from node.errors import Refusal, Unavailable
from node.http.account import account_routes
from node.http.asgi import App
from node.http.errors import envelope, invalid
from node.http.intake import ClientGone, read_body
from node.http.membership import CirclePower, membership_routes
from node.http.routing import AccountBook, routing_routes
from node.http.trials import Trials, TrialsPage
from node.http.tuner import OwnerPower, TunerPower, tuner_routes
from node.record_ports import Admitted
from protocol import limits

RECORDS_BYTES: Final = limits.MIB  # one request: 64 ordinary records in base64 are 180 KiB, of the largest 48
Admit = Callable[[Sequence[bytes]], Awaitable[Sequence[Admitted]]]


class _Records(msgspec.Struct):
    """The body of POST /records: sealed records, base64 each."""

    records: Annotated[list[bytes], msgspec.Meta(max_length=limits.BATCH_RECORDS)]


_records = msgspec.json.Decoder(_Records)


def control_app(  # noqa: PLR0913 -- each is one power over the node
    *,
    api: App,
    status: Callable[[], Mapping[str, Any]],
    peers: Callable[[], Mapping[str, Any]],
    stop: Callable[[str], None],
    restart_engine: Callable[[str], None],
    admit: Admit | None = None,
    trials: Trials | None = None,
    tuner: TunerPower | None = None,
    owner: OwnerPower | None = None,
    accounts: AccountBook | None = None,
    account: Callable[[], Mapping[str, Any]] | None = None,
    circle: CirclePower | None = None,
) -> App:
    """Return the application of the control socket.

    Args:
        api: answers every path that is not a command, on behalf of the node's owner.
        status: the document of `metainf status --json`.
        peers: the document of `metainf peers --json`.
        stop: asks the node to stop, with the reason.
        restart_engine: asks the engine to drain and start again, with the reason.
        admit: judges sealed records, at most `limits.BATCH_RECORDS`, and keeps the good ones; a verdict for each, in
            order. None on a node that keeps no history. May raise `Unavailable`.
        trials: runs the trials that the body asks for. None on a node without an engine of its own.
        tuner: what chooses the engine's strategy; likewise.
        owner: pauses the engine and lets it go on; likewise.
        accounts: of the last decisions. None on a node by itself.
        account: the document of `metainf account --json`; likewise.
        circle: who belongs to the swarm; likewise.
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
            Route("/trials", TrialsPage(trials), methods=["POST"]),
            Route("/records", _record_intake(admit), methods=["POST"]),
            *tuner_routes(tuner, owner),
            *routing_routes(accounts),
            *account_routes(account),
            *membership_routes(circle),
        ],
        default=api,
    )


def _record_intake(admit: Admit | None) -> Callable[[Request], Awaitable[Response]]:
    async def post_records(request: Request) -> Response:
        if admit is None:
            return _refuse(_unavailable("this node keeps no history"))
        try:
            body = await read_body(request.scope, request.receive, RECORDS_BYTES)
        except ClientGone:
            return Response(status_code=400)  # which nobody reads
        if isinstance(body, Refusal):
            return _refuse(body)
        try:
            sealed = _records.decode(body).records
        except (msgspec.DecodeError, RecursionError) as error:
            return _refuse(invalid(f'The body must be {{"records": [base64, ...]}}: {error}'))
        try:
            verdicts = await admit(sealed)
        except Unavailable as error:
            return _refuse(_unavailable(error.message))
        return JSONResponse({"verdicts": [_verdict(each) for each in verdicts]})

    return post_records


def _verdict(admitted: Admitted) -> dict[str, str | None]:
    name = admitted.name
    return {
        "standing": admitted.standing.value,
        "name": None if name is None else str(name),
        "reason": admitted.reason,
    }


def _unavailable(message: str) -> Refusal:
    return Refusal(status=503, type="server_error", code="history_unavailable", message=message)


def _refuse(refusal: Refusal) -> Response:
    return Response(envelope(Dialect.OPENAI, refusal), status_code=refusal.status, media_type="application/json")
