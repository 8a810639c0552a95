"""Peeking, counting tokens, keys and envelopes: the small pure parts of the API."""

import json
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from node.core.endpoints import Dialect
from node.core.engine_state import EngineSnapshot, EngineState
from node.core.peek import NOTHING, Peek, peek
from node.core.prompt import OWNER
from node.core.quota import QuotaLimits
from node.core.usage import UsageMeter
from node.errors import Refusal
from node.http.auth import ApiKey, Caller, KeyRing, hash_key
from node.http.errors import envelope, stream_error
from node.http.history_metrics import HistoryMetrics
from node.record_ports import HistoryFacts

FACTS = HistoryFacts(records=1, authors=1, bytes=1, quarantined=0, rejected={})
LOADING = EngineSnapshot(
    state=EngineState.STARTING, since=0.0, model="m", strategy=None, reason="starts", progress="loading weights"
)


def test_model_and_stream_are_read_and_nothing_else_matters() -> None:
    assert peek(b'{"x": [1, {"y": null}], "model": "m", "stream": true}') == Peek(model="m", stream=True)
    assert peek(b'{"model": "a", "model": "b"}').model == json.loads('{"model": "a", "model": "b"}')["model"]


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b'"model"', b"\xff\xfe", b'{"model": 3, "stream": "yes"}', b"[" * 1_000_000,
     b'{"a":' * 1_000_000, b'{"model": "m", "x": NaN}'],
)  # fmt: skip
def test_what_cannot_be_read_says_nothing(body: bytes) -> None:
    assert peek(body) == NOTHING


@pytest.mark.parametrize(
    ("stream", "pieces", "tokens"),
    [
        (False, [b'{"choices": [], "usage": {"prompt_tokens": 5, "total_tokens": 12}}'], 12),
        (False, [b'{"usage": {"total_to', b'kens": 12}}'], 12),
        (False, [b'{"usage": {"input_tokens": 5, "output_tokens": 7}}'], 12),
        (True, [b"data: {}\n\n"] * 6 + [b'data: {"usage": {"total_tokens": 40}}\n\n', b"data: [DONE]\n\n"], 40),
        (True, [b"data: {}\n\n"] * 6, 6 + 10),
        (False, [b"x" * 400], 100 + 10),
        (False, [], 10),
    ],
)
def test_tokens_are_counted_from_usage_where_it_shows_and_else_estimated(
    stream: bool, pieces: list[bytes], tokens: int
) -> None:
    meter = UsageMeter(prompt_bytes=40, stream=stream)
    for piece in pieces:
        meter.feed(piece)
    assert meter.tokens() == tokens


def scope(*, client: tuple[str, int] | None = ("127.0.0.1", 5), **headers: str) -> dict[str, Any]:
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {"client": client, "headers": pairs}


def refused(result: Caller | Refusal) -> int:
    assert isinstance(result, Refusal)
    return result.status


@pytest.mark.parametrize("host", ["localhost", "localhost:8470", "127.0.0.1:8470", "[::1]:8470", "LOCALHOST:1"])
def test_without_keys_this_machine_is_the_owner(host: str) -> None:
    caller = KeyRing().identify(scope(host=host, authorization="Bearer sk-anything"))
    assert isinstance(caller, Caller)
    assert caller.requester == OWNER


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8470", ""])
def test_a_web_page_whose_name_resolves_to_this_machine_is_not_the_owner(host: str) -> None:
    assert refused(KeyRing().identify(scope(host=host))) == 403


def test_without_keys_nobody_from_elsewhere_is_let_in() -> None:
    assert refused(KeyRing().identify(scope(client=("192.0.2.1", 5), host="localhost"))) == 401


def test_keys_are_found_by_either_header_and_bring_their_limits() -> None:
    limits = QuotaLimits(requests_per_minute=3)
    ring = KeyRing([ApiKey(name="a", sha256=hash_key("one")), ApiKey(name="b", sha256=hash_key("two"), limits=limits)])
    for headers in ({"authorization": "bearer two"}, {"x_api_key": "two"}):
        caller = ring.identify(scope(client=("192.0.2.1", 5), **headers))
        assert isinstance(caller, Caller)
        assert (caller.requester.name, caller.limits) == ("b", limits)


@pytest.mark.parametrize(
    "headers",
    [{}, {"authorization": "Bearer three"}, {"authorization": "two"}, {"authorization": "Basic two"},
     {"authorization": "Bearer "}, {"x_api_key": ""}, {"authorization": "Basic x", "x_api_key": "two"}],
)  # fmt: skip
def test_with_keys_nothing_else_is_let_in_not_even_this_machine(headers: dict[str, str]) -> None:
    ring = KeyRing([ApiKey(name="b", sha256=hash_key("two"))])
    assert refused(ring.identify(scope(client=("127.0.0.1", 5), host="localhost", **headers))) == 401


def test_envelopes_are_what_each_api_expects() -> None:
    refusal = Refusal(status=503, type="model_loading", message="soon", retry_after=5)
    openai = json.loads(envelope(Dialect.OPENAI, refusal, loading=LOADING))
    assert openai["error"] == {
        "message": "soon",
        "type": "model_loading",
        "param": None,
        "code": None,
        "loading": {"state": "starting", "progress": "loading weights"},
    }
    anthropic = json.loads(envelope(Dialect.MESSAGES, refusal))
    assert anthropic == {"type": "error", "error": {"type": "overloaded_error", "message": "soon"}}


def test_stream_errors_are_events_of_each_dialect() -> None:
    chat = stream_error(Dialect.OPENAI, "gone\nnow", before=b"")
    assert json.loads(chat.removeprefix(b"data: "))["error"]["message"] == "gone\nnow"
    before = b'data: {"sequence_number":6}\n\ndata: {"sequence_number": 7}'
    responses = stream_error(Dialect.RESPONSES, "gone", before=before)
    assert json.loads(responses.partition(b"data: ")[2])["sequence_number"] == 8
    messages = stream_error(Dialect.MESSAGES, "gone", before=b"")
    assert messages.startswith(b"event: error\ndata: ")
    for event in (chat, responses, messages):
        assert event.endswith(b"\n\n")
        assert event.count(b"\n\n") == 1


@pytest.mark.parametrize(("state", "running", "complete"), [("idle", 0, 0), ("running", 1, 0), ("complete", 0, 1)])
def test_how_far_trials_are_is_scraped_where_any_are_made(state: str, running: int, complete: int) -> None:
    def scraped(trials: dict[str, Any]) -> str:
        registry = CollectorRegistry()
        HistoryMetrics(
            facts=lambda: FACTS, rejected=dict, among=None, trials=lambda: trials, traffic=None
        ).register(registry)  # fmt: skip
        return generate_latest(registry).decode()

    text = scraped({"state": state, "cells": 7, "of": 27})
    for line in ("cells 7.0", "cells_all 27.0", f"running {running}.0", f"complete {complete}.0"):
        assert f"\nmetainf_trials_{line}\n" in text
    assert "metainf_trials" not in scraped({"state": "off"})
