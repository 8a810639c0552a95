"""The control socket's pages of a private swarm: its members, and the administrator's revocations taken in.

Knows no certificate: who belongs to the swarm is asked of whoever knows.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Protocol

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from node.core.endpoints import Dialect
from node.errors import Refusal
from node.http.errors import envelope, invalid
from node.http.intake import ClientGone, read_body
from protocol import limits
from protocol.errors import RemoteProtocolError

BODY_BYTES: Final = 2 * limits.RECORD_BYTES  # a sealed list in base64, and its name
PUBLIC: Final = Refusal(
    status=409,
    type="invalid_request_error",
    code="public_swarm",
    message="This node is of the public swarm, which has no members. If it has joined a private one, restart it.",
)


class _Body(msgspec.Struct):
    """The body of POST /swarm/revocations: a sealed list, in base64."""

    revocations: Annotated[bytes, msgspec.Meta(min_length=1, max_length=limits.RECORD_BYTES)]


_body = msgspec.json.Decoder(_Body)


class CirclePower(Protocol):
    """Who belongs to this node's swarm."""

    def document(self) -> dict[str, Any] | None:
        """Return the document of `metainf swarm members --json`; None in the public swarm."""
        ...

    def facts(self) -> Mapping[str, Any] | None:
        """Return the part of `metainf status --json`; None in the public swarm."""
        ...

    def revoke(self, sealed: bytes) -> bool:
        """Go by a list of revocations; return whether it is news. Raises RemoteProtocolError."""
        ...


def membership_routes(circle: CirclePower | None) -> list[Route]:
    """Return GET /swarm and POST /swarm/revocations."""

    async def get_swarm(_: Request) -> Response:
        document = None if circle is None else circle.document()
        return _refuse(PUBLIC) if document is None else JSONResponse(document)

    async def post_revocations(request: Request) -> Response:
        if circle is None or circle.facts() is None:
            return _refuse(PUBLIC)
        try:
            body = await read_body(request.scope, request.receive, BODY_BYTES)
        except ClientGone:
            return Response(status_code=400)  # which nobody reads
        if isinstance(body, Refusal):
            return _refuse(body)
        try:
            sealed = _body.decode(body).revocations
        except (msgspec.DecodeError, RecursionError) as error:
            return _refuse(invalid(f'The body must be {{"revocations": base64}}: {error}'))
        try:
            news = circle.revoke(sealed)
        except RemoteProtocolError as error:
            return _refuse(invalid(f"This list of revocations does not count here: {error}"))
        return JSONResponse({"news": news})

    return [
        Route("/swarm", get_swarm, methods=["GET"]),
        Route("/swarm/revocations", post_revocations, methods=["POST"]),
    ]


def _refuse(refusal: Refusal) -> Response:
    return Response(envelope(Dialect.OPENAI, refusal), status_code=refusal.status, media_type="application/json")
