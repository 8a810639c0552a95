"""The way of one prompt through the API: read, identified, answered by a replica, its answer passed on untouched.

Knows no server and no engine: ASGI on one side, `Replica` on the other. The client's leaving is watched beside the
work, in the queue, in prefill and mid-stream alike, and ends the work by leaving the answer's context. The answer's
head goes out with the first bytes of its body: an engine that dies in prefill is still told of with a proper status.

What is true of the answer's path is in its headers (`x-metainf-…`). `overhead-ms` is the time that this node
itself took: from the request's last byte until the replica was asked, and from the answer's head until it was sent
on; the wait for a turn is not in it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import structlog
import trio

from node.core.endpoints import Dialect, Route
from node.core.peek import peek
from node.core.prompt import Prompt
from node.core.quota import Exceeded, Quotas
from node.core.usage import UsageMeter
from node.errors import Broken, Refusal, Refused
from node.http.asgi import HeaderList, Receive, Scope, Send, reply
from node.http.auth import Caller, KeyRing
from node.http.config import HttpLimits, NodeIdentity
from node.http.cors import allowed_origin, response_headers
from node.http.errors import envelope, no_answer, retry_header, stream_error
from node.http.intake import ClientGone, Offence, forbidden, read_body, request_id, travelling, via
from node.http.metrics import HttpMetrics
from node.http.sse import EventHolder
from node.ports import Answer, EngineBoard, Replica, ServedAnswer

EVENT_STREAM = b"text/event-stream"
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
        self._log = structlog.get_logger("http")

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
                await self._attend(course, prompt, receive, send)
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
        )

    async def _attend(self, course: _Course, prompt: Prompt, receive: Receive, send: Send) -> None:
        """Have the prompt answered while its client is there."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_until_gone, receive, nursery.cancel_scope)
            with self._quota(course) as exceeded:
                if exceeded is not None:
                    self._offence("quota")
                    await self._refuse(course, _over(exceeded), send)
                else:
                    await self._ask(course, prompt, send)
            nursery.cancel_scope.cancel()

    @contextmanager
    def _quota(self, course: _Course) -> Iterator[Exceeded | None]:
        assert course.caller is not None  # noqa: S101  # taken in
        requester = course.caller.requester
        exceeded = self._quotas.take(requester, course.caller.limits, self._clock())
        try:
            yield exceeded
        finally:
            if exceeded is None:
                # Abandoned answers cost what they had cost until then.
                self._quotas.give_back(requester, tokens=course.meter.tokens() if course.meter else 0)

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
        course.streamed = _is_event_stream(answer)
        holder = EventHolder() if course.streamed else None
        tail = b""
        while True:
            try:
                data = await answer.receive()
            except Broken as broken:
                if holder is None or not course.status or holder.torn:
                    raise  # nothing was sent, or the truncation itself must tell: no end is sent
                await self._end_broken(course, broken, tail, send)
                return
            ready = _ready(holder, data)
            if not course.status and (ready or not data):
                await self._begin(course, answer, head_at, send)
            if ready or not data:
                tail = ready or tail
                await self._forward(course, ready, send, more=bool(data))
            if not data:
                course.outcome = "answered"
                return

    async def _forward(self, course: _Course, data: bytes, send: Send, *, more: bool) -> None:
        await send({"type": "http.response.body", "body": data, "more_body": more})
        if course.streamed and data and not course.sent:
            self._metrics.first_byte(endpoint=course.route.name, seconds=self._clock() - course.arrived)
        course.sent += len(data)
        if course.meter is not None:
            course.meter.feed(data)

    async def _end_broken(self, course: _Course, broken: Broken, tail: bytes, send: Send) -> None:
        course.outcome = "broken"
        event = stream_error(course.dialect, broken.message, before=tail)
        await send({"type": "http.response.body", "body": event, "more_body": False})

    async def _begin(self, course: _Course, answer: ServedAnswer, head_at: float, send: Send) -> None:
        now = self._clock()
        overhead = (course.asked - course.read) + (now - head_at)
        headers = [(name, value) for name, value in answer.headers if name not in _NOT_PASSED]
        headers += self._own_headers(course)
        headers += self._path_headers(answer, overhead)
        course.status = answer.status
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})

    def _own_headers(self, course: _Course) -> HeaderList:
        return [(b"x-request-id", course.request_id.encode("ascii")), *response_headers(course.origin)]

    def _path_headers(self, answer: ServedAnswer, overhead: float) -> HeaderList:
        served = answer.served
        headers = [
            (b"x-metainf-attempts", b"%d" % served.attempts),
            (b"x-metainf-overhead-ms", b"%.3f" % (overhead * 1000)),
            (b"x-metainf-route-reason", served.reason.encode("ascii")),
        ]
        if served.model is not None:
            headers.append((b"x-metainf-model", _header_text(served.model)))
        if self._limits.show_node:
            headers.append((b"x-metainf-node", _header_text(served.node)))
            if served.strategy is not None:
                headers.append((b"x-metainf-strategy", _header_text(served.strategy)))
        return headers

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
        tell = self._log.warning if course.outcome == "broken" else self._log.info
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


def _is_event_stream(answer: Answer) -> bool:
    return any(name == b"content-type" and value.lower().startswith(EVENT_STREAM) for name, value in answer.headers)


def _ready(holder: EventHolder | None, data: bytes) -> bytes:
    """Choose what of an answer's bytes can be passed on now; `data` is empty at the end."""
    if holder is None:
        return data
    return holder.feed(data) if data else holder.rest()


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
