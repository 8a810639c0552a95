"""A node with a real vLLM of its own: disconnects, the death of either, and what clients are told.

One engine serves all of these, in this order: the last ones end it.
"""

import http.client
import json
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from urllib.parse import urlsplit

import openai
import psutil
import pytest

from tests.e2e.children import eventually, tails
from tests.e2e.daemon import NODE_KEY, Daemon, key_section, running_node
from tests.e2e.engine import KEY as ENGINE_KEY
from tests.e2e.engine import MODEL_NAME, START_S, Engine, gauge
from tests.e2e.tiny_model import CONTEXT, tiny_model

pytestmark = [pytest.mark.slow, pytest.mark.engine]

STEP_TOKENS = 512  # of a prefill's step; small, so that a long prefill has many
CONFIG = f"""
[engine]
served_name = "{MODEL_NAME}"
max_model_len = {CONTEXT}
kv_cache_bytes = {256 << 20}
[engine.strategy]
max_num_batched_tokens = {STEP_TOKENS}
"""
STREAMS = 8
LONG_ANSWER = 1900  # tokens: seconds at this engine's pace
LONG_PREFILL = 64  # prompts of 1,900 tokens in one request: 240 steps, some seconds
TOLD_WITHIN_S = 2.0  # from the engine's death to the error at the client
GONE_WITHIN_S = 5.0  # from the daemon's death to that of its last engine process
ASK_S = 60.0


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A node whose engine is its own child."""
    folder = tmp_path_factory.mktemp("own")
    began = time.monotonic()
    with running_node(folder, "--model", str(tiny_model()), config=CONFIG) as daemon:
        api = time.monotonic() - began
        daemon.wait_for_engine(within=START_S)
        print(f"\nAPI after {api:.1f} s, engine ready after {time.monotonic() - began:.1f} s")
        yield daemon


def client_of(daemon: Daemon, key: str = "none") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{daemon.url}/v1", api_key=key, max_retries=0, timeout=ASK_S)


def ask(daemon: Daemon, *, prompt: str | list[int] = "Hello", tokens: int = 4) -> str:
    with client_of(daemon) as client:
        answer = client.completions.create(model=MODEL_NAME, prompt=prompt, max_tokens=tokens, temperature=0)
    return answer.choices[0].text


@contextmanager
def posted(daemon: Daemon, body: dict[str, object]) -> Iterator[http.client.HTTPConnection]:
    """Send a completion's request and nothing more; leaving hangs up."""
    connection = http.client.HTTPConnection(urlsplit(daemon.url).netloc, timeout=ASK_S)
    try:
        connection.request(
            "POST",
            "/v1/completions",
            json.dumps({"model": MODEL_NAME, "ignore_eos": True, **body}),
            {"content-type": "application/json"},
        )
        yield connection
    finally:
        connection.close()


def busy(daemon: Daemon) -> float:
    """Requests that the engine runs or holds, by its own metrics as the node passes them on."""
    page = daemon.metrics()
    assert "vllm:num_requests_running" in page, "the engine's metrics are not on the node's page"
    return gauge(page, "vllm:num_requests_running") + gauge(page, "vllm:num_requests_waiting")


def wait_until_busy(daemon: Daemon, requests: int) -> None:
    eventually(lambda: busy(daemon) >= requests, within=ASK_S, what="a busy engine", children=[daemon.child])


def seconds_until_idle(daemon: Daemon, *, within: float) -> float:
    began = time.monotonic()
    eventually(lambda: busy(daemon) == 0, within=within, what="an idle engine", children=[daemon.child])
    return time.monotonic() - began


def one_step(daemon: Daemon) -> float:
    """Seconds of a full prefill step: a prompt that fills it and that no cache knows."""
    prompt = [100 + (7 * position + int(time.monotonic_ns())) % 3000 for position in range(STEP_TOKENS - 1)]
    began = time.monotonic()
    ask(daemon, prompt=prompt, tokens=1)
    return time.monotonic() - began


def test_the_first_answer_comes_and_the_status_says_ready(own: Daemon) -> None:
    assert ask(own)
    status = own.status()
    assert status["engine"]["state"] == "ready"
    assert status["engine"]["model"] == MODEL_NAME
    assert busy(own) == 0


def test_a_disconnect_in_prefill_ends_the_work(own: Daemon) -> None:
    step = one_step(own)
    prompts = [[100 + (row * 31 + column) % 3000 for column in range(1900)] for row in range(LONG_PREFILL)]
    with posted(own, {"prompt": prompts, "max_tokens": 1}):
        wait_until_busy(own, LONG_PREFILL // 2)
        # Nothing has been answered: the work hangs on the connection alone.
    idle = seconds_until_idle(own, within=max(1.0, step) + step)
    print(f"\nprefill: idle {idle:.2f} s after the disconnect; one step takes {step:.2f} s")
    assert idle <= max(1.0, step)
    assert ask(own)


def test_disconnects_in_mid_stream_end_the_work(own: Daemon) -> None:
    step = one_step(own)
    with ThreadPoolExecutor(max_workers=STREAMS) as pool:
        list(pool.map(lambda number: _hang_up_after_the_first_event(own, number), range(STREAMS)))
    idle = seconds_until_idle(own, within=max(1.0, step) + step)
    print(f"\nmid-stream: idle {idle:.2f} s after {STREAMS} disconnects; one step takes {step:.2f} s")
    assert idle <= max(1.0, step)
    assert ask(own)


def _hang_up_after_the_first_event(daemon: Daemon, number: int) -> None:
    with posted(daemon, {"prompt": f"Story {number}", "max_tokens": LONG_ANSWER, "stream": True}) as connection:
        answer = connection.getresponse()
        assert answer.status == 200
        assert answer.readline().startswith(b"data: ")


def test_sigkill_of_the_engine_under_8_streams_is_told_at_once_and_mended(own: Daemon) -> None:
    with ThreadPoolExecutor(max_workers=STREAMS) as pool:
        streams = [pool.submit(_stream_until_it_fails, own, number) for number in range(STREAMS)]
        wait_until_busy(own, STREAMS)
        killed = time.monotonic()
        _engine_server(own).kill()
        told = [_ended(stream) for stream in streams]
    print(f"\nclients were told {max(at for at, _ in told) - killed:.2f} s after the engine's death: {told[0][1]}")
    assert max(at for at, _ in told) - killed <= TOLD_WITHIN_S, tails(own.child)
    eventually(lambda: _told_to_come_back(own), within=TOLD_WITHIN_S, what="503 with `retry-after`")
    own.wait_for_engine(within=START_S, starts=2)
    print(f"the engine was ready again {time.monotonic() - killed:.1f} s after its death")
    assert ask(own)
    after = own.events("engine_state")
    died = [event["reason"] for event in after if event["state"] == "backoff"]
    assert len(died) == 1
    assert "9" in died[0], f"the reason does not name the signal: {died[0]}"
    assert own.status()["engine"]["restarts"] == 1


def _told_to_come_back(daemon: Daemon) -> bool:
    """Whether a client is sent away with a time to come back at, not with an error that looks final."""
    with pytest.raises(openai.APIStatusError) as refused:
        ask(daemon)
    return refused.value.status_code == 503 and int(refused.value.response.headers["retry-after"]) >= 1


def _engine_server(daemon: Daemon) -> psutil.Process:
    """The vLLM process that the node started: the topmost of those that carry its module's name."""
    below = psutil.Process(daemon.child.pid).children(recursive=True)
    servers = [process for process in below if "vllm.entrypoints.openai.api_server" in process.cmdline()[:4]]
    assert servers, [process.cmdline() for process in below]
    return servers[0]


def _stream_until_it_fails(daemon: Daemon, number: int) -> tuple[float, str]:
    """Stream a long answer; return when the client's program caught an error, and its words."""
    with client_of(daemon) as client:
        chunks = client.completions.create(
            model=MODEL_NAME,
            prompt=f"Story {number}",
            max_tokens=LONG_ANSWER,
            stream=True,
            extra_body={"ignore_eos": True},
        )
        try:
            for _ in chunks:
                pass
        except openai.APIError as error:
            return time.monotonic(), f"{type(error).__name__}: {error.message}"
    raise AssertionError("the stream ended as if nothing had happened")


def _ended(stream: Future[tuple[float, str]]) -> tuple[float, str]:
    return stream.result(timeout=ASK_S)


def test_sigkill_of_the_daemon_leaves_no_engine_process(own: Daemon) -> None:
    below = psutil.Process(own.child.pid).children(recursive=True)
    assert any("vllm" in " ".join(process.cmdline()) for process in below)
    own.signal(signal.SIGKILL)
    killed = time.monotonic()
    eventually(_all_gone(below), within=GONE_WITHIN_S, what="the end of every engine process")
    print(f"\nnothing of {len(below)} processes was left {time.monotonic() - killed:.2f} s after the daemon's death")


def _all_gone(processes: list[psutil.Process]) -> Callable[[], bool]:
    # `is_running` compares the start time too: a process id that was given away again does not count.
    return lambda: not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes)


def test_sigterm_lets_a_running_stream_finish(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The engine is the suite's own here: what is shown is the node's part."""
    config = f'[engine]\nurl_key = "{ENGINE_KEY}"\n{key_section("suite", NODE_KEY)}'
    folder = tmp_path_factory.mktemp("draining")
    tokens = 600
    with running_node(folder, "--engine-url", engine.entry.url, config=config) as daemon:
        daemon.wait_for_engine(within=ASK_S)
        with client_of(daemon, NODE_KEY) as client:
            chunks = client.completions.create(
                model=MODEL_NAME,
                prompt="Hello",
                max_tokens=tokens,
                stream=True,
                extra_body={"ignore_eos": True, "stream_options": {"include_usage": True}},
            )
            next(iter(chunks))
            daemon.signal(signal.SIGTERM)
            usage = [chunk.usage.completion_tokens for chunk in chunks if chunk.usage]
        assert usage == [tokens]
        assert daemon.child.wait(within=ASK_S) == 0
    assert engine.child.running(), "the node ended an engine that was not its own"
