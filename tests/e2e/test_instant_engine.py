"""A node before an engine that answers at once and numbers its events: nothing lost, nothing late, and limits kept."""

import asyncio
import time
from collections.abc import Iterator

import httpx2
import openai
import pytest

from tests.benchmarks.fronts import instant_engine
from tests.benchmarks.instant_engine import MODEL
from tests.benchmarks.load import Work, load
from tests.e2e.daemon import Daemon, key_section, running_node

pytestmark = pytest.mark.slow

STREAMS = 64
TOKENS = 100
GAP_MS = 5.0  # between events: a stream lasts half a second
ENGINE_SEEN_S = 30.0
TIMEOUT_S = 30.0
OPEN_KEY, NARROW_KEY = "key-without-limits", "key-with-two-requests-a-minute"
NARROW = 2


@pytest.fixture(scope="module")
def engine_url() -> Iterator[str]:
    with instant_engine(GAP_MS) as (port, _):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def daemon(engine_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    config = key_section("open", OPEN_KEY) + key_section("narrow", NARROW_KEY, requests_per_minute=NARROW)
    with running_node(tmp_path_factory.mktemp("node"), "--engine-url", engine_url, config=config) as running:
        running.wait_for_engine(within=ENGINE_SEEN_S)
        yield running


def streamed(url: str, key: str) -> tuple[bytes, float, float]:
    """Ask for a stream; return its body, and the seconds to its first and its last byte."""
    body = {"model": MODEL, "messages": [], "stream": True, "max_tokens": TOKENS}
    began = time.perf_counter()
    parts: list[bytes] = []
    first = 0.0
    with httpx2.stream(
        "POST", f"{url}/v1/chat/completions", json=body, headers={"authorization": f"Bearer {key}"}, timeout=TIMEOUT_S
    ) as answer:
        for part in answer.iter_raw():
            first = first or time.perf_counter() - began
            parts.append(part)
    return b"".join(parts), first, time.perf_counter() - began


def test_64_concurrent_streams_complete_in_order(daemon: Daemon) -> None:
    # `load` fails at an event that is lost, doubled or out of its place, and at an answer that is not 200.
    work = Work(url=daemon.url, model=MODEL, tokens=TOKENS, concurrency=STREAMS, seconds=1.0, api_key=OPEN_KEY)
    samples = asyncio.run(load(work))
    assert len(samples.whole) >= STREAMS
    assert samples.events == TOKENS * len(samples.whole)


def test_a_stream_passes_byte_for_byte(engine_url: str, daemon: Daemon) -> None:
    at_the_engine, _, _ = streamed(engine_url, OPEN_KEY)
    through_the_node, _, _ = streamed(daemon.url, OPEN_KEY)
    assert through_the_node == at_the_engine


def test_the_first_event_is_not_held_back(daemon: Daemon) -> None:
    _, first, last = streamed(daemon.url, OPEN_KEY)
    assert first < last / 2, f"first byte after {first:.3f} s of {last:.3f} s"


def test_a_key_over_its_limit_is_told_when_to_come_back(daemon: Daemon) -> None:
    with client_of(daemon, NARROW_KEY) as client:
        for _ in range(NARROW):
            client.chat.completions.create(model=MODEL, messages=[])
        with pytest.raises(openai.RateLimitError) as caught:
            client.chat.completions.create(model=MODEL, messages=[])
    assert 1 <= int(caught.value.response.headers["retry-after"]) <= 60
    assert caught.value.body is not None
    with client_of(daemon, OPEN_KEY) as others:
        assert others.chat.completions.create(model=MODEL, messages=[]).choices


def client_of(daemon: Daemon, key: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{daemon.url}/v1", api_key=key, max_retries=0, timeout=TIMEOUT_S)


def test_the_counters_agree_with_what_was_asked(daemon: Daemon) -> None:
    requests = daemon.status()["requests"]
    assert requests["running"] == 0
    assert requests["served"] >= STREAMS
