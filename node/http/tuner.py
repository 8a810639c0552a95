"""The control socket's pages of the tuner and of the owner's pause: what runs and why, and the owner's will.

Knows neither tuner nor engine: wishes are read, judged as far as their form goes, and handed on.
"""

import json
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Annotated, Any, Final, Protocol, TypeVar, cast

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from node.core.operator_limits import LONGEST_PAUSE
from node.core.strategy import InvalidStrategy, Strategy, from_plain
from node.core.strategy_names import parse_name
from node.errors import NodeError, Refusal
from node.http.intake import ClientGone, read_body

BODY_BYTES: Final = 64 * 1024  # a strategy has some hundred
EXAMPLE: Final = "name one as prefix:on+seqs:16, or default; `metainf strategy show` lists candidates"


class TunerPower(Protocol):
    """What chooses the engine's strategy, and can be overruled."""

    def facts(self) -> Mapping[str, Any]:
        """Return what runs, and why."""
        ...

    def history(self) -> Sequence[Mapping[str, Any]]:
        """Return every step that is kept, newest last."""
        ...

    def explain(self) -> Mapping[str, Any]:
        """Return the last decision in full."""
        ...

    def fix(self, strategy: Strategy) -> None:
        """Switch to it and stay there.

        Raises:
            NodeError: it cannot run here.
        """
        ...

    def release(self) -> None:
        """Decide by itself again."""
        ...


class OwnerPower(Protocol):
    """What stops the engine at its owner's wish, and lets it go on."""

    async def pause(self, *, for_s: float | None, now: bool) -> Mapping[str, Any]:
        """Stop it, for so long or until `resume`; return what is so now."""
        ...

    async def resume(self) -> Mapping[str, Any]:
        """Let it go on; return what is so now."""
        ...


class _Pause(msgspec.Struct, forbid_unknown_fields=True):
    """The body of POST /pause; empty is one without an end."""

    for_s: Annotated[float, msgspec.Meta(gt=0, le=LONGEST_PAUSE)] | None = None
    now: bool = False


_pause = msgspec.json.Decoder(_Pause)
Power = TypeVar("Power")
Page = Callable[[Request], Awaitable[Response]]


def tuner_routes(tuner: TunerPower | None, owner: OwnerPower | None) -> list[Route]:
    """Return the pages; without a tuner or an owner's power they say that there is none."""
    return [
        Route("/strategy", _page(tuner, _show), methods=["GET"]),
        Route("/strategy", _page(tuner, _fix), methods=["POST"]),
        Route("/strategy", _page(tuner, _release), methods=["DELETE"]),
        Route("/strategy/history", _page(tuner, _history), methods=["GET"]),
        Route("/strategy/explain", _page(tuner, _explain), methods=["GET"]),
        Route("/pause", _page(owner, _pause_engine), methods=["POST"]),
        Route("/resume", _page(owner, _resume), methods=["POST"]),
    ]


async def _show(_: Request, tuner: TunerPower) -> Response:
    return _json(tuner.facts())


async def _history(_: Request, tuner: TunerPower) -> Response:
    return _json({"history": [dict(entry) for entry in tuner.history()]})


async def _explain(_: Request, tuner: TunerPower) -> Response:
    return _json(tuner.explain())


async def _fix(request: Request, tuner: TunerPower) -> Response:
    body = await read_body(request.scope, request.receive, BODY_BYTES)
    if isinstance(body, Refusal):
        return _error(body.status, body.message)
    try:
        strategy = asked_strategy(body)
    except InvalidStrategy as error:
        return _error(400, f"no strategy: {error}", EXAMPLE)
    tuner.fix(strategy)
    return _json({**tuner.facts(), "wanted": strategy.name}, status=202)


async def _release(_: Request, tuner: TunerPower) -> Response:
    tuner.release()
    return _json(tuner.facts())


async def _pause_engine(request: Request, owner: OwnerPower) -> Response:
    body = await read_body(request.scope, request.receive, BODY_BYTES)
    if isinstance(body, Refusal):
        return _error(body.status, body.message)
    try:
        wish = _pause.decode(body or b"{}")
    except (msgspec.DecodeError, RecursionError) as error:
        return _error(400, f"no pause: {error}", 'send {"for_s": SECONDS, "now": true}, either may be left out')
    return _json(await owner.pause(for_s=wish.for_s, now=wish.now))


async def _resume(_: Request, owner: OwnerPower) -> Response:
    return _json(await owner.resume())


def asked_strategy(body: bytes) -> Strategy:
    """Read the body of POST /strategy: {"strategy": name or table}.

    Raises:
        InvalidStrategy: it is none.
    """
    try:
        asked: object = json.loads(body)
    except (ValueError, RecursionError):
        raise InvalidStrategy("the body is no JSON") from None
    wanted = cast("dict[str, object]", asked).get("strategy") if isinstance(asked, dict) else None
    if isinstance(wanted, str):
        return parse_name(wanted)
    if isinstance(wanted, dict):
        return from_plain(cast("dict[str, object]", wanted))
    raise InvalidStrategy('the body is {"strategy": NAME or TABLE}')


def _page(power: Power | None, answer: Callable[[Request, Power], Awaitable[Response]]) -> Page:
    """Return the page of a power, which may not be there, with its errors as JSON."""

    async def page(request: Request) -> Response:
        if power is None:
            return _error(409, "this node runs no engine of its own", "start one with `metainf up --model ...`")
        try:
            return await answer(request, power)
        except ClientGone:
            return Response(status_code=400)  # which nobody reads
        except NodeError as error:
            return _error(409, error.message, error.remedy)

    return page


def _json(document: Mapping[str, Any], *, status: int = 200) -> Response:
    return JSONResponse(_finite(document), status_code=status)


def _finite(value: object) -> object:
    """Return plain values for JSON, which has no word for what is not finite: a switch that never pays, say."""
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in cast("Mapping[str, object]", value).items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in cast("Sequence[object]", value)]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _error(status: int, message: str, remedy: str = "") -> Response:
    """Write an error in the envelope of the other pages, with what to do about it."""
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": None, "remedy": remedy}
    return JSONResponse({"error": error}, status_code=status)
