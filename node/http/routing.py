"""The control socket's pages of decisions: why a prompt went where it went, and how the last ones went.

Knows no router: accounts of decisions are kept elsewhere, and made into words here when somebody asks. What
`metainf status --json` tells of routing is put together here as well (`routing_facts`).
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Protocol
from urllib.parse import unquote

import trio
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from node.core.experience import Experience
from node.core.explanation import Account, explain

PATH: Final = "/explain"
LISTED, MOST_LISTED = 20, 200  # accounts of one list: as asked for by default, and at most; each takes some 40 µs
NO_SWARM: Final = "this node is in no swarm: its own engine answers every prompt, and there is nothing to choose"
SWARM_REMEDY: Final = "let it be one of a swarm: p2p.enabled = true, and `metainf up --join ADDRESS`"


class AccountBook(Protocol):
    """The last decisions, by request id; bounded."""

    def __len__(self) -> int: ...

    @property
    def forgotten(self) -> int:
        """How many accounts were given up for room since the node came up."""
        ...

    @property
    def decisions(self) -> Mapping[str, int]:
        """How many prompts were decided about since then, by the reason of their first choice."""
        ...

    def get(self, request_id: str) -> Account | None:
        """Return what is known of a prompt; None where it is not, or no longer."""
        ...

    def last(self, most: int) -> Sequence[Account]:
        """Return at most so many accounts, the latest first."""
        ...


def routing_routes(accounts: AccountBook | None, *, clock: Callable[[], float] = trio.current_time) -> list[Route]:
    """Return the pages. Without accounts (a node by itself) they say so. `clock`: the one that accounts are kept by."""

    async def get_list(request: Request) -> Response:
        if accounts is None:
            return _error(409, NO_SWARM, SWARM_REMEDY)
        most = _listed(request.query_params.get("last"))
        if most is None:
            return _error(400, "`last` is a number of prompts", f"ask for 1 to {MOST_LISTED}: {PATH}?last={LISTED}")
        now = clock()
        kept = {"kept": len(accounts), "forgotten": accounts.forgotten}
        return JSONResponse(kept | {"prompts": [summary(each, now) for each in accounts.last(most)]})

    async def get_one(request: Request) -> Response:
        if accounts is None:
            return _error(409, NO_SWARM, SWARM_REMEDY)
        account = accounts.get(_id_of(request))
        if account is None:
            return _unknown(accounts)
        return JSONResponse(explain(account) | {"age_s": _rounded(clock() - account.asked_at)})

    return [_route(PATH, get_list), _route(PATH + "/{request_id:path}", get_one)]


def summary(account: Account, now: float) -> dict[str, Any]:
    """Return one line of the list: who answered, what was foretold of it, and what came. Seconds."""
    route = account.route
    forecast = route.forecast if route is not None else None
    last = account.last
    guess = forecast.guess(last.replica) if forecast is not None and last is not None else None
    refused = route.reason if route is not None and not account.attempts else ""
    return {
        "request_id": account.request_id,
        "age_s": _rounded(now - account.asked_at),
        "model": forecast.wanted.model if forecast is not None else None,
        "candidates": len(forecast.candidates) if forecast is not None else 0,
        "replica": str(last.replica) if last is not None else None,
        "reason": last.reason if last is not None else refused or None,
        "attempts": len(account.attempts),
        "outcome": last.outcome if last is not None else "refused" if refused else "deciding",
        "foretold": None
        if guess is None
        else {
            "ttft_s": _rounded(guess.first_byte),
            "tpot_s": _rounded(guess.token),
            "total_s": _rounded(guess.total),
        },
        "ttft_s": _rounded(last.ttft) if last is not None else None,
        "tpot_s": _rounded(last.tpot) if last is not None else None,
        "latency_s": _rounded(last.latency) if last is not None else None,
    }


def routing_facts(
    experience: Experience,
    accounts: AccountBook,
    *,
    resumed: int,
    hedged: int = 0,
    hedges_won: int = 0,
    clock: Callable[[], float] = trio.current_time,
) -> dict[str, Any]:
    """Return the block `routing` of `metainf status --json`.

    Args:
        resumed: prompts that somebody else went on with.
        hedged: those that somebody else was asked as well, because the first byte was late; and those answered there.
        clock: the one that answers are noted by; asked only while something has drifted.
    """
    facts = experience.facts()
    drifts = {
        name: {
            "factor": _rounded(drift.factor),
            "coverage_90": _rounded(drift.coverage),
            "for_s": _rounded(clock() - drift.since),
            "remedy": drift.remedy,
        }
        for name, each in (("ttft", experience.ttft), ("tpot", experience.tpot))
        if (drift := each.drift()) is not None
    }
    return facts | {
        "drifted": list(drifts),
        "drift": drifts,
        "decisions": dict(accounts.decisions),
        "resumed": resumed,
        "hedged": hedged,
        "hedges_won": hedges_won,
        "kept": len(accounts),
    }


def _route(path: str, answer: Callable[[Request], Awaitable[Response]]) -> Route:
    return Route(path, answer, methods=["GET"])


def _listed(asked: str | None) -> int | None:
    """Return how many are asked for; None where that is no number, or too large a one."""
    if asked is None:
        return LISTED
    if not (asked.isascii() and asked.isdigit()) or len(asked) > len(str(MOST_LISTED)):
        return None
    return int(asked) if 1 <= int(asked) <= MOST_LISTED else None


def _id_of(request: Request) -> str:
    """Return the id that a path names. Some servers decode `path` and some do not; `raw_path` never is."""
    raw: bytes | None = request.scope.get("raw_path")
    if raw is None:
        return str(request.path_params["request_id"])
    return unquote(raw.decode("latin-1")[len(PATH) + 1 :], encoding="latin-1")


def _unknown(accounts: AccountBook) -> Response:
    if accounts.forgotten:
        why = f"it never came here, or too long ago: the last {len(accounts)} are kept, {accounts.forgotten} forgotten"
    else:
        why = f"it never came here: all {len(accounts)} since the node came up are known"
    remedy = "its id is in `x-request-id` of its answer; `metainf explain --last 20` lists the latest"
    return _error(404, f"nothing is known of that prompt; {why}", remedy)


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else float(f"{seconds:.4g}")


def _error(status: int, message: str, remedy: str) -> Response:
    """Write an error in the envelope of the other pages, with what to do about it."""
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": None, "remedy": remedy}
    return JSONResponse({"error": error}, status_code=status)
