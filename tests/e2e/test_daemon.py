"""The whole daemon as a process, over the stub engine: its life, its exit codes, and each misbehaviour of an engine.

Real sockets, real processes, the real command line; only the engine is a stand-in, so each of these takes seconds.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest

from tests.e2e.children import Child, eventually, started
from tests.e2e.daemon import CHECKOUT, Daemon, environment, key_section, node_over_stub, running_node
from tests.fakes.stub_launch import MODEL, STUB

pytestmark = pytest.mark.slow

ENGINE_S = 30.0  # for the stub to be ready: it takes a tenth of a second on a quiet machine
END_S = 20.0  # for a node to end


def client_of(daemon: Daemon, key: str = "none") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{daemon.url}/v1", api_key=key, max_retries=0, timeout=30.0)


def ask(daemon: Daemon, *, tokens: int = 4, key: str = "none") -> str:
    with client_of(daemon, key) as client:
        return client.completions.create(model=MODEL, prompt="a b", max_tokens=tokens).choices[0].text


def engine_processes(daemon: Daemon) -> list[int]:
    """Every process that the node has under it."""
    return [child.pid for child in psutil.Process(daemon.child.pid).children(recursive=True)]


def alive(pids: list[int]) -> list[int]:
    return [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]


def names(daemon: Daemon) -> list[str]:
    return [json.loads(line)["event"] for line in daemon.child.stdout.read_text().splitlines()]


# --- life


def test_a_node_starts_answers_and_stops_leaving_nothing(tmp_path: Path) -> None:
    with node_over_stub(tmp_path, "--name", "attic") as daemon:
        daemon.wait_for_engine(within=ENGINE_S)
        assert ask(daemon) == "t0 t1 t2 t3 "
        status = daemon.status()
        assert status["name"] == "attic"
        assert status["engine"]["state"] == "ready"
        assert status["engine"]["model"] == MODEL
        assert status["requests"]["served"] == 1
        assert {"peer_id", "swarm", "version", "uptime_s", "peers", "records", "learner"} <= status.keys()
        children = engine_processes(daemon)
        assert children
        daemon.signal(signal.SIGTERM)
        assert daemon.child.wait(within=END_S) == 0
        assert alive(children) == []
        assert names(daemon)[0] == "starting"
        assert names(daemon)[-1] == "stopped"
        assert names(daemon).index("ready") < names(daemon).index("stopping")


def test_ctrl_c_is_exit_code_130(tmp_path: Path) -> None:
    with node_over_stub(tmp_path) as daemon:
        daemon.signal(signal.SIGINT)
        assert daemon.child.wait(within=END_S) == 130


def test_a_second_start_has_the_same_identity(tmp_path: Path) -> None:
    peer_ids = []
    for _ in range(2):
        with node_over_stub(tmp_path, "--no-engine") as daemon:
            peer_ids.append(daemon.events("ready")[0]["peer_id"])
    assert peer_ids[0] == peer_ids[1]


def test_stopping_lets_a_running_answer_finish(tmp_path: Path) -> None:
    with node_over_stub(tmp_path, token_delay=0.05) as daemon:
        daemon.wait_for_engine(within=ENGINE_S)
        with client_of(daemon) as client:
            chunks = iter(client.completions.create(model=MODEL, prompt="a", max_tokens=40, stream=True))
            next(chunks)
            daemon.signal(signal.SIGTERM)
            text = "".join(chunk.choices[0].text for chunk in chunks if chunk.choices)
        assert text.endswith("t39 ")
        assert daemon.child.wait(within=END_S) == 0


def test_a_second_signal_stops_at_once(tmp_path: Path) -> None:
    with node_over_stub(tmp_path, token_delay=0.2, ignore_sigterm=True) as daemon:
        daemon.wait_for_engine(within=ENGINE_S)
        with (
            client_of(daemon) as client,
            client.completions.create(model=MODEL, prompt="a", max_tokens=1000, stream=True) as stream,
        ):
            next(iter(stream))
            children = engine_processes(daemon)
            daemon.signal(signal.SIGTERM)
            eventually(lambda: "stopping" in names(daemon), within=5, what="stopping", children=[daemon.child])
            daemon.signal(signal.SIGTERM)
            assert daemon.child.wait(within=5) == 0
        assert alive(children) == []


def test_after_sigkill_of_the_daemon_no_engine_process_is_left_after_5_s(tmp_path: Path) -> None:
    with node_over_stub(tmp_path, ignore_sigterm=True, grandchild=True) as daemon:
        daemon.wait_for_engine(within=ENGINE_S)
        children = engine_processes(daemon)
        assert len(children) >= 3  # the guardian, the engine, its grandchild
        daemon.signal(signal.SIGKILL)
        eventually(lambda: not alive(children), within=5, what="the end of every engine process")


def test_the_control_socket_stops_the_node_and_restarts_the_engine(tmp_path: Path) -> None:
    with node_over_stub(tmp_path) as daemon:
        daemon.wait_for_engine(within=ENGINE_S)
        assert _control(daemon, "POST", "/engine/restart") == 202
        daemon.wait_for_engine(within=ENGINE_S, starts=2)
        assert ask(daemon) == "t0 t1 t2 t3 "
        assert _control(daemon, "POST", "/stop") == 202
        assert daemon.child.wait(within=END_S) == 0


def _control(daemon: Daemon, method: str, path: str) -> int:
    code = (
        "import sys, os; from pathlib import Path\n"
        "from node.cli import control_client; from node.places import places\n"
        "where = places(os.environ, uid=os.getuid(), data_dir=Path(sys.argv[1]))\n"
        "with control_client.request(where.control_socket, sys.argv[2], sys.argv[3]) as answer: print(answer.status)"
    )
    command = [sys.executable, "-c", code, str(daemon.data), method, path]
    done = subprocess.run(
        command, cwd=CHECKOUT, env=environment(), capture_output=True, text=True, timeout=30, check=True
    )
    return int(done.stdout)


# --- refusals to start


def refused_start(folder: Path, *options: str, config: str = "") -> tuple[int, str]:
    file = folder / "refused.toml"
    file.write_text(f"version = 1\n{config}")
    command = [sys.executable, "-m", "node", "up", "--yes", "--no-engine", "--config", str(file), *options]
    with started("refused", command, folder=folder, environment=environment(), cwd=CHECKOUT) as child:
        return child.wait(within=END_S), child.log.read_text()


def test_a_taken_port_is_exit_code_69_and_names_who_has_it(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, said = refused_start(tmp_path, "--http", f"127.0.0.1:{port}", "--data-dir", str(tmp_path / "d"))
    assert code == 69
    assert str(os.getpid()) in said
    assert "do:" in said


def test_beyond_loopback_without_a_key_is_exit_code_78_with_the_fix(tmp_path: Path) -> None:
    code, said = refused_start(tmp_path, "--http", "0.0.0.0:0", "--data-dir", str(tmp_path / "d"))
    assert code == 78
    assert "metainf api-key add" in said


def test_a_key_that_everybody_knows_is_refused(tmp_path: Path) -> None:
    code, said = refused_start(
        tmp_path, "--http", "0.0.0.0:0", "--data-dir", str(tmp_path / "d"), config=key_section("me", "changeme")
    )
    assert code == 78
    assert "everybody knows" in said


def test_a_second_node_on_one_data_folder_is_exit_code_69(tmp_path: Path) -> None:
    with node_over_stub(tmp_path, "--no-engine") as daemon:
        code, said = refused_start(tmp_path, "--http", "127.0.0.1:0", "--data-dir", str(daemon.data))
    assert code == 69
    assert f"pid {daemon.child.pid}" in said


def test_a_node_without_an_engine_says_so_to_clients(tmp_path: Path) -> None:
    with node_over_stub(tmp_path, "--no-engine") as daemon, pytest.raises(openai.APIStatusError) as caught:
        ask(daemon)
    assert caught.value.status_code == 503
    assert "no engine" in str(caught.value)


def test_behind_keys_a_stranger_is_refused_and_the_control_socket_is_not(tmp_path: Path) -> None:
    config = key_section("me", "a-key-of-my-own", concurrent=1)
    with node_over_stub(tmp_path, config=config) as daemon:
        daemon.wait_for_engine(within=ENGINE_S)
        with pytest.raises(openai.AuthenticationError):
            ask(daemon, key="another")
        assert ask(daemon, key="a-key-of-my-own") == "t0 t1 t2 t3 "
        command = [sys.executable, "-m", "node", "ask", "a b", "--data-dir", str(daemon.data)]
        done = subprocess.run(
            command, cwd=CHECKOUT, env=environment(), capture_output=True, text=True, timeout=30, check=True
        )
        assert done.stdout.startswith("t0 ")


# --- an engine that misbehaves


def failing_reason(daemon: Daemon, *, within: float = ENGINE_S) -> dict[str, Any]:
    """Wait for an engine in backoff or failed; return the event."""

    def found() -> dict[str, Any] | None:
        events = daemon.events("engine_state")
        return next((event for event in events if event["state"] in ("backoff", "failed")), None)

    return eventually(found, within=within, what="an engine in trouble", children=[daemon.child])


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"crash_before_listening": "CUDA driver version is insufficient"}, "insufficient"),
        ({"exit_before_listening": 0}, "status 0"),
        ({"garbage_http": True}, "did not become ready"),
        ({"never_healthy": True}, "did not become ready"),
        ({"completions_status": 500}, "500"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_an_engine_that_cannot_start_is_told_with_its_reason(tmp_path: Path, wrong: dict[str, Any], said: str) -> None:
    with node_over_stub(tmp_path, engine="start_timeout_s = 3", **wrong) as daemon:
        trouble = failing_reason(daemon)
        assert said in trouble["reason"] + " ".join(trouble["log_tail"])
        assert daemon.status()["engine"]["restarts"] >= 1
        with pytest.raises(openai.APIStatusError) as caught:
            ask(daemon)
        assert caught.value.status_code == 503


def test_a_slow_engine_answers_503_until_it_is_up(tmp_path: Path) -> None:
    with node_over_stub(tmp_path, slow_start=2.0) as daemon:
        with pytest.raises(openai.InternalServerError) as caught:
            ask(daemon)
        assert caught.value.status_code == 503
        assert int(caught.value.response.headers["retry-after"]) >= 1
        assert caught.value.response.json()["error"]["type"] == "model_loading"
        daemon.wait_for_engine(within=ENGINE_S)
        assert ask(daemon) == "t0 t1 t2 t3 "


def test_binary_noise_and_a_leftover_grandchild_do_no_harm(tmp_path: Path) -> None:
    with node_over_stub(tmp_path, garbage_output=200_000, grandchild=True) as daemon:
        daemon.wait_for_engine(within=ENGINE_S)
        assert ask(daemon) == "t0 t1 t2 t3 "
        children = engine_processes(daemon)
        daemon.signal(signal.SIGTERM)
        assert daemon.child.wait(within=END_S) == 0
        assert alive(children) == []


def eight_streams(daemon: Daemon, *, tokens: int) -> list[BaseException | str]:
    """Stream eight answers at once; return for each its text, or how it ended."""
    ends: list[BaseException | str] = ["never ended"] * 8

    def one(index: int) -> None:
        text = ""
        try:
            with client_of(daemon) as client:
                for chunk in client.completions.create(model=MODEL, prompt="a", max_tokens=tokens, stream=True):
                    text += chunk.choices[0].text if chunk.choices else ""
        except openai.OpenAIError as error:
            ends[index] = error
        else:
            ends[index] = text

    threads = [threading.Thread(target=one, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return ends


@pytest.mark.parametrize("wrong", [{"crash_after": 40}, {"exit_after": 40}], ids=["killed", "exits"])
def test_an_engine_that_dies_under_8_streams_ends_each_with_an_error_and_comes_back(
    tmp_path: Path, wrong: dict[str, Any]
) -> None:
    with node_over_stub(tmp_path, token_delay=0.02, **wrong) as daemon:
        daemon.wait_for_engine(within=ENGINE_S)
        begin = time.monotonic()
        ends = eight_streams(daemon, tokens=200)
        assert time.monotonic() - begin < 10
        assert all(isinstance(end, openai.APIError) for end in ends), ends
        daemon.wait_for_engine(within=ENGINE_S, starts=2)
        assert ask(daemon) == "t0 t1 t2 t3 "
        assert daemon.status()["engine"]["restarts"] == 1


def test_a_hanging_engine_is_ended_and_started_again(tmp_path: Path) -> None:
    with node_over_stub(tmp_path, engine="hang_after_s = 2", hang_after=20, token_delay=0.01) as daemon:
        daemon.wait_for_engine(within=ENGINE_S)
        ends = eight_streams(daemon, tokens=200)
        assert all(isinstance(end, openai.APIError) for end in ends), ends
        daemon.wait_for_engine(within=ENGINE_S, starts=2)
        assert "hangs" in failing_reason(daemon)["reason"]


def test_an_attached_server_is_spoken_for_and_left_running(tmp_path: Path) -> None:
    with attached_stub(tmp_path) as (stub, url):
        with running_node(tmp_path, "--engine-url", url, config='[engine]\nurl_key = "k"\n') as daemon:
            daemon.wait_for_engine(within=ENGINE_S)
            assert ask(daemon) == "t0 t1 t2 t3 "
            assert daemon.status()["engine"]["strategy"] == "external"
            daemon.signal(signal.SIGTERM)
            assert daemon.child.wait(within=END_S) == 0
        assert stub.running()


@contextmanager
def attached_stub(folder: Path) -> Iterator[tuple[Child, str]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-I", str(STUB), "--model", MODEL, "--port", str(port), "--api-key", "k"]
    with started("stub", command, folder=folder, environment=environment(), cwd=folder) as child:
        yield child, f"http://127.0.0.1:{port}"
