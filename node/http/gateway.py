"""The way of one prompt through the API: read, identified, answered by a replica, its answer passed on untouched.

Knows no server and no engine: ASGI on one side, `Replica` on the other. The client's leaving ends the work, in the
queue, in prefill and mid-stream alike, by leaving the answer's context: by the server, where it cancels whoever asks
for it, else by a task that waits in `receive`. The answer's head goes out with the first bytes of its body: an engine
that dies in prefill is still told of with a proper status.

What is true of the answer's path is in its headers (`x-metainf-…`). `overhead-ms` is the time that this node
itself took: from the request's last byte until the replica was asked, and from the answer's head until it was sent
on; the wait for a turn is not in it.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import structlog
import trio

from node.core.endpoints import Dialect, Route
from node.core.peek import peek
from node.core.prompt import Headers, Prompt
from node.core.quota import UNLIMITED, Exceeded, Quotas
from node.core.sse_events import EventHolder, is_event_stream
from node.core.usage import UsageMeter
from node.errors import Broken, Refusal, Refused
from node.http.asgi import HeaderList, Receive, Scope, Send, cancels_when_gone, header, reply
from node.http.auth import Caller, KeyRing
from node.http.config import HttpLimits, NodeIdentity
from node.http.cors import allowed_origin, response_headers
from node.http.errors import envelope, no_answer, retry_header, stream_error
from node.http.intake import SESSION, ClientGone, Offence, forbidden, read_body, request_id, travelling, via
from node.http.metrics import HttpMetrics
from node.ports import EngineBoard, Replica, Served, ServedAnswer

LISTING = frozenset({"/v1/models", "/v1/models/{id}"})
# Of this hop, or written here in their place; what an engine may believe of itself stays its own business.
_NOT_PASSED = frozenset({b"server", b"date", b"x-request-id", b"connection", b"keep-alive", b"transfer-encoding"})
_JSON = (b"content-type", b"application/json")


@dataclass(slots=True)
class _Course:
    """What is noted of one request on its way."""

    request_id: str
    route: Route
    arrived: float
    origin: bytes | None
    read: float = 0.0
    asked: float = 0.0
    status: int = 0
    streamed: bool = False
    sent: int = 0  # bytes of the body
    caller: Caller | None = None
    model: str | None = None
    outcome: str = "abandoned"
    meter: UsageMeter | None = field(default=None, repr=False)

    @property
    def dialect(self) -> Dialect:
        return self.route.dialect


class Gateway:
    """Answers requests to the engine's endpoints."""

    def __init__(  # noqa: PLR0913  # the capabilities of a service, each by itself
        self,
        *,
        replica: Replica,
        models: Replica,
        board: EngineBoard,
        identity: NodeIdentity,
        keys: KeyRing,
        metrics: HttpMetrics,
        offence: Offence,
        limits: HttpLimits,
        clock: Callable[[], float],
    ) -> None:
        self._replica = replica
        self._models = models  # answers what is asked of the list of models
        self._board = board
        self._identity = identity
        self._keys = keys
        self._metrics = metrics
        self._offence = offence
        self._limits = limits
        self._clock = clock
        self._quotas = Quotas()
        self._log: Any = None  # bound at the first request: by then it is known what is to be told

    async def answer(self, route: Route, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request whole, or until its client leaves."""
        course = _Course(
            request_id=request_id(scope),
            route=route,
            arrived=self._clock(),
            origin=allowed_origin(scope, self._limits.origins),
        )
        self._metrics.begin()
        try:
            prompt = await self._take_in(course, scope, receive, send)
            if prompt is not None:
                if cancels_when_gone(scope):
                    await self._attend(course, prompt, send)
                else:
                    await self._attend_watching(course, prompt, receive, send)
        except ClientGone:
            pass
        finally:
            seconds = self._clock() - course.arrived
            self._metrics.end(endpoint=route.name, status=course.status, seconds=seconds)
            self._report(course, seconds)

    async def _take_in(self, course: _Course, scope: Scope, receive: Receive, send: Send) -> Prompt | None:
        """Read the request; None when it has been refused, which was then told."""
        caller = self._keys.identify(scope)
        if isinstance(caller, Refusal):
            self._offence("unauthorized")
            await self._refuse(course, caller, send)
            return None
        course.caller = caller
        body = await read_body(scope, receive, self._limits.body_bytes)
        if isinstance(body, Refusal):
            self._offence("body_too_large")
            await self._refuse(course, body, send)
            return None
        course.read = self._clock()
        refusal = await forbidden(
            body,
            course.dialect,
            allow_remote_media=self._limits.allow_remote_media,
            offence=self._offence,
        )
        if refusal is not None:
            await self._refuse(course, refusal, send)
            return None
        only = via(scope)
        if isinstance(only, Refusal):
            await self._refuse(course, only, send)
            return None
        seen = peek(body)
        course.model = seen.model
        if caller.limits.tokens_per_minute is not None:
            course.meter = UsageMeter(prompt_bytes=len(body), stream=seen.stream)
        query = scope["query_string"]
        return Prompt(
            request_id=course.request_id,
            method=scope["method"],
            target=(scope["raw_path"] + (b"?" + query if query else b"")).decode("ascii"),
            headers=travelling(scope, course.request_id),
            body=body,
            model=seen.model,
            stream=seen.stream,
            requester=caller.requester,
            deadline=course.arrived + self._limits.answer_seconds,
            via=only,
            session=header(scope, SESSION) or b"",
        )

    async def _attend_watching(self, course: _Course, prompt: Prompt, receive: Receive, send: Send) -> None:
        """Have the prompt answered while its client is there, of whose leaving only `receive` tells."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_until_gone, receive, nursery.cancel_scope)
            await self._attend(course, prompt, send)
            nursery.cancel_scope.cancel()

    async def _attend(self, course: _Course, prompt: Prompt, send: Send) -> None:
        """Have the prompt answered within its requester's quota. Cancelled when its client leaves."""
        caller = course.caller
        assert caller is not None  # noqa: S101  # taken in
        if caller.limits is UNLIMITED:
            await self._ask(course, prompt, send)
            return
        exceeded = self._quotas.take(caller.requester, caller.limits, self._clock())
        if exceeded is not None:
            self._offence("quota")
            await self._refuse(course, _over(exceeded), send)
            return
        try:
            await self._ask(course, prompt, send)
        finally:
            # Abandoned answers cost what they had cost until then.
            self._quotas.give_back(caller.requester, tokens=course.meter.tokens() if course.meter else 0)

    async def _ask(self, course: _Course, prompt: Prompt, send: Send) -> None:
        course.asked = self._clock()
        replica = self._models if course.route.name in LISTING else self._replica
        try:
            async with replica.answer(prompt) as answer:
                await self._pass_on(course, answer, send)
        except Refused as refused:
            await self._refuse(course, refused.refusal, send)
        except Broken as broken:
            course.outcome = "broken"
            if not course.status:
                await self._refuse(course, no_answer(broken.message), send)
        finally:
            self._metrics.attempt(course.outcome)

    async def _pass_on(self, course: _Course, answer: ServedAnswer, send: Send) -> None:
        head_at = self._clock()
        course.streamed = is_event_stream(answer.headers)
        holder = EventHolder() if course.streamed else None
        tail = data = b""
        while True:
            try:
                data = await answer.receive()
            except Broken as broken:
                if holder is None or not course.status or holder.torn:
                    raise  # nothing was sent, or the truncation itself must tell: no end is sent
                await self._end_broken(course, broken, tail, send)
                return
            ready = data
            if holder is not None:
                ready = holder.feed(data) if data else holder.rest()
            if data and not ready:
                continue  # an event that is not whole
            if not course.status:
                await self._begin(course, answer, head_at, send)
            tail = ready or tail
            await send({"type": "http.response.body", "body": ready, "more_body": data != b""})
            self._note_sent(course, ready)
            if not data:
                course.outcome = "answered"
                return

    def _note_sent(self, course: _Course, data: bytes) -> None:
        if not course.sent and data and course.streamed:
            self._metrics.first_byte(endpoint=course.route.name, seconds=self._clock() - course.arrived)
        course.sent += len(data)
        if course.meter is not None:
            course.meter.feed(data)

    async def _end_broken(self, course: _Course, broken: Broken, tail: bytes, send: Send) -> None:
        course.outcome = "broken"
        event = stream_error(course.dialect, broken.message, before=tail)
        await send({"type": "http.response.body", "body": event, "more_body": False})

    async def _begin(self, course: _Course, answer: ServedAnswer, head_at: float, send: Send) -> None:
        overhead = (course.asked - course.read) + (self._clock() - head_at)
        headers = [each for each in answer.headers if each[0] not in _NOT_PASSED]
        headers += self._own_headers(course)
        headers.append((b"x-metainf-overhead-ms", b"%.3f" % (overhead * 1000)))
        headers += _path_headers(answer.served, show_node=self._limits.show_node)
        course.status = answer.status
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})

    def _own_headers(self, course: _Course) -> HeaderList:
        return [(b"x-request-id", course.request_id.encode("ascii")), *response_headers(course.origin)]

    async def _refuse(self, course: _Course, refusal: Refusal, send: Send) -> None:
        course.status = refusal.status
        course.outcome = "refused" if course.outcome == "abandoned" else course.outcome
        body = envelope(course.dialect, refusal, loading=self._board.snapshot())
        headers = [_JSON, *self._own_headers(course), *retry_header(refusal)]
        if refusal.status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        await reply(send, refusal.status, body, headers)

    def _report(self, course: _Course, seconds: float) -> None:
        """Log what was answered or broke off. Refusals are in the metrics: a flood of them must not flood the log."""
        if course.outcome == "refused":
            return
        if self._log is None:
            self._log = structlog.get_logger("http").bind()
        broken = course.outcome == "broken"
        if not broken and not _tells_info(self._log):
            return
        tell = self._log.warning if broken else self._log.info
        tell(
            "http.request",
            request_id=course.request_id,
            endpoint=course.route.name,
            requester=course.caller.requester.name if course.caller else None,
            status=course.status,
            outcome=course.outcome,
            bytes=course.sent,
            seconds=round(seconds, 4),
        )


async def _until_gone(receive: Receive, work: trio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    work.cancel()


def _path_headers(served: Served, *, show_node: bool) -> Headers:
    headers = _who_served(
        served.attempts,
        served.reason,
        served.model,
        served.node if show_node else None,
        served.strategy if show_node else None,
    )
    if served.foretold is None:
        return headers
    first, total = served.foretold
    return (
        *headers,
        (b"x-metainf-predicted-ttft-ms", b"%.1f" % (first * 1000)),
        (b"x-metainf-predicted-total-ms", b"%.1f" % (total * 1000)),
    )


@lru_cache(maxsize=256)  # they differ by replica, not by prompt; peers choose some of the words, so few are kept
def _who_served(attempts: int, reason: str, model: str | None, node: str | None, strategy: str | None) -> Headers:
    headers = [(b"x-metainf-attempts", b"%d" % attempts), (b"x-metainf-route-reason", reason.encode("ascii"))]
    if model is not None:
        headers.append((b"x-metainf-model", _header_text(model)))
    if node is not None:
        headers.append((b"x-metainf-node", _header_text(node)))
        if strategy is not None:
            headers.append((b"x-metainf-strategy", _header_text(strategy)))
    return tuple(headers)


def _tells_info(log: Any) -> bool:  # noqa: ANN401 -- whatever structlog is configured to bind
    """Whether a line for an answered request would be kept: most nodes keep none, and to write it costs 100 µs."""
    asked = getattr(log, "isEnabledFor", None)
    return asked is None or bool(asked(logging.INFO))


def _header_text(text: str) -> bytes:
    """Write as a header's value what may be a model's name in any script."""
    return text.encode("ascii", "backslashreplace").replace(b"\r", b"").replace(b"\n", b"")


def _over(exceeded: Exceeded) -> Refusal:
    return Refusal(
        status=429,
        type="rate_limit_error",
        code="rate_limit_exceeded",
        message=f"This key's limit of {exceeded.limit} ({exceeded.what.value}) is reached.",
        retry_after=exceeded.retry_after,
    )
