"""The API as an ASGI application on a fake replica: what is let through, changed, refused, cancelled and told."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs
from trio.testing import MockClock, wait_all_tasks_blocked

from node.core.engine_state import EngineState
from node.core.quota import QuotaLimits
from node.errors import Broken, Refusal, Refused, unknown_model
from node.http.app import http_app
from node.http.asgi import CANCEL_WHEN_GONE, Message
from node.http.auth import ApiKey, KeyRing, hash_key
from node.http.config import HttpLimits, NodeIdentity
from node.http.metrics import HttpMetrics
from protocol.advert import ModelOffer
from tests.fakes.engine_board import FakeEngineBoard
from tests.fakes.replica import FakeReplica
from tests.fakes.upstream import EVENTS, JSON, Script

CHAT = "/v1/chat/completions"


class Stage:
    """An application with everything around it."""

    def __init__(
        self, script: Script | None = None, *, keys: KeyRing | None = None, limits: HttpLimits | None = None
    ) -> None:
        self.replica = FakeReplica(script)
        self.board = FakeEngineBoard()
        self.registry = CollectorRegistry()
        self.metrics = HttpMetrics(self.registry)
        self.exposition = b""
        self.offers: list[ModelOffer] = []
        self.serving = False
        self.app = http_app(
            replica=self.replica,
            board=self.board,
            engine_metrics=self.engine_metrics,
            identity=NodeIdentity(peer_id="peer", name="name", version="1.2.3"),
            keys=keys or KeyRing(),
            metrics=self.metrics,
            offence=self.metrics.offence,
            limits=limits,
            models=lambda: self.offers,
            serving=lambda: self.serving,
        )

    async def engine_metrics(self) -> bytes:
        return self.exposition

    def offences(self) -> dict[str, float]:
        return {
            sample.labels["kind"]: sample.value
            for metric in self.registry.collect()
            for sample in metric.samples
            if sample.name == "metainf_http_offences_total"
        }

    def call(self, method: str, target: str, body: bytes = b"", **headers: str) -> "Call":
        return Call(self, method, target, body, headers)

    async def post(self, target: str, body: bytes = b"{}", **headers: str) -> "Call":
        call = self.call("POST", target, body, **headers)
        await call.run()
        return call

    async def get(self, target: str, **headers: str) -> "Call":
        call = self.call("GET", target, b"", **headers)
        await call.run()
        return call


class Call:
    """One request, driven by hand."""

    def __init__(self, stage: Stage, method: str, target: str, body: bytes, headers: dict[str, str]) -> None:
        path, _, query = target.partition("?")
        pairs = {"host": "localhost", "content-length": str(len(body)), **headers}
        client = pairs.pop("client", "127.0.0.1")
        self.scope = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in pairs.items()],
            "client": (client, 1),
        }
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.pieces: list[bytes] = []
        self.complete = False
        self.gone = trio.Event()
        self.sent = trio.Event()
        self._body = [body]
        self._app = stage.app

    async def receive(self) -> Message:
        if self._body:
            return {"type": "http.request", "body": self._body.pop(), "more_body": False}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        await trio.lowlevel.checkpoint()
        if message["type"] == "http.response.start":
            assert not self.status
            self.status = message["status"]
            self.headers = dict(message["headers"])
            return
        assert self.status
        assert not self.complete
        if message["body"]:
            self.pieces.append(message["body"])
            self.sent.set()
        self.complete = not message.get("more_body", False)

    async def run(self) -> None:
        await self._app(self.scope, self.receive, self.send)

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    @property
    def error(self) -> dict[str, Any]:
        return json.loads(self.body)["error"]


async def test_a_prompt_reaches_the_replica_untouched_and_its_answer_the_client() -> None:
    headers = (*JSON, (b"x-engine", b"1"), (b"server", b"uvicorn"))
    stage = Stage(Script([b'{"choices": []}'], status=201, headers=headers))
    body = b'{ "model": "m",\n"stream": false, "unknown_field": [1.0, 1e400] }'
    call = await stage.post(
        CHAT + "?a=%20b",
        body,
        content_type="application/json",
        authorization="Bearer sk",
        cookie="secret",
        connection="close, x-hop",
        x_hop="1",
        x_forwarded_for="192.0.2.1",
        x_data_parallel_rank="3",
        x_metainf_node="forged",
        x_metainf_objective="latency",
        x_session_token="chat-1",  # noqa: S106 -- a name, no secret
        x_request_id="abc-1",
        traceparent="00-1-2-03",
    )
    assert (call.status, call.body, call.complete) == (201, b'{"choices": []}', True)
    prompt = stage.replica.prompts[0]
    assert (prompt.method, prompt.target, prompt.body) == ("POST", CHAT + "?a=%20b", body)
    assert (prompt.request_id, prompt.model, prompt.stream, prompt.session) == ("abc-1", "m", False, b"chat-1")
    assert dict(prompt.headers) == {
        b"content-type": b"application/json",
        b"x-metainf-objective": b"latency",
        b"x-request-id": b"abc-1",
        b"traceparent": b"00-1-2-03",
    }
    assert call.headers[b"x-engine"] == b"1"
    assert b"server" not in call.headers
    assert {name: value for name, value in call.headers.items() if name.startswith(b"x-metainf")} == {
        b"x-metainf-attempts": b"1",
        b"x-metainf-overhead-ms": call.headers[b"x-metainf-overhead-ms"],
        b"x-metainf-route-reason": b"local",
        b"x-metainf-model": b"m",
        b"x-metainf-node": b"node-under-test",
        b"x-metainf-strategy": b"default",
    }
    assert stage.offences() == {}


@pytest.mark.parametrize("given_id", ["", "a b", "a" * 129, "é", "a\x7f"])
async def test_an_unacceptable_request_id_is_replaced(given_id: str) -> None:
    call = await Stage().post(CHAT, x_request_id=given_id)
    assert len(call.headers[b"x-request-id"]) == 32


async def test_a_node_that_does_not_show_itself_names_neither_node_nor_strategy() -> None:
    call = await Stage(limits=HttpLimits(show_node=False)).post(CHAT)
    assert not {b"x-metainf-node", b"x-metainf-strategy"} & set(call.headers)


async def test_the_first_piece_goes_out_before_the_second_exists() -> None:
    go, going = trio.open_memory_channel[None](1)
    stage = Stage(Script([b"data: 1\n\n", going.receive, b"data: 2\n\n"], headers=EVENTS))
    call = stage.call("POST", CHAT, b'{"stream": true}')
    async with trio.open_nursery() as nursery:
        nursery.start_soon(call.run)
        await call.sent.wait()
        assert call.pieces == [b"data: 1\n\n"]
        await go.send(None)
    assert (call.body, call.complete) == (b"data: 1\n\ndata: 2\n\n", True)


PIECES = st.lists(
    st.binary(min_size=1, max_size=50) | st.sampled_from([b"\n\n", b"data: x\n\n", b"\r\n\r\n"]), max_size=8
)


@settings(deadline=None)
@given(pieces=PIECES, body=st.binary(max_size=200), events=st.booleans())
def test_any_bytes_pass_both_ways_unchanged(pieces: list[bytes], body: bytes, events: bool) -> None:
    async def main() -> None:
        stage = Stage(Script([*pieces], headers=EVENTS if events else JSON), limits=HttpLimits(allow_remote_media=True))
        call = await stage.post(CHAT, body)
        assert call.body == b"".join(pieces)
        assert call.complete
        assert stage.replica.prompts[0].body == body

    trio.run(main, clock=MockClock(autojump_threshold=0))


@pytest.mark.parametrize("place", ["prefill", "stream"])
@pytest.mark.parametrize("cancels", [True, False], ids=["a server that cancels", "any ASGI server"])
async def test_a_client_that_leaves_ends_the_work_upstream(place: str, cancels: bool) -> None:
    head: Callable[[], Awaitable[object]] | None = trio.sleep_forever if place == "prefill" else None
    stage = Stage(Script([b"data: 1\n\n", trio.sleep_forever], headers=EVENTS, head=head))
    call = stage.call("POST", CHAT)
    asked = trio.Event()
    if cancels:
        call.scope["extensions"] = {CANCEL_WHEN_GONE: asked.set}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(call.run)
        await wait_all_tasks_blocked()
        assert stage.replica.upstream.at_work == 1
        assert len(nursery.child_tasks) == 1
        assert asked.is_set() == cancels
        if cancels:
            nursery.cancel_scope.cancel()  # as the server does, and nothing else tells the application
        else:
            call.gone.set()
    assert (stage.replica.upstream.at_work, stage.replica.upstream.left_early) == (0, 1)
    assert stage.registry.get_sample_value("metainf_route_attempts_total", {"outcome": "abandoned"}) == 1
    assert stage.registry.get_sample_value("metainf_running_requests") == 0


@pytest.mark.parametrize(
    ("target", "start"),
    [(CHAT, b'data: {"error"'), ("/v1/completions", b'data: {"error"'), ("/v1/responses", b"event: error\ndata: "),
     ("/v1/messages", b"event: error\ndata: ")],
)  # fmt: skip
async def test_an_engine_that_dies_mid_stream_ends_it_with_an_error_event_and_nothing_torn(
    target: str, start: bytes
) -> None:
    stage = Stage(Script([b"data: 1\n\nda", b"ta: 2", Broken("the engine is gone")], headers=EVENTS))
    call = await stage.post(target)
    first, event = call.pieces
    assert first == b"data: 1\n\n"
    assert event.startswith(start)
    assert b"the engine is gone" in event
    assert event.endswith(b"\n\n")
    assert b"[DONE]" not in event
    assert call.complete


async def test_an_engine_that_dies_within_a_whole_answer_leaves_it_open() -> None:
    call = await Stage(Script([b'{"half', Broken("gone")])).post(CHAT)
    assert call.body == b'{"half'
    assert not call.complete


@pytest.mark.parametrize("script", [
    Script([], no_head=Broken("gone")), Script([Broken("gone")]), Script([Broken("gone")], headers=EVENTS),
    Script([b"data: to", Broken("gone")], headers=EVENTS),
])  # fmt: skip
async def test_an_engine_that_dies_before_its_first_byte_is_a_bad_gateway(script: Script) -> None:
    call = await Stage(script).post(CHAT)
    assert call.status == 502
    assert call.error["code"] == "engine_lost"
    assert call.complete


async def test_refusals_carry_their_envelope_and_when_to_come_back() -> None:
    stage = Stage()
    stage.board.show_state(EngineState.STARTING, progress="loading weights")
    refusal = Refusal(status=503, type="model_loading", message="soon", retry_after=5)
    stage.replica.refuse_with = Refused(refusal)
    call = await stage.post(CHAT)
    assert (call.status, call.headers[b"retry-after"]) == (503, b"5")
    assert call.error["loading"] == {"state": "starting", "progress": "loading weights"}
    call = await stage.post("/v1/messages")
    assert json.loads(call.body)["type"] == "error"


KEYS = KeyRing(
    [
        ApiKey(name="free", sha256=hash_key("free")),
        ApiKey(name="one", sha256=hash_key("one"), limits=QuotaLimits(requests_per_minute=1)),
        ApiKey(name="few", sha256=hash_key("few"), limits=QuotaLimits(tokens_per_minute=10)),
        ApiKey(name="alone", sha256=hash_key("alone"), limits=QuotaLimits(concurrent=1)),
    ]
)


async def test_without_a_key_nothing_reaches_the_replica() -> None:
    stage = Stage(keys=KEYS)
    for name, value in (("a", "b"), ("authorization", "Bearer wrong"), ("x_api_key", "wrong")):
        call = await stage.post(CHAT, b"{}", **{name: value})
        assert (call.status, call.headers[b"www-authenticate"]) == (401, b"Bearer")
        assert call.error["code"] == "invalid_api_key"
    assert stage.replica.prompts == []
    assert stage.offences() == {"unauthorized": 3}


async def test_a_keys_limits_are_its_own() -> None:
    stage = Stage(Script([b'{"usage": {"total_tokens": 11}}']), keys=KEYS)
    for key in ("one", "few"):
        assert (await stage.post(CHAT, authorization=f"Bearer {key}")).status == 200
        call = await stage.post(CHAT, authorization=f"Bearer {key}")
        assert (call.status, call.error["code"]) == (429, "rate_limit_exceeded")
        assert int(call.headers[b"retry-after"]) > 0
        assert (await stage.post(CHAT, authorization="Bearer free")).status == 200
    assert stage.offences() == {"quota": 2}


async def test_a_keys_place_is_free_again_when_its_client_has_left() -> None:
    stage = Stage(Script([b"{", trio.sleep_forever]), keys=KEYS)
    call = stage.call("POST", CHAT, b"{}", authorization="Bearer alone")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(call.run)
        await call.sent.wait()
        assert (await stage.post(CHAT, authorization="Bearer alone")).status == 429
        call.gone.set()
    stage.replica.upstream.answer_with = lambda _: Script([b"{}"])
    assert (await stage.post(CHAT, authorization="Bearer alone")).status == 200


async def test_bodies_beyond_the_limit_are_refused_declared_or_not() -> None:
    stage = Stage(limits=HttpLimits(body_bytes=10))
    assert (await stage.post(CHAT, b"x" * 10)).status == 200
    declared = await stage.post(CHAT, b"x" * 11)
    grown = await stage.post(CHAT, b"x" * 11, content_length="5")
    for call in (declared, grown):
        assert (call.status, call.error["code"]) == (413, "request_too_large")
    assert stage.offences() == {"body_too_large": 2}


async def test_remote_media_is_refused_unless_allowed() -> None:
    body = json.dumps({"messages": [{"content": [{"image_url": {"url": "http://192.0.2.1/"}}]}]}).encode()
    stage = Stage()
    for sent in (body, body.replace(b"image_url", b"im\\u0061ge_url"), body.decode().encode("utf-16")):
        assert (await stage.post(CHAT, sent)).status == 400
    assert stage.replica.prompts == []
    assert stage.offences() == {"remote_media": 2, "not_utf8": 1}
    assert (await Stage(limits=HttpLimits(allow_remote_media=True)).post(CHAT, body)).status == 200


async def test_what_is_malformed_is_the_engines_to_say() -> None:
    stage = Stage(Script([b'{"error": "from the engine"}'], status=400))
    for body in (b"{", b"", b"[" * 100_000, b"\xff", b'{"model": 3}'):
        call = await stage.post(CHAT, body)
        assert (call.status, call.body) == (400, b'{"error": "from the engine"}')
    assert len(stage.replica.prompts) == 5


@pytest.mark.parametrize(("method", "target", "allow"), [
    ("GET", CHAT, b"POST"), ("DELETE", "/v1/models", b"GET"), ("HEAD", "/v1/models", b"GET"),
    ("POST", "/health", b"GET, HEAD"), ("OPTIONS", CHAT, b"POST"),
])  # fmt: skip
async def test_wrong_methods_are_told_the_right_ones(method: str, target: str, allow: bytes) -> None:
    stage = Stage()
    call = stage.call(method, target)
    await call.run()
    assert (call.status, call.headers[b"allow"]) == (405, allow)
    assert stage.replica.prompts == []


async def test_unknown_paths_are_not_found_in_the_dialect_of_their_neighbourhood() -> None:
    stage = Stage()
    assert (await stage.get("/v1/load_lora_adapter")).error["code"] == "not_found"
    call = await stage.get("/v1/messages/none")
    assert call.status == 404
    assert call.error == {"type": "not_found_error", "message": call.error["message"]}
    assert stage.offences() == {"unknown_path": 2}


async def test_operators_pages_tell_the_state() -> None:
    stage = Stage()
    stage.exposition = b"# HELP vllm:x y\nvllm:x 1\nprocess_cpu_seconds_total 5\nhttp_requests_total 1\n"
    assert (await stage.get("/health")).status == 200
    assert (await stage.get("/health/ready")).status == 200
    assert json.loads((await stage.get("/version")).body)["version"] == "1.2.3"
    metrics = (await stage.get("/metrics")).body
    assert b"vllm:x 1\n" in metrics
    assert b"process_cpu" not in metrics
    assert b"metainf_running_requests 0.0" in metrics
    stage.board.show_state(EngineState.STARTING, progress="loading weights")
    call = await stage.get("/health/ready")
    assert (call.status, json.loads(call.body)["reason"]) == (503, "loading weights")
    assert call.headers[b"retry-after"]


async def test_metrics_are_for_this_machine_or_a_key() -> None:
    stage = Stage(keys=KEYS)
    assert (await stage.get("/metrics", client="192.0.2.1")).status == 401
    assert (await stage.get("/metrics", client="192.0.2.1", authorization="Bearer free")).status == 200
    assert (await stage.get("/metrics")).status == 200


async def test_web_pages_are_let_in_by_name_only() -> None:
    stage = Stage(limits=HttpLimits(origins=("https://chat.example",)))
    preflight = stage.call("OPTIONS", CHAT, origin="https://chat.example", access_control_request_method="POST")
    await preflight.run()
    assert preflight.status == 204
    assert preflight.headers[b"access-control-allow-origin"] == b"https://chat.example"
    call = await stage.post(CHAT, origin="https://chat.example")
    assert call.headers[b"access-control-allow-origin"] == b"https://chat.example"
    stranger = stage.call("OPTIONS", CHAT, origin="https://evil.example", access_control_request_method="POST")
    await stranger.run()
    assert stranger.status == 403
    assert b"access-control-allow-origin" not in (await Stage().post(CHAT, origin="https://chat.example")).headers


async def test_answers_are_logged_and_refusals_only_counted() -> None:
    stage = Stage()
    with capture_logs() as lines:
        await stage.post(CHAT)
        stage.replica.refuse_with = Refused(Refusal(status=503, type="model_loading", message="soon", retry_after=5))
        for _ in range(3):
            await stage.post(CHAT)
    assert [line["event"] for line in lines] == ["http.request"]
    refused = 'metainf_route_attempts_total{outcome="refused"} 3.0'
    assert refused in stage.metrics.render().decode()


async def test_a_client_may_name_the_node_and_nonsense_is_refused() -> None:
    stage = Stage()
    await stage.post(CHAT, x_metainf_via="12D3KooW-somebody")
    assert stage.replica.prompts[0].via == "12D3KooW-somebody"
    assert not any(name.startswith(b"x-metainf") for name, _ in stage.replica.prompts[0].headers)
    for nonsense in ("", "a b", "a" * 65, "é"):
        call = await stage.post(CHAT, x_metainf_via=nonsense)
        assert (call.status, call.error["code"]) == (400, "invalid_via")
    assert len(stage.replica.prompts) == 1


async def test_an_unknown_model_is_refused_as_the_engine_would() -> None:
    stage = Stage()
    message = "The model `x` does not exist. Valid aliases: y."
    stage.replica.refuse_with = Refused(unknown_model("x", ["y"]))
    call = await stage.post(CHAT)
    assert call.status == 404
    assert call.error == {"message": message, "type": "NotFoundError", "param": "model", "code": 404}


async def test_without_an_engine_the_node_is_ready_once_peers_answer() -> None:
    stage = Stage()
    stage.board.show_state(EngineState.OFF)
    call = await stage.get("/health/ready")
    assert call.status == 503
    stage.serving = True
    call = await stage.get("/health/ready")
    assert (call.status, json.loads(call.body)["engine"]) == (200, "off")
    stage.board.show_state(EngineState.STARTING)
    assert (await stage.get("/health/ready")).status == 503
